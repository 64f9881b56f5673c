package policy

import (
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

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

// Attachments finds what AttachedTo does for one waypoint and many services, by
// looking at the policies once. It does not change.
type Attachments struct {
	s       *mesh.Snapshot
	general []*mesh.AuthorizationPolicy // that target the waypoint
	special map[target][]int            // positions in s.Policies of those that target services
	places  []int                       // of general
}

// target is a service as a policy names it.
type target struct {
	entry           bool
	namespace, name string
}

// NewAttachments returns the Attachments of w's services.
func NewAttachments(s *mesh.Snapshot, w *mesh.Waypoint) *Attachments {
	a := &Attachments{s: s, special: map[target][]int{}}
	for i, p := range s.Policies {
		if slices.ContainsFunc(p.TargetRefs, func(ref mesh.TargetRef) bool { return targets(s, p.Name.Namespace, ref, nil, w) }) {
			a.general, a.places = append(a.general, p), append(a.places, i)
			continue
		}
		for _, ref := range p.TargetRefs {
			t := target{ref.Kind == "ServiceEntry", p.Name.Namespace, ref.Name}
			if list := a.special[t]; len(list) == 0 || list[len(list)-1] != i {
				a.special[t] = append(list, i)
			}
		}
	}
	return a
}

// Of returns the policies for requests to v, or to workloads if v is nil. The
// list must not be written to: services without policies of their own share it.
func (a *Attachments) Of(v *mesh.Service) []*mesh.AuthorizationPolicy {
	if v == nil {
		return a.general
	}
	own := a.special[target{!isService(a.s, v), v.Key.Namespace, v.Name}]
	var out []*mesh.AuthorizationPolicy
	rest := a.places
	for _, i := range own {
		p := a.s.Policies[i]
		if !slices.ContainsFunc(p.TargetRefs, func(ref mesh.TargetRef) bool { return targets(a.s, p.Name.Namespace, ref, v, nil) }) {
			continue // of another group
		}
		for ; len(rest) > 0 && rest[0] < i; rest = rest[1:] {
			out = append(out, a.s.Policies[rest[0]])
		}
		out = append(out, p)
	}
	if out == nil {
		return a.general
	}
	for _, i := range rest {
		out = append(out, a.s.Policies[i])
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
	if v.External {
		return false
	}
	rest := v.Key.Hostname
	for _, part := range [...]string{v.Name, ".", v.Key.Namespace, ".svc.", s.ClusterDomain} { // there may be 10,000 to ask about
		var ok bool
		if rest, ok = strings.CutPrefix(rest, part); !ok {
			return false
		}
	}
	return rest == ""
}
