package object

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwx "sigs.k8s.io/gateway-api/apisx/v1alpha1"
)

// Policies of traffic go the same way, whatever their kind:
//
//	object ─► policyBody ─► claims on targets ─► layers ─► ServicePort, Route
//
// A body is what the object says, in the model's terms, once for all its targets.
// At each target the bodies of one kind are laid over each other, the oldest on
// top: where two say the same thing, the older speaks and the other is told of
// (GEP-713). traffic_layers.go lays what remains over the services' ports.

// policyBody is what a policy object says, wherever it is attached.
type policyBody struct {
	requests *mesh.RequestPolicy
	backend  *mesh.BackendPolicy
	subset   string // of a DestinationRule; "" for none
	// invalid says why the policy is refused; "" when it is not. resolved is its condition of
	// that name, nil where it refers to nothing.
	invalid  string
	resolved *mesh.Condition
	noCA     bool // of a BackendTLSPolicy of whose authorities none can be used
}

// policyTarget is what policies of one kind are attached to.
type policyTarget struct {
	policy  *Kind
	kind    string
	name    mesh.Name
	section string // a port's or a rule's name; "" for the whole
}

// claim is what has been attached to one target.
type claim struct {
	bodies []*policyBody      // the oldest first
	owners map[string]*Object // by what they say
	merged *policyBody
}

// madeBody is what became of a policy object in some surroundings.
type madeBody struct {
	in     *surroundings
	origin mesh.Origin
	body   *policyBody
}

// traffic is what one translation knows of traffic policies.
type traffic struct {
	bodies map[mesh.Name]*policyBody // TrafficPolicies, for those who name one
	claims map[policyTarget]*claim
	// gateways and targets find the claims for a waypoint, and whether there are any for a service.
	gateways map[mesh.Name]*policyBody
	targets  map[mesh.Name]bool
	rules    ruleIndex
	made     map[any]madeBody
	latest   map[objectKey]*policyBody
}

// pastTraffic is what a Translator remembers of them.
type pastTraffic struct {
	made   map[any]madeBody // by the objects' values
	latest map[objectKey]*policyBody
	claims map[policyTarget]*claim
	rules  map[any]madeRule
	groups map[groupKey]*ruleGroup
	over   map[mesh.ServiceKey]*overlay
}

// translateTraffic attaches the policies of traffic to what they name.
func (t *translator) translateTraffic(objects []*Object) {
	t.traffic = traffic{
		bodies: map[mesh.Name]*policyBody{}, claims: map[policyTarget]*claim{},
		gateways: map[mesh.Name]*policyBody{}, targets: map[mesh.Name]bool{},
		made: map[any]madeBody{}, latest: map[objectKey]*policyBody{},
	}
	t.celSeen = map[celCheck]error{}
	t.gatherRules(objects)
	policies := oldestFirst(objects, isTrafficKind)
	for _, o := range policies {
		b := t.body(o)
		if _, ok := o.Value.(*TrafficPolicy); ok {
			t.traffic.bodies[o.Name] = b
		}
		t.attachPolicy(o, b)
	}
	t.surroundExtensions(policies)
	t.finishRules()
	t.mergeClaims()
	t.layServices()
	t.past.cel = t.celSeen
	t.past.traffic.made, t.past.traffic.latest, t.past.traffic.claims = t.traffic.made, t.traffic.latest, t.traffic.claims
}

// oldestFirst lists the objects in the order in which they go before each other:
// by age, then by name.
func oldestFirst(objects []*Object, of func(*Object) bool) []*Object {
	var out []*Object
	for _, o := range objects {
		if of(o) {
			out = append(out, o)
		}
	}
	created := func(o *Object) time.Time { return o.meta().GetCreationTimestamp().Time }
	slices.SortStableFunc(out, func(a, b *Object) int {
		return cmp.Or(created(a).Compare(created(b)), strings.Compare(a.Name.Namespace, b.Name.Namespace), strings.Compare(a.Name.Name, b.Name.Name))
	})
	return out
}

func isTrafficKind(o *Object) bool {
	switch o.Value.(type) {
	case *TrafficPolicy, *gwx.XBackendTrafficPolicy, *gwv1.BackendTLSPolicy:
		return true
	}
	return false
}

// body translates what a policy says, or remembers what it was. A body that says
// the same as its predecessor is the same pointer.
func (t *translator) body(o *Object) *policyBody {
	if m, ok := t.past.traffic.made[o.Value]; ok && m.in == t.past.policies && m.origin == o.Origin {
		t.traffic.made[o.Value], t.traffic.latest[objectKey{o.Kind, o.Name}] = m, m.body
		return m.body
	}
	said, notices := t.said, len(t.notices)
	t.begin()
	b := &policyBody{}
	switch v := o.Value.(type) {
	case *TrafficPolicy:
		t.trafficBody(o, v, b)
	case *gwx.XBackendTrafficPolicy:
		t.constraintBody(o, v, b)
	case *gwv1.BackendTLSPolicy:
		t.tlsBody(o, v, b)
	}
	if o.flaws != nil && len(o.flaws.unread) > 0 {
		b.invalid = "field " + o.flaws.unread[0] + " cannot be read; correct it"
	}
	if why := t.refused(); why != "" {
		b.invalid = why
	}
	for _, p := range t.trail {
		if p.served && (b.resolved == nil || b.resolved.True) {
			c := badCondition(conditionResolved, p.reason, p.path+": "+p.message)
			b.resolved = &c
		}
	}
	key := objectKey{o.Kind, o.Name}
	if old := t.past.traffic.latest[key]; old != nil && reflect.DeepEqual(old, b) {
		b = old
	}
	t.traffic.latest[key] = b
	if t.quiet(said, notices) {
		t.traffic.made[o.Value] = madeBody{t.past.policies, o.Origin, b}
	}
	return b
}

// refused is the first problem of the trail for which a
// policy is refused as a whole; "" for none.
func (t *translator) refused() string {
	for _, p := range t.trail {
		if !p.served {
			return p.path + ": " + p.message
		}
	}
	return ""
}

// targetReason is the reason for which a target does not take a policy.
func targetReason(reason string) string {
	if reason == reasonTargetNotFound {
		return reason
	}
	return reasonInvalid
}

func (t *translator) trafficBody(o *Object, v *TrafficPolicy, b *policyBody) {
	b.requests = t.trafficRequests(o, &v.Spec)
	b.backend = t.trafficBackend(o, &v.Spec)
	if v.Spec.LoadBalancer != nil {
		b.subset = v.Spec.LoadBalancer.SubsetName
	}
	if v.Spec.RateLimit != nil && v.Spec.RateLimit.Global != nil {
		c := goodCondition(conditionResolved)
		b.resolved = &c
	}
	if len(b.says()) == 0 && len(t.trail) == 0 {
		t.bad(o, "spec", "the policy says nothing; add timeout, retry, rateLimit or another part")
	}
}

// attachPolicy attaches a body to the targets of its object, and says what
// became of it at each.
func (t *translator) attachPolicy(o *Object, b *policyBody) {
	refs := policyTargets(o)
	var parents []mesh.ParentStatus
	seen := map[policyTarget]int{}
	for i := range refs {
		path := elem("spec.targetRefs", i)
		at := policyTarget{o.Kind, string(refs[i].Kind), mesh.Name{Namespace: o.Name.Namespace, Name: string(refs[i].Name)}, string(deref(refs[i].SectionName, ""))}
		c := goodCondition(conditionAccepted)
		if first, dup := seen[at]; dup {
			t.bad(o, path, "it names the target of targetRefs[%d] again; remove one", first)
			continue
		}
		seen[at] = i
		t.begin()
		switch found := t.trafficTarget(o, path, &refs[i], b, &at); {
		case !found && b.invalid == "":
			c = badCondition(conditionAccepted, reasonInvalid, "the target cannot be read")
			if len(t.trail) > 0 {
				p := t.trail[0]
				c = badCondition(conditionAccepted, targetReason(p.reason), p.path+": "+p.message)
			}
		default:
			lost := ""
			if found && (b.invalid == "" || o.Kind == kindBackendTLS) { // which lets nothing pass then
				lost = t.claim(o, at, b, path)
			}
			switch {
			case b.invalid != "":
				c = badCondition(conditionAccepted, reasonInvalid, b.invalid)
			case lost != "":
				c = badCondition(conditionAccepted, reasonConflicted, lost)
			case b.noCA:
				c = badCondition(conditionAccepted, reasonNoCA, b.resolved.Message)
			}
		}
		s := mesh.ParentStatus{Parent: mesh.ParentRef{Group: string(refs[i].Group), Kind: at.kind, Name: at.name, Section: at.section}, Conditions: []mesh.Condition{c}}
		if b.resolved != nil {
			s.Conditions = append(s.Conditions, *b.resolved)
		}
		parents = append(parents, s)
	}
	if len(refs) > 0 || b.invalid != "" {
		t.setStatus(o, parents)
	}
}

// policyTargets are the targetRefs of a policy.
func policyTargets(o *Object) []gwv1.LocalPolicyTargetReferenceWithSectionName {
	switch v := o.Value.(type) {
	case *TrafficPolicy:
		return v.Spec.TargetRefs
	case *gwv1.BackendTLSPolicy:
		return v.Spec.TargetRefs
	case *gwx.XBackendTrafficPolicy:
		out := make([]gwv1.LocalPolicyTargetReferenceWithSectionName, len(v.Spec.TargetRefs))
		for i, r := range v.Spec.TargetRefs {
			out[i].LocalPolicyTargetReference = r
		}
		return out
	}
	return nil
}

// surroundExtensions notes what the routes of each namespace depend on: its TrafficPolicies, and
// the rules if one of these names a subset.
func (t *translator) surroundExtensions(policies []*Object) {
	each, subsets := map[string][]any{}, map[string]bool{}
	for _, o := range policies {
		if v, ok := o.Value.(*TrafficPolicy); ok {
			b := t.traffic.latest[objectKey{o.Kind, o.Name}]
			each[o.Name.Namespace] = append(each[o.Name.Namespace], v, b)
			subsets[o.Name.Namespace] = subsets[o.Name.Namespace] || b.subset != ""
		}
	}
	old := t.past.extensions
	t.past.extensions = make(map[string]*surroundings, len(each))
	for ns, values := range each {
		if subsets[ns] {
			for _, o := range t.traffic.rules.objects {
				values = append(values, o.Value)
			}
		}
		if s := old[ns]; s != nil && slices.Equal(s.values, values) {
			t.past.extensions[ns] = s
		} else {
			t.past.extensions[ns] = &surroundings{values}
		}
	}
}
