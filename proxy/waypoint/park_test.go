package waypoint

import (
	"strings"
	"sync"
	"testing"
	"time"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// stepFunc is a filter of tests.
type stepFunc func(x *filters.Exchange) filters.Result

func (f stepFunc) Request(x *filters.Exchange) filters.Result  { return f(x) }
func (f stepFunc) Response(x *filters.Exchange) filters.Result { return f(x) }

// filter puts a request step into a chain of every port.
func (l *lab) filter(at stage, f stepFunc) {
	step := filters.Step{OnRequest: f}
	for _, sp := range l.p.runtime.Load().services.All() {
		ru := sp.fallback
		if len(sp.rules) > 0 {
			ru = sp.rules[0]
		}
		switch at {
		case stageService:
			sp.chain = append(sp.chain, step)
		case stageRule:
			ru.chain = append(ru.chain, step)
		case stageBackend:
			for _, b := range ru.backends {
				b.chain = append(b.chain, step)
			}
		}
	}
}

// waiter is a filter that waits, and keeps how to go on.
type waiter struct {
	resume   filters.Resume
	ran      int
	canceled int
}

func (w *waiter) wait(x *filters.Exchange) filters.Result {
	w.ran++
	w.resume = x.Await(func() { w.canceled++ })
	return filters.Park
}

// A filter may wait in each chain; the steps around it run once, and in order.
func TestFilterWaits(t *testing.T) {
	for at := range stageEndpoint {
		parts, v := oneService(mesh.ProtocolHTTP)
		s := newScript(t, parts)
		var ran []string
		var w waiter
		for i := range stageEndpoint {
			note := func(name string) stepFunc {
				return func(*filters.Exchange) filters.Result { ran = append(ran, name); return filters.Continue }
			}
			name := string('a' + byte(i))
			s.filter(i, note(name+"1"))
			if i == at {
				s.filter(i, w.wait)
			}
			s.filter(i, note(name+"2"))
		}
		c := s.tunnel(vip(v), true)
		s.send(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nfour", false)
		if len(s.works) != 0 || w.ran != 1 {
			t.Fatalf("stage %d: the filter ran %d times and %d workloads were called", at, w.ran, len(s.works))
		}
		s.send(c, "more", false)
		w.resume(func(x *filters.Exchange) filters.Result {
			x.Req.Fields.Add("x-waited", "yes")
			return filters.Continue
		})
		s.flow()
		if got := strings.Join(ran, " "); got != "a1 a2 b1 b2 c1 c2" {
			t.Errorf("stage %d: steps ran as %s", at, got)
		}
		if got := s.works[0].take(); !strings.Contains(got, "x-waited: yes") || !strings.HasSuffix(got, "\r\n\r\nfourmore") {
			t.Errorf("stage %d: the workload got %q", at, got)
		}
		s.send(s.works[0], "HTTP/1.1 204 No Content\r\n\r\n", false)
		s.want(c.take(), "HTTP/1.1 204")
		w.resume(nil) // once too often
		s.flow()
		if got := c.take(); got != "" || w.canceled != 0 {
			t.Errorf("stage %d: after all %q came, %d cancellations", at, got, w.canceled)
		}
	}
}

// What a waiting filter may come to say, beside Continue.
func TestFilterWaitsAndSays(t *testing.T) {
	var again waiter
	for _, tc := range []struct {
		name string
		then func(*filters.Exchange) filters.Result
		want string
	}{
		{"replied", func(x *filters.Exchange) filters.Result { return x.Answer(429, "RL", "limited", "slow down") }, "HTTP/1.1 429"},
		{"waits again", again.wait, ""},
		{"waits for nothing", func(*filters.Exchange) filters.Result { return filters.Park }, "HTTP/1.1 500"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parts, v := oneService(mesh.ProtocolHTTP)
			s := newScript(t, parts)
			var w waiter
			s.filter(stageRule, w.wait)
			c := s.tunnel(vip(v), true)
			s.send(c, getRequest, false)
			w.resume(tc.then)
			s.flow()
			if tc.want == "" && c.got.Len() == 0 {
				again.resume(func(x *filters.Exchange) filters.Result { return x.Answer(403, "", "", "") })
				s.flow()
				tc.want = "HTTP/1.1 403"
			}
			s.want(c.take(), tc.want)
			if len(s.works) != 0 {
				t.Error("the request reached the workload")
			}
		})
	}
}

// What ends an exchange ends its waiting, and the filter is told. To resume comes too late then.
func TestWaitingEnds(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(s *script, c *tap)
		want string
	}{
		{"client resets", func(s *script, c *tap) { s.do(func(t *loop.Turn) { c.st.Reset(t, h2.Cancel) }); s.flow() }, ""},
		{"client ends its half", func(s *script, c *tap) { s.send(c, "", true); s.pass(2 * time.Second) }, ""},
		{"deadline", func(s *script, c *tap) { s.pass(4 * time.Second) }, "HTTP/1.1 504"},
		{"malformed body", func(s *script, c *tap) { s.send(c, "garbage\r\n\r\n", false) }, "HTTP/1.1 400"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parts, v := oneService(mesh.ProtocolHTTP)
			parts.Attachments = []mesh.RouteAttachment{route("r", 1, v, mesh.Route{Requests: timeoutPolicy(3*time.Second, 0), Backends: []mesh.Backend{to(v, 1)}})}
			s := newScript(t, parts)
			var w waiter
			s.filter(stageRule, w.wait)
			c := s.tunnel(vip(v), true)
			request := getRequest
			if tc.name == "malformed body" {
				request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
			}
			s.send(c, request, false)
			tc.end(s, c)
			if w.canceled != 1 {
				t.Errorf("the filter was told %d times", w.canceled)
			}
			s.want(c.take(), tc.want)
			w.resume(func(*filters.Exchange) filters.Result { t.Error("resumed after the end"); return filters.Continue })
			s.flow()
			if len(s.works) != 0 {
				t.Error("the request reached the workload")
			}
			if lines := s.lines(); len(lines) != 1 || lines[0] == "" {
				t.Errorf("records %q, want one", lines)
			}
		})
	}
}

// A pause is as long as it was to be, within a millisecond where it is short.
func TestFilterPauses(t *testing.T) {
	for _, tc := range []struct{ pause, early, late time.Duration }{
		{3 * time.Millisecond, 2900 * time.Microsecond, 4 * time.Millisecond},
		{2500 * time.Microsecond, 2400 * time.Microsecond, 3 * time.Millisecond},
		{time.Second, 990 * time.Millisecond, 1020 * time.Millisecond},
	} {
		parts, v := oneService(mesh.ProtocolHTTP)
		s := newScript(t, parts)
		s.filter(stageRule, func(x *filters.Exchange) filters.Result { return x.After(tc.pause, nil) })
		c := s.tunnel(vip(v), true)
		s.send(c, getRequest, false)
		start := s.now
		s.now = start.Add(tc.early)
		s.do(s.p.timers.sweep)
		s.flow()
		if len(s.works) != 0 {
			t.Errorf("a pause of %v ended after %v", tc.pause, tc.early)
		}
		s.now = start.Add(tc.late)
		s.do(s.p.timers.sweep)
		s.flow()
		if len(s.works) != 1 {
			t.Errorf("a pause of %v did not end in %v", tc.pause, tc.late)
		}
	}
}

// A response step may answer in the endpoint's place.
func TestResponseStepReplies(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP)
	s := newScript(t, parts)
	for _, sp := range s.p.runtime.Load().services.All() {
		sp.chain = filters.Chain{{OnResponse: stepFunc(func(x *filters.Exchange) filters.Result { return x.Answer(502, "", "", "no") })}}
	}
	c := s.tunnel(vip(v), true)
	for range 2 {
		s.send(c, getRequest, false)
		s.send(s.works[len(s.works)-1], "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-trailer: 1\r\n\r\n", false)
		if got := c.take(); !strings.HasPrefix(got, "HTTP/1.1 502") || !strings.HasSuffix(got, "\r\n\r\nno") {
			t.Errorf("got %q", got)
		}
	}
}

// Filters go on on goroutines of their own while clients leave.
func TestFilterResumesWhileClientsLeave(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP)
	s := newScript(t, parts)
	s.p.o.AccessLog = nil
	var w waiter
	s.filter(stageRule, w.wait)
	for range 300 {
		c := s.tunnel(vip(v), true)
		s.send(c, getRequest, false)
		var both sync.WaitGroup
		both.Go(func() {
			w.resume(func(x *filters.Exchange) filters.Result { return x.Answer(403, "", "", "") })
		})
		both.Go(func() {
			turn := &loop.Turn{Now: s.now}
			s.w.to.conn.Tick(turn)
			turn.End()
		})
		s.do(func(t *loop.Turn) { c.st.Reset(t, h2.Cancel) })
		both.Wait()
		s.flow()
	}
	if n := s.p.tunnels.Load(); n != 0 {
		t.Errorf("%d tunnels are left", n)
	}
}

// The sweeper of short pauses is woken, and rests when there are none.
func TestQuickTimersRunWhileTheyAreNeeded(t *testing.T) {
	ts := timers{wake: make(chan struct{}, 1)}
	var m timer
	fired := 0
	now := time.Unix(0, 0)
	ts.pause(&m, 3, now, 4*time.Millisecond, func(*loop.Turn) { fired++ })
	if len(ts.wake) != 1 {
		t.Error("the sweeper was not woken")
	}
	if more := ts.sweepQuick(&loop.Turn{Now: now.Add(3 * time.Millisecond)}); !more || fired != 0 {
		t.Errorf("before its time: fired %d, more %v", fired, more)
	}
	if more := ts.sweepQuick(&loop.Turn{Now: now.Add(4 * time.Millisecond)}); more || fired != 1 {
		t.Errorf("in time: fired %d, more %v", fired, more)
	}
}

// What the port's policy says holds for a service without routes, and for the rules
// of a route that say nothing themselves. A rule is shared where that is the same.
func TestPortPolicyIsCompiled(t *testing.T) {
	w := labWorkload(1)
	a, b, c := labService(1, mesh.ProtocolHTTP, w), labService(2, mesh.ProtocolHTTP, w), labService(3, mesh.ProtocolHTTP, w)
	pol := timeoutPolicy(3*time.Second, 0)
	a.Ports[0].Requests, b.Ports[0].Requests = pol, timeoutPolicy(2*time.Second, time.Second)
	r := route("r", 1, b, mesh.Route{Requests: timeoutPolicy(0, 7*time.Second), Backends: []mesh.Backend{to(a, 1)}})
	attach := func(v *mesh.Service) mesh.RouteAttachment {
		return mesh.RouteAttachment{Service: v.Key, Route: r.Route}
	}
	d := labService(4, mesh.ProtocolHTTP, w)
	l := newLab(t, mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{a, b, c, d}, Attachments: []mesh.RouteAttachment{r, attach(c), attach(d)}})
	rule := func(v *mesh.Service) *rule {
		sp := l.p.runtime.Load().compiled.At(v.Key).ports[0]
		if sp.fallback != nil {
			return sp.fallback
		}
		return sp.rules[0]
	}
	check := func(v *mesh.Service, request, perTry time.Duration) {
		t.Helper()
		if ru := rule(v); ru.policy().timeouts.Request != request || ru.policy().timeouts.PerTry != perTry {
			t.Errorf("%s: timeouts %v and %v, want %v and %v", v.Name, ru.policy().timeouts.Request, ru.policy().timeouts.PerTry, request, perTry)
		}
	}
	check(a, 3*time.Second, 0)
	check(b, 2*time.Second, 7*time.Second)
	check(c, 0, 7*time.Second)
	if rule(c) != rule(d) || rule(b) == rule(c) {
		t.Error("rules are not shared where they are the same, or where they are not")
	}
	// A live edit of one port's policy.
	before := map[*mesh.Service]*servicePort{}
	for _, v := range []*mesh.Service{a, c, d} {
		before[v] = l.p.runtime.Load().compiled.At(v.Key).ports[0]
	}
	edited := *b
	edited.Ports = append([]mesh.ServicePort(nil), b.Ports...)
	edited.Ports[0].Requests = timeoutPolicy(time.Minute, 0)
	l.parts.Services = []*mesh.Service{a, &edited, c, d}
	rt := l.p.runtime.Load()
	l.p.apply(rt.snapshot.Next(l.parts))
	check(&edited, time.Minute, 7*time.Second)
	for v, sp := range before {
		if l.p.runtime.Load().compiled.At(v.Key).ports[0] != sp {
			t.Errorf("%s was compiled again for a policy of another", v.Name)
		}
	}
}
