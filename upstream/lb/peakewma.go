package lb

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// ewmaDecay is the time after which an observation counts for a third of what it did.
const ewmaDecay = 10 * time.Second

// ewmaUnknown stands for the latency of a host that has a request in flight and
// has never answered one.
const ewmaUnknown = float32(time.Second)

// Latency is how long a host took to answer lately: the mean with exponentially
// falling weights, which goes up to a longer observation at once ("peak
// EWMA", as in Finagle). While nothing is observed it falls, so that a host that
// was slow is tried again. The zero Latency has seen nothing. It may be used
// from any goroutine.
type Latency struct {
	// word holds the mean in nanoseconds, a float32, above the time of the
	// last observation in milliseconds.
	word atomic.Uint64
}

// Observe counts an answer that took d and came at now, in nanoseconds of any clock.
func (l *Latency) Observe(d time.Duration, now int64) {
	rtt, ms := float32(max(d, 1)), uint32(now/1e6)
	for {
		old := l.word.Load()
		mean := rtt
		if old != 0 {
			was, keep := unpackLatency(old, ms)
			if mean = was*keep + rtt*(1-keep); rtt > was*keep {
				mean = rtt
			}
		}
		if l.word.CompareAndSwap(old, uint64(math.Float32bits(mean))<<32|uint64(ms)) {
			return
		}
	}
}

// At is the latency as it counts at now; 0 for one that has seen nothing.
func (l *Latency) At(now int64) time.Duration { return time.Duration(l.at(uint32(now / 1e6))) }

func (l *Latency) at(ms uint32) float32 {
	old := l.word.Load()
	if old == 0 {
		return 0
	}
	was, keep := unpackLatency(old, ms)
	return was * keep
}

// unpackLatency returns the mean and how much of it is left at ms. The
// difference of two times is right though their numbers wrap after 49 days. 0 as
// the time says that it is not known.
func unpackLatency(word uint64, ms uint32) (mean, keep float32) {
	mean, keep = math.Float32frombits(uint32(word>>32)), 1
	if dt := int32(ms - uint32(word)); dt > 0 && ms != 0 {
		keep = float32(math.Exp(-float64(dt) / float64(ewmaDecay/time.Millisecond)))
	}
	return mean, keep
}

// PeakEWMA picks two hosts at random and takes the one that is likely to answer
// sooner: by its Latency, for each request that is in flight there and the one to
// come, for its weight. It finds slow hosts sooner than LeastRequest, and
// shares out unevenly where hosts differ.
type PeakEWMA struct {
	hosts   []Host
	latency []*Latency
	random  *Weighted
}

// NewPeakEWMA makes a PeakEWMA. hosts and latency, which has one for each, are kept.
func NewPeakEWMA(hosts []Host, latency []*Latency) *PeakEWMA {
	return &PeakEWMA{hosts, latency, NewWeighted(hosts)}
}

// Pick returns the better of two random hosts, drawn in proportion to the weights.
func (p *PeakEWMA) Pick(w Want) int {
	n := len(p.random.usable)
	if n < 2 {
		return p.random.Pick(w)
	}
	i := p.random.position()
	var j int
	if p.random.equal {
		if j = rand.IntN(n - 1); j >= i {
			j++
		}
	} else if j = p.random.position(); i == j {
		return p.random.usable[i]
	}
	a, b := p.random.usable[i], p.random.usable[j]
	if ms := uint32(w.Now / 1e6); p.cost(a, ms) > p.cost(b, ms) {
		return b
	}
	return a
}

func (p *PeakEWMA) cost(i int, ms uint32) float32 {
	active, mean := float32(max(0, p.hosts[i].active())), p.latency[i].at(ms)
	if mean == 0 && active > 0 {
		mean = ewmaUnknown
	}
	return mean * (active + 1) / float32(p.hosts[i].Weight)
}
