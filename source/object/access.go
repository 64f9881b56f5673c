package object

import (
	"cairnproxy.dev/cairn/expr"
	"cairnproxy.dev/cairn/mesh"
)

var kindAccess = kindOf(groupPolicy, "AccessPolicy")

// maxAccessRules bounds the rules of an AccessPolicy, as its schema does.
const maxAccessRules = 256

// accessPolicy translates an AccessPolicy. One with a problem is marked Invalid, so that it
// refuses everything where it is served all the same.
func (t *translator) accessPolicy(o *Object, v *AccessPolicy) *mesh.AccessPolicy {
	p := &mesh.AccessPolicy{Name: o.Name, Origin: o.Origin}
	t.begin()
	switch spec := &v.Spec; spec.Mode {
	case "", "enforce":
	case "dryRun":
		p.Mode = mesh.ModeDryRun
	case "audit":
		p.Mode = mesh.ModeAudit
	default:
		t.bad(o, "spec.mode", "%q is not a mode; use enforce, dryRun or audit", clip(spec.Mode))
	}
	t.accessRules(o, v.Spec.Rules, p)
	if len(v.Spec.TargetRefs) == 0 {
		t.bad(o, "spec.targetRefs", "the policy is attached to nothing; name a Gateway, a Service, a ServiceEntry, an HTTPRoute or a GRPCRoute")
	}
	p.Invalid = t.invalid(o)
	t.accessTargets(o, v, p)
	return p
}

// invalid is why a policy of which something is wrong cannot be understood; "" where nothing is.
func (t *translator) invalid(o *Object) string {
	if o.flaws != nil && len(o.flaws.unread) > 0 {
		return "field " + o.flaws.unread[0] + " cannot be read; correct it"
	}
	return t.refused()
}

func (t *translator) accessRules(o *Object, rules []AccessRule, p *mesh.AccessPolicy) {
	switch n := len(rules); {
	case n == 0:
		t.bad(o, "spec.rules", "the policy has no rules; add one, such as {effect: deny, when: 'true'}")
	case n > maxAccessRules:
		t.bad(o, "spec.rules", "the policy has %d rules; at most %d are possible: make several policies of it", n, maxAccessRules)
		return
	}
	names := map[string]int{}
	for i := range rules {
		in, path := &rules[i], elem("spec.rules", i)
		r := mesh.AccessRule{Name: in.Name}
		if in.Name != "" && !isLabel(in.Name) {
			t.bad(o, path+".name", "%q is not a name; use lower case letters, digits and -", clip(in.Name))
		}
		if first, dup := names[in.Name]; dup && in.Name != "" {
			t.bad(o, path+".name", "rules[%d] has the name %q, too; change one of them", first, clip(in.Name))
		}
		names[in.Name] = i
		switch in.Effect {
		case "allow":
		case "deny":
			r.Effect = mesh.AccessDeny
		case "require":
			r.Effect = mesh.AccessRequire
		default:
			t.bad(o, path+".effect", "%q is not an effect; use allow, deny or require", clip(in.Effect))
		}
		r.When = t.neededCEL(o, path+".when", in.When, expr.KindBool)
		p.Rules = append(p.Rules, r)
	}
}

// accessTargets attaches p to what it names, and says what became of it at each.
func (t *translator) accessTargets(o *Object, v *AccessPolicy, p *mesh.AccessPolicy) {
	var parents []mesh.ParentStatus
	seen := map[policyTarget]int{}
	for i := range v.Spec.TargetRefs {
		ref, path := &v.Spec.TargetRefs[i], elem("spec.targetRefs", i)
		at := policyTarget{o.Kind, string(ref.Kind), mesh.Name{Namespace: o.Name.Namespace, Name: string(ref.Name)}, string(deref(ref.SectionName, ""))}
		if first, dup := seen[at]; dup {
			t.bad(o, path, "it names the target of targetRefs[%d] again; remove one", first)
			continue
		}
		seen[at] = i
		t.begin()
		found := t.trafficTarget(o, path, ref, &policyBody{}, &at)
		p.TargetRefs = append(p.TargetRefs, mesh.TargetRef{Group: string(ref.Group), Kind: string(ref.Kind), Name: string(ref.Name), Section: at.section})
		c := goodCondition(conditionAccepted)
		switch {
		case p.Invalid != "":
			c = badCondition(conditionAccepted, reasonInvalid, p.Invalid)
		case !found && len(t.trail) > 0:
			c = badCondition(conditionAccepted, targetReason(t.trail[0].reason), t.trail[0].path+": "+t.trail[0].message)
		case !found:
			c = badCondition(conditionAccepted, reasonInvalid, "the target cannot be read")
		case ref.Kind == "Service":
			t.noteUnserved(o, t.services[at.name])
		case ref.Kind == "ServiceEntry":
			t.noteUnserved(o, t.entry(at.name).hosts[0])
		}
		parents = append(parents, mesh.ParentStatus{
			Parent:     mesh.ParentRef{Group: string(ref.Group), Kind: at.kind, Name: at.name, Section: at.section},
			Conditions: []mesh.Condition{c},
		})
	}
	t.setStatus(o, parents)
}
