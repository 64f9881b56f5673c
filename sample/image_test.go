package sample

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestForImage(t *testing.T) {
	python := []string{"httpbin", "--flat-headers", "--listen", ":80"}
	tests := []struct {
		image string
		want  []string // nil: not a sample
	}{
		{"registry.istio.io/release/examples-bookinfo-reviews-v2:1.20.3", []string{"bookinfo", "reviews", "--version", "v2"}},
		{"docker.io/istio/examples-bookinfo-productpage-v1", []string{"bookinfo", "productpage", "--version", "v1"}},
		{"cairn/examples-bookinfo-details-v1", []string{"bookinfo", "details", "--version", "v1"}},
		{"examples-bookinfo-ratings-v1@sha256:00ff", []string{"bookinfo", "ratings", "--version", "v1"}},
		{"localhost:5000/x/examples-bookinfo-reviews-v3:1@sha256:00ff", []string{"bookinfo", "reviews", "--version", "v3"}},
		{"cairn/echo", []string{"echo"}},
		{"cairn/ratelimit", []string{"ratelimit"}},
		{"ghcr.io/cairn/echo:v1", []string{"echo"}},
		{"docker.io/mccutchen/go-httpbin:v2.15.0", []string{"httpbin"}},
		{"localhost:5000/mccutchen/go-httpbin", []string{"httpbin"}},
		{"kong/httpbin", python},
		{"docker.io/kennethreitz/httpbin:latest", python},

		{"docker.io/curlimages/curl:8.16.0", nil},
		{"docker.io/istio/examples-bookinfo-mongodb:1.20.3", nil},
		{"docker.io/istio/examples-bookinfo-ratings-v-faulty:1.20.3", nil},
		{"docker.io/other/httpbin", nil},
		{"echo", nil},
		{"localhost:5000/echo", nil},
		{"", nil},
		{":", nil},
		{"@", nil},
		{"/", nil},
	}
	for _, tt := range tests {
		t.Run(tt.image, func(t *testing.T) {
			got, ok := ForImage(tt.image)
			if diff := cmp.Diff(tt.want, got); diff != "" || ok != (tt.want != nil) {
				t.Errorf("ForImage(%q) = %q, %v; (-want +got):\n%s", tt.image, got, ok, diff)
			}
		})
	}
}

func FuzzForImage(f *testing.F) {
	f.Add("registry.istio.io/release/examples-bookinfo-reviews-v2:1.20.3")
	f.Add("a:5000/b@c:d/e")
	f.Fuzz(func(t *testing.T, image string) {
		args, ok := ForImage(image)
		if ok != (len(args) > 0) {
			t.Errorf("ForImage(%q) = %q, %v", image, args, ok)
		}
	})
}

// TestExampleImages makes sure that the examples run without pulling an image.
func TestExampleImages(t *testing.T) {
	files, err := filepath.Glob("../examples/bookinfo/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^\s*(?:- )?image:\s*(\S+)\s*$`)
	images := 0
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range line.FindAllStringSubmatch(string(b), -1) {
			images++
			if _, ok := ForImage(m[1]); !ok {
				t.Errorf("%s: image %s is no sample", name, m[1])
			}
		}
	}
	if images != 6 {
		t.Errorf("the examples name %d images, want 6", images)
	}
}
