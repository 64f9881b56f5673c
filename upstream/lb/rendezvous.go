package lb

import (
	"math"
	"sync/atomic"
)

// rendezvousSlots is how many kinds of keys there are: few enough to remember
// each one's host. It is fixed, because with another number all keys would move.
const rendezvousSlots = 1 << 16

// rendezvousFew is up to how many hosts nothing is remembered: scoring them
// costs no more than missing the cache.
const rendezvousFew = 16

// Rendezvous takes the host with the highest score for the key ("highest random
// weight"), weighted as Schindelhauer and Schomaker have it: -weight / ln of a
// uniform hash of both. Shares are in exact proportion to weights, and when a host goes its keys
// spread over all the others; no other key moves.
//
// Scoring all hosts takes time for each of them. So keys fall into 65,536 slots, and of
// many hosts, a slot's best one is remembered when it is first asked for.
type Rendezvous struct {
	hosts []rendezvousHost
	equal bool
	slots []atomic.Uint32 // index into hosts + 1, 0 for not known; nil with few hosts
}

type rendezvousHost struct {
	key    uint64
	weight float64
	index  int
}

// NewRendezvous makes a Rendezvous. keys are the hosts' own hashes.
func NewRendezvous(hosts []Host, keys []uint64) *Rendezvous {
	s := spreadOf(hosts)
	r := &Rendezvous{equal: s.equal, hosts: make([]rendezvousHost, len(s.usable))}
	for i, u := range s.usable {
		r.hosts[i] = rendezvousHost{keys[u], float64(hosts[u].Weight), u}
	}
	if len(r.hosts) > rendezvousFew || !r.equal { // a logarithm for each host is much, too
		r.slots = make([]atomic.Uint32, rendezvousSlots)
	}
	return r
}

// Pick returns the host of the key.
func (r *Rendezvous) Pick(w Want) int {
	if len(r.hosts) == 0 {
		return -1
	}
	slot := w.Key >> 48
	if r.slots == nil {
		return r.hosts[r.best(slot)].index
	}
	i := r.slots[slot].Load()
	if i == 0 { // whoever else asks at the same moment finds the same
		i = uint32(r.best(slot)) + 1
		r.slots[slot].Store(i)
	}
	return r.hosts[i-1].index
}

func (r *Rendezvous) best(slot uint64) int {
	best := 0
	if r.equal { // the highest hash has the highest score
		var most uint64
		for i := range r.hosts {
			if h := Mix(r.hosts[i].key, slot); h > most {
				best, most = i, h
			}
		}
		return best
	}
	most := -1.0
	for i := range r.hosts {
		u := (float64(Mix(r.hosts[i].key, slot)>>11) + 0.5) / (1 << 53)
		if score := -r.hosts[i].weight / math.Log(u); score > most {
			best, most = i, score
		}
	}
	return best
}
