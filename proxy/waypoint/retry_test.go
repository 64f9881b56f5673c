package waypoint

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// policied is a script with n workloads behind one service whose port has a policy.
func policied(t testing.TB, n int, proto mesh.AppProtocol, requests *mesh.RequestPolicy, backend *mesh.BackendPolicy) (*script, *mesh.Service) {
	var works []*mesh.Workload
	for i := range n {
		works = append(works, labWorkload(i+1))
	}
	v := labService(1, proto, works...)
	v.Ports[0].Requests, v.Ports[0].Backend = requests, backend
	s := newScript(t, mesh.Parts{Workloads: works, Services: []*mesh.Service{v}})
	t.Cleanup(func() { s.atRest(t) })
	return s, v
}

// atRest checks that nothing is left of requests that are over.
func (s *script) atRest(t testing.TB) {
	if t.Failed() {
		return
	}
	for cl := range s.p.runtime.Load().allClusters() {
		for _, ep := range cl.c.Endpoints() {
			if ep.Active() != 0 {
				t.Errorf("endpoint %s still has %d requests", ep.Authority(), ep.Active())
			}
		}
		if st := cl.c.State(); st != nil && st.Budget.Active()+st.Budget.Retries()+st.Retries.Load() != 0 {
			t.Errorf("the budget still counts %d active and %d retries, the breaker %d", st.Budget.Active(), st.Budget.Retries(), st.Retries.Load())
		}
	}
	if n := s.budget.Used(); n != 0 {
		t.Errorf("%d bytes are still counted as waiting", n)
	}
	for _, shards := range [][16]*timerShard{shardsOf(&s.p.timers.shards), shardsOf(&s.p.timers.quick)} {
		for _, sh := range shards {
			for d, l := range sh.lists {
				for m := l.head; m != nil && d != connectTimeout && d != headTimeout && d != lingerTimeout; m = m.next {
					t.Errorf("a timer of %v is still set", d)
				}
			}
		}
	}
}

func shardsOf(a *[16]timerShard) (out [16]*timerShard) {
	for i := range a {
		out[i] = &a[i]
	}
	return out
}

// place is the address of the workload behind a tap.
func (s *script) place(p *tap) string {
	for _, peer := range s.peers {
		for _, w := range peer.conns {
			if w.to.conn == p.st.Conn() {
				return peer.addr.String()
			}
		}
	}
	return "?"
}

// asked is the workload's end that has got a request, which it forgets.
func (s *script) asked() *tap {
	for _, w := range s.works {
		if w.err == nil && w.take() != "" {
			return w
		}
	}
	s.t.Fatal("no workload got a request")
	return nil
}

// last is the workload's end that came last.
func (s *script) last() *tap { return s.works[len(s.works)-1] }

// soon lets the longest pause of these tests pass.
func (s *script) soon() { s.pass(400 * time.Millisecond) }

func retryPolicyOf(r mesh.Retry) *mesh.RequestPolicy { return &mesh.RequestPolicy{Retry: &r} }

const (
	unavailable = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"
	okResponse  = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	postRequest = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
)

// What an endpoint does, and what the client gets for it.
func TestRetries(t *testing.T) {
	codes := mesh.Retry{Attempts: 2, Codes: []int{500, 503}, On: mesh.RetryReset}
	limit := codes
	limit.BodyLimit = 4
	none := codes
	none.Attempts = 0
	for _, tc := range []struct {
		name    string
		policy  mesh.Retry
		request string
		answers []string // of the endpoints, in order; "reset" resets
		want    string   // of the client
		flags   string
	}{
		{"code", codes, getRequest, []string{unavailable, okResponse}, "HTTP/1.1 200", "-"},
		{"two codes", codes, getRequest, []string{unavailable, "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", okResponse}, "HTTP/1.1 200", "-"},
		{"exhausted", codes, getRequest, []string{unavailable, unavailable, unavailable}, "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy", "URX"},
		{"other code", codes, getRequest, []string{"HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n"}, "HTTP/1.1 502", "-"},
		{"none", none, getRequest, []string{unavailable}, "HTTP/1.1 503", "-"},
		{"post", codes, postRequest, []string{unavailable, okResponse}, "HTTP/1.1 200", "-"},
		{"post too large to keep", limit, postRequest, []string{unavailable}, "HTTP/1.1 503", "-"},
		{"post just fits", limit, strings.Replace(strings.Replace(postRequest, "5", "4", 1), "hello", "hell", 1), []string{unavailable, okResponse}, "HTTP/1.1 200", "-"},
		{"reset", codes, postRequest, []string{"reset", okResponse}, "HTTP/1.1 200", "-"},
		{"reset in the head", codes, getRequest, []string{"HTTP/1.1 200 O", okResponse}, "HTTP/1.1 200", "-"},
		{"resets exhausted", codes, getRequest, []string{"reset", "reset", "reset"}, "HTTP/1.1 503", "UC,URX"},
		{"chunks", codes, getRequest, []string{"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbusy\r\n0\r\nx-t: 1\r\n\r\n", okResponse}, "HTTP/1.1 200", "-"},
		{"head", codes, strings.Replace(getRequest, "GET", "HEAD", 1), []string{"HTTP/1.1 503 No\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"}, "HTTP/1.1 200", "-"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, v := policied(t, 3, mesh.ProtocolHTTP, retryPolicyOf(tc.policy), nil)
			c := s.tunnel(vip(v), true)
			s.send(c, tc.request, false)
			seen := map[string]bool{}
			for i, a := range tc.answers {
				if len(s.works) != i+1 {
					t.Fatalf("after %d answers there were %d tries", i, len(s.works))
				}
				w := s.last()
				if got := w.take(); !strings.HasSuffix(got, tc.request[strings.Index(tc.request, "\r\n\r\n"):]) {
					t.Errorf("try %d got %q", i, got)
				}
				if seen[s.place(w)] {
					t.Errorf("try %d went to %s once more", i, s.place(w))
				}
				seen[s.place(w)] = true
				switch {
				case a == "reset":
					s.do(func(t *loop.Turn) { w.st.Reset(t, h2.Cancel) })
					s.flow()
				case strings.HasSuffix(a, "O"):
					s.send(w, a, true)
				default:
					s.send(w, a, false)
				}
				if i < len(tc.answers)-1 && c.got.Len() > 0 {
					t.Fatalf("answer %d came to the client: %q", i, c.got.String())
				}
				s.soon()
			}
			s.want(c.take(), tc.want)
			if lines := s.lines(); len(lines) != 1 || !strings.Contains(lines[0], " "+tc.flags+" ") {
				t.Errorf("records %q, want one with the flags %q", lines, tc.flags)
			}
		})
	}
}

// Bytes of a response that have gone to the client end all trying.
func TestNoRetryOnceAResponseHasBegun(t *testing.T) {
	s, v := policied(t, 2, mesh.ProtocolHTTP, retryPolicyOf(mesh.Retry{Attempts: 2, Codes: []int{503}, On: mesh.RetryReset}), nil)
	c := s.tunnel(vip(v), true)
	s.send(c, getRequest, false)
	s.send(s.last(), "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart", false)
	s.do(func(t *loop.Turn) { s.last().st.Reset(t, h2.Cancel) })
	s.flow()
	s.soon()
	if len(s.works) != 1 || c.err == nil {
		t.Errorf("%d tries, and the client's tunnel ended with %v", len(s.works), c.err)
	}
}

// A pause is random, and never longer than its bound, which doubles from try to try.
func TestBackoff(t *testing.T) {
	tun := &clientTunnel{p: &Proxy{below: rand.N[time.Duration]}}
	p := retryOf(&mesh.Retry{Attempts: 9, BackoffBase: 100 * time.Millisecond, BackoffMax: time.Second})
	for n, ms := range []int{100, 200, 400, 800, 1000, 1000, 1000} {
		bound := time.Duration(ms) * time.Millisecond
		x := exchange{tun: tun, retries: uint8(n)}
		var most, sum time.Duration
		for range 2000 {
			d := x.backoff(&p)
			most, sum = max(most, d), sum+d
		}
		if most >= bound || most < bound*9/10 || sum/2000 < bound*4/10 || sum/2000 > bound*6/10 {
			t.Errorf("retry %d: pauses up to %v, %v in the mean, want below %v and half of it", n, most, sum/2000, bound)
		}
	}
	if x := (exchange{tun: tun, retries: 200}); x.backoff(&p) >= time.Second {
		t.Error("a late pause is too long")
	}
	if x := (exchange{}); x.backoff(&plainResilience.retry) != 0 {
		t.Error("the default policy waits")
	}
	p = retryOf(&mesh.Retry{BackoffBase: 125 * time.Millisecond, BackoffMin: 100 * time.Millisecond})
	for range 2000 { // GEP-1731: no try before the time that a route asks for
		if d := (&exchange{tun: tun}).backoff(&p); d < 100*time.Millisecond || d >= 125*time.Millisecond {
			t.Fatalf("a pause of %v, want 100 to 125 ms", d)
		}
	}
}

// Nothing goes out before the pause is over, and then at once.
func TestRetryWaitsForItsPause(t *testing.T) {
	for _, header := range []string{"Retry-After: 7", "Retry-After: " + time.Unix(1_800_000_007, 0).UTC().Format(http.TimeFormat)} {
		s, v := policied(t, 2, mesh.ProtocolHTTP, retryPolicyOf(mesh.Retry{Attempts: 1, Codes: []int{503}, RetryAfterMax: time.Minute}), nil)
		c := s.tunnel(vip(v), true)
		s.send(c, getRequest, false)
		n := len(s.works)
		s.send(s.last(), "HTTP/1.1 503 No\r\n"+header+"\r\nContent-Length: 0\r\n\r\n", false)
		s.pass(6900 * time.Millisecond)
		if len(s.works) != n {
			t.Fatalf("%s: the retry went out too early", header)
		}
		s.pass(300 * time.Millisecond)
		if len(s.works) != n+1 {
			t.Fatalf("%s: the retry did not go out", header)
		}
		s.send(s.last(), okResponse, false)
		s.want(c.take(), "HTTP/1.1 200")
	}
}

// A Retry-After that is too long, or would end after the request's own deadline, passes
// the response on.
func TestRetryThatWouldComeTooLate(t *testing.T) {
	for _, tc := range []struct {
		name    string
		max     time.Duration
		timeout time.Duration
		after   string
		retried bool
	}{
		{"default bound", 0, 0, "6", false},
		{"within it", 0, 0, "4", true},
		{"deadline", time.Minute, 10 * time.Second, "11", false},
		{"not heeded", mesh.Never, 0, "4000", true},
		{"nonsense", 0, 0, "soon", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pol := retryPolicyOf(mesh.Retry{Attempts: 1, Codes: []int{503}, RetryAfterMax: tc.max})
			pol.Timeouts = &mesh.Timeouts{Request: tc.timeout}
			s, v := policied(t, 2, mesh.ProtocolHTTP, pol, nil)
			c := s.tunnel(vip(v), true)
			s.send(c, getRequest, false)
			s.send(s.last(), "HTTP/1.1 503 No\r\nRetry-After: "+tc.after+"\r\nContent-Length: 0\r\n\r\n", false)
			if got := c.got.Len() == 0; got != tc.retried {
				t.Fatalf("retried: %v, want %v; the client has %q", got, tc.retried, c.got.String())
			}
			if tc.retried {
				s.pass(5 * time.Second)
				s.send(s.last(), okResponse, false)
				s.want(c.take(), "HTTP/1.1 200")
				return
			}
			s.want(c.take(), "HTTP/1.1 503")
		})
	}
}

// The connection of a response that nobody wants is used again where the rest of it is
// short, and given up otherwise.
func TestDiscardedResponses(t *testing.T) {
	for _, tc := range []struct {
		name, answer, rest string
		reused             bool
	}{
		{"at once", unavailable, "", true},
		{"the rest comes later", "HTTP/1.1 503 No\r\nContent-Length: 10\r\n\r\n123", "4567890", true},
		{"chunks later", "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n123\r\n", "2\r\n45\r\n0\r\nx: y\r\n\r\n", true},
		{"bytes beyond", "HTTP/1.1 503 No\r\nContent-Length: 10\r\n\r\n123", "4567890more", false},
		{"long", "HTTP/1.1 503 No\r\nContent-Length: 100000\r\n\r\n123", "", false},
		{"long chunks", "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n", "20000\r\n" + strings.Repeat("x", 0x20000) + "\r\n0\r\n\r\n", false},
		{"until close", "HTTP/1.1 503 No\r\n\r\nbusy", "", false},
		{"never ends", "HTTP/1.1 503 No\r\nContent-Length: 10\r\n\r\n123", "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, v := policied(t, 1, mesh.ProtocolHTTP, retryPolicyOf(mesh.Retry{Attempts: 1, Codes: []int{503}}), nil)
			c := s.tunnel(vip(v), true)
			s.send(c, getRequest, false)
			first := s.last()
			first.take()
			s.send(first, tc.answer, false)
			if tc.rest != "" && first.err == nil {
				s.send(first, tc.rest, false)
			}
			if !tc.reused {
				s.pass(3 * time.Second)
				if first.err == nil {
					t.Error("the connection was not given up")
				}
			}
			s.soon()
			if (s.last() == first) != tc.reused {
				t.Fatalf("%d connections were made, want it used again: %v", len(s.works), tc.reused)
			}
			s.send(s.last(), okResponse, false)
			s.want(c.take(), "HTTP/1.1 200")
		})
	}
}

// Over the budget the response is the client's, whatever it says.
func TestRetryBudgetRefuses(t *testing.T) {
	for _, tc := range []struct {
		name    string
		backend mesh.BackendPolicy
	}{
		{"budget", mesh.BackendPolicy{Budget: &mesh.RetryBudget{MinConcurrency: 2}}},
		{"breaker", mesh.BackendPolicy{Breaker: &mesh.CircuitBreaker{MaxRetries: 2}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, v := policied(t, 2, mesh.ProtocolHTTP, retryPolicyOf(mesh.Retry{Attempts: 2, Codes: []int{503}}), &tc.backend)
			var cs []*tap
			for range 4 {
				c := s.tunnel(vip(v), true)
				s.send(c, getRequest, false)
				s.send(s.asked(), unavailable, false)
				cs = append(cs, c)
			}
			s.soon()
			for i, c := range cs {
				if refused := i >= 2; refused != (c.got.Len() > 0) {
					t.Errorf("request %d: got %q, want an answer: %v", i, c.got.String(), refused)
				}
			}
			for range 2 {
				s.send(s.asked(), okResponse, false)
			}
			for _, c := range cs[:2] {
				s.want(c.take(), "HTTP/1.1 200")
			}
			// The places are free again.
			c := s.tunnel(vip(v), true)
			s.send(c, getRequest, false)
			s.send(s.asked(), unavailable, false)
			if c.got.Len() > 0 {
				t.Errorf("a later retry was refused: %q", c.got.String())
			}
			s.do(func(t *loop.Turn) { c.st.Reset(t, h2.Cancel) })
			s.flow()
			flags := 0
			for _, l := range s.lines() {
				if strings.Contains(l, " UO ") {
					flags++
				}
			}
			if flags != 2 {
				t.Errorf("%d records have the flag UO, want 2", flags)
			}
		})
	}
}

// A per-try timeout ends a try, and there is another if the policy says so.
func TestPerTryTimeoutIsRetried(t *testing.T) {
	for _, on := range []mesh.RetryOn{0, mesh.RetryPerTryTimeout} {
		pol := retryPolicyOf(mesh.Retry{Attempts: 1, On: on})
		pol.Timeouts = &mesh.Timeouts{PerTry: time.Second}
		s, v := policied(t, 2, mesh.ProtocolHTTP, pol, nil)
		c := s.tunnel(vip(v), true)
		s.send(c, getRequest, false)
		first := s.last()
		s.pass(1100 * time.Millisecond)
		if first.err == nil {
			t.Error("the slow endpoint was not told")
		}
		if on == 0 {
			s.want(c.take(), "HTTP/1.1 504")
			continue
		}
		s.soon()
		if len(s.works) != 2 {
			t.Fatalf("%d tries, want 2", len(s.works))
		}
		s.pass(1100 * time.Millisecond)
		s.want(c.take(), "HTTP/1.1 504")
		if lines := s.lines(); len(lines) != 1 || !strings.Contains(lines[0], " UT,URX ") || !strings.Contains(lines[0], "upstream_per_try_timeout") {
			t.Errorf("records %q", lines)
		}
	}
}

// A client that leaves between two tries ends the trying.
func TestClientLeavesBetweenTries(t *testing.T) {
	s, v := policied(t, 2, mesh.ProtocolHTTP, retryPolicyOf(mesh.Retry{Attempts: 1, Codes: []int{503}}), &mesh.BackendPolicy{Budget: &mesh.RetryBudget{Percent: 100, MinConcurrency: 1}})
	for range 20 {
		c := s.tunnel(vip(v), true)
		s.send(c, postRequest, false)
		for _, w := range s.works {
			if w.got.Len() > 0 && w.err == nil {
				w.take()
				s.send(w, "HTTP/1.1 503 No\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n", false)
			}
		}
		s.do(func(t *loop.Turn) { c.st.Reset(t, h2.Cancel) })
		s.flow()
		s.pass(3 * time.Second)
	}
	for _, w := range s.works {
		if got := w.take(); got != "" {
			t.Errorf("a workload got %q after all", got)
		}
	}
}

// gRPC: statuses in trailers-only responses, over HTTP/2.
func TestGRPCStatusIsRetried(t *testing.T) {
	s, v := policied(t, 1, mesh.ProtocolGRPC, retryPolicyOf(mesh.Retry{Attempts: 2, GRPCStatuses: []int{14}}), nil)
	n := 0
	s.h2workload(func(t *loop.Turn, st *h2.Stream, h *h2.Head) {
		n++
		status := "14"
		if n == 3 {
			status = "0"
		}
		st.WriteHeaders(t, []hpack.HeaderField{{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/grpc"}, {Name: "grpc-status", Value: status}}, true)
	})
	p := s.h2tunnel(vip(v))
	r := &tap{}
	s.do(func(t *loop.Turn) {
		r.st = p.inner.conn.Open(t, r, []hpack.HeaderField{{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "a"}, {Name: ":path", Value: "/s/m"}, {Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"}}, true)
	})
	s.flow()
	s.soon()
	s.soon()
	if got := fieldOf(r.fields, "grpc-status"); got != "0" || n != 3 {
		t.Errorf("status %q after %d calls, want 0 after 3", got, n)
	}
}

// Or in trailers, where they come together with the head. A head that comes alone is
// passed on: the client may wait for it.
func TestGRPCStatusInTrailersIsRetried(t *testing.T) {
	for _, tc := range []struct {
		name     string
		together bool
		content  bool
		calls    int
		want     string
	}{
		{"together", true, false, 3, "0"},
		{"apart", false, false, 1, "14"},
		{"after content", true, true, 1, "14"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, v := policied(t, 1, mesh.ProtocolGRPC, retryPolicyOf(mesh.Retry{Attempts: 2, GRPCStatuses: []int{14}}), nil)
			n := 0
			var later []*h2.Stream
			s.h2workload(func(t *loop.Turn, st *h2.Stream, h *h2.Head) {
				n++
				st.WriteHeaders(t, fieldsOf(":status", "200", "content-type", "application/grpc"), false)
				if tc.content {
					st.Write(t, []byte("\x00\x00\x00\x00\x00"), false)
				}
				status := "14"
				if n == 3 {
					status = "0"
				}
				if tc.together {
					st.WriteTrailers(t, fieldsOf("grpc-status", status))
				} else {
					later = append(later, st)
				}
			})
			r := &tap{}
			p := s.h2tunnel(vip(v))
			s.do(func(t *loop.Turn) {
				r.st = p.inner.conn.Open(t, r, fieldsOf(":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/s/m", "content-type", "application/grpc", "te", "trailers"), true)
			})
			s.flow()
			if !tc.together && r.status != 200 {
				t.Error("a head that came alone was not passed on")
			}
			for _, st := range later {
				s.do(func(t *loop.Turn) { st.WriteTrailers(t, fieldsOf("grpc-status", "14")) })
			}
			s.flow()
			s.soon()
			s.soon()
			if got := fieldOf(r.trail, "grpc-status"); got != tc.want || n != tc.calls || !r.ended {
				t.Errorf("status %q after %d calls, ended %v, want %q after %d", got, n, r.ended, tc.want, tc.calls)
			}
		})
	}
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		v    string
		want time.Duration
	}{
		{"0", 0},
		{"5", 5 * time.Second},
		{"-1", 0},
		{"", 0},
		{"5.5", 0},
		{"99999999999", 0},
		{"Fri, 27 Nov 2026 12:00:30 GMT", 30 * time.Second},
		{"Friday, 27-Nov-26 12:01:00 GMT", time.Minute},
		{"Fri, 27 Nov 2026 11:00:00 GMT", 0},
	} {
		if got := parseRetryAfter(tc.v, now); got != tc.want {
			t.Errorf("%q: %v, want %v", tc.v, got, tc.want)
		}
	}
}

func FuzzParseRetryAfter(f *testing.F) {
	f.Add("5")
	f.Add("Fri, 27 Nov 2026 12:00:30 GMT")
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, v string) {
		if d := parseRetryAfter(v, now); d < 0 {
			t.Errorf("%q asks for %v", v, d)
		}
	})
}

// Bodies larger than the default are kept where the policy says so.
func TestLargeBodyIsKept(t *testing.T) {
	s, v := policied(t, 2, mesh.ProtocolHTTP, retryPolicyOf(mesh.Retry{Attempts: 1, Codes: []int{503}, BodyLimit: 300_000}), nil)
	c := s.tunnel(vip(v), true)
	body := strings.Repeat("0123456789", 25_000)
	s.send(c, fmt.Sprintf("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(body), body), false)
	s.send(s.last(), unavailable, false)
	s.soon()
	if got := s.last().take(); len(s.works) != 2 || !strings.HasSuffix(got, body) {
		t.Fatalf("%d tries; the last one got %d bytes", len(s.works), len(got))
	}
	s.send(s.last(), okResponse, false)
	s.want(c.take(), "HTTP/1.1 200")
}
