package object

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// routeObject is a route of any kind, in the words of HTTPRoute, which hold all
// that the others say.
type routeObject struct {
	*Object
	kind      mesh.RouteKind
	created   time.Time
	parents   []gwv1.ParentReference
	hostnames []gwv1.Hostname
	rules     []ruleObject
}

// ruleObject is a rule of a route. Of matches and grpcMatches one is used.
type ruleObject struct {
	name        *gwv1.SectionName
	matches     []gwv1.HTTPRouteMatch
	grpcMatches []gwv1.GRPCRouteMatch
	filters     []gwv1.HTTPRouteFilter
	backends    []gwv1.HTTPBackendRef
	timeouts    *gwv1.HTTPRouteTimeouts
	retry       *gwv1.HTTPRouteRetry
	session     *gwv1.SessionPersistence
}

// routeOf returns the route that o is, nil if it is none.
func routeOf(o *Object) *routeObject {
	switch v := o.Value.(type) {
	case *gwv1.HTTPRoute:
		return httpRoute(o, v)
	case *gwv1.GRPCRoute:
		return grpcRoute(o, v)
	case *gwv1.TCPRoute:
		return tcpRoute(o, v)
	case *gwv1.TLSRoute:
		return tlsRoute(o, v)
	}
	return nil
}

func httpRoute(o *Object, v *gwv1.HTTPRoute) *routeObject {
	r := &routeObject{
		Object: o, kind: mesh.RouteHTTP, created: v.CreationTimestamp.Time,
		parents: v.Spec.ParentRefs, hostnames: v.Spec.Hostnames, rules: make([]ruleObject, len(v.Spec.Rules)),
	}
	for i := range v.Spec.Rules {
		in := &v.Spec.Rules[i]
		r.rules[i] = ruleObject{
			name: in.Name, matches: in.Matches, filters: in.Filters, backends: in.BackendRefs,
			timeouts: in.Timeouts, retry: in.Retry, session: in.SessionPersistence,
		}
	}
	return r
}

// attachedRoute is a route with what it is attached to.
type attachedRoute struct {
	obj     *Object
	created time.Time
	parents []attachedParent
}

// attachedParent is what one parentRef has brought: its index, that of its status, and the attachments.
type attachedParent struct {
	ref, status int
	attachments []mesh.RouteAttachment
}

// translateRoute makes mesh.Routes of a route's rules, says what became of it
// at each of its parents, and returns how it is to be attached to those that take it.
func (t *translator) translateRoute(r *routeObject) (out []attachedParent) {
	t.begin()
	if len(r.parents) == 0 {
		t.bad(r.Object, "spec.parentRefs", "the route is attached to nothing; name a Service, or a waypoint's Gateway")
	}
	hosts := t.routeHosts(r)
	t.checkRules(r)
	if len(r.rules) > 1 && (r.kind == mesh.RouteTCP || r.kind == mesh.RouteTLS) {
		t.bad(r.Object, "spec.rules", "a %s has one rule; put all backends into it", r.Kind.Kind)
	}
	own := len(t.trail) // what is wrong with the route itself
	routes := make([]*mesh.Route, len(r.rules))
	for i := range r.rules {
		routes[i] = t.rule(r, i)
	}
	common := t.routeConditions(own, routes)

	var withHosts []*mesh.Route // a Service parent takes no notice of host names, unless they are SNIs
	with := func() []*mesh.Route {
		if withHosts == nil {
			withHosts = make([]*mesh.Route, len(routes))
			for i, route := range routes {
				c := *route
				c.Hostnames = hosts
				withHosts[i] = &c
			}
		}
		return withHosts
	}
	var parents []mesh.ParentStatus
	seen := map[mesh.RouteAttachment]bool{}
	for i := range r.parents {
		p := t.parent(r, elem("spec.parentRefs", i), &r.parents[i])
		if p == nil {
			continue
		}
		use := routes
		if len(hosts) > 0 && (p.waypoint != nil || r.kind == mesh.RouteTLS) {
			use = with()
		}
		parents = append(parents, p.status(common))
		if len(p.services) > 0 {
			out = append(out, attachedParent{i, len(parents) - 1, p.attachments(use, seen)})
		}
	}
	t.setStatus(r.Object, parents)
	return out
}

// attachments binds routes to the services of p, unless seen has that.
func (p *parent) attachments(routes []*mesh.Route, seen map[mesh.RouteAttachment]bool) []mesh.RouteAttachment {
	var name mesh.Name
	if p.waypoint != nil {
		name = p.waypoint.Name
	}
	out := make([]mesh.RouteAttachment, 0, len(routes)*len(p.services))
	for _, r := range routes {
		for _, s := range p.services {
			a := mesh.RouteAttachment{Service: s.model.Key, Port: p.port, Route: r, ConsumerNamespace: p.consumer, Waypoint: name}
			if !seen[a] {
				seen[a] = true
				out = append(out, a)
			}
		}
	}
	return out
}

// checkRules refuses rules that share a name.
func (t *translator) checkRules(r *routeObject) {
	names := map[gwv1.SectionName]int{}
	for i := range r.rules {
		name := r.rules[i].name
		if name == nil {
			continue
		}
		path := elem("spec.rules", i) + ".name"
		if first, dup := names[*name]; dup {
			t.bad(r.Object, path, "name %q is also that of rules[%d]; rename one", clip(string(*name)), first)
		} else if !isSubdomain(string(*name)) {
			t.bad(r.Object, path, "%q is not a name; use lower-case letters, digits, '-' and '.'", clip(string(*name)))
		}
		names[*name] = i
	}
}

// rule translates one rule. What is wrong with it is a problem, and makes the
// rule or its backend broken, so that it answers 500 where it is served all the
// same.
func (t *translator) rule(r *routeObject, i int) *mesh.Route {
	in, path := &r.rules[i], elem("spec.rules", i)
	out := &mesh.Route{Object: r.Name, Kind: r.kind, Rule: i, Created: r.created, Origin: r.Origin}
	if in.name != nil {
		out.RuleName = string(*in.name)
	}
	first := len(t.trail)
	for j := range in.matches {
		out.Matches = append(out.Matches, t.match(r.Object, elem(path+".matches", j), &in.matches[j]))
	}
	for j := range in.grpcMatches {
		out.Matches = append(out.Matches, t.grpcMatch(r.Object, elem(path+".matches", j), &in.grpcMatches[j]))
	}
	f := t.filters(r, path+".filters", in.filters, in)
	out.Filters = f.RouteFilters
	own := t.ruleRequests(r, i)
	if out.Filters.Redirect != nil && len(in.backends) > 0 {
		t.incompatible(r.Object, path+".backendRefs", "a rule that redirects sends nothing on; remove the backendRefs or the RequestRedirect")
	}
	out.Broken = cmp.Or(t.brokenSince(first), r.unreadBelow(path+".filters"))
	out.Requests = own.Over(f.extension.requestPolicy().Over(t.routePolicy(r.Object, out.RuleName)))
	for j := range in.backends {
		out.Backends = append(out.Backends, t.backend(r, elem(path+".backendRefs", j), &in.backends[j], in))
	}
	if len(out.Backends) == 0 && out.Filters.Redirect == nil && out.Broken == "" {
		out.Broken = "the rule names no backend"
		t.note(r.Object, "rules[%d] names no backend: it answers 500", i)
	}
	return out
}

// unreadBelow says that something at or below path could not be read: a filter that is not understood may be the one that
// keeps requests out. It is "" where all could.
func (o *Object) unreadBelow(path string) string {
	if o.flaws != nil {
		for _, f := range o.flaws.unread {
			if rest, ok := strings.CutPrefix(f, path); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
				return "field " + f + " cannot be read; correct it"
			}
		}
	}
	return ""
}

// brokenSince says why what has been translated since that place of the trail
// cannot work; "" when it can.
func (t *translator) brokenSince(first int) string {
	if i := slices.IndexFunc(t.trail[first:], func(p pending) bool { return !p.harmless }); i >= 0 {
		return t.trail[first+i].message
	}
	return ""
}

func deref[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}
