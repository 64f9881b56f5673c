package mesh

import (
	"net/netip"
	"sort"
)

// Parts is what a source has gathered: everything a Snapshot is made of.
// Slices need no order. Pointers become part of the Snapshot and must not be
// written to afterwards.
type Parts struct {
	TrustDomain   string // "" means DefaultTrustDomain
	ClusterID     string
	ClusterDomain string // "" means "cluster.local"
	RootNamespace string // "" means "istio-system"
	Network       string

	Workloads   []*Workload
	Services    []*Service
	Waypoints   []*Waypoint
	Attachments []RouteAttachment
	Policies    []*AuthorizationPolicy
	PeerAuth    []*PeerAuthentication
	L4Policies  []*L4Policy
}

// Snapshot is one immutable state of the mesh. All methods may be called from
// any goroutine and do not allocate.
type Snapshot struct {
	Parts
	// Version counts published snapshots, from 1.
	Version uint64

	byUID      map[string]*Workload
	byAddr     map[netAddr]*Workload
	services   map[ServiceKey]*Service
	byHost     map[string][]*Service
	byVIP      map[netAddr][]*Service
	endpoints  map[ServiceKey][]Endpoint
	waypoints  map[Name]*Waypoint
	waypointAt map[netip.Addr]*Waypoint
	routes     map[ServiceKey][]RouteAttachment
}

type netAddr struct {
	network string
	addr    netip.Addr
}

// NewSnapshot indexes parts. It fails on nothing: what is contradictory was
// refused by the source; of two workloads on one address the better one wins,
// a pod with HBONE before a pod before any other, as ztunnel ranks them.
func NewSnapshot(version uint64, p Parts) *Snapshot {
	if p.TrustDomain == "" {
		p.TrustDomain = DefaultTrustDomain
	}
	if p.ClusterDomain == "" {
		p.ClusterDomain = "cluster.local"
	}
	if p.RootNamespace == "" {
		p.RootNamespace = "istio-system"
	}
	s := &Snapshot{
		Parts: p, Version: version,
		byUID: map[string]*Workload{}, byAddr: map[netAddr]*Workload{},
		services: map[ServiceKey]*Service{}, byHost: map[string][]*Service{}, byVIP: map[netAddr][]*Service{},
		endpoints: map[ServiceKey][]Endpoint{}, waypoints: map[Name]*Waypoint{},
		waypointAt: map[netip.Addr]*Waypoint{}, routes: map[ServiceKey][]RouteAttachment{},
	}
	sort.Slice(s.Workloads, func(i, j int) bool { return s.Workloads[i].UID < s.Workloads[j].UID })
	sort.Slice(s.Services, func(i, j int) bool { return s.Services[i].Key.String() < s.Services[j].Key.String() })
	for _, v := range s.Services {
		s.addService(v)
	}
	for _, w := range s.Workloads {
		s.addWorkload(w)
	}
	for _, w := range s.Waypoints {
		s.waypoints[w.Name] = w
		for _, a := range w.Addresses {
			s.waypointAt[a] = w
		}
	}
	for _, a := range s.Attachments {
		s.routes[a.Service] = append(s.routes[a.Service], a)
	}
	return s
}

func (s *Snapshot) addService(v *Service) {
	if old := s.services[v.Key]; old == nil || (v.Canonical && !old.Canonical) {
		s.services[v.Key] = v
	}
	s.byHost[v.Key.Hostname] = append(s.byHost[v.Key.Hostname], v)
	for _, a := range v.VIPs {
		k := netAddr{v.Network, a}
		s.byVIP[k] = append(s.byVIP[k], v)
	}
}

func (s *Snapshot) addWorkload(w *Workload) {
	s.byUID[w.UID] = w
	if !w.HostNetwork {
		for _, a := range w.Addresses {
			k := netAddr{w.Network, a}
			if old := s.byAddr[k]; old == nil || addressRank(w) > addressRank(old) {
				s.byAddr[k] = w
			}
		}
	}
	for key, ports := range w.Services {
		if v := s.services[key]; v != nil && (w.Ready || v.PublishNotReady) {
			s.endpoints[key] = append(s.endpoints[key], Endpoint{Workload: w, Ports: ports})
		}
	}
}

func addressRank(w *Workload) int {
	r := 0
	if w.Protocol == TunnelHBONE {
		r++
	}
	if isPodUID(w.UID) {
		r += 2
	}
	return r
}

func isPodUID(uid string) bool {
	const mark = "//Pod/"
	for i := 0; i+len(mark) <= len(uid); i++ {
		if uid[i:i+len(mark)] == mark {
			return true
		}
	}
	return false
}

// Workload returns the workload with that UID, or nil.
func (s *Snapshot) Workload(uid string) *Workload { return s.byUID[uid] }

// WorkloadAt returns the workload that owns addr in network, or nil.
func (s *Snapshot) WorkloadAt(network string, addr netip.Addr) *Workload {
	return s.byAddr[netAddr{network, addr}]
}

// Service returns the service with that key, or nil.
func (s *Snapshot) Service(k ServiceKey) *Service { return s.services[k] }

// ServiceAt returns the service that a client in clientNamespace means by
// addr, or nil. Of several, the client's own namespace wins, then a canonical
// one, then the first.
func (s *Snapshot) ServiceAt(network string, addr netip.Addr, clientNamespace string) *Service {
	return bestService(s.byVIP[netAddr{network, addr}], clientNamespace)
}

// ServiceByHost returns the service that a client in clientNamespace means by
// the full hostname, or nil, ranked as ServiceAt.
func (s *Snapshot) ServiceByHost(hostname, clientNamespace string) *Service {
	return bestService(s.byHost[hostname], clientNamespace)
}

func bestService(list []*Service, ns string) *Service {
	var best *Service
	for _, v := range list {
		switch {
		case v.Key.Namespace == ns:
			return v
		case best == nil, v.Canonical && !best.Canonical:
			best = v
		}
	}
	return best
}

// Endpoints returns the workloads behind a service that may get traffic,
// ordered by UID.
func (s *Snapshot) Endpoints(k ServiceKey) []Endpoint { return s.endpoints[k] }

// Waypoint returns the waypoint with that name, or nil.
func (s *Snapshot) Waypoint(n Name) *Waypoint { return s.waypoints[n] }

// WaypointAt returns the waypoint that listens on addr, or nil.
func (s *Snapshot) WaypointAt(addr netip.Addr) *Waypoint { return s.waypointAt[addr] }

// Routes returns what is attached to a service, in no particular order.
func (s *Snapshot) Routes(k ServiceKey) []RouteAttachment { return s.routes[k] }
