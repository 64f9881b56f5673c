package upstream

import (
	"math/rand/v2"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/upstream/lb"
)

// overprovisioned is how many percent of a level's load its endpoints can bear
// together: below 100/140 of them healthy, a part of the load goes to the next level. It is
// Envoy's default.
const overprovisioned = 140

// level is a set of endpoints that are equally near, and what of the load it takes.
type level struct {
	n              uint8 // its number; 0 is the nearest
	share          uint32
	total, healthy int
	available      int
	panic          bool // takes all, healthy or not
}

// uses reports whether e is of the level and may be picked there.
func (l *level) uses(c *Cluster, e *Endpoint) bool {
	switch {
	case c.capacity(e) == 0 || c.levelOf(e) != l.n:
		return false
	case c.state == nil || l.panic:
		return true
	case l.available == 0: // all that is healthy is busy
		return e.Healthy()
	}
	return e.Available()
}

// levelOf is the level of e, 0 where all are alike.
func (c *Cluster) levelOf(e *Endpoint) uint8 {
	if c.more == nil || c.more.places.level == nil {
		return 0
	}
	return c.more.places.level[e.position]
}

// Level is how near one of the cluster's endpoints is to the source: 0 for the nearest.
func (c *Cluster) Level(e *Endpoint) int { return int(c.levelOf(e)) }

// minHealth is the percentage of healthy endpoints below which all are used; 0 for never.
func minHealth(p *mesh.BackendPolicy) uint32 {
	if p == nil || p.Outlier == nil {
		return 0
	}
	return p.Outlier.MinHealthPercent
}

// levels are the levels that take a part of the load now, at least one. It is
// Envoy's computation: the nearest takes all while enough of it is healthy; what it cannot
// bear goes to the next, and so on; when all together cannot bear it, they share it by what
// they can. A level with fewer healthy endpoints than the policy asks for uses all of them, if the levels
// cannot bear the load together, or if it is the only one. As in Envoy nothing is left where
// nothing is healthy and the policy knows no such panic.
func (c *Cluster) levels() []level {
	n := 1
	if c.more != nil {
		n = max(1, c.more.places.levels)
	}
	all := make([]level, n)
	for i := range all {
		all[i].n = uint8(i)
	}
	for _, e := range c.endpoints {
		if c.capacity(e) == 0 {
			continue
		}
		l := &all[c.levelOf(e)]
		l.total++
		if c.state == nil || e.Healthy() {
			l.healthy++
		}
		if c.state == nil || e.Available() {
			l.available++
		}
	}
	bears, sum := make([]int, n), 0
	for i := range all {
		if l := &all[i]; l.total > 0 {
			bears[i] = min(100, overprovisioned*l.healthy/l.total)
			sum = min(100, sum+bears[i])
		}
	}
	least, inPanic := int(minHealth(c.backend)), 0
	for i := range all {
		l := &all[i]
		l.panic = (sum < 100 || n == 1) && l.healthy*100 < l.total*least
		if l.panic || l.total == 0 {
			inPanic++
		}
	}
	if inPanic == n { // by how many there are of each
		for i := range all {
			all[i].share = uint32(all[i].total)
		}
		return taking(all)
	}
	left := 100
	for i := range all {
		if sum > 0 {
			part := min(left, bears[i]*100/sum)
			all[i].share, left = uint32(part), left-part
		}
	}
	for i := range all { // what rounding has left
		if all[i].share > 0 {
			all[i].share += uint32(left)
			break
		}
	}
	return taking(all)
}

// taking leaves out levels that take nothing, but not the last one.
func taking(all []level) []level {
	out := make([]level, 0, len(all))
	for _, l := range all {
		if l.share > 0 {
			out = append(out, l)
		}
	}
	if len(out) == 0 {
		return all[:1]
	}
	return out
}

// spill is the algorithm over several levels: which level comes first, by their
// shares, then the endpoint.
type spill struct {
	upTo   []uint32 // the sum of the shares up to each
	of     []lb.Picker
	hashed bool // the level too goes by the key
}

func newSpill(levels []level, hashed bool, picker func(*level) lb.Picker) *spill {
	s := &spill{hashed: hashed}
	var sum uint32
	for i := range levels {
		sum += levels[i].share
		s.upTo, s.of = append(s.upTo, sum), append(s.of, picker(&levels[i]))
	}
	return s
}

// Pick returns an endpoint of one of the levels.
func (s *spill) Pick(w lb.Want) int {
	total := s.upTo[len(s.upTo)-1]
	var at uint32
	if s.hashed {
		at = uint32(lb.Mix(w.Key, 0) % uint64(total))
	} else {
		at = rand.Uint32N(total)
	}
	for i, end := range s.upTo {
		if at < end {
			return s.of[i].Pick(w)
		}
	}
	return -1
}
