package telemetry

import (
	"slices"
	"sync"
)

// labelSet is a comparable set of labels, L itself.
type labelSet[L any] interface {
	comparable
	// normal is the set as it is exposed. It is L itself, without allocating,
	// where nothing needs to change.
	normal() L
	// clone copies the strings.
	clone() L
	// overflow is the set that counts for a normal one when there is no room.
	// There are few different ones.
	overflow() L
}

// table holds the series of each label set. Different spellings of one set
// (empty for "unknown", too long, not UTF-8) lead to one series.
type table[L labelSet[L], S any] struct {
	limit int
	make  func(*table[L, S], L) *S

	mu      sync.RWMutex
	byLabel map[L]*S
	series  []*S // in order of appearance
	normal  int  // those that are not overflow
	denied  uint64
}

func (t *table[L, S]) init(limit int, mk func(*table[L, S], L) *S) {
	t.limit, t.make = limit, mk
	t.byLabel = make(map[L]*S)
}

func (t *table[L, S]) get(l L) *S {
	l = l.normal()
	t.mu.RLock()
	s := t.byLabel[l]
	t.mu.RUnlock()
	if s != nil {
		return s
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s = t.byLabel[l]; s != nil {
		return s
	}
	if t.normal < t.limit {
		t.normal++
	} else {
		t.denied++
		l = l.overflow()
		if s = t.byLabel[l]; s != nil {
			return s
		}
	}
	l = l.clone()
	s = t.make(t, l)
	t.series = append(t.series, s)
	t.byLabel[l] = s
	return s
}

// all returns the series of now.
func (t *table[L, S]) all() []*S {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Clip(t.series) // only ever appended to
}

// overflowed is how many look-ups ended in overflow.
func (t *table[L, S]) overflowed() float64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return float64(t.denied)
}
