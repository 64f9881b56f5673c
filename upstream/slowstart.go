package upstream

import (
	"math"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// slowStart raises the weights of new endpoints over a time, as Envoy does:
//
//	weight × max(least, (age / window) ^ (1 / aggression))
//
// An endpoint is new when the cluster before did not have it, and again after
// health checks have found it well that had found it ill. A cluster's first endpoints are not:
// there would be nobody to spare them. Weights follow the time in steps, by Refresh.
type slowStart struct {
	window time.Duration
	power  float64
	least  float64
	since  []int64 // by position, nanoseconds of the Unix clock; 0: for long
	ill    []bool
	now    int64 // of the weights in force
	warm   atomic.Bool
}

// begin takes over what prev, which may be nil, knows of c's endpoints.
func (s *slowStart) begin(c *Cluster, p *mesh.SlowStart, prev *Cluster, now time.Time) {
	s.window, s.power, s.least = p.Window, 1, 0.1
	if p.Aggression > 0 {
		s.power = 1 / p.Aggression
	}
	if p.MinPercent > 0 {
		s.least = float64(min(p.MinPercent, 100)) / 100
	}
	s.since, s.ill = make([]int64, len(c.endpoints)), make([]bool, len(c.endpoints))
	if prev == nil {
		return
	}
	prev.refresh.Lock()
	defer prev.refresh.Unlock()
	known := make(map[endpointKey]int64, len(prev.endpoints))
	for i, e := range prev.endpoints {
		known[endpointKey{e.Workload.UID, e.Port}] = 0
		if prev.more != nil && prev.more.slow.since != nil {
			known[endpointKey{e.Workload.UID, e.Port}] = prev.more.slow.since[i]
		}
	}
	for i, e := range c.endpoints {
		at, ok := known[endpointKey{e.Workload.UID, e.Port}]
		if !ok && !now.IsZero() && len(known) > 0 {
			at = now.UnixNano()
		}
		s.since[i] = at
	}
}

// tick notes the time and who has recovered.
func (s *slowStart) tick(c *Cluster, now time.Time) {
	s.now = now.UnixNano()
	for i, e := range c.endpoints {
		ill := e.Condition() == "unhealthy"
		if s.ill[i] && !ill {
			s.since[i] = s.now
		}
		s.ill[i] = ill
		if s.since[i] != 0 && s.now-s.since[i] >= int64(s.window) {
			s.since[i] = 0
		}
	}
	s.warm.Store(s.ramping())
}

func (s *slowStart) ramping() bool {
	for _, at := range s.since {
		if at != 0 {
			return true
		}
	}
	return false
}

// factor is what of its weight the endpoint at a position has now.
func (s *slowStart) factor(i int) float64 {
	if s.since[i] == 0 || s.window <= 0 {
		return 1
	}
	age := max(s.now-s.since[i], 0)
	f := min(1, max(s.least, math.Pow(float64(age)/float64(s.window), s.power)))
	return math.Round(f*100) / 100 // whole percents: equal ones cancel
}

// Warming reports whether endpoints of the cluster are new, so that Refresh is
// to be called now and then to raise their weights.
func (c *Cluster) Warming() bool {
	return c.more != nil && c.more.slow.warm.Load()
}
