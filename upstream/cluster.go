package upstream

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/upstream/lb"
)

// Options say how a Cluster is built.
type Options struct {
	// Registry holds the counters; with nil they are the cluster's own.
	Registry *Registry
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
	// Now is when endpoints that Previous lacks are taken to have come, for slow
	// start. Without Previous, all have been there for long.
	Now time.Time
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

	asks      asks
	backend   *mesh.BackendPolicy
	state     *ClusterState
	endpoints []*Endpoint
	picker    atomic.Pointer[lb.Picker] // of the endpoints that may be used
	refresh   sync.Mutex                // one at a time: the last one has seen every change
	more      *more                     // nil for most
	ids       atomic.Pointer[idTable]   // nil until Sessions
}

// more is what few clusters have.
type more struct {
	keys   *hashKeys
	places places
	slow   slowStart
	at     map[netip.AddrPort]*Endpoint // by their addresses, with their own port and the service's
}

// asks is what a cluster's algorithm goes by beside its endpoints.
type asks uint8

const (
	asksKey  asks = 1 << iota // a hash key
	asksTime                  // the time, and how long endpoints take to answer
	asksAddr                  // the address that the client dialled
)

// State returns what the cluster counts and knows of its endpoints, or nil.
func (c *Cluster) State() *ClusterState { return c.state }

// Endpoints returns the endpoints, ordered by UID. It must not be written to.
func (c *Cluster) Endpoints() []*Endpoint { return c.endpoints }

// Balancer returns the policy by which the cluster chooses; nil for the default.
func (c *Cluster) Balancer() *mesh.Balancer {
	if c.backend == nil {
		return nil
	}
	return c.backend.Balancer
}

// ForService builds the cluster of port of v. Endpoints that do not serve the
// port, that cannot be addressed, that are not of the policy's subset, or that strict
// locality preferences leave out, are not in it. It may be empty.
func ForService(s *mesh.Snapshot, v *mesh.Service, port uint16, o Options) *Cluster {
	c := &Cluster{Service: v, Port: port, Passthrough: v.Locality == mesh.LocalityPassthrough, backend: o.Backend, state: o.State}
	near := newNearness(v, c.Balancer(), o.Source)
	type candidate struct {
		workload *mesh.Workload
		port     uint16
		place    place
	}
	var list []candidate
	for _, e := range s.Endpoints(v.Key) {
		w := e.Workload
		target, ok := e.TargetPort(v, port)
		if !ok || v.Port(port) == nil || len(w.Addresses) == 0 && w.Hostname == "" || o.Only != nil && !o.Only(w) || !selects(o.Backend, w) {
			continue
		}
		if at, ok := near.of(w); ok {
			list = append(list, candidate{w, target, at})
		}
	}
	same := o.Previous.like(c, near) && slices.EqualFunc(o.Previous.endpoints, list, func(e *Endpoint, x candidate) bool {
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
	if near != nil {
		places := make([]place, len(list))
		for i := range list {
			places[i] = list[i].place
		}
		c.extra().places = near.places(places)
	}
	c.build(&o)
	return c
}

// ForWorkload builds the cluster of one workload's own port: a single endpoint,
// or none when the workload has no address. Its weight does not matter.
func ForWorkload(s *mesh.Snapshot, w *mesh.Workload, port uint16, o Options) *Cluster {
	c := &Cluster{Port: port, backend: o.Backend, state: o.State}
	if p := o.Previous; p.like(c, nil) && len(p.endpoints) == 1 && p.endpoints[0].Workload == w {
		return p
	}
	if len(w.Addresses) > 0 || w.Hostname != "" {
		c.endpoints = []*Endpoint{newEndpoint(o.Registry, w, port, nil, s.TrustDomain, nil)}
	}
	c.build(&o)
	return c
}

// like reports whether c, which may be nil, was built for the same thing as o,
// which is near to the same.
func (c *Cluster) like(o *Cluster, near *nearness) bool {
	return c != nil && c.Service == o.Service && c.Port == o.Port && c.state == o.state &&
		sameChoice(c.backend, o.backend) && c.nearness().same(near)
}

func (c *Cluster) nearness() *nearness {
	if c.more == nil {
		return nil
	}
	return c.more.places.by
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

func (c *Cluster) extra() *more {
	if c.more == nil {
		c.more = &more{}
	}
	return c.more
}

func (c *Cluster) build(o *Options) {
	for i, e := range c.endpoints {
		e.position = i
		if c.state != nil {
			e.monitor = c.state.monitors.get(endpointKey{e.Workload.UID, e.Port})
		}
	}
	if b := c.Balancer(); b != nil {
		c.asks = algorithmOf(b).asks
		if c.asks&asksKey != 0 {
			c.extra().keys = newHashKeys(b.Hash)
		}
		if b.SlowStart != nil && algorithmOf(b).slowStart {
			c.extra().slow.begin(c, b.SlowStart, o.Previous, o.Now)
		}
	}
	if c.Passthrough {
		c.asks |= asksAddr
	}
	if c.asks&asksAddr != 0 {
		at := make(map[netip.AddrPort]*Endpoint, 2*len(c.endpoints))
		for _, e := range c.endpoints {
			for _, a := range e.addresses {
				at[netip.AddrPortFrom(a.Addr.Addr(), c.Port)] = e
				at[a.Addr] = e
			}
		}
		c.extra().at = at
	}
	c.rebuild(o.Previous.asked())
}
