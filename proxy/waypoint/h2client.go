package waypoint

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
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
	if err == errOtherVersion {
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
	for _, call := range calls {
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

// lost takes the connection out of use and fails the calls that wait for it.
func (c *h2Client) lost(t *loop.Turn, f failure) {
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
	for _, call := range calls {
		if x := call.served(); x != nil {
			x.upstreamFailed(t, call, f)
			x.mu.Unlock()
		}
	}
}

// h2Call is one exchange on an h2Client.
type h2Call struct {
	x        *exchange
	c        *h2Client
	st       *h2.Stream
	gotHead  bool
	connects bool  // it is an extended CONNECT
	left     int64 // of the declared content; negative: none was declared
	trailers mesh.Fields
}

// served returns the exchange, locked, or nil if it has turned away.
func (k *h2Call) served() *exchange {
	k.x.mu.Lock()
	if k.x.tryOf(k) == nil {
		k.x.mu.Unlock()
		return nil
	}
	return k.x
}

// sendHead implements endpointSide.
func (k *h2Call) sendHead(t *loop.Turn, x *exchange, body []byte, end bool) {
	var buf [32]hpack.HeaderField
	if x.reqF.Expect100 {
		// HTTP/2 endpoints are not asked; the client need not wait.
		x.responseInterim(t, &mesh.Response{Status: 100})
	}
	path := x.req.Path
	if x.req.HasQuery {
		path += "?" + x.req.Query
	}
	f := requestToH2(buf[:0], &x.req, &x.reqF, path, x.requestLent())
	if k.connects {
		if _, ok := k.c.inner.conn.PeerConnect(); !ok {
			x.useHTTP1 = true
			x.relaunchLater(t, x.tryOf(k))
			return
		}
		f, end = connectToH2(f), false
	}
	k.st = k.c.inner.conn.Open(t, k, f, end && len(body) == 0)
	if k.st == nil {
		// Others were quicker, or the endpoint has just said that it goes away.
		x.relaunchLater(t, x.tryOf(k))
		return
	}
	if len(body) > 0 {
		k.st.Write(t, body, end)
	}
	if k.c.used() {
		k.c.d.forgetH2(k.c)
		k.c.drain(t)
	}
}

func (k *h2Call) sendData(t *loop.Turn, b []byte, end bool) {
	if k.st != nil {
		k.st.Write(t, b, end)
	}
}

func (k *h2Call) sendTrailers(t *loop.Turn, trailers mesh.Fields) {
	if k.st != nil {
		var buf [8]hpack.HeaderField
		l := k.x.requestLent()
		if l.all {
			trailers = cloneFields(trailers) // they may have to wait for the window
		}
		k.st.WriteTrailers(t, appendFields(buf[:0], trailers, l))
	}
}

func (k *h2Call) credit(t *loop.Turn, n int) {
	if k.st != nil && n > 0 {
		k.st.Consumed(t, n)
	}
}

func (k *h2Call) congested() bool { return k.st != nil && k.st.Congested() }

// release implements endpointSide. An endpoint that has answered without taking
// all of the request never will.
func (k *h2Call) release(t *loop.Turn) {
	if local, _ := k.st.Ended(); !local {
		k.st.Reset(t, h2.Cancel)
	}
	k.c.d.wake(t, lineHTTP2)
}

func (k *h2Call) abort(t *loop.Turn) {
	if k.st != nil {
		k.st.Reset(t, h2.Cancel)
		k.c.d.wake(t, lineHTTP2)
	}
}

// Headers implements h2.StreamHandler.
func (k *h2Call) Headers(t *loop.Turn, st *h2.Stream, h *h2.Head) {
	x := k.served()
	if x == nil {
		return
	}
	defer x.mu.Unlock()
	if x.phase == upgraded {
		x.tunnelResponse(t, nil, true)
		return
	}
	if h.Trailer {
		tr, err := trailersFromH2(h, k.trailers[:0])
		if err != nil || k.left > 0 || h.TooLarge {
			k.fail(t, x, errMalformed)
			return
		}
		if k.trailers = tr; len(tr) == 0 {
			x.responseData(t, nil, true)
			return
		}
		x.responseTrailers(t, tr)
		return
	}
	if h.TooLarge {
		k.fail(t, x, errors.New("response header section too large"))
		return
	}
	if err := responseFromH2(h, x.req.Method, &x.resp, &x.respF); err != nil {
		k.fail(t, x, err)
		return
	}
	if x.resp.Status < 200 {
		if h.End {
			k.fail(t, x, errMalformed)
			return
		}
		if x.tooManyInterim() {
			k.fail(t, x, errInterim)
			return
		}
		x.responseInterim(t, &x.resp)
		return
	}
	k.gotHead = true
	if k.connects && x.resp.Status/100 == 2 {
		if x.switched(t) && h.End {
			x.tunnelResponse(t, nil, true)
		}
		return
	}
	k.left = x.respF.Length
	if x.respF.NoBody {
		k.left = 0
	}
	x.responseHead(t, k, nil, h.End)
}

// Data implements h2.StreamHandler.
func (k *h2Call) Data(t *loop.Turn, _ *h2.Stream, b []byte, end bool) {
	x := k.served()
	if x == nil {
		return
	}
	defer x.mu.Unlock()
	if x.phase == upgraded {
		x.tunnelResponse(t, b, end)
		return
	}
	if k.left >= 0 {
		k.left -= int64(len(b))
		if k.left < 0 || end && k.left > 0 {
			k.fail(t, x, errMalformed)
			return
		}
	}
	if len(b) > 0 || end {
		x.responseData(t, b, end)
	}
}

func (k *h2Call) fail(t *loop.Turn, x *exchange, err error) {
	k.st.Reset(t, h2.ProtocolError)
	k.c.d.wake(t, lineHTTP2)
	x.upstreamFailed(t, k, failure{flag: flagProtocolError, reason: "protocol error", cause: err.Error(), sent: true, answered: true, status: 502})
}

// Reset implements h2.StreamHandler.
func (k *h2Call) Reset(t *loop.Turn, _ *h2.Stream, err error) {
	x := k.served()
	if x == nil {
		return
	}
	defer x.mu.Unlock()
	f := failure{flag: flagRemoteReset, reason: "remote reset", cause: err.Error(), sent: true, answered: k.gotHead}
	var se *h2.StreamError
	switch {
	case errors.Is(err, h2.ErrHTTP1): // it has not understood a word
		f.flag, f.reason, f.status = flagProtocolError, "protocol error", 502
		f.text = "upstream speaks HTTP/1.1 only, and the request needs HTTP/2"
	case !errors.As(err, &se):
		f.flag, f.reason = flagConnectionTermination, "connection termination"
	case !se.Remote: // it broke the rules
		f.flag, f.reason, f.status = flagProtocolError, "protocol error", 502
	case se.Code == h2.RefusedStream: // RFC 9113 section 8.7: it was not processed
		f.sent, f.refused = false, true
	}
	k.c.d.wake(t, lineHTTP2)
	x.upstreamFailed(t, k, f)
}

// Writable implements h2.StreamHandler.
func (k *h2Call) Writable(t *loop.Turn, _ *h2.Stream) {
	if x := k.served(); x != nil {
		x.upstreamWritable(t)
		x.mu.Unlock()
	}
}
