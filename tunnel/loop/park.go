package loop

import (
	"errors"
	"os"
	"sync/atomic"
	"time"
)

// parking is the part of a Socket that may wait in a Lot.
type parking struct {
	lot         *Lot
	slot        int32 // in the lot while it waits there, else -1; guarded by the lot
	keepWriting bool
	ended       func(error)
	active      atomic.Bool // something came since the lot's last sweep
	asked       atomic.Bool // the reader is to go
}

// ParkIn lets the socket wait in the lot when it is quiet, if it is served by
// ServeParked. It is called before anybody else knows the socket, which must
// be a plain one.
func (s *Socket) ParkIn(l *Lot) { s.park = &parking{lot: l, slot: -1} }

// ServeParked is Serve for a socket that may park. It returns when the
// connection has ended or is parked; in either case ended is called once, with
// what Serve returns, on the goroutine that is the reader then.
func (s *Socket) ServeParked(h Handler, keepWriting bool, ended func(error)) {
	if s.h == nil {
		s.h = h
	}
	s.park.keepWriting, s.park.ended = keepWriting, ended
	s.park.active.Store(true)
	s.park.lot.add(s)
	s.readOn()
}

// readOn is the reader of a socket that may park.
func (s *Socket) readOn() {
	p := s.park
	r := &reader{}
	err := s.serve(r)
	for p.asked.Load() && errors.Is(err, os.ErrDeadlineExceeded) && !s.aborted.Load() {
		if r.rest == nil && p.lot.enter(s) {
			return
		}
		p.asked.Store(false)
		if s.aborted.Load() { // who aborted may have set the deadline that enter has cleared
			err = ErrAborted
			break
		}
		err = s.serve(r)
	}
	p.lot.remove(s)
	if p.asked.Load() {
		// Too late, and AwaitReset must not be woken. If it is Abort's deadline that
		// goes with it, AwaitReset looks for that first.
		_ = s.nc.SetReadDeadline(time.Time{})
	}
	p.ended(s.finished(r, err, s.h, p.keepWriting))
}
