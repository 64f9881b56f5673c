package object

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// parent is one place that a route names: services, each with a port or 0 for all. It
// has none when it does not take the route.
type parent struct {
	ref      mesh.ParentRef
	services []*service
	port     uint16
	consumer string         // namespace of the clients; "" for all
	waypoint *mesh.Waypoint // the Gateway named, nil for services
	refused  mesh.Condition // why it does not take the route; zero when it does
	unserved bool           // traffic to the services passes no waypoint
}

// parent resolves a parentRef. It returns nil for one that is another controller's.
func (t *translator) parent(r *routeObject, path string, ref *gwv1.ParentReference) *parent {
	group, kind := deref(ref.Group, groupGateway), deref(ref.Kind, "Gateway")
	name := mesh.Name{Namespace: string(deref(ref.Namespace, gwv1.Namespace(r.Name.Namespace))), Name: string(ref.Name)}
	p := &parent{ref: mesh.ParentRef{
		Group: string(group), Kind: string(kind), Name: name,
		Section: string(deref(ref.SectionName, "")), Port: uint16(deref(ref.Port, 0)),
	}}
	switch {
	case group == groupCore && kind == "Service":
		if s := t.services[name]; s != nil {
			p.services = []*service{s}
		} else {
			p.refuse(t, r, path+".name", reasonNoParent, "Service %s does not exist; correct the name or add the Service", name)
		}
	case group == groupNet && kind == "ServiceEntry":
		if e := t.entry(name); e != nil {
			p.services = e.hosts
		} else {
			p.refuse(t, r, path+".name", reasonNoParent, "ServiceEntry %s does not exist; correct the name or add it", name)
		}
	case group == groupGateway && kind == "Gateway":
		return t.gatewayParent(r, path, ref, p)
	default:
		p.refuse(t, r, path+".kind", reasonNoParent, "a route cannot be attached to %s %q; name a Service (group \"\"), a ServiceEntry or a waypoint's Gateway", clip(string(group)), clip(string(kind)))
	}
	if len(p.services) == 0 {
		return p
	}
	if name.Namespace != r.Name.Namespace {
		p.consumer = r.Name.Namespace
	}
	t.parentPort(r, path, ref, p)
	if len(p.services) > 0 {
		t.checkPorts(r, path, p)
	}
	if len(p.services) > 0 && !t.served(p.services[0]) {
		p.unserved = true
		t.note(r.Object, "%s has no waypoint: the route has no effect (label it or its namespace %s)", p.services[0].obj, labelWaypoint)
	}
	return p
}

// refuse says why p does not take the route, which is served at its other parents.
func (p *parent) refuse(t *translator, r *routeObject, path, reason, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	t.unresolved(r.Object, path, reason, "%s", message)
	p.services, p.refused = nil, badCondition(conditionAccepted, reason, message)
}

func (t *translator) gatewayParent(r *routeObject, path string, ref *gwv1.ParentReference, p *parent) *parent {
	name := p.ref.Name
	w := t.waypoints[name]
	switch {
	case w == nil && t.gateways[name] != nil:
		t.note(r.Object, "Gateway %s is not a waypoint: the route has no effect there", name)
		return nil
	case w == nil:
		p.refuse(t, r, path+".name", reasonNoParent, "Gateway %s does not exist; correct the name, or set kind: Service and group: \"\" to name a Service", name)
		return p
	case name.Namespace != r.Name.Namespace && !t.admits(w, r.Name.Namespace):
		p.refuse(t, r, path, reasonNotAllowed, "waypoint %s does not admit routes of namespace %s; allow it in the Gateway's listener (allowedRoutes.namespaces)", name, r.Name.Namespace)
		return p
	case !w.takes(r.Kind.Kind):
		p.refuse(t, r, path, reasonNotAllowed, "waypoint %s does not admit routes of kind %s; allow it in the Gateway's listener (allowedRoutes.kinds)", name, r.Kind.Kind)
		return p
	case ref.SectionName != nil && (w.listener == nil || *ref.SectionName != w.listener.Name):
		p.refuse(t, r, path+".sectionName", reasonNoParent, "waypoint %s has no listener %q; remove the sectionName", name, clip(string(*ref.SectionName)))
		return p
	case w.listener != nil && w.listener.Hostname != nil && len(r.hostnames) > 0 && !slices.ContainsFunc(r.hostnames, func(h gwv1.Hostname) bool {
		return intersect(string(h), string(*w.listener.Hostname))
	}):
		p.refuse(t, r, path, reasonNoHostname, "none of the route's hostnames is one of the listener's, %q; change one of them", clip(string(*w.listener.Hostname)))
		return p
	}
	if ref.Port != nil {
		port := t.port(r.Object, path+".port", int64(*ref.Port))
		if port == 0 {
			p.refused = badCondition(conditionAccepted, reasonUnsupported, "the port of the parentRef is not a port")
			return p
		}
		if port != w.model.Port {
			p.port = port
		}
	}
	p.waypoint = w.model
	p.services = t.servedBy(w)
	return p
}

// takes reports whether the waypoint's listener admits routes of a kind.
func (w *waypoint) takes(kind string) bool {
	if w.listener == nil || w.listener.AllowedRoutes == nil || len(w.listener.AllowedRoutes.Kinds) == 0 {
		return true
	}
	return slices.ContainsFunc(w.listener.AllowedRoutes.Kinds, func(k gwv1.RouteGroupKind) bool {
		return deref(k.Group, groupGateway) == groupGateway && string(k.Kind) == kind
	})
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

// parentPort finds the port that a parentRef names, by number, name or both.
func (t *translator) parentPort(r *routeObject, path string, ref *gwv1.ParentReference, p *parent) {
	s := p.services[0]
	if ref.Port != nil {
		p.port = t.port(r.Object, path+".port", int64(*ref.Port))
		switch {
		case p.port == 0:
			p.services, p.refused = nil, badCondition(conditionAccepted, reasonUnsupported, "the port of the parentRef is not a port")
			return
		case s.model.Port(p.port) == nil:
			p.refuse(t, r, path+".port", reasonNoParent, "%s has no TCP port %d; %s", s.obj, p.port, portsOf(s))
			return
		}
	}
	if ref.SectionName == nil {
		return
	}
	for _, sp := range s.model.Ports {
		if sp.Name == string(*ref.SectionName) && (p.port == 0 || p.port == sp.Port) {
			p.port = sp.Port
			return
		}
	}
	p.refuse(t, r, path+".sectionName", reasonNoParent, "%s has no such port by the name %q; %s", s.obj, clip(string(*ref.SectionName)), portsOf(s))
}

// checkPorts tells of a route that has no effect, because none of the ports
// carries what it is about.
func (t *translator) checkPorts(r *routeObject, path string, p *parent) {
	s := p.services[0]
	for _, sp := range s.model.Ports {
		if (p.port == 0 || p.port == sp.Port) && carries(sp.Protocol, r.kind) {
			return
		}
	}
	if len(s.model.Ports) == 0 {
		return
	}
	where := "no port of " + s.obj.String()
	if p.port != 0 {
		where = fmt.Sprintf("port %d of %s does not carry", p.port, s.obj)
	} else {
		where += " carries"
	}
	p.refuse(t, r, path, reasonProtocol, "%s what a %s routes; correct its appProtocol or name, or use a route of another kind", where, r.Kind.Kind)
}

// carries reports whether routes of a kind have an effect on ports that carry a protocol.
func carries(p mesh.AppProtocol, k mesh.RouteKind) bool {
	switch k {
	case mesh.RouteTLS:
		return p == mesh.ProtocolTLS || p == mesh.ProtocolTCP || p == mesh.ProtocolSniff
	case mesh.RouteTCP:
		return p == mesh.ProtocolTCP || p == mesh.ProtocolTLS || p == mesh.ProtocolSniff
	case mesh.RouteHTTP, mesh.RouteGRPC:
	}
	return p != mesh.ProtocolTCP && p != mesh.ProtocolTLS
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

// routeHosts returns the host names of a route: those of requests, or of a TLSRoute's SNIs.
func (t *translator) routeHosts(r *routeObject) []string {
	var out []string
	for i, h := range r.hostnames {
		name := strings.TrimPrefix(string(h), "*.")
		if _, err := netip.ParseAddr(name); err == nil || !isSubdomain(name) {
			t.bad(r.Object, elem("spec.hostnames", i), "%q is not a host name; write a DNS name in lower case, with at most a leading \"*.\"", clip(string(h)))
			continue
		}
		if !slices.Contains(out, string(h)) {
			out = append(out, string(h))
		}
	}
	return out
}

// intersect reports whether some name is covered by both a and b, each of which is
// a name or stands, with a leading "*.", for all that end so.
func intersect(a, b string) bool {
	if a == b {
		return true
	}
	wildA, wildB := strings.HasPrefix(a, "*."), strings.HasPrefix(b, "*.")
	switch {
	case wildA && wildB:
		return strings.HasSuffix(a, b[1:]) || strings.HasSuffix(b, a[1:])
	case wildA:
		return strings.HasSuffix(b, a[1:])
	case wildB:
		return strings.HasSuffix(a, b[1:])
	}
	return false
}
