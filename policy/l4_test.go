package policy

import (
	"net/netip"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

func name(ns, n string) mesh.Name { return mesh.Name{Namespace: ns, Name: n} }

func identity(ns, sa string) mesh.Identity {
	return mesh.Identity{TrustDomain: "cluster.local", Namespace: ns, ServiceAccount: sa}
}

func conn(ns, sa string) L4Facts {
	f := L4Facts{Source: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddrPort("10.0.0.2:9080")}
	if ns != "" {
		f.Peer = identity(ns, sa)
		f.Principal = f.Peer.Principal()
	}
	return f
}

func str(s string) []mesh.L4String { return []mesh.L4String{parseText(s)} }

func one(m mesh.L4Match) [][][]mesh.L4Match { return [][][]mesh.L4Match{{{m}}} }

func cidrs(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func global(n string, a mesh.Action, rules [][][]mesh.L4Match) *mesh.L4Policy {
	return &mesh.L4Policy{Name: name("istio-system", n), Action: a, Rules: rules}
}

func compileAll(w *mesh.Workload, list ...*mesh.L4Policy) *L4 {
	if w == nil {
		w = &mesh.Workload{Namespace: "ns"}
	}
	return CompileL4(mesh.NewSnapshot(1, mesh.Parts{L4Policies: list}), w)
}

func TestL4Match(t *testing.T) {
	plain, a := conn("", ""), conn("a", "x")
	tests := []struct {
		name  string
		match mesh.L4Match
		facts L4Facts
		want  bool
	}{
		{"namespace", mesh.L4Match{Namespaces: str("a")}, a, true},
		{"namespace_prefix", mesh.L4Match{Namespaces: str("a*")}, conn("ab", "x"), true},
		{"namespace_suffix", mesh.L4Match{Namespaces: str("*b")}, conn("ab", "x"), true},
		{"namespace_other", mesh.L4Match{Namespaces: str("b")}, a, false},
		{"namespace_presence_plain", mesh.L4Match{Namespaces: str("*")}, plain, false},
		{"not_namespace", mesh.L4Match{NotNamespaces: str("a")}, a, false},
		{"not_namespace_plain", mesh.L4Match{NotNamespaces: str("a")}, plain, true},
		{"principal", mesh.L4Match{Principals: str("cluster.local/ns/a/sa/x")}, a, true},
		{"principal_suffix", mesh.L4Match{Principals: str("*/sa/x")}, a, true},
		{"principal_prefix", mesh.L4Match{Principals: str("cluster.local/ns/a/*")}, a, true},
		{"principal_presence", mesh.L4Match{Principals: str("*")}, a, true},
		{"principal_plain", mesh.L4Match{Principals: str("*")}, plain, false},
		{"principal_empty_plain", mesh.L4Match{Principals: []mesh.L4String{{}}}, plain, false},
		{"not_principal_presence", mesh.L4Match{NotPrincipals: str("*")}, a, false},
		{"not_principal_presence_plain", mesh.L4Match{NotPrincipals: str("*")}, plain, true},
		{"account", mesh.L4Match{ServiceAccounts: []mesh.Name{name("a", "x")}}, a, true},
		{"account_other_domain", mesh.L4Match{ServiceAccounts: []mesh.Name{name("a", "x")}}, L4Facts{Peer: mesh.Identity{TrustDomain: "td", Namespace: "a", ServiceAccount: "x"}}, true},
		{"account_plain", mesh.L4Match{ServiceAccounts: []mesh.Name{{}}}, plain, false},
		{"not_account", mesh.L4Match{NotServiceAccounts: []mesh.Name{name("a", "x")}}, a, false},
		{"source", mesh.L4Match{SourceIPs: cidrs("10.0.0.0/8")}, a, true},
		{"source_other", mesh.L4Match{SourceIPs: cidrs("11.0.0.0/8")}, a, false},
		{"source_any", mesh.L4Match{SourceIPs: cidrs("0.0.0.0/0")}, a, true},
		{"source_mapped_facts", mesh.L4Match{SourceIPs: cidrs("10.0.0.0/8")}, L4Facts{Source: netip.MustParseAddr("::ffff:10.1.1.1")}, true},
		{"source_mapped_range", mesh.L4Match{SourceIPs: cidrs("::ffff:10.0.0.0/104")}, a, true},
		{"source_zone", mesh.L4Match{SourceIPs: cidrs("fe80::/10")}, L4Facts{Source: netip.MustParseAddr("fe80::1%eth0")}, true},
		{"source_unknown", mesh.L4Match{SourceIPs: cidrs("0.0.0.0/0")}, L4Facts{}, false},
		{"not_source", mesh.L4Match{NotSourceIPs: cidrs("10.0.0.0/8")}, a, false},
		{"destination", mesh.L4Match{DestinationIPs: cidrs("10.0.0.2/32")}, a, true},
		{"not_destination", mesh.L4Match{NotDestinationIPs: cidrs("10.0.0.2/32")}, a, false},
		{"port", mesh.L4Match{DestinationPorts: []uint16{80, 9080}}, a, true},
		{"port_other", mesh.L4Match{DestinationPorts: []uint16{80}}, a, false},
		{"not_port", mesh.L4Match{NotDestinationPorts: []uint16{9080}}, a, false},
		{"all", mesh.L4Match{Namespaces: str("a"), DestinationPorts: []uint16{80}}, a, false},
		{"empty", mesh.L4Match{}, a, false},
		{"principal_not_cached", mesh.L4Match{Principals: str("*/sa/x")}, L4Facts{Peer: identity("a", "x")}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := compileAll(nil, global("p", mesh.ActionAllow, one(tt.match))).Decide(tt.facts).Allowed; got != tt.want {
				t.Errorf("ALLOW: allowed = %v, want %v", got, tt.want)
			}
			if got := compileAll(nil, global("p", mesh.ActionDeny, one(tt.match))).Decide(tt.facts).Allowed; got == tt.want {
				t.Errorf("DENY: allowed = %v, want %v", got, !tt.want)
			}
		})
	}
}

func TestL4Shape(t *testing.T) {
	yes, no := mesh.L4Match{Namespaces: str("a")}, mesh.L4Match{Namespaces: str("b")}
	tests := []struct {
		name  string
		rules [][][]mesh.L4Match
		want  bool
	}{
		{"no_rules", nil, false},
		{"rule_without_clauses", [][][]mesh.L4Match{{}}, true},
		{"empty_clause", [][][]mesh.L4Match{{{}}}, true},
		{"empty_match", [][][]mesh.L4Match{{{{}}}}, false},
		{"empty_match_beside", [][][]mesh.L4Match{{{{}, yes}}}, true},
		{"clauses_and", [][][]mesh.L4Match{{{yes}, {no}}}, false},
		{"matches_or", [][][]mesh.L4Match{{{no, yes}}}, true},
		{"rules_or", [][][]mesh.L4Match{{{no}}, {{yes}}}, true},
		{"none", [][][]mesh.L4Match{{{no}}, {{no}}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := compileAll(nil, global("p", mesh.ActionAllow, tt.rules)).Decide(conn("a", "x")).Allowed; got != tt.want {
				t.Errorf("ALLOW: allowed = %v, want %v", got, tt.want)
			}
			if got := compileAll(nil, global("p", mesh.ActionDeny, tt.rules)).Decide(conn("a", "x")).Allowed; got == tt.want {
				t.Errorf("DENY: allowed = %v, want %v", got, !tt.want)
			}
		})
	}
}

// TestL4Malformed: what cannot be compared refuses, whatever the action.
func TestL4Malformed(t *testing.T) {
	for name, m := range map[string]mesh.L4Match{
		"range":     {SourceIPs: []netip.Prefix{{}}},
		"not_range": {NotSourceIPs: []netip.Prefix{{}}},
		"kind":      {Principals: []mesh.L4String{{Kind: 99, Value: "x"}}},
		"one_of":    {Namespaces: str("a"), DestinationIPs: append(cidrs("10.0.0.0/8"), netip.Prefix{})},
	} {
		for _, action := range []mesh.Action{mesh.ActionAllow, mesh.ActionDeny} {
			if compileAll(nil, global("p", action, one(m))).Decide(conn("a", "x")).Allowed {
				t.Errorf("%s, %s: allowed, want refused", name, action)
			}
		}
	}
}

func TestL4Order(t *testing.T) {
	all := [][][]mesh.L4Match{{}}
	dry := func(p *mesh.L4Policy) *mesh.L4Policy { p.DryRun = true; return p }
	allow := global("allow", mesh.ActionAllow, all)
	deny := global("deny", mesh.ActionDeny, all)
	none := global("none", mesh.ActionAllow, nil)
	idle := global("idle", mesh.ActionDeny, nil)
	dryDeny := dry(global("dry-deny", mesh.ActionDeny, all))
	dryNone := dry(global("dry-none", mesh.ActionAllow, nil))
	dryAllow := dry(global("dry-allow", mesh.ActionAllow, all))
	quiet := DryRun{Rule: -1}
	sys := func(n string) mesh.Name { return name("istio-system", n) }
	tests := []struct {
		name string
		list []*mesh.L4Policy
		want Verdict
	}{
		{"nothing", nil, Verdict{Allowed: true, Rule: -1, Reason: reasonNoPolicy, DryRun: quiet}},
		{"idle_deny", []*mesh.L4Policy{idle}, Verdict{Allowed: true, Rule: -1, Reason: reasonNotDenied, DryRun: quiet}},
		{"allow", []*mesh.L4Policy{none, allow}, Verdict{Allowed: true, Kind: KindAuthorization, Policy: sys("allow"), Reason: reasonAllowed, DryRun: quiet}},
		{"deny_wins", []*mesh.L4Policy{allow, deny}, Verdict{Kind: KindAuthorization, Policy: sys("deny"), Reason: reasonDenied, Details: details(sys("deny"), 0), DryRun: quiet}},
		{"none_allows", []*mesh.L4Policy{none}, Verdict{Rule: -1, Reason: reasonNoneAllows, Details: detailsNone, DryRun: quiet}},
		{"dry_deny", []*mesh.L4Policy{dryDeny}, Verdict{Allowed: true, Rule: -1, Reason: reasonNoPolicy, DryRun: DryRun{Denied: true, Policy: sys("dry-deny")}}},
		{"dry_none", []*mesh.L4Policy{dryNone}, Verdict{Allowed: true, Rule: -1, Reason: reasonNoPolicy, DryRun: DryRun{Denied: true, Policy: sys("dry-none"), Rule: -1}}},
		{"dry_allow", []*mesh.L4Policy{none, dryAllow}, Verdict{Rule: -1, Reason: reasonNoneAllows, Details: detailsNone, DryRun: DryRun{Policy: sys("dry-allow")}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := compileAll(nil, tt.list...).Decide(conn("a", "x")); got != tt.want {
				t.Errorf("Decide =\n %+v, want\n %+v", got, tt.want)
			}
		})
	}
	var missing *L4
	if v := missing.Decide(conn("a", "x")); v.Allowed {
		t.Errorf("a nil set allows: %+v", v)
	}
}

func TestL4Scope(t *testing.T) {
	deny := func(ns, n string, scope mesh.L4Scope) *mesh.L4Policy {
		return &mesh.L4Policy{Name: name(ns, n), Scope: scope, Action: mesh.ActionDeny, Rules: [][][]mesh.L4Match{{}}}
	}
	tests := []struct {
		name    string
		policy  *mesh.L4Policy
		keys    []string
		allowed bool
	}{
		{"global", deny("x", "p", mesh.ScopeGlobal), nil, false},
		{"own_namespace", deny("ns", "p", mesh.ScopeNamespace), nil, false},
		{"other_namespace", deny("x", "p", mesh.ScopeNamespace), nil, true},
		{"workload_unbound", deny("ns", "p", mesh.ScopeWorkload), nil, true},
		{"workload_bound", deny("ns", "p", mesh.ScopeWorkload), []string{"ns/p"}, false},
		{"unknown", deny("x", "p", mesh.ScopeWorkload), []string{"ns/other"}, false},
		{"unknown_form", deny("x", "p", mesh.ScopeWorkload), []string{"p"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := &mesh.Workload{Namespace: "ns", Policies: tt.keys}
			if got := compileAll(w, tt.policy).Decide(conn("a", "x")); got.Allowed != tt.allowed {
				t.Errorf("Decide = %+v, want allowed %v", got, tt.allowed)
			}
		})
	}
	w := &mesh.Workload{Namespace: "ns", Policies: []string{"ns/other"}}
	if got := compileAll(w).Decide(conn("a", "x")); got.Policy != name("ns", "other") || got.Reason != reasonUnknown {
		t.Errorf("Decide with an unknown policy = %+v, want it named", got)
	}
}
