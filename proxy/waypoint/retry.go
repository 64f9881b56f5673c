package waypoint

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// failure is why an endpoint did not answer.
type failure struct {
	flag     string // Envoy's response flag
	reason   string // the words of Envoy's "reset reason"
	cause    string // for the log
	details  string // "": they follow from reason
	sent     bool   // the endpoint may have seen the request
	answered bool   // a part of the response had come
	refused  bool   // the endpoint refused the stream, and did nothing
	late     bool   // it did not begin to answer in time
	status   int    // 0: 503
	text     string // what the client is told; "" is Envoy's words for reason
}

// reasons are those of a retry policy that the failure is covered by.
func (f *failure) reasons() mesh.RetryOn {
	switch {
	case f.late:
		return mesh.RetryPerTryTimeout
	case f.refused:
		return mesh.RetryRefusedStream | mesh.RetryResetBeforeRequest | mesh.RetryReset
	case f.sent:
		return mesh.RetryReset
	case f.flag == flagConnectFailure:
		return mesh.RetryConnectFailure | mesh.RetryResetBeforeRequest | mesh.RetryReset
	}
	return mesh.RetryResetBeforeRequest | mesh.RetryReset
}

// upstreamFailed is called when the connection to the endpoint could not be
// made, or ended before the response did.
func (x *exchange) upstreamFailed(t *loop.Turn, up endpointSide, f failure) {
	if a := x.tryOf(up); a != nil {
		a.up = nil
		x.tryFailed(t, a, f)
	}
}

// tryFailed ends a try whose connection has been let go.
func (x *exchange) tryFailed(t *loop.Turn, a *attempt, f failure) {
	x.cause = f.cause
	if x.adm() != nil && (!a.idleReuse || f.answered || f.late) {
		x.judgeFailure(t, a, f.late || f.reason == errConnectTimeout.reason)
	}
	x.observeFailure(t, a)
	if x.respStarted {
		x.flag, x.details = f.flag, "upstream_reset_after_response_started{"+f.reason+"}"
		x.down.abort(t)
		x.abandon(t)
		return
	}
	// A connection that had been idle may have been dead for long: no endpoint has
	// failed then, and to do it again where that does no harm counts as no retry.
	stale := a.idleReuse && !f.answered && !f.late && !x.stale && !x.noReplay && idempotent(x.req.Method)
	if !a.idleReuse {
		x.avoid(a)
	}
	x.leave(a)
	if x.extra != nil && x.extra.held == a {
		x.extra.held = nil
	}
	if x.others(a) {
		return // one of them may do better
	}
	if stale {
		x.stale = true
		x.tryAgain(t, 0)
		return
	}
	p := &x.rule.policy().retry
	x.flag = f.flag
	if f.reasons()&p.on != 0 {
		pause := x.backoff(p)
		if paid, ok := x.mayRetry(t, p, pause); ok {
			x.flag = ""
			x.retry(t, paid, pause)
			return
		}
	}
	x.replyFailure(t, f)
}

// avoid keeps the tries that follow away from a's endpoint.
func (x *exchange) avoid(a *attempt) {
	if a.ep != nil && !x.rule.policy().retry.sameEndpoint {
		x.hint.Exclude(a.ep)
	}
}

// rejects looks at the head of a response: it reports true when the policy
// wants another try instead and there may be one, or is one under way. The response is let go
// then; otherwise it is the client's, whatever it says.
func (x *exchange) rejects(t *loop.Turn, a *attempt, body []byte, end bool) bool {
	p := &x.rule.policy().retry
	return p.wants(x) && x.reject(t, a, body, end)
}

// reject is rejects for a response that the policy does not want.
func (x *exchange) reject(t *loop.Turn, a *attempt, body []byte, end bool) bool {
	p := &x.rule.policy().retry
	if x.others(a) {
		x.avoid(a)
		x.discard(t, a, body, end)
		return true
	}
	pause := x.backoff(p)
	if p.retryAfterMax >= 0 {
		if v, ok := x.resp.Fields.Get("retry-after"); ok {
			d := parseRetryAfter(v, t.Now)
			if d > p.retryAfterMax {
				return false
			}
			if d > 0 {
				pause += d // those that were sent away together do not come back together
			}
		}
	}
	if a.paid > paidFirst { // its place is for the next one
		x.backend.cluster.giveBack(a.paid)
		a.paid = paidNothing
	}
	paid, ok := x.mayRetry(t, p, pause)
	if !ok {
		return false
	}
	x.avoid(a)
	x.discard(t, a, body, end)
	x.retry(t, paid, pause)
	return true
}

// wants reports whether the response in x is one to try again after.
func (p *retryPolicy) wants(x *exchange) bool {
	if p.codes.has(x.resp.Status) {
		return true
	}
	if p.grpc == 0 || !isGRPC(&x.req) {
		return false
	}
	v, ok := x.resp.Fields.Get("grpc-status")
	return ok && p.wantsGRPC(v)
}

func (p *retryPolicy) wantsGRPC(status string) bool {
	n, err := strconv.ParseUint(status, 10, 5)
	return err == nil && p.grpc&(1<<n) != 0
}

// mayRetry decides whether another try follows after pause, and takes its place in the
// retry budget if so. What speaks against it becomes part of the response flags, as in Envoy.
func (x *exchange) mayRetry(t *loop.Turn, p *retryPolicy, pause time.Duration) (payment, bool) {
	if x.noReplay || x.phase == upgraded || p.attempts == 0 {
		return paidNothing, false
	}
	if int(x.retries) >= p.attempts {
		x.flag = joinFlags(x.flag, flagRetryLimit)
		return paidNothing, false
	}
	if x.due > 0 && x.since(t)+pause >= x.due {
		return paidNothing, false // what we have says more than a timeout would
	}
	paid, ok := x.backend.cluster.takeRetry(t.Now)
	if !ok {
		x.flag = joinFlags(x.flag, flagOverflow)
	}
	return paid, ok
}

// joinFlags joins response flags in Envoy's order.
func joinFlags(a, b string) string {
	switch a {
	case "":
		return b
	case flagProtocolError:
		return b + "," + a
	}
	return a + "," + b
}

// backoff is the pause before the next try: random, below a bound that doubles
// from try to try. Policies without a base do not wait.
func (x *exchange) backoff(p *retryPolicy) time.Duration {
	if p.base <= 0 {
		return 0
	}
	bound := p.max
	if n := uint(x.retries); n < 30 && p.base<<n < p.max {
		bound = p.base << n
	}
	if bound <= p.least {
		return p.least
	}
	return p.least + x.tun.p.below(bound-p.least)
}

// parseRetryAfter is the time that a Retry-After asks for: seconds, or a date
// (RFC 9110 section 10.2.3). What cannot be understood asks for none.
func parseRetryAfter(v string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(v, 10, 32); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// discarder is an endpointSide that can let go of a response and be used again.
type discarder interface {
	// discard is abort, called with the response's head at hand.
	discard(t *loop.Turn)
}

// discard lets go of a response whose head has come, with the first of its content, and ends its try.
func (x *exchange) discard(t *loop.Turn, a *attempt, body []byte, end bool) {
	up := a.up
	a.up = nil
	up.credit(t, len(body))
	d, ok := up.(discarder)
	switch {
	case end && x.reqSent:
		up.release(t)
	case ok && x.reqSent:
		d.discard(t)
	default:
		up.abort(t)
	}
	x.leave(a)
}

// retry is a try by the policy, which has its place in the retry budget.
func (x *exchange) retry(t *loop.Turn, paid payment, pause time.Duration) {
	x.retries++
	x.paid = paid
	x.tryAgain(t, pause)
}

// tryAgain sends the request again after a pause, to another endpoint where there is one.
func (x *exchange) tryAgain(t *loop.Turn, pause time.Duration) {
	if len(x.replay) > 0 {
		// What was sent comes again, before what has come since. These bytes
		// were credited or are owed already.
		x.owedReq -= len(x.replay)
		x.reqBuf = append(append([]byte(nil), x.replay...), x.reqBuf...)
		x.forgetReplay()
		x.account()
	}
	x.upReady, x.reqSent, x.idleReuse = false, false, false
	x.phase = connecting
	if pause <= 0 {
		x.connect(t)
		return
	}
	e := x.more()
	x.tun.p.timers.pause(&e.pause, x.tun.shard, t.Now, pause, e.onPause)
}

// pauseOver goes on after a pause.
func (x *exchange) pauseOver(t *loop.Turn) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.extra.pause.expired() {
		x.connect(t)
	}
}

// keepReplay keeps what is sent for another try, as long as it is little.
func (x *exchange) keepReplay(b []byte) {
	if x.noReplay || len(b) == 0 {
		return
	}
	limit := x.rule.policy().retry.bodyLimit
	if len(x.replay)+len(b) > limit || x.respStarted {
		x.noReplay = true
		x.forgetReplay()
		return
	}
	if n := len(x.replay) + len(b); n > smallReplay && n <= maxReplay && cap(x.replay) < maxReplay {
		x.replay = append(replayPool.Get().(*[maxReplay]byte)[:0], x.replay...)
	}
	x.replay = append(x.replay, b...)
}

// smallReplay is up to where a body is kept in memory of the exchange's own.
const smallReplay = 4 << 10

// replayPool has the memory for longer ones up to maxReplay: each upload would leave it as
// garbage a moment later. Those that are longer still, where a policy allows it, do.
var replayPool = sync.Pool{New: func() any { return new([maxReplay]byte) }}

// forgetReplay lets go of what was kept.
func (x *exchange) forgetReplay() {
	switch {
	case cap(x.replay) == maxReplay:
		replayPool.Put((*[maxReplay]byte)(x.replay[:maxReplay]))
		x.replay = nil
	case cap(x.replay) > smallReplay:
		x.replay = nil
	}
	x.replay = x.replay[:0]
}
