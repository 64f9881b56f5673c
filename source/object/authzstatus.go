package object

import (
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// Conditions of AuthorizationPolicies, in istiod's words: one for each target at a waypoint, and one for the
// namespace where node proxies enforce it.
const (
	conditionWaypoint = "WaypointAccepted"
	conditionZtunnel  = "ZtunnelAccepted"
	reasonNotBound    = "AncestorNotBound"
)

// authzStatus says what became of an AuthorizationPolicy. The trail is of its translation.
func (t *translator) authzStatus(o *Object, spec *AuthorizationPolicySpec, p *mesh.AuthorizationPolicy) {
	if len(p.TargetRefs) == 0 {
		t.setStatus(o, []mesh.ParentStatus{{
			Parent:     mesh.ParentRef{Kind: "Namespace", Name: mesh.Name{Name: o.Name.Namespace}},
			Conditions: []mesh.Condition{nodeCondition(p)},
		}})
		return
	}
	t.setStatus(o, targetStatuses(o, spec.TargetRef != nil, p.TargetRefs, func(path string, ref mesh.TargetRef, name mesh.Name) mesh.Condition {
		return t.waypointCondition(path, p, ref, name)
	}))
}

// targetStatuses has a condition for each of the targets of o, of which the first may be its targetRef.
func targetStatuses(o *Object, single bool, refs []mesh.TargetRef, condition func(path string, ref mesh.TargetRef, name mesh.Name) mesh.Condition) []mesh.ParentStatus {
	var parents []mesh.ParentStatus
	for i, ref := range refs {
		path := elem("spec.targetRefs", i)
		if single {
			path = elem("spec.targetRefs", i-1)
			if i == 0 {
				path = "spec.targetRef"
			}
		}
		name := mesh.Name{Namespace: o.Name.Namespace, Name: ref.Name}
		if ref.Kind == "GatewayClass" {
			name.Namespace = ""
		}
		parents = append(parents, mesh.ParentStatus{
			Parent:     mesh.ParentRef{Group: ref.Group, Kind: ref.Kind, Name: name},
			Conditions: []mesh.Condition{condition(path, ref, name)},
		})
	}
	return parents
}

// targetCondition is what the trail says of the target at path, with a condition of type kind; ok is false where it says nothing.
func (t *translator) targetCondition(kind, path string) (c mesh.Condition, ok bool) {
	i := slices.IndexFunc(t.trail, func(x pending) bool { return strings.HasPrefix(x.path, path+".") })
	if i < 0 {
		return c, false
	}
	return badCondition(kind, targetReason(t.trail[i].reason), t.trail[i].path+": "+t.trail[i].message), true
}

// waypointCondition is what became of p at one target.
func (t *translator) waypointCondition(path string, p *mesh.AuthorizationPolicy, ref mesh.TargetRef, name mesh.Name) mesh.Condition {
	if c, ok := t.targetCondition(conditionWaypoint, path); ok {
		return c
	}
	if p.Invalid != "" {
		return badCondition(conditionWaypoint, reasonInvalid, p.Invalid+"; until it is corrected the policy refuses everything here")
	}
	if message := t.unbound(ref, name); message != "" {
		return badCondition(conditionWaypoint, reasonNotBound, message)
	}
	return mesh.Condition{Type: conditionWaypoint, True: true, Reason: conditionAccepted}
}

// unbound says that nobody enforces a policy at that target; "" where somebody does.
func (t *translator) unbound(ref mesh.TargetRef, name mesh.Name) string {
	var s *service
	switch ref.Kind {
	case "Service":
		s = t.services[name]
	case "ServiceEntry":
		if e := t.entry(name); e != nil {
			s = e.hosts[0]
		}
	}
	if s == nil || t.served(s) {
		return ""
	}
	return describe(ref.Kind, name) + " has no waypoint, so that nobody enforces the policy; label it or its namespace " + labelWaypoint
}

// nodeCondition is what becomes of p at node proxies, which know no requests. It is accepted then, too, as istiod has it,
// and refuses more than it says.
func nodeCondition(p *mesh.AuthorizationPolicy) mesh.Condition {
	if p.Invalid != "" {
		return badCondition(conditionZtunnel, reasonInvalid, p.Invalid+"; until it is corrected the policy refuses everything that it is for")
	}
	c := mesh.Condition{Type: conditionZtunnel, True: true, Reason: conditionAccepted}
	found := requestAttributes(p.Rules)
	if len(found) == 0 {
		return c
	}
	c.Reason, c.Message = reasonUnsupported, "node proxies do not see requests ("+strings.Join(found, ", ")+"): "
	switch p.Action {
	case mesh.ActionAllow:
		c.Message += "rules with these never match, which refuses more than is asked for"
	case mesh.ActionAudit:
		c.Message += "rules with these never match, and nothing is told of"
	default:
		c.Message += "rules are enforced without these, which refuses more than is asked for"
	}
	c.Message += "; add targetRefs for a waypoint to enforce the policy"
	return c
}

// requestAttributes are the attributes in rules that only requests have.
func requestAttributes(rules []mesh.AuthzRule) (out []string) {
	add := func(name string, lists ...[]string) {
		for _, l := range lists {
			if len(l) > 0 && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	for i := range rules {
		for j := range rules[i].From {
			s := &rules[i].From[j]
			add("requestPrincipals", s.RequestPrincipals, s.NotRequestPrincipals)
			if len(s.RemoteIPBlocks)+len(s.NotRemoteIPBlocks) > 0 {
				add("remoteIpBlocks", []string{""})
			}
		}
		for j := range rules[i].To {
			op := &rules[i].To[j]
			add("hosts", op.Hosts, op.NotHosts)
			add("methods", op.Methods, op.NotMethods)
			add("paths", op.Paths, op.NotPaths)
		}
		for j := range rules[i].When {
			if c := &rules[i].When[j]; strings.HasPrefix(c.Key, "request.") || c.Key == "remote.ip" || c.Key == "connection.sni" {
				add(c.Key, c.Values, c.NotValues)
			}
		}
	}
	return out
}
