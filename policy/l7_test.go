package policy

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

func request(method, path string, fields ...mesh.Field) *mesh.Request {
	id := identity("client", "curl")
	return &mesh.Request{
		Method: method, Scheme: "http", Authority: "Reviews.example.com:9080", Host: "reviews.example.com", Path: path, Fields: fields,
		Peer:        mesh.Peer{Identity: id, Principal: id.Principal(), Addr: netip.MustParseAddrPort("10.0.0.1:4711")},
		Destination: netip.MustParseAddrPort("10.96.1.3:9080"),
	}
}

func plainRequest(method, path string) *mesh.Request {
	r := request(method, path)
	r.Peer.Identity, r.Peer.Principal = mesh.Identity{}, ""
	return r
}

func from(s mesh.AuthzSource) mesh.AuthzRule  { return mesh.AuthzRule{From: []mesh.AuthzSource{s}} }
func to(o mesh.AuthzOperation) mesh.AuthzRule { return mesh.AuthzRule{To: []mesh.AuthzOperation{o}} }

func when(key string, values ...string) mesh.AuthzRule {
	return mesh.AuthzRule{When: []mesh.AuthzCondition{{Key: key, Values: values}}}
}

func whenNot(key string, values ...string) mesh.AuthzRule {
	return mesh.AuthzRule{When: []mesh.AuthzCondition{{Key: key, NotValues: values}}}
}
func paths(list ...string) mesh.AuthzRule { return to(mesh.AuthzOperation{Paths: list}) }
func hosts(list ...string) mesh.AuthzRule { return to(mesh.AuthzOperation{Hosts: list}) }

func policyOf(action mesh.Action, rules ...mesh.AuthzRule) *mesh.AuthorizationPolicy {
	return &mesh.AuthorizationPolicy{Name: name("ns", "p"), Action: action, Rules: rules}
}

func TestL7Rule(t *testing.T) {
	get := request("GET", "/a/b")
	field := func(n, v string) mesh.Field { return mesh.Field{Name: n, Value: v} }
	host := func(authority, host string) *mesh.Request {
		r := request("GET", "/")
		r.Authority, r.Host = authority, host
		return r
	}
	tests := []struct {
		name string
		rule mesh.AuthzRule
		req  *mesh.Request
		want bool
	}{
		{"everything", mesh.AuthzRule{}, plainRequest("GET", "/"), true},
		{"principal", from(mesh.AuthzSource{Principals: []string{"cluster.local/ns/client/sa/curl"}}), get, true},
		{"principal_other", from(mesh.AuthzSource{Principals: []string{"cluster.local/ns/client/sa/curl2"}}), get, false},
		{"principal_suffix", from(mesh.AuthzSource{Principals: []string{"*/sa/curl"}}), get, true},
		{"principal_star_inside", from(mesh.AuthzSource{Principals: []string{"*/sa/cu*"}}), get, false},
		{"principal_presence", from(mesh.AuthzSource{Principals: []string{"*"}}), get, true},
		{"principal_plain", from(mesh.AuthzSource{Principals: []string{"*"}}), plainRequest("GET", "/"), false},
		{"not_principal_plain", from(mesh.AuthzSource{NotPrincipals: []string{"*"}}), plainRequest("GET", "/"), true},
		{"namespace", from(mesh.AuthzSource{Namespaces: []string{"x", "client"}}), get, true},
		{"namespace_prefix", from(mesh.AuthzSource{Namespaces: []string{"cl*"}}), get, true},
		{"namespace_glob", from(mesh.AuthzSource{Namespaces: []string{"c*en*"}}), get, true},
		{"namespace_glob_inside", from(mesh.AuthzSource{Namespaces: []string{"c*nt"}}), get, true},
		{"namespace_glob_other", from(mesh.AuthzSource{Namespaces: []string{"c*x"}}), get, false},
		{"not_namespace", from(mesh.AuthzSource{NotNamespaces: []string{"client"}}), get, false},
		{"account", from(mesh.AuthzSource{ServiceAccounts: []string{"client/curl"}}), get, true},
		{"account_own_namespace", from(mesh.AuthzSource{ServiceAccounts: []string{"curl"}}), get, false},
		{"not_account", from(mesh.AuthzSource{NotServiceAccounts: []string{"client/curl"}}), get, false},
		{"ip", from(mesh.AuthzSource{IPBlocks: cidrs("10.0.0.0/8")}), get, true},
		{"not_ip", from(mesh.AuthzSource{NotIPBlocks: cidrs("10.0.0.1/32")}), get, false},
		{"remote_ip_is_peer", from(mesh.AuthzSource{RemoteIPBlocks: cidrs("10.0.0.0/8")}), request("GET", "/", field("x-forwarded-for", "192.0.2.1")), true},
		{"remote_ip_not_header", from(mesh.AuthzSource{RemoteIPBlocks: cidrs("192.0.2.0/24")}), request("GET", "/", field("x-forwarded-for", "192.0.2.1")), false},
		{"source_and", from(mesh.AuthzSource{Namespaces: []string{"client"}, NotIPBlocks: cidrs("10.0.0.0/8")}), get, false},
		{"source_or", mesh.AuthzRule{From: []mesh.AuthzSource{{Namespaces: []string{"x"}}, {Namespaces: []string{"client"}}}}, get, true},
		{"from_and_to", mesh.AuthzRule{From: []mesh.AuthzSource{{Namespaces: []string{"client"}}}, To: []mesh.AuthzOperation{{Methods: []string{"POST"}}}}, get, false},

		{"method", to(mesh.AuthzOperation{Methods: []string{"POST", "GET"}}), get, true},
		{"method_case", to(mesh.AuthzOperation{Methods: []string{"get"}}), get, false},
		{"method_prefix", to(mesh.AuthzOperation{Methods: []string{"P*"}}), request("PATCH", "/"), true},
		{"not_method", to(mesh.AuthzOperation{NotMethods: []string{"GET"}}), get, false},
		{"port", to(mesh.AuthzOperation{Ports: []uint16{9080}}), get, true},
		{"not_port", to(mesh.AuthzOperation{NotPorts: []uint16{9080}}), get, false},
		{"path", paths("/a/b"), get, true},
		{"path_case", paths("/A/b"), get, false},
		{"path_prefix", paths("/a*"), get, true},
		{"path_suffix", paths("*/b"), get, true},
		{"path_star_inside", paths("/*/b"), get, false},
		{"path_presence", paths("*"), get, true},
		{"path_presence_empty", paths("*"), request("CONNECT", ""), false},
		{"path_query_apart", paths("/a/b?x"), get, false},
		{"not_path", to(mesh.AuthzOperation{NotPaths: []string{"/a*"}}), get, false},
		{"template_one", paths("/{*}/b"), get, true},
		{"template_one_not_two", paths("/{*}"), get, false},
		{"template_one_not_empty", paths("/a/{*}/b"), request("GET", "/a//b"), false},
		{"template_one_last", paths("/a/{*}"), get, true},
		{"template_one_last_empty", paths("/a/{*}"), request("GET", "/a/"), false},
		{"template_any", paths("/a/{**}"), request("GET", "/a/b/c"), true},
		{"template_any_empty", paths("/a/{**}"), request("GET", "/a/"), true},
		{"template_any_needs_slash", paths("/a/{**}"), request("GET", "/a"), false},
		{"template_any_tail", paths("/a/{**}/z"), request("GET", "/a/b/c/z"), true},
		{"template_any_tail_other", paths("/a/{**}/z"), request("GET", "/a/b/c/zz"), false},
		{"template_any_tail_overlap", paths("/a/{**}/z"), request("GET", "/a/z"), false},
		{"template_both", paths("/{*}/x/{**}"), request("GET", "/a/x/b"), true},
		{"template_not", to(mesh.AuthzOperation{NotPaths: []string{"/a/{*}"}}), get, false},

		{"host", hosts("reviews.example.com"), get, true},
		{"host_upper", hosts("REVIEWS.example.com"), get, true},
		{"host_port", hosts("reviews.example.com:9080"), get, true},
		{"host_other_port", hosts("reviews.example.com:80"), get, false},
		{"host_port_star", hosts("reviews.example.com:*"), get, true},
		{"host_suffix", hosts("*.example.com"), get, true},
		{"host_suffix_port", hosts("*:9080"), get, true},
		{"host_prefix", hosts("reviews.*"), get, true},
		{"host_trailing_dot", hosts("a.b"), host("a.b.", "a.b."), true},
		{"host_ipv6", hosts("[fd00::1]"), host("[fd00::1]:80", "[fd00::1]"), true},
		{"host_none", hosts("*"), host("", ""), false},
		{"not_host", to(mesh.AuthzOperation{NotHosts: []string{"*.example.com"}}), get, false},

		{"header", when("request.headers[X-A]", "1"), request("GET", "/", field("x-a", "1")), true},
		{"header_prefix", when("request.headers[x-a]", "pre*"), request("GET", "/", field("x-a", "prefix")), true},
		{"header_suffix", when("request.headers[x-a]", "*fix"), request("GET", "/", field("x-a", "prefix")), true},
		{"header_absent", when("request.headers[x-a]", "1"), get, false},
		{"header_presence_empty", when("request.headers[x-a]", "*"), request("GET", "/", field("x-a", "")), true},
		{"header_presence_absent", when("request.headers[x-a]", "*"), get, false},
		{"not_header_absent", whenNot("request.headers[x-a]", "1"), get, true},
		{"not_header", whenNot("request.headers[x-a]", "1"), request("GET", "/", field("x-a", "1")), false},
		{"header_joined", when("request.headers[x-a]", "1,2"), request("GET", "/", field("x-a", "1"), field("x-a", "2")), true},
		{"header_joined_prefix", when("request.headers[x-a]", "ab,c*"), request("GET", "/", field("x-a", "ab"), field("x-a", "cd")), true},
		{"header_joined_suffix", when("request.headers[x-a]", "*b,cd"), request("GET", "/", field("x-a", "ab"), field("x-b", ""), field("x-a", "cd")), true},
		{"header_joined_presence", when("request.headers[x-a]", "*"), request("GET", "/", field("x-a", ""), field("x-a", "")), true},
		{"header_authority", when("request.headers[:authority]", "Reviews*"), get, true},
		{"header_host", when("request.headers[host]", "*:9080"), get, true},
		{"header_method", when("request.headers[:method]", "GET"), get, true},
		{"source_ip", when("source.ip", "10.0.0.1"), get, true},
		{"remote_ip", when("remote.ip", "10.0.0.0/8"), get, true},
		{"source_namespace", when("source.namespace", "client"), get, true},
		{"source_principal", when("source.principal", "*/sa/curl"), get, true},
		{"source_account", when("source.serviceAccount", "client/curl"), get, true},
		{"destination_ip", when("destination.ip", "10.96.1.3"), get, true},
		{"destination_port", when("destination.port", "80", "9080"), get, true},
		{"not_destination_port", whenNot("destination.port", "9080"), get, false},
		{"sni", when("connection.sni", "*"), get, false},
		{"not_sni", whenNot("connection.sni", "*.example.com"), get, true},
		{"values_and_not", mesh.AuthzRule{When: []mesh.AuthzCondition{{Key: "source.ip", Values: []string{"10.0.0.0/8"}, NotValues: []string{"10.0.0.1"}}}}, get, false},
		{"conditions_and", mesh.AuthzRule{When: []mesh.AuthzCondition{{Key: "source.ip", Values: []string{"10.0.0.0/8"}}, {Key: "source.namespace", Values: []string{"x"}}}}, get, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := CompileL7([]*mesh.AuthorizationPolicy{policyOf(mesh.ActionAllow, tt.rule)}).Decide(tt.req); got.Allowed != tt.want {
				t.Errorf("ALLOW: %+v, want allowed %v", got, tt.want)
			}
			if got := CompileL7([]*mesh.AuthorizationPolicy{policyOf(mesh.ActionDeny, tt.rule)}).Decide(tt.req); got.Allowed == tt.want {
				t.Errorf("DENY: %+v, want allowed %v", got, !tt.want)
			}
		})
	}
}

// TestHeaderTwice: of a header that comes in several lines a workload may look at one. Where a match refuses, each counts;
// where it admits, all of them together are one value.
func TestHeaderTwice(t *testing.T) {
	twice := func(a, b string) *mesh.Request {
		return request("GET", "/", mesh.Field{Name: "x-a", Value: a}, mesh.Field{Name: "x-a", Value: b})
	}
	tests := []struct {
		name   string
		action mesh.Action
		rule   mesh.AuthzRule
		req    *mesh.Request
		want   bool // allowed
	}{
		{"deny_second", mesh.ActionDeny, when("request.headers[x-a]", "admin"), twice("user", "admin"), false},
		{"deny_first", mesh.ActionDeny, when("request.headers[x-a]", "admin"), twice("admin", "user"), false},
		{"deny_prefix", mesh.ActionDeny, when("request.headers[x-a]", "adm*"), twice("user", "admin"), false},
		{"deny_none", mesh.ActionDeny, when("request.headers[x-a]", "admin"), twice("user", "guest"), true},
		{"deny_joined", mesh.ActionDeny, when("request.headers[x-a]", "user,admin"), twice("user", "admin"), false},
		{"deny_not", mesh.ActionDeny, whenNot("request.headers[x-a]", "user"), twice("user", "admin"), false},
		{"deny_not_same", mesh.ActionDeny, whenNot("request.headers[x-a]", "user"), twice("user", "user"), false},
		{"allow_second", mesh.ActionAllow, when("request.headers[x-a]", "admin"), twice("user", "admin"), false},
		{"allow_joined", mesh.ActionAllow, when("request.headers[x-a]", "user,admin"), twice("user", "admin"), true},
		{"allow_not", mesh.ActionAllow, whenNot("request.headers[x-a]", "admin"), twice("user", "admin"), false},
		{"allow_not_other", mesh.ActionAllow, whenNot("request.headers[x-a]", "admin"), twice("user", "guest"), true},
	}
	for _, tt := range tests {
		if got := CompileL7([]*mesh.AuthorizationPolicy{policyOf(tt.action, tt.rule)}).Decide(tt.req); got.Allowed != tt.want {
			t.Errorf("%s: %+v, want allowed %v", tt.name, got, tt.want)
		}
	}
}

// TestL7FailsClosed: what cannot be evaluated refuses, whatever the action.
func TestL7FailsClosed(t *testing.T) {
	rules := map[string]mesh.AuthzRule{
		"claims_unclosed":   when("request.auth.claims[a", "a"),
		"claims_empty":      when("request.auth.claims[a][]", "a"),
		"claims_garbage":    when("request.auth.claims[a]b[c]", "a"),
		"claims_none":       when("request.auth.claims", "a"),
		"unknown_key":       when("nonsense", "a"),
		"unknown_key_not":   whenNot("nonsense", "a"),
		"experimental":      when("experimental.envoy.filters.network.mysql_proxy[db.table]", "[update]"), // of Istio's reference, and of its proxy alone
		"experimental_not":  whenNot("experimental.envoy.filters.network.mysql_proxy[db.table]", "[update]"),
		"header_unclosed":   when("request.headers[x", "a"),
		"header_empty":      when("request.headers[]", "a"),
		"header_path":       when("request.headers[:path]", "/"),
		"bad_ip":            when("source.ip", "10.0.0.0/8", "300.0.0.1"),
		"bad_ip_zone":       when("source.ip", "fe80::1%eth0"),
		"bad_port":          when("destination.port", "9080", "http"),
		"bad_range":         from(mesh.AuthzSource{IPBlocks: []netip.Prefix{{}}}),
		"bad_account":       from(mesh.AuthzSource{ServiceAccounts: []string{"client/*"}}),
		"template_order":    paths("/{**}/{*}"),
		"template_twice":    paths("/{**}/{**}"),
		"template_part":     paths("/a{*}"),
		"template_star":     paths("/{*}/*"),
		"template_relative": paths("{*}"),
		"no_source":         from(mesh.AuthzSource{}),
		"no_operation":      to(mesh.AuthzOperation{}),
		"no_values":         when("source.ip"),
		"no_values_header":  when("request.headers[x]"),
	}
	for name, rule := range rules {
		for _, action := range []mesh.Action{mesh.ActionAllow, mesh.ActionDeny} {
			l := CompileL7([]*mesh.AuthorizationPolicy{policyOf(action, rule)})
			if got := l.Decide(request("GET", "/")); got.Allowed {
				t.Errorf("%s, %s: %+v, want refused", name, action, got)
			}
			if got := l.DecideL4(conn("client", "curl")); got.Allowed {
				t.Errorf("%s, %s, at L4: %+v, want refused", name, action, got)
			}
		}
	}
	// In a DENY rule the rest still counts.
	rest := mesh.AuthzRule{From: []mesh.AuthzSource{{Namespaces: []string{"other"}}}, When: []mesh.AuthzCondition{{Key: "request.auth.claims[]", Values: []string{"b"}}}}
	if got := CompileL7([]*mesh.AuthorizationPolicy{policyOf(mesh.ActionDeny, rest)}).Decide(request("GET", "/")); !got.Allowed {
		t.Errorf("a DENY rule for another namespace: %+v, want allowed", got)
	}
	invalid := policyOf(mesh.ActionAllow, mesh.AuthzRule{})
	invalid.Invalid = "unknown field"
	if got := CompileL7([]*mesh.AuthorizationPolicy{invalid}).Decide(request("GET", "/")); got.Allowed || got.Reason != reasonInvalid {
		t.Errorf("an invalid policy: %+v, want refused", got)
	}
	var missing *L7
	if missing.Decide(request("GET", "/")).Allowed || missing.DecideL4(conn("a", "x")).Allowed || missing.Empty() {
		t.Error("a nil set allows")
	}
}

func TestL7Verdict(t *testing.T) {
	denies := policyOf(mesh.ActionDeny, to(mesh.AuthzOperation{Methods: []string{"PUT"}}), to(mesh.AuthzOperation{Methods: []string{"DELETE"}}))
	l := CompileL7([]*mesh.AuthorizationPolicy{denies})
	want := Verdict{
		Kind: KindAuthorization, Policy: name("ns", "p"), Rule: 1, Reason: reasonDenied,
		Details: "rbac_access_denied_matched_policy[ns[ns]-policy[p]-rule[1]]", DryRun: DryRun{Rule: -1},
	}
	if got := l.Decide(request("DELETE", "/")); got != want {
		t.Errorf("Decide(DELETE) =\n %+v, want\n %+v", got, want)
	}
	dry := *denies
	dry.DryRun = true
	l = CompileL7([]*mesh.AuthorizationPolicy{&dry})
	want = Verdict{Allowed: true, Rule: -1, Reason: reasonNoPolicy, DryRun: DryRun{Denied: true, Policy: name("ns", "p"), Rule: 1}}
	if got := l.Decide(request("DELETE", "/")); got != want {
		t.Errorf("Decide(DELETE) in dry run =\n %+v, want\n %+v", got, want)
	}
	if l.Empty() || !CompileL7(nil).Empty() || !CompileL7(nil).Decide(request("GET", "/")).Allowed {
		t.Error("Empty is wrong")
	}
}

// TestDecideL4: for a connection passed through, request attributes make ALLOW
// rules vanish and DENY rules broader.
func TestDecideL4(t *testing.T) {
	method := to(mesh.AuthzOperation{Methods: []string{"TRACE"}})
	ns := from(mesh.AuthzSource{Namespaces: []string{"a"}})
	tests := []struct {
		name   string
		policy *mesh.AuthorizationPolicy
		want   bool
	}{
		{"allow_namespace", policyOf(mesh.ActionAllow, ns), true},
		{"allow_method", policyOf(mesh.ActionAllow, method), false},
		{"deny_method", policyOf(mesh.ActionDeny, method), false},
		{"deny_method_elsewhere", policyOf(mesh.ActionDeny, mesh.AuthzRule{To: method.To, From: []mesh.AuthzSource{{Namespaces: []string{"b"}}}}), true},
		{"invalid", &mesh.AuthorizationPolicy{Invalid: "x"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := CompileL7([]*mesh.AuthorizationPolicy{tt.policy}).DecideL4(conn("a", "x")); got.Allowed != tt.want {
				t.Errorf("DecideL4 = %+v, want allowed %v", got, tt.want)
			}
		})
	}
}

func TestManyValues(t *testing.T) {
	var principals []string
	for _, c := range "abcdefghijklmnop" {
		principals = append(principals, "cluster.local/ns/client/sa/"+string(c))
	}
	l := CompileL7([]*mesh.AuthorizationPolicy{policyOf(mesh.ActionAllow, from(mesh.AuthzSource{Principals: principals}))})
	for _, sa := range []string{"a", "h", "i", "p", "q", ""} {
		r := request("GET", "/")
		r.Peer.Identity.ServiceAccount = sa
		r.Peer.Principal = r.Peer.Identity.Principal()
		if got, want := l.Decide(r).Allowed, sa != "" && strings.Contains("abcdefghijklmnop", sa); got != want {
			t.Errorf("account %q: allowed = %v, want %v", sa, got, want)
		}
	}
}

// TestIndex: policies with so many rules that they are filed by peer decide as
// the same rules do one by one, and name the same rule.
func TestIndex(t *testing.T) {
	used := 0
	for seed := range uint64(300) {
		c := chooser{rand.New(rand.NewPCG(seed, 6))}
		var rules []mesh.AuthzRule
		for range 60 {
			var r mesh.AuthzRule
			switch c.IntN(6) {
			case 0:
				r.From = []mesh.AuthzSource{c.source()}
			case 1, 2:
				r.From = []mesh.AuthzSource{{Principals: []string{"td/ns/" + c.of("a", "b", "ab") + "/sa/" + c.of("x", "y", "z")}}}
			case 3:
				r.From = []mesh.AuthzSource{{Namespaces: []string{c.of("a", "b", "c")}}, {ServiceAccounts: []string{"aab/x", "b/" + c.of("x", "y")}}}
			default:
				r.When = []mesh.AuthzCondition{{Key: "source.namespace", Values: []string{c.of("aab", "c")}}}
			}
			if c.IntN(10) > 0 {
				r.To = []mesh.AuthzOperation{c.operation(), {Methods: []string{c.of("GET", "PUT")}, Ports: []uint16{80}}}
			}
			rules = append(rules, r)
		}
		p := policyOf(mesh.Action(c.IntN(2)), rules...)
		fast, slow := CompileL7([]*mesh.AuthorizationPolicy{p}), CompileL7([]*mesh.AuthorizationPolicy{p})
		for _, g := range []*group{&slow.set.enforced.allow, &slow.set.enforced.deny} {
			if g.index != nil {
				used++
			}
			g.index = nil
		}
		for range 60 {
			r := c.request()
			if c.IntN(10) == 0 {
				r.Peer.Identity = mesh.Identity{} // only the principal is known
			}
			if got, want := fast.Decide(r), slow.Decide(r); got != want {
				t.Fatalf("seed %d, %+v:\n got %+v\nwant %+v", seed, *r, got, want)
			}
		}
	}
	if used < 150 {
		t.Errorf("only %d of 300 policies have an index", used)
	}
}

func TestAttachedTo(t *testing.T) {
	service := &mesh.Service{Key: mesh.ServiceKey{Namespace: "ns", Hostname: "reviews.ns.svc.cluster.local"}, Name: "reviews", Canonical: true}
	entry := &mesh.Service{Key: mesh.ServiceKey{Namespace: "ns", Hostname: "api.example.com"}, Name: "reviews", External: true}
	waypoint := &mesh.Waypoint{Name: name("infra", "waypoint"), Class: "istio-waypoint"}
	ref := func(ns, group, kind, n string) *mesh.AuthorizationPolicy {
		return &mesh.AuthorizationPolicy{Name: name(ns, "p"), TargetRefs: []mesh.TargetRef{{Kind: "Nothing"}, {Group: group, Kind: kind, Name: n}}}
	}
	tests := []struct {
		name    string
		policy  *mesh.AuthorizationPolicy
		service *mesh.Service
		want    bool
	}{
		{"service", ref("ns", "", "Service", "reviews"), service, true},
		{"service_core", ref("ns", "core", "Service", "reviews"), service, true},
		{"service_other_name", ref("ns", "", "Service", "ratings"), service, false},
		{"service_other_namespace", ref("infra", "", "Service", "reviews"), service, false},
		{"service_is_entry", ref("ns", "", "Service", "reviews"), entry, false},
		{"service_none", ref("ns", "", "Service", "reviews"), nil, false},
		{"entry", ref("ns", "networking.istio.io", "ServiceEntry", "reviews"), entry, true},
		{"entry_is_service", ref("ns", "networking.istio.io", "ServiceEntry", "reviews"), service, false},
		{"gateway", ref("infra", "gateway.networking.k8s.io", "Gateway", "waypoint"), service, true},
		{"gateway_workload", ref("infra", "gateway.networking.k8s.io", "Gateway", "waypoint"), nil, true},
		{"gateway_other_namespace", ref("ns", "gateway.networking.k8s.io", "Gateway", "waypoint"), service, false},
		{"class", ref("istio-system", "gateway.networking.k8s.io", "GatewayClass", "istio-waypoint"), service, true},
		{"class_not_root", ref("infra", "gateway.networking.k8s.io", "GatewayClass", "istio-waypoint"), service, false},
		{"class_other", ref("istio-system", "gateway.networking.k8s.io", "GatewayClass", "x"), service, false},
		{"wrong_group", ref("infra", "", "Gateway", "waypoint"), service, false},
		{"no_refs", &mesh.AuthorizationPolicy{Name: name("ns", "p")}, service, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := mesh.NewSnapshot(1, mesh.Parts{Policies: []*mesh.AuthorizationPolicy{tt.policy}})
			if got := len(AttachedTo(s, tt.service, waypoint).Authorization) == 1; got != tt.want {
				t.Errorf("attached = %v, want %v", got, tt.want)
			}
		})
	}
}
