package ratelimit

import (
	_ "embed"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/conformance/cairn"
	"cairnproxy.dev/cairn/conformance/loopback"
)

//go:embed testdata/mesh.yaml
var manifests string

const limits = `
domain: demo
descriptors:
- {key: path, value: /limited, rate_limit: {unit: hour, requests_per_unit: 2}}
- {key: path, value: /minute, rate_limit: {unit: minute, requests_per_unit: 1000}}
- {key: user, rate_limit: {unit: hour, requests_per_unit: 3}}
`

// TestGlobalLimit asks the real service, which runs in a pod of the mesh:
//
//	client ─► node proxy ══► waypoint ══► node proxy ─► cairn sample echo
//	                            ╚═══════► node proxy ─► envoyproxy/ratelimit ─► Redis
func TestGlobalLimit(t *testing.T) {
	dir := t.TempDir()
	folder, err := cairn.WriteManifests(dir, manifests)
	if err != nil {
		t.Fatal(err)
	}
	mesh, err := cairn.Up(t.Context(), dir, folder, "--range", loopback.Wide().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mesh.Process.Stop(20 * time.Second); err != nil {
			t.Error(err)
		}
	})
	at := func(service string) string {
		host, port, err := mesh.URL("demo", service, "http")
		if err != nil {
			t.Fatal(err)
		}
		return "http://" + net.JoinHostPort(host, strconv.Itoa(int(port)))
	}
	echo, open := at("echo"), at("open")

	// Nobody listens in the rate limit service's pod yet. The echo pods may still be starting.
	until(t, func() bool { return strings.HasPrefix(get(t, open+"/limited"), "200 ") })
	if got := get(t, echo+"/limited"); !strings.HasPrefix(got, "500 ") {
		t.Errorf("without the service, failing closed: %s", got)
	}

	addr := ""
	for _, p := range mesh.Pods {
		if p.Name == "ratelimit" {
			addr = p.Address
		}
	}
	pod, err := netip.ParseAddr(addr)
	if err != nil {
		t.Fatalf("the ready event names no pod ratelimit: %+v", mesh.Pods)
	}
	s, err := StartAt(t.Context(), netip.AddrPortFrom(pod, 8081), limits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	// The waypoint pauses between attempts to connect.
	until(t, func() bool { return strings.HasPrefix(get(t, echo+"/"), "200 ") })
	tests := []struct {
		name   string
		path   string
		fields []string
		want   []string // status, RateLimit-Limit, -Remaining
	}{
		{"limited", "/limited", nil, []string{"200 2, 2;w=3600 1", "200 2, 2;w=3600 0", "429 2, 2;w=3600 0", "429 2, 2;w=3600 0"}},
		{"not_limited", "/other", nil, []string{"200  ", "200  "}},
		{"minute", "/minute", nil, []string{"200 1000, 1000;w=60 999"}},
		{"by_header", "/", []string{"x-user", "a"}, []string{"200 3, 3;w=3600 2", "200 3, 3;w=3600 1", "200 3, 3;w=3600 0", "429 3, 3;w=3600 0"}},
		{"by_header_other", "/", []string{"x-user", "b"}, []string{"200 3, 3;w=3600 2"}},
		{"nearest", "/minute", []string{"x-user", "c"}, []string{"200 3, 3;w=3600 2"}},
		{"cost", "/", []string{"x-user", "d", "x-cost", "2"}, []string{"200 3, 3;w=3600 1", "429 3, 3;w=3600 0"}},
		{"cost_zero", "/", []string{"x-user", "e", "x-cost", "0"}, []string{"200 3, 3;w=3600 3", "200 3, 3;w=3600 3"}},
		{"local", "/local", nil, []string{"200 2, 2;w=3600 1", "200 2, 2;w=3600 0", "429 2, 2;w=3600 0"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for i, want := range tt.want {
				if got := get(t, echo+tt.path, tt.fields...); got != want {
					t.Errorf("request %d: %s, want %s", i, got, want)
				}
			}
		})
	}
	if err := s.Err(); err != nil {
		t.Error(err)
	}
}

// until polls ok, for half a minute.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within half a minute")
		}
	}
}

// get is the status of an answer, with its limit and what remains.
func get(t *testing.T, url string, fields ...string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("Retry-After") == "" {
		t.Errorf("%s: 429 without Retry-After", url)
	}
	return fmt.Sprintf("%d %s %s", resp.StatusCode, resp.Header.Get("Ratelimit-Limit"), resp.Header.Get("Ratelimit-Remaining"))
}
