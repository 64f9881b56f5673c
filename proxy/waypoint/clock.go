package waypoint

import (
	"time"

	"cairnproxy.dev/cairn/tunnel/loop"
)

// An exchange has up to five times at which something is to happen, and most exchanges end
// before any of them. So they are only numbers, and one timer is set for the first:
//
//	due            of the request             attempt.due   of each try
//	extra.idleDue  when no byte moves         extra.maxDue  of the longest time
//	extra.hedgeDue of the next hedge
//
// They count from x.start, and 0 is none. Taking one back leaves the timer, which then fires
// early, once, and is set for the next.

// alarm sets one of the times to d from now.
func (x *exchange) alarm(t *loop.Turn, at *time.Duration, d time.Duration) {
	*at = max(x.since(t)+d, 1)
	if x.armed == 0 || *at < x.armed {
		x.arm(t, *at, d)
	}
}

// arm sets the timer to fire d from now, when it is at.
func (x *exchange) arm(t *loop.Turn, at, d time.Duration) {
	if x.onClock == nil {
		x.onClock = x.clockFired
	}
	x.armed = at
	if d < quickBelow {
		x.tun.p.timers.pause(&x.clock, x.tun.shard, t.Now, d, x.onClock)
		return
	}
	x.tun.p.timers.start(&x.clock, x.tun.shard, t.Now, d, x.onClock)
}

// since is how long the exchange has gone on.
func (x *exchange) since(t *loop.Turn) time.Duration {
	return t.Now.Sub(x.start)
}

// clockFired does what is due, in order, and sets the timer for what is next.
func (x *exchange) clockFired(t *loop.Turn) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.clock.expired() || x.phase == idle {
		return
	}
	x.armed = 0
	for {
		at, a := x.next()
		if at == nil {
			return
		}
		// What is done may end the exchange, and begin another.
		if left := *at - x.since(t); left > 0 {
			if x.armed == 0 || *at < x.armed {
				left = roundUp(left, granularity(left))
				x.arm(t, x.since(t)+left, left)
			}
			return
		}
		*at = 0
		x.alarmed(t, at, a)
	}
}

// granularity keeps the timer's lists few: what is left of a time may be any length.
func granularity(d time.Duration) time.Duration {
	if d < quickBelow {
		return quickInterval
	}
	return sweepInterval
}

// next is the first of the times that are set, and the try that it is of, if it is of one.
func (x *exchange) next() (first *time.Duration, of *attempt) {
	see := func(at *time.Duration, a *attempt) {
		if *at > 0 && (first == nil || *at < *first) {
			first, of = at, a
		}
	}
	see(&x.attempt.due, &x.attempt)
	see(&x.due, nil)
	if e := x.extra; e != nil {
		for _, a := range e.rivals {
			see(&a.due, a)
		}
		see(&e.idleDue, nil)
		see(&e.maxDue, nil)
		see(&e.hedgeDue, nil)
	}
	return first, of
}

// alarmed does what one of the times is for; a is the try that it is of.
func (x *exchange) alarmed(t *loop.Turn, at *time.Duration, a *attempt) {
	switch {
	case a != nil:
		x.tryTimedOut(t, a)
	case at == &x.due:
		x.routeTimedOut(t)
	case at == &x.extra.idleDue:
		x.idleFor(t)
	case at == &x.extra.maxDue:
		x.tooLong(t)
	default:
		x.hedgeDue(t)
	}
}
