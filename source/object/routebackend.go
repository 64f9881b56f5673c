package object

import (
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// backend translates a backendRef. One that leads nowhere is broken: its share of the requests gets 500.
func (t *translator) backend(r *routeObject, path string, in *gwv1.HTTPBackendRef, rule *ruleObject) mesh.Backend {
	const maxWeight = 1_000_000
	first := len(t.trail)
	b := mesh.Backend{Weight: 1}
	if in.Weight != nil {
		if w := *in.Weight; w < 0 || w > maxWeight {
			t.bad(r.Object, path+".weight", "weight %d is out of range; use 0 to %d", w, maxWeight)
		} else {
			b.Weight = uint32(w)
		}
	}
	b.Service, b.Port = t.backendPort(r, path, &in.BackendObjectReference)
	f := t.filters(r, path+".filters", in.Filters, rule)
	b.Filters = f.RouteFilters
	b.Policy = t.backendPolicy(r.Object, path+".filters", t.byHost[b.Service], f.extension)
	b.Broken = t.brokenSince(first)
	return b
}

// backendPort is referredPort for a backend, which must speak what the route does.
func (t *translator) backendPort(r *routeObject, path string, in *gwv1.BackendObjectReference) (mesh.ServiceKey, uint16) {
	key, port, s := t.referredPort(r.Object, path, in)
	if port != 0 && (r.kind == mesh.RouteHTTP || r.kind == mesh.RouteGRPC) {
		if p := s.model.Port(port); p != nil && p.Protocol == mesh.ProtocolTCP {
			t.unresolved(r.Object, path+".port", reasonProtocol, "port %d of %s carries TCP, which a %s cannot send to; correct its appProtocol or name, or use a TCPRoute", port, s.obj, r.Kind.Kind)
		}
	}
	return key, port
}

// referredPort resolves a reference to a port of a service. What is not there is told of; a service
// that is not there is nil.
func (t *translator) referredPort(o *Object, path string, in *gwv1.BackendObjectReference) (mesh.ServiceKey, uint16, *service) {
	s := t.backendService(o, path, in)
	if s == nil {
		return mesh.ServiceKey{}, 0, nil
	}
	if in.Port == nil {
		t.bad(o, path+".port", "the reference names no port; %s", portsOf(s))
		return s.model.Key, 0, s
	}
	port := t.port(o, path+".port", int64(*in.Port))
	if port != 0 && s.model.Port(port) == nil {
		t.unresolved(o, path+".port", reasonNotFound, "%s has no TCP port %d; %s", s.obj, port, portsOf(s))
	}
	return s.model.Key, port, s
}

// backendService resolves a reference to a Service, or to a host by Istio's Hostname kind.
func (t *translator) backendService(o *Object, path string, in *gwv1.BackendObjectReference) *service {
	group, kind := deref(in.Group, groupCore), deref(in.Kind, "Service")
	name := mesh.Name{Namespace: string(deref(in.Namespace, gwv1.Namespace(o.Name.Namespace))), Name: string(in.Name)}
	switch {
	case group == groupCore && kind == "Service":
		// Whether there is a grant is looked at first: who may not refer to a namespace
		// learns nothing of what is in it.
		if name.Namespace != o.Name.Namespace && !ownParent(o, name) && !t.granted(o, name) {
			t.unresolved(o, path+".namespace", reasonNotPermitted, "namespace %s does not let %ss of %s refer to Service %s; add a ReferenceGrant there", name.Namespace, o.Kind.Kind, o.Name.Namespace, name.Name)
			return nil
		}
		s := t.services[name]
		if s == nil {
			t.unresolved(o, path+".name", reasonNotFound, "Service %s does not exist; correct the name or add the Service", name)
		}
		return s
	case group == groupNet && kind == "Hostname":
		s := t.host(strings.ToLower(string(in.Name)), o.Name.Namespace)
		if s == nil {
			t.unresolved(o, path+".name", reasonNotFound, "no Service or ServiceEntry has host %q; correct the name or add one", clip(string(in.Name)))
		}
		return s
	}
	t.unresolved(o, path+".kind", reasonInvalidKind, "a backend of kind %q (group %q) is not supported; use a Service", clip(string(kind)), clip(string(group)))
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

// ownParent reports whether o is a route that is attached to the Service. A consumer's route
// may send back there without a ReferenceGrant (Gateway API's MeshConsumerRoute does):
// its clients were on their way there.
func ownParent(o *Object, to mesh.Name) bool {
	r := routeOf(o)
	return r != nil && slices.ContainsFunc(r.parents, func(p gwv1.ParentReference) bool {
		return deref(p.Group, groupGateway) == groupCore && deref(p.Kind, "Gateway") == "Service" &&
			string(p.Name) == to.Name && string(deref(p.Namespace, gwv1.Namespace(o.Name.Namespace))) == to.Namespace
	})
}

// granted reports whether a ReferenceGrant lets o refer to a Service.
func (t *translator) granted(o *Object, to mesh.Name) bool {
	for _, g := range t.grants {
		if g.Name.Namespace != to.Namespace {
			continue
		}
		spec := &g.Value.(*gwv1.ReferenceGrant).Spec
		from := slices.ContainsFunc(spec.From, func(f gwv1.ReferenceGrantFrom) bool {
			return string(f.Group) == o.Kind.Group && string(f.Kind) == o.Kind.Kind && string(f.Namespace) == o.Name.Namespace
		})
		if from && slices.ContainsFunc(spec.To, func(x gwv1.ReferenceGrantTo) bool {
			return x.Group == groupCore && x.Kind == "Service" && (x.Name == nil || *x.Name == "" || string(*x.Name) == to.Name)
		}) {
			return true
		}
	}
	return false
}
