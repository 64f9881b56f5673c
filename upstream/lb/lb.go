package lb

import (
	"math/rand/v2"
	"sync/atomic"
)

// Host is one choice.
type Host struct {
	// Weight is its share among the others; 0 means never.
	Weight uint32
	// Active counts its requests in flight. LeastRequest and PeakEWMA read it; nil counts as 0.
	Active *atomic.Int64
}

func (h *Host) active() int64 {
	if h.Active == nil {
		return 0
	}
	return h.Active.Load()
}

// Want is what a request knows of itself that an algorithm may go by.
type Want struct {
	// Key is the hash of what shall lead to the same host; a random number where
	// nothing shall. RingHash, Maglev and Rendezvous read it.
	Key uint64
	// Now is the time in nanoseconds, of the clock that Latency.Observe is told. PeakEWMA reads it.
	Now int64
}

// Picker is a balancing algorithm over a list of hosts.
type Picker interface {
	// Pick returns the index of the next host, or -1 when there is none.
	Pick(Want) int
}

// spread is what the weights of a list of hosts amount to.
type spread struct {
	usable []int // indexes with a weight above 0
	equal  bool  // they all have the same
	total  uint64
}

func spreadOf(hosts []Host) spread {
	s := spread{equal: true}
	for i := range hosts {
		if hosts[i].Weight == 0 {
			continue
		}
		s.equal = s.equal && (len(s.usable) == 0 || hosts[i].Weight == hosts[s.usable[0]].Weight)
		s.usable = append(s.usable, i)
		s.total += uint64(hosts[i].Weight)
	}
	return s
}

// Weighted picks at random in proportion to the weights, in constant time: it is
// Vose's alias method with whole numbers, so the proportions are exact.
type Weighted struct {
	usable []int
	equal  bool
	total  uint64
	slots  []slot
}

// slot is one of n equally likely columns. It stands for its own host with
// probability cut/total, and for the host of other beyond that.
type slot struct {
	cut   uint64
	other int
}

// NewWeighted makes a Weighted.
func NewWeighted(hosts []Host) *Weighted {
	s := spreadOf(hosts)
	w := &Weighted{usable: s.usable, equal: s.equal, total: s.total}
	if s.equal {
		return w
	}
	// Every column holds total; a host brings weight × n.
	n := uint64(len(s.usable))
	w.slots = make([]slot, n)
	left := make([]uint64, n)
	var small, large []int
	for i, u := range s.usable {
		left[i] = uint64(hosts[u].Weight) * n
		if left[i] < s.total {
			small = append(small, i)
		} else {
			large = append(large, i)
		}
	}
	for len(small) > 0 && len(large) > 0 {
		lo, hi := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		w.slots[lo] = slot{cut: left[lo], other: hi}
		left[hi] -= s.total - left[lo]
		if left[hi] < s.total {
			large = large[:len(large)-1]
			small = append(small, hi)
		}
	}
	for _, i := range append(small, large...) {
		w.slots[i] = slot{cut: s.total, other: i}
	}
	return w
}

// Pick returns a random host.
func (w *Weighted) Pick(Want) int {
	i := w.position()
	if i < 0 {
		return -1
	}
	return w.usable[i]
}

// position returns an index into usable.
func (w *Weighted) position() int {
	switch len(w.usable) {
	case 0:
		return -1
	case 1:
		return 0
	}
	i := rand.IntN(len(w.usable))
	if w.equal || rand.Uint64N(w.total) < w.slots[i].cut {
		return i
	}
	return w.slots[i].other
}

// LeastRequest picks two hosts at random and takes the one with fewer requests
// in flight for its weight ("power of two choices"): close to the best there
// is, without looking at all of them, and without the herd that runs to the one that is
// idle.
type LeastRequest struct {
	hosts  []Host
	random *Weighted
}

// NewLeastRequest makes a LeastRequest. hosts is kept.
func NewLeastRequest(hosts []Host) *LeastRequest {
	return &LeastRequest{hosts: hosts, random: NewWeighted(hosts)}
}

// Pick returns the better of two random hosts. The two are drawn in proportion
// to the weights and the first wins a tie, so idle hosts share by weight too.
func (l *LeastRequest) Pick(w Want) int {
	n := len(l.random.usable)
	if n < 2 {
		return l.random.Pick(w)
	}
	i := l.random.position()
	var j int
	if l.random.equal {
		// Always a second one: drawing the same twice would be no choice.
		if j = rand.IntN(n - 1); j >= i {
			j++
		}
	} else if j = l.random.position(); i == j {
		return l.random.usable[i]
	}
	a, b := l.random.usable[i], l.random.usable[j]
	// active a / weight a > active b / weight b
	if load(&l.hosts[a], &l.hosts[b]) > load(&l.hosts[b], &l.hosts[a]) {
		return b
	}
	return a
}

// load is h's requests in flight, scaled so that it compares with load(other, h).
func load(h, other *Host) uint64 {
	return uint64(max(0, h.active())) * uint64(other.Weight)
}
