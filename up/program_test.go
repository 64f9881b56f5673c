package up

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestProgramOf(t *testing.T) {
	tests := []struct {
		name string
		c    Container
		want []string
	}{
		{"echo", Container{Image: "cairn/echo", Ports: []uint16{8080, 9090}}, []string{"/cairn", "sample", "echo", "--listen", ":8080,:9090"}},
		{"echo registry", Container{Image: "localhost:5000/cairn/echo:v1"}, []string{"/cairn", "sample", "echo"}},
		{"not echo", Container{Image: "evilcairn/echo"}, nil},
		{"httpbin", Container{Image: "docker.io/mccutchen/go-httpbin:v2.15.0"}, []string{"/cairn", "sample", "httpbin"}},
		{"httpbin digest", Container{Image: "mccutchen/go-httpbin@sha256:00"}, []string{"/cairn", "sample", "httpbin"}},
		{
			"reviews",
			Container{Image: "registry.istio.io/release/examples-bookinfo-reviews-v2:1.20.3", Ports: []uint16{9080}},
			[]string{"/cairn", "sample", "bookinfo", "reviews", "--version", "v2", "--listen", ":9080"},
		},
		{"mysql", Container{Image: "docker.io/istio/examples-bookinfo-mysqldb:1.20.3"}, nil},
		{"command", Container{Image: "curlimages/curl", Command: []string{"/bin/sh", "-c"}, Args: []string{"true"}}, []string{"/bin/sh", "-c", "true"}},
		{"command of another machine", Container{Image: "x", Command: []string{"/opt/nowhere/app"}}, nil},
		{"image alone", Container{Image: "nginx"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := programOf("/cairn", tt.c)
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("argv (-want +got):\n%s", d)
			}
		})
	}
}
