package waypoint

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

var stressFor = flag.Duration("stress", 5*time.Second, "how long TestStress runs")

// flaky is an application that restarts now and then: its connections break.
type flaky struct {
	h    http.Handler
	mu   sync.Mutex
	srv  *http.Server
	addr atomic.Pointer[string]
}

func (f *flaky) start(t testing.TB) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Error(err)
		return
	}
	srv := &http.Server{Handler: f.h, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	f.mu.Lock()
	f.srv = srv
	f.mu.Unlock()
	addr := ln.Addr().String()
	f.addr.Store(&addr)
	go srv.Serve(ln)
}

func (f *flaky) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.srv.Close()
}

// stressBody is the content of message n.
func stressBody(n, size int) []byte { return appendPattern(make([]byte, 0, size), n, 0, size) }

// TestStress: many clients over real connections, of which some leave at any
// time, applications that restart, and a configuration that changes all the
// time. Nobody gets what is not his, and each request is recorded once.
func TestStress(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	apps := make([]*flaky, 3)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var id, reqLen, respLen int
		fmt.Sscanf(r.URL.RawQuery, "id=%d&in=%d&out=%d", &id, &reqLen, &respLen)
		got, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if !bytes.Equal(got, stressBody(-id, reqLen)) {
			t.Errorf("request %d came with other content: %d bytes, want %d", id, len(got), reqLen)
		}
		w.Header().Set("X-Id", fmt.Sprint(id))
		if id%2 == 0 {
			w.Header().Set("Content-Length", fmt.Sprint(respLen))
		}
		w.Write(stressBody(id, respLen))
	})
	var svcs []*mesh.Service
	var parts mesh.Parts
	r := newRig(t, func(r *rig) mesh.Parts {
		var works []*mesh.Workload
		for i := range apps {
			apps[i] = &flaky{h: handler}
			apps[i].start(t)
			t.Cleanup(apps[i].stop)
			works = append(works, r.nodeAt(fmt.Sprint("app", i), func() string { return *apps[i].addr.Load() }))
		}
		for i, proto := range []mesh.AppProtocol{mesh.ProtocolHTTP, mesh.ProtocolHTTP2, mesh.ProtocolSniff} {
			svcs = append(svcs, r.service(fmt.Sprint("svc", i), 80, proto, works...))
		}
		parts = mesh.Parts{Workloads: works, Services: svcs}
		return parts
	})
	parts.Waypoints = r.snapshots.Current().Waypoints
	ctx, cancel := context.WithTimeout(t.Context(), *stressFor)
	defer cancel()
	var others sync.WaitGroup
	others.Go(func() { // the configuration changes
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			next := parts
			for k, v := range svcs {
				if (i+k)%3 == 0 {
					next.Attachments = append(next.Attachments, route(fmt.Sprint("r", k), k, v, mesh.Route{Requests: timeoutPolicy(10*time.Second, 0), Backends: []mesh.Backend{to(v, 3), to(svcs[(k+1)%3], 1)}}))
				}
			}
			next.Workloads = parts.Workloads[i%2:]
			r.snapshots.publish(next)
		}
	})
	others.Go(func() { // the applications restart
		tick := time.NewTicker(300 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				apps[i%3].stop()
				apps[i%3].start(t)
			}
		}
	})
	var mu sync.Mutex
	answered := map[string]bool{}
	var slowest time.Duration
	var slowestID string
	var ids, whole, local, broken, left atomic.Int64
	var clients sync.WaitGroup
	for k := range 64 {
		clients.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(k), 1))
			v := svcs[k%3]
			c := r.client(v, k/3%2 == 0)
			for ctx.Err() == nil {
				id := int(ids.Add(1))
				in, out := 0, stressSize(rng)
				method := []string{"GET", "GET", "POST", "PUT"}[rng.IntN(4)]
				var body io.Reader
				if method != "GET" {
					in = stressSize(rng)
					body = bytes.NewReader(stressBody(-id, in))
					if rng.IntN(2) == 0 {
						body = struct{ io.Reader }{body}
					}
				}
				rctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
				leaves := rng.IntN(10) == 0
				if leaves {
					rctx, stop = context.WithTimeout(context.Background(), time.Duration(rng.IntN(20_000))*time.Microsecond)
				}
				req, err := http.NewRequestWithContext(rctx, method, fmt.Sprintf("http://web/?id=%d&in=%d&out=%d", id, in, out), body)
				if err != nil {
					t.Error(err)
				}
				rid := fmt.Sprintf("call-%d-", id)
				req.Header.Set("X-Request-Id", rid)
				began := time.Now()
				resp, err := c.Do(req)
				var got []byte
				if err == nil {
					got, err = io.ReadAll(resp.Body)
					resp.Body.Close()
				}
				stop()
				switch {
				case err != nil && leaves:
					left.Add(1)
				case err != nil && errors.Is(err, context.DeadlineExceeded):
					t.Errorf("request %d by %s was never answered: %v", id, method, err)
				case err != nil:
					broken.Add(1)
				case resp.Header.Get("X-Id") != "":
					whole.Add(1)
					if resp.StatusCode != 200 || resp.Header.Get("X-Id") != fmt.Sprint(id) || !bytes.Equal(got, stressBody(id, out)) {
						t.Errorf("request %d got %d, id %s, %d bytes; want %d", id, resp.StatusCode, resp.Header.Get("X-Id"), len(got), out)
					}
				case resp.StatusCode == 503 || resp.StatusCode == 502:
					local.Add(1)
				default:
					t.Errorf("request %d got %d %q", id, resp.StatusCode, got)
				}
				mu.Lock()
				if err == nil {
					answered[rid] = true
				}
				if d := time.Since(began); d > slowest {
					slowest, slowestID = d, rid
				}
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	cancel()
	others.Wait()
	r.pool.Close()
	r.stop()
	t.Logf("%d requests: %d whole, %d answered by the waypoint, %d broken, %d left by their clients; the slowest took %v (%s)",
		ids.Load(), whole.Load(), local.Load(), broken.Load(), left.Load(), slowest, slowestID)
	if whole.Load() < ids.Load()/2 {
		t.Errorf("only %d of %d requests got their response", whole.Load(), ids.Load())
	}
	// net/http sends some requests again by itself, when their connection ended
	// without a word; those were given up by their client the first time.
	records := map[string]int{}
	for line := range strings.Lines(r.log.String()) {
		if slowest > 5*time.Second && strings.Contains(line, slowestID) {
			t.Log(line)
		}
		if f := strings.Split(line, `"`); len(f) > 9 && !strings.Contains(line, " DC ") {
			records[f[9]]++
		}
	}
	for rid := range answered {
		if n := records[rid]; n != 1 {
			t.Errorf("%s has %d records, want 1", rid, n)
		}
	}
	if used := r.proxy.o.Budget.Used(); used != 0 {
		t.Errorf("%d bytes are still counted as waiting", used)
	}
	if n := r.proxy.tunnels.Load(); n != 0 {
		t.Errorf("%d tunnels are still counted", n)
	}
	for cl := range r.proxy.runtime.Load().allClusters() {
		for _, ep := range cl.c.Endpoints() {
			if ep.Active() != 0 {
				t.Errorf("endpoint %s still has %d requests", ep.Authority(), ep.Active())
			}
		}
	}
}

func stressSize(rng *rand.Rand) int {
	switch n := rng.IntN(20); {
	case n < 10:
		return rng.IntN(500)
	case n < 19:
		return rng.IntN(40_000)
	}
	return rng.IntN(500_000)
}
