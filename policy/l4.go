package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/expr"
	"cairnproxy.dev/cairn/mesh"
)

// L4Facts is what a node proxy, or a waypoint for a TCP service, knows of a
// connection.
type L4Facts struct {
	// Peer is from the peer's certificate; zero for plain text.
	Peer mesh.Identity
	// Principal is Peer.Principal(), where the caller keeps it; it is built
	// when it is empty and Peer is not zero.
	Principal string
	// Source is the client's address.
	Source netip.Addr
	// Destination is what the client wants: at the node proxy the workload's own address and
	// port, at a waypoint the service's.
	Destination netip.AddrPort
	// Service is what the connection is for, at a waypoint; nil for a workload's own address.
	Service *mesh.Service
}

// L4 is the compiled set of policies of one workload. The zero L4 allows
// everything; a nil *L4 refuses everything.
type L4 struct {
	set set
	dry unit // until done
}

// done makes l ready for decisions.
func (l *L4) done() {
	if !l.dry.empty() {
		l.set.dry = append([]unit{l.dry}, l.set.dry...)
		l.dry = unit{}
	}
	l.set.done()
}

// Empty reports whether there is nothing to enforce.
func (l *L4) Empty() bool { return l != nil && l.set.empty() }

// Decide decides about a connection.
func (l *L4) Decide(in L4Facts) Verdict { return l.DecideAnd(in, nil) }

// DecideAnd decides about a connection, and tells what each policy that decides nothing says: by its place in Watched.
// told may be nil.
func (l *L4) DecideAnd(in L4Facts, told func(watched int, o Outcome)) (v Verdict) {
	if l == nil {
		return notCompiled
	}
	var f facts
	l.fill(&f, &in)
	l.set.decide(&f, told, &v)
	return v
}

func (l *L4) fill(f *facts, in *L4Facts) {
	f.peer, f.principal, f.source, f.destination = in.Peer, in.Principal, in.Source, in.Destination
	if f.principal == "" {
		f.principal = in.Peer.Principal()
	}
	if l.set.cel {
		f.input = expr.Input{Req: in.request(), Service: in.Service, Connection: true}
	}
}

// request is what there is of a request where there is none, for expressions.
func (in *L4Facts) request() *mesh.Request {
	return &mesh.Request{
		Peer:        mesh.Peer{Identity: in.Peer, Principal: in.Principal, Addr: netip.AddrPortFrom(in.Source, 0)},
		Destination: in.Destination,
	}
}

// staticStrict is the name, in the root namespace, of the policy that istiod makes of
// PeerAuthentication STRICT; convertedPeerAuth begins the name of those it makes for ports.
const (
	staticStrict      = "istio_converted_static_strict"
	convertedPeerAuth = "converted_peer_authentication_"
)

// CompileL4 compiles what applies to connections to workload w:
//
//   - AuthorizationPolicies without targetRefs of its namespace and of the root
//     namespace, whose selector, if any, matches w
//   - the PeerAuthentication in force for it
//   - L4 policies of global scope, of its namespace, and those that w.Policies
//     names
//
// A name in w.Policies that is not in the snapshot refuses everything: ztunnel logs
// a warning and goes on, which leaves the workload open until the policy
// arrives.
func CompileL4(s *mesh.Snapshot, w *mesh.Workload) *L4 {
	l := &L4{}
	seen := map[mesh.Name]bool{} // for the names in w.Policies
	add := func(p *mesh.L4Policy, reason string) {
		seen[p.Name] = true
		l.add(p, nil, reason)
	}
	for _, p := range s.L4Policies {
		if p.Scope == mesh.ScopeGlobal || p.Scope == mesh.ScopeNamespace && p.Name.Namespace == w.Namespace {
			add(p, "")
		}
	}
	for _, p := range s.Policies {
		if applies(p, s.RootNamespace, w) {
			seen[p.Name] = true
			l.addAuthorization(p, s.RootNamespace)
		}
	}
	for _, key := range w.Policies {
		name := parseKey(key)
		if seen[name] {
			continue
		}
		if i := slices.IndexFunc(s.L4Policies, func(p *mesh.L4Policy) bool { return p.Name == name }); i >= 0 {
			add(s.L4Policies[i], "")
		} else if i := slices.IndexFunc(s.Policies, func(p *mesh.AuthorizationPolicy) bool { return p.Name == name && len(p.TargetRefs) == 0 }); i >= 0 {
			seen[name] = true
			l.addAuthorization(s.Policies[i], s.RootNamespace)
		} else if !knownPeerAuth(s, name) {
			add(refuseAll(name), reasonUnknown)
		}
	}
	if p := PeerAuthToL4(s, w); p != nil {
		add(p, reasonStrict)
	}
	l.done()
	return l
}

// applies reports whether p is enforced at w by namespace or selector.
func applies(p *mesh.AuthorizationPolicy, root string, w *mesh.Workload) bool {
	return len(p.TargetRefs) == 0 && (p.Name.Namespace == root || p.Name.Namespace == w.Namespace) && selects(p.Selector, w.Labels)
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// parseKey splits "namespace/name"; what has no slash is a name alone.
func parseKey(key string) mesh.Name {
	if ns, name, ok := strings.Cut(key, "/"); ok {
		return mesh.Name{Namespace: ns, Name: name}
	}
	return mesh.Name{Name: key}
}

// knownPeerAuth reports whether name is of a policy that istiod would have made of
// a PeerAuthentication in the snapshot, which PeerAuthToL4 stands for.
func knownPeerAuth(s *mesh.Snapshot, name mesh.Name) bool {
	for _, p := range s.PeerAuth {
		if name == (mesh.Name{Namespace: s.RootNamespace, Name: staticStrict}) ||
			name == (mesh.Name{Namespace: p.Name.Namespace, Name: convertedPeerAuth + p.Name.Name}) {
			return true
		}
	}
	return false
}

func refuseAll(name mesh.Name) *mesh.L4Policy {
	return &mesh.L4Policy{Name: name, Scope: mesh.ScopeWorkload, Action: mesh.ActionDeny, Rules: [][][]mesh.L4Match{{}}}
}

// addAuthorization compiles what p means at L4.
func (l *L4) addAuthorization(p *mesh.AuthorizationPolicy, root string) {
	reason := ""
	if p.Invalid != "" {
		reason = reasonInvalid
	}
	translated, indexes := toL4(p, root)
	l.add(translated, indexes, reason)
}

// add compiles p. indexes are the positions of its rules in what it was
// translated from; nil when it was not. reason is what a verdict says when p decides; "" for
// the usual.
func (l *L4) add(p *mesh.L4Policy, indexes []int, reason string) {
	w := &written{kind: KindAuthorization, name: p.Name, action: p.Action.String(), watch: -1}
	invalid := reason == reasonInvalid
	if reason == "" {
		reason = actionReason(p.Action)
		if p.Action == mesh.ActionCustom {
			reason = reasonCustomL4
		}
	}
	if isPeerAuth(p.Name.Name) || reason == reasonStrict {
		w.kind, reason = KindPeer, reasonStrict
	}
	w.reason = reason
	l.set.policies = append(l.set.policies, w)
	to := l.set.place(w, p.Action, p.DryRun, &l.dry, nil, invalid)
	w.reason = reason
	if to == nil {
		return
	}
	for i, clauses := range p.Rules {
		r, ok := compileL4Rule(p.Action, clauses)
		r.of, r.index, r.reason = w, i, reason
		if indexes != nil {
			r.index = indexes[i]
		}
		r.details = details(p.Name, r.index)
		if ok {
			to.add(r)
		} else {
			l.set.never = append(l.set.never, r)
		}
	}
}

func isPeerAuth(name string) bool {
	return name == staticStrict || strings.HasPrefix(name, convertedPeerAuth)
}

func actionReason(a mesh.Action) string {
	switch a {
	case mesh.ActionDeny:
		return reasonDenied
	case mesh.ActionCustom:
		return reasonNoProvider
	default:
		return reasonAllowed
	}
}

// details is Envoy's response_code_details for istiod's name of a rule.
func details(n mesh.Name, rule int) string {
	return fmt.Sprintf("rbac_access_denied_matched_policy[ns[%s]-policy[%s]-rule[%d]]", n.Namespace, n.Name, rule)
}

// compileL4Rule returns false for a rule that never matches.
func compileL4Rule(action mesh.Action, clauses [][]mesh.L4Match) (rule, bool) {
	var r rule
	for _, matches := range clauses {
		if len(matches) == 0 {
			continue // an empty clause is true, as in ztunnel
		}
		var c clause
		always := false
		for i := range matches {
			a, ok := compileL4Match(&matches[i])
			switch {
			case !ok && failsMatching(action):
				always = true
			case !ok:
				return rule{never: "a value of it cannot be compared"}, false
			case len(a) > 0: // an empty match never matches
				c = append(c, a)
			}
		}
		if always {
			continue
		}
		if len(c) == 0 {
			return rule{never: "a clause of it is empty"}, false
		}
		r.clauses = append(r.clauses, c)
	}
	return r, true
}

// compileL4Match returns false for a match with a value that cannot be compared.
func compileL4Match(m *mesh.L4Match) (alternative, bool) {
	var a alternative
	ok := true
	add := func(c check, field string) {
		if c.field = field; c.not {
			c.field = "not " + field
		}
		a = append(a, c)
	}
	strs := func(attr attribute, field string, list []mesh.L4String, not bool) {
		if len(list) == 0 {
			return
		}
		c := check{attr: attr, not: not, texts: &texts{}}
		for _, s := range list {
			ok = c.texts.add(s) && ok
		}
		c.texts.done()
		add(c, field)
	}
	ips := func(attr attribute, field string, list []netip.Prefix, not bool) {
		if len(list) > 0 {
			p, valid := prefixes(list)
			ok = ok && valid
			add(check{attr: attr, not: not, prefixes: newIPSet(p)}, field)
		}
	}
	names := func(list []mesh.Name, not bool) {
		if len(list) > 0 {
			add(check{attr: attrServiceAccount, not: not, names: newNameSet(list)}, "serviceAccounts")
		}
	}
	ports := func(list []uint16, not bool) {
		if len(list) > 0 {
			add(check{attr: attrDestinationPort, not: not, ports: list}, "ports")
		}
	}
	// Cheap checks first: all must hold.
	ports(m.DestinationPorts, false)
	ports(m.NotDestinationPorts, true)
	strs(attrNamespace, "namespaces", m.Namespaces, false)
	strs(attrNamespace, "namespaces", m.NotNamespaces, true)
	names(m.ServiceAccounts, false)
	names(m.NotServiceAccounts, true)
	strs(attrPrincipal, "principals", m.Principals, false)
	strs(attrPrincipal, "principals", m.NotPrincipals, true)
	strs(attrTrustDomain, "trustDomains", m.TrustDomains, false)
	strs(attrTrustDomain, "trustDomains", m.NotTrustDomains, true)
	ips(attrSourceIP, "source.ip", m.SourceIPs, false)
	ips(attrSourceIP, "source.ip", m.NotSourceIPs, true)
	ips(attrDestinationIP, "destination.ip", m.DestinationIPs, false)
	ips(attrDestinationIP, "destination.ip", m.NotDestinationIPs, true)
	return a, ok
}

// prefixes brings list into the form that normal addresses are compared with:
// ranges of IPv4-mapped addresses become IPv4 ranges. It returns false when an
// entry is not a range.
func prefixes(list []netip.Prefix) ([]netip.Prefix, bool) {
	out := make([]netip.Prefix, 0, len(list))
	for _, p := range list {
		if !p.IsValid() {
			return nil, false
		}
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		out = append(out, p.Masked())
	}
	return out, true
}
