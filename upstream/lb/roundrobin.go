package lb

import (
	"math/rand/v2"
	"sync/atomic"
)

// maxRound is the longest round of weighted hosts that is laid out in memory.
const maxRound = 1024

// RoundRobin takes the hosts in turn. Hosts with different weights are spread
// evenly over a round in which each appears as often as its weight says, after
// division by the common divisor. Weights that would make a round longer than 1024 picks
// are served at random in the same proportions.
//
// The turn is one shared counter: goroutines that pick at the same moment get
// different hosts.
type RoundRobin struct {
	next   atomic.Uint64
	round  []int
	random *Weighted // when the round would be too long
}

// NewRoundRobin makes a RoundRobin that starts at a random host, so that many
// proxies started together do not all begin with the first.
func NewRoundRobin(hosts []Host) *RoundRobin {
	s := spreadOf(hosts)
	r := &RoundRobin{}
	if s.equal {
		r.round = s.usable
	} else if d := divisor(hosts, s.usable); s.total/d <= maxRound {
		r.round = smooth(hosts, s.usable, d)
	} else {
		r.random = NewWeighted(hosts)
	}
	if len(r.round) > 0 {
		r.next.Store(rand.Uint64N(uint64(len(r.round))))
	}
	return r
}

// Pick returns the next host.
func (r *RoundRobin) Pick(w Want) int {
	if r.random != nil {
		return r.random.Pick(w)
	}
	if len(r.round) == 0 {
		return -1
	}
	return r.round[(r.next.Add(1)-1)%uint64(len(r.round))]
}

func divisor(hosts []Host, usable []int) uint64 {
	var d uint64
	for _, u := range usable {
		a, b := d, uint64(hosts[u].Weight)
		for b != 0 {
			a, b = b, a%b
		}
		d = a
	}
	return d
}

// smooth lays out one round: at each place the host that is furthest behind its
// share, as nginx does, so that {5, 1, 1} becomes a a b a c a a.
func smooth(hosts []Host, usable []int, d uint64) []int {
	var total int64
	credit := make([]int64, len(usable))
	for _, u := range usable {
		total += int64(uint64(hosts[u].Weight) / d)
	}
	round := make([]int, total)
	for p := range round {
		best := 0
		for i, u := range usable {
			credit[i] += int64(uint64(hosts[u].Weight) / d)
			if credit[i] > credit[best] {
				best = i
			}
		}
		credit[best] -= total
		round[p] = usable[best]
	}
	return round
}
