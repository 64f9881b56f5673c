package loop

import (
	"sync"
	"time"
)

// Flusher is an output that a Turn has written to and must flush before it ends.
type Flusher interface {
	// Flush passes on what is queued, without blocking.
	Flush(t *Turn)
}

// Turn is one run to completion on one goroutine. It must not be kept or used
// by another goroutine.
type Turn struct {
	// Now is the time at which the turn began; good enough for everything that
	// happens in it.
	Now   time.Time
	dirty []Flusher
	after []func(*Turn)
	// Scratch is memory for building a message head; its content does not
	// outlive the call that fills it.
	Scratch []byte
}

// mark adds f to what End flushes. Queue.Mark calls it once per flush.
func (t *Turn) mark(f Flusher) { t.dirty = append(t.dirty, f) }

// Defer runs f when the turn ends, before the last flush. It is for work that
// must not happen while a lock is held.
func (t *Turn) Defer(f func(*Turn)) { t.after = append(t.after, f) }

// End runs what was deferred and flushes every output that was written to,
// including those that flushing another one writes to.
func (t *Turn) End() {
	for {
		for i := 0; i < len(t.after); i++ {
			f := t.after[i]
			t.after[i] = nil
			f(t)
		}
		t.after = t.after[:0]
		for i := 0; i < len(t.dirty); i++ {
			f := t.dirty[i]
			t.dirty[i] = nil
			f.Flush(t)
		}
		t.dirty = t.dirty[:0]
		if len(t.after) == 0 {
			return
		}
	}
}

var turnPool = sync.Pool{New: func() any { return new(Turn) }}

// Run gives f a turn of its own and ends it: the way in for timers, dials and
// everybody else who is not a reader.
func Run(f func(t *Turn)) {
	t := turnPool.Get().(*Turn)
	t.Now = time.Now()
	f(t)
	t.End()
	turnPool.Put(t)
}
