package waypoint

import (
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// A gRPC server that fails may say so in trailers behind a head that says nothing
// yet. Where a retry policy asks for gRPC statuses, such a head is held until the end of the
// turn that brought it: servers send the trailers along, and they often come in one piece.
// It is held no longer, since a client may wait for it before it goes on.

// mayHold reports whether the head in x.resp is such a one, and another try could follow.
func (x *exchange) mayHold(a *attempt, body []byte, end bool) bool {
	p := &x.rule.policy().retry
	if p.grpc == 0 {
		return false
	}
	_, lasting := a.up.(*h2Call) // its strings stay what they are
	return lasting && !end && len(body) == 0 && !x.noReplay && int(x.retries) < p.attempts && isGRPC(&x.req) &&
		!x.resp.Fields.Has("grpc-status")
}

// hold keeps a's head until the end of the turn, or until more of its response comes.
func (x *exchange) hold(t *loop.Turn, a *attempt) {
	e := x.more()
	if e.held != nil { // another try's; one is enough
		x.passHead(t, a, nil, false)
		return
	}
	e.held = a
	t.Defer(e.onHeld)
}

// heldLongEnough passes on what is held at the end of a turn. It may be of another
// turn or exchange than it was meant for: then it is early, and does no harm.
func (x *exchange) heldLongEnough(t *loop.Turn) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.extra.held != nil {
		x.passHeld(t)
	}
}

// passHeld passes the head on that is held. It reports false when the exchange has turned
// away from the endpoint, or is over.
func (x *exchange) passHeld(t *loop.Turn) bool {
	e := x.extra
	if e == nil || e.held == nil {
		return true
	}
	a := e.held
	e.held = nil
	return x.passHead(t, a, nil, false)
}

// rejectsHeld is rejects for trailers that follow the head that is held.
func (x *exchange) rejectsHeld(t *loop.Turn, trailers mesh.Fields) bool {
	e := x.extra
	if e == nil || e.held == nil {
		return false
	}
	v, ok := trailers.Get("grpc-status")
	if !ok || !x.rule.policy().retry.wantsGRPC(v) {
		return false
	}
	a := e.held
	e.held = nil
	if x.reject(t, a, nil, true) {
		return true
	}
	e.held = a
	return false
}
