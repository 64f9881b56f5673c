package waypoint

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h1"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

func dialOf(w *mesh.Workload) netip.AddrPort { return netip.AddrPortFrom(w.Addresses[0], 15008) }

// serveConnect is a workload's node proxy: a CONNECT has come.
func (s *sim) serveConnect(t *loop.Turn, host string, st *h2.Stream, _ *h2.Head) {
	e := &workload{s: s, st: st, lazy: s.chance(15)}
	for _, w := range s.wires {
		if w.conn == st.Conn() {
			e.wire = w.to
		}
	}
	st.Handle(e)
	s.actors = append(s.actors, e)
}

// workload is one connection to a workload, of either version of HTTP.
type workload struct {
	s        *sim
	wire     *wire // the waypoint's end
	served   int   // requests that came over HTTP/1.1
	st       *h2.Stream
	answered bool
	over     bool
	lazy     bool // it takes its time to read
	owed     int
	in       []byte
	inner    *innerConn // HTTP/2

	// HTTP/1.1
	x       *call
	y       *try
	req     mesh.Request
	f       h1.Framing
	body    h1.Body
	got     int
	reqDone bool
	started bool // the response
	out     []byte
	outAt   int // bytes of the response that are written
	endIt   bool
	raw     bool
	rawEnd  bool
	ended   bool
}

func (e *workload) ready() bool {
	switch {
	case e.over:
		return false
	case !e.answered:
		return true
	case e.inner != nil:
		return false
	}
	return e.owed > 0 || len(e.out) > 0 && !e.st.Congested() || e.endIt && len(e.out) == 0 && !e.ended || e.mayRespond() || e.idleFault()
}

func (e *workload) isLazy() bool { return e.lazy }

func (e *workload) mayRespond() bool {
	return e.x != nil && !e.started && e.x.fault != faultHang && (e.reqDone || e.x.early)
}

func (e *workload) idleFault() bool {
	return e.s.breaks && !e.s.ending && e.x == nil && e.s.rng.IntN(50) == 0
}

func (e *workload) act(t *loop.Turn) {
	s := e.s
	if !e.answered {
		e.answered = true
		if s.breaks && s.chance(6) {
			s.logf("workload refuses a connection")
			e.over = true
			e.st.WriteHeaders(t, []hpack.HeaderField{{Name: ":status", Value: "503"}}, true)
			return
		}
		if s.breaks && !s.ending && s.chance(3) {
			s.logf("workload does not answer a connection")
			e.over = true
			return
		}
		e.st.WriteHeaders(t, []hpack.HeaderField{{Name: ":status", Value: "200"}}, false)
		return
	}
	switch {
	case e.owed > 0 && (len(e.out) == 0 || s.chance(40)):
		n := s.piece(e.owed)
		e.owed -= n
		e.st.Consumed(t, n)
	case e.mayRespond() && s.chance(50):
		e.started = true
		e.respond()
	case len(e.out) > 0 && !e.st.Congested():
		e.write(t)
	case e.endIt && len(e.out) == 0 && !e.ended:
		e.end(t)
	case e.x == nil && s.breaks && s.chance(20) && !s.ending:
		s.logf("workload closes idle connection %d", e.st.ID)
		e.end(t)
	}
}

func (e *workload) end(t *loop.Turn) {
	e.ended = true
	e.st.Write(t, nil, true)
}

// write sends a piece of the response, and breaks where the script says so.
func (e *workload) write(t *loop.Turn) {
	n := e.s.piece(len(e.out))
	b := e.out[:n]
	if x := e.x; x != nil && !e.raw && e.started && (x.fault == faultReset || x.fault == faultEnd) && e.outAt+n >= x.faultAt {
		e.s.logf("workload breaks call %d off after %d bytes", x.id, x.faultAt)
		e.st.Write(t, b[:max(0, x.faultAt-e.outAt)], false)
		e.over = true
		if x.fault == faultReset {
			e.st.Reset(t, h2.ConnectError)
		} else {
			e.end(t)
		}
		return
	}
	e.st.Write(t, b, false)
	e.outAt += n
	e.out = e.out[n:]
	if len(e.out) == 0 && e.reqDone && e.started && !e.raw {
		e.x, e.started, e.reqDone = nil, false, false
		e.parse()
	}
}

// respond prepares the whole response.
func (e *workload) respond() {
	x := e.x
	e.outAt = 0
	b := e.out
	for range x.interim {
		b = append(b, "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"...)
	}
	if x.fault == faultGarbage {
		e.out = append(b, "garbage without end\r\n\r\n"...)
		e.endIt = true
		return
	}
	if e.y.busy {
		e.busy(b)
		return
	}
	if x.upgrade {
		e.out = fmt.Appendf(b, "HTTP/1.1 101 Switching Protocols\r\nX-Id: %d\r\nX-Pad: %s\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n", x.id, strings.Repeat("p", x.rpad))
		e.out = appendPattern(e.out, x.id, 0, x.hello)
		e.raw = true
		e.rawData(nil, e.rawEnd)
		return
	}
	b = fmt.Appendf(b, "HTTP/1.1 %d OK\r\nX-Id: %d\r\n", x.status, x.id)
	if x.rpad > 0 {
		b = fmt.Appendf(b, "X-Pad: %s\r\n", strings.Repeat("p", x.rpad))
	}
	mode := x.respMode
	if mode == 0 && x.status != 204 && x.status != 304 {
		b = fmt.Appendf(b, "Content-Length: %d\r\n", x.respLen)
	}
	if mode == 1 && !x.noContent() {
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	if x.rtrailer {
		b = append(b, "Trailer: x-sum\r\n"...)
	}
	if x.epClose || mode == 2 && !x.noContent() {
		b = append(b, "Connection: close\r\n"...)
		e.endIt = true
	}
	b = append(b, "\r\n"...)
	if !x.noContent() {
		b = e.content(b, mode)
	}
	if x.fault == faultExtra && (mode != 2 || x.noContent()) {
		b = append(b, "HTTP/1.1 200 OK\r\nX-Id: 9999\r\nContent-Length: 0\r\n\r\n"...)
	}
	e.out = b
}

// busy answers with 503.
func (e *workload) busy(b []byte) {
	b = fmt.Appendf(b, "HTTP/1.1 503 Busy\r\nX-Id: %d\r\nX-Busy: 1\r\n", e.x.id)
	n := []int{0, 4, 4, 5000, 100_000}[e.s.rng.IntN(5)]
	switch {
	case e.x.method == "HEAD" || e.s.chance(50):
		b = fmt.Appendf(b, "Content-Length: %d\r\n\r\n", n)
		if e.x.method != "HEAD" {
			b = append(b, make([]byte, n)...)
		}
	case e.s.chance(80):
		b = append(b, "Transfer-Encoding: chunked\r\n\r\n"...)
		for range 3 {
			b = h1.AppendChunk(b, make([]byte, n/3))
		}
		b = h1.AppendLastChunk(b, nil)
	default:
		b = append(b, "Connection: close\r\n\r\n"...)
		b = append(b, make([]byte, n)...)
		e.endIt = true
	}
	e.s.logf("call %d is answered with 503 and %d bytes", e.x.id, len(b))
	e.out = b
}

func (e *workload) content(b []byte, mode int) []byte {
	x := e.x
	if mode != 1 {
		return appendPattern(b, x.id, 0, x.respLen)
	}
	for at := 0; at < x.respLen; {
		n := 1 + e.s.rng.IntN(min(x.respLen-at, 60_000))
		b = h1.AppendChunk(b, appendPattern(nil, x.id, at, n))
		at += n
	}
	var tr mesh.Fields
	if x.rtrailer {
		tr = mesh.Fields{{Name: "x-sum", Value: fmt.Sprint("sum-", x.id)}}
	}
	return h1.AppendLastChunk(b, tr)
}

func (e *workload) Headers(t *loop.Turn, st *h2.Stream, h *h2.Head) {
	if h.End {
		e.Data(t, st, nil, true)
	}
}

func (e *workload) Data(t *loop.Turn, st *h2.Stream, b []byte, end bool) {
	if e.over {
		st.Consumed(t, len(b))
		return
	}
	if e.inner != nil {
		e.inner.feed(t, b, end)
		return
	}
	e.in = append(e.in, b...)
	if e.x == nil && e.got == 0 && len(e.in) >= 24 && string(e.in[:14]) == "PRI * HTTP/2.0" {
		e.inner = &innerConn{out: st}
		e.inner.q.Init(e.inner)
		most := uint32(100)
		if e.s.breaks {
			most = uint32(1 + e.s.rng.IntN(20))
		}
		e.inner.conn = h2.New(t, e.inner, &workloadH2{s: e.s, e: e}, h2.Options{Window: e.s.window, MaxWindow: e.s.window, MaxStreams: most})
		in := e.in
		e.in = nil
		e.inner.feed(t, in, end)
		return
	}
	e.owed += len(b)
	if e.x == nil && len(e.in) > 0 && e.in[0] == tcpStart {
		e.x, e.raw, e.started, e.reqDone = &call{upgrade: true}, true, true, true
	}
	if e.raw || e.x != nil && e.x.upgrade {
		in := e.in
		e.in = nil
		e.rawData(in, end)
		return
	}
	e.parse()
	if end && !e.ended {
		e.endIt = true
	}
}

// rawData echoes what comes after an upgrade.
func (e *workload) rawData(b []byte, end bool) {
	if e.x.got > 1<<30 {
		return
	}
	e.rawEnd = e.rawEnd || end
	if !e.raw {
		e.in = append(e.in, b...)
		return
	}
	e.out = append(append(e.out, e.in...), b...)
	e.in = nil
	e.endIt = e.rawEnd
}

func (e *workload) parse() {
	for len(e.in) > 0 && !e.reqDone && len(e.s.errs) == 0 {
		if e.x == nil {
			n := h1.FindHeadEnd(e.in, 0)
			if n < 0 {
				return
			}
			head := append([]byte(nil), e.in[:n]...)
			e.in = e.in[n:]
			e.req = mesh.Request{}
			if err := h1.ParseRequest(head, &h1.Limits{MaxHead: 1 << 20, MaxFields: 200}, &e.req, &e.f); err != nil {
				e.s.fail("workload: request head: %v: %.300q", err, head)
				return
			}
			e.y = &try{wire: e.wire, stream: e.st.ID, reused: e.served > 0}
			e.x = e.s.arrived(&e.req, e.y)
			if e.x == nil {
				return
			}
			e.served++
			e.got = 0
			e.body.Reset(e.f, nil)
			if e.f.Expect100 && e.x.fault != faultHang && !e.x.early {
				e.out = append(e.out, "HTTP/1.1 100 Continue\r\n\r\n"...)
			}
		}
		data, n, done, err := e.body.Next(e.in)
		if err == nil && !e.x.bad {
			err = checkPattern(data, -e.x.id, e.got)
		}
		if err != nil {
			e.s.fail("workload: call %d: content: %v", e.x.id, err)
			return
		}
		e.got += len(data)
		e.in = e.in[n:]
		if done {
			e.reqDone = true
			e.s.whole(e.x, e.got, e.body.Trailers())
			if e.x.upgrade {
				in := e.in
				e.in = nil
				e.rawData(in, false)
				return
			}
			if e.started && len(e.out) == 0 { // it was answered before it was complete
				e.x, e.started, e.reqDone = nil, false, false
			}
		}
	}
}

// arrived notes a request that reached a workload.
func (s *sim) arrived(req *mesh.Request, y *try) *call {
	id, err := strconv.Atoi(strings.TrimPrefix(req.Path, "/r/"))
	if err != nil || id < 1 || id > len(s.calls) {
		s.fail("workload: a request for %q", req.Path)
		return nil
	}
	x := s.calls[id-1]
	x.seen++
	y.before = y.wire.ledger.data[y.stream]
	y.busy = x.busyAt(x.seen - 1)
	if x.tries = append(x.tries, y); len(x.tries) > s.mostTries() {
		s.fail("call %d came %d times", x.id, len(x.tries))
	}
	if x.head && x.local == 0 && !s.pol.hedges {
		s.fail("call %d came again after its response had begun: %s", x.id, x.story())
	}
	s.checkConf(x, req)
	s.logf("call %d reached a workload on stream %d, reused %v", x.id, y.stream, y.reused)
	rid, _ := req.Fields.Get("x-request-id")
	pad, _ := req.Fields.Get("x-pad")
	if rid != fmt.Sprint("call-", id) || req.Method != x.method || len(pad) != x.pad || req.Authority != "web" {
		s.fail("workload: call %d came as %s %s for %q with id %q, padding %d", id, req.Method, req.Path, req.Authority, rid, len(pad))
	}
	n := 0
	for _, f := range req.Fields {
		if strings.HasPrefix(f.Name, "x-f") && f.Name != "x-forwarded-proto" {
			if f.Value != fmt.Sprint("v", x.id) {
				s.fail("workload: call %d has %s: %q", id, f.Name, f.Value)
			}
			n++
		}
	}
	if n != x.fields {
		s.fail("workload: call %d came with %d fields, want %d", id, n, x.fields)
	}
	return x
}

// checkConf checks that a request was routed by a configuration that was in
// force when it was sent or came into force later.
func (s *sim) checkConf(x *call, req *mesh.Request) {
	if !s.named {
		return
	}
	v, ok := req.Fields.Get("x-conf")
	if !ok && x.sniffed && s.breaks {
		return // it was late, and taken for something else
	}
	if n, err := strconv.ParseUint(v, 10, 64); err != nil || n < x.conf || n > s.conf {
		s.fail("call %d was routed by configuration %q, sent under %d, and %d is in force", x.id, v, x.conf, s.conf)
	}
}

// whole checks a request that has come to its end.
func (s *sim) whole(x *call, got int, tr mesh.Fields) {
	if x.lie < 0 {
		return // what it said was complete before the rest gave it the lie
	}
	if got != x.reqLen {
		s.fail("workload: call %d ended after %d bytes, want %d", x.id, got, x.reqLen)
	}
	if v, ok := tr.Get("x-sum"); ok != x.trailer || ok && v != fmt.Sprint("sum-", x.id) {
		s.fail("workload: call %d has trailers %v, want some: %v", x.id, tr, x.trailer)
	}
}

func (e *workload) Reset(t *loop.Turn, _ *h2.Stream, err error) {
	e.over = true
	if e.inner != nil {
		e.inner.close(t, err)
	}
}

func (e *workload) Writable(t *loop.Turn, _ *h2.Stream) {
	if e.inner != nil {
		e.inner.writable(t)
	}
}
