package policy

import (
	"reflect"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

// referenceRequest has something for every attribute of Istio's reference.
func referenceRequest() *mesh.Request {
	r := request("GET", "/a/b", mesh.Field{Name: "user-agent", Value: "Mozilla/5.0"})
	r.Token = &mesh.Token{
		Principal: "issuer.example.com/subject-admin", Issuer: "issuer.example.com", Subject: "subject-admin", Presenter: "123456789012.example.com",
		Audiences: []string{"example.com/sub", "example.org"},
		Claims: map[string]any{
			"iss": "issuer.example.com", "groups": []any{"group1", "group2"}, "level": 3.0, "admin": true,
			"nested": map[string]any{"key1": "value-a", "list": []any{"b", "c"}},
		},
	}
	return r
}

// TestReference has each attribute of Istio's reference ("Authorization Policy", "Authorization Policy
// Conditions") with values that match and values that do not, and both of its not-form. At L4, where
// node proxies decide, those of a request fail safe in all four.
func TestReference(t *testing.T) {
	for _, tt := range referenceCases() {
		t.Run(tt.name, tt.run)
	}
}

// TestReferenceIsWhole: each attribute that Istio's reference has in a source, an operation or a condition has a list
// in TestReference that matches and one that does not. Whatever has a list has its not-form, too.
func TestReferenceIsWhole(t *testing.T) {
	never := map[string]bool{"connection.sni": true} // HTTP in a tunnel carries none, so that only its not-form matches
	yes, no := map[string]bool{}, map[string]bool{}
	for _, tt := range referenceCases() {
		name, _, _ := strings.Cut(tt.name, "_")
		yes[name] = yes[name] || tt.yes != "" || never[name]
		no[name] = no[name] || tt.no != ""
	}
	for _, name := range []string{
		"principals", "requestPrincipals", "namespaces", "serviceAccounts", "trustDomains", "ipBlocks", "remoteIpBlocks",
		"hosts", "ports", "methods", "paths",
		"request.headers", "source.ip", "remote.ip", "source.namespace", "source.principal", "source.serviceAccount", "request.auth.principal",
		"request.auth.audiences", "request.auth.presenter", "request.auth.claims", "destination.ip", "destination.port", "connection.sni",
	} {
		if !yes[name] || !no[name] {
			t.Errorf("%s: a list that matches: %v, and one that does not: %v; want both", name, yes[name], no[name])
		}
	}
	// What the model has is in the reference: a field that is added to it needs cases.
	for typ, more := range map[reflect.Type]int{reflect.TypeFor[mesh.AuthzSource](): 7, reflect.TypeFor[mesh.AuthzOperation](): 4} {
		if typ.NumField() != 2*more {
			t.Errorf("%s has %d fields, and the reference %d attributes with a not-form each", typ, typ.NumField(), more)
		}
	}
}

// referenceCase is an attribute, in both forms, with lists that match the reference request and that do not.
type referenceCase struct {
	name    string
	forms   [2]func([]string) mesh.AuthzRule
	yes, no string // lists, separated by blanks
	request bool   // whether only a request has it
}

func referenceCases() []referenceCase {
	src := func(set func(s *mesh.AuthzSource, list []string), not func(s *mesh.AuthzSource, list []string)) [2]func([]string) mesh.AuthzRule {
		of := func(f func(s *mesh.AuthzSource, list []string)) func([]string) mesh.AuthzRule {
			return func(list []string) mesh.AuthzRule {
				var s mesh.AuthzSource
				f(&s, list)
				return from(s)
			}
		}
		return [2]func([]string) mesh.AuthzRule{of(set), of(not)}
	}
	op := func(set func(o *mesh.AuthzOperation, list []string), not func(o *mesh.AuthzOperation, list []string)) [2]func([]string) mesh.AuthzRule {
		of := func(f func(o *mesh.AuthzOperation, list []string)) func([]string) mesh.AuthzRule {
			return func(list []string) mesh.AuthzRule {
				var o mesh.AuthzOperation
				f(&o, list)
				return to(o)
			}
		}
		return [2]func([]string) mesh.AuthzRule{of(set), of(not)}
	}
	cond := func(key string) [2]func([]string) mesh.AuthzRule {
		return [2]func([]string) mesh.AuthzRule{
			func(list []string) mesh.AuthzRule { return when(key, list...) },
			func(list []string) mesh.AuthzRule { return whenNot(key, list...) },
		}
	}
	return []referenceCase{
		{"principals", src(func(s *mesh.AuthzSource, l []string) { s.Principals = l }, func(s *mesh.AuthzSource, l []string) { s.NotPrincipals = l }), "x cluster.local/ns/client/sa/curl", "cluster.local/ns/client/sa/other", false},
		{"principals_any", src(func(s *mesh.AuthzSource, l []string) { s.Principals = l }, func(s *mesh.AuthzSource, l []string) { s.NotPrincipals = l }), "*", "other.td/*", false},
		{"namespaces", src(func(s *mesh.AuthzSource, l []string) { s.Namespaces = l }, func(s *mesh.AuthzSource, l []string) { s.NotNamespaces = l }), "x cl*", "x *x", false},
		{"serviceAccounts", src(func(s *mesh.AuthzSource, l []string) { s.ServiceAccounts = l }, func(s *mesh.AuthzSource, l []string) { s.NotServiceAccounts = l }), "ns/x client/curl", "curl client/x", false},
		{"trustDomains", src(func(s *mesh.AuthzSource, l []string) { s.TrustDomains = l }, func(s *mesh.AuthzSource, l []string) { s.NotTrustDomains = l }), "cluster.local", "cluster td2", false},
		{"trustDomains_pattern", src(func(s *mesh.AuthzSource, l []string) { s.TrustDomains = l }, func(s *mesh.AuthzSource, l []string) { s.NotTrustDomains = l }), "*.local", "local*", false},
		{"ipBlocks", src(func(s *mesh.AuthzSource, l []string) { s.IPBlocks = cidrs(l...) }, func(s *mesh.AuthzSource, l []string) { s.NotIPBlocks = cidrs(l...) }), "10.0.0.0/8", "10.1.0.0/16 192.0.2.0/24", false},
		{"remoteIpBlocks", src(func(s *mesh.AuthzSource, l []string) { s.RemoteIPBlocks = cidrs(l...) }, func(s *mesh.AuthzSource, l []string) { s.NotRemoteIPBlocks = cidrs(l...) }), "10.0.0.1/32", "10.0.0.2/32", true},
		{"requestPrincipals", src(func(s *mesh.AuthzSource, l []string) { s.RequestPrincipals = l }, func(s *mesh.AuthzSource, l []string) { s.NotRequestPrincipals = l }), "issuer.example.com/*", "issuer.example.com/other", true},
		{"requestPrincipals_any", src(func(s *mesh.AuthzSource, l []string) { s.RequestPrincipals = l }, func(s *mesh.AuthzSource, l []string) { s.NotRequestPrincipals = l }), "*", "other/*", true},

		{"hosts", op(func(o *mesh.AuthzOperation, l []string) { o.Hosts = l }, func(o *mesh.AuthzOperation, l []string) { o.NotHosts = l }), "*.example.com", "example.com", true},
		{"ports", op(func(o *mesh.AuthzOperation, l []string) { o.Ports, _ = parsePorts(l) }, func(o *mesh.AuthzOperation, l []string) { o.NotPorts, _ = parsePorts(l) }), "80 9080", "80", false},
		{"methods", op(func(o *mesh.AuthzOperation, l []string) { o.Methods = l }, func(o *mesh.AuthzOperation, l []string) { o.NotMethods = l }), "GET", "POST", true},
		{"paths", op(func(o *mesh.AuthzOperation, l []string) { o.Paths = l }, func(o *mesh.AuthzOperation, l []string) { o.NotPaths = l }), "/a/*", "/b/*", true},
		{"paths_template", op(func(o *mesh.AuthzOperation, l []string) { o.Paths = l }, func(o *mesh.AuthzOperation, l []string) { o.NotPaths = l }), "/{*}/b", "/{*}/c/{**}", true},

		{"request.headers", cond("request.headers[User-Agent]"), "Mozilla/*", "curl/*", true},
		{"request.headers_absent", cond("request.headers[x-b3-traceid]"), "", "*", true},
		{"source.ip", cond("source.ip"), "10.1.2.3 10.0.0.0/16", "10.1.2.3", false},
		{"remote.ip", cond("remote.ip"), "10.0.0.1", "10.2.0.0/16", true},
		{"source.namespace", cond("source.namespace"), "client", "default", false},
		{"source.principal", cond("source.principal"), "cluster.local/ns/client/sa/*", "cluster.local/ns/default/sa/productpage", false},
		{"source.serviceAccount", cond("source.serviceAccount"), "client/curl", "curl", false},
		{"request.auth.principal", cond("request.auth.principal"), "issuer.example.com/subject-admin", "accounts/1", true},
		{"request.auth.audiences", cond("request.auth.audiences"), "example.com/sub", "example.net", true},
		{"request.auth.audiences_second", cond("request.auth.audiences"), "example.org", "example", true},
		{"request.auth.presenter", cond("request.auth.presenter"), "123456789012.example.com", "example.com", true},
		{"request.auth.claims", cond("request.auth.claims[iss]"), "*.example.com", "*@foo.com", true},
		{"request.auth.claims_list", cond("request.auth.claims[groups]"), "group2", "group", true},
		{"request.auth.claims_nested", cond("request.auth.claims[nested][key1]"), "value-a", "value-b", true},
		{"request.auth.claims_nested_list", cond("request.auth.claims[nested][list]"), "c", "d", true},
		{"request.auth.claims_number", cond("request.auth.claims[level]"), "", "3 *", true}, // Istio: texts and lists of texts only
		{"request.auth.claims_bool", cond("request.auth.claims[admin]"), "", "true *", true},
		{"request.auth.claims_map", cond("request.auth.claims[nested]"), "", "*", true},
		{"request.auth.claims_into_text", cond("request.auth.claims[iss][x]"), "", "*", true},
		{"request.auth.claims_absent", cond("request.auth.claims[none]"), "", "*", true},
		{"destination.ip", cond("destination.ip"), "10.96.1.3", "10.96.1.4", false},
		{"destination.port", cond("destination.port"), "80 9080", "443", false},
		{"connection.sni", cond("connection.sni"), "", "*.example.com *", true},
	}
}

// TestReferenceProxied has the attributes of addresses in Istio's reference behind a trusted proxy: source.ip and ipBlocks
// are the proxy's, remote.ip and remoteIpBlocks the client's that the proxy wrote, and what the client wrote before counts nowhere.
func TestReferenceProxied(t *testing.T) {
	r := referenceRequest() // from 10.0.0.1
	r.Fields.Add("x-forwarded-for", "203.0.113.9, 192.0.2.7")
	w := &mesh.Waypoint{Name: name("ns", "wp"), Reading: mesh.Reading{TrustedProxies: 1}}
	tested := 0
	for _, tt := range referenceCases() {
		yes := map[string]string{"ipBlocks": "10.0.0.1/32", "source.ip": "10.0.0.1", "remoteIpBlocks": "192.0.2.7/32", "remote.ip": "192.0.2.0/24"}[tt.name]
		if yes == "" {
			continue
		}
		tested++
		others := []string{"10.0.0.1/32", "203.0.113.9/32"}
		if !tt.request {
			others[0] = "192.0.2.7/32"
		}
		for not, form := range tt.forms {
			for _, action := range []mesh.Action{mesh.ActionAllow, mesh.ActionDeny} {
				for i, value := range append(others, yes) {
					p := policyOf(action, form([]string{value}))
					p.TargetRefs = []mesh.TargetRef{{Group: "gateway.networking.k8s.io", Kind: "Gateway", Name: w.Name.Name}}
					a := NewAttachments(mesh.NewSnapshot(1, mesh.Parts{Waypoints: []*mesh.Waypoint{w}, Policies: []*mesh.AuthorizationPolicy{p}}), w)
					matches := (i == len(others)) != (not == 1)
					if v := a.Compile(a.Of(nil)).Decide(r); v.Allowed != (matches == (action == mesh.ActionAllow)) {
						t.Errorf("%s %s %s, not-form %d: %+v, want matched %v", action, tt.name, value, not, v, matches)
					}
				}
			}
		}
	}
	if tested != 4 {
		t.Errorf("%d attributes of addresses were tested, want 4", tested)
	}
}

func (tt referenceCase) run(t *testing.T) {
	for _, yes := range []bool{true, false} {
		values := strings.Fields(tt.no)
		if yes {
			values = strings.Fields(tt.yes)
		}
		if len(values) == 0 {
			continue
		}
		for not, form := range tt.forms {
			rule, matches := form(values), yes != (not == 1)
			allow := CompileL7([]*mesh.AuthorizationPolicy{policyOf(mesh.ActionAllow, rule)})
			deny := CompileL7([]*mesh.AuthorizationPolicy{policyOf(mesh.ActionDeny, rule)})
			if v := allow.Decide(referenceRequest()); v.Allowed != matches {
				t.Errorf("ALLOW %v, not-form %d: %+v, want matched %v", values, not, v, matches)
			}
			if v := deny.Decide(referenceRequest()); v.Allowed == matches {
				t.Errorf("DENY %v, not-form %d: %+v, want matched %v", values, not, v, matches)
			}
			c := L4Facts{Peer: identity("client", "curl"), Source: referenceRequest().Peer.Addr.Addr(), Destination: referenceRequest().Destination}
			if v := allow.DecideL4(c); v.Allowed != (matches && !tt.request) {
				t.Errorf("ALLOW %v, not-form %d, at L4: %+v", values, not, v)
			}
			if v := deny.DecideL4(c); v.Allowed != (!matches && !tt.request) {
				t.Errorf("DENY %v, not-form %d, at L4: %+v", values, not, v)
			}
		}
	}
}

// TestWithoutToken: what asks for a token does not match a request without one, and its not-form does, which is how
// Istio's documentation has it: DENY with notRequestPrincipals ["*"] refuses requests without a valid token.
func TestWithoutToken(t *testing.T) {
	r := request("GET", "/")
	for _, key := range []string{"request.auth.principal", "request.auth.audiences", "request.auth.presenter", "request.auth.claims[a]", "request.auth.claims[a][b]"} {
		if v := CompileL7([]*mesh.AuthorizationPolicy{policyOf(mesh.ActionAllow, when(key, "*"))}).Decide(r); v.Allowed {
			t.Errorf("ALLOW %s: %+v", key, v)
		}
		if v := CompileL7([]*mesh.AuthorizationPolicy{policyOf(mesh.ActionDeny, whenNot(key, "*"))}).Decide(r); v.Allowed {
			t.Errorf("DENY without %s: %+v", key, v)
		}
	}
	none := CompileL7([]*mesh.AuthorizationPolicy{policyOf(mesh.ActionDeny, from(mesh.AuthzSource{NotRequestPrincipals: []string{"*"}}))})
	if none.Decide(r).Allowed || !none.Decide(referenceRequest()).Allowed {
		t.Error("DENY with notRequestPrincipals [\"*\"] does not tell requests with a token from those without")
	}
}

// TestOrder is the table of Istio's documentation, "Implicit enablement": which of the policies
// that are there, and match or do not, decides.
func TestOrder(t *testing.T) {
	provider := &mesh.ExtAuthz{Name: "p"}
	all, none := mesh.AuthzRule{}, to(mesh.AuthzOperation{Methods: []string{"NONE"}})
	tests := []struct {
		name                string
		custom, deny, allow string // "" for no policy, "yes" and "no" for one that matches or not, "empty" for one without rules
		asked, want         bool
	}{
		{"nothing", "", "", "", false, true},
		{"allow", "", "", "yes", false, true},
		{"allow_not", "", "", "no", false, false},
		{"allow_nothing", "", "", "empty", false, false},
		{"deny", "", "yes", "", false, false},
		{"deny_not", "", "no", "", false, true},
		{"deny_nothing", "", "empty", "", false, true},
		{"deny_before_allow", "", "yes", "yes", false, false},
		{"deny_not_allow", "", "no", "yes", false, true},
		{"deny_not_allow_not", "", "no", "no", false, false},
		{"custom", "yes", "", "", true, true},
		{"custom_not", "no", "", "", false, true},
		{"custom_nothing", "empty", "", "", false, true},
		{"custom_then_deny", "yes", "yes", "yes", true, false},
		{"custom_then_allow", "yes", "", "yes", true, true},
		{"custom_then_allow_not", "yes", "no", "no", true, false},
	}
	for _, tt := range tests {
		var list []*mesh.AuthorizationPolicy
		for action, how := range map[mesh.Action]string{mesh.ActionCustom: tt.custom, mesh.ActionDeny: tt.deny, mesh.ActionAllow: tt.allow, mesh.ActionAudit: "yes"} {
			p := policyOf(action)
			p.Provider = provider
			switch how {
			case "":
				continue
			case "yes":
				p.Rules = []mesh.AuthzRule{none, all}
			case "no":
				p.Rules = []mesh.AuthzRule{none}
			}
			list = append(list, p)
		}
		l := CompileL7(list)
		in := Input{Req: request("GET", "/")}
		if got := l.DecideAnd(in, nil); got.Allowed != tt.want {
			t.Errorf("%s: %+v, want allowed %v", tt.name, got, tt.want)
		}
		if got := l.Custom(in, 0); got != tt.asked {
			t.Errorf("%s: asked %v, want %v", tt.name, got, tt.asked)
		}
	}
}
