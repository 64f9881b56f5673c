package object

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"cairnproxy.dev/cairn/mesh"
)

// HTTPRoutes and GRPCRoutes are not merged: where one of each is attached to the same
// service, port and host name, the older one is accepted alone, or the first by
// namespace and name (GRPCRouteSpec.Hostnames).

// contender is what one parentRef of an HTTPRoute or a GRPCRoute brings to a service.
type contender struct {
	route, parent int // indexes
	kind          mesh.RouteKind
	port          uint16
	waypoint      mesh.Name
	hosts         []string
}

// arena is where contenders meet: the producer's routes of a service, or those of one consumer.
type arena struct {
	service  mesh.ServiceKey
	consumer string
}

// loss is a contender that has lost at a service.
type loss struct {
	route, parent int
	service       mesh.ServiceKey
}

// attachRoutes attaches all routes but those that lose to another.
func (t *translator) attachRoutes(list []attachedRoute) {
	lost := contest(list)
	for i, r := range list {
		for j, p := range r.parents {
			for _, a := range p.attachments {
				if _, no := lost[loss{i, j, a.Service}]; !no {
					t.parts.Attachments = append(t.parts.Attachments, a)
				}
			}
		}
	}
	losers := map[int]map[int][]loss{}
	for l := range lost {
		if losers[l.route] == nil {
			losers[l.route] = map[int][]loss{}
		}
		losers[l.route][l.parent] = append(losers[l.route][l.parent], l)
	}
	for _, i := range slices.Sorted(maps.Keys(losers)) {
		t.tellLosses(list, i, losers[i], lost)
	}
}

// tellLosses says at each parent of a route where it has lost, and to which other.
func (t *translator) tellLosses(list []attachedRoute, route int, losses map[int][]loss, lost map[loss]int) {
	r := &list[route]
	parents := slices.Clone(t.statuses[objectKey{r.obj.Kind, r.obj.Name}].Parents)
	for _, j := range slices.Sorted(maps.Keys(losses)) {
		at := losses[j]
		slices.SortFunc(at, func(a, b loss) int {
			return cmp.Or(cmp.Compare(a.service.Namespace, b.service.Namespace), cmp.Compare(a.service.Hostname, b.service.Hostname))
		})
		winner := list[lost[at[0]]].obj
		p := &r.parents[j]
		path := elem("spec.parentRefs", p.ref)
		message := fmt.Sprintf("%s is attached to %s and goes first, being older or first by name; requests go by one kind of route: attach this one to another port, or remove one", winner, at[0].service.Hostname)
		t.unresolved(r.obj, path, reasonConflicted, "%s", message)
		c := badCondition(conditionAccepted, reasonConflicted, message)
		services := map[mesh.ServiceKey]bool{}
		for _, a := range p.attachments {
			services[a.Service] = true
		}
		if len(services) > len(at) { // a Gateway's other services take it
			c = mesh.Condition{Type: conditionConflict, True: true, Reason: reasonConflicted, Message: message}
		}
		s := &parents[p.status]
		s.Conditions = slices.Clone(s.Conditions)
		if c.Type == conditionAccepted {
			s.Conditions[0] = c
		} else {
			s.Conditions = append(s.Conditions, c)
		}
	}
	t.setStatus(r.obj, parents)
}

// contest returns who loses, and the index of the route to which it does.
func contest(list []attachedRoute) map[loss]int {
	http, grpc := map[arena]bool{}, map[arena]bool{}
	each := func(f func(i, j int, a *mesh.RouteAttachment)) {
		for i := range list {
			for j := range list[i].parents {
				for k := range list[i].parents[j].attachments {
					f(i, j, &list[i].parents[j].attachments[k])
				}
			}
		}
	}
	each(func(_, _ int, a *mesh.RouteAttachment) {
		switch a.Route.Kind {
		case mesh.RouteHTTP:
			http[arena{a.Service, a.ConsumerNamespace}] = true
		case mesh.RouteGRPC:
			grpc[arena{a.Service, a.ConsumerNamespace}] = true
		case mesh.RouteTCP, mesh.RouteTLS:
		}
	})
	maps.DeleteFunc(http, func(a arena, _ bool) bool { return !grpc[a] })
	if len(http) == 0 {
		return nil
	}
	meet := map[arena][]contender{}
	each(func(i, j int, a *mesh.RouteAttachment) {
		at := arena{a.Service, a.ConsumerNamespace}
		if !http[at] || a.Route.Kind > mesh.RouteGRPC {
			return
		}
		c := contender{i, j, a.Route.Kind, a.Port, a.Waypoint, a.Route.Hostnames}
		if n := len(meet[at]); n == 0 || meet[at][n-1].route != i || meet[at][n-1].parent != j {
			meet[at] = append(meet[at], c)
		}
	})
	lost := map[loss]int{}
	for at, all := range meet {
		slices.SortStableFunc(all, func(a, b contender) int { return older(&list[a.route], &list[b.route]) })
		var taken []contender
		for _, c := range all {
			if i := slices.IndexFunc(taken, c.excludes); i >= 0 {
				lost[loss{c.route, c.parent, at.service}] = taken[i].route
			} else {
				taken = append(taken, c)
			}
		}
	}
	return lost
}

// older orders routes as Gateway API does: by age, then by namespace and name, then by kind.
func older(a, b *attachedRoute) int {
	return cmp.Or(
		a.created.Compare(b.created), cmp.Compare(a.obj.Name.String(), b.obj.Name.String()), cmp.Compare(a.obj.Kind.Kind, b.obj.Kind.Kind),
	)
}

// excludes reports whether not both of c and o can be accepted.
func (c contender) excludes(o contender) bool {
	return c.kind != o.kind && (c.port == o.port || c.port == 0 || o.port == 0) &&
		(c.waypoint == o.waypoint || c.waypoint == (mesh.Name{}) || o.waypoint == (mesh.Name{})) &&
		(len(c.hosts) == 0 || len(o.hosts) == 0 || slices.ContainsFunc(c.hosts, func(h string) bool {
			return slices.ContainsFunc(o.hosts, func(x string) bool { return intersect(h, x) })
		}))
}
