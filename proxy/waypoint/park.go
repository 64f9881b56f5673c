package waypoint

import (
	"time"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// stage is how far a request has come on its way to an endpoint: which chain it
// is in.
type stage uint8

const (
	stageService stage = iota
	stageRule
	stageBackend
	stageEndpoint // through all of them
)

// parking is one stay of an exchange whose filter waits: where it goes on, and
// what ends it. An exchange stands in one place at a time, x.parked; a Resume
// that belongs to another has come too late.
type parking struct {
	x      *exchange
	stage  stage
	at     int // in the stage's chain
	cancel func()
	timer  timer                                  // of After
	then   func(*filters.Exchange) filters.Result // likewise
	want   int                                    // of Body: how many bytes
	body   filters.BodyStep                       // likewise; nil: it is not the body that it waits for
}

// Await implements filters.Host.
func (x *exchange) Await(cancel func()) filters.Resume {
	x.unpark()
	p := &parking{x: x, cancel: cancel}
	x.parked = p
	return p.resume
}

// After implements filters.Host.
func (x *exchange) After(d time.Duration, then func(*filters.Exchange) filters.Result) {
	x.unpark()
	p := &parking{x: x, then: then}
	x.parked = p
	x.tun.p.timers.pause(&p.timer, x.tun.shard, x.fx.Now, d, p.elapsed)
}

// resume is a filters.Resume.
func (p *parking) resume(then func(*filters.Exchange) filters.Result) {
	loop.Run(func(t *loop.Turn) {
		p.x.mu.Lock()
		defer p.x.mu.Unlock()
		p.goOn(t, then)
	})
}

// elapsed ends a pause.
func (p *parking) elapsed(t *loop.Turn) {
	p.x.mu.Lock()
	defer p.x.mu.Unlock()
	if p.timer.expired() {
		p.goOn(t, p.then)
	}
}

// goOn takes the exchange on from where it was parked. The exchange is locked.
func (p *parking) goOn(t *loop.Turn, then func(*filters.Exchange) filters.Result) {
	x := p.x
	if x.parked != p {
		return
	}
	x.parked = nil
	x.fx.Now = t.Now
	res := filters.Continue
	if then != nil {
		res = then(&x.fx)
	}
	if x.filtered(t, res, p.stage, p.at) {
		x.proceed(t, p.stage, p.at)
	}
}

// unpark gives up what the exchange waits for, if it does.
func (x *exchange) unpark() {
	p := x.parked
	if p == nil {
		return
	}
	x.parked = nil
	p.timer.stop()
	if p.cancel != nil {
		p.cancel()
	}
}

// proceed takes the request through the chains from position at of stage s on,
// and then to an endpoint, unless it is answered or parked on the way.
func (x *exchange) proceed(t *loop.Turn, s stage, at int) {
	for ; s < stageEndpoint; s, at = s+1, 0 {
		var c filters.Chain
		switch s {
		case stageService:
			// Authorization first: whoever may not come in learns nothing of the routes.
			c = x.port.chain
		case stageRule:
			if at == 0 && !x.matchRule(t) {
				return
			}
			c = x.rule.chain
		case stageBackend:
			if at == 0 && !x.chooseBackend(t) {
				return
			}
			c = x.backend.chain
		case stageEndpoint:
		}
		if at < len(c) {
			res, next := c.Request(&x.fx, at)
			if !x.filtered(t, res, s, next) {
				return
			}
		}
	}
	x.startHedging(t)
	x.connect(t)
}

// filtered heeds what a filter says. It reports false when the exchange has been
// answered, or waits to go on at the given place.
func (x *exchange) filtered(t *loop.Turn, res filters.Result, s stage, at int) bool {
	switch {
	case res == filters.Park && x.parked != nil:
		x.parked.stage, x.parked.at = s, at
		if x.parked.body != nil {
			x.inviteBody(t)
		}
		return false
	case res == filters.Continue:
		x.unpark()
		return true
	case res == filters.Replied:
		x.unpark()
		x.answer(t, &x.fx.Reply)
	default:
		// A filter that waits for nothing has no way on, and must not let pass.
		x.flag, x.details = "", "filter_parked"
		x.reply(t, 500, "")
	}
	return false
}
