package waypoint

import (
	"time"

	"cairnproxy.dev/cairn/tunnel/loop"
)

// extra is what few exchanges need: pauses between tries, hedges, long timeouts. It is
// made when it is first wanted, and kept for the exchanges of the same struct that follow.
type extra struct {
	pause timer // before the next try
	// When mesh.Timeouts.Idle and MaxDuration have passed, and when the next hedge goes out: see clock.go.
	idleDue, maxDue, hedgeDue time.Duration

	// Made once.
	onPause, onHeld func(*loop.Turn)

	last   time.Time  // when a byte moved, either way
	rivals []*attempt // hedges under way
	hedges int        // that went out
	held   *attempt   // whose response's head waits for what follows: see hold.go
}

// more is x.extra, made if there is none.
func (x *exchange) more() *extra {
	if x.extra == nil {
		x.extra = &extra{onPause: x.pauseOver, onHeld: x.heldLongEnough}
	}
	return x.extra
}

// end takes everything back when the exchange ends; its clocks have been stopped.
func (e *extra) end(x *exchange) {
	for i, a := range e.rivals {
		x.leave(a)
		e.rivals[i] = nil
	}
	e.rivals, e.hedges, e.held, e.last = e.rivals[:0], 0, nil, time.Time{}
	e.idleDue, e.maxDue, e.hedgeDue = 0, 0, 0
}
