package mesh

import (
	"hash/maphash"
	"iter"
	"maps"
)

// Index is a map that never changes and shares with the one that it was made
// from all that is the same in both: it is split by hash into small maps, of which an
// edit copies those that it touches. Two Indexes of one line of edits are
// compared in little more time than what differs takes.
//
// The zero Index is empty.
type Index[K comparable, V any] struct {
	seed  maphash.Seed
	parts []*map[K]V // a power of two of them, or none
	n     int
}

// partSize is about how many entries a part of an Index has.
const partSize = 64

func (x *Index[K, V]) part(k K) int {
	if len(x.parts) == 1 {
		return 0
	}
	return int(maphash.Comparable(x.seed, k)) & (len(x.parts) - 1)
}

// Get returns the value of k.
func (x *Index[K, V]) Get(k K) (v V, ok bool) {
	if len(x.parts) == 0 {
		return v, false
	}
	v, ok = (*x.parts[x.part(k)])[k]
	return v, ok
}

// At returns the value of k, or the zero value.
func (x *Index[K, V]) At(k K) V {
	v, _ := x.Get(k)
	return v
}

// Len returns how many entries there are.
func (x *Index[K, V]) Len() int { return x.n }

// All iterates over the entries, in no order.
func (x *Index[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, p := range x.parts {
			for k, v := range *p {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}

// Differ calls f for each key whose value is not the same in x and in old.
func (x *Index[K, V]) Differ(old *Index[K, V], same func(a, b V) bool, f func(K)) {
	line := len(x.parts) == len(old.parts) && x.seed == old.seed
	for i, p := range x.parts {
		if line && p == old.parts[i] {
			continue
		}
		for k, v := range *p {
			if o, ok := old.Get(k); !ok || !same(o, v) {
				f(k)
			}
		}
	}
	for i, p := range old.parts {
		if line && p == x.parts[i] {
			continue
		}
		for k := range *p {
			if _, ok := x.Get(k); !ok {
				f(k)
			}
		}
	}
}

// Edit begins an edit of x, which stays as it is. The result is expected to
// have about size entries.
func (x *Index[K, V]) Edit(size int) *IndexEdit[K, V] {
	e := &IndexEdit[K, V]{x: *x}
	want := 1
	for want*partSize < size {
		want *= 2
	}
	// Parts are split when they have become twice what they should be, and
	// joined when there are far too many of them.
	if n := len(x.parts); n > 0 && want <= 2*n && n <= 8*want {
		e.x.parts = append([]*map[K]V(nil), x.parts...)
		e.own = make([]bool, n)
		return e
	}
	e.x = Index[K, V]{seed: maphash.MakeSeed(), parts: make([]*map[K]V, want)}
	e.own = make([]bool, want)
	for i := range e.x.parts {
		m := make(map[K]V, min(size/want+size/want/4, x.n+size))
		e.x.parts[i], e.own[i] = &m, true
	}
	for k, v := range x.All() {
		e.Set(k, v)
	}
	return e
}

// IndexEdit is an Index in the making.
type IndexEdit[K comparable, V any] struct {
	x   Index[K, V]
	own []bool // the parts that were copied already
}

// Get returns the value of k as it stands now.
func (e *IndexEdit[K, V]) Get(k K) (V, bool) { return e.x.Get(k) }

// At returns the value of k as it stands now, or the zero value.
func (e *IndexEdit[K, V]) At(k K) V { return e.x.At(k) }

func (e *IndexEdit[K, V]) writable(k K) map[K]V {
	i := e.x.part(k)
	if !e.own[i] {
		m := maps.Clone(*e.x.parts[i])
		e.x.parts[i], e.own[i] = &m, true
	}
	return *e.x.parts[i]
}

// Set gives k a value.
func (e *IndexEdit[K, V]) Set(k K, v V) {
	m := e.writable(k)
	before := len(m)
	m[k] = v
	e.x.n += len(m) - before
}

// Delete removes k.
func (e *IndexEdit[K, V]) Delete(k K) {
	if _, ok := e.x.Get(k); ok {
		delete(e.writable(k), k)
		e.x.n--
	}
}

// Done ends the edit and returns what has become of it.
func (e *IndexEdit[K, V]) Done() Index[K, V] {
	e.own = nil
	return e.x
}
