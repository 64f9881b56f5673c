package object

import (
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// The kinds of policies and what each may be attached to.
var (
	kindTrafficPolicy = kindOf(groupPolicy, "TrafficPolicy")
	kindConstraint    = kindOf(groupGatewayX, "XBackendTrafficPolicy")
	kindBackendTLS    = kindOf(groupGateway, "BackendTLSPolicy")
	kindConfigMap     = kindOf(groupCore, "ConfigMap")
	kindSecret        = kindOf(groupCore, "Secret")
)

// Reasons of GEP-713.
const (
	reasonInvalid        = string(gwv1.PolicyReasonInvalid)
	reasonTargetNotFound = string(gwv1.PolicyReasonTargetNotFound)
)

// trafficTarget looks for what a policy is attached to. What is not there, or
// cannot be said of it, has been told when it returns false.
func (t *translator) trafficTarget(o *Object, path string, ref *gwv1.LocalPolicyTargetReferenceWithSectionName, b *policyBody, at *policyTarget) bool {
	switch {
	case ref.Group == groupCore && ref.Kind == "Service":
		s := t.services[at.name]
		if s == nil {
			return t.noTarget(o, path+".name", "%s does not exist; correct the name or add it", at)
		}
		return t.serviceTarget(o, path, b, at, []*service{s})
	case ref.Group == groupNet && ref.Kind == "ServiceEntry":
		e := t.entry(at.name)
		if e == nil {
			return t.noTarget(o, path+".name", "%s does not exist; correct the name or add it", at)
		}
		return t.serviceTarget(o, path, b, at, e.hosts)
	case o.Kind != kindTrafficPolicy && o.Kind != kindAccess:
		t.bad(o, path+".kind", "a %s cannot be attached to %s %q; name a Service (group \"\") or a ServiceEntry (group %s)", o.Kind.Kind, clip(string(ref.Group)), clip(string(ref.Kind)), groupNet)
		return false
	case ref.Group == groupGateway && ref.Kind == "Gateway":
		return t.gatewayTarget(o, path, b, at)
	case ref.Group == groupGateway && (ref.Kind == "HTTPRoute" || ref.Kind == "GRPCRoute"):
		return t.routeTarget(o, path, b, at)
	}
	t.bad(o, path+".kind", "a policy cannot be attached to %s %q; name a Service (group \"\"), a ServiceEntry (group %s), or a Gateway, HTTPRoute or GRPCRoute (group %s)",
		clip(string(ref.Group)), clip(string(ref.Kind)), groupNet, groupGateway)
	return false
}

func (t *translator) noTarget(o *Object, path, format string, args ...any) bool {
	t.unresolved(o, path, reasonTargetNotFound, format, args...)
	return false
}

func (t *translator) serviceTarget(o *Object, path string, b *policyBody, at *policyTarget, list []*service) bool {
	s := list[0]
	if at.section != "" && !slices.ContainsFunc(s.ports, func(p servicePort) bool { return p.name == at.section }) {
		return t.noTarget(o, path+".sectionName", "%s has no TCP port by the name %q; %s", s.obj, clip(at.section), portsOf(s))
	}
	if b.subset != "" && b.invalid == "" {
		for _, s := range list {
			if t.subset(s, b.subset) == nil { // then it has no endpoints
				t.unresolved(o, "spec.loadBalancer.subsetName", "SubsetNotFound", "no DestinationRule for %s has a subset %q; add it, or correct the name", s.model.Key.Hostname, b.subset)
			}
		}
	}
	if !t.served(s) && b.requests != nil && o.Kind == kindTrafficPolicy {
		t.note(o, "%s has no waypoint: what the policy says of requests has no effect there (label it or its namespace %s)", s.obj, labelWaypoint)
	}
	return true
}

func (t *translator) gatewayTarget(o *Object, path string, b *policyBody, at *policyTarget) bool {
	w := t.waypoints[at.name]
	switch {
	case w == nil && t.gateways[at.name] != nil:
		return t.noTarget(o, path+".name", "%s is not a waypoint, so the policy has no effect there; name one of class cairn-waypoint", at)
	case w == nil:
		return t.noTarget(o, path+".name", "%s does not exist; correct the name or add it", at)
	case at.section != "" && (w.listener == nil || at.section != string(w.listener.Name)):
		return t.noTarget(o, path+".sectionName", "waypoint %s has no listener %q; remove the sectionName", at.name, clip(at.section))
	case b.subset != "" || b.backend != nil && len(b.backend.Subset) > 0:
		t.bad(o, path, "a subset is of one service and cannot be chosen for all of a Gateway; attach the policy to a Service, or remove the subset")
		return false
	}
	if w.model.ForServiceAccount != "" {
		for _, s := range t.servedBy(w) {
			if other := s.model.Waypoint; other != nil && other.Name != at.name {
				t.note(o, "%s has waypoint %s, too: the policies of that one are in force for it, not those of %s", s.obj, other.Name, at)
				break
			}
		}
	}
	at.section = "" // a waypoint has one listener
	return true
}

func (t *translator) routeTarget(o *Object, path string, b *policyBody, at *policyTarget) bool {
	r := t.byKey[objectKey{kindOf(groupGateway, at.kind), at.name}]
	if r == nil {
		return t.noTarget(o, path+".name", "%s does not exist; correct the name or add it", at)
	}
	if at.section != "" && !slices.Contains(ruleNames(r), gwv1.SectionName(at.section)) {
		return t.noTarget(o, path+".sectionName", "%s has no rule by the name %q; name one, or remove the sectionName", r, clip(at.section))
	}
	if says := b.saysOfBackend(); len(says) > 0 {
		t.bad(o, path, "%s: this is of the way to a service's endpoints and cannot be attached to a route; attach it to the Service, or name the policy in an ExtensionRef of a backendRef", strings.Join(says, ", "))
		return false
	}
	return true
}

// ruleNames are the names of a route's rules.
func ruleNames(o *Object) (out []gwv1.SectionName) {
	add := func(name *gwv1.SectionName) {
		if name != nil {
			out = append(out, *name)
		}
	}
	switch v := o.Value.(type) {
	case *gwv1.HTTPRoute:
		for i := range v.Spec.Rules {
			add(v.Spec.Rules[i].Name)
		}
	case *gwv1.GRPCRoute:
		for i := range v.Spec.Rules {
			add(v.Spec.Rules[i].Name)
		}
	}
	return out
}

// routePolicy returns what the policies attached to the route o, and to its rule of that name
// ("" for one without a name), say of requests; nil for nothing.
func (t *translator) routePolicy(o *Object, rule string) *mesh.RequestPolicy {
	var all, own *mesh.RequestPolicy
	if b := t.layer(kindTrafficPolicy, o.Kind.Kind, o.Name, ""); b != nil {
		all = b.requests
	}
	if rule != "" {
		if b := t.layer(kindTrafficPolicy, o.Kind.Kind, o.Name, rule); b != nil {
			own = b.requests
		}
	}
	return own.Over(all)
}
