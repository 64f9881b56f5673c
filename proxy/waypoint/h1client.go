package waypoint

import (
	"errors"
	"sync"
	"time"

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
	adm  *admission // what it counts for; nil: nothing, or no more

	// The rest belongs to the exchange that is served and is guarded by its
	// lock; answered is written by the connection's reader, which alone reads
	// it without.
	left     int  // bytes of a response that nobody wants which are still read; 0: none is
	answered bool // CONNECT was answered with 200
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
	requests uint32 // that were served
	buf      []byte

	connectTimer timer
}

// connectTimeout bounds how long an endpoint's node proxy may take over a
// CONNECT, the dial to it included.
const connectTimeout = 10 * time.Second

// connectTimedOut gives up a connection that was asked for and did not come.
func (c *h1Client) connectTimedOut(t *loop.Turn) {
	x, _ := c.served(false)
	if x == nil {
		return
	}
	defer x.mu.Unlock()
	if c.connectTimer.expired() && !c.answered {
		c.abort(t)
		x.upstreamFailed(t, c, errConnectTimeout)
	}
}

var errConnectTimeout = failure{flag: flagConnectFailure, reason: "connection timeout", cause: "no answer to CONNECT in time"}

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

// served returns the exchange that is served, locked. It is nil when the
// connection is idle, or when the exchange has turned away from it. An idle
// connection is marked dead with drop, so that none attaches to it any more.
func (c *h1Client) served(drop bool) (x *exchange, dropped bool) {
	for {
		c.mu.Lock()
		x := c.x
		if x == nil {
			dropped = drop && !c.dead
			c.dead = c.dead || drop
			c.mu.Unlock()
			return nil, dropped
		}
		c.mu.Unlock()
		x.mu.Lock()
		if x.tryOf(c) != nil {
			return x, false
		}
		x.mu.Unlock()
		c.mu.Lock()
		same := c.x == x
		c.mu.Unlock()
		if same { // it gave up; nobody else attaches before it has let go
			return nil, false
		}
	}
}

// Opened implements tunnel.Opener: the connection is there and CONNECT was sent.
func (c *h1Client) Opened(t *loop.Turn, st *h2.Stream, err error) {
	if errors.Is(err, errOtherVersion) {
		c.redirect(t)
		return
	}
	if err != nil {
		c.lost(t, connectFailure(err))
		return
	}
	x, _ := c.served(true)
	if x == nil { // the exchange gave up waiting
		st.Reset(t, h2.Cancel)
		c.gone(t)
		return
	}
	c.out = st
	x.mu.Unlock()
}

// redirect sends the exchange out again: its endpoint speaks HTTP/2.
func (c *h1Client) redirect(t *loop.Turn) {
	x, _ := c.served(true)
	c.markDead()
	c.gone(t)
	if x != nil {
		c.connectTimer.stop()
		x.relaunchLater(t, x.tryOf(c))
		x.mu.Unlock()
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
	x, _ := c.served(true)
	if x == nil {
		c.markDead()
		out.Reset(t, h2.Cancel)
		c.gone(t)
		return
	}
	c.answered = true
	c.connectTimer.stop()
	c.out = out
	x.upstreamReady(t, x.tryOf(c))
	x.mu.Unlock()
}

func (c *h1Client) markDead() (first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first = !c.dead
	c.dead = true
	return first
}

// gone gives back what a connection that has ended counted for. It may be called
// more than once.
func (c *h1Client) gone(t *loop.Turn) {
	c.mu.Lock()
	a := c.adm
	c.adm = nil
	c.mu.Unlock()
	c.d.ended(t, a, lineHTTP1)
}

// lost ends the connection's use and tells the exchange, if one is served. It
// fills in how far that one had come.
func (c *h1Client) lost(t *loop.Turn, f failure) {
	first := c.markDead()
	if !first {
		return
	}
	c.d.forget(c)
	c.gone(t)
	if x, _ := c.served(false); x != nil {
		c.connectTimer.stop()
		f.sent = c.answered
		f.answered = c.gotBytes
		x.upstreamFailed(t, c, f)
		x.mu.Unlock()
	}
}

// Data implements h2.StreamHandler.
func (c *h1Client) Data(t *loop.Turn, _ *h2.Stream, b []byte, end bool) {
	if c.left > 0 {
		c.skip(t, b, end)
		return
	}
	x, dropped := c.served(true)
	if x == nil { // idle: the endpoint closes, or speaks out of turn
		if dropped {
			c.d.forget(c)
			c.out.Reset(t, h2.Cancel)
			c.gone(t)
		}
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
	switch {
	case end && c.raw: // it ends with its answer to the upgrade
		x.tunnelResponse(t, nil, true)
	case end:
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
			if x.tooManyInterim() {
				return c.protocolError(t, x, errInterim)
			}
			x.responseInterim(t, &x.resp)
			continue
		}
		if x.resp.Status == 101 {
			return c.switchProtocols(t, x, b)
		}
		if x.req.Proto == 2 && x.webSocket() && x.resp.Status/100 == 2 {
			return c.protocolError(t, x, errNotSwitched) // to the client it would mean that it has a tunnel
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
			if !x.responseHead(t, c, data, end) {
				switch {
				case c.left == 0:
				case done: // it was discarded, see h1discard.go
					c.skipped(t, len(b) == 0)
				default:
					c.skip(t, b, false)
				}
				return false
			}
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
	if x.req.Proto == 2 && !x.accepted() {
		return c.protocolError(t, x, errAccept)
	}
	c.raw, c.gotHead = true, true
	x.respF = c.f
	x.switched(t)
	if x.up != endpointSide(c) {
		return false
	}
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
	c.fail(t, x, failure{
		flag: flagConnectionTermination, reason: "connection termination",
		cause: "endpoint closed the connection", sent: true, answered: c.gotBytes,
	})
}

func (c *h1Client) protocolError(t *loop.Turn, x *exchange, err error) bool {
	c.fail(t, x, failure{flag: flagProtocolError, reason: "protocol error", cause: err.Error(), sent: true, answered: true, status: 502})
	return false
}

// fail gives the connection up and tells x, which is locked.
func (c *h1Client) fail(t *loop.Turn, x *exchange, f failure) {
	if first := c.markDead(); !first {
		return
	}
	c.out.Reset(t, h2.Cancel)
	c.gone(t)
	x.upstreamFailed(t, c, f)
}

// dropIdle gives up an idle connection.
func (c *h1Client) dropIdle(t *loop.Turn) {
	if first := c.markDead(); first {
		c.d.forget(c)
		c.out.Reset(t, h2.Cancel)
		c.gone(t)
	}
}

// Reset implements h2.StreamHandler.
func (c *h1Client) Reset(t *loop.Turn, _ *h2.Stream, err error) {
	f := failure{flag: flagConnectionTermination, reason: "connection termination", cause: err.Error()}
	if !c.answered {
		f.flag, f.reason = flagConnectFailure, "connection failure"
	}
	c.lost(t, f)
}

// Writable implements h2.StreamHandler.
func (c *h1Client) Writable(t *loop.Turn, _ *h2.Stream) {
	if x, _ := c.served(false); x != nil {
		x.upstreamWritable(t)
		x.mu.Unlock()
	}
}
