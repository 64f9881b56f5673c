package source

import (
	"maps"
	"reflect"
	"slices"

	"cairnproxy.dev/cairn/mesh"
)

// reuse replaces the objects of next that equal those of prev by prev's own.
func reuse(prev *mesh.Snapshot, next *mesh.Parts) {
	was := prev.Given()
	reuseList(was.Workloads, next.Workloads, func(w *mesh.Workload) *mesh.Workload { return prev.Workload(w.UID) }, EqualWorkloads)
	reuseList(was.Services, next.Services, func(v *mesh.Service) *mesh.Service { return prev.Service(v.Key) }, deepEqual[mesh.Service])
	reuseList(was.Waypoints, next.Waypoints, func(w *mesh.Waypoint) *mesh.Waypoint { return prev.Waypoint(w.Name) }, deepEqual[mesh.Waypoint])
	reuseList(was.Policies, next.Policies, byName(was.Policies, func(p *mesh.AuthorizationPolicy) mesh.Name { return p.Name }), deepEqual[mesh.AuthorizationPolicy])
	reuseList(was.PeerAuth, next.PeerAuth, byName(was.PeerAuth, func(p *mesh.PeerAuthentication) mesh.Name { return p.Name }), deepEqual[mesh.PeerAuthentication])
	reuseList(was.Access, next.Access, byName(was.Access, func(p *mesh.AccessPolicy) mesh.Name { return p.Name }), deepEqual[mesh.AccessPolicy])
	reuseList(was.RequestAuth, next.RequestAuth, byName(was.RequestAuth, func(p *mesh.RequestAuthentication) mesh.Name { return p.Name }), deepEqual[mesh.RequestAuthentication])
	reuseList(was.L4Policies, next.L4Policies, byName(was.L4Policies, func(p *mesh.L4Policy) mesh.Name { return p.Name }), deepEqual[mesh.L4Policy])
	type of struct {
		kind   string
		object mesh.Name
	}
	reuseList(was.Statuses, next.Statuses, byName(was.Statuses, func(s *mesh.Status) of { return of{s.Kind, s.Object} }), deepEqual[mesh.Status])
	reuseRoutes(was.Attachments, next.Attachments)
}

// reuseList looks for the predecessors of what does not stand in its place
// already, as most of a list does from the beginning and from the end.
func reuseList[T any](prev, next []*T, predecessor func(*T) *T, equal func(a, b *T) bool) {
	if len(prev) == 0 {
		return
	}
	for len(prev) > 0 && len(next) > 0 && prev[0] == next[0] {
		prev, next = prev[1:], next[1:]
	}
	for len(prev) > 0 && len(next) > 0 && prev[len(prev)-1] == next[len(next)-1] {
		prev, next = prev[:len(prev)-1], next[:len(next)-1]
	}
	for i, v := range next {
		if o := predecessor(v); o != nil && (o == v || equal(o, v)) {
			next[i] = o
		}
	}
}

// byName finds objects of a list by their names. It looks at the list when it
// is first asked.
func byName[T any, N comparable](list []*T, name func(*T) N) func(*T) *T {
	var known map[N]*T
	return func(v *T) *T {
		if known == nil {
			known = make(map[N]*T, len(list))
			for _, o := range list {
				known[name(o)] = o
			}
		}
		return known[name(v)]
	}
}

// routeKey tells routes apart: one rule may be attached in two forms, with and
// without host names.
type routeKey struct {
	kind   mesh.RouteKind
	object mesh.Name
	rule   int
	hosts  bool
}

func keyOf(r *mesh.Route) routeKey { return routeKey{r.Kind, r.Object, r.Rule, len(r.Hostnames) > 0} }

// reuseRoutes does what reuseList does, for the routes of attachments.
func reuseRoutes(prev, next []mesh.RouteAttachment) {
	for len(prev) > 0 && len(next) > 0 && prev[0] == next[0] {
		prev, next = prev[1:], next[1:]
	}
	for len(prev) > 0 && len(next) > 0 && prev[len(prev)-1] == next[len(next)-1] {
		prev, next = prev[:len(prev)-1], next[:len(next)-1]
	}
	if len(prev) == 0 || len(next) == 0 {
		return
	}
	old := make(map[routeKey]*mesh.Route, len(prev))
	for _, a := range prev {
		old[keyOf(a.Route)] = a.Route
	}
	same := map[*mesh.Route]*mesh.Route{} // a route attached to many services is compared once
	for i := range next {
		r := next[i].Route
		k, seen := same[r]
		if !seen {
			k = r
			if o := old[keyOf(r)]; o != nil && (o == r || reflect.DeepEqual(o, r)) {
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
		a.ServiceAccountWaypoint == b.ServiceAccountWaypoint && a.IsWaypoint == b.IsWaypoint && a.WaypointOptional == b.WaypointOptional &&
		a.Origin == b.Origin
}

func equalRef(a, b *mesh.WaypointRef) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
