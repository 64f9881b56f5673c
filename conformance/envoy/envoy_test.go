package envoy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/conformance/ca"
	"cairnproxy.dev/cairn/conformance/loopback"
	"cairnproxy.dev/cairn/conformance/proc"
)

// start runs one Envoy for the test's life.
func start(t *testing.T, dir, name string, role Role) {
	t.Helper()
	p, err := Start(t.Context(), dir, name, role, proc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(10 * time.Second); err != nil {
			t.Errorf("stopping envoy %s: %v", name, err)
		}
	})
}

// app serves HTTP on addr: it tells the request's path, host and body size.
func app(t *testing.T, addr netip.AddrPort) {
	t.Helper()
	ln, err := net.Listen("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s %s %d %v", r.Method, r.URL.Path, r.Host, n, err)
	})}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
}

// TestChain sends requests through all three roles in a row:
// client ─► Client ══► Waypoint ══► Server ─► application.
func TestChain(t *testing.T) {
	block, err := loopback.Take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { block.Close() })
	authority, err := ca.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := func(account string) ca.Files {
		leaf, err := authority.Issue("bench", account)
		if err != nil {
			t.Fatal(err)
		}
		f, err := authority.Write(dir, account, leaf)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	at := func(n byte, port uint16) netip.AddrPort { return netip.AddrPortFrom(block.Addr(n), port) }
	const principal = "spiffe://cluster.local/ns/bench/sa/"
	vip, pod, waypoint := at(1, 8080), at(2, 8080), at(3, 15008)

	app(t, pod)
	serverLog, waypointLog := filepath.Join(dir, "server.txt"), filepath.Join(dir, "waypoint.txt")
	start(t, dir, "server", Server{Listen: at(2, 15008), Admin: at(2, 15000), Apps: map[string]netip.AddrPort{pod.String(): pod}, Files: files("server"), AccessLog: serverLog})
	start(t, dir, "waypoint", Waypoint{
		Listen: waypoint, Admin: at(3, 15000), Files: files("waypoint"), AccessLog: waypointLog,
		Services: []Service{{Host: "server.bench.svc.cluster.local", Addr: vip, Endpoints: []netip.AddrPort{pod}, Prefixes: []string{"/bytes"}}},
		RBAC:     &RBAC{Principals: []string{principal + "client"}, Methods: []string{"GET", "POST"}},
		Stats:    true, Collector: at(3, 4317),
	})
	start(t, dir, "client", Client{
		Listen: at(4, 8080), Admin: at(4, 15000), Upstream: waypoint, Authority: vip.String(), Expect: principal + "waypoint", Files: files("client"),
		Headers: map[string]string{"baggage": "k8s.namespace.name=bench"},
	})
	start(t, dir, "stranger", Client{
		Listen: at(5, 8080), Admin: at(5, 15000), Upstream: waypoint, Authority: vip.String(), Expect: principal + "waypoint", Files: files("stranger"),
	})

	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}
	for _, test := range []struct {
		name, method, path string
		from               byte
		body               string
		status             int
		want               string
	}{
		{"get", "GET", "/bytes/1", 4, "", 200, "GET /bytes/1 example 0 <nil>"},
		{"post", "POST", "/bytes/2", 4, strings.Repeat("x", 100000), 200, "POST /bytes/2 example 100000 <nil>"},
		{"method-denied", "DELETE", "/bytes/1", 4, "", 403, "RBAC: access denied"},
		{"no-route", "GET", "/other", 4, "", 404, ""},
		{"identity-denied", "GET", "/bytes/1", 5, "", 403, "RBAC: access denied"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, test.method, "http://"+at(test.from, 8080).String()+test.path, strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Host = "example"
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != test.status || string(body) != test.want {
				t.Errorf("%d %q (%v), want %d %q", resp.StatusCode, body, err, test.status, test.want)
			}
		})
	}
	client.CloseIdleConnections()
	wantLine(t, serverLog, "authority="+pod.String()+" peer="+principal+"waypoint tls=TLSv1.3 code=200")
	wantLine(t, waypointLog, `"GET /bytes/1 HTTP/1.1" 200`)
	wantStat(t, at(3, 15000), `istio_requests_total{`, `response_code="200"`, `source_principal="`+principal+`client"`)
	wantStat(t, at(3, 15000), `istio_response_bytes_count{`, `response_code="403"`)
}

// wantStat looks for a line with all parts among Envoy's metrics.
func wantStat(t *testing.T, admin netip.AddrPort, parts ...string) {
	t.Helper()
	client := http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + admin.String() + "/stats/prometheus?filter=istio")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
			return
		}
	}
	t.Errorf("no metric with %q:\n%s", parts, text)
}

// wantLine waits until the file has the text: Envoy writes its logs late.
func wantLine(t *testing.T, path, want string) {
	t.Helper()
	deadline := time.NewTimer(15 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), want) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%s has no %q: %s %v", path, want, text, err)
		}
	}
}
