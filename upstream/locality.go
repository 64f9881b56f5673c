package upstream

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// nearness says how near endpoints are to the source, as the service's own
// preferences or its policy want it. A nil nearness takes all alike.
type nearness struct {
	source *mesh.Workload
	mode   mesh.LocalityMode
	prefs  []string
	policy *mesh.LocalityPolicy // in place of the service's preferences; nil for none
	// weights are the percentages of the policy's "distribute" for this source, the
	// longest pattern first; nil for none.
	patterns []string
	weights  []uint32
}

// place is where an endpoint stands: how near it is, higher is nearer, and which of the
// policy's patterns it is counted for.
type place struct{ rank, group int }

func newNearness(v *mesh.Service, b *mesh.Balancer, source *mesh.Workload) *nearness {
	if source == nil {
		return nil
	}
	n := &nearness{source: source}
	if b != nil && b.Locality != nil {
		if b.Locality.Off {
			return nil
		}
		n.policy = b.Locality
		for _, d := range n.policy.Distribute {
			if matchLocality(d.From, source) {
				n.patterns = slices.SortedFunc(maps.Keys(d.To), func(a, b string) int {
					return cmp.Or(cmp.Compare(len(strings.TrimSuffix(b, "*")), len(strings.TrimSuffix(a, "*"))), strings.Compare(a, b))
				})
				for _, p := range n.patterns {
					n.weights = append(n.weights, d.To[p])
				}
				break
			}
		}
		return n
	}
	if v.Locality != mesh.LocalityFailover && v.Locality != mesh.LocalityStrict {
		return nil
	}
	n.mode, n.prefs = v.Locality, v.RoutingPreferences
	return n
}

// same reports whether both have the same source and want the same. The policy was compared already.
func (n *nearness) same(o *nearness) bool {
	if n == nil || o == nil {
		return n == o
	}
	a, b := n.source, o.source
	return n.mode == o.mode && slices.Equal(n.prefs, o.prefs) && (a == b || a.Network == b.Network && a.Region == b.Region &&
		a.Zone == b.Zone && a.Subzone == b.Subzone && a.Node == b.Node && a.ClusterID == b.ClusterID && maps.Equal(a.Labels, b.Labels))
}

// of returns where w stands; false when it is not to be used at all.
func (n *nearness) of(w *mesh.Workload) (place, bool) {
	switch {
	case n == nil:
		return place{}, true
	case n.patterns != nil:
		i := slices.IndexFunc(n.patterns, func(p string) bool { return matchLocality(p, w) })
		return place{group: i}, i >= 0 && n.weights[i] > 0
	case n.policy != nil:
		return place{rank: n.policyRank(w)}, true
	}
	r, ok := rank(n.mode, n.prefs, n.source, w)
	return place{rank: r}, ok
}

// policyRank follows Istio: how many of the labels of failoverPriority w shares from the first
// on; without them, how much of the locality, and of other regions the one that is named for failover first.
func (n *nearness) policyRank(w *mesh.Workload) int {
	if labels := n.policy.FailoverLabels; len(labels) > 0 {
		for i, l := range labels {
			key, want, fixed := strings.Cut(l, "=")
			if !fixed {
				want = labelOf(n.source, key)
			}
			if labelOf(w, key) != want {
				return i
			}
		}
		return len(labels)
	}
	switch s := n.source; {
	case w.Region != s.Region:
		if to, ok := n.policy.Failover[s.Region]; ok && to == w.Region {
			return 1
		}
		return 0
	case w.Zone != s.Zone:
		return 2
	case w.Subzone != s.Subzone:
		return 3
	}
	return 4
}

// labelOf is a label of w; those of its place are told by the place.
func labelOf(w *mesh.Workload, key string) string {
	switch key {
	case "topology.kubernetes.io/region":
		return w.Region
	case "topology.kubernetes.io/zone":
		return w.Zone
	case "topology.istio.io/subzone":
		return w.Subzone
	case "topology.istio.io/network":
		return w.Network
	case "topology.istio.io/cluster":
		return w.ClusterID
	case "kubernetes.io/hostname":
		return w.Node
	}
	return w.Labels[key]
}

// matchLocality reports whether w is in "region/zone/subzone", of which later
// parts may be missing and the last may be or end in "*".
func matchLocality(pattern string, w *mesh.Workload) bool {
	for _, part := range [...]string{w.Region, w.Zone, w.Subzone} {
		var want string
		var more bool
		want, pattern, more = strings.Cut(pattern, "/")
		if prefix, ok := strings.CutSuffix(want, "*"); ok {
			return strings.HasPrefix(part, prefix)
		}
		if want != part {
			return false
		}
		if !more {
			return true
		}
	}
	return true
}

// rank returns how much nearer w is to source than others, as the service wants it;
// false when w is not to be used at all. It follows ztunnel:
//
//   - the rank is the number of leading preferences in which both agree
//   - when the first preference is the network, agreeing in it outweighs all
//     others, and disagreeing does not end the comparison
//   - failover takes the highest rank there is, strict only agreement in all
func rank(mode mesh.LocalityMode, prefs []string, source, w *mesh.Workload) (int, bool) {
	all, n := true, 0
	if len(prefs) > 0 && prefs[0] == "NETWORK" {
		if agree("NETWORK", source, w) {
			n = len(prefs)
		} else {
			all = false
		}
		prefs = prefs[1:]
	}
	for _, p := range prefs {
		if !agree(p, source, w) {
			all = false
			break
		}
		n++
	}
	if mode == mesh.LocalityStrict {
		return 0, all
	}
	return n, true
}

func agree(scope string, a, b *mesh.Workload) bool {
	switch scope {
	case "NETWORK":
		return a.Network == b.Network
	case "REGION":
		return a.Region == b.Region
	case "ZONE":
		return a.Zone == b.Zone
	case "SUBZONE":
		return a.Subzone == b.Subzone
	case "NODE":
		return a.Node == b.Node
	case "CLUSTER":
		return a.ClusterID == b.ClusterID
	}
	return false
}

// places is where the endpoints of a cluster stand, by their position.
type places struct {
	by     *nearness
	level  []uint8 // nil where all are alike
	levels int
	groups []int // of by.weights; nil where nothing is distributed
}

// places turns ranks into levels, without those that nothing stands on.
func (n *nearness) places(at []place) places {
	p := places{by: n}
	if n.patterns != nil {
		for _, a := range at {
			p.groups = append(p.groups, a.group)
		}
		return p
	}
	var ranks []int
	for _, a := range at {
		if !slices.Contains(ranks, a.rank) {
			ranks = append(ranks, a.rank)
		}
	}
	if len(ranks) < 2 {
		return p
	}
	slices.SortFunc(ranks, func(a, b int) int { return cmp.Compare(b, a) })
	p.level, p.levels = make([]uint8, len(at)), min(len(ranks), math.MaxUint8)
	for i, a := range at {
		p.level[i] = uint8(min(slices.Index(ranks, a.rank), math.MaxUint8-1))
	}
	return p
}

// distribute scales the weights of the endpoints that are used, those above 0,
// so that each group's sum is its percentage. As in Envoy, a group of which less
// than 100/140 are healthy gets that much less.
func (p *places) distribute(c *Cluster, weights []float64) {
	if p.groups == nil {
		return
	}
	n := len(p.by.weights)
	sum, total, healthy := make([]float64, n), make([]int, n), make([]int, n)
	for i, e := range c.endpoints {
		g := p.groups[i]
		sum[g] += weights[i]
		if c.capacity(e) > 0 {
			total[g]++
			if c.state == nil || e.Healthy() {
				healthy[g]++
			}
		}
	}
	for i := range weights {
		g := p.groups[i]
		if sum[g] == 0 {
			continue
		}
		bears := 1.0
		if healthy[g] > 0 { // otherwise it is used because of panic
			bears = min(1, overprovisioned*float64(healthy[g])/float64(total[g])/100)
		}
		weights[i] *= float64(p.by.weights[g]) / sum[g] * bears
	}
}

// selects reports whether w is of the subset that p restricts a cluster to.
func selects(p *mesh.BackendPolicy, w *mesh.Workload) bool {
	if p == nil {
		return true
	}
	for k, v := range p.Subset {
		if got, ok := w.Labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
