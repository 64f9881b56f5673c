package waypoint

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// Over real sockets and TLS, with the clock running: a flaky workload is hidden, a slow one
// is hedged, a deadline holds, and the pauses are as short as they say.
func TestResilienceOverSockets(t *testing.T) {
	var flaky, slow, calls atomic.Int64
	ended := make(chan struct{})
	defer close(ended)
	handler := func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		body, _ := io.ReadAll(r.Body)
		switch {
		case flaky.Add(-1) >= 0:
			w.WriteHeader(503)
			io.WriteString(w, strings.Repeat("busy", 100))
		case slow.Add(-1) >= 0:
			select {
			case <-r.Context().Done():
			case <-ended:
			}
		default:
			w.Write(append([]byte("got "), body...))
		}
	}
	for _, http2 := range []bool{false, true} {
		proto := mesh.ProtocolHTTP
		if http2 {
			proto = mesh.ProtocolHTTP2
		}
		var v *mesh.Service
		r := newRig(t, func(r *rig) mesh.Parts {
			a, b := r.endpoint("a", http.HandlerFunc(handler), http2), r.endpoint("b", http.HandlerFunc(handler), http2)
			v = r.service("web", 80, proto, a, b)
			v.Ports[0].Requests = &mesh.RequestPolicy{
				Retry:    &mesh.Retry{Attempts: 3, Codes: []int{503}, BackoffBase: 5 * time.Millisecond},
				Hedging:  &mesh.Hedging{Delay: 50 * time.Millisecond, Max: 1},
				Timeouts: &mesh.Timeouts{Request: time.Second},
			}
			v.Ports[0].Backend = &mesh.BackendPolicy{Budget: &mesh.RetryBudget{Percent: 20, MinConcurrency: 5}}
			return mesh.Parts{Services: []*mesh.Service{v}, Workloads: []*mesh.Workload{a, b}}
		})
		c := r.client(v, http2)
		// Warm, so that connections are no part of what follows.
		for range 4 {
			get(t, c, "http://web/")
		}
		calls.Store(0)
		flaky.Store(3)
		resp, err := c.Post("http://web/", "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || string(body) != "got hello" || calls.Load() != 4 {
			t.Errorf("%s: status %d, %q after %d calls", proto, resp.StatusCode, body, calls.Load())
		}
		flaky.Store(0)
		slow.Store(1)
		start := time.Now()
		if status, _, _ := get(t, c, "http://web/"); status != 200 || time.Since(start) > 900*time.Millisecond {
			t.Errorf("%s: a hedged request got %d after %v", proto, status, time.Since(start))
		}
		slow.Store(2)
		start = time.Now()
		if status, _, _ := get(t, c, "http://web/"); status != 504 || time.Since(start) < time.Second || time.Since(start) > 3*time.Second {
			t.Errorf("%s: a request whose tries are all slow got %d after %v", proto, status, time.Since(start))
		}
		slow.Store(0)
		r.stop()
		if lines := r.log.String(); !strings.Contains(lines, " UT ") || strings.Contains(lines, "URX") {
			t.Errorf("%s: records %s", proto, lines)
		}
	}
}
