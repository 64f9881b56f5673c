package upstream

import (
	"math"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/upstream/lb"
)

// algorithm is one line of the list of balancing policies.
type algorithm struct {
	name string
	asks asks
	// slowStart is set for those that let new endpoints in gradually. Where keys have
	// their endpoints, one that is half in would move all that it gets twice.
	slowStart bool
	make      func(*ingredients) lb.Picker
}

// ingredients are what an algorithm is made of.
type ingredients struct {
	policy    *mesh.Balancer // nil for the default
	wanted    bool           // requests will ask: nothing is to be left to the first of them
	hosts     []lb.Host
	endpoints []*Endpoint
}

// algorithms are all balancing policies. Those that hash are built when they are first asked.
var algorithms = [...]algorithm{
	mesh.BalanceLeastRequest: {"LeastRequest", 0, true, func(i *ingredients) lb.Picker { return lb.NewLeastRequest(i.hosts) }},
	mesh.BalanceRoundRobin:   {"RoundRobin", 0, true, func(i *ingredients) lb.Picker { return lb.NewRoundRobin(i.hosts) }},
	mesh.BalanceRandom:       {"Random", 0, true, func(i *ingredients) lb.Picker { return lb.NewWeighted(i.hosts) }},
	mesh.BalanceRingHash: {"RingHash", asksKey, false, func(i *ingredients) lb.Picker {
		least, most := i.policy.RingMin, i.policy.RingMax
		return i.lazy(func(keys []uint64) lb.Picker { return lb.NewRingHash(i.hosts, keys, least, most) })
	}},
	mesh.BalanceMaglev: {"Maglev", asksKey, false, func(i *ingredients) lb.Picker {
		size := i.policy.TableSize
		return i.lazy(func(keys []uint64) lb.Picker { return lb.NewMaglev(i.hosts, keys, size) })
	}},
	mesh.BalanceRendezvous: {"Rendezvous", asksKey, false, func(i *ingredients) lb.Picker {
		return i.lazy(func(keys []uint64) lb.Picker { return lb.NewRendezvous(i.hosts, keys) })
	}},
	mesh.BalancePeakEWMA: {"PeakEWMA", asksTime, true, func(i *ingredients) lb.Picker {
		latency := make([]*lb.Latency, len(i.endpoints))
		for k, e := range i.endpoints {
			latency[k] = &e.live.latency
		}
		return lb.NewPeakEWMA(i.hosts, latency)
	}},
	// Where nothing stands at the address that was dialled, the least loaded of two is as good as any.
	mesh.BalancePassthrough: {"Passthrough", asksAddr, false, func(i *ingredients) lb.Picker { return lb.NewLeastRequest(i.hosts) }},
}

// algorithmOf returns the algorithm of b, which may be nil.
func algorithmOf(b *mesh.Balancer) *algorithm {
	if b == nil || b.Kind == mesh.BalanceDefault || int(b.Kind) >= len(algorithms) {
		return &algorithms[mesh.BalanceLeastRequest]
	}
	return &algorithms[b.Kind]
}

// BalancerName is what a balancing policy is called in dumps, for b nil the default.
func BalancerName(b *mesh.Balancer) string { return algorithmOf(b).name }

// lazy builds an algorithm that hashes when it is first asked.
func (i *ingredients) lazy(build func(keys []uint64) lb.Picker) lb.Picker {
	usable := false
	for k := range i.hosts {
		usable = usable || i.hosts[k].Weight > 0
	}
	if !usable {
		return build(make([]uint64, len(i.hosts)))
	}
	l := lb.NewLazy(func() lb.Picker {
		keys := make([]uint64, len(i.endpoints))
		for k, e := range i.endpoints {
			keys[k] = e.key()
		}
		return build(keys)
	})
	if i.wanted {
		l.Build()
	}
	return l
}

// asked reports whether requests have come to the cluster, as far as its algorithm remembers.
func (c *Cluster) asked() bool {
	if c == nil {
		return false
	}
	p := c.picker.Load()
	if p == nil {
		return false
	}
	list := []lb.Picker{*p}
	if s, ok := (*p).(*spill); ok {
		list = s.of
	}
	for _, p := range list {
		if l, ok := p.(*lb.Lazy); ok && l.Built() {
			return true
		}
	}
	return false
}

// key is the endpoint's own hash: the same in every process for as long as the workload lives.
func (e *Endpoint) key() uint64 { return lb.Mix(lb.Hash(e.Workload.UID), uint64(e.Port)) }

// only is the picker of a single host, as most services have in a large mesh of small ones.
type only struct{}

// Pick returns the host.
func (only) Pick(lb.Want) int { return 0 }

// theOnly is shared by all clusters of a single host.
var theOnly lb.Picker = only{}

// Refresh makes the cluster pick among the endpoints that are available now, and among
// all where fewer are healthy than the policy asks for ("panic"). It is for whoever
// changed an endpoint's availability, away from the path of requests; picking goes on
// meanwhile. It is safe for concurrent use.
func (c *Cluster) Refresh() { c.rebuild(c.asked()) }

// rebuild is Refresh; wanted says that requests come.
func (c *Cluster) rebuild(wanted bool) {
	c.refresh.Lock()
	defer c.refresh.Unlock()
	if c.more != nil && c.more.slow.since != nil {
		c.more.slow.tick(c, time.Now())
	}
	if c.state == nil && len(c.endpoints) == 1 && (c.Service == nil || c.endpoints[0].Workload.Capacity > 0) {
		c.picker.Store(&theOnly)
		return
	}
	p := c.newPicker(wanted)
	c.picker.Store(&p)
}

func (c *Cluster) newPicker(wanted bool) lb.Picker {
	levels := c.levels()
	if len(levels) == 1 {
		return c.levelPicker(&levels[0], wanted)
	}
	return newSpill(levels, c.asks&asksKey != 0, func(l *level) lb.Picker { return c.levelPicker(l, wanted) })
}

// levelPicker makes the algorithm over the endpoints of one level that may be used.
func (c *Cluster) levelPicker(l *level, wanted bool) lb.Picker {
	hosts := make([]lb.Host, len(c.endpoints))
	var exact []float64
	if c.more != nil {
		exact = c.more.weights(c, l)
	}
	var most float64
	for _, w := range exact {
		most = max(most, w)
	}
	for i, e := range c.endpoints {
		hosts[i].Active = &e.live.active
		switch {
		case !l.uses(c, e):
		case exact != nil && most > 0:
			hosts[i].Weight = uint32(max(1, math.Round(exact[i]/most*weightScale)))
		default:
			hosts[i].Weight = c.capacity(e)
		}
	}
	return algorithmOf(c.Balancer()).make(&ingredients{c.Balancer(), wanted, hosts, c.endpoints})
}

// weightScale is the weight of the heaviest where weights are not whole numbers:
// fine enough for a thousandth of it, and equal ones still cancel.
const weightScale = 1 << 20

// capacity is e's weight among its service's endpoints.
func (c *Cluster) capacity(e *Endpoint) uint32 {
	if c.Service == nil {
		return 1
	}
	return e.Workload.Capacity
}

// weights are the weights of the endpoints of l where they are not just their
// capacities; nil where they are. The one of an endpoint that is not used does not count.
func (m *more) weights(c *Cluster, l *level) []float64 {
	ramping := m.slow.ramping()
	if !ramping && m.places.groups == nil {
		return nil
	}
	out := make([]float64, len(c.endpoints))
	for i, e := range c.endpoints {
		if l.uses(c, e) {
			out[i] = float64(c.capacity(e))
			if ramping {
				out[i] *= m.slow.factor(i)
			}
		}
	}
	m.places.distribute(c, out)
	return out
}
