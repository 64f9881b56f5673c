package waypoint

import (
	"time"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// A filter may have to see the beginning of a request's body (filters.Exchange.Body). What comes before
// there is an endpoint waits in x.reqBuf anyway, bounded by the client's window. For more than that the
// window must open: bytes up to what is wanted are credited as they come, and owedReq
// becomes negative by as many, until they are passed on. That is not done while the Budget is used up: there may be
// thousands of clients with megabytes each.

// bodyTimeout bounds how long a client may take to send the bytes that are wanted.
const bodyTimeout = time.Minute

// Body implements filters.Host.
func (x *exchange) Body(n int, then filters.BodyStep) filters.Result {
	if x.reqF.Upgrade != "" {
		return then(&x.fx, nil, true)
	}
	if x.reqDone || len(x.reqBuf) >= n {
		return then(&x.fx, x.reqBuf, x.reqDone)
	}
	x.unpark()
	p := &parking{x: x, want: n, body: then}
	x.parked = p
	x.tun.p.timers.start(&p.timer, x.tun.shard, x.fx.Now, bodyTimeout, p.bodyLate)
	return filters.Park
}

// inviteBody lets the client of a parked exchange send what is wanted.
func (x *exchange) inviteBody(t *loop.Turn) {
	if x.tooMuchHeld(t) {
		return
	}
	if x.reqF.Expect100 {
		// It is we who want the body: the endpoint has no say in it any more.
		x.reqF.Expect100 = false
		x.down.sendInterim(t, &mesh.Response{Status: 100})
	}
	x.creditWanted(t)
}

// creditWanted credits what has come of what is wanted.
func (x *exchange) creditWanted(t *loop.Turn) {
	if n := min(len(x.reqBuf), x.parked.want) + x.owedReq; n > 0 {
		x.owedReq -= n
		x.down.credit(t, n)
	}
}

// tooMuchHeld answers where there is no room to wait for more of a body.
func (x *exchange) tooMuchHeld(t *loop.Turn) bool {
	if !x.tun.p.o.Budget.Over() {
		return false
	}
	x.timedOut(t, 503, flagOverflow, "request_body_overflow", "")
	return true
}

// bodyGrew goes on where enough of the body is there. The exchange is locked.
func (p *parking) bodyGrew(t *loop.Turn) {
	if p.body == nil {
		return
	}
	x := p.x
	if !x.reqDone && len(x.reqBuf) < p.want {
		if !x.tooMuchHeld(t) {
			x.creditWanted(t)
		}
		return
	}
	p.timer.stop()
	p.goOn(t, func(fx *filters.Exchange) filters.Result { return p.body(fx, x.reqBuf, x.reqDone) })
}

// bodyLate ends an exchange whose client takes too long.
func (p *parking) bodyLate(t *loop.Turn) {
	x := p.x
	x.mu.Lock()
	defer x.mu.Unlock()
	if p.timer.expired() && x.parked == p {
		x.timedOut(t, 408, "", "request_body_timeout", "request timeout")
	}
}
