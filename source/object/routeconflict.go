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

// contender is what one parentRef of an HTTPRoute or a GRPCRoute brings to a port.
type contender struct {
	route, parent int // indexes
	kind          mesh.RouteKind
	waypoint      mesh.Name
	hosts         []string
}

// arena is where contenders meet: a port of a service, for all clients or for those of one consumer.
type arena struct {
	service  mesh.ServiceKey
	consumer string
	port     uint16
}

// loss is a contender that has lost at a port.
type loss struct {
	route, parent int
	service       mesh.ServiceKey
	port          uint16
}

// attachRoutes attaches all routes, but not where they lose to another.
func (t *translator) attachRoutes(list []attachedRoute) {
	lost := t.contest(list)
	t.parts.Attachments = slices.Grow(t.parts.Attachments, len(list))
	for i, r := range list {
		for j, p := range r.parents {
			for _, a := range p.attachments {
				t.attach(a, i, j, lost)
			}
		}
	}
	losers := map[int][]loss{}
	for l := range lost {
		losers[l.route] = append(losers[l.route], l)
	}
	for _, i := range slices.Sorted(maps.Keys(losers)) {
		t.tellLosses(list, losers[i], lost)
	}
}

// attach attaches one rule: to the service, or to those of its ports where the route has not lost.
func (t *translator) attach(a mesh.RouteAttachment, route, parent int, lost map[loss]int) {
	at := func(port uint16) bool { _, yes := lost[loss{route, parent, a.Service, port}]; return yes }
	ports := t.portsIn(&a)
	if len(lost) == 0 || !slices.ContainsFunc(ports, at) {
		t.parts.Attachments = append(t.parts.Attachments, a)
		return
	}
	for _, p := range ports {
		if !at(p) {
			a.Port = p
			t.parts.Attachments = append(t.parts.Attachments, a)
		}
	}
}

// portsIn are the ports that requests by a come to.
func (t *translator) portsIn(a *mesh.RouteAttachment) []uint16 {
	if a.Port != 0 {
		return []uint16{a.Port}
	}
	var out []uint16
	if s := t.byHost[a.Service]; s != nil {
		for _, p := range s.model.Ports {
			if carries(p.Protocol, a.Route.Kind) {
				out = append(out, p.Port)
			}
		}
	}
	return out
}

// tellLosses says at each parent of a route where it has lost, and to which other.
func (t *translator) tellLosses(list []attachedRoute, losses []loss, lost map[loss]int) {
	slices.SortFunc(losses, func(a, b loss) int {
		return cmp.Or(cmp.Compare(a.parent, b.parent), cmp.Compare(a.service.Namespace, b.service.Namespace),
			cmp.Compare(a.service.Hostname, b.service.Hostname), cmp.Compare(a.port, b.port))
	})
	r := &list[losses[0].route]
	parents := slices.Clone(t.statuses[objectKey{r.obj.Kind, r.obj.Name}].Parents)
	for len(losses) > 0 {
		l := losses[0]
		p := &r.parents[l.parent]
		n := slices.IndexFunc(losses, func(x loss) bool { return x.parent != l.parent })
		if n < 0 {
			n = len(losses)
		}
		losses = losses[n:]
		message := fmt.Sprintf("%s is attached to %s:%d and goes first, being older or first by name; a port's requests go by one kind of route: attach this one to another port, or remove one",
			list[lost[l]].obj, l.service.Hostname, l.port)
		t.unresolved(r.obj, elem("spec.parentRefs", p.ref), reasonConflicted, "%s", message)
		s := &parents[p.status]
		s.Conditions = slices.Clone(s.Conditions)
		if n < t.reach(p) { // it is accepted elsewhere
			s.Conditions = append(s.Conditions, mesh.Condition{Type: conditionConflict, True: true, Reason: reasonConflicted, Message: message})
		} else {
			s.Conditions[0] = badCondition(conditionAccepted, reasonConflicted, message)
		}
	}
	t.setStatus(r.obj, parents)
}

// reach counts the ports that a parentRef brings a route to.
func (t *translator) reach(p *attachedParent) int {
	ports := map[arena]bool{}
	for i := range p.attachments {
		a := &p.attachments[i]
		for _, port := range t.portsIn(a) {
			ports[arena{a.Service, a.ConsumerNamespace, port}] = true
		}
	}
	return len(ports)
}

// contest returns who loses, and the index of the route to which it does.
func (t *translator) contest(list []attachedRoute) map[loss]int {
	ofKind := func(kind string) bool {
		return slices.ContainsFunc(list, func(r attachedRoute) bool { return r.obj.Kind.Kind == kind })
	}
	if !ofKind("GRPCRoute") || !ofKind("HTTPRoute") {
		return nil
	}
	// Services with routes of both kinds are few, and looked at closely.
	const http, grpc = 1, 2
	kinds := map[mesh.ServiceKey]int{}
	each := func(f func(i, j int, a *mesh.RouteAttachment)) {
		for i := range list {
			for j := range list[i].parents {
				for k := range list[i].parents[j].attachments {
					f(i, j, &list[i].parents[j].attachments[k])
				}
			}
		}
	}
	mixed := false
	each(func(_, _ int, a *mesh.RouteAttachment) {
		switch a.Route.Kind {
		case mesh.RouteHTTP:
			kinds[a.Service] |= http
		case mesh.RouteGRPC:
			kinds[a.Service] |= grpc
		case mesh.RouteTCP, mesh.RouteTLS:
		}
		mixed = mixed || kinds[a.Service] == http|grpc
	})
	if !mixed {
		return nil
	}
	meet := map[arena][]contender{}
	each(func(i, j int, a *mesh.RouteAttachment) {
		if kinds[a.Service] != http|grpc || a.Route.Kind != mesh.RouteHTTP && a.Route.Kind != mesh.RouteGRPC {
			return
		}
		for _, port := range t.portsIn(a) {
			at := arena{a.Service, a.ConsumerNamespace, port}
			if all := meet[at]; len(all) == 0 || all[len(all)-1].route != i || all[len(all)-1].parent != j {
				meet[at] = append(all, contender{i, j, a.Route.Kind, a.Waypoint, a.Route.Hostnames})
			}
		}
	})
	lost := map[loss]int{}
	for at, all := range meet {
		slices.SortStableFunc(all, func(a, b contender) int { return older(&list[a.route], &list[b.route]) })
		var taken []contender
		for _, c := range all {
			if i := slices.IndexFunc(taken, c.excludes); i >= 0 {
				lost[loss{c.route, c.parent, at.service, at.port}] = taken[i].route
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
	return c.kind != o.kind && (c.waypoint == o.waypoint || c.waypoint == (mesh.Name{}) || o.waypoint == (mesh.Name{})) &&
		(len(c.hosts) == 0 || len(o.hosts) == 0 || slices.ContainsFunc(c.hosts, func(h string) bool {
			return slices.ContainsFunc(o.hosts, func(x string) bool { return intersect(h, x) })
		}))
}
