package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

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
}

func (in *L4Facts) facts() facts {
	f := facts{
		peer: in.Peer, principal: in.Principal, source: normal(in.Source),
		destination: netip.AddrPortFrom(normal(in.Destination.Addr()), in.Destination.Port()),
	}
	if f.principal == "" {
		f.principal = in.Peer.Principal()
	}
	return f
}

// L4 is the compiled set of policies of one workload. The zero L4 allows
// everything; a nil *L4 refuses everything.
type L4 struct{ set set }

// Empty reports whether there is nothing to enforce.
func (l *L4) Empty() bool { return l != nil && l.set.empty() }

// Decide decides about a connection.
func (l *L4) Decide(in L4Facts) Verdict {
	if l == nil {
		return Verdict{Rule: -1, Reason: reasonNotCompiled, Details: detailsNotCompiled, DryRun: DryRun{Rule: -1}}
	}
	f := in.facts()
	return l.set.decide(&f)
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
	if reason == "" {
		reason = actionReason(p.Action)
		if isPeerAuth(p.Name.Name) {
			reason = reasonStrict
		}
	}
	c := compiled{name: p.Name, reason: reason}
	for i, clauses := range p.Rules {
		if r, ok := compileL4Rule(p.Action, clauses); ok {
			r.index = i
			if indexes != nil {
				r.index = indexes[i]
			}
			r.details = details(p.Name, r.index)
			c.rules = append(c.rules, r)
		}
	}
	l.set.add(c, p.Action, p.DryRun)
}

func isPeerAuth(name string) bool {
	return name == staticStrict || strings.HasPrefix(name, convertedPeerAuth)
}

func actionReason(a mesh.Action) string {
	if a == mesh.ActionDeny {
		return reasonDenied
	}
	return reasonAllowed
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
			case !ok && action == mesh.ActionDeny:
				always = true
			case !ok:
				return rule{}, false
			case len(a) > 0: // an empty match never matches
				c = append(c, a)
			}
		}
		if always {
			continue
		}
		if len(c) == 0 {
			return rule{}, false
		}
		r.clauses = append(r.clauses, c)
	}
	return r, true
}

// compileL4Match returns false for a match with a value that cannot be compared.
func compileL4Match(m *mesh.L4Match) (alternative, bool) {
	var a alternative
	ok := true
	strs := func(attr attribute, list []mesh.L4String, not bool) {
		if len(list) == 0 {
			return
		}
		c := check{attr: attr, not: not, texts: &texts{}}
		for _, s := range list {
			ok = c.texts.add(s) && ok
		}
		a = append(a, c)
	}
	ips := func(attr attribute, list []netip.Prefix, not bool) {
		if len(list) > 0 {
			p, valid := prefixes(list)
			ok = ok && valid
			a = append(a, check{attr: attr, not: not, prefixes: p})
		}
	}
	names := func(list []mesh.Name, not bool) {
		if len(list) > 0 {
			a = append(a, check{attr: attrServiceAccount, not: not, names: list})
		}
	}
	ports := func(list []uint16, not bool) {
		if len(list) > 0 {
			a = append(a, check{attr: attrDestinationPort, not: not, ports: list})
		}
	}
	// Cheap checks first: all must hold.
	ports(m.DestinationPorts, false)
	ports(m.NotDestinationPorts, true)
	strs(attrNamespace, m.Namespaces, false)
	strs(attrNamespace, m.NotNamespaces, true)
	names(m.ServiceAccounts, false)
	names(m.NotServiceAccounts, true)
	strs(attrPrincipal, m.Principals, false)
	strs(attrPrincipal, m.NotPrincipals, true)
	ips(attrSourceIP, m.SourceIPs, false)
	ips(attrSourceIP, m.NotSourceIPs, true)
	ips(attrDestinationIP, m.DestinationIPs, false)
	ips(attrDestinationIP, m.NotDestinationIPs, true)
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
