package waypoint

import (
	"slices"
	"sync/atomic"

	"cairnproxy.dev/cairn/tunnel/loop"
)

// line are the tries that wait for a connection to a destination because the
// circuit breaker allows no further one; there is one for each version of HTTP. As in
// Envoy, a destination without any connection of a version may have one all the same: whoever
// stands in a line has somebody before him who will be done.
type line struct {
	conns   int // that count for a circuit breaker
	waiting []place
	n       atomic.Int32 // len(waiting)
}

// The version is an index of destination.lines.
const (
	lineHTTP1 = iota
	lineHTTP2
)

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
func (d *destination) room(t *loop.Turn, x *exchange, a *attempt, version int) room {
	adm := x.adm()
	if adm == nil {
		return roomNow
	}
	if !x.awaits(t, a) {
		return roomLater
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	l := &d.lines[version]
	switch {
	case adm.state.Connections.Acquire(adm.limits.MaxConnections):
	case l.conns == 0:
		adm.state.Connections.Force()
	case a.taken&heldTight == 0 && d.hasRoom(version):
		a.taken |= heldTight
		return roomAgain
	default:
		adm.state.Overflows.Connections.Add(1)
		l.waiting = append(l.waiting, place{x, a, x.seq})
		l.n.Store(int32(len(l.waiting)))
		a.taken |= heldPlace | heldTight
		return roomLater
	}
	l.conns++
	return roomNow
}

// hasRoom reports whether a connection that is there takes another request. d is locked.
func (d *destination) hasRoom(version int) bool {
	if version == lineHTTP1 {
		return len(d.idle) > 0
	}
	return slices.ContainsFunc(d.h2s, (*h2Client).hasRoom)
}

// leaveLine takes a try out of the line that it stands in.
func (d *destination) leaveLine(a *attempt) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.lines {
		l := &d.lines[i]
		l.waiting = slices.DeleteFunc(l.waiting, func(p place) bool { return p.a == a })
		l.n.Store(int32(len(l.waiting)))
	}
}

// ended gives back the place of a connection that counted for adm. It is nil for
// one that did not.
func (d *destination) ended(t *loop.Turn, adm *admission, version int) {
	if adm == nil {
		return
	}
	adm.state.Connections.Release()
	d.mu.Lock()
	d.lines[version].conns--
	d.mu.Unlock()
	d.wake(t, version)
}

// wake lets the first in a line try again: a connection has become free, or has ended.
func (d *destination) wake(t *loop.Turn, version int) {
	l := &d.lines[version]
	if l.n.Load() == 0 {
		return
	}
	d.mu.Lock()
	if len(l.waiting) == 0 {
		d.mu.Unlock()
		return
	}
	p := l.waiting[0]
	l.waiting = slices.Delete(l.waiting, 0, 1)
	l.n.Store(int32(len(l.waiting)))
	d.mu.Unlock()
	t.Defer(func(t *loop.Turn) { // no lock is held then
		p.x.mu.Lock()
		defer p.x.mu.Unlock()
		if p.x.seq != p.seq || p.a.dest != d || p.a.taken&heldPlace == 0 {
			d.wake(t, version) // it has gone elsewhere meanwhile
			return
		}
		p.a.taken &^= heldPlace
		p.x.call(t, p.a)
	})
}
