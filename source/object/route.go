package object

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// parent is one place that an HTTPRoute is attached to: services, each with a
// port or 0 for all.
type parent struct {
	services []*service
	port     uint16
	consumer string         // namespace of the clients; "" for all
	waypoint *mesh.Waypoint // the Gateway named, nil for services
}

func (t *translator) translateRoute(o *Object, r *gwv1.HTTPRoute) {
	if len(r.Spec.ParentRefs) == 0 {
		t.bad(o, "spec.parentRefs", "the route is attached to nothing; name a Service, or a waypoint's Gateway")
	}
	var parents []parent
	for i := range r.Spec.ParentRefs {
		p, ok := t.parent(o, elem("spec.parentRefs", i), &r.Spec.ParentRefs[i])
		if !ok {
			continue
		}
		parents = append(parents, p)
		if p.waypoint == nil && !t.served(p.services[0]) {
			t.note(o, "%s has no waypoint: the route has no effect (label it or its namespace %s)", p.services[0].obj, labelWaypoint)
		}
	}
	hosts := t.routeHosts(o, r.Spec.Hostnames)
	t.checkRuleNames(o, r.Spec.Rules)
	for i := range r.Spec.Rules {
		route := t.rule(o, r, i)
		var withHosts *mesh.Route // a Service parent takes no notice of host names
		for _, p := range parents {
			use := route
			if p.waypoint != nil && len(hosts) > 0 {
				if withHosts == nil {
					c := *route
					c.Hostnames = hosts
					withHosts = &c
				}
				use = withHosts
			}
			t.attach(p, use)
		}
	}
}

func (t *translator) attach(p parent, r *mesh.Route) {
	var name mesh.Name
	if p.waypoint != nil {
		name = p.waypoint.Name
	}
	for _, s := range p.services {
		a := mesh.RouteAttachment{Service: s.model.Key, Port: p.port, Route: r, ConsumerNamespace: p.consumer, Waypoint: name}
		if !slices.Contains(t.parts.Attachments[max(0, len(t.parts.Attachments)-len(p.services)):], a) {
			t.parts.Attachments = append(t.parts.Attachments, a)
		}
	}
}

func (t *translator) checkRuleNames(o *Object, rules []gwv1.HTTPRouteRule) {
	names := map[gwv1.SectionName]int{}
	for i, r := range rules {
		if r.Name == nil {
			continue
		}
		if first, dup := names[*r.Name]; dup {
			t.bad(o, elem("spec.rules", i)+".name", "name %q is also that of rules[%d]; rename one", clip(string(*r.Name)), first)
		}
		names[*r.Name] = i
	}
}

func (t *translator) routeHosts(o *Object, in []gwv1.Hostname) []string {
	var out []string
	for i, h := range in {
		if !isSubdomain(strings.TrimPrefix(string(h), "*.")) {
			t.bad(o, elem("spec.hostnames", i), "%q is not a host name; write a DNS name in lower case, with at most a leading \"*.\"", clip(string(h)))
			continue
		}
		out = append(out, string(h))
	}
	return out
}

func deref[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}

// parent resolves a parentRef; ok is false when there is nothing to attach to.
func (t *translator) parent(o *Object, path string, ref *gwv1.ParentReference) (p parent, ok bool) {
	group, kind := deref(ref.Group, groupGateway), deref(ref.Kind, "Gateway")
	name := mesh.Name{Namespace: string(deref(ref.Namespace, gwv1.Namespace(o.Name.Namespace))), Name: string(ref.Name)}
	switch {
	case group == groupCore && kind == "Service":
		s := t.services[name]
		if s == nil {
			t.bad(o, path+".name", "Service %s does not exist; correct the name or add the Service", name)
			return p, false
		}
		p.services = []*service{s}
		if name.Namespace != o.Name.Namespace {
			p.consumer = o.Name.Namespace
		}
	case group == groupNet && kind == "ServiceEntry":
		e := t.entry(name)
		if e == nil {
			t.bad(o, path+".name", "ServiceEntry %s does not exist; correct the name or add it", name)
			return p, false
		}
		p.services = e.hosts
		if name.Namespace != o.Name.Namespace {
			p.consumer = o.Name.Namespace
		}
	case group == groupGateway && kind == "Gateway":
		return t.gatewayParent(o, path, ref, name)
	default:
		t.bad(o, path+".kind", "a route cannot be attached to %s %q; name a Service (group \"\"), a ServiceEntry or a waypoint's Gateway", clip(string(group)), clip(string(kind)))
		return p, false
	}
	p.port, ok = t.parentPort(o, path, ref, p.services[0])
	return p, ok
}

func (t *translator) gatewayParent(o *Object, path string, ref *gwv1.ParentReference, name mesh.Name) (p parent, ok bool) {
	w := t.waypoints[name]
	switch {
	case w == nil && t.gateways[name] != nil:
		t.note(o, "Gateway %s is not a waypoint: the route has no effect there", name)
		return p, false
	case w == nil:
		t.bad(o, path+".name", "Gateway %s does not exist; correct the name, or set kind: Service and group: \"\" to name a Service", name)
		return p, false
	case name.Namespace != o.Name.Namespace && !t.admits(w, o.Name.Namespace):
		t.bad(o, path, "waypoint %s does not admit routes of namespace %s; allow it in the Gateway's listener (allowedRoutes.namespaces)", name, o.Name.Namespace)
		return p, false
	case ref.SectionName != nil && (w.listener == nil || *ref.SectionName != w.listener.Name):
		t.bad(o, path+".sectionName", "waypoint %s has no listener %q; remove the sectionName", name, clip(string(*ref.SectionName)))
		return p, false
	}
	p.waypoint = w.model
	p.services = t.servedBy(w)
	if ref.Port != nil && uint16(*ref.Port) != w.model.Port {
		p.port = t.port(o, path+".port", int64(*ref.Port))
	}
	return p, true
}

// servedBy lists the services whose traffic passes a waypoint: those bound to
// it, and those that have an endpoint which it serves for its service account.
func (t *translator) servedBy(w *waypoint) []*service {
	var out []*service
	for _, s := range t.serviceSeq {
		if s.model.Waypoint != nil && s.model.Waypoint.Name == w.model.Name || t.byAccount[s.model.Key][w.model.Name] {
			out = append(out, s)
		}
	}
	return out
}

// served reports whether traffic to a service passes a waypoint.
func (t *translator) served(s *service) bool {
	return s.model.Waypoint != nil || len(t.byAccount[s.model.Key]) > 0
}

func (t *translator) entry(n mesh.Name) *entry {
	i := slices.IndexFunc(t.entries, func(e *entry) bool { return e.obj.Name == n })
	if i < 0 {
		return nil
	}
	return t.entries[i]
}

func (t *translator) parentPort(o *Object, path string, ref *gwv1.ParentReference, s *service) (port uint16, ok bool) {
	if ref.Port != nil {
		port = t.port(o, path+".port", int64(*ref.Port))
		if port == 0 {
			return 0, false
		}
		if s.model.Port(port) == nil {
			t.bad(o, path+".port", "%s has no TCP port %d; %s", s.obj, port, portsOf(s))
			return 0, false
		}
	}
	if ref.SectionName == nil {
		return port, true
	}
	for _, p := range s.model.Ports {
		if p.Name == string(*ref.SectionName) && (port == 0 || port == p.Port) {
			return p.Port, true
		}
	}
	t.bad(o, path+".sectionName", "%s has no such port by the name %q; %s", s.obj, clip(string(*ref.SectionName)), portsOf(s))
	return 0, false
}

// portsOf is the remedy that lists a service's ports.
func portsOf(s *service) string {
	if len(s.model.Ports) == 0 {
		return "add the port to it"
	}
	var list []string
	for _, p := range s.model.Ports {
		text := fmt.Sprint(p.Port)
		if p.Name != "" {
			text += " (" + p.Name + ")"
		}
		list = append(list, text)
	}
	return "use one of " + strings.Join(list, ", ")
}

// rule translates one rule. What is wrong with it is a problem, and makes the
// rule or its backend broken, so that it answers 500 where it is served all the
// same.
func (t *translator) rule(o *Object, hr *gwv1.HTTPRoute, i int) *mesh.Route {
	in, path := &hr.Spec.Rules[i], elem("spec.rules", i)
	r := &mesh.Route{Object: o.Name, Rule: i, Created: hr.CreationTimestamp.Time, Origin: o.Origin}
	if in.Name != nil {
		r.RuleName = string(*in.Name)
	}
	before := len(t.pending)
	for j := range in.Matches {
		r.Matches = append(r.Matches, t.match(o, elem(path+".matches", j), &in.Matches[j]))
	}
	r.Filters = t.filters(o, path+".filters", in.Filters, in.Matches)
	t.timeouts(o, path+".timeouts", in.Timeouts, r)
	if in.Retry != nil {
		t.bad(o, path+".retry", "retry is not supported yet; remove it")
	}
	if in.SessionPersistence != nil {
		t.bad(o, path+".sessionPersistence", "session persistence is not supported yet; remove it")
	}
	if r.Filters.Redirect != nil && len(in.BackendRefs) > 0 {
		t.bad(o, path+".backendRefs", "a rule that redirects sends nothing on; remove the backendRefs or the RequestRedirect")
	}
	if len(t.pending) > before {
		r.Broken = t.pending[before].message
	}
	for j := range in.BackendRefs {
		r.Backends = append(r.Backends, t.backend(o, elem(path+".backendRefs", j), &in.BackendRefs[j], in.Matches))
	}
	if len(r.Backends) == 0 && r.Filters.Redirect == nil && r.Broken == "" {
		r.Broken = "the rule names no backend"
		t.note(o, "rules[%d] names no backend: it answers 500", i)
	}
	return r
}

func (t *translator) timeouts(o *Object, path string, in *gwv1.HTTPRouteTimeouts, r *mesh.Route) {
	if in == nil {
		return
	}
	out := mesh.Timeouts{Request: t.timeout(o, path+".request", in.Request), PerTry: t.timeout(o, path+".backendRequest", in.BackendRequest)}
	if out != (mesh.Timeouts{}) {
		r.Requests = &mesh.RequestPolicy{Timeouts: &out}
	}
	if out.Request > 0 && out.PerTry > out.Request {
		t.bad(o, path+".backendRequest", "it is longer than timeouts.request; make it %s or less", *in.Request)
	}
}

// timeout is a duration of which 0 means that there is no timeout.
func (t *translator) timeout(o *Object, path string, in *gwv1.Duration) time.Duration {
	if d := t.duration(o, path, in); d > 0 || in == nil {
		return d
	}
	return mesh.Never
}

func (t *translator) backend(o *Object, path string, in *gwv1.HTTPBackendRef, matches []gwv1.HTTPRouteMatch) mesh.Backend {
	const maxWeight = 1_000_000
	b := mesh.Backend{Weight: 1}
	before := len(t.pending)
	if in.Weight != nil {
		if w := *in.Weight; w < 0 || w > maxWeight {
			t.bad(o, path+".weight", "weight %d is out of range; use 0 to %d", w, maxWeight)
		} else {
			b.Weight = uint32(w)
		}
	}
	s := t.backendService(o, path, in)
	if s != nil {
		b.Service = s.model.Key
		if in.Port == nil {
			t.bad(o, path+".port", "the backend names no port; %s", portsOf(s))
		} else {
			b.Port = t.port(o, path+".port", int64(*in.Port))
			if b.Port != 0 && s.model.Port(b.Port) == nil {
				t.bad(o, path+".port", "%s has no TCP port %d; %s", s.obj, b.Port, portsOf(s))
			}
		}
	}
	b.Filters = t.filters(o, path+".filters", in.Filters, matches)
	if len(t.pending) > before {
		b.Broken = t.pending[before].message
	}
	return b
}

// backendService resolves a backendRef: a Service, or a host by Istio's Hostname kind.
func (t *translator) backendService(o *Object, path string, in *gwv1.HTTPBackendRef) *service {
	group, kind := deref(in.Group, groupCore), deref(in.Kind, "Service")
	name := mesh.Name{Namespace: string(deref(in.Namespace, gwv1.Namespace(o.Name.Namespace))), Name: string(in.Name)}
	switch {
	case group == groupCore && kind == "Service":
		s := t.services[name]
		if s == nil {
			t.bad(o, path+".name", "Service %s does not exist; correct the name or add the Service", name)
			return nil
		}
		if name.Namespace != o.Name.Namespace && !t.granted(o, name) {
			t.bad(o, path+".namespace", "namespace %s does not let HTTPRoutes of %s refer to Service %s; add a ReferenceGrant there", name.Namespace, o.Name.Namespace, name.Name)
		}
		return s
	case group == groupNet && kind == "Hostname":
		if s := t.host(strings.ToLower(string(in.Name)), o.Name.Namespace); s != nil {
			return s
		}
		t.bad(o, path+".name", "no Service or ServiceEntry has host %q; correct the name or add one", clip(string(in.Name)))
		return nil
	}
	t.bad(o, path+".kind", "a backend of kind %q (group %q) is not supported; use a Service", clip(string(kind)), clip(string(group)))
	return nil
}

// host finds a service by host name, the route's own namespace first.
func (t *translator) host(name, ns string) *service {
	if s := t.byHost[mesh.ServiceKey{Namespace: ns, Hostname: name}]; s != nil {
		return s
	}
	for _, s := range t.serviceSeq {
		if s.model.Key.Hostname == name {
			return s
		}
	}
	return nil
}

// granted reports whether a ReferenceGrant lets o refer to a Service.
func (t *translator) granted(o *Object, to mesh.Name) bool {
	for _, g := range t.grants {
		if g.Name.Namespace != to.Namespace {
			continue
		}
		spec := &g.Value.(*gwv1.ReferenceGrant).Spec
		from := slices.ContainsFunc(spec.From, func(f gwv1.ReferenceGrantFrom) bool {
			return f.Group == groupGateway && string(f.Kind) == o.Kind.Kind && string(f.Namespace) == o.Name.Namespace
		})
		if from && slices.ContainsFunc(spec.To, func(x gwv1.ReferenceGrantTo) bool {
			return x.Group == groupCore && x.Kind == "Service" && (x.Name == nil || *x.Name == "" || string(*x.Name) == to.Name)
		}) {
			return true
		}
	}
	return false
}
