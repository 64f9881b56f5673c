package decision

import (
	"cmp"
	"slices"
	"sync/atomic"
)

// Capacity is how many records a Ring keeps.
const Capacity = rings * chunks * chunkSize

const (
	rings     = 16 // of each of which the connections of one shard take slots
	chunks    = 10
	chunkSize = 64
)

// Ring keeps the last records of one proxy. The zero Ring is empty and ready. Its methods may be called from
// any goroutine.
type Ring struct {
	rings [rings]ring
}

type ring struct {
	next   atomic.Uint32
	chunks [chunks]atomic.Pointer[chunk]
	_      [64]byte // rings are counted apart from each other
}

type chunk [chunkSize]Slot

// Begin returns the slot of a new record, which the caller fills and ends at once. shard tells connections
// apart. It returns nil while somebody reads that slot: one record is not worth waiting for.
func (g *Ring) Begin(shard uint32) *Slot {
	x := &g.rings[shard%rings]
	n := x.next.Add(1) - 1
	at := &x.chunks[n/chunkSize%chunks]
	c := at.Load()
	if c == nil {
		c = grow(at)
	}
	s := &c[n%chunkSize]
	if !s.claim() {
		return nil
	}
	return s
}

//go:noinline
func grow(at *atomic.Pointer[chunk]) *chunk {
	at.CompareAndSwap(nil, new(chunk))
	return at.Load()
}

// each calls f for every slot in use, claimed. f must not keep it.
func (g *Ring) each(f func(*Slot)) {
	for i := range g.rings {
		for j := range g.rings[i].chunks {
			c := g.rings[i].chunks[j].Load()
			if c == nil {
				continue
			}
			for k := range c {
				s := &c[k]
				if !s.claim() {
					continue // it is being written
				}
				if s.used {
					f(s)
				}
				s.leave()
			}
		}
	}
}

// Find returns the records of the requests with that id, the newest first. A client may give one id to several
// requests, and a waypoint passes it on. Of an id longer than 64 bytes the first 64 count.
func (g *Ring) Find(id string) []Record {
	if len(id) > maxID {
		id = id[:maxID]
	}
	var out []Record
	g.each(func(s *Slot) {
		if string(s.recordID()) == id {
			out = append(out, s.record())
		}
	})
	newestFirst(out)
	return out
}

// Last returns the newest n records of which keep is true, the newest first; all for n below 1. keep may be nil.
func (g *Ring) Last(n int, keep func(*Record) bool) []Record {
	var out []Record
	g.each(func(s *Slot) {
		if r := s.record(); keep == nil || keep(&r) {
			out = append(out, r)
		}
	})
	newestFirst(out)
	if n > 0 && len(out) > n {
		out = out[:n]
	}
	return out
}

func newestFirst(list []Record) {
	slices.SortStableFunc(list, func(a, b Record) int { return cmp.Or(b.Start.Compare(a.Start), cmp.Compare(a.RequestID, b.RequestID)) })
}
