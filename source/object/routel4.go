package object

import (
	"cairnproxy.dev/cairn/mesh"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// tcpRoute and tlsRoute say in HTTPRoute's words what routes for connections say:
// backends with weights, and nothing else.
func tcpRoute(o *Object, v *gwv1.TCPRoute) *routeObject {
	r := &routeObject{Object: o, kind: mesh.RouteTCP, created: v.CreationTimestamp.Time, parents: v.Spec.ParentRefs}
	for i := range v.Spec.Rules {
		r.rules = append(r.rules, connectionRule(v.Spec.Rules[i].Name, v.Spec.Rules[i].BackendRefs))
	}
	return r
}

func tlsRoute(o *Object, v *gwv1.TLSRoute) *routeObject {
	r := &routeObject{Object: o, kind: mesh.RouteTLS, created: v.CreationTimestamp.Time, parents: v.Spec.ParentRefs, hostnames: v.Spec.Hostnames}
	for i := range v.Spec.Rules {
		r.rules = append(r.rules, connectionRule(v.Spec.Rules[i].Name, v.Spec.Rules[i].BackendRefs))
	}
	return r
}

func connectionRule(name *gwv1.SectionName, backends []gwv1.BackendRef) ruleObject {
	out := ruleObject{name: name}
	for _, b := range backends {
		out.backends = append(out.backends, gwv1.HTTPBackendRef{BackendRef: b})
	}
	return out
}
