package waypoint

import (
	"errors"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h1"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// h1Server speaks HTTP/1.1 to a client inside its CONNECT stream: one exchange
// at a time, its memory used again and again. Everything is guarded by x.mu.
//
//	head ──► body ──► wait ──► head …      wait: the response is not complete
//	           └─────► tunnel              after 101 Switching Protocols
//	any ──► dead                           the stream is over
type h1Server struct {
	x     exchange
	out   pipe
	state h1State

	in      []byte // received and not parsed
	scanned int    // of in, without finding the head's end
	arena   []byte // the head, in which x.req's strings lie
	body    h1.Body
	f       h1.Framing // of the request at hand

	chunked    bool   // the response is sent in chunks
	closing    bool   // the response at hand is the last
	clientDone bool   // the client ended its half
	feeding    bool   // feed is on the stack
	credited   int    // bytes to give back at the end of feed
	headTimer  timer  // of an incomplete head; then of the wait for an answer; at last of the client's end
	buf        []byte // a head or chunk under construction
}

type h1State uint8

const (
	h1Head h1State = iota
	h1Body
	h1Wait
	h1Tunnel
	h1Dead
)

// headTimeout bounds how long a request head may take to arrive.
const headTimeout = 30 * time.Second

func newH1Server(tun *clientTunnel, out pipe) *h1Server {
	s := &h1Server{out: out}
	s.x.tun, s.x.down = tun, s
	return s
}

// Headers implements h2.StreamHandler: a CONNECT stream's trailers only end it.
func (s *h1Server) Headers(t *loop.Turn, st *h2.Stream, h *h2.Head) {
	if h.End {
		s.Data(t, st, nil, true)
	}
}

// Data implements h2.StreamHandler.
func (s *h1Server) Data(t *loop.Turn, _ *h2.Stream, b []byte, end bool) {
	s.x.mu.Lock()
	defer s.x.mu.Unlock()
	s.clientDone = s.clientDone || end
	if s.state == h1Dead {
		s.out.Consumed(t, len(b)) // see endOutput
		if end {
			s.headTimer.stop()
		}
		return
	}
	s.feed(t, b)
	if end && s.state == h1Wait {
		s.watchGone(t)
	}
}

// watchGone begins to doubt a client that has ended its half and waits for an
// answer: it has half-closed, or gone. TCP does not tell the one from the other.
func (s *h1Server) watchGone(t *loop.Turn) {
	seq := s.x.seq
	s.x.tun.p.timers.start(&s.headTimer, s.x.tun.shard, t.Now, goneAfter, func(t *loop.Turn) { s.maybeGone(t, seq) })
}

// goneAfter is how long an endpoint may take to begin its answer to a client
// that has ended its half. Most have gone, and the endpoint should not work
// for nobody; one that only half-closed gets its answer if it comes soon.
const goneAfter = time.Second

func (s *h1Server) maybeGone(t *loop.Turn, seq uint32) {
	s.x.mu.Lock()
	defer s.x.mu.Unlock()
	if s.headTimer.expired() && s.x.seq == seq && s.state == h1Wait && !s.x.respStarted && s.x.phase != idle {
		s.gone(t)
	}
}

// Reset implements h2.StreamHandler.
func (s *h1Server) Reset(t *loop.Turn, _ *h2.Stream, _ error) {
	s.x.mu.Lock()
	s.die()
	s.x.downstreamGone(t)
	s.x.mu.Unlock()
	s.x.tun.closed()
}

// Writable implements h2.StreamHandler.
func (s *h1Server) Writable(t *loop.Turn, _ *h2.Stream) {
	s.x.mu.Lock()
	defer s.x.mu.Unlock()
	s.x.downstreamWritable(t)
	if s.state == h1Head && !s.feeding && (len(s.in) > 0 || s.clientDone) {
		s.feed(t, nil) // a request that was held
	}
}

func (s *h1Server) die() {
	s.state = h1Dead
	s.in = nil
	s.headTimer.stop()
}

// feed parses as far as it can. b is borrowed; what must wait is copied to s.in.
func (s *h1Server) feed(t *loop.Turn, b []byte) {
	if s.state == h1Wait { // pipelined: not credited, so bounded, before its turn
		s.in = append(s.in, b...)
		return
	}
	if len(s.in) > 0 {
		s.in = append(s.in, b...)
		b = s.in
	}
	s.feeding = true
	rest := s.parse(t, b)
	s.feeding = false
	if s.state == h1Dead {
		s.credited += len(rest)
		rest = nil
	}
	switch {
	case len(rest) == 0:
		s.in = shrink(s.in)
	case sameMemory(s.in, b):
		s.in = s.in[:copy(s.in, rest)]
	default:
		s.in = append(s.in[:0], rest...)
	}
	if n := s.credited; n > 0 {
		s.credited = 0
		s.out.Consumed(t, n)
	}
}

// sameMemory reports whether b is the buffer in itself.
func sameMemory(in, b []byte) bool {
	return cap(in) > 0 && len(b) > 0 && &in[:1][0] == &b[0]
}

// parse consumes b and returns what must wait for more bytes or for the response.
func (s *h1Server) parse(t *loop.Turn, b []byte) (rest []byte) {
	for {
		switch s.state {
		case h1Head:
			if len(b) == 0 {
				if s.clientDone {
					s.endOutput(t)
				}
				return nil
			}
			if s.out.Congested() {
				// The client does not read its responses: it gets no more
				// before it does. Writable follows.
				return b
			}
			n := h1.FindHeadEnd(b, s.scanned)
			if n < 0 {
				return s.partialHead(t, b)
			}
			s.scanned = 0
			s.credited += n
			b = s.request(t, b[:n], b[n:])
		case h1Body:
			data, n, done, err := s.body.Next(b)
			s.credited += n - len(data)
			b = b[n:]
			if err != nil {
				s.badRequest(t, err)
				return b
			}
			if done {
				s.state = h1Wait
			}
			if tr := s.body.Trailers(); done && len(tr) > 0 {
				s.x.requestData(t, data, false)
				s.x.requestTrailers(t, tr)
			} else if done || len(data) > 0 {
				s.x.requestData(t, data, done)
			}
			if s.state == h1Body && len(b) == 0 {
				if s.clientDone {
					s.gone(t) // the request is incomplete and stays so
				}
				return nil
			}
		case h1Wait:
			return b
		case h1Tunnel:
			s.x.tunnelData(t, b, s.clientDone)
			return nil
		default:
			return b
		}
	}
}

func (s *h1Server) partialHead(t *loop.Turn, b []byte) []byte {
	if err := h1.HeadTooLarge(b, nil); err != nil {
		s.badRequest(t, err)
		return b
	}
	if s.clientDone {
		s.badRequest(t, h1.ErrUnexpectedEnd)
		return b
	}
	s.scanned = len(b)
	if s.headTimer.shard == nil {
		s.x.tun.p.timers.start(&s.headTimer, s.x.tun.shard, t.Now, headTimeout, s.headTimedOut)
	}
	return b
}

func (s *h1Server) headTimedOut(t *loop.Turn) {
	s.x.mu.Lock()
	defer s.x.mu.Unlock()
	if !s.headTimer.expired() || s.state != h1Head || len(s.in) == 0 {
		return
	}
	s.x.start = t.Now
	s.x.localError(t, 408, "request_header_timeout")
}

// request begins an exchange with a complete head and returns what of rest it
// has not used.
func (s *h1Server) request(t *loop.Turn, head, rest []byte) []byte {
	s.headTimer.stop()
	s.arena = append(s.arena[:0], head...)
	if err := h1.ParseRequest(s.arena, s.x.tun.p.runtime.Load().heads.lim(), &s.x.req, &s.f); err != nil {
		s.badRequest(t, err)
		return rest
	}
	s.x.reqF = s.f
	s.body.Reset(s.f, nil)
	s.closing = s.f.Close
	data, n, done, err := s.body.Next(rest)
	s.credited += n - len(data)
	if err != nil {
		s.badRequest(t, err)
		return rest[n:]
	}
	trailers := s.body.Trailers()
	s.state = h1Body
	if done {
		s.state = h1Wait
		if s.clientDone {
			s.watchGone(t)
		}
	}
	if done && len(trailers) > 0 {
		s.x.begin(t, data, false)
		s.x.requestTrailers(t, trailers)
	} else {
		s.x.begin(t, data, done)
	}
	return rest[n:]
}

// badRequest answers a request that is not one, and ends the connection: where
// the next one would begin is not known.
func (s *h1Server) badRequest(t *loop.Turn, err error) {
	status, reason := 400, "http1.codec_error"
	if pe, ok := errors.AsType[*h1.ParseError](err); ok {
		status, reason = pe.Status, pe.Reason
	}
	s.closing = true
	if s.x.phase != idle { // the body is broken: the endpoint has seen a part of it
		s.x.brokenRequest(t, status, reason)
		return
	}
	s.x.start = t.Now
	s.x.localError(t, status, reason)
}

// gone treats the client's early end as its going away.
func (s *h1Server) gone(t *loop.Turn) {
	s.x.downstreamGone(t)
	s.die()
	s.out.Reset(t, h2.Cancel)
	s.x.tun.closed()
}

// sendInterim implements clientSide.
func (s *h1Server) sendInterim(t *loop.Turn, resp *mesh.Response) {
	if s.x.req.MinorVersion == 0 {
		return // HTTP/1.0 knows none
	}
	s.buf = h1.AppendResponse(s.buf[:0], resp, h1.Framing{})
	s.out.Write(t, s.buf, false)
}

// sendHead implements clientSide.
func (s *h1Server) sendHead(t *loop.Turn, body []byte, end bool) {
	x := &s.x
	f := h1.Framing{Length: x.respF.Length, NoBody: x.respF.NoBody, Declared: x.respF.Declared, HasDeclared: x.respF.HasDeclared}
	if x.req.MinorVersion == 0 {
		if f.Length < 0 {
			f.Length = h1.UntilClose
			s.closing = true
		}
		f.KeepAlive10 = !s.closing
	} else if f.Length == h1.UntilClose {
		f.Length = h1.Chunked
	}
	if f.Length > 0 && x.req.MinorVersion > 0 && x.resp.Fields.Has("trailer") {
		f.Length = h1.Chunked // HTTP/2 has trailers beside a length; HTTP/1.1 needs chunks for them
	}
	if x.respF.Upgrade != "" && x.resp.Status == 101 {
		f.Upgrade = x.respF.Upgrade
	}
	if !x.reqDone && end || x.tun.p.draining.Load() {
		s.closing = true
	}
	f.Close = s.closing && f.Upgrade == ""
	s.chunked = f.Length == h1.Chunked && !f.NoBody
	s.buf = h1.AppendResponse(s.buf[:0], &x.resp, f)
	if s.chunked {
		s.buf = s.appendChunk(s.buf, body, end)
		body = nil
	}
	s.out.Write2(t, s.buf, body, false)
	s.trim()
}

func (s *h1Server) appendChunk(dst, b []byte, end bool) []byte {
	dst = h1.AppendChunk(dst, b)
	if end {
		dst = h1.AppendLastChunk(dst, nil)
	}
	return dst
}

func (s *h1Server) trim() {
	if cap(s.buf) > 4<<10 {
		s.buf = nil
	}
}

// sendData implements clientSide.
func (s *h1Server) sendData(t *loop.Turn, b []byte, end bool) {
	if s.x.phase == upgraded {
		s.out.Write(t, b, end)
		return
	}
	if s.chunked {
		s.buf = s.appendChunk(s.buf[:0], b, end)
		b = s.buf
	}
	if len(b) > 0 {
		s.out.Write(t, b, false)
	}
	s.trim()
}

// sendTrailers implements clientSide.
func (s *h1Server) sendTrailers(t *loop.Turn, trailers mesh.Fields) {
	if s.chunked {
		s.buf = h1.AppendLastChunk(s.buf[:0], trailers)
		s.out.Write(t, s.buf, false)
	}
}

func (s *h1Server) credit(t *loop.Turn, n int) {
	if s.feeding {
		s.credited += n
	} else if n > 0 {
		s.out.Consumed(t, n)
	}
}

func (s *h1Server) congested() bool { return s.out.Congested() }

// abort implements clientSide: the client must not take what it got for whole.
func (s *h1Server) abort(t *loop.Turn) {
	s.die()
	s.out.Reset(t, h2.InternalError)
	s.x.tun.closed()
}

// finished implements clientSide: the next request, if there is one.
func (s *h1Server) finished(t *loop.Turn, clean bool) {
	if s.state == h1Dead {
		return
	}
	if s.closing || !clean {
		s.endOutput(t)
		return
	}
	s.state = h1Head
	s.arena, s.f = shrink(s.arena), h1.Framing{}
	if !s.feeding && (len(s.in) > 0 || s.clientDone) {
		s.feed(t, nil)
	}
}

// lingerTimeout is how long a client may go on sending after we ended our half.
const lingerTimeout = 2 * time.Second

// endOutput ends our half. What the client still sends is discarded: a client
// that first writes all of its request must come to read why nobody wants it.
// One that does not stop is reset.
func (s *h1Server) endOutput(t *loop.Turn) {
	if s.state == h1Dead {
		return
	}
	n := len(s.in)
	s.die()
	s.out.Write(t, nil, true)
	s.x.tun.closed()
	if s.clientDone {
		return
	}
	if !s.feeding { // else feed knows what is left
		s.credit(t, n)
	}
	s.x.tun.p.timers.start(&s.headTimer, s.x.tun.shard, t.Now, lingerTimeout, func(t *loop.Turn) {
		s.x.mu.Lock()
		defer s.x.mu.Unlock()
		if s.headTimer.expired() {
			s.out.StopReading(t)
		}
	})
}

// drain ends a connection that waits for its next request. One that is busy
// ends with the response at hand, which says so (see sendHead).
func (s *h1Server) drain(t *loop.Turn) {
	s.x.mu.Lock()
	defer s.x.mu.Unlock()
	if s.state == h1Head && len(s.in) == 0 {
		s.endOutput(t)
	}
}
