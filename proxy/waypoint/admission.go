package waypoint

import (
	"strconv"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/loop"
	"cairnproxy.dev/cairn/upstream"
)

// admission is what bounds and watches the tries of a cluster. The counts and
// what is known of endpoints are in state, and survive this policy.
type admission struct {
	cl          *cluster
	state       *upstream.ClusterState
	limits      mesh.CircuitBreaker
	outlier     *upstream.Outlier     // nil: nothing is ejected
	concurrency *upstream.Concurrency // nil: the limit does not adapt
	health      *checks               // nil: nobody is asked
	watched     watched
}

// newAdmission makes it for a cluster's policy; nil when that asks for nothing.
func newAdmission(w *watch, cl *cluster) *admission {
	state := cl.c.State()
	if state == nil {
		return nil
	}
	a := &admission{cl: cl, state: state, watched: watched{w: w}}
	if b := cl.policy.Breaker; b != nil {
		a.limits = *b
	}
	if o := cl.policy.Outlier; o != nil {
		a.outlier = upstream.NewOutlier(cl.c, o)
	}
	if c := cl.policy.Concurrency; c != nil {
		a.concurrency = upstream.NewConcurrency(state, c, time.Now())
	}
	if h := cl.policy.Health; h != nil {
		a.health = newChecks(cl, h)
	}
	return a
}

// taken is what a try has taken of the circuit breaker's bounds.
type taken uint8

const (
	heldPending taken = 1 << iota // it waits for a connection
	heldPlace                     // and that for one in use
	heldTight                     // had to: it takes what is idle
	heldRequest                   // it is with an endpoint
)

// adm is what bounds and watches the exchange's cluster; nil: nothing does.
func (x *exchange) adm() *admission {
	if b := x.backend; b != nil && b.cluster != nil {
		return b.cluster.adm
	}
	return nil
}

// admit is asked before an endpoint is chosen. It reports false when the request
// was answered, because too many are under way.
func (x *exchange) admit(t *loop.Turn, adm *admission) bool {
	if adm.concurrency == nil || x.slotted {
		return true
	}
	if !adm.concurrency.Acquire() {
		x.details = "reached_concurrency_limit"
		x.reply(t, 503, "reached concurrency limit")
		return false
	}
	x.slotted, x.slotAt = true, uint32(t.Now.Sub(x.start)/time.Microsecond)
	return true
}

// awaits counts a try among those that wait for a connection. It reports false
// when it was given up, because too many do.
func (x *exchange) awaits(t *loop.Turn, a *attempt) bool {
	adm := x.adm()
	if adm == nil || a.taken&heldPending != 0 {
		return true
	}
	if !adm.state.Pending.Acquire(adm.limits.MaxPending) {
		adm.state.Overflows.Pending.Add(1)
		x.overflow(t, a)
		return false
	}
	a.taken |= heldPending
	return true
}

// admitted counts a try among those that are with an endpoint, now that there
// is a connection. It reports false when it was given up, because too many are.
func (x *exchange) admitted(t *loop.Turn, a *attempt) bool {
	adm := x.adm()
	if a.taken&heldPending != 0 {
		adm.state.Pending.Release()
	}
	a.taken &^= heldPending | heldTight
	if adm.state.Requests.Acquire(adm.limits.MaxRequests) {
		a.taken |= heldRequest
		return true
	}
	adm.state.Overflows.Requests.Add(1)
	up := a.up
	a.up = nil
	if c, ok := up.(*h1Client); ok {
		c.release(t) // nothing was sent on it
	}
	x.overflow(t, a)
	return false
}

// overflow gives up a try for which the circuit breaker has no room, and answers the
// request if no other is under way.
func (x *exchange) overflow(t *loop.Turn, a *attempt) {
	a.up = nil
	x.leave(a)
	if x.others(a) {
		return
	}
	x.flag, x.details = flagOverflow, "upstream_reset_before_response_started{overflow}"
	x.replyFields(t, 503, "", "upstream connect error or disconnect/reset before headers. reset reason: overflow", overloaded)
}

var overloaded = mesh.Fields{{Name: "x-envoy-overloaded", Value: "true"}}

// leaveBreaker gives back what a try took.
func (x *exchange) leaveBreaker(a *attempt) {
	if a.taken&heldPending != 0 {
		x.adm().state.Pending.Release()
	}
	if a.taken&heldRequest != 0 {
		x.adm().state.Requests.Release()
	}
	if a.taken&heldPlace != 0 {
		a.dest.leaveLine(a)
	}
	a.taken = 0
}

// leaveSlot gives back the slot that the exchange took. done says that the response
// came to its end.
func (x *exchange) leaveSlot(t *loop.Turn, done bool) {
	x.slotted = false
	x.adm().concurrency.Release(x.start.Add(time.Duration(x.slotAt)*time.Microsecond), t.Now, done)
}

// judge tells outlier detection of the response in x.resp, which came for a.
func (x *exchange) judge(t *loop.Turn, a *attempt) {
	if x.adm().outlier == nil {
		return
	}
	out := upstream.Outcome{Status: x.resp.Status}
	if v, ok := x.resp.Fields.Get("grpc-status"); ok && isGRPC(&x.req) {
		out.Status = httpStatusOf(v)
	}
	if out.Status == 429 || out.Status == 503 {
		if v, ok := x.resp.Fields.Get("retry-after"); ok {
			out.RetryAfter = parseRetryAfter(v, t.Now)
		}
	}
	x.adm().report(t, a.ep, out)
}

// judgeFailure tells it that there is no response.
func (x *exchange) judgeFailure(t *loop.Turn, a *attempt, timeout bool) {
	if x.adm().outlier != nil && a.ep != nil {
		x.adm().report(t, a.ep, upstream.Outcome{Timeout: timeout})
	}
}

// judgeLate tells it of the endpoints that have the request and do not answer in
// time.
func (x *exchange) judgeLate(t *loop.Turn) {
	late := func(a *attempt) {
		if a.up != nil && a.upReady {
			x.judgeFailure(t, a, true)
		}
	}
	late(&x.attempt)
	if x.extra != nil {
		for _, a := range x.extra.rivals {
			late(a)
		}
	}
}

// report tells outlier detection how a try ended.
func (a *admission) report(t *loop.Turn, ep *upstream.Endpoint, out upstream.Outcome) {
	if a.outlier.Report(t.Now, ep, out) {
		a.watched.w.kick(a.state)
	}
}

// httpStatusOf maps a gRPC status as Envoy does for outlier detection.
func httpStatusOf(grpc string) int {
	n, err := strconv.ParseUint(grpc, 10, 8)
	if err != nil || int(n) >= len(httpStatuses) {
		return 500
	}
	return httpStatuses[n]
}

var httpStatuses = [...]int{200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401}
