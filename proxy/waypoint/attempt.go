package waypoint

import (
	"time"

	"cairnproxy.dev/cairn/tunnel/loop"
	"cairnproxy.dev/cairn/upstream"
)

// attempt is one try of a request at one endpoint. An exchange has one of its own, which
// serves one try after another; hedges (hedge.go) are beside it.
type attempt struct {
	up        endpointSide // nil: none yet, or no more
	dest      *destination
	ep        *upstream.Endpoint // acquired; nil: none
	upStart   time.Time          // when the endpoint got the request
	due       time.Duration      // when it must have begun to answer, since the exchange's start: see clock.go
	upReady   bool               // the endpoint takes bytes
	idleReuse bool               // it went out on a connection that had been idle
	again     bool               // its connection had no room after all: another is looked for when the turn ends
	taken     taken              // of the circuit breaker's bounds
	paid      payment            // what it holds of the cluster's budget
}

// tryOf returns the attempt that up serves, nil when the exchange has turned away from it.
func (x *exchange) tryOf(up endpointSide) *attempt {
	if x.up == up {
		return &x.attempt
	}
	if x.extra != nil {
		for _, a := range x.extra.rivals {
			if a.up == up {
				return a
			}
		}
	}
	return nil
}

// connect begins a try: it picks an endpoint and asks for a connection to it.
func (x *exchange) connect(t *loop.Turn) {
	if x.rule.mirrors != nil {
		x.startMirrors(t)
	}
	cl := x.backend.cluster
	if cl.adm != nil && !x.admit(t, cl.adm) {
		return
	}
	ep := x.pick(t, cl)
	if ep == nil {
		x.noEndpoint(t, &x.attempt)
		return
	}
	if x.paid == paidNothing {
		x.paid = cl.beginRequest(t.Now)
	}
	x.launch(t, &x.attempt, ep)
}

// noEndpoint ends a try that has nowhere to go.
func (x *exchange) noEndpoint(t *loop.Turn, a *attempt) {
	x.leave(a)
	if x.others(a) {
		return
	}
	x.flag, x.details = flagNoHealthy, "no_healthy_upstream"
	x.reply(t, 503, "no healthy upstream")
}

// launch sends a try on its way to an endpoint.
func (x *exchange) launch(t *loop.Turn, a *attempt, ep *upstream.Endpoint) {
	cl := x.backend.cluster
	ep.Acquire()
	a.ep = ep
	a.dest = x.tun.p.dest(cl, ep)
	x.call(t, a)
}

// call asks the destination of a try for a connection.
func (x *exchange) call(t *loop.Turn, a *attempt) {
	if x.useHTTP2(x.backend.cluster.speaks(x), a.dest) {
		a.dest.callHTTP2(t, x, a)
	} else {
		a.dest.callHTTP1(t, x, a)
	}
}

// relaunch looks for another connection after one that looked free was not.
// Nothing was tried yet, so it does not count.
func (x *exchange) relaunch(t *loop.Turn, a *attempt) {
	x.leaveEndpoint(a)
	if ep := x.pick(t, x.backend.cluster); ep != nil {
		x.launch(t, a, ep)
	} else {
		x.noEndpoint(t, a)
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

// leave gives back what a try has taken, once. Its connection has been let go before.
func (x *exchange) leave(a *attempt) {
	x.leaveEndpoint(a)
	if a.paid != paidNothing {
		x.backend.cluster.giveBack(a.paid)
		a.paid = paidNothing
	}
}

func (x *exchange) leaveEndpoint(a *attempt) {
	a.due = 0
	a.again = false
	if a.ep != nil {
		a.ep.Release()
		a.ep = nil
	}
	if a.taken != 0 {
		x.leaveBreaker(a)
	}
}

// abortTries takes the request back from all endpoints that have it.
func (x *exchange) abortTries(t *loop.Turn) {
	abort := func(a *attempt) {
		if up := a.up; up != nil {
			a.up = nil
			up.abort(t)
		}
	}
	abort(&x.attempt)
	if x.extra != nil {
		for _, a := range x.extra.rivals {
			abort(a)
		}
	}
}

// endTries gives back what the exchange has taken for its tries, and stops its
// clocks, when it ends.
func (x *exchange) endTries() {
	x.due, x.armed = 0, 0
	if e := x.extra; e != nil {
		stopAll(&x.clock, &e.pause)
		x.leave(&x.attempt)
		e.end(x)
		return
	}
	x.clock.stop()
	x.leave(&x.attempt)
}
