package ztunnel

import (
	"context"
	"runtime/debug"
	"time"
)

// trimmer gives memory back to the system after a wave of connections. The
// runtime does it in its own time: stacks stay until a garbage collection,
// which an idle proxy puts off for two minutes, and what that frees is
// released over minutes more, down to a tenth above what the heap was. A proxy that
// once had 10,000 connections would go on looking as if it had them.
type trimmer struct {
	conns, readers wave
	not            time.Time // before this
}

// wave follows a number that grows and falls.
type wave struct {
	high int
	low  bool // it was low at the last look, too
}

const (
	// trimEvery is how often a trimmer looks.
	trimEvery = 500 * time.Millisecond
	// trimWave is the fall, in connections or their readers, that is worth a collection.
	trimWave = 300
	// trimShare bounds the cost: a collection that took a time is not repeated
	// before so many times as long.
	trimShare = 25
)

// look notes the number n and reports whether a wave has passed: n has fallen
// far below its height, and stays there.
func (w *wave) look(n int) bool {
	w.high = max(w.high, n)
	low := n <= w.high/2 && w.high-n >= trimWave
	passed := low && w.low
	w.low = low
	return passed
}

// look reports whether it is time to give memory back.
func (t *trimmer) look(now time.Time, conns, readers int) bool {
	passed := t.conns.look(conns)
	if !t.readers.look(readers) && !passed || now.Before(t.not) {
		return false
	}
	t.conns, t.readers = wave{high: conns}, wave{high: readers}
	return true
}

// trims gives memory back after waves of connections, until ctx ends.
func (p *Proxy) trims(ctx context.Context) {
	var t trimmer
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			readers, peak := p.lot.Readers()
			t.readers.high = max(t.readers.high, peak)
			if t.look(now, p.conns.count(), readers) {
				debug.FreeOSMemory()
				t.not = now.Add(trimShare * time.Since(now))
			}
		}
	}
}
