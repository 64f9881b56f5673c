package waypoint

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// bounded is a script of one service under a backend policy, with n workloads.
func bounded(t testing.TB, proto mesh.AppProtocol, n int, policy mesh.BackendPolicy) (*script, *mesh.Service) {
	var works []*mesh.Workload
	for i := range n {
		works = append(works, labWorkload(i+1))
	}
	v := labService(1, proto, works...)
	v.Ports[0].Backend = &policy
	s := newScript(t, mesh.Parts{Workloads: works, Services: []*mesh.Service{v}})
	s.look()
	return s, v
}

// look does what the goroutine does that watches clusters.
func (l *lab) look() { l.p.watch.look(l.now) }

// only is the one cluster that there is.
func (l *lab) only() *cluster {
	l.t.Helper()
	var all []*cluster
	for cl := range l.p.runtime.Load().allClusters() {
		all = append(all, cl)
	}
	for _, cl := range all {
		if cl.key.service.Hostname != "" {
			return cl
		}
	}
	l.t.Fatalf("there is no cluster among %d", len(all))
	return nil
}

// edit puts another backend policy in force.
func (l *lab) edit(v *mesh.Service, policy *mesh.BackendPolicy) *mesh.Service {
	c := *v
	c.Ports = []mesh.ServicePort{v.Ports[0]}
	c.Ports[0].Backend = policy
	l.parts.Services = []*mesh.Service{&c}
	l.publish()
	l.look()
	return &c
}

// gauges are what a circuit breaker counts: connections, pending, requests, retries.
func (l *lab) gauges() string {
	s := l.only().adm.state
	return fmt.Sprint(s.Connections.Load(), s.Pending.Load(), s.Requests.Load(), s.Retries.Load())
}

func (s *script) gaugesAre(want string) {
	s.t.Helper()
	if got := s.gauges(); got != want {
		s.t.Fatalf("connections, pending, requests and retries are %s, want %s", got, want)
	}
}

// asks opens a tunnel and sends a request through it.
func (s *script) asks(v *mesh.Service) *tap {
	c := s.tunnel(vip(v), true)
	s.send(c, getRequest, false)
	return c
}

func (s *script) answers(w *tap, head string) {
	s.t.Helper()
	if got := w.take(); !strings.HasPrefix(got, "GET") {
		s.t.Fatalf("the workload got %q and not a request", got)
	}
	s.send(w, "HTTP/1.1 "+head+"\r\nContent-Length: 0\r\n\r\n", false)
}

// overloadedWant is what the circuit breaker's answer must hold.
var overloadedWant = []string{
	"HTTP/1.1 503", "x-envoy-overloaded: true",
	"upstream connect error or disconnect/reset before headers. reset reason: overflow",
}

func (s *script) overloaded(c *tap) {
	s.t.Helper()
	got := c.take()
	for _, w := range overloadedWant {
		if !strings.Contains(got, w) {
			s.t.Fatalf("got %q, want %q in it", got, w)
		}
	}
}

func TestBreakerOfRequests(t *testing.T) {
	s, v := bounded(t, mesh.ProtocolHTTP, 1, mesh.BackendPolicy{Breaker: &mesh.CircuitBreaker{MaxRequests: 1}})
	a := s.asks(v)
	s.gaugesAre("1 0 1 0")
	s.overloaded(s.asks(v))
	s.answers(s.works[0], "200 OK")
	s.want(a.take(), "HTTP/1.1 200")
	c := s.asks(v) // it is closed again
	for _, w := range s.works {
		if w.got.Len() > 0 {
			s.answers(w, "200 OK")
		}
	}
	s.want(c.take(), "HTTP/1.1 200")
	if got := s.gauges(); !strings.HasSuffix(got, "0 0 0") {
		t.Errorf("what is counted in the end: %s", got)
	}
	if n := s.only().adm.state.Overflows.Requests.Load(); n != 1 {
		t.Errorf("%d overflows, want 1", n)
	}
	lines := strings.Join(s.lines(), "\n")
	if !strings.Contains(lines, " UO ") || !strings.Contains(lines, "{overflow}") {
		t.Errorf("the log does not tell of the overflow: %s", lines)
	}
}

// Who may have no connection waits for one in use, in turn, and who may not wait is refused.
func TestBreakerOfConnections(t *testing.T) {
	s, v := bounded(t, mesh.ProtocolHTTP, 1, mesh.BackendPolicy{Breaker: &mesh.CircuitBreaker{MaxConnections: 1, MaxPending: 2}})
	a := s.asks(v)
	b, c := s.asks(v), s.asks(v)
	s.gaugesAre("1 2 1 0")
	s.overloaded(s.asks(v))
	s.answers(s.works[0], "200 OK")
	s.want(a.take(), "HTTP/1.1 200")
	s.gaugesAre("1 1 1 0")
	s.answers(s.works[0], "201 Created")
	s.want(b.take(), "HTTP/1.1 201")
	// The connection ends: the last one gets another.
	s.answers(s.works[0], "202 Accepted\r\nConnection: close")
	s.want(c.take(), "HTTP/1.1 202")
	s.gaugesAre("0 0 0 0")
	d := s.asks(v)
	e := s.asks(v)
	s.send(s.works[1], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", false)
	s.works[1].take()
	s.want(d.take(), "HTTP/1.1 200")
	if len(s.works) != 3 {
		t.Fatalf("%d connections were made, want 3", len(s.works))
	}
	s.answers(s.works[2], "200 OK")
	s.want(e.take(), "HTTP/1.1 200")
	s.gaugesAre("1 0 0 0")
}

// Clients that go away leave the line.
func TestBreakerLineIsLeft(t *testing.T) {
	s, v := bounded(t, mesh.ProtocolHTTP, 1, mesh.BackendPolicy{Breaker: &mesh.CircuitBreaker{MaxConnections: 1}})
	a, b, c := s.asks(v), s.asks(v), s.asks(v)
	s.gaugesAre("1 2 1 0")
	s.do(func(t *loop.Turn) { b.st.Reset(t, h2.Cancel) })
	s.flow()
	s.gaugesAre("1 1 1 0")
	// The one in front goes: its connection ends, and the last one has its turn.
	s.do(func(t *loop.Turn) { a.st.Reset(t, h2.Cancel) })
	s.flow()
	s.gaugesAre("1 0 1 0")
	s.answers(s.works[len(s.works)-1], "200 OK")
	s.want(c.take(), "HTTP/1.1 200")
	s.gaugesAre("1 0 0 0")
}

// A connection that does not come counts as one, and so does who waits for it.
func TestBreakerWhileConnecting(t *testing.T) {
	for _, proto := range []mesh.AppProtocol{mesh.ProtocolHTTP, mesh.ProtocolHTTP2} {
		t.Run(proto.String(), func(t *testing.T) {
			s, v := bounded(t, proto, 1, mesh.BackendPolicy{Breaker: &mesh.CircuitBreaker{MaxPending: 1}})
			s.accept = 0
			a := s.asks(v)
			s.gaugesAre("1 1 0 0")
			s.overloaded(s.asks(v))
			s.gaugesAre("1 1 0 0")
			s.pass(2 * connectTimeout)
			s.pass(2 * connectTimeout)
			s.pass(2 * connectTimeout)
			s.want(a.take(), "HTTP/1.1 503")
			if got := s.gauges(); !strings.HasSuffix(got, "0 0 0") || !strings.HasPrefix(got, "0") {
				t.Errorf("what is counted in the end: %s", got)
			}
		})
	}
}

// With HTTP/2, a connection that is full is one that others wait for.
func TestBreakerOfHTTP2Connections(t *testing.T) {
	s, v := bounded(t, mesh.ProtocolHTTP2, 1, mesh.BackendPolicy{Breaker: &mesh.CircuitBreaker{MaxConnections: 1, MaxPending: 1}})
	d := s.h2tunnel(vip(v))
	// The workload allows a single stream.
	first := s.call(d, "/1")
	const settings = "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x01"
	s.send(s.works[0], settings, false)
	second := s.call(d, "/2")
	s.gaugesAre("1 1 1 0")
	third := s.call(d, "/3")
	if third.status != 503 {
		t.Fatalf("the third request got %d, want 503", third.status)
	}
	respond := func(id uint32) {
		b := headersFrame(true, [][2]string{{":status", "200"}})
		b[5], b[6], b[7], b[8] = byte(id>>24), byte(id>>16), byte(id>>8), byte(id)
		s.send(s.works[0], string(b), false)
	}
	respond(1)
	s.gaugesAre("1 0 1 0")
	respond(3)
	if first.status != 200 || second.status != 200 {
		t.Errorf("the others got %d and %d", first.status, second.status)
	}
	s.gaugesAre("1 0 0 0")
}

func TestBreakerOfTCP(t *testing.T) {
	s, v := bounded(t, mesh.ProtocolTCP, 1, mesh.BackendPolicy{Breaker: &mesh.CircuitBreaker{MaxConnections: 1}})
	a := s.tunnel(vip(v), true)
	if b := s.tunnel(vip(v), true); b.status != 503 {
		t.Errorf("a second connection got %d, want 503", b.status)
	}
	s.gaugesAre("1 0 0 0")
	s.do(func(t *loop.Turn) { a.st.Reset(t, h2.Cancel) })
	s.flow()
	s.gaugesAre("0 0 0 0")
	if c := s.tunnel(vip(v), true); c.status != 200 {
		t.Errorf("after it another got %d", c.status)
	}
	if !strings.Contains(strings.Join(s.lines(), "\n"), " UO ") {
		t.Error("the log does not tell of the overflow")
	}
}

// Counts go on under another policy, and are right when what began before it ends.
func TestBreakerIsLive(t *testing.T) {
	policy := func(n uint32) *mesh.BackendPolicy {
		return &mesh.BackendPolicy{Breaker: &mesh.CircuitBreaker{MaxRequests: n}}
	}
	s, v := bounded(t, mesh.ProtocolHTTP, 1, *policy(10))
	a, b := s.asks(v), s.asks(v)
	v = s.edit(v, policy(2))
	s.gaugesAre("2 0 2 0")
	s.overloaded(s.asks(v))
	s.answers(s.works[0], "200 OK")
	s.want(a.take(), "HTTP/1.1 200")
	v = s.edit(v, policy(1))
	s.overloaded(s.asks(v))
	s.answers(s.works[1], "200 OK")
	s.want(b.take(), "HTTP/1.1 200")
	v = s.edit(v, nil)
	if s.only().adm != nil {
		t.Error("a service without a policy is watched")
	}
	s.asks(v)
}

// workload finds the connection that a request is on, and whose it is.
func (s *script) busyWork() *tap {
	for _, w := range s.works {
		if w.got.Len() > 0 {
			return w
		}
	}
	s.t.Fatal("no workload has a request")
	return nil
}

// spread sends n requests, and returns how many went to each workload. Those to bad
// get its answer.
func (s *script) spread(v *mesh.Service, n int, bad string, answer string) map[string]int {
	s.t.Helper()
	got := map[string]int{}
	c := s.tunnel(vip(v), true)
	for range n {
		s.send(c, getRequest, false)
		w := s.busyWork()
		name := s.hostOf[w]
		got[name]++
		if name == bad {
			s.answers(w, answer)
		} else {
			s.answers(w, "200 OK")
		}
		s.want(c.take(), "HTTP/1.1 ")
		s.look()
	}
	return got
}

const badHost = "10.0.0.1"

func TestOutlierIsEjectedAndReturns(t *testing.T) {
	policy := func(n uint32) mesh.BackendPolicy {
		return mesh.BackendPolicy{Outlier: &mesh.OutlierDetection{Consecutive5xx: n, BaseEjection: 30 * time.Second, MaxEjectionPercent: 50}}
	}
	s, v := bounded(t, mesh.ProtocolHTTP, 3, policy(3))
	if got := s.spread(v, 60, badHost, "500 Oops"); got[badHost] != 3 {
		t.Fatalf("the failing workload got %d of 60 requests, want 3: %v", got[badHost], got)
	}
	// The ejection outlives a change of policy and of endpoints.
	p := policy(2)
	v = s.edit(v, &p)
	w4 := labWorkload(4)
	w4.Services[v.Key] = map[uint16]uint16{80: 8080}
	s.parts.Workloads = append(s.parts.Workloads, w4)
	s.publish()
	s.look()
	if got := s.spread(v, 60, badHost, "500 Oops"); got[badHost] != 0 || got["10.0.0.4"] == 0 {
		t.Fatalf("an ejected workload got requests after a change: %v", got)
	}
	if s.only().c.Ejections() != 1 {
		t.Error("the ejection was forgotten")
	}
	s.now = s.now.Add(31 * time.Second)
	s.look()
	if got := s.spread(v, 60, "", ""); got[badHost] == 0 {
		t.Errorf("the workload did not come back: %v", got)
	}
	s.spread(v, 60, badHost, "503 No")
	v = s.edit(v, &mesh.BackendPolicy{Breaker: &mesh.CircuitBreaker{}})
	if s.only().c.Ejections() != 0 || s.spread(v, 60, "", "")[badHost] == 0 {
		t.Error("without a policy the workload stays ejected")
	}
}

// An endpoint that cannot be reached is ejected, too; clients notice nothing.
func TestOutlierOfConnections(t *testing.T) {
	s, v := bounded(t, mesh.ProtocolHTTP, 2, mesh.BackendPolicy{Outlier: &mesh.OutlierDetection{ConsecutiveLocal: 2, SplitLocal: true}})
	s.refuse = badHost
	for range 40 {
		c := s.asks(v)
		s.answers(s.busyWork(), "200 OK\r\nConnection: close")
		s.want(c.take(), "HTTP/1.1 200")
		s.look()
	}
	if s.refusals != 2 {
		t.Errorf("the workload was tried %d times, want 2", s.refusals)
	}
}

// An endpoint that says it is busy is left alone for as long as it asks, and is not ejected.
func TestBusyEndpointIsLeftAlone(t *testing.T) {
	for _, tc := range []struct{ name, answer string }{
		{"429", "429 Too Many Requests\r\nRetry-After: 5"},
		{"503", "503 Later\r\nRetry-After: 5"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, v := bounded(t, mesh.ProtocolHTTP, 3, mesh.BackendPolicy{Outlier: &mesh.OutlierDetection{Consecutive5xx: 1}})
			if got := s.spread(v, 60, badHost, tc.answer); got[badHost] != 1 {
				t.Errorf("a busy workload got %d requests, want 1", got[badHost])
			}
			if s.only().c.Ejections() != 0 {
				t.Error("it was ejected")
			}
			s.now = s.now.Add(6 * time.Second)
			s.look()
			if got := s.spread(v, 60, "", ""); got[badHost] == 0 {
				t.Error("it did not come back")
			}
		})
	}
}

func TestAdaptiveConcurrencyRefuses(t *testing.T) {
	s, v := bounded(t, mesh.ProtocolHTTP, 1, mesh.BackendPolicy{Concurrency: &mesh.AdaptiveConcurrency{Min: 2, MinRTTRequests: 4}})
	a, b := s.asks(v), s.asks(v)
	c := s.asks(v)
	if got := c.take(); !strings.HasPrefix(got, "HTTP/1.1 503") || !strings.HasSuffix(got, "reached concurrency limit") {
		t.Fatalf("got %q", got)
	}
	s.now = s.now.Add(10 * time.Millisecond)
	for i, x := range []*tap{a, b} {
		s.answers(s.works[i], "200 OK")
		s.want(x.take(), "HTTP/1.1 200")
	}
	for range 4 {
		x := s.asks(v)
		s.now = s.now.Add(10 * time.Millisecond)
		s.answers(s.busyWork(), "200 OK")
		s.want(x.take(), "HTTP/1.1 200")
	}
	s.now = s.now.Add(100 * time.Millisecond)
	s.look()
	l := s.only().adm.concurrency
	if rtt := l.MinRTT(); rtt < 9*time.Millisecond || rtt > 11*time.Millisecond || l.Active() != 0 {
		t.Errorf("minimum round-trip time %s, %d active", rtt, l.Active())
	}
	if !strings.Contains(strings.Join(s.lines(), "\n"), "reached_concurrency_limit") {
		t.Error("the log does not tell why")
	}
}
