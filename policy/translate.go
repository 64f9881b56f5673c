package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// ToL4 translates an AuthorizationPolicy to the form that node proxies
// enforce, as istiod does. root is the mesh's root namespace.
//
// What a node proxy cannot see is treated as the package comment says: an ALLOW
// rule that uses it is left out; from a DENY rule it is dropped, and a
// source or operation of which nothing is left makes its clause match always.
// (istiod leaves an empty match there, which ztunnel never matches: a DENY rule of
// methods alone has no effect with them and refuses everything here.)
//
// A pattern that L4 policies cannot express, a namespace with a star inside, is
// treated likewise.
func ToL4(p *mesh.AuthorizationPolicy, root string) *mesh.L4Policy {
	out, _ := toL4(p, root)
	return out
}

// toL4 is ToL4; indexes are the positions in p of the rules that are left.
func toL4(p *mesh.AuthorizationPolicy, root string) (out *mesh.L4Policy, indexes []int) {
	out = &mesh.L4Policy{Name: p.Name, Scope: mesh.ScopeNamespace, Action: p.Action, DryRun: p.DryRun}
	switch {
	case len(p.Selector) > 0 || len(p.TargetRefs) > 0:
		out.Scope = mesh.ScopeWorkload
	case p.Name.Namespace == root:
		out.Scope = mesh.ScopeGlobal
	}
	if p.Invalid != "" && p.Action != mesh.ActionAudit {
		out.Action = mesh.ActionDeny
		out.Rules = [][][]mesh.L4Match{{}}
		return out, nil
	}
	for i := range p.Rules {
		if clauses, ok := l4Rule(p, &p.Rules[i]); ok {
			out.Rules = append(out.Rules, clauses)
			indexes = append(indexes, i)
		}
	}
	return out, indexes
}

// l4Rule returns the clauses of a rule; false when the rule never matches.
func l4Rule(p *mesh.AuthorizationPolicy, r *mesh.AuthzRule) (clauses [][]mesh.L4Match, ok bool) {
	b := l4Builder{deny: failsMatching(p.Action), namespace: p.Name.Namespace}
	clauses = [][]mesh.L4Match{}
	add := func(n int, each func(i int)) bool {
		if n == 0 {
			return true
		}
		var matches []mesh.L4Match
		always := false
		for i := range n {
			b.match, b.lossy = mesh.L4Match{}, false
			each(i)
			empty := emptyMatch(&b.match)
			switch {
			case b.deny && empty:
				always = true // whether it was written empty or became so
			case b.deny:
				matches = append(matches, b.match)
			case b.lossy || empty:
				return false
			default:
				matches = append(matches, b.match)
			}
		}
		if !always {
			clauses = append(clauses, matches)
		}
		return true
	}
	ok = add(len(r.To), func(i int) { b.operation(&r.To[i]) }) &&
		add(len(r.From), func(i int) { b.source(&r.From[i]) })
	for i := 0; ok && i < len(r.When); i++ {
		ok = add(1, func(int) { b.condition(&r.When[i]) })
	}
	return clauses, ok
}

// l4Builder fills one match and notes whether something was lost on the way.
type l4Builder struct {
	deny      bool
	namespace string // of the policy, for service accounts without one
	match     mesh.L4Match
	lossy     bool
}

func (b *l4Builder) operation(o *mesh.AuthzOperation) {
	b.lossy = len(o.Hosts)+len(o.NotHosts)+len(o.Methods)+len(o.NotMethods)+len(o.Paths)+len(o.NotPaths) > 0
	b.match.DestinationPorts, b.match.NotDestinationPorts = o.Ports, o.NotPorts
}

func (b *l4Builder) source(s *mesh.AuthzSource) {
	b.lossy = len(s.RequestPrincipals)+len(s.NotRequestPrincipals)+len(s.RemoteIPBlocks)+len(s.NotRemoteIPBlocks) > 0
	b.match.Principals, b.match.NotPrincipals = l4Strings(s.Principals), l4Strings(s.NotPrincipals)
	b.match.Namespaces, b.match.NotNamespaces = b.namespaces(s.Namespaces), b.namespaces(s.NotNamespaces)
	b.match.TrustDomains, b.match.NotTrustDomains = l4Strings(s.TrustDomains), l4Strings(s.NotTrustDomains)
	b.match.ServiceAccounts = b.accounts(s.ServiceAccounts)
	b.match.NotServiceAccounts = b.accounts(s.NotServiceAccounts)
	b.match.SourceIPs = b.ranges(s.IPBlocks)
	b.match.NotSourceIPs = b.ranges(s.NotIPBlocks)
}

func (b *l4Builder) condition(c *mesh.AuthzCondition) {
	m := &b.match
	switch c.Key {
	case "source.principal":
		m.Principals, m.NotPrincipals = l4Strings(c.Values), l4Strings(c.NotValues)
	case "source.namespace":
		m.Namespaces, m.NotNamespaces = b.namespaces(c.Values), b.namespaces(c.NotValues)
	case "source.serviceAccount":
		m.ServiceAccounts, m.NotServiceAccounts = b.accounts(c.Values), b.accounts(c.NotValues)
	case "source.ip":
		m.SourceIPs, m.NotSourceIPs = b.parseRanges(c.Values), b.parseRanges(c.NotValues)
	case "destination.ip":
		m.DestinationIPs, m.NotDestinationIPs = b.parseRanges(c.Values), b.parseRanges(c.NotValues)
	case "destination.port":
		m.DestinationPorts, m.NotDestinationPorts = b.parsePorts(c.Values), b.parsePorts(c.NotValues)
	default:
		b.lossy = true
	}
}

// namespaces, accounts, ranges, parseRanges and parsePorts give up the whole list when one
// of its values is malformed: what is left would mean something else.

func (b *l4Builder) namespaces(list []string) []mesh.L4String {
	return keep(b, l4Strings(list), !slices.ContainsFunc(list, isGlob))
}

func (b *l4Builder) accounts(list []string) []mesh.Name {
	names, ok := parseAccounts(list, b.namespace)
	return keep(b, names, ok)
}

func (b *l4Builder) ranges(list []netip.Prefix) []netip.Prefix {
	p, ok := prefixes(list)
	return keep(b, p, ok)
}

func (b *l4Builder) parseRanges(list []string) []netip.Prefix {
	p, ok := parsePrefixes(list)
	return keep(b, p, ok)
}

func (b *l4Builder) parsePorts(list []string) []uint16 {
	p, ok := parsePorts(list)
	return keep(b, p, ok)
}

func keep[T any](b *l4Builder, list []T, ok bool) []T {
	if !ok {
		b.lossy = true
		return nil
	}
	if len(list) == 0 {
		return nil
	}
	return list
}

func emptyMatch(m *mesh.L4Match) bool {
	return len(m.Namespaces)+len(m.NotNamespaces)+len(m.ServiceAccounts)+len(m.NotServiceAccounts)+
		len(m.TrustDomains)+len(m.NotTrustDomains)+len(m.Principals)+len(m.NotPrincipals)+len(m.SourceIPs)+len(m.NotSourceIPs)+
		len(m.DestinationIPs)+len(m.NotDestinationIPs)+len(m.DestinationPorts)+len(m.NotDestinationPorts) == 0
}

func l4Strings(list []string) (out []mesh.L4String) {
	for _, s := range list {
		out = append(out, parseText(s))
	}
	return out
}

// parseAccounts reads "namespace/name" or "name", which is in the policy's own namespace.
func parseAccounts(list []string, namespace string) ([]mesh.Name, bool) {
	names := make([]mesh.Name, 0, len(list))
	for _, s := range list {
		ns, name, ok := strings.Cut(s, "/")
		if !ok {
			ns, name = namespace, s
		}
		if ns == "" || name == "" || strings.ContainsAny(name, "/*") || strings.Contains(ns, "*") {
			return nil, false
		}
		names = append(names, mesh.Name{Namespace: ns, Name: name})
	}
	return names, true
}

// parsePrefixes reads addresses and ranges.
func parsePrefixes(list []string) ([]netip.Prefix, bool) {
	out := make([]netip.Prefix, 0, len(list))
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, err := netip.ParseAddr(s)
			if err != nil || a.Zone() != "" {
				return nil, false
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		out = append(out, p)
	}
	return prefixes(out)
}

func parsePorts(list []string) ([]uint16, bool) {
	out := make([]uint16, 0, len(list))
	for _, s := range list {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || n == 0 {
			return nil, false
		}
		out = append(out, uint16(n))
	}
	return out, true
}

// PeerAuthToL4 returns the policy that enforces the PeerAuthentication in force
// for w, or nil when plain text is accepted on every port.
//
// The mode is that of the policy that selects w, else of its namespace's, else of
// the mesh's, else permissive; a mode UNSET is none. Ports may differ where the policy that
// selects w says so. Of several on one level the oldest counts, or the first by name,
// and the others do not, as Istio documents it. In the root namespace a policy with a
// selector has no effect. The policy's name is that of the PeerAuthentication that decides.
func PeerAuthToL4(s *mesh.Snapshot, w *mesh.Workload) *mesh.L4Policy {
	var wide, namespace, own *mesh.PeerAuthentication
	for _, p := range s.PeerAuth {
		switch root := p.Name.Namespace == s.RootNamespace; {
		case len(p.Selector) > 0:
			if !root && p.Name.Namespace == w.Namespace && selects(p.Selector, w.Labels) {
				own = elder(own, p)
			}
		case root:
			wide = elder(wide, p)
		case p.Name.Namespace == w.Namespace:
			namespace = elder(namespace, p)
		}
	}
	mode, by := mesh.MTLSPermissive, own
	for _, p := range []*mesh.PeerAuthentication{own, namespace, wide} {
		if p != nil && p.Mode != mesh.MTLSUnset {
			mode, by = p.Mode, p
			break
		}
	}
	var ports map[uint16]mesh.MTLSMode
	if own != nil {
		ports = own.Ports
	}
	if mode != mesh.MTLSStrict {
		by = own // then it can be a port's only
	}
	if by == nil {
		return nil
	}
	return strictPolicy(by.Name, mode == mesh.MTLSStrict, ports)
}

// elder returns the older of two policies of one level; old may be nil.
func elder(old, p *mesh.PeerAuthentication) *mesh.PeerAuthentication {
	if old == nil {
		return p
	}
	if c := cmp.Or(old.Created.Compare(p.Created), strings.Compare(old.Name.Name, p.Name.Name)); c > 0 {
		return p
	}
	return old
}

// strictPolicy refuses plain text on every port but the excepted ones, or on
// the strict ports alone.
func strictPolicy(name mesh.Name, strict bool, ports map[uint16]mesh.MTLSMode) *mesh.L4Policy {
	var differ []uint16
	for port, mode := range ports {
		if mode != mesh.MTLSUnset && (mode == mesh.MTLSStrict) != strict {
			differ = append(differ, port)
		}
	}
	slices.Sort(differ)
	plain := []mesh.L4Match{{NotPrincipals: []mesh.L4String{{Kind: mesh.L4Presence}}}}
	clauses := [][]mesh.L4Match{plain}
	switch {
	case !strict && len(differ) == 0:
		return nil
	case !strict:
		clauses = append(clauses, []mesh.L4Match{{DestinationPorts: differ}})
	case len(differ) > 0:
		clauses = append(clauses, []mesh.L4Match{{NotDestinationPorts: differ}})
	}
	return &mesh.L4Policy{Name: name, Scope: mesh.ScopeWorkload, Action: mesh.ActionDeny, Rules: [][][]mesh.L4Match{clauses}}
}
