package waypoint

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/tunnel"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// h2Client speaks HTTP/2 to an endpoint inside a CONNECT stream; it serves
// many exchanges at once, each an h2Call.
type h2Client struct {
	d     *destination
	inner innerConn

	mu        sync.Mutex
	st        pipe      // the CONNECT stream, once there is one
	waiting   []*h2Call // until CONNECT is answered, or for settings
	ready     bool
	settled   bool // and the endpoint's settings have come
	draining  bool
	dead      bool
	idleSince time.Time  // zero: has streams
	timer     timer      // of CONNECT's answer and of the first settings
	adm       *admission // what it counts for; nil: nothing, or no more

	requests atomic.Uint32 // that were sent

	// Reader only.
	answered bool
}

// h2ClientStreams is how many calls share one connection to an endpoint.
const h2ClientStreams = 100

func newH2Client(d *destination) *h2Client {
	c := &h2Client{d: d}
	c.inner.q.Init(&c.inner)
	return c
}

// submission is what became of a call given to submit.
type submission uint8

const (
	submitFull  submission = iota // take another connection
	submitNow                     // it can be sent
	submitLater                   // it is sent when the connection is ready
)

// submit gives the connection a call, if it takes one more.
func (c *h2Client) submit(call *h2Call) submission {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.dead || c.draining:
	case !c.ready && len(c.waiting) < h2ClientStreams:
		c.waiting = append(c.waiting, call)
		return submitLater
	case c.ready && !c.settled && call.connects: // it depends on settings
		if len(c.waiting) < h2ClientStreams {
			c.waiting = append(c.waiting, call)
			return submitLater
		}
	case c.ready:
		if ok, _ := c.inner.conn.CanOpen(h2ClientStreams); ok {
			return submitNow
		}
	}
	return submitFull
}

// hasRoom reports whether submit would take a call.
func (c *h2Client) hasRoom() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead || c.draining {
		return false
	}
	if !c.ready {
		return len(c.waiting) < h2ClientStreams
	}
	ok, _ := c.inner.conn.CanOpen(h2ClientStreams)
	return ok
}

// drain ends the connection after its calls, those that wait for it included.
func (c *h2Client) drain(t *loop.Turn) {
	c.mu.Lock()
	c.draining = true
	ready := c.ready && !c.dead
	c.mu.Unlock()
	if ready {
		c.inner.conn.Drain(t)
	}
}

// idle reports whether the connection has had no calls since before. It is
// called about once a second.
func (c *h2Client) idle(t *loop.Turn, before time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.ready || c.dead:
		return false
	case c.inner.conn.Streams() > 0:
		c.idleSince = time.Time{}
	case c.idleSince.IsZero():
		c.idleSince = t.Now
	default:
		return c.idleSince.Before(before)
	}
	return false
}

// tick keeps the inner connection's time: see h2.Conn.Tick.
func (c *h2Client) tick(t *loop.Turn) {
	c.mu.Lock()
	conn := c.inner.conn
	c.mu.Unlock()
	if conn != nil {
		conn.Tick(t)
	}
}

// opened notes the CONNECT stream. It is too late when nobody waits any more.
func (c *h2Client) opened(t *loop.Turn, st pipe) {
	c.mu.Lock()
	c.st = st
	dead := c.dead
	c.mu.Unlock()
	if dead {
		st.Reset(t, h2.Cancel)
	}
}

// Opened implements tunnel.Opener.
func (c *h2Client) Opened(t *loop.Turn, st *h2.Stream, err error) {
	if errors.Is(err, errOtherVersion) {
		c.redirect(t)
		return
	}
	if err != nil {
		c.lost(t, connectFailure(err))
		return
	}
	c.opened(t, st)
}

// redirect sends the calls that wait out again: the endpoint speaks HTTP/1.1.
func (c *h2Client) redirect(t *loop.Turn) {
	for _, call := range c.takeOut(t) {
		if x := call.served(); x != nil {
			x.relaunchLater(t, x.tryOf(call))
			x.mu.Unlock()
		}
	}
}

// connectTimedOut gives the connection up when CONNECT was not answered, or when
// the endpoint has not begun to speak HTTP/2: before its settings there are no answers.
func (c *h2Client) connectTimedOut(t *loop.Turn) {
	c.mu.Lock()
	late := c.timer.expired() && !c.settled && !c.dead
	c.dead = c.dead || late
	st, ready := c.st, c.ready
	c.mu.Unlock()
	if !late {
		return
	}
	if ready {
		c.inner.Abort()
		return
	}
	if st != nil {
		st.Reset(t, h2.Cancel)
	}
	c.lost(t, errConnectTimeout)
}

// Headers implements h2.StreamHandler for the CONNECT stream: its answer.
func (c *h2Client) Headers(t *loop.Turn, st *h2.Stream, h *h2.Head) {
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
	c.established(t, st)
	if h.End {
		c.Data(t, st, nil, true)
	}
}

// established starts the HTTP/2 connection and the calls that waited for it.
func (c *h2Client) established(t *loop.Turn, out pipe) {
	c.answered = true
	c.mu.Lock()
	if c.dead { // nobody waited so long
		c.timer.stop()
		c.mu.Unlock()
		out.Reset(t, h2.Cancel)
		return
	}
	c.inner.out = out
	c.inner.conn = h2.New(t, &c.inner, c, h2.Options{Client: true, OnSettings: c.settle, Budget: c.d.p.o.Budget, Keepalive: innerKeepalive, Timeout: innerTimeout})
	c.ready = true
	calls, draining := c.waiting, c.draining
	c.waiting = nil
	calls = slices.DeleteFunc(calls, func(call *h2Call) bool {
		if call.connects {
			c.waiting = append(c.waiting, call)
		}
		return call.connects
	})
	c.mu.Unlock()
	if draining {
		defer c.inner.conn.Drain(t)
	}
	c.start(t, calls)
}

// start sends calls that waited.
func (c *h2Client) start(t *loop.Turn, calls []*h2Call) {
	for _, call := range calls {
		if x := call.served(); x != nil {
			call.c = c
			x.upstreamReady(t, x.tryOf(call))
			x.mu.Unlock()
		}
	}
}

// settle is told that the endpoint's settings have come.
func (c *h2Client) settle(t *loop.Turn) {
	c.mu.Lock()
	if c.settled || !c.ready {
		c.mu.Unlock()
		return
	}
	c.settled = true
	c.timer.stop()
	calls := c.waiting
	c.waiting = nil
	c.mu.Unlock()
	c.start(t, calls)
}

// Data implements h2.StreamHandler for the CONNECT stream.
func (c *h2Client) Data(t *loop.Turn, _ *h2.Stream, b []byte, end bool) {
	if c.inner.conn != nil {
		c.inner.feed(t, b, end)
	}
}

// Reset implements h2.StreamHandler for the CONNECT stream.
func (c *h2Client) Reset(t *loop.Turn, _ *h2.Stream, err error) {
	if c.inner.conn != nil {
		c.inner.close(t, err)
		return
	}
	c.lost(t, failure{flag: flagConnectFailure, reason: "connection failure", cause: err.Error()})
}

// Writable implements h2.StreamHandler for the CONNECT stream.
func (c *h2Client) Writable(t *loop.Turn, _ *h2.Stream) { c.inner.writable(t) }

// Open implements h2.Handler; the endpoint may not open streams.
func (c *h2Client) Open(t *loop.Turn, s *h2.Stream, _ *h2.Head) { s.Reset(t, h2.ProtocolError) }

// Closed implements h2.Handler.
func (c *h2Client) Closed(t *loop.Turn, err error) {
	c.inner.out.StopReading(t)
	c.lost(t, failure{flag: flagConnectionTermination, reason: "connection termination", cause: err.Error()})
}

// takeOut takes the connection out of use, and returns the calls that wait for it.
func (c *h2Client) takeOut(t *loop.Turn) []*h2Call {
	c.mu.Lock()
	c.dead = true
	c.timer.stop()
	calls := c.waiting
	c.waiting = nil
	a := c.adm
	c.adm = nil
	c.mu.Unlock()
	c.d.forgetH2(c)
	c.d.ended(t, a, lineHTTP2)
	return calls
}

// lost takes the connection out of use and fails the calls that wait for it.
func (c *h2Client) lost(t *loop.Turn, f failure) {
	for _, call := range c.takeOut(t) {
		if x := call.served(); x != nil {
			x.upstreamFailed(t, call, f)
			x.mu.Unlock()
		}
	}
}
