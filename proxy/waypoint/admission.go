package waypoint

import (
	"net/http"
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

// taken is what an exchange has taken of its cluster's bounds.
type taken uint8

const (
	heldPending taken = 1 << iota // waits for a connection
	heldPlace                     // and that for one in use
	heldTight                     // had to: it takes what is idle
	heldRequest                   // is with an endpoint
	heldRetry                     // was tried again
	heldSlot                      // of adaptive concurrency
)

// ofTry is what ends with a try; the rest is for the whole exchange.
const ofTry = heldPending | heldPlace | heldTight | heldRequest

// admit is asked before an endpoint is chosen. It reports false when the request
// was answered, because too many are under way.
func (x *exchange) admit(t *loop.Turn, a *admission) bool {
	x.adm = a
	if a.concurrency == nil || x.taken&heldSlot != 0 {
		return true
	}
	if !a.concurrency.Acquire() {
		x.details = "reached_concurrency_limit"
		x.reply(t, 503, "reached concurrency limit")
		return false
	}
	x.taken |= heldSlot
	x.slotAt = uint32(t.Now.Sub(x.start) / time.Microsecond)
	return true
}

// awaits counts the exchange among those that wait for a connection. It reports false
// when it was answered, because too many do.
func (x *exchange) awaits(t *loop.Turn) bool {
	a := x.adm
	if a == nil || x.taken&heldPending != 0 {
		return true
	}
	if !a.state.Pending.Acquire(a.limits.MaxPending) {
		a.state.Overflows.Pending.Add(1)
		x.overflow(t)
		return false
	}
	x.taken |= heldPending
	return true
}

// admitted counts the exchange among those that are with an endpoint, now that there
// is a connection. It reports false when it was answered, because too many are.
func (x *exchange) admitted(t *loop.Turn) bool {
	a := x.adm
	if x.taken&heldPending != 0 {
		a.state.Pending.Release()
	}
	x.taken &^= heldPending | heldTight
	if a.state.Requests.Acquire(a.limits.MaxRequests) {
		x.taken |= heldRequest
		return true
	}
	a.state.Overflows.Requests.Add(1)
	up := x.up
	x.up = nil
	if c, ok := up.(*h1Client); ok {
		c.release(t) // nothing was sent on it
	}
	x.overflow(t)
	return false
}

// admitRetry is asked before a request is tried again. When it reports false, what
// the endpoint has said, or that it has not, stands.
func (x *exchange) admitRetry() bool {
	a := x.adm
	if a == nil || x.taken&heldRetry != 0 {
		return true
	}
	if !a.state.Retries.Acquire(a.limits.MaxRetries) {
		a.state.Overflows.Retries.Add(1)
		x.flag = flagOverflow
		return false
	}
	x.taken |= heldRetry
	return true
}

// overflow answers a request for which the circuit breaker has no room.
func (x *exchange) overflow(t *loop.Turn) {
	x.flag, x.details = flagOverflow, "upstream_reset_before_response_started{overflow}"
	x.replyFields(t, 503, "", "upstream connect error or disconnect/reset before headers. reset reason: overflow", overloaded)
}

var overloaded = mesh.Fields{{Name: "x-envoy-overloaded", Value: "true"}}

// leaveTry gives back what the try took.
func (x *exchange) leaveTry() {
	if x.taken&heldPending != 0 {
		x.adm.state.Pending.Release()
	}
	if x.taken&heldRequest != 0 {
		x.adm.state.Requests.Release()
	}
	if x.taken&heldPlace != 0 {
		x.dest.leaveLine(x)
	}
	x.taken &^= ofTry
}

// leaveAdmission gives back what the whole exchange took. done says that the response
// came to its end.
func (x *exchange) leaveAdmission(t *loop.Turn, done bool) {
	if x.taken&heldRetry != 0 {
		x.adm.state.Retries.Release()
	}
	if x.taken&heldSlot != 0 {
		x.adm.concurrency.Release(x.start.Add(time.Duration(x.slotAt)*time.Microsecond), t.Now, done)
	}
	x.adm, x.taken = nil, 0
}

// observe tells outlier detection of the response in x.resp.
func (x *exchange) observe(t *loop.Turn) {
	if x.adm.outlier == nil {
		return
	}
	out := upstream.Outcome{Status: x.resp.Status}
	if v, ok := x.resp.Fields.Get("grpc-status"); ok && isGRPC(&x.req) {
		out.Status = httpStatusOf(v)
	}
	if out.Status == 429 || out.Status == 503 {
		if v, ok := x.resp.Fields.Get("retry-after"); ok {
			out.RetryAfter = restAsked(v, t.Now)
		}
	}
	x.adm.report(t, x.ep, out)
}

// observeFailure tells it that there is no response.
func (x *exchange) observeFailure(t *loop.Turn, timeout bool) {
	if x.adm.outlier != nil && x.ep != nil {
		x.adm.report(t, x.ep, upstream.Outcome{Timeout: timeout})
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

// restAsked is how long a Retry-After asks for: a number of seconds or a date (RFC 9110
// section 10.2.3); 0 for what is neither, or over already.
func restAsked(v string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
