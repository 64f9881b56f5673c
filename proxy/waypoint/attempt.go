package waypoint

import (
	"time"

	"cairnproxy.dev/cairn/tunnel/loop"
	"cairnproxy.dev/cairn/upstream"
)

// attempt is one try of a request at one endpoint. An exchange has one of its own, which
// serves one try after another; only hedges (hedge.go) are others beside it.
type attempt struct {
	up          endpointSide // nil: none yet, or no more
	dest        *destination
	ep          *upstream.Endpoint // acquired; nil: none
	upStart     time.Time          // when the endpoint got the request
	tryDeadline timer
	upReady     bool // the endpoint takes bytes
	idleReuse   bool // it went out on a connection that had been idle
	again       bool // its connection had no room after all: another is looked for when the turn ends
}

// tryOf returns the attempt that up serves, nil when the exchange has turned away from it.
func (x *exchange) tryOf(up endpointSide) *attempt {
	if x.up == up {
		return &x.attempt
	}
	return nil
}

// connect begins a try: it picks an endpoint and asks for a connection to it.
func (x *exchange) connect(t *loop.Turn) {
	if x.rule.mirrors != nil {
		x.startMirrors(t)
	}
	x.attempts++
	if !x.launch(t, &x.attempt) {
		x.flag, x.details = flagNoHealthy, "no_healthy_upstream"
		x.reply(t, 503, "no healthy upstream")
	}
}

// launch sends a try on its way. It reports false when there is no endpoint to be had.
func (x *exchange) launch(t *loop.Turn, a *attempt) bool {
	cl := x.backend.cluster
	ep := cl.c.Pick(&x.hint)
	if ep == nil {
		return false
	}
	ep.Acquire()
	a.ep = ep
	a.dest = x.tun.p.dest(cl, ep)
	if x.useHTTP2(cl.protocol, a.dest) {
		a.dest.callHTTP2(t, x, a)
	} else {
		a.dest.callHTTP1(t, x, a)
	}
	return true
}

// relaunch looks for another connection after one that looked free was not.
// Nothing was tried yet, so it does not count.
func (x *exchange) relaunch(t *loop.Turn, a *attempt) {
	x.leave(a)
	a.upReady = false
	x.phase = connecting
	if !x.launch(t, a) {
		x.flag, x.details = flagNoHealthy, "no_healthy_upstream"
		x.reply(t, 503, "no healthy upstream")
	}
}

// relaunchLater is relaunch at the end of the turn, for codecs: the exchange may
// not change under its caller.
func (x *exchange) relaunchLater(t *loop.Turn, a *attempt) {
	a.up, a.again = nil, true
	seq := x.seq
	t.Defer(func(t *loop.Turn) {
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.seq == seq && a.again {
			a.again = false
			x.relaunch(t, a)
		}
	})
}

// leave gives back what launch took, once. The connection has been let go before.
func (x *exchange) leave(a *attempt) {
	a.tryDeadline.stop()
	a.again = false
	if a.ep != nil {
		a.ep.Release()
		a.ep = nil
	}
}

// abortTries takes the request back from all endpoints that have it.
func (x *exchange) abortTries(t *loop.Turn) {
	if up := x.up; up != nil {
		x.up = nil
		up.abort(t)
	}
}

// endTries gives back what the exchange has taken for its tries, when it ends.
func (x *exchange) endTries() {
	x.deadline.stop()
	x.leave(&x.attempt)
}
