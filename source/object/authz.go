package object

import (
	"net/netip"
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

func (t *translator) translatePolicies(objects []*Object) {
	for _, o := range objects {
		switch v := o.Value.(type) {
		case *AuthorizationPolicy:
			t.parts.Policies = append(t.parts.Policies, t.authorization(o, v))
		case *PeerAuthentication:
			t.parts.PeerAuth = append(t.parts.PeerAuth, t.peerAuthentication(o, v))
		case *RequestAuthentication:
			t.parts.RequestAuth = append(t.parts.RequestAuth, t.requestAuthentication(o, v))
		case *AccessPolicy:
			t.parts.Access = append(t.parts.Access, t.accessPolicy(o, v))
		}
	}
}

// authorization translates an AuthorizationPolicy. One with a problem is
// marked Invalid, so that it refuses everything where it is served all the same.
func (t *translator) authorization(o *Object, v *AuthorizationPolicy) *mesh.AuthorizationPolicy {
	spec := &v.Spec
	p := &mesh.AuthorizationPolicy{Name: o.Name, Origin: o.Origin, DryRun: v.Annotations[annotationDryRun] == "true"}
	t.begin()
	if s := v.Annotations[annotationDryRun]; s != "" && s != "true" && s != "false" {
		t.bad(o, "metadata.annotations["+annotationDryRun+"]", "%q is not known; use \"true\" or \"false\"", clip(s))
	}
	switch spec.Action {
	case "", "ALLOW":
	case "DENY":
		p.Action = mesh.ActionDeny
	case "AUDIT":
		p.Action = mesh.ActionAudit
	case "CUSTOM":
		p.Action = mesh.ActionCustom
	default:
		t.bad(o, "spec.action", "%q is not an action; use ALLOW, DENY, AUDIT or CUSTOM", clip(spec.Action))
	}
	t.customPolicy(o, spec, p)
	p.Selector = t.policySelector(o, spec.Selector)
	t.policyTargets(o, spec, p)
	for i, r := range spec.Rules {
		path := elem("spec.rules", i)
		if r == nil {
			t.bad(o, path, "the rule is empty and would match everything; write {} if that is meant, or remove it")
			continue
		}
		p.Rules = append(p.Rules, t.authzRule(o, path, r))
	}
	p.Invalid = t.invalid(o)
	if p.Action != mesh.ActionAllow && len(spec.Rules) == 0 && p.Invalid == "" {
		t.note(o, "a policy of action %s without rules has no effect", p.Action)
	}
	t.authzStatus(o, spec, p)
	return p
}

// customPolicy finds whom a policy of action CUSTOM asks. Without anybody to ask the policy
// refuses what it matches.
func (t *translator) customPolicy(o *Object, spec *AuthorizationPolicySpec, p *mesh.AuthorizationPolicy) {
	switch {
	case p.Action != mesh.ActionCustom && spec.Provider == nil:
	case p.Action != mesh.ActionCustom:
		t.bad(o, "spec.provider", "a provider belongs to action CUSTOM; remove it")
	case spec.Provider == nil || spec.Provider.Name == "":
		t.bad(o, "spec.provider", "action CUSTOM needs a provider to ask; add provider.name, one of MeshConfig's extensionProviders")
	case p.DryRun:
		t.bad(o, "metadata.annotations["+annotationDryRun+"]", "a CUSTOM policy cannot be tried without asking; remove the annotation")
	case spec.TargetRef == nil && len(spec.TargetRefs) == 0:
		t.bad(o, "spec.action", "only waypoints ask providers; add targetRefs, or use ALLOW or DENY")
	default:
		p.Provider = t.authzProvider(o, "spec.provider.name", spec.Provider.Name)
	}
}

func (t *translator) policySelector(o *Object, s *Selector) map[string]string {
	if s == nil {
		return nil
	}
	t.checkLabels(o, "spec.selector.matchLabels", s.MatchLabels)
	return s.MatchLabels
}

func (t *translator) policyTargets(o *Object, spec *AuthorizationPolicySpec, p *mesh.AuthorizationPolicy) {
	if spec.TargetRef != nil {
		t.policyTarget(o, "spec.targetRef", *spec.TargetRef, p)
	}
	for i, ref := range spec.TargetRefs {
		t.policyTarget(o, elem("spec.targetRefs", i), ref, p)
	}
	if len(p.TargetRefs) > 0 && spec.Selector != nil {
		t.bad(o, "spec.selector", "selector and targetRefs exclude each other; remove one")
	}
	if spec.TargetRef != nil && len(spec.TargetRefs) > 0 {
		t.bad(o, "spec.targetRef", "targetRef and targetRefs exclude each other; move it into targetRefs")
	}
}

func (t *translator) policyTarget(o *Object, path string, ref PolicyTarget, p *mesh.AuthorizationPolicy) {
	p.TargetRefs = append(p.TargetRefs, mesh.TargetRef{Group: ref.Group, Kind: ref.Kind, Name: ref.Name})
	if ref.Namespace != "" && ref.Namespace != o.Name.Namespace {
		t.bad(o, path+".namespace", "a policy targets objects of its own namespace; move it to namespace %s", clip(ref.Namespace))
		return
	}
	name := mesh.Name{Namespace: o.Name.Namespace, Name: ref.Name}
	var found bool
	switch {
	case (ref.Group == groupCore || ref.Group == "core") && ref.Kind == "Service":
		s := t.services[name]
		found = s != nil
		t.noteUnserved(o, s)
	case ref.Group == groupNet && ref.Kind == "ServiceEntry":
		if e := t.entry(name); e != nil {
			found = true
			t.noteUnserved(o, e.hosts[0])
		}
	case ref.Group == groupGateway && ref.Kind == "Gateway":
		found = t.gateways[name] != nil
	case ref.Group == groupGateway && ref.Kind == "GatewayClass":
		found = t.isWaypointClass(ref.Name) || t.classes[ref.Name] != nil
		if o.Name.Namespace != t.opts.RootNamespace {
			t.bad(o, path+".kind", "only policies of the root namespace may target a GatewayClass; move it to namespace %s", t.opts.RootNamespace)
			return
		}
		name.Namespace = ""
	default:
		t.bad(o, path+".kind", "a policy cannot target kind %q (group %q); target a Service, ServiceEntry, Gateway or GatewayClass", clip(ref.Kind), clip(ref.Group))
		return
	}
	if !found {
		t.noTarget(o, path+".name", "%s does not exist; correct the name or add it", describe(ref.Kind, name))
	}
}

func (t *translator) noteUnserved(o *Object, s *service) {
	if s != nil && !t.served(s) {
		t.note(o, "%s has no waypoint: nobody enforces the policy there (label it or its namespace %s)", s.obj, labelWaypoint)
	}
}

func (t *translator) authzRule(o *Object, path string, in *AuthzRule) mesh.AuthzRule {
	var r mesh.AuthzRule
	empty := func(field string, given, none bool) {
		if given && none {
			t.bad(o, path+"."+field, "an empty list would match everything; fill it or remove it")
		}
	}
	empty("from", in.From != nil, len(in.From) == 0)
	empty("to", in.To != nil, len(in.To) == 0)
	empty("when", in.When != nil, len(in.When) == 0)
	for i, f := range in.From {
		at := elem(path+".from", i)
		if f.Source == nil {
			t.bad(o, at, "the entry has no source; add one")
			continue
		}
		r.From = append(r.From, t.authzSource(o, at+".source", f.Source))
	}
	for i, to := range in.To {
		at := elem(path+".to", i)
		if to.Operation == nil {
			t.bad(o, at, "the entry has no operation; add one")
			continue
		}
		r.To = append(r.To, t.authzOperation(o, at+".operation", to.Operation))
	}
	for i := range in.When {
		r.When = append(r.When, t.authzCondition(o, elem(path+".when", i), &in.When[i]))
	}
	return r
}

// texts checks a list of patterns. given counts the lists that were written.
func (t *translator) texts(o *Object, path string, list []string, given *int) []string {
	if list == nil {
		return nil
	}
	*given++
	if len(list) == 0 {
		t.bad(o, path, "an empty list would match everything; fill it or remove it")
	}
	for i, s := range list {
		if s == "" {
			t.bad(o, elem(path, i), "an empty value matches nothing; fill it or remove it")
		}
	}
	return list
}

func (t *translator) blocks(o *Object, path string, list []string, given *int) (out []netip.Prefix) {
	for i, s := range t.texts(o, path, list, given) {
		if p, ok := t.prefix(o, elem(path, i), s); ok {
			out = append(out, p)
		}
	}
	return out
}

func (t *translator) ports(o *Object, path string, list []string, given *int) (out []uint16) {
	for i, s := range t.texts(o, path, list, given) {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || n == 0 {
			t.bad(o, elem(path, i), "%q is not a port; %s", clip(s), portRemedy)
			continue
		}
		out = append(out, uint16(n))
	}
	return out
}

func (t *translator) authzSource(o *Object, path string, in *AuthzSource) mesh.AuthzSource {
	n := 0
	s := mesh.AuthzSource{
		Principals:           t.principals(t.texts(o, path+".principals", in.Principals, &n)),
		NotPrincipals:        t.principals(t.texts(o, path+".notPrincipals", in.NotPrincipals, &n)),
		RequestPrincipals:    t.texts(o, path+".requestPrincipals", in.RequestPrincipals, &n),
		NotRequestPrincipals: t.texts(o, path+".notRequestPrincipals", in.NotRequestPrincipals, &n),
		TrustDomains:         t.trustDomains(t.texts(o, path+".trustDomains", in.TrustDomains, &n)),
		NotTrustDomains:      t.trustDomains(t.texts(o, path+".notTrustDomains", in.NotTrustDomains, &n)),
		Namespaces:           t.texts(o, path+".namespaces", in.Namespaces, &n),
		NotNamespaces:        t.texts(o, path+".notNamespaces", in.NotNamespaces, &n),
		ServiceAccounts:      t.serviceAccounts(o, path+".serviceAccounts", in.ServiceAccounts, &n),
		NotServiceAccounts:   t.serviceAccounts(o, path+".notServiceAccounts", in.NotServiceAccounts, &n),
		IPBlocks:             t.blocks(o, path+".ipBlocks", in.IPBlocks, &n),
		NotIPBlocks:          t.blocks(o, path+".notIpBlocks", in.NotIPBlocks, &n),
		RemoteIPBlocks:       t.blocks(o, path+".remoteIpBlocks", in.RemoteIPBlocks, &n),
		NotRemoteIPBlocks:    t.blocks(o, path+".notRemoteIpBlocks", in.NotRemoteIPBlocks, &n),
	}
	if len(in.ServiceAccounts)+len(in.NotServiceAccounts) > 0 && len(in.Principals)+len(in.NotPrincipals)+len(in.Namespaces)+len(in.NotNamespaces) > 0 {
		t.bad(o, path+".serviceAccounts", "serviceAccounts excludes principals and namespaces in one source; use separate sources")
	}
	if n == 0 {
		t.bad(o, path, "the source is empty and would match everyone; say who is meant, or remove it")
	}
	return s
}

// serviceAccounts completes names with the policy's namespace.
func (t *translator) serviceAccounts(o *Object, path string, list []string, given *int) (out []string) {
	for i, s := range t.texts(o, path, list, given) {
		ns, name, ok := strings.Cut(s, "/")
		if !ok {
			ns, name = o.Name.Namespace, s
		}
		if !isLabel(ns) || !isSubdomain(name) {
			t.bad(o, elem(path, i), "%q is not a service account; write NAMESPACE/NAME or NAME", clip(s))
			continue
		}
		out = append(out, ns+"/"+name)
	}
	return out
}

func (t *translator) authzOperation(o *Object, path string, in *AuthzOperation) mesh.AuthzOperation {
	n := 0
	op := mesh.AuthzOperation{
		Hosts:      t.texts(o, path+".hosts", in.Hosts, &n),
		NotHosts:   t.texts(o, path+".notHosts", in.NotHosts, &n),
		Ports:      t.ports(o, path+".ports", in.Ports, &n),
		NotPorts:   t.ports(o, path+".notPorts", in.NotPorts, &n),
		Methods:    t.texts(o, path+".methods", in.Methods, &n),
		NotMethods: t.texts(o, path+".notMethods", in.NotMethods, &n),
		Paths:      t.paths(o, path+".paths", in.Paths, &n),
		NotPaths:   t.paths(o, path+".notPaths", in.NotPaths, &n),
	}
	if n == 0 {
		t.bad(o, path, "the operation is empty and would match everything; say what is meant, or remove it")
	}
	return op
}

// paths checks path patterns: those with braces are templates, whose operators
// {*} and {**} stand for whole segments, {**} after all others.
func (t *translator) paths(o *Object, path string, list []string, given *int) []string {
	for i, s := range t.texts(o, path, list, given) {
		if !strings.Contains(s, "{*}") && !strings.Contains(s, "{**}") {
			continue
		}
		ok, last := strings.HasPrefix(s, "/"), false
		for seg := range strings.SplitSeq(strings.TrimPrefix(s, "/"), "/") {
			switch {
			case (seg == "{*}" || seg == "{**}") && !last:
				last = seg == "{**}"
			case strings.ContainsAny(seg, "{}*"):
				ok = false
			}
		}
		if !ok {
			t.bad(o, elem(path, i), "%q is not a path template; let {*} and {**} stand for whole segments, {**} at most once and after any {*}", clip(s))
		}
	}
	return list
}

func (t *translator) authzCondition(o *Object, path string, in *AuthzCondition) mesh.AuthzCondition {
	n := 0
	c := mesh.AuthzCondition{
		Key:       in.Key,
		Values:    t.texts(o, path+".values", in.Values, &n),
		NotValues: t.texts(o, path+".notValues", in.NotValues, &n),
	}
	if n == 0 {
		t.bad(o, path, "the condition has no values; add values or notValues")
	}
	each := func(check func(path, s string)) {
		for i, s := range in.Values {
			check(elem(path+".values", i), s)
		}
		for i, s := range in.NotValues {
			check(elem(path+".notValues", i), s)
		}
	}
	header, isHeader := strings.CutPrefix(in.Key, "request.headers[")
	switch key := in.Key; {
	case isHeader:
		if name := strings.TrimSuffix(header, "]"); name == header || !isToken(strings.TrimPrefix(name, ":")) {
			t.bad(o, path+".key", "%q names no header; write request.headers[NAME]", clip(key))
		}
	case key == "source.ip" || key == "remote.ip" || key == "destination.ip":
		each(func(at, s string) { t.prefix(o, at, s) })
	case key == "destination.port":
		each(func(at, s string) {
			if p, err := strconv.ParseUint(s, 10, 16); err != nil || p == 0 {
				t.bad(o, at, "%q is not a port; %s", clip(s), portRemedy)
			}
		})
	case key == "source.principal":
		c.Values, c.NotValues = t.principals(c.Values), t.principals(c.NotValues)
	case key == "source.namespace" || key == "connection.sni":
	case key == "source.serviceAccount":
		c.Values = t.serviceAccounts(o, path+".values", in.Values, &n)
		c.NotValues = t.serviceAccounts(o, path+".notValues", in.NotValues, &n)
	case key == "request.auth.principal" || key == "request.auth.audiences" || key == "request.auth.presenter":
	case strings.HasPrefix(key, "request.auth.claims"):
		if !isClaimKey(strings.TrimPrefix(key, "request.auth.claims")) {
			t.bad(o, path+".key", "%q names no claim; write request.auth.claims[NAME], or request.auth.claims[OUTER][INNER] for a claim inside another", clip(key))
		}
	case strings.HasPrefix(key, "experimental."):
		t.bad(o, path+".key", "condition %q is not supported; use another", clip(key))
	default:
		t.bad(o, path+".key", "%q is not a condition; use one like request.headers[NAME], source.ip or destination.port", clip(key))
	}
	return c
}

// isClaimKey reports whether s is "[a]", "[a][b]" and so on.
func isClaimKey(s string) bool {
	inner, ok := strings.CutPrefix(s, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	if !ok || !closed {
		return false
	}
	for name := range strings.SplitSeq(inner, "][") {
		if name == "" || strings.ContainsAny(name, "[]") {
			return false
		}
	}
	return true
}
