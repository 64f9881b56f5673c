package waypoint

import (
	"errors"
	"sync"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h1"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// h2Server speaks HTTP/2 to a client inside its CONNECT stream. Each request
// is an h2Request with an exchange of its own.
type h2Server struct {
	tun   *clientTunnel
	inner innerConn

	lingerMu sync.Mutex
	linger   timer // guarded by lingerMu

	freeMu sync.Mutex
	free   []*h2Request // for Open, the one used last is last
}

func newH2Server(t *loop.Turn, tun *clientTunnel, out pipe) *h2Server {
	s := &h2Server{tun: tun}
	s.inner.out = out
	s.inner.q.Init(&s.inner)
	s.inner.conn = h2.New(t, &s.inner, s, h2.Options{MaxStreams: 100, ExtendedConnect: true, Budget: tun.p.o.Budget, Keepalive: innerKeepalive, Timeout: innerTimeout})
	return s
}

// Headers implements h2.StreamHandler for the CONNECT stream.
func (s *h2Server) Headers(t *loop.Turn, st *h2.Stream, h *h2.Head) {
	if h.End {
		s.Data(t, st, nil, true)
	}
}

// Data implements h2.StreamHandler for the CONNECT stream.
func (s *h2Server) Data(t *loop.Turn, _ *h2.Stream, b []byte, end bool) { s.inner.feed(t, b, end) }

// Reset implements h2.StreamHandler for the CONNECT stream.
func (s *h2Server) Reset(t *loop.Turn, _ *h2.Stream, err error) { s.inner.close(t, err) }

// Writable implements h2.StreamHandler for the CONNECT stream.
func (s *h2Server) Writable(t *loop.Turn, _ *h2.Stream) { s.inner.writable(t) }

// Closed implements h2.Handler. When it was not the client that ended the
// connection, what it still sends is discarded for a while, so that it comes to
// read why.
func (s *h2Server) Closed(t *loop.Turn, err error) {
	s.tun.p.removeH2Server(s)
	s.tun.closed()
	if _, ok := errors.AsType[*h2.ConnError](err); !ok {
		return
	}
	s.lingerMu.Lock()
	defer s.lingerMu.Unlock()
	s.tun.p.timers.start(&s.linger, s.tun.shard, t.Now, lingerTimeout, func(t *loop.Turn) { s.inner.out.StopReading(t) })
}

// drain announces the end to the client.
func (s *h2Server) drain(t *loop.Turn) { s.inner.conn.Drain(t) }

// Open implements h2.Handler: a request came.
func (s *h2Server) Open(t *loop.Turn, st *h2.Stream, head *h2.Head) {
	r := s.request()
	x := &r.x
	x.mu.Lock()
	defer x.mu.Unlock()
	r.st, r.over = st, false
	var err error
	if r.arena, err = requestFromH2(head, r.arena, x.tun.p.runtime.Load().heads.lim(), &x.req, &x.reqF); err != nil {
		var pe *h1.ParseError
		if !errors.As(err, &pe) || head.TooLarge {
			if !head.TooLarge {
				st.Reset(t, h2.ProtocolError)
				return
			}
			err = &h1.ParseError{Status: 431, Reason: "http2.header_section_too_large"}
			errors.As(err, &pe)
		}
		st.Handle(r)
		x.start, x.reqDone, x.req.Proto = t.Now, head.End, 2
		x.localError(t, pe.Status, pe.Reason)
		return
	}
	if head.TooLarge {
		st.Handle(r)
		x.start, x.reqDone = t.Now, head.End
		x.localError(t, 431, "http2.header_section_too_large")
		return
	}
	r.left = x.reqF.Length
	st.Handle(r)
	if x.reqF.Upgrade != "" {
		r.early = &earlyBytes{}
		x.begin(t, nil, true)
		return
	}
	x.begin(t, nil, head.End)
}

// maxFree bounds the requests that a connection keeps for its next ones.
const maxFree = 16

// request returns one that is not in use. It is called by the connection's
// reader only, which is what makes it safe to use a request again: events of its
// former stream come on the same goroutine, so none is still on its way.
func (s *h2Server) request() *h2Request {
	s.freeMu.Lock()
	defer s.freeMu.Unlock()
	if n := len(s.free); n > 0 {
		r := s.free[n-1]
		s.free[n-1] = nil
		s.free = s.free[:n-1]
		return r
	}
	r := &h2Request{s: s}
	r.x.tun, r.x.down = s.tun, r
	return r
}

// keep takes a request back whose exchange is over. Its stream may still have
// bytes to send, and tells nobody about it.
func (s *h2Server) keep(r *h2Request) {
	r.st.Handle(nil)
	r.arena, r.trailers = shrink(r.arena), forget(r.trailers)
	s.freeMu.Lock()
	defer s.freeMu.Unlock()
	if len(s.free) < maxFree {
		s.free = append(s.free, r)
	}
}

// h2Request is one request of an h2Server.
type h2Request struct {
	s        *h2Server
	x        exchange
	st       *h2.Stream
	arena    []byte // of the head; used again
	left     int64  // of the declared content; negative: none was declared
	trailers mesh.Fields
	early    *earlyBytes // of an extended CONNECT; nil for every other request
	over     bool
}

// Headers implements h2.StreamHandler: request trailers.
func (r *h2Request) Headers(t *loop.Turn, st *h2.Stream, h *h2.Head) {
	x := &r.x
	x.mu.Lock()
	defer x.mu.Unlock()
	if r.early != nil {
		r.tunnelData(t, nil, true)
		return
	}
	tr, err := trailersFromH2(h, r.trailers[:0])
	if err != nil || h.TooLarge || r.left > 0 {
		r.malformed(t)
		return
	}
	r.trailers = tr
	if len(tr) == 0 {
		x.requestData(t, nil, true)
		return
	}
	x.requestTrailers(t, tr)
}

// Data implements h2.StreamHandler.
func (r *h2Request) Data(t *loop.Turn, st *h2.Stream, b []byte, end bool) {
	x := &r.x
	x.mu.Lock()
	defer x.mu.Unlock()
	if r.early != nil {
		r.tunnelData(t, b, end)
		return
	}
	if r.left >= 0 {
		r.left -= int64(len(b))
		if r.left < 0 || end && r.left > 0 { // content-length lied, RFC 9113 section 8.1.1
			r.malformed(t)
			return
		}
	}
	x.requestData(t, b, end)
}

func (r *h2Request) malformed(t *loop.Turn) {
	r.over = true
	r.x.downstreamGone(t)
	r.st.Reset(t, h2.ProtocolError)
}

// Reset implements h2.StreamHandler.
func (r *h2Request) Reset(t *loop.Turn, _ *h2.Stream, _ error) {
	r.x.mu.Lock()
	r.over = true
	r.forgetEarly()
	r.x.downstreamGone(t)
	r.x.mu.Unlock()
}

// Writable implements h2.StreamHandler.
func (r *h2Request) Writable(t *loop.Turn, _ *h2.Stream) {
	r.x.mu.Lock()
	r.x.downstreamWritable(t)
	r.x.mu.Unlock()
}

func (r *h2Request) sendInterim(t *loop.Turn, resp *mesh.Response) {
	r.st.WriteHeaders(t, responseToH2(nil, resp, &h1.Framing{NoBody: true}, r.lent()), false)
}

func (r *h2Request) sendHead(t *loop.Turn, body []byte, end bool) {
	var buf [24]hpack.HeaderField
	f := responseToH2(buf[:0], &r.x.resp, &r.x.respF, r.lent())
	r.st.WriteHeaders(t, f, end && len(body) == 0)
	if len(body) > 0 {
		r.st.Write(t, body, end)
	}
}

func (r *h2Request) sendData(t *loop.Turn, b []byte, end bool) { r.st.Write(t, b, end) }

func (r *h2Request) sendTrailers(t *loop.Turn, trailers mesh.Fields) {
	var buf [8]hpack.HeaderField
	l := r.lent()
	if l.all {
		trailers = cloneFields(trailers) // they may have to wait for the window
	}
	r.st.WriteTrailers(t, appendFields(buf[:0], trailers, l))
}

// lent is what of a response lies in memory that is used again.
func (r *h2Request) lent() lent {
	l := r.x.lent(r.arena)
	l.all = r.x.respAlias()
	return l
}

func (r *h2Request) credit(t *loop.Turn, n int) {
	if n > 0 {
		r.st.Consumed(t, n)
	}
}

func (r *h2Request) congested() bool { return r.st.Congested() }

func (r *h2Request) abort(t *loop.Turn) {
	r.over = true
	r.forgetEarly()
	r.st.Reset(t, h2.InternalError)
}

func (r *h2Request) finished(t *loop.Turn, clean bool) {
	r.forgetEarly()
	switch {
	case r.over:
	case clean && r.early == nil:
		r.s.keep(r)
	default:
		// The response is complete and the request is not: RFC 9113 section 8.1.
		r.st.StopReading(t)
	}
	r.over = true
}
