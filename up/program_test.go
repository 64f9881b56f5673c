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
		env  []string
	}{
		{"echo", Container{Image: "cairn/echo", Ports: []uint16{8080}}, []string{"/cairn", "sample", "echo", "--listen", ":8080"}, nil},
		{"echo registry", Container{Image: "localhost:5000/cairn/echo:v1"}, []string{"/cairn", "sample", "echo"}, nil},
		{"not echo", Container{Image: "evilcairn/echo"}, nil, nil},
		{"httpbin", Container{Image: "docker.io/mccutchen/go-httpbin:v2.15.0"}, []string{"/cairn", "sample", "httpbin"}, nil},
		{"httpbin digest", Container{Image: "kong/httpbin@sha256:00"}, []string{"/cairn", "sample", "httpbin"}, nil},
		{
			"reviews", Container{Image: "registry.istio.io/release/examples-bookinfo-reviews-v2:1.20.3", Ports: []uint16{9080}},
			[]string{"/cairn", "sample", "bookinfo", "reviews", "--listen", ":9080"},
			[]string{"CAIRN_SERVICE_VERSION=v2"},
		},
		{"mysql", Container{Image: "docker.io/istio/examples-bookinfo-mysqldb:1.20.3"}, nil, nil},
		{"command", Container{Image: "curlimages/curl", Command: []string{"/bin/sh", "-c"}, Args: []string{"true"}}, []string{"/bin/sh", "-c", "true"}, nil},
		{"command of another machine", Container{Image: "x", Command: []string{"/opt/nowhere/app"}}, nil, nil},
		{"image alone", Container{Image: "nginx"}, nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := programOf("/cairn", tt.c)
			if got == nil {
				if tt.want != nil {
					t.Fatalf("external, want %v", tt.want)
				}
				return
			}
			if d := cmp.Diff(tt.want, got.argv); d != "" {
				t.Errorf("argv (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tt.env, got.env); d != "" {
				t.Errorf("env (-want +got):\n%s", d)
			}
		})
	}
}
