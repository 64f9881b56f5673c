package waypoint

import (
	"slices"

	"cairnproxy.dev/cairn/tunnel/loop"
	"cairnproxy.dev/cairn/upstream"
)

// Hedging: when the first try takes long, the request goes to other endpoints, too, and
// the first response that the retry policy does not reject is the client's. The other tries
// are taken back.
//
//	t=0    x.attempt ────────────────────────────► (reset)
//	delay  hedge due ► rivals[0] ──────► head: wins, becomes x.attempt
//	2 delay             (stopped)
//
// Until then tries fail one by one, and the last one decides about a retry. A hedge takes
// its place in the retry budget like a retry, and none goes out without one, nor where all
// endpoints have the request already.

// startHedging starts the time to the first hedge, if the request may have one: doing
// it twice must do no harm, and there is no body to send twice.
func (x *exchange) startHedging(t *loop.Turn) {
	h := x.rule.policy().hedge
	if h == nil || !x.reqDone || x.bytesIn > 0 || x.reqTrailers != nil || x.reqF.Upgrade != "" || !idempotent(x.req.Method) {
		return
	}
	x.alarm(t, &x.more().hedgeDue, h.Delay)
}

// hedgeDue sends a hedge. It does not while there is a pause between tries.
func (x *exchange) hedgeDue(t *loop.Turn) {
	e := x.extra
	if x.respStarted {
		return
	}
	h := x.rule.policy().hedge
	if x.inFlight() && !x.sendHedge(t) {
		return // it would be no other later
	}
	if x.phase != idle && !x.respStarted && e.hedges < h.Max {
		x.alarm(t, &e.hedgeDue, h.Delay)
	}
}

// sendHedge sends the request to one more endpoint. It reports false when there
// is none, or the budget has no place.
func (x *exchange) sendHedge(t *loop.Turn) bool {
	e, cl := x.extra, x.backend.cluster
	if x.hint.Wanted() != nil {
		return false // a session is with one endpoint
	}
	others := x.hint
	at := func(ep *upstream.Endpoint) bool { return x.ep != nil && x.ep.Same(ep) }
	if x.ep != nil {
		others.Exclude(x.ep)
	}
	for _, a := range e.rivals {
		if a.ep != nil {
			others.Exclude(a.ep)
		}
	}
	ep := cl.c.Pick(&others)
	if ep == nil || at(ep) || slices.ContainsFunc(e.rivals, func(a *attempt) bool { return a.ep != nil && a.ep.Same(ep) }) {
		return false
	}
	paid, ok := cl.takeRetry(t.Now)
	if !ok {
		return false
	}
	e.hedges++
	a := &attempt{paid: paid}
	e.rivals = append(e.rivals, a)
	x.launch(t, a, ep)
	return true
}

// inFlight reports whether any try is under way.
func (x *exchange) inFlight() bool { return x.underWay(&x.attempt) || x.others(&x.attempt) }

func (x *exchange) underWay(a *attempt) bool {
	return a.up != nil || a.again || a.taken&heldPlace != 0
}

// others reports whether a try other than a is under way.
func (x *exchange) others(a *attempt) bool {
	if x.extra == nil || len(x.extra.rivals) == 0 {
		return false
	}
	return a != &x.attempt && x.underWay(&x.attempt) ||
		slices.ContainsFunc(x.extra.rivals, func(r *attempt) bool { return r != a && x.underWay(r) })
}

// win makes a the one try of the exchange: its response goes to the client.
func (x *exchange) win(t *loop.Turn, a *attempt) {
	a.due = 0
	e := x.extra
	if e == nil {
		return
	}
	e.hedgeDue = 0
	if len(e.rivals) == 0 {
		return
	}
	up := a.up
	a.up = nil // it is not taken back with the others
	x.abortTries(t)
	if a != &x.attempt {
		x.observe(t, &x.attempt)
		x.leave(&x.attempt)
		x.attempt = attempt{dest: a.dest, ep: a.ep, upStart: a.upStart, upReady: true, idleReuse: a.idleReuse, taken: a.taken, paid: a.paid}
		a.ep, a.taken, a.paid = nil, 0, paidNothing
	}
	x.up, x.reqSent = up, true
	for i, r := range e.rivals {
		x.observe(t, r)
		x.leave(r)
		e.rivals[i] = nil
	}
	e.rivals = e.rivals[:0]
}
