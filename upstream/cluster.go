package upstream

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"sync/atomic"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/upstream/lb"
)

// Policy is a balancing policy.
type Policy uint8

const (
	// LeastRequest, the default, takes the less loaded of two random endpoints.
	LeastRequest Policy = iota
	// RoundRobin takes the endpoints in turn.
	RoundRobin
	// Random takes any, by weight. It is what ztunnel does.
	Random
)

// policies makes the picker of each policy.
var policies = [...]func([]lb.Host) lb.Picker{
	LeastRequest: func(h []lb.Host) lb.Picker { return lb.NewLeastRequest(h) },
	RoundRobin:   func(h []lb.Host) lb.Picker { return lb.NewRoundRobin(h) },
	Random:       func(h []lb.Host) lb.Picker { return lb.NewWeighted(h) },
}

// Options say how a Cluster is built.
type Options struct {
	// Registry holds the counters; with nil they are the cluster's own.
	Registry *Registry
	Policy   Policy
	// Backend is the policy in force on the way to the cluster's endpoints; nil for none.
	Backend *mesh.BackendPolicy
	// State is what the cluster counts and knows of its endpoints; nil where its policy
	// asks for nothing of the kind.
	State *ClusterState
	// Source is the client, or the proxy itself, for services that prefer
	// endpoints near it; nil takes all endpoints alike.
	Source *mesh.Workload
	// Only, if set, leaves out workloads that it says no to: for a proxy that
	// serves some workloads alone.
	Only func(*mesh.Workload) bool
	// Previous is the cluster that served the same purpose in the snapshot
	// before. It is returned again, with its place in the round, when nothing
	// of it changed.
	Previous *Cluster
}

// Cluster is the set of endpoints behind one port of a service, or behind one
// port of a workload.
type Cluster struct {
	// Service is nil for a workload's own cluster.
	Service *mesh.Service
	Port    uint16
	// Passthrough is set for services whose connections go where the client
	// dialled; such a cluster has its endpoints nevertheless.
	Passthrough bool

	policy    Policy
	backend   *mesh.BackendPolicy
	state     *ClusterState
	endpoints []*Endpoint
	picker    atomic.Pointer[lb.Picker] // of the endpoints that may be used
}

// State returns what the cluster counts and knows of its endpoints, or nil.
func (c *Cluster) State() *ClusterState { return c.state }

// ForService builds the cluster of port of v. Endpoints that do not serve the
// port, that cannot be addressed, or that the service's locality preferences
// leave out, are not in it. It may be empty.
func ForService(s *mesh.Snapshot, v *mesh.Service, port uint16, o Options) *Cluster {
	c := &Cluster{Service: v, Port: port, Passthrough: v.Locality == mesh.LocalityPassthrough, policy: o.Policy, backend: o.Backend, state: o.State}
	type candidate struct {
		workload *mesh.Workload
		port     uint16
	}
	var list []candidate
	best := 0
	for _, e := range s.Endpoints(v.Key) {
		w := e.Workload
		target, ok := e.TargetPort(v, port)
		if !ok || v.Port(port) == nil || len(w.Addresses) == 0 && w.Hostname == "" || o.Only != nil && !o.Only(w) {
			continue
		}
		rank, ok := rank(v, o.Source, w)
		switch {
		case !ok || rank < best:
			continue
		case rank > best:
			best, list = rank, list[:0]
		}
		list = append(list, candidate{w, target})
	}
	same := o.Previous.like(c) && slices.EqualFunc(o.Previous.endpoints, list, func(e *Endpoint, x candidate) bool {
		return e.Workload == x.workload && e.Port == x.port
	})
	if same {
		return o.Previous
	}
	c.endpoints = make([]*Endpoint, len(list))
	var last *Endpoint // most are of one account
	for i, x := range list {
		last = newEndpoint(o.Registry, x.workload, x.port, v.SubjectAltNames, s.TrustDomain, last)
		c.endpoints[i] = last
	}
	c.build()
	return c
}

// ForWorkload builds the cluster of one workload's own port: a single endpoint,
// or none when the workload has no address. Its weight does not matter.
func ForWorkload(s *mesh.Snapshot, w *mesh.Workload, port uint16, o Options) *Cluster {
	c := &Cluster{Port: port, policy: o.Policy, backend: o.Backend, state: o.State}
	if p := o.Previous; p.like(c) && len(p.endpoints) == 1 && p.endpoints[0].Workload == w {
		return p
	}
	if len(w.Addresses) > 0 || w.Hostname != "" {
		c.endpoints = []*Endpoint{newEndpoint(o.Registry, w, port, nil, s.TrustDomain, nil)}
	}
	c.build()
	return c
}

// like reports whether c, which may be nil, was built for the same thing as o.
func (c *Cluster) like(o *Cluster) bool {
	return c != nil && c.Service == o.Service && c.Port == o.Port && c.policy == o.policy &&
		c.state == o.state && sameChoice(c.backend, o.backend)
}

// sameChoice reports whether two policies say the same of which endpoints there
// are and how one is chosen.
func sameChoice(a, b *mesh.BackendPolicy) bool {
	if a == b {
		return true
	}
	var none mesh.BackendPolicy
	a, b = cmp.Or(a, &none), cmp.Or(b, &none)
	return reflect.DeepEqual(a.Balancer, b.Balancer) && maps.Equal(a.Subset, b.Subset) && minHealth(a) == minHealth(b)
}

// minHealth is the percentage of healthy endpoints below which all are used; 0 for never.
func minHealth(p *mesh.BackendPolicy) uint32 {
	if p == nil || p.Outlier == nil {
		return 0
	}
	return p.Outlier.MinHealthPercent
}

// only is the picker of a single host, as most services have in a large mesh of small ones.
type only struct{}

// Pick returns the host.
func (only) Pick(lb.Want) int { return 0 }

func (c *Cluster) build() {
	for i, e := range c.endpoints {
		e.position = i
		if c.state != nil {
			e.monitor = c.state.monitors.get(endpointKey{e.Workload.UID, e.Port})
		}
	}
	c.Refresh()
}

// Refresh makes the cluster pick among the endpoints that are available now, and among
// all where fewer are healthy than the policy asks for ("panic"). It is for whoever changed an endpoint's availability, away from
// the path of requests; picking goes on meanwhile. It is safe for concurrent use.
func (c *Cluster) Refresh() {
	p := c.newPicker()
	c.picker.Store(&p)
}

// theOnly is shared by all clusters of a single host.
var theOnly lb.Picker = only{}

func (c *Cluster) newPicker() lb.Picker {
	if c.state == nil && len(c.endpoints) == 1 && (c.Service == nil || c.endpoints[0].Workload.Capacity > 0) {
		return theOnly
	}
	use := c.usable()
	hosts := make([]lb.Host, len(c.endpoints))
	for i, e := range c.endpoints {
		hosts[i] = lb.Host{Weight: e.Workload.Capacity, Active: &e.live.active}
		switch {
		case c.state != nil && !use(e):
			hosts[i].Weight = 0
		case c.Service == nil:
			hosts[i].Weight = 1
		}
	}
	picker := policies[LeastRequest]
	if int(c.policy) < len(policies) {
		picker = policies[c.policy]
	}
	return picker(hosts)
}

// usable returns which endpoints may be picked: those available; busy ones where
// all healthy ones are; and all of them where too few are healthy. As in Envoy, no endpoint is
// left when all are unhealthy and the policy knows no panic.
func (c *Cluster) usable() func(*Endpoint) bool {
	if c.state == nil {
		return func(*Endpoint) bool { return true }
	}
	total, healthy, available := 0, 0, 0
	for _, e := range c.endpoints {
		if e.Workload.Capacity == 0 && c.Service != nil {
			continue
		}
		total++
		if e.Healthy() {
			healthy++
		}
		if e.Available() {
			available++
		}
	}
	switch {
	case healthy*100 < total*int(minHealth(c.backend)):
		return func(*Endpoint) bool { return true }
	case available == 0:
		return (*Endpoint).Healthy
	default:
		return (*Endpoint).Available
	}
}

// Endpoints returns the endpoints, ordered by UID. It must not be written to.
func (c *Cluster) Endpoints() []*Endpoint { return c.endpoints }

// Hint is what a request knows about which endpoint it wants. The zero Hint
// wants any.
type Hint struct {
	excluded [4]*Endpoint
	n        int
}

// Exclude asks for endpoints other than e, which did not work. The last four count.
func (h *Hint) Exclude(e *Endpoint) {
	h.excluded[h.n%len(h.excluded)] = e
	h.n++
}

func (h *Hint) excludes(e *Endpoint) bool {
	for _, x := range h.excluded[:min(h.n, len(h.excluded))] {
		if x.Same(e) {
			return true
		}
	}
	return false
}

// Pick returns an endpoint, or nil when there is none to be had: the caller
// answers 503 with the flag UH. hint may be nil. When all endpoints are excluded, one of
// them is returned all the same.
func (c *Cluster) Pick(hint *Hint) *Endpoint {
	picker := *c.picker.Load()
	i := picker.Pick(lb.Want{})
	if i < 0 {
		return nil
	}
	if hint == nil || hint.n == 0 || !hint.excludes(c.endpoints[i]) {
		return c.endpoints[i]
	}
	for range 3 {
		if j := picker.Pick(lb.Want{}); !hint.excludes(c.endpoints[j]) {
			return c.endpoints[j]
		}
	}
	for k := range c.endpoints {
		e := c.endpoints[(i+k)%len(c.endpoints)]
		if e.Workload.Capacity > 0 && e.Available() && !hint.excludes(e) {
			return e
		}
	}
	return c.endpoints[i]
}

// Split chooses among the backends of a rule by their weights.
type Split struct{ random *lb.Weighted }

// NewSplit makes a Split of backends with these weights.
func NewSplit(weights []uint32) *Split {
	hosts := make([]lb.Host, len(weights))
	for i, w := range weights {
		hosts[i].Weight = w
	}
	return &Split{lb.NewWeighted(hosts)}
}

// Pick returns the index of a backend, at random by weight; -1 when there is
// none, or when all weights are 0: the caller answers 500, as Gateway API asks.
func (s *Split) Pick() int { return s.random.Pick(lb.Want{}) }
