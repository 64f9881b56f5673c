package mesh

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Parts is what a source has gathered: everything a Snapshot is made of.
// Slices need no order. Pointers become part of the Snapshot and must not be
// written to afterwards.
type Parts struct {
	TrustDomain string // "" means DefaultTrustDomain
	// TrustDomainAliases are former or other names of the mesh's trust domain: who
	// has an identity of theirs counts as one of ours.
	TrustDomainAliases []string
	ClusterID          string
	ClusterDomain      string // "" means "cluster.local"
	RootNamespace      string // "" means "istio-system"
	Network            string

	Workloads   []*Workload
	Services    []*Service
	Waypoints   []*Waypoint
	Attachments []RouteAttachment
	Policies    []*AuthorizationPolicy
	PeerAuth    []*PeerAuthentication
	Access      []*AccessPolicy
	RequestAuth []*RequestAuthentication
	L4Policies  []*L4Policy
	// Statuses are what became of routes and policies, in the order of kind and name.
	Statuses []*Status
}

// Snapshot is one immutable state of the mesh. All methods may be called from
// any goroutine and do not allocate.
type Snapshot struct {
	// Parts are as they were given, but for Workloads and Services, which are in
	// the order of their names.
	Parts
	// Version counts published snapshots, from 1.
	Version uint64

	// workloadSeq and serviceSeq are the lists in the order in which they were
	// given: where most of the next ones are the same, so is most of their order.
	workloadSeq []*Workload
	serviceSeq  []*Service

	byUID      Index[string, *Workload]
	byAddr     Index[netAddr, *Workload]
	contested  Index[netAddr, bool] // addresses of several workloads
	services   Index[ServiceKey, *Service]
	byHost     Index[string, []*Service]
	byVIP      Index[netAddr, []*Service]
	endpoints  Index[ServiceKey, []Endpoint]
	routes     Index[ServiceKey, []RouteAttachment]
	waypoints  map[Name]*Waypoint
	waypointAt map[netip.Addr]*Waypoint
}

type netAddr struct {
	network string
	addr    netip.Addr
}

// NewSnapshot indexes parts. It fails on nothing: what is contradictory was
// refused by the source; of two workloads on one address the better one wins,
// a pod with HBONE before a pod before any other, as ztunnel ranks them.
func NewSnapshot(version uint64, p Parts) *Snapshot {
	s := begin(version, p)
	s.Workloads, s.Services = slices.Clone(p.Workloads), slices.Clone(p.Services)
	slices.SortStableFunc(s.Workloads, byWorkloadUID)
	slices.SortStableFunc(s.Services, byServiceKey)
	b := s.edit()
	for _, v := range s.Services {
		b.addService(v)
	}
	for _, w := range s.Workloads {
		b.addWorkload(w)
	}
	b.routesOf(nil)
	b.done()
	return s
}

// begin makes a Snapshot of what needs no index, or a small one.
func begin(version uint64, p Parts) *Snapshot {
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
		Parts: p, Version: version, workloadSeq: p.Workloads, serviceSeq: p.Services,
		waypoints: make(map[Name]*Waypoint, len(p.Waypoints)), waypointAt: make(map[netip.Addr]*Waypoint, len(p.Waypoints)),
	}
	for _, w := range p.Waypoints {
		s.waypoints[w.Name] = w
		for _, a := range w.Addresses {
			s.waypointAt[a] = w
		}
	}
	return s
}

func byWorkloadUID(a, b *Workload) int { return strings.Compare(a.UID, b.UID) }

func byServiceKey(a, b *Service) int { return a.Key.compare(b.Key) }

// compare orders keys by namespace, then by host.
func (k ServiceKey) compare(o ServiceKey) int {
	return cmp.Or(strings.Compare(k.Namespace, o.Namespace), strings.Compare(k.Hostname, o.Hostname))
}

// before reports whether w has the better claim on an address that both have.
func before(w, old *Workload) bool {
	a, b := addressRank(w), addressRank(old)
	return a > b || a == b && w.UID < old.UID
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
func (s *Snapshot) Workload(uid string) *Workload { return s.byUID.At(uid) }

// WorkloadAt returns the workload that owns addr in network, or nil.
func (s *Snapshot) WorkloadAt(network string, addr netip.Addr) *Workload {
	return s.byAddr.At(netAddr{network, addr})
}

// Service returns the service with that key, or nil.
func (s *Snapshot) Service(k ServiceKey) *Service { return s.services.At(k) }

// ServiceAt returns the service that a client in clientNamespace means by
// addr, or nil. Of several, the client's own namespace wins, then a canonical
// one, then the first.
func (s *Snapshot) ServiceAt(network string, addr netip.Addr, clientNamespace string) *Service {
	return bestService(s.byVIP.At(netAddr{network, addr}), clientNamespace)
}

// ServiceByHost returns the service that a client in clientNamespace means by
// the full hostname, or nil, ranked as ServiceAt.
func (s *Snapshot) ServiceByHost(hostname, clientNamespace string) *Service {
	return bestService(s.byHost.At(hostname), clientNamespace)
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
func (s *Snapshot) Endpoints(k ServiceKey) []Endpoint { return s.endpoints.At(k) }

// Waypoint returns the waypoint with that name, or nil.
func (s *Snapshot) Waypoint(n Name) *Waypoint { return s.waypoints[n] }

// WaypointAt returns the waypoint that listens on addr, or nil.
func (s *Snapshot) WaypointAt(addr netip.Addr) *Waypoint { return s.waypointAt[addr] }

// Routes returns what is attached to a service, in no particular order.
func (s *Snapshot) Routes(k ServiceKey) []RouteAttachment { return s.routes.At(k) }
