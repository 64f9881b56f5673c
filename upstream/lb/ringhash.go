package lb

import (
	"cmp"
	"math"
	"slices"
)

// Bounds of a ring's size where nothing is said, as Envoy has them.
const (
	DefaultRingMin = 1024
	DefaultRingMax = 8 << 20
)

// RingHash gives each host a number of points on a ring of hashes, in
// proportion to its weight; a key belongs to the next point ("ketama"). It takes
// the logarithm of the ring's size to find it. Hosts' shares differ from their weights by
// about one part in the square root of a host's points: a larger ring is fairer.
type RingHash struct {
	points []uint64 // in order
	hosts  []uint32 // whose they are
}

// NewRingHash makes a RingHash. keys are the hosts' own hashes, which stay the same
// as hosts come and go. The ring has at least least points in total, and the
// lightest host one, but there are not more than most; 0 takes the defaults.
//
// Points for a weight are a power of two, 512 for a host of mean weight and fewer only
// in large clusters. So the ring is larger than it must be, where Envoy's is just so large; but when a
// host goes, the others keep their points, and only its own keys move.
func NewRingHash(hosts []Host, keys []uint64, least, most uint64) *RingHash {
	if least == 0 {
		least = DefaultRingMin
	}
	if most == 0 {
		most = DefaultRingMax
	}
	most = min(most, math.MaxUint32)
	least = min(least, most)
	s := spreadOf(hosts)
	if len(s.usable) == 0 {
		return &RingHash{}
	}
	lightest := s.total
	for _, u := range s.usable {
		lightest = min(lightest, uint64(hosts[u].Weight))
	}
	scale := 1.0 // points for a weight of 1
	total := float64(s.total)
	mean := total / float64(len(s.usable))
	enough := pointsOf(len(s.usable))
	for mean*scale >= 2*enough && float64(lightest)*scale >= 2 {
		scale /= 2
	}
	for mean*scale < enough || total*scale < float64(least) || float64(lightest)*scale < 1 {
		scale *= 2
	}
	for total*scale > float64(most) {
		scale /= 2
	}
	type point struct {
		at   uint64
		host uint32
	}
	ring := make([]point, 0, int(total*scale)+1)
	var sum, given float64 // running, so that roundings do not add up
	for _, u := range s.usable {
		sum += float64(hosts[u].Weight) * scale
		for i := uint64(0); given < sum; i++ {
			ring = append(ring, point{Mix(keys[u], i), uint32(u)})
			given++
		}
	}
	slices.SortFunc(ring, func(a, b point) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(keys[a.host], keys[b.host]))
	})
	r := &RingHash{make([]uint64, len(ring)), make([]uint32, len(ring))}
	for i, p := range ring {
		r.points[i], r.hosts[i] = p.at, p.host
	}
	return r
}

// pointsOf is how many points a host of mean weight has at least. It must not follow
// the number of hosts closely: where the points of those that stay changed with each one that goes,
// its keys would not be the only ones to move.
func pointsOf(hosts int) float64 {
	switch {
	case hosts <= 16:
		return 512
	case hosts <= 256:
		return 128
	case hosts <= 4096:
		return 32
	}
	return 8
}

// Pick returns the host of the key.
func (r *RingHash) Pick(w Want) int {
	if len(r.points) == 0 {
		return -1
	}
	lo, hi := 0, len(r.points)
	for lo < hi {
		if mid := int(uint(lo+hi) >> 1); r.points[mid] < w.Key {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == len(r.points) {
		lo = 0
	}
	return int(r.hosts[lo])
}
