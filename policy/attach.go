package policy

import "cairnproxy.dev/cairn/mesh"

// Groups and kinds that an AuthorizationPolicy may target.
const (
	groupGateway      = "gateway.networking.k8s.io"
	groupIstioNetwork = "networking.istio.io"
)

// AttachedTo returns the AuthorizationPolicies that a waypoint enforces for
// requests to service v: those that target v itself (a Service, or a
// ServiceEntry of its name, in its namespace), the waypoint's Gateway, or, from
// the root namespace, its GatewayClass. v is nil for traffic addressed to a
// workload. The order is the snapshot's.
func AttachedTo(s *mesh.Snapshot, v *mesh.Service, w *mesh.Waypoint) []*mesh.AuthorizationPolicy {
	var out []*mesh.AuthorizationPolicy
	for _, p := range s.Policies {
		for _, ref := range p.TargetRefs {
			if targets(s, p.Name.Namespace, ref, v, w) {
				out = append(out, p)
				break
			}
		}
	}
	return out
}

// targets reports whether ref, in a policy of that namespace, means v or w.
func targets(s *mesh.Snapshot, namespace string, ref mesh.TargetRef, v *mesh.Service, w *mesh.Waypoint) bool {
	switch {
	case (ref.Group == "" || ref.Group == "core") && ref.Kind == "Service":
		return v != nil && isService(s, v) && ref.Name == v.Name && namespace == v.Key.Namespace
	case ref.Group == groupIstioNetwork && ref.Kind == "ServiceEntry":
		return v != nil && !isService(s, v) && ref.Name == v.Name && namespace == v.Key.Namespace
	case ref.Group == groupGateway && ref.Kind == "Gateway":
		return w != nil && w.Name == mesh.Name{Namespace: namespace, Name: ref.Name}
	case ref.Group == groupGateway && ref.Kind == "GatewayClass":
		return w != nil && namespace == s.RootNamespace && ref.Name == w.Class
	}
	return false
}

// isService tells a Kubernetes Service from a ServiceEntry by the hostname
// that only the former has.
func isService(s *mesh.Snapshot, v *mesh.Service) bool {
	return !v.External && v.Key.Hostname == v.Name+"."+v.Key.Namespace+".svc."+s.ClusterDomain
}
