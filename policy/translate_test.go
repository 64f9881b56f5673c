package policy

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var prefixEqual = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

// TestToL4 has the shapes that istiod produces: To, From, then each condition.
func TestToL4(t *testing.T) {
	allow := func(rules ...mesh.AuthzRule) *mesh.AuthorizationPolicy {
		return &mesh.AuthorizationPolicy{Name: name("bookinfo", "p"), Rules: rules}
	}
	deny := func(rules ...mesh.AuthzRule) *mesh.AuthorizationPolicy {
		return &mesh.AuthorizationPolicy{Name: name("bookinfo", "p"), Action: mesh.ActionDeny, Rules: rules}
	}
	from := func(s ...mesh.AuthzSource) mesh.AuthzRule { return mesh.AuthzRule{From: s} }
	to := func(o ...mesh.AuthzOperation) mesh.AuthzRule { return mesh.AuthzRule{To: o} }
	when := func(key string, values ...string) mesh.AuthzRule {
		return mesh.AuthzRule{When: []mesh.AuthzCondition{{Key: key, Values: values}}}
	}
	everything := [][][]mesh.L4Match{{}}
	mixed := mesh.AuthzRule{
		From: []mesh.AuthzSource{
			{Principals: []string{"cluster.local/ns/bookinfo/sa/waypoint", "*/sa/x", "cluster.local/ns/y/*"}},
			{Namespaces: []string{"client"}, NotIPBlocks: cidrs("10.0.0.0/8"), IPBlocks: cidrs("0.0.0.0/0")},
		},
		To: []mesh.AuthzOperation{{Ports: []uint16{9080}, NotPorts: []uint16{22}}},
		When: []mesh.AuthzCondition{
			{Key: "source.ip", Values: []string{"10.0.0.0/8", "1.2.3.4"}},
			{Key: "destination.port", Values: []string{"9080"}},
			{Key: "source.namespace", NotValues: []string{"bad"}},
			{Key: "source.serviceAccount", Values: []string{"client/curl", "local"}},
			{Key: "destination.ip", NotValues: []string{"fd00::/8"}},
			{Key: "source.principal", Values: []string{"*"}},
		},
	}
	tests := []struct {
		name   string
		policy *mesh.AuthorizationPolicy
		want   [][][]mesh.L4Match
	}{
		{"mixed", allow(mixed), [][][]mesh.L4Match{{
			{{DestinationPorts: []uint16{9080}, NotDestinationPorts: []uint16{22}}},
			{
				{Principals: []mesh.L4String{{Value: "cluster.local/ns/bookinfo/sa/waypoint"}, {Kind: mesh.L4Suffix, Value: "/sa/x"}, {Kind: mesh.L4Prefix, Value: "cluster.local/ns/y/"}}},
				{Namespaces: str("client"), SourceIPs: cidrs("0.0.0.0/0"), NotSourceIPs: cidrs("10.0.0.0/8")},
			},
			{{SourceIPs: cidrs("10.0.0.0/8", "1.2.3.4/32")}},
			{{DestinationPorts: []uint16{9080}}},
			{{NotNamespaces: str("bad")}},
			{{ServiceAccounts: []mesh.Name{name("client", "curl"), name("bookinfo", "local")}}},
			{{NotDestinationIPs: cidrs("fd00::/8")}},
			{{Principals: []mesh.L4String{{Kind: mesh.L4Presence}}}},
		}}},
		{"allow_nothing", allow(), nil},
		{"allow_all", allow(mesh.AuthzRule{}), everything},
		{"allow_method", allow(to(mesh.AuthzOperation{Methods: []string{"GET"}, Ports: []uint16{80}})), nil},
		{"allow_path_beside", allow(to(mesh.AuthzOperation{Paths: []string{"/"}}), mesh.AuthzRule{}), everything},
		{"allow_remote_ip", allow(from(mesh.AuthzSource{RemoteIPBlocks: cidrs("10.0.0.0/8")})), nil},
		{"allow_jwt", allow(from(mesh.AuthzSource{RequestPrincipals: []string{"*"}}, mesh.AuthzSource{Namespaces: []string{"a"}})), nil},
		{"allow_empty_source", allow(from(mesh.AuthzSource{})), nil},
		{"allow_header", allow(when("request.headers[x]", "a")), nil},
		{"allow_unknown_key", allow(when("request.auth.claims[x]", "a")), nil},
		{"allow_bad_ip", allow(when("source.ip", "10.0.0.0/8", "nonsense")), nil},
		{"allow_bad_port", allow(when("destination.port", "0")), nil},
		{"allow_account_star", allow(from(mesh.AuthzSource{ServiceAccounts: []string{"a/*"}})), nil},
		{"allow_namespace_glob", allow(from(mesh.AuthzSource{NotNamespaces: []string{"*a*"}})), nil},
		{"deny_namespace_glob", deny(from(mesh.AuthzSource{Namespaces: []string{"a*b"}})), everything},
		{"deny_method", deny(to(mesh.AuthzOperation{Methods: []string{"GET"}})), everything},
		{"deny_method_port", deny(to(mesh.AuthzOperation{Methods: []string{"GET"}, Ports: []uint16{80}})), one(mesh.L4Match{DestinationPorts: []uint16{80}})},
		{"deny_method_from", deny(mesh.AuthzRule{
			To:   []mesh.AuthzOperation{{Methods: []string{"GET"}}},
			From: []mesh.AuthzSource{{Namespaces: []string{"evil"}}},
		}), one(mesh.L4Match{Namespaces: str("evil")})},
		{"deny_one_lost_source", deny(from(mesh.AuthzSource{Namespaces: []string{"evil"}}, mesh.AuthzSource{NotRequestPrincipals: []string{"*"}})), everything},
		{"deny_bad_ip", deny(when("source.ip", "10.0.0.0/8", "nonsense")), everything},
		{"deny_no_values", deny(when("source.ip")), everything},
		{"deny_nothing", deny(), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := ToL4(tt.policy, "istio-system")
			if diff := cmp.Diff(tt.want, got.Rules, prefixEqual, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("ToL4 (-want +got):\n%s", diff)
			}
			if got.Action != tt.policy.Action || got.Scope != mesh.ScopeNamespace {
				t.Errorf("action %v, scope %v", got.Action, got.Scope)
			}
		})
	}
}

// TestRuleIndex: a verdict names the rule as the user wrote it, also when others fell away.
func TestRuleIndex(t *testing.T) {
	p := &mesh.AuthorizationPolicy{Name: name("ns", "p"), Rules: []mesh.AuthzRule{
		{To: []mesh.AuthzOperation{{Methods: []string{"GET"}}}},
		{From: []mesh.AuthzSource{{Namespaces: []string{"a"}}}},
	}}
	s := mesh.NewSnapshot(1, mesh.Parts{Policies: []*mesh.AuthorizationPolicy{p}})
	for what, v := range map[string]Verdict{
		"CompileL4": CompileL4(s, &mesh.Workload{Namespace: "ns"}).Decide(conn("a", "x")),
		"DecideL4":  CompileL7([]*mesh.AuthorizationPolicy{p}).DecideL4(conn("a", "x")),
	} {
		if !v.Allowed || v.Rule != 1 {
			t.Errorf("%s: %+v, want rule 1", what, v)
		}
	}
}

func TestToL4Scope(t *testing.T) {
	p := &mesh.AuthorizationPolicy{Name: name("istio-system", "p"), Invalid: "no idea", DryRun: true}
	got := ToL4(p, "istio-system")
	if got.Scope != mesh.ScopeGlobal || got.Action != mesh.ActionDeny || len(got.Rules) != 1 || !got.DryRun {
		t.Errorf("an invalid policy becomes %+v, want a global DENY of everything, still in dry run", got)
	}
	p.Selector = map[string]string{"a": "b"}
	if got := ToL4(p, "istio-system"); got.Scope != mesh.ScopeWorkload {
		t.Errorf("scope with a selector is %v, want workload", got.Scope)
	}
}

func TestCompileL4Policies(t *testing.T) {
	all := []mesh.AuthzRule{{}}
	w := &mesh.Workload{Namespace: "ns", Labels: map[string]string{"app": "a", "v": "1"}}
	tests := []struct {
		name    string
		policy  mesh.AuthorizationPolicy
		allowed bool
	}{
		{"own_namespace", mesh.AuthorizationPolicy{Name: name("ns", "p"), Action: mesh.ActionDeny, Rules: all}, false},
		{"other_namespace", mesh.AuthorizationPolicy{Name: name("x", "p"), Action: mesh.ActionDeny, Rules: all}, true},
		{"root_namespace", mesh.AuthorizationPolicy{Name: name("istio-system", "p"), Action: mesh.ActionDeny, Rules: all}, false},
		{"selected", mesh.AuthorizationPolicy{Name: name("ns", "p"), Action: mesh.ActionDeny, Rules: all, Selector: map[string]string{"app": "a"}}, false},
		{"selected_by_root", mesh.AuthorizationPolicy{Name: name("istio-system", "p"), Action: mesh.ActionDeny, Rules: all, Selector: map[string]string{"app": "a"}}, false},
		{"not_selected", mesh.AuthorizationPolicy{Name: name("ns", "p"), Action: mesh.ActionDeny, Rules: all, Selector: map[string]string{"app": "a", "v": "2"}}, true},
		{"selector_absent_label", mesh.AuthorizationPolicy{Name: name("ns", "p"), Action: mesh.ActionDeny, Rules: all, Selector: map[string]string{"z": ""}}, true},
		{"targeted", mesh.AuthorizationPolicy{Name: name("ns", "p"), Action: mesh.ActionDeny, Rules: all, TargetRefs: []mesh.TargetRef{{Kind: "Service", Name: "s"}}}, true},
		{"allow_nothing", mesh.AuthorizationPolicy{Name: name("ns", "p")}, false},
		{"invalid", mesh.AuthorizationPolicy{Name: name("ns", "p"), Rules: all, Invalid: "bad"}, false},
		{"dry_run", mesh.AuthorizationPolicy{Name: name("ns", "p"), DryRun: true}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := mesh.NewSnapshot(1, mesh.Parts{Policies: []*mesh.AuthorizationPolicy{&tt.policy}})
			if got := CompileL4(s, w).Decide(conn("a", "x")); got.Allowed != tt.allowed {
				t.Errorf("Decide = %+v, want allowed %v", got, tt.allowed)
			}
			// Being named by the workload as well changes nothing for what is bound anyway.
			if len(tt.policy.TargetRefs) == 0 && !tt.allowed {
				named := *w
				named.Policies = []string{tt.policy.Name.String()}
				if got := CompileL4(s, &named).Decide(conn("a", "x")); got.Allowed {
					t.Errorf("Decide with the policy named = %+v, want refused", got)
				}
			}
		})
	}
}

// TestPeerAuth is the whole precedence as Istio documents it: workload before
// namespace before mesh, ports apart, the oldest of a level.
func TestPeerAuth(t *testing.T) {
	type pa = mesh.PeerAuthentication
	strict, permissive, disable, unset := mesh.MTLSStrict, mesh.MTLSPermissive, mesh.MTLSDisable, mesh.MTLSUnset
	made := func(ns, n string, mode mesh.MTLSMode, selector string, age int, ports map[uint16]mesh.MTLSMode) *pa {
		p := &pa{Name: name(ns, n), Mode: mode, Ports: ports, Created: time.Unix(1_700_000_000-int64(age), 0)}
		if selector != "" {
			p.Selector = map[string]string{"app": selector}
		}
		return p
	}
	root := func(mode mesh.MTLSMode) *pa { return made("istio-system", "wide", mode, "", 0, nil) }
	ns := func(mode mesh.MTLSMode) *pa { return made("ns", "space", mode, "", 0, nil) }
	own := func(mode mesh.MTLSMode, ports map[uint16]mesh.MTLSMode) *pa {
		return made("ns", "own", mode, "a", 0, ports)
	}
	older := func(n string, mode mesh.MTLSMode, selector string, ports map[uint16]mesh.MTLSMode) *pa {
		return made("ns", n, mode, selector, 60, ports)
	}
	port := func(mode mesh.MTLSMode) map[uint16]mesh.MTLSMode { return map[uint16]mesh.MTLSMode{9080: mode} }
	other := func(mode mesh.MTLSMode) map[uint16]mesh.MTLSMode { return map[uint16]mesh.MTLSMode{80: mode} }
	const plain = ""
	tests := []struct {
		name string
		list []*pa
		want string // which policy refuses plain text on 9080; "" for none
	}{
		{"none", nil, plain},
		{"mesh", []*pa{root(strict)}, "istio-system/wide"},
		{"mesh_unset", []*pa{root(unset)}, plain},
		{"mesh_permissive", []*pa{root(permissive)}, plain},
		{"mesh_disable", []*pa{root(disable)}, plain},
		{"namespace", []*pa{ns(strict)}, "ns/space"},
		{"other_namespace", []*pa{made("x", "space", strict, "", 0, nil)}, plain},
		{"namespace_over_mesh", []*pa{root(strict), ns(permissive)}, plain},
		{"namespace_inherits", []*pa{root(strict), ns(unset)}, "istio-system/wide"},
		{"namespace_disables", []*pa{root(strict), ns(disable)}, plain},
		{"namespace_stricter", []*pa{root(disable), ns(strict)}, "ns/space"},
		{"workload_over_namespace", []*pa{ns(strict), own(disable, nil)}, plain},
		{"workload_over_mesh", []*pa{root(strict), own(permissive, nil)}, plain},
		{"workload_strict", []*pa{ns(permissive), own(strict, nil)}, "ns/own"},
		{"workload_inherits_namespace", []*pa{root(permissive), ns(strict), own(unset, nil)}, "ns/space"},
		{"workload_inherits_mesh", []*pa{root(strict), ns(unset), own(unset, nil)}, "istio-system/wide"},
		{"workload_not_selected", []*pa{made("ns", "own", strict, "b", 0, nil)}, plain},
		{"workload_of_other_namespace", []*pa{made("x", "own", strict, "a", 0, nil)}, plain},
		{"selector_in_root", []*pa{made("istio-system", "own", strict, "a", 0, nil)}, plain},
		{"port_permissive", []*pa{own(strict, port(permissive))}, plain},
		{"port_disable", []*pa{ns(strict), own(unset, port(disable))}, plain},
		{"port_inherits", []*pa{own(strict, port(unset))}, "ns/own"},
		{"port_inherits_namespace", []*pa{ns(strict), own(unset, port(unset))}, "ns/space"},
		{"port_other", []*pa{own(strict, other(permissive))}, "ns/own"},
		{"port_strict", []*pa{own(permissive, port(strict))}, "ns/own"},
		{"port_strict_over_namespace", []*pa{ns(disable), own(unset, port(strict))}, "ns/own"},
		{"port_other_strict", []*pa{own(permissive, other(strict))}, plain},
		{"oldest_of_mesh", []*pa{root(strict), made("istio-system", "z", permissive, "", 60, nil)}, plain},
		{"oldest_of_namespace", []*pa{ns(permissive), older("z", strict, "", nil)}, "ns/z"},
		{"oldest_of_workload", []*pa{own(strict, nil), older("z", disable, "a", nil)}, plain},
		{"oldest_with_its_ports_alone", []*pa{own(strict, port(permissive)), older("z", strict, "a", nil)}, "ns/z"},
		{"oldest_unset_hides_younger", []*pa{own(strict, nil), older("z", unset, "a", nil)}, plain},
		{"oldest_that_does_not_select", []*pa{own(strict, nil), older("z", disable, "b", nil)}, "ns/own"},
		{"same_age_by_name", []*pa{ns(permissive), made("ns", "early", strict, "", 0, nil)}, "ns/early"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 {
				s := mesh.NewSnapshot(1, mesh.Parts{PeerAuth: tt.list})
				l := CompileL4(s, &mesh.Workload{Namespace: "ns", Labels: map[string]string{"app": "a"}})
				v := l.Decide(conn("", ""))
				if by := v.Policy.String(); v.Allowed != (tt.want == plain) || !v.Allowed && (by != tt.want || v.Reason != reasonStrict || v.Kind != KindPeer) {
					t.Errorf("plain text: %+v, want refused by %q", v, tt.want)
				}
				if v := l.Decide(conn("a", "x")); !v.Allowed {
					t.Errorf("mutual TLS: %+v, want allowed", v)
				}
				slices.Reverse(tt.list) // the order of the list says nothing
			}
		})
	}
}

// TestPeerAuthKeys: a source that binds istiod's names for converted policies is understood.
func TestPeerAuthKeys(t *testing.T) {
	s := mesh.NewSnapshot(1, mesh.Parts{PeerAuth: []*mesh.PeerAuthentication{{Name: name("ns", "default"), Mode: mesh.MTLSStrict}}})
	w := &mesh.Workload{Namespace: "ns", Policies: []string{"istio-system/" + staticStrict, "ns/" + convertedPeerAuth + "default"}}
	if v := CompileL4(s, w).Decide(conn("a", "x")); !v.Allowed {
		t.Errorf("mutual TLS: %+v, want allowed", v)
	}
	if v := CompileL4(mesh.NewSnapshot(1, mesh.Parts{}), w).Decide(conn("a", "x")); v.Allowed {
		t.Errorf("names without policies: %+v, want refused", v)
	}
}
