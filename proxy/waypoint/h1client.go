package waypoint

import (
	"errors"
	"sync"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel"
	"cairnproxy.dev/cairn/tunnel/h1"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// h1Client speaks HTTP/1.1 to an endpoint inside a CONNECT stream, or on a
// plain connection. It serves one exchange at a time and waits among its
// destination's idle ones in between.
type h1Client struct {
	d   *destination
	out pipe

	// mu guards who is served. It comes after the exchange's lock.
	mu   sync.Mutex
	x    *exchange // nil: idle
	dead bool

	// The rest belongs to the exchange that is served and is guarded by its
	// lock, or, before the answer to CONNECT, to the connection's reader.
	answered bool // CONNECT was answered with 200
	used     bool // has served an exchange before
	raw      bool // after 101, or a TCP service's bytes
	gotHead  bool
	in       []byte
	scanned  int
	arena    []byte
	body     h1.Body
	f        h1.Framing
	chunked  bool
	gotBytes bool
	closing  bool
	buf      []byte
}

// attach gives an idle connection to x. It fails if the connection has ended.
func (c *h1Client) attach(x *exchange) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return false
	}
	c.x = x
	return true
}

// served returns the exchange that is served, locked, or nil.
func (c *h1Client) served() *exchange {
	c.mu.Lock()
	x := c.x
	c.mu.Unlock()
	if x == nil {
		return nil
	}
	x.mu.Lock()
	if x.up != endpointSide(c) {
		x.mu.Unlock()
		return nil
	}
	return x
}

// Opened implements tunnel.Opener: the connection is there and CONNECT was sent.
func (c *h1Client) Opened(t *loop.Turn, st *h2.Stream, err error) {
	if err != nil {
		c.lost(t, connectFailure(err))
		return
	}
	c.mu.Lock()
	gone := c.x == nil
	c.dead = c.dead || gone
	c.mu.Unlock()
	if gone { // the exchange gave up waiting
		st.Reset(t, h2.Cancel)
		return
	}
	if x := c.served(); x != nil {
		if c.out == nil {
			c.out = st
		}
		x.mu.Unlock()
	} else {
		st.Reset(t, h2.Cancel)
	}
}

// Headers implements h2.StreamHandler: the answer to CONNECT.
func (c *h1Client) Headers(t *loop.Turn, st *h2.Stream, h *h2.Head) {
	if c.answered {
		if h.End {
			c.Data(t, st, nil, true)
		}
		return
	}
	status := tunnel.Status(h)
	if status/100 == 1 {
		return
	}
	if status != 200 {
		st.Reset(t, h2.NoError)
		c.lost(t, connectFailure(&tunnel.StatusError{Code: status}))
		return
	}
	c.ready(t, st)
	if h.End {
		c.Data(t, st, nil, true)
	}
}

// ready tells the exchange that bytes can be sent.
func (c *h1Client) ready(t *loop.Turn, out pipe) {
	x := c.served()
	if x == nil {
		c.markDead()
		out.Reset(t, h2.Cancel)
		return
	}
	c.answered = true
	c.out = out
	x.upstreamReady(t)
	x.mu.Unlock()
}

func (c *h1Client) markDead() (x *exchange, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first = !c.dead
	c.dead = true
	return c.x, first
}

// lost ends the connection's use and tells the exchange, if one is served.
func (c *h1Client) lost(t *loop.Turn, f failure) {
	_, first := c.markDead()
	if !first {
		return
	}
	c.d.forget(c)
	if x := c.served(); x != nil {
		x.upstreamFailed(t, f)
		x.mu.Unlock()
	}
}

// Data implements h2.StreamHandler.
func (c *h1Client) Data(t *loop.Turn, _ *h2.Stream, b []byte, end bool) {
	x := c.served()
	if x == nil { // idle: the endpoint closes, or speaks out of turn
		c.dropIdle(t)
		return
	}
	defer x.mu.Unlock()
	if c.raw {
		x.tunnelResponse(t, b, end)
		return
	}
	c.gotBytes = c.gotBytes || len(b) > 0
	c.closing = c.closing || end
	if len(c.in) > 0 {
		c.in = append(c.in, b...)
		b = c.in
	}
	if !c.parse(t, x, b) {
		return
	}
	if end {
		c.ended(t, x)
	}
}

// parse consumes response bytes. It returns false when the exchange is over or
// waits for nothing more from here.
func (c *h1Client) parse(t *loop.Turn, x *exchange, b []byte) bool {
	for !c.gotHead {
		n := h1.FindHeadEnd(b, c.scanned)
		if n < 0 {
			if err := h1.HeadTooLarge(b, nil); err != nil {
				return c.protocolError(t, x, err)
			}
			c.scanned = len(b)
			if !sameMemory(c.in, b) {
				c.in = append(c.in[:0], b...)
			}
			return true
		}
		c.scanned = 0
		c.arena = append(c.arena[:0], b[:n]...)
		c.credit(t, n)
		b = b[n:]
		if err := h1.ParseResponse(c.arena, nil, x.req.Method, &x.resp, &c.f); err != nil {
			return c.protocolError(t, x, err)
		}
		if x.resp.Status/100 == 1 && x.resp.Status != 101 {
			x.responseInterim(t, &x.resp)
			continue
		}
		if x.resp.Status == 101 {
			return c.switchProtocols(t, x, b)
		}
		c.gotHead = true
		c.closing = c.closing || c.f.Close || c.f.Length == h1.UntilClose
		x.respF = c.f
		c.body.Reset(c.f, nil)
		if c.f.NoBody {
			c.body.Reset(h1.Framing{}, nil)
		}
		return c.content(t, x, b, true)
	}
	return c.content(t, x, b, false)
}

// content passes body bytes on; first is true with the head.
func (c *h1Client) content(t *loop.Turn, x *exchange, b []byte, first bool) bool {
	for {
		data, n, done, err := c.body.Next(b)
		if err != nil {
			return c.protocolError(t, x, err)
		}
		c.credit(t, n-len(data))
		b = b[n:]
		trailers := c.body.Trailers()
		end := done && len(trailers) == 0
		if done && len(b) > 0 {
			c.closing = true // bytes beyond the response: never reuse
		}
		switch {
		case first:
			c.in = c.in[:0]
			x.responseHead(t, data, end)
			first = false
		case len(data) > 0 || end:
			x.responseData(t, data, end)
		}
		if done {
			if !end {
				x.responseTrailers(t, trailers)
			}
			return false
		}
		if x.up != endpointSide(c) {
			return false
		}
		if len(b) == 0 {
			c.in = c.in[:0]
			return true
		}
	}
}

// switchProtocols goes over to raw bytes.
func (c *h1Client) switchProtocols(t *loop.Turn, x *exchange, b []byte) bool {
	if x.reqF.Upgrade == "" || c.f.Upgrade != x.reqF.Upgrade {
		return c.protocolError(t, x, errUpgrade)
	}
	c.raw, c.gotHead = true, true
	x.respF = c.f
	x.switched(t)
	if len(b) > 0 {
		x.tunnelResponse(t, b, false)
	}
	c.in = nil
	return true
}

var errUpgrade = errors.New("endpoint switched protocols unasked")

// ended handles the endpoint's end of stream within an exchange.
func (c *h1Client) ended(t *loop.Turn, x *exchange) {
	if c.gotHead && c.body.End() == nil && c.f.Length == h1.UntilClose {
		c.closing = true
		x.responseData(t, nil, true)
		return
	}
	c.fail(t, x, failure{flag: flagConnectionTermination, reason: "connection termination",
		cause: "endpoint closed the connection", sent: true, answered: c.gotBytes})
}

func (c *h1Client) protocolError(t *loop.Turn, x *exchange, err error) bool {
	c.fail(t, x, failure{flag: flagProtocolError, reason: "protocol error", cause: err.Error(), sent: true, answered: true, status: 502})
	return false
}

// fail gives the connection up and tells x, which is locked.
func (c *h1Client) fail(t *loop.Turn, x *exchange, f failure) {
	if _, first := c.markDead(); !first {
		return
	}
	c.out.Reset(t, h2.Cancel)
	x.upstreamFailed(t, f)
}

// dropIdle gives up an idle connection.
func (c *h1Client) dropIdle(t *loop.Turn) {
	if _, first := c.markDead(); first {
		c.d.forget(c)
		c.out.Reset(t, h2.Cancel)
	}
}

// Reset implements h2.StreamHandler.
func (c *h1Client) Reset(t *loop.Turn, _ *h2.Stream, err error) {
	f := failure{flag: flagConnectionTermination, reason: "connection termination", cause: err.Error(), sent: c.answered, answered: c.gotBytes}
	if !c.answered {
		f.flag, f.reason = flagConnectFailure, "connection failure"
	}
	c.lost(t, f)
}

// Writable implements h2.StreamHandler.
func (c *h1Client) Writable(t *loop.Turn, _ *h2.Stream) {
	if x := c.served(); x != nil {
		x.upstreamWritable(t)
		x.mu.Unlock()
	}
}

// sendHead implements endpointSide.
func (c *h1Client) sendHead(t *loop.Turn, x *exchange, body []byte, end bool) {
	c.gotHead, c.gotBytes, c.closing, c.scanned = false, false, false, 0
	f := x.reqF
	f.Close, f.Expect100 = false, x.reqF.Expect100 && !end
	if f.Length == h1.Chunked && end && len(body) == 0 {
		f.Length = 0
	}
	c.chunked = f.Length == h1.Chunked
	c.buf = h1.AppendRequest(c.buf[:0], &x.req, f)
	if c.chunked {
		c.buf = h1.AppendChunk(c.buf, body)
		if end {
			c.buf = h1.AppendLastChunk(c.buf, nil)
		}
		body = nil
	}
	c.out.Write2(t, c.buf, body, false)
	c.trim()
}

// sendData implements endpointSide.
func (c *h1Client) sendData(t *loop.Turn, b []byte, end bool) {
	if c.raw {
		c.out.Write(t, b, end)
		return
	}
	if c.chunked {
		c.buf = h1.AppendChunk(c.buf[:0], b)
		if end {
			c.buf = h1.AppendLastChunk(c.buf, nil)
		}
		b = c.buf
	}
	if len(b) > 0 {
		c.out.Write(t, b, false)
	}
	c.trim()
}

func (c *h1Client) trim() {
	if cap(c.buf) > 4<<10 {
		c.buf = nil
	}
}

// sendTrailers implements endpointSide.
func (c *h1Client) sendTrailers(t *loop.Turn, trailers mesh.Fields) {
	if c.chunked {
		c.buf = h1.AppendLastChunk(c.buf[:0], trailers)
		c.out.Write(t, c.buf, false)
	}
}

func (c *h1Client) credit(t *loop.Turn, n int) {
	if n > 0 {
		c.out.Consumed(t, n)
	}
}

func (c *h1Client) congested() bool { return c.out != nil && c.out.Congested() }

// release implements endpointSide: the connection waits for the next exchange.
func (c *h1Client) release(t *loop.Turn) {
	c.mu.Lock()
	c.x = nil
	reuse := !c.dead && !c.closing && !c.raw
	if !reuse {
		c.dead = true
	}
	c.mu.Unlock()
	if !reuse {
		c.out.Reset(t, h2.NoError)
		return
	}
	c.used = true
	c.in = c.in[:0]
	if cap(c.arena) > 4<<10 {
		c.arena = nil
	}
	c.d.park(t, c)
}

// abort implements endpointSide.
func (c *h1Client) abort(t *loop.Turn) {
	c.mu.Lock()
	c.x = nil
	dead := c.dead
	c.dead = true
	c.mu.Unlock()
	if !dead && c.out != nil {
		c.out.Reset(t, h2.Cancel)
	}
}
