package waypoint

import (
	"slices"

	"cairnproxy.dev/cairn/tunnel/loop"
)

// line are the exchanges that wait for a connection to a destination because the
// circuit breaker allows no further one. As in Envoy, a destination without any
// connection may have one all the same: whoever stands in a line has somebody before him
// who will be done.
type line struct {
	conns   int // that count for a circuit breaker
	waiting []place
}

// place is a try in the line, and which exchange of that struct it belongs to.
type place struct {
	x   *exchange
	a   *attempt
	seq uint32
}

// room is what becomes of an exchange that wants another connection.
type room uint8

const (
	roomNow   room = iota // the connection is counted, and to be made
	roomLater             // it stands in the line, or was answered
	roomAgain             // meanwhile there is one that it can use
)

// room asks the circuit breaker of the exchange's cluster for another connection to d.
func (d *destination) room(t *loop.Turn, x *exchange, a *attempt) room {
	adm := x.adm()
	if adm == nil {
		return roomNow
	}
	if !x.awaits(t, a) {
		return roomLater
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case adm.state.Connections.Acquire(adm.limits.MaxConnections):
	case d.line.conns == 0:
		adm.state.Connections.Force()
	case a.taken&heldTight == 0 && d.hasRoom():
		a.taken |= heldTight
		return roomAgain
	default:
		adm.state.Overflows.Connections.Add(1)
		d.line.waiting = append(d.line.waiting, place{x, a, x.seq})
		d.inLine.Store(int32(len(d.line.waiting)))
		a.taken |= heldPlace | heldTight
		return roomLater
	}
	d.line.conns++
	return roomNow
}

// hasRoom reports whether a connection that is there takes another request. d is locked.
func (d *destination) hasRoom() bool {
	return len(d.idle) > 0 || slices.ContainsFunc(d.h2s, (*h2Client).hasRoom)
}

// leaveLine takes a try out of the line.
func (d *destination) leaveLine(a *attempt) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.line.waiting = slices.DeleteFunc(d.line.waiting, func(w place) bool { return w.a == a })
	d.inLine.Store(int32(len(d.line.waiting)))
}

// ended gives back the place of a connection that counted for a. It is nil for one
// that did not.
func (d *destination) ended(t *loop.Turn, a *admission) {
	if a == nil {
		return
	}
	a.state.Connections.Release()
	d.mu.Lock()
	d.line.conns--
	d.mu.Unlock()
	d.wake(t)
}

// wake lets the first in the line try again: a connection has become free, or has ended.
func (d *destination) wake(t *loop.Turn) {
	if d.inLine.Load() == 0 {
		return
	}
	d.mu.Lock()
	if len(d.line.waiting) == 0 {
		d.mu.Unlock()
		return
	}
	w := d.line.waiting[0]
	d.line.waiting = slices.Delete(d.line.waiting, 0, 1)
	d.inLine.Store(int32(len(d.line.waiting)))
	d.mu.Unlock()
	t.Defer(func(t *loop.Turn) { // no lock is held then
		w.x.mu.Lock()
		defer w.x.mu.Unlock()
		if w.x.seq != w.seq || w.a.dest != d || w.a.taken&heldPlace == 0 {
			d.wake(t) // it has gone elsewhere meanwhile
			return
		}
		w.a.taken &^= heldPlace
		w.x.call(t, w.a)
	})
}
