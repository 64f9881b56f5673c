package waypoint

import (
	"strconv"
	"time"

	"cairnproxy.dev/cairn/tunnel/loop"
)

// The times of an exchange, as Envoy counts them:
//
//	request   from the head of the request to the end of the response   504 UT
//	per try   from when an endpoint has the request to its response     504 UT, or another try
//	idle      no byte moves, either way                                 504 SI, 408 if the request is not whole
//	max       from the head on, upgraded connections too                504 UMSDR, likewise
//
// Once a response has begun, it is broken off instead. A gRPC client's own deadline, grpc-timeout,
// takes the place of a longer timeout of the request.

// startTimes starts them, when the rule is known.
func (x *exchange) startTimes(t *loop.Turn) {
	p := &x.rule.policy().timeouts
	d := p.Request
	if x.grpcTimeout > 0 && (d <= 0 || x.grpcTimeout < d) {
		d = coarse(x.grpcTimeout)
	}
	if s := x.rule.policy().soonest; s > 0 { // the clock is set once for all
		x.arm(t, x.since(t)+s, s)
	}
	if d > 0 {
		if t.Now != x.start { // a filter has waited
			d = max(roundUp(d-t.Now.Sub(x.start), sweepInterval), 1)
		}
		x.alarm(t, &x.due, d)
	}
	if p.Idle > 0 {
		e := x.more()
		e.last = t.Now
		x.alarm(t, &e.idleDue, p.Idle)
	}
	if p.MaxDuration > 0 {
		x.alarm(t, &x.more().maxDue, p.MaxDuration)
	}
}

// touch notes that a byte moved.
func (x *exchange) touch(t *loop.Turn) {
	if x.extra != nil {
		x.extra.last = t.Now
	}
}

// routeTimedOut is for when the whole has taken too long.
func (x *exchange) routeTimedOut(t *loop.Turn) {
	if x.phase != upgraded {
		x.timedOut(t, 504, flagTimeout, "response_timeout", "upstream request timeout")
	}
}

// idleFor is for when nothing may have moved for the idle timeout: the alarm is not set
// anew with each byte, but with what is left of the time when it has passed.
func (x *exchange) idleFor(t *loop.Turn) {
	e := x.extra
	d := x.rule.policy().timeouts.Idle
	if left := d - t.Now.Sub(e.last); left > 0 {
		x.alarm(t, &e.idleDue, roundUp(left, max(sweepInterval, d/8)))
		return
	}
	x.timedOut(t, x.lateStatus(), flagIdleTimeout, "stream_idle_timeout", "stream timeout")
}

// tooLong is for when the exchange has had its longest time.
func (x *exchange) tooLong(t *loop.Turn) {
	x.timedOut(t, x.lateStatus(), flagMaxDuration, "upstream_max_stream_duration_reached", "upstream max stream duration reached")
}

// lateStatus says whose fault it is that time ran out.
func (x *exchange) lateStatus() int {
	if x.reqDone {
		return 504
	}
	return 408
}

// timedOut ends the exchange, with an answer if none has begun.
func (x *exchange) timedOut(t *loop.Turn, status int, flag, details, body string) {
	if flag == flagTimeout && !x.respStarted && x.adm() != nil {
		x.judgeLate(t)
	}
	x.abortTries(t)
	x.flag, x.details = flag, details
	if x.respStarted {
		x.down.abort(t)
		x.abandon(t)
		return
	}
	x.reply(t, status, body)
}

// startTryDeadline bounds how long a's endpoint may take to begin its response.
func (x *exchange) startTryDeadline(t *loop.Turn, a *attempt) {
	if d := x.rule.policy().timeouts.PerTry; d > 0 {
		x.alarm(t, &a.due, d)
	}
}

// tryTimedOut is for when an endpoint has not begun to answer.
func (x *exchange) tryTimedOut(t *loop.Turn, a *attempt) {
	if x.respStarted || a.up == nil {
		return
	}
	up := a.up
	a.up = nil
	up.abort(t)
	x.tryFailed(t, a, failure{flag: flagTimeout, details: "upstream_per_try_timeout", status: 504, sent: true, late: true})
}

// parseGRPCTimeout reads a grpc-timeout: at most eight digits and a unit. 0 is for what
// is none; a timeout of 0 has passed already, and is the shortest there is.
func parseGRPCTimeout(v string) time.Duration {
	if len(v) < 2 || len(v) > 9 {
		return 0
	}
	n, err := strconv.ParseUint(v[:len(v)-1], 10, 32)
	if err != nil || v[0] == '+' {
		return 0
	}
	var unit time.Duration
	switch v[len(v)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0
	}
	if n > uint64(maxGRPCTimeout/unit) {
		return maxGRPCTimeout
	}
	return max(time.Duration(n)*unit, 1)
}

// maxGRPCTimeout is longer than anybody waits.
const maxGRPCTimeout = 1000 * time.Hour

// coarse rounds a duration that a client chose up by less than a hundredth, or to a
// sweep: timers have a list for each duration.
func coarse(d time.Duration) time.Duration {
	unit := sweepInterval
	for d/unit > 256 {
		unit *= 2
	}
	return roundUp(d, unit)
}

// forwardGRPCTimeout tells the endpoint how much of the client's time is left.
func (x *exchange) forwardGRPCTimeout(t *loop.Turn) {
	if x.due == 0 {
		return
	}
	left := x.due - x.since(t)
	if left >= x.grpcTimeout {
		return // nothing has passed, and no timeout of ours is shorter
	}
	b := x.fx.Append()
	if ms := left / time.Millisecond; ms >= 10 {
		b = append(strconv.AppendInt(b, int64(min(ms, 99_999_999)), 10), 'm')
	} else {
		b = append(strconv.AppendInt(b, int64(max(left/time.Microsecond, 1)), 10), 'u')
	}
	x.req.Fields.Set("grpc-timeout", x.fx.Text(b))
}
