package source

import (
	"maps"
	"reflect"
	"slices"

	"cairnproxy.dev/cairn/mesh"
)

// reuse replaces the objects of next that equal those of prev by prev's own.
func reuse(prev, next *mesh.Parts) {
	reuseList(prev.Workloads, next.Workloads, func(w *mesh.Workload) string { return w.UID }, EqualWorkloads)
	reuseList(prev.Services, next.Services, func(v *mesh.Service) mesh.ServiceKey { return v.Key }, deepEqual[mesh.Service])
	reuseList(prev.Waypoints, next.Waypoints, func(w *mesh.Waypoint) mesh.Name { return w.Name }, deepEqual[mesh.Waypoint])
	reuseList(prev.Policies, next.Policies, func(p *mesh.AuthorizationPolicy) mesh.Name { return p.Name }, deepEqual[mesh.AuthorizationPolicy])
	reuseList(prev.PeerAuth, next.PeerAuth, func(p *mesh.PeerAuthentication) mesh.Name { return p.Name }, deepEqual[mesh.PeerAuthentication])
	reuseList(prev.L4Policies, next.L4Policies, func(p *mesh.L4Policy) mesh.Name { return p.Name }, deepEqual[mesh.L4Policy])
	reuseRoutes(prev.Attachments, next.Attachments)
}

func reuseList[T any, K comparable](prev, next []*T, key func(*T) K, equal func(a, b *T) bool) {
	if len(prev) == 0 {
		return
	}
	old := make(map[K]*T, len(prev))
	for _, v := range prev {
		old[key(v)] = v
	}
	for i, v := range next {
		if o := old[key(v)]; o != nil && (o == v || equal(o, v)) {
			next[i] = o
		}
	}
}

// routeKey tells routes apart: one rule may be attached in two forms, with and
// without host names.
type routeKey struct {
	object mesh.Name
	rule   int
	hosts  bool
}

func reuseRoutes(prev, next []mesh.RouteAttachment) {
	if len(prev) == 0 {
		return
	}
	old := make(map[routeKey]*mesh.Route, len(prev))
	for _, a := range prev {
		old[routeKey{a.Route.Object, a.Route.Rule, len(a.Route.Hostnames) > 0}] = a.Route
	}
	same := map[*mesh.Route]*mesh.Route{} // a route attached to many services is compared once
	for i := range next {
		r := next[i].Route
		k, seen := same[r]
		if !seen {
			k = r
			if o := old[routeKey{r.Object, r.Rule, len(r.Hostnames) > 0}]; o != nil && reflect.DeepEqual(o, r) {
				k = o
			}
			same[r] = k
		}
		next[i].Route = k
	}
}

func deepEqual[T any](a, b *T) bool { return reflect.DeepEqual(a, b) }

// EqualWorkloads is reflect.DeepEqual by hand: there may be 100,000 workloads,
// and reflection takes ten times as long.
func EqualWorkloads(a, b *mesh.Workload) bool {
	return a.UID == b.UID && a.Name == b.Name && a.Namespace == b.Namespace &&
		a.ServiceAccount == b.ServiceAccount && a.TrustDomain == b.TrustDomain &&
		slices.Equal(a.Addresses, b.Addresses) && a.Hostname == b.Hostname &&
		a.Network == b.Network && a.ClusterID == b.ClusterID && a.Node == b.Node &&
		a.Protocol == b.Protocol && a.HostNetwork == b.HostNetwork &&
		maps.Equal(a.Labels, b.Labels) &&
		a.CanonicalName == b.CanonicalName && a.CanonicalRevision == b.CanonicalRevision &&
		a.WorkloadName == b.WorkloadName && a.WorkloadType == b.WorkloadType &&
		a.Region == b.Region && a.Zone == b.Zone && a.Subzone == b.Subzone &&
		a.Ready == b.Ready && a.Capacity == b.Capacity &&
		equalRef(a.Waypoint, b.Waypoint) &&
		maps.EqualFunc(a.Services, b.Services, maps.Equal[map[uint16]uint16]) &&
		slices.Equal(a.Policies, b.Policies) && maps.Equal(a.NamedPorts, b.NamedPorts) &&
		a.ServiceAccountWaypoint == b.ServiceAccountWaypoint && a.IsWaypoint == b.IsWaypoint &&
		a.Origin == b.Origin
}

func equalRef(a, b *mesh.WaypointRef) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
