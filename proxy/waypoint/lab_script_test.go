package waypoint

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// tap is one end of a stream for scripts: it keeps what comes, and takes it
// off the window only when it is told to.
type tap struct {
	st     *h2.Stream
	status int
	fields []hpack.HeaderField
	trail  []hpack.HeaderField
	got    bytes.Buffer
	owed   int
	ended  bool
	err    error
	read   bool // credit at once
}

func (p *tap) Headers(_ *loop.Turn, _ *h2.Stream, h *h2.Head) {
	if h.Trailer {
		p.trail = append(p.trail, h.Fields...)
	} else {
		p.status = tunnel.Status(h)
		p.fields = append(p.fields[:0], h.Fields...)
	}
	p.ended = p.ended || h.End
}

func (p *tap) Data(t *loop.Turn, st *h2.Stream, b []byte, end bool) {
	p.got.Write(b)
	p.ended = p.ended || end
	if p.owed += len(b); p.read {
		p.consume(t)
	}
}

func (p *tap) consume(t *loop.Turn) {
	p.st.Consumed(t, p.owed)
	p.owed = 0
}

func (p *tap) Reset(_ *loop.Turn, _ *h2.Stream, err error) { p.err = err }
func (p *tap) Writable(*loop.Turn, *h2.Stream)             {}

// take returns what has come and forgets it.
func (p *tap) take() string {
	s := p.got.String()
	p.got.Reset()
	return s
}

// script is a lab whose workloads are taps, in the order of their CONNECTs.
type script struct {
	*lab
	w     *wire // the client's HBONE connection
	works []*tap
	// accept says what workloads answer to CONNECT; 0 is nothing.
	accept int
	// refuse answers 503 in its place for one address, and counts that.
	refuse   string
	refusals int
	hostOf   map[*tap]string // whose a tap is
}

func newScript(t testing.TB, parts mesh.Parts) *script {
	s := &script{lab: newLab(t, parts), accept: 200, hostOf: map[*tap]string{}}
	s.lab.serve = func(t *loop.Turn, host string, st *h2.Stream, _ *h2.Head) {
		p := &tap{st: st, read: true}
		if host == s.refuse {
			s.refusals++
			st.WriteHeaders(t, []hpack.HeaderField{{Name: ":status", Value: "503"}}, true)
			return
		}
		s.hostOf[p] = host
		st.Handle(p)
		s.works = append(s.works, p)
		if s.accept != 0 {
			st.WriteHeaders(t, []hpack.HeaderField{{Name: ":status", Value: statusString(s.accept)}}, s.accept != 200)
		}
	}
	s.w = s.client()
	return s
}

func oneService(proto mesh.AppProtocol) (mesh.Parts, *mesh.Service) {
	w := labWorkload(1)
	v := labService(1, proto, w)
	return mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{v}}, v
}

// tunnel opens a tunnel to an address.
func (s *script) tunnel(authority string, read bool) *tap {
	p := &tap{read: read}
	s.do(func(t *loop.Turn) { p.st = s.w.connect(t, authority, p) })
	s.flow()
	return p
}

// flow delivers everything, and lets dials succeed.
func (s *script) flow() {
	for {
		s.settle()
		more := false
		for _, p := range s.peers {
			if len(p.waiting) > 0 {
				p.dialed(nil)
				more = true
			}
		}
		if !more {
			return
		}
	}
}

// send writes to a tap's stream and lets it arrive.
func (s *script) send(p *tap, text string, end bool) {
	s.do(func(t *loop.Turn) { p.st.Write(t, []byte(text), end) })
	s.flow()
}

// pass lets time pass.
func (s *script) pass(d time.Duration) {
	for range 8 {
		s.now = s.now.Add(d / 8)
		s.do(s.p.timers.sweep)
		s.flow()
	}
}

func (s *script) want(got, prefix string) {
	s.t.Helper()
	if !strings.HasPrefix(got, prefix) {
		s.t.Fatalf("got %.300q, want %q…", got, prefix)
	}
}

const getRequest = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

// h2tap is an HTTP/2 connection inside a tunnel.
type h2tap struct {
	tap
	inner innerConn
}

func (p *h2tap) Headers(t *loop.Turn, st *h2.Stream, h *h2.Head) {
	if p.status = tunnel.Status(h); p.status == 200 {
		p.inner.out = st
		p.inner.q.Init(&p.inner)
		p.inner.conn = h2.New(t, &p.inner, quiet{}, h2.Options{Client: true})
	}
}
func (p *h2tap) Data(t *loop.Turn, _ *h2.Stream, b []byte, end bool) { p.inner.feed(t, b, end) }
func (p *h2tap) Writable(t *loop.Turn, _ *h2.Stream)                 { p.inner.writable(t) }

func (s *script) h2tunnel(authority string) *h2tap {
	p := &h2tap{}
	s.do(func(t *loop.Turn) { p.st = s.w.connect(t, authority, p) })
	s.flow()
	return p
}

// call sends a request without content.
func (s *script) call(p *h2tap, path string) *tap {
	r := &tap{}
	s.do(func(t *loop.Turn) {
		r.st = p.inner.conn.Open(t, r, []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "a"}, {Name: ":path", Value: path}}, true)
	})
	s.flow()
	return r
}

// A connection to an endpoint gets its whole window back after a response,
// even if the client was behind when it ended.
func TestWindowComesBackFromSlowClients(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP)
	s := newScript(t, parts)
	const size = 150_000 // more than the client's window and what a stream may hold
	for i := range 100 {
		c := s.tunnel(vip(v), false)
		s.send(c, getRequest, false)
		if len(s.works) != 1 {
			t.Fatalf("request %d went out on connection %d", i, len(s.works))
		}
		s.send(s.works[0], fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size)), false)
		c.read = true
		s.do(c.consume)
		s.flow()
		if n := c.got.Len(); n < size {
			t.Fatalf("response %d: %d bytes came", i, n)
		}
		s.send(c, "", true)
	}
}

// Trailers that wait behind content are still what they were when their
// connection serves another request.
func TestTrailersThatWaitAreKept(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP)
	s := newScript(t, parts)
	p := s.h2tunnel(vip(v))
	respond := func(trailer string) {
		s.send(s.works[0], fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-t\r\n\r\n%x\r\n%s\r\n0\r\nX-T: %s\r\n\r\n", 300_000, strings.Repeat("x", 300_000), trailer), false)
	}
	a := s.call(p, "/a")
	respond("first")
	b := s.call(p, "/b")
	respond("other")
	for _, r := range []*tap{a, b} {
		r.read = true
		s.do(r.consume)
		s.flow()
		s.do(r.consume)
		s.flow()
	}
	if len(s.works) != 1 {
		t.Fatalf("%d connections, want one that is used again", len(s.works))
	}
	for i, r := range []*tap{a, b} {
		want := []string{"first", "other"}[i]
		if len(r.trail) != 1 || r.trail[0].Value != want {
			t.Errorf("trailers %v after %d bytes, want %s", r.trail, r.got.Len(), want)
		}
	}
}

// A client that sends requests and reads no response gets only so many.
func TestPipelinedRequestsWaitForTheirReader(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP)
	s := newScript(t, parts)
	c := s.tunnel(vip(v), false)
	const n = 5000
	s.send(c, strings.Repeat(getRequest, n), false)
	body := strings.Repeat("x", 1000)
	answered := 0
	for range n {
		if len(s.works) == 0 || s.works[0].take() == "" {
			break
		}
		answered++
		s.send(s.works[0], "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"+body, false)
	}
	if answered > 300 {
		t.Errorf("%d requests were answered to a client that does not read", answered)
	}
	if used := s.budget.Used(); used > 300<<10 {
		t.Errorf("%d bytes wait for a client that does not read", used)
	}
	c.read = true
	s.do(c.consume)
	s.flow()
	for s.works[0].take() != "" {
		answered++
		s.send(s.works[0], "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"+body, false)
	}
	if got := strings.Count(c.got.String(), "HTTP/1.1 200 OK"); got != n || answered != n {
		t.Errorf("%d requests and %d responses went through, want %d", answered, got, n)
	}
}

// Inside HTTP/2, headers have no windows: the tunnel's must do.
func TestInnerHTTP2WaitsForItsReader(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP2)
	parts.Attachments = []mesh.RouteAttachment{route("r", 1, v, mesh.Route{Matches: []mesh.RouteMatch{pathMatch(mesh.MatchExact, "/none")}})}
	s := newScript(t, parts)
	p := s.h2tunnel(vip(v))
	// From now on the client's end of the tunnel gives nothing back.
	mute := &tap{st: p.st}
	p.st.Handle(mute)
	var block, frames bytes.Buffer
	enc := hpack.NewEncoder(&block)
	sent := 0
	for id := uint32(1); sent < 20<<20; {
		frames.Reset()
		for range 100 {
			block.Reset()
			for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "a"}, {":path", "/x"}} {
				enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
			}
			frames.Write([]byte{0, 0, byte(block.Len()), 1, 5, byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)})
			frames.Write(block.Bytes())
			id += 2
		}
		if p.st.Congested() {
			break
		}
		sent += frames.Len()
		s.send(mute, frames.String(), false)
	}
	if sent > 2<<20 {
		t.Errorf("a client that does not read could send requests of %d bytes", sent)
	}
	before := mute.got.Len()
	mute.read = true
	s.do(mute.consume)
	s.flow()
	if mute.got.Len() <= before {
		t.Error("nothing more came when the client read on")
	}
}

// A client that is refused while it writes a large body can finish writing,
// and so comes to read why; but not for ever.
func TestRefusedClientMayFinishWriting(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP)
	parts.Attachments = []mesh.RouteAttachment{route("r", 1, v, mesh.Route{Matches: []mesh.RouteMatch{pathMatch(mesh.MatchExact, "/none")}})}
	s := newScript(t, parts)
	c := s.tunnel(vip(v), true)
	s.send(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n"+strings.Repeat("x", 3<<20), false)
	s.want(c.take(), "HTTP/1.1 404")
	if !c.ended {
		t.Error("the connection did not end after its response")
	}
	if c.st.Congested() {
		t.Error("the client is left with what nobody takes")
	}
	s.pass(3 * time.Second)
	var se *h2.StreamError
	if !errors.As(c.err, &se) || se.Code != h2.NoError {
		t.Errorf("after some time the tunnel ended with %v, want NO_ERROR", c.err)
	}
}

// A node proxy that does not answer is given up.
func TestConnectThatNobodyAnswers(t *testing.T) {
	for _, proto := range []mesh.AppProtocol{mesh.ProtocolHTTP, mesh.ProtocolHTTP2, mesh.ProtocolTCP} {
		parts, v := oneService(proto)
		s := newScript(t, parts)
		s.accept = 0
		c := s.tunnel(vip(v), true)
		s.send(c, getRequest, false)
		s.pass(3 * connectTimeout)
		s.pass(connectTimeout)
		if proto == mesh.ProtocolTCP {
			if c.status != 503 {
				t.Errorf("%s: status %d, error %v; want 503", proto, c.status, c.err)
			}
			continue
		}
		s.want(c.take(), "HTTP/1.1 503")
		if lines := s.lines(); len(lines) != 1 || !strings.Contains(lines[0], "no answer to CONNECT in time") {
			t.Errorf("%s: access log %q", proto, lines)
		}
		for i, w := range s.works {
			if w.err == nil {
				t.Errorf("%s: CONNECT %d was not taken back", proto, i)
			}
		}
	}
}

// Policies on ports hold whether a client dials the address or the name.
func TestDiallingANameIsNoWayAroundPolicies(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP)
	parts.Policies = []*mesh.AuthorizationPolicy{{
		Name: mesh.Name{Namespace: "app", Name: "p"}, Action: mesh.ActionDeny, TargetRefs: []mesh.TargetRef{{Kind: "Service", Name: v.Name}},
		Rules: []mesh.AuthzRule{{To: []mesh.AuthzOperation{{Ports: []uint16{80}}}}},
	}}
	s := newScript(t, parts)
	for _, a := range []string{vip(v), v.Key.Hostname + ":80"} {
		c := s.tunnel(a, true)
		s.send(c, getRequest, false)
		s.want(c.take(), "HTTP/1.1 403")
	}
}

// The waypoint of a service account sends a service's requests to the
// workloads of the account and to no other.
func TestAccountWaypointKeepsToItsAccount(t *testing.T) {
	a, b := labWorkload(1), labWorkload(2)
	v := labService(1, mesh.ProtocolHTTP, a, b)
	v.Waypoint = nil
	a.Waypoint, a.ServiceAccountWaypoint = &mesh.WaypointRef{Name: wpName}, true
	w := *labWaypoint
	w.ForServiceAccount = a.ServiceAccount
	s := newScript(t, mesh.Parts{Workloads: []*mesh.Workload{a, b}, Services: []*mesh.Service{v}})
	s.parts.Waypoints = []*mesh.Waypoint{&w}
	s.publish()
	for range 20 {
		s.send(s.tunnel(vip(v), true), getRequest, false)
	}
	if s.peers[dialOf(b)] != nil && len(s.peers[dialOf(b)].conns) > 0 {
		t.Error("requests went to another account's workload")
	}
	if len(s.works) != 20 {
		t.Errorf("%d requests reached a workload, want 20", len(s.works))
	}
}

// What waits for a connection that is being made counts as waiting.
func TestRequestsThatWaitForADialAreCounted(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP)
	s := newScript(t, parts)
	c := s.tunnel(vip(v), true)
	body := strings.Repeat("x", 50_000)
	s.do(func(t *loop.Turn) {
		c.st.Write(t, []byte("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n"+body), false)
	})
	s.settle() // and no dial
	if n := s.budget.Used(); n != 50_000 {
		t.Errorf("%d bytes are counted as waiting, want 50000", n)
	}
	s.flow()
	if n := s.budget.Used(); n != 50_000 { // for another try
		t.Errorf("%d bytes are counted as kept, want 50000", n)
	}
	s.send(s.works[0], "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", false)
	if n := s.budget.Used(); n != 0 {
		t.Errorf("%d bytes are still counted after the response's head", n)
	}
}

// A workload that leaves the configuration while a connection to it is being
// made serves what waits, and is then let go.
func TestWorkloadLeavesDuringADial(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP2)
	s := newScript(t, parts)
	c := s.tunnel(vip(v), true)
	s.do(func(t *loop.Turn) { c.st.Write(t, []byte(getRequest), false) })
	s.settle() // and no dial
	s.parts.Workloads = nil
	s.publish()
	s.flow()
	if len(s.works) != 1 {
		t.Fatalf("%d CONNECTs came, want 1", len(s.works))
	}
	var up innerConn
	reqs := &answering{}
	s.do(func(t *loop.Turn) {
		w := s.works[0]
		in := w.take()
		up.out = w.st
		up.q.Init(&up)
		up.conn = h2.New(t, &up, reqs, h2.Options{})
		w.st.Handle(&feeding{&up})
		up.feed(t, []byte(in), false)
	})
	s.flow()
	s.want(c.take(), "HTTP/1.1 204")
	if reqs.n != 1 || !reqs.closed {
		t.Errorf("the workload got %d requests; connection closed: %v, want it closed after one", reqs.n, reqs.closed)
	}
	s.send(c, getRequest, false)
	s.want(c.take(), "HTTP/1.1 503")
}

// answering is an HTTP/2 server that has nothing to say.
type answering struct {
	n      int
	closed bool
}

func (a *answering) Open(t *loop.Turn, st *h2.Stream, _ *h2.Head) {
	a.n++
	st.WriteHeaders(t, []hpack.HeaderField{{Name: ":status", Value: "204"}}, true)
}
func (a *answering) Closed(*loop.Turn, error) { a.closed = true }

type feeding struct{ c *innerConn }

func (f *feeding) Headers(*loop.Turn, *h2.Stream, *h2.Head)            {}
func (f *feeding) Data(t *loop.Turn, _ *h2.Stream, b []byte, end bool) { f.c.feed(t, b, end) }
func (f *feeding) Reset(t *loop.Turn, _ *h2.Stream, err error)         { f.c.close(t, err) }
func (f *feeding) Writable(t *loop.Turn, _ *h2.Stream)                 { f.c.writable(t) }

// After a restart of the application all idle connections are dead, and not
// all of them may have been noticed: the second try uses none of them.
func TestSecondTryIsOnAFreshConnection(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP)
	s := newScript(t, parts)
	var cs []*tap
	for range 4 {
		c := s.tunnel(vip(v), true)
		s.send(c, getRequest, false)
		cs = append(cs, c)
	}
	for i, c := range cs {
		s.send(s.works[i], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false)
		s.want(c.take(), "HTTP/1.1 200")
	}
	s.send(cs[0], getRequest, false)
	for i := range 4 { // the one that got it ends, as do the others, a moment later
		if strings.Count(s.works[i].got.String(), "GET") == 2 {
			s.send(s.works[i], "", true)
		}
	}
	if len(s.works) != 5 {
		t.Fatalf("%d connections, want a fifth", len(s.works))
	}
	s.send(s.works[4], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false)
	s.want(cs[0].take(), "HTTP/1.1 200")
}

const upgradeRequest = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"

func TestBytesBeforeTheAnswerToAnUpgrade(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP)
	s := newScript(t, parts)
	c := s.tunnel(vip(v), true)
	s.send(c, upgradeRequest+"early", false)
	w := s.works[0]
	w.take()
	s.send(w, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n", false)
	if got := w.take(); got != "early" {
		t.Errorf("the workload got %q after the upgrade, want %q", got, "early")
	}
}

// The last bytes of an upgraded connection arrive although both sides have
// said all that they had to say.
func TestUpgradedConnectionEndsWhole(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP)
	s := newScript(t, parts)
	c := s.tunnel(vip(v), true)
	s.send(c, upgradeRequest, false)
	w := s.works[0]
	w.take()
	w.read = false
	s.send(w, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nbye", true)
	s.send(c, strings.Repeat("x", 100_000), true)
	w.read = true
	s.do(w.consume)
	s.flow()
	if w.got.Len() != 100_000 || !w.ended || w.err != nil {
		t.Errorf("the workload got %d bytes, end %v, error %v", w.got.Len(), w.ended, w.err)
	}
}

func TestInterimResponsesWithoutEnd(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP)
	s := newScript(t, parts)
	c := s.tunnel(vip(v), false)
	s.send(c, getRequest, false)
	s.send(s.works[0], strings.Repeat("HTTP/1.1 103 Early Hints\r\nX: "+strings.Repeat("x", 1000)+"\r\n\r\n", 5000), false)
	if used := s.budget.Used(); used > 64<<10 {
		t.Errorf("%d bytes of interim responses wait", used)
	}
	if !strings.Contains(c.got.String(), "HTTP/1.1 502 ") {
		t.Errorf("got %.100q…, want 502 in the end", c.got.String())
	}
}

// HTTP/1.0 may come without a host; HTTP/1.1 must not.
func TestHostIsSupplied(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP)
	s := newScript(t, parts)
	s.send(s.tunnel(vip(v), true), "GET / HTTP/1.0\r\n\r\n", false)
	if got := s.works[0].take(); !strings.Contains(got, "\r\nhost: "+v.Key.Hostname+"\r\n") {
		t.Errorf("the workload got %q", got)
	}
}

// An answer to CONNECT that ends the stream as well.
func TestWorkloadAcceptsAndEnds(t *testing.T) {
	for _, proto := range []mesh.AppProtocol{mesh.ProtocolHTTP, mesh.ProtocolHTTP2, mesh.ProtocolTCP} {
		parts, v := oneService(proto)
		s := newScript(t, parts)
		s.lab.serve = func(t *loop.Turn, _ string, st *h2.Stream, _ *h2.Head) {
			st.Handle(&tap{st: st})
			st.WriteHeaders(t, []hpack.HeaderField{{Name: ":status", Value: "200"}}, true)
		}
		c := s.tunnel(vip(v), true)
		s.send(c, getRequest, proto == mesh.ProtocolTCP)
		if proto != mesh.ProtocolTCP {
			s.want(c.take(), "HTTP/1.1 503")
		} else if !c.ended {
			t.Errorf("%s: the client was not told of the end", proto)
		}
		if lines := s.lines(); len(lines) != 1 || lines[0] == "" {
			t.Errorf("%s: records %q, want one", proto, lines)
		}
	}
}

// Ports that clients make up do not make us compile without end.
func TestPortsOnDemandAreBounded(t *testing.T) {
	w := labWorkload(1)
	w.Waypoint = &mesh.WaypointRef{Name: wpName}
	s := newScript(t, mesh.Parts{Workloads: []*mesh.Workload{w}})
	rt := s.p.runtime.Load()
	for port := range 3000 {
		s.p.find(rt, netip.AddrPortFrom(w.Addresses[0], uint16(1000+port)), "", uint16(1000+port))
	}
	if n := len(rt.asked); n != maxAsked {
		t.Errorf("%d ports are compiled after asking for 3000, want %d", n, maxAsked)
	}
	a := s.p.find(rt, netip.AddrPortFrom(w.Addresses[0], 1000), "", 1000)
	if b := s.p.find(rt, netip.AddrPortFrom(w.Addresses[0], 1000), "", 1000); a != b || a == nil {
		t.Error("the same port is compiled twice")
	}
	next := s.p.compile(rt.snapshot.Next(rt.snapshot.Given()), rt)
	s.p.succeed(rt, next)
	if c := s.p.find(next, netip.AddrPortFrom(w.Addresses[0], 1000), "", 1000); c != a {
		t.Error("a port that was asked for is compiled again when something else changes")
	}
}

// A deadline that was set again while its callback was on its way has not passed.
func TestTimerThatWasSetAgainHasNotExpired(t *testing.T) {
	var ts timers
	var m timer
	now := time.Unix(0, 0)
	fired, expired := 0, 0
	fire := func(*loop.Turn) {
		fired++
		if fired == 1 { // its owner was quicker
			m.stop()
			ts.start(&m, 0, now.Add(time.Second), time.Second, func(*loop.Turn) { expired++ })
		}
		if m.expired() {
			expired++
		}
	}
	ts.start(&m, 0, now, time.Second, fire)
	ts.sweep(&loop.Turn{Now: now.Add(time.Second)})
	if fired != 1 || expired != 0 {
		t.Fatalf("fired %d times, expired %d, want 1 and 0", fired, expired)
	}
	ts.sweep(&loop.Turn{Now: now.Add(2 * time.Second)})
	if expired != 1 {
		t.Error("the deadline that was set again did not fire")
	}
}

// An idle connection ends just when a request takes it: the request is sent
// again on another connection, or never was on this one; it does not hang.
func TestIdleConnectionThatEndsUnderARequest(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP)
	s := newScript(t, parts)
	s.p.o.AccessLog = nil
	c := s.tunnel(vip(v), true)
	s.send(c, getRequest, false)
	server, request := s.w.to, frames(c.st.ID, getRequest)
	d := s.p.destinations
	for i := range 3000 {
		w := s.works[len(s.works)-1]
		s.send(w, "HTTP/1.1 204 No Content\r\n\r\n", false)
		if !strings.HasPrefix(c.take(), "HTTP/1.1 204") {
			t.Fatalf("request %d was not answered", i)
		}
		var idle *h1Client
		for _, d := range d {
			idle = d.idle[0].c
		}
		var both sync.WaitGroup
		start := make(chan struct{})
		both.Go(func() {
			<-start
			turn := &loop.Turn{Now: s.now}
			idle.Data(turn, nil, nil, true)
			turn.End()
		})
		both.Go(func() {
			<-start
			turn := &loop.Turn{Now: s.now}
			_, _ = server.conn.Data(turn, request)
			turn.End()
		})
		close(start)
		both.Wait()
		s.flow()
	}
}
