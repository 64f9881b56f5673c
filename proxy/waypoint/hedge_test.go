package waypoint

import (
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

func stepAfter(d time.Duration) stepFunc {
	return func(x *filters.Exchange) filters.Result { return x.After(d, nil) }
}

func hedging(h mesh.Hedging, r *mesh.Retry) *mesh.RequestPolicy {
	return &mesh.RequestPolicy{Hedging: &h, Retry: r}
}

// The first head that is accepted is the client's, and the others are told.
func TestHedges(t *testing.T) {
	const delay = 50 * time.Millisecond
	for winner := range 3 {
		s, v := policied(t, 4, mesh.ProtocolHTTP, hedging(mesh.Hedging{Delay: delay, Max: 2}, nil), &mesh.BackendPolicy{Budget: &mesh.RetryBudget{MinConcurrency: 2}})
		c := s.tunnel(vip(v), true)
		s.send(c, getRequest, false)
		for n := 1; n <= 3; n++ {
			if len(s.works) != n {
				t.Fatalf("%d tries are under way, want %d", len(s.works), n)
			}
			s.pass(delay + time.Millisecond)
		}
		s.pass(time.Second)
		if len(s.works) != 3 {
			t.Fatalf("%d tries are under way, want 3", len(s.works))
		}
		places := map[string]bool{}
		for _, w := range s.works {
			places[s.place(w)] = true
		}
		if len(places) != 3 {
			t.Errorf("they are at %v", places)
		}
		s.send(s.works[winner], "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nwin", false)
		for i, w := range s.works {
			if (w.err == nil) != (i == winner) {
				t.Errorf("winner %d: try %d ended with %v", winner, i, w.err)
			}
		}
		s.send(s.works[winner], "ner", false)
		if got := c.take(); !strings.HasPrefix(got, "HTTP/1.1 200") || !strings.HasSuffix(got, "winner") {
			t.Errorf("the client got %q", got)
		}
		s.atRest(t)
		idle := 0
		for _, d := range s.p.destinations {
			idle += len(d.idle)
		}
		if idle != 1 {
			t.Errorf("%d connections wait for the next request, want the winner's", idle)
		}
	}
}

// What is not hedged.
func TestNoHedge(t *testing.T) {
	for _, tc := range []struct {
		name    string
		n       int
		request string
		backend *mesh.BackendPolicy
	}{
		{"post", 3, postRequest, nil},
		{"body", 3, strings.Replace(postRequest, "POST", "PUT", 1), nil},
		{"upgrade", 3, upgradeRequest, nil},
		{"one endpoint", 1, getRequest, nil},
		{"no budget", 3, getRequest, &mesh.BackendPolicy{Budget: &mesh.RetryBudget{Percent: 20}}},
		{"breaker", 3, getRequest, &mesh.BackendPolicy{Budget: &mesh.RetryBudget{}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, v := policied(t, tc.n, mesh.ProtocolHTTP, hedging(mesh.Hedging{Delay: 10 * time.Millisecond, Max: 2}, nil), tc.backend)
			c := s.tunnel(vip(v), true)
			s.send(c, tc.request, false)
			s.pass(time.Second)
			if len(s.works) != 1 {
				t.Errorf("%d tries", len(s.works))
			}
			s.do(func(t *loop.Turn) { c.st.Reset(t, h2.Cancel) })
			s.flow()
		})
	}
}

// How hedges fail: one by one, and the last one decides.
func TestHedgesFail(t *testing.T) {
	reset := func(s *script, i int) {
		s.do(func(t *loop.Turn) { s.works[i].st.Reset(t, h2.Cancel) })
		s.flow()
	}
	retry := &mesh.Retry{Attempts: 1, Codes: []int{503}, On: mesh.RetryReset}
	for _, tc := range []struct {
		name   string
		retry  *mesh.Retry
		script func(t *testing.T, s *script, c *tap)
		want   string
		flag   string
	}{
		{"one resets, the other answers", nil, func(t *testing.T, s *script, c *tap) {
			reset(s, 0)
			s.send(s.works[1], okResponse, false)
		}, "HTTP/1.1 200", "-"},
		{"the hedge resets", nil, func(t *testing.T, s *script, c *tap) {
			reset(s, 1)
			s.send(s.works[0], okResponse, false)
		}, "HTTP/1.1 200", "-"},
		{"both reset", nil, func(t *testing.T, s *script, c *tap) { reset(s, 0); reset(s, 1) }, "HTTP/1.1 503", "UC"},
		{"both reset the other way", nil, func(t *testing.T, s *script, c *tap) { reset(s, 1); reset(s, 0) }, "HTTP/1.1 503", "UC"},
		{"one is rejected", retry, func(t *testing.T, s *script, c *tap) {
			s.send(s.works[0], unavailable, false)
			s.send(s.works[1], okResponse, false)
		}, "HTTP/1.1 200", "-"},
		{"rejected without a retry policy", nil, func(t *testing.T, s *script, c *tap) { s.send(s.works[1], unavailable, false) }, "HTTP/1.1 503", "-"},
		{"the last one is tried again", retry, func(t *testing.T, s *script, c *tap) {
			s.send(s.works[0], unavailable, false)
			reset(s, 1)
			s.soon()
			s.send(s.works[2], okResponse, false)
		}, "HTTP/1.1 200", "-"},
		{"a hedge is the last one", retry, func(t *testing.T, s *script, c *tap) {
			reset(s, 0)
			s.send(s.works[1], unavailable, false)
			s.soon()
			s.send(s.works[2], okResponse, false)
		}, "HTTP/1.1 200", "-"},
		{"nothing is left", retry, func(t *testing.T, s *script, c *tap) {
			reset(s, 0)
			reset(s, 1)
			s.soon()
			s.send(s.works[2], unavailable, false)
		}, "HTTP/1.1 503", "URX"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, v := policied(t, 3, mesh.ProtocolHTTP, hedging(mesh.Hedging{Delay: 10 * time.Millisecond, Max: 1}, tc.retry), &mesh.BackendPolicy{Budget: &mesh.RetryBudget{MinConcurrency: 1}})
			c := s.tunnel(vip(v), true)
			s.send(c, getRequest, false)
			s.pass(20 * time.Millisecond)
			if len(s.works) != 2 {
				t.Fatalf("%d tries are under way, want 2", len(s.works))
			}
			tc.script(t, s, c)
			s.want(c.take(), tc.want)
			s.wantRecord(" " + tc.flag + " ")
		})
	}
}

// A client that leaves takes all tries back; a deadline does, too; each try has its own time.
func TestHedgesEnd(t *testing.T) {
	for _, tc := range []struct {
		name  string
		times mesh.Timeouts
		end   func(s *script, c *tap)
		want  string
	}{
		{"client", mesh.Timeouts{}, func(s *script, c *tap) { s.do(func(t *loop.Turn) { c.st.Reset(t, h2.Cancel) }); s.flow() }, ""},
		{"deadline", mesh.Timeouts{Request: time.Second}, func(s *script, c *tap) { s.pass(2 * time.Second) }, "HTTP/1.1 504"},
		{"per try", mesh.Timeouts{PerTry: 2 * time.Second}, func(s *script, c *tap) { s.pass(5 * time.Second) }, "HTTP/1.1 504"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pol := hedging(mesh.Hedging{Delay: 100 * time.Millisecond, Max: 2}, nil)
			pol.Timeouts = &tc.times
			s, v := policied(t, 3, mesh.ProtocolHTTP, pol, nil)
			c := s.tunnel(vip(v), true)
			s.send(c, getRequest, false)
			s.pass(500 * time.Millisecond)
			if len(s.works) != 3 {
				t.Fatalf("%d tries are under way, want 3", len(s.works))
			}
			tc.end(s, c)
			s.want(c.take(), tc.want)
			for i, w := range s.works {
				if w.err == nil {
					t.Errorf("workload %d was not told", i)
				}
			}
			if lines := s.lines(); len(lines) != 1 || lines[0] == "" {
				t.Errorf("records %q", lines)
			}
		})
	}
}

// Hedges over HTTP/2.
func TestHedgesOverHTTP2(t *testing.T) {
	s, v := policied(t, 2, mesh.ProtocolHTTP2, hedging(mesh.Hedging{Delay: 20 * time.Millisecond, Max: 1}, nil), nil)
	var streams []*h2.Stream
	resets := 0
	s.h2workload(func(t *loop.Turn, st *h2.Stream, h *h2.Head) {
		st.Handle(&onReset{func() { resets++ }})
		streams = append(streams, st)
	})
	p := s.h2tunnel(vip(v))
	for round := range 3 {
		r := s.call(p, "/")
		s.pass(50 * time.Millisecond)
		if len(streams) != 2 {
			t.Fatalf("%d streams, want 2", len(streams))
		}
		s.do(func(t *loop.Turn) {
			streams[1].WriteHeaders(t, fieldsOf(":status", "204"), true)
		})
		s.flow()
		if r.status != 204 || resets != round+1 {
			t.Errorf("status %d, %d streams were reset", r.status, resets)
		}
		streams = nil
		s.atRest(t)
	}
}
