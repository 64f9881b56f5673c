package suite

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/conformance/cairn"
	"cairnproxy.dev/cairn/conformance/hbone"
	"cairnproxy.dev/cairn/conformance/loopback"
	"cairnproxy.dev/cairn/conformance/proc"
)

// TestCounts sends many requests at full speed through a Cairn waypoint and
// compares what four parties counted: the client, the destination, the metrics
// and the access log.
func TestCounts(t *testing.T) {
	l := newLab(t)
	vip, pod, waypoint := l.block.Addr(1), l.block.Addr(2), l.block.Addr(3)
	sink := &hbone.Sink{TLS: l.leaf(t, "server").Server()}
	ln := listen(t, addrPort(pod, 15008).String())
	served := make(chan error, 1)
	go func() { served <- sink.Serve(ln) }()
	t.Cleanup(func() {
		ln.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	manifests := strings.ReplaceAll(waypointManifests, "value: /app", "value: /bytes")
	folder, err := cairn.WriteManifests(l.dir, fill(t, manifests, map[string]any{"VIP": vip, "Pod": pod}))
	if err != nil {
		t.Fatal(err)
	}
	port, err := loopback.Port(waypoint)
	if err != nil {
		t.Fatal(err)
	}
	w := cairn.Waypoint{Manifests: folder, Gateway: "bench/waypoint", Address: waypoint, Files: l.files(t, "waypoint")}
	w.Admin, w.Metrics = addrPort(waypoint, 15000).String(), addrPort(waypoint, port).String()
	p, err := w.Start(t.Context(), l.dir, "waypoint", proc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	load, err := hbone.Dial(t.Context(), hbone.Options{
		Addr: addrPort(waypoint, 15008).String(), Authority: addrPort(vip, portHTTP).String(),
		TLS: l.leaf(t, "client").Client(principal + "waypoint"), Conns: 3, Streams: 20, Host: hostname, Size: 100,
	})
	if err != nil {
		t.Fatal(err)
	}
	r := load.Closed(t.Context(), 0, 2*time.Second, func() {})
	load.Close()
	if r.Failures != 0 || r.Requests < 1000 {
		t.Fatalf("%d failures in %d requests: %v", r.Failures, r.Requests, r.Err)
	}
	// What was in flight at the end of the window is answered, too.
	want := sink.Requests.Load()
	if want < r.Requests || want > r.Requests+60 {
		t.Errorf("the destination answered %d requests, the client saw %d", want, r.Requests)
	}
	if got := counted(t, "http://"+w.Metrics+"/stats/prometheus"); got != want {
		t.Errorf("istio_requests_total says %d, the destination %d", got, want)
	}
	if err := p.Stop(20 * time.Second); err != nil {
		t.Fatalf("stopping the waypoint: %v: %s", err, p.Tail(20))
	}
	log, err := os.ReadFile(filepath.Join(l.dir, "waypoint.access.log"))
	if err != nil {
		t.Fatal(err)
	}
	if got := uint64(bytes.Count(log, []byte("/bytes/100"))); got != want {
		t.Errorf("the access log has %d lines, the destination answered %d requests", got, want)
	}
}

// counted returns the sum of istio_requests_total with response code 200.
func counted(t *testing.T, url string) uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var sum uint64
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "istio_requests_total{") || !strings.Contains(line, `response_code="200"`) {
			continue
		}
		value := line[strings.LastIndexByte(line, ' ')+1:]
		n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		sum += uint64(n)
	}
	return sum
}
