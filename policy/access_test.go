package policy

import (
	"fmt"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

func access(mode mesh.AccessMode, rules ...mesh.AccessRule) *mesh.AccessPolicy {
	return &mesh.AccessPolicy{Name: name("ns", "cel"), Mode: mode, Rules: rules}
}

func allowIf(when string) mesh.AccessRule { return mesh.AccessRule{When: when} }
func denyIf(when string) mesh.AccessRule {
	return mesh.AccessRule{Effect: mesh.AccessDeny, When: when}
}

func require(when string) mesh.AccessRule {
	return mesh.AccessRule{Effect: mesh.AccessRequire, When: when}
}

// TestAccess has every effect with what holds, what does not and what fails, alone and beside
// AuthorizationPolicies.
func TestAccess(t *testing.T) {
	const yes, no, fails = "request.method == 'GET'", "request.method == 'PUT'", "request.headers['x-none'] == 'a'"
	const celYes, celNo, celFails = "request.method + '' == 'GET'", "request.method + '' == 'PUT'", "jwt.claims.none == 'a'"
	get := policyOf(mesh.ActionAllow, to(mesh.AuthzOperation{Methods: []string{"GET"}}))
	put := policyOf(mesh.ActionAllow, to(mesh.AuthzOperation{Methods: []string{"PUT"}}))
	notGet := policyOf(mesh.ActionDeny, to(mesh.AuthzOperation{Methods: []string{"GET"}}))
	tests := []struct {
		name  string
		rules []mesh.AccessRule
		with  *mesh.AuthorizationPolicy
		want  bool
	}{
		{"allow", []mesh.AccessRule{allowIf(yes)}, nil, true},
		{"allow_not", []mesh.AccessRule{allowIf(no)}, nil, false},
		{"allow_fails", []mesh.AccessRule{allowIf(fails)}, nil, false},
		{"allow_one_of_two", []mesh.AccessRule{allowIf(no), allowIf(yes)}, nil, true},
		{"allow_fails_beside", []mesh.AccessRule{allowIf(fails), allowIf(yes)}, nil, true},
		{"deny", []mesh.AccessRule{denyIf(yes)}, nil, false},
		{"deny_not", []mesh.AccessRule{denyIf(no)}, nil, true},
		{"deny_fails", []mesh.AccessRule{denyIf(fails)}, nil, false},
		{"deny_over_allow", []mesh.AccessRule{allowIf(yes), denyIf(yes)}, nil, false},
		{"require", []mesh.AccessRule{require(yes)}, nil, true},
		{"require_not", []mesh.AccessRule{require(no)}, nil, false},
		{"require_fails", []mesh.AccessRule{require(fails)}, nil, false},
		{"require_each", []mesh.AccessRule{require(yes), require(no)}, nil, false},
		{"require_is_not_allow", []mesh.AccessRule{require(yes), allowIf(no)}, nil, false},
		{"cel_allow", []mesh.AccessRule{allowIf(celYes)}, nil, true},
		{"cel_allow_not", []mesh.AccessRule{allowIf(celNo)}, nil, false},
		{"cel_allow_fails", []mesh.AccessRule{allowIf(celFails)}, nil, false},
		{"cel_deny_fails", []mesh.AccessRule{denyIf(celFails)}, nil, false},
		{"cel_deny_not", []mesh.AccessRule{denyIf(celNo)}, nil, true},
		{"cel_require_fails", []mesh.AccessRule{require(celFails)}, nil, false},
		{"cel_require", []mesh.AccessRule{require(celYes)}, nil, true},

		{"one_allow_set_theirs", []mesh.AccessRule{allowIf(no)}, get, true},
		{"one_allow_set_ours", []mesh.AccessRule{allowIf(yes)}, put, true},
		{"one_allow_set_none", []mesh.AccessRule{allowIf(no)}, put, false},
		{"their_deny", []mesh.AccessRule{allowIf(yes)}, notGet, false},
		{"our_deny", []mesh.AccessRule{denyIf(yes)}, get, false},
		{"our_require", []mesh.AccessRule{require(no)}, get, false},
		{"our_require_their_allow", []mesh.AccessRule{require(yes)}, put, false},
		{"bad_expression", []mesh.AccessRule{allowIf(yes), allowIf("request.nonsense")}, nil, false},
		{"no_rules", nil, nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := Attached{Access: []*mesh.AccessPolicy{access(mesh.ModeEnforce, tt.rules...)}}
			if tt.with != nil {
				a.Authorization = append(a.Authorization, tt.with)
			}
			v := Compile(a).Decide(request("GET", "/"))
			if v.Allowed != tt.want || v.Allowed != (v.Details == "") {
				t.Errorf("%+v, want allowed %v", v, tt.want)
			}
			// In the other modes it decides nothing.
			a.Access[0].Mode = mesh.ModeDryRun
			want := tt.with == nil || tt.with == get
			if v := Compile(a).Decide(request("GET", "/")); v.Allowed != want {
				t.Errorf("in dry run: %+v, want allowed %v", v, want)
			}
			a.Access[0].Mode = mesh.ModeAudit
			if v := Compile(a).Decide(request("GET", "/")); v.Allowed != want || v.DryRun.Denied {
				t.Errorf("in audit: %+v, want allowed %v", v, want)
			}
		})
	}
}

func TestAccessVerdict(t *testing.T) {
	p := access(mesh.ModeEnforce, mesh.AccessRule{Name: "readers", When: "request.method == 'GET'"}, denyIf("request.url_path == '/x'"),
		mesh.AccessRule{Name: "tenant", Effect: mesh.AccessRequire, When: "request.url_path != '/y'"})
	l := Compile(Attached{Access: []*mesh.AccessPolicy{p}})
	quiet := DryRun{Rule: -1}
	for _, tt := range []struct {
		r    *mesh.Request
		want Verdict
	}{
		{request("GET", "/"), Verdict{Allowed: true, Kind: KindAccess, Policy: p.Name, Reason: reasonAllowed, DryRun: quiet}},
		{request("PUT", "/"), Verdict{Rule: -1, Reason: reasonNoneAllows, Details: detailsNone, DryRun: quiet}},
		{request("GET", "/x"), Verdict{Kind: KindAccess, Policy: p.Name, Rule: 1, Reason: reasonDenied, Details: "access_denied_matched_policy[ns[ns]-policy[cel]-rule[1]]", DryRun: quiet}},
		{request("GET", "/y"), Verdict{Kind: KindAccess, Policy: p.Name, Rule: 2, Reason: reasonRequired, Details: "access_denied_matched_policy[ns[ns]-policy[cel]-rule[tenant]]", DryRun: quiet}},
	} {
		if got := l.Decide(tt.r); got != tt.want {
			t.Errorf("%s %s:\n got %+v\nwant %+v", tt.r.Method, tt.r.Path, got, tt.want)
		}
	}
	p.Invalid = "somehow"
	want := Verdict{Kind: KindAccess, Policy: p.Name, Rule: -1, Reason: reasonInvalid, Details: "access_denied_matched_policy[ns[ns]-policy[cel]-rule[invalid]]", DryRun: quiet}
	if got := Compile(Attached{Access: []*mesh.AccessPolicy{p}}).Decide(request("GET", "/")); got != want {
		t.Errorf("invalid:\n got %+v\nwant %+v", got, want)
	}
}

// TestAccessL4: an expression about a connection has no request to look at.
func TestAccessL4(t *testing.T) {
	tests := []struct {
		name string
		rule mesh.AccessRule
		want bool
	}{
		{"allow_source", allowIf("source.namespace == 'a'"), true},
		{"allow_source_not", allowIf("source.namespace == 'b'"), false},
		{"allow_request", allowIf("request.method == 'GET'"), false},
		{"allow_either", allowIf("request.method == 'GET' || source.namespace == 'a'"), true},
		{"allow_token", allowIf("jwt.claims.sub == 'a'"), false},
		{"deny_request", denyIf("request.method == 'TRACE'"), false},
		{"deny_request_of_others", denyIf("request.method == 'TRACE' && source.namespace == 'b'"), true},
		{"deny_path", denyIf("request.url_path == '/x'"), false},
		{"require_request", require("'x-a' in request.headers"), false},
		{"require_source", require("connection.mtls && destination.port == 9080"), true},
		{"service", allowIf("destination.service == 'web.ns.svc'"), true},
	}
	for _, tt := range tests {
		rules := []mesh.AccessRule{tt.rule}
		for i := range 20 { // with an index, too
			l := Compile(Attached{Access: []*mesh.AccessPolicy{access(mesh.ModeEnforce, rules...)}})
			in := conn("a", "x")
			in.Service = &mesh.Service{Key: mesh.ServiceKey{Namespace: "ns", Hostname: "web.ns.svc"}}
			if v := l.DecideL4(in); v.Allowed != tt.want {
				t.Errorf("%s with %d rules: %+v, want allowed %v", tt.name, i+1, v, tt.want)
			}
			if tt.rule.Effect == mesh.AccessDeny && strings.Contains(tt.rule.When, "url_path") {
				rules = append(rules, denyIf(fmt.Sprintf("request.url_path == '/%d'", i)))
			} else {
				rules = append(rules, mesh.AccessRule{Effect: tt.rule.Effect, When: strings.Replace(tt.rule.When, "x-", "y-", 1)})
			}
		}
	}
}

func TestAccessService(t *testing.T) {
	l := Compile(Attached{Access: []*mesh.AccessPolicy{access(mesh.ModeEnforce, allowIf("destination.service == 'web' && destination.namespace == 'ns'"))}})
	if v := l.Decide(request("GET", "/")); v.Allowed {
		t.Errorf("without a service: %+v", v)
	}
	in := Input{Req: request("GET", "/"), Service: &mesh.Service{Key: mesh.ServiceKey{Namespace: "ns", Hostname: "web"}}}
	if v := l.DecideAnd(in, nil); !v.Allowed {
		t.Errorf("with it: %+v", v)
	}
}

// TestWatch: what policies say that decide nothing.
func TestWatch(t *testing.T) {
	getOnly := access(mesh.ModeEnforce, allowIf("request.method == 'GET'"))
	v2 := access(mesh.ModeDryRun, allowIf("request.method in ['GET', 'PUT']"), denyIf("request.url_path == '/x'"))
	v2.Name.Name = "v2"
	v3 := access(mesh.ModeDryRun, require("request.url_path != '/y'"))
	v3.Name.Name = "v3"
	trail := access(mesh.ModeAudit, denyIf("request.headers['x-a'] == 'b'"), allowIf("request.method == 'GET'"))
	trail.Name.Name = "trail"
	dry := policyOf(mesh.ActionDeny, paths("/z"))
	dry.DryRun, dry.Name.Name = true, "dry"
	audit := policyOf(mesh.ActionAudit, paths("/z"), paths("/z*"))
	audit.Name.Name = "audit"
	ignored := policyOf(mesh.ActionAudit, mesh.AuthzRule{})
	ignored.Invalid, ignored.Name.Name = "broken", "ignored"
	l := Compile(Attached{Authorization: []*mesh.AuthorizationPolicy{dry, audit, ignored}, Access: []*mesh.AccessPolicy{getOnly, v2, v3, trail}})
	if l.Empty() || Compile(Attached{Access: []*mesh.AccessPolicy{trail}}).Empty() || Compile(Attached{Authorization: []*mesh.AuthorizationPolicy{audit}}).Empty() {
		t.Error("there is nothing to do for policies that watch")
	}
	outcomes := map[Outcome]string{Audited: "audited", AgreedAllow: "allow", AgreedDeny: "deny", WouldDeny: "WOULD DENY", WouldAllow: "WOULD ALLOW"}
	tests := []struct {
		r         *mesh.Request
		want, dry string
	}{
		{request("GET", "/"), "v2 allow, trail audited", "v2"},
		{request("GET", "/x"), "v2 WOULD DENY, trail audited", "denied v2"},
		{request("GET", "/y"), "v2 allow, v3 WOULD DENY, trail audited", "denied v3"},
		{request("PUT", "/"), "v2 WOULD ALLOW, trail audited", "v2"},
		{request("POST", "/"), "v2 deny, trail audited", "denied v2"},
		{request("GET", "/z"), "dry WOULD DENY, v2 allow, audit audited, trail audited", "denied dry"},
	}
	for _, tt := range tests {
		var got []string
		v := l.DecideAnd(Input{Req: tt.r}, func(i int, o Outcome) {
			w := l.Watched()[i]
			got = append(got, w.Name.Name+" "+outcomes[o])
			if w.Audit != (o == Audited) {
				t.Errorf("%+v: %v", w, o)
			}
		})
		if s := strings.Join(got, ", "); s != tt.want {
			t.Errorf("%s %s:\n got %s\nwant %s", tt.r.Method, tt.r.Path, s, tt.want)
		}
		dry := strings.TrimPrefix(fmt.Sprintf("denied %s", v.DryRun.Policy.Name), map[bool]string{true: "", false: "denied "}[v.DryRun.Denied])
		if dry != tt.dry || v.Allowed != (tt.r.Method == "GET") {
			t.Errorf("%s %s: %+v, want %s", tt.r.Method, tt.r.Path, v, tt.dry)
		}
	}
}

// TestCustom: which provider is asked about what.
func TestCustom(t *testing.T) {
	opa, other, broken := &mesh.ExtAuthz{Name: "opa"}, &mesh.ExtAuthz{Name: "other"}, &mesh.ExtAuthz{Name: "broken", Broken: "no service"}
	ask := func(p *mesh.ExtAuthz, rules ...mesh.AuthzRule) *mesh.AuthorizationPolicy {
		out := policyOf(mesh.ActionCustom, rules...)
		out.Provider = p
		return out
	}
	unreadable := when("request.auth.claims[]", "x")
	unreadable.To = []mesh.AuthzOperation{{Paths: []string{"/claims"}}}
	l := CompileL7([]*mesh.AuthorizationPolicy{
		ask(opa, paths("/opa*")), ask(other, paths("/other"), paths("/opa-and-other")), ask(opa, paths("/more"), unreadable),
		ask(nil, paths("/nobody")), ask(broken, paths("/broken")),
	})
	if got := l.Providers(); len(got) != 2 || got[0] != opa || got[1] != other {
		t.Fatalf("providers are %v", got)
	}
	for path, want := range map[string]string{
		"/": "false false true", "/opa": "true false true", "/other": "false true true", "/opa-and-other": "true true true", "/more": "true false true",
		"/claims": "true false true", "/nobody": "false false false", "/broken": "false false false",
	} {
		in := Input{Req: request("GET", path)}
		if got := fmt.Sprint(l.Custom(in, 0), l.Custom(in, 1), l.DecideAnd(in, nil).Allowed); got != want {
			t.Errorf("%s: asked, asked and allowed %s, want %s", path, got, want)
		}
	}
	if v := l.Decide(request("GET", "/nobody")); v.Reason != reasonNoProvider || v.Details == "" {
		t.Errorf("%+v, want that there is no provider", v)
	}
	// Nobody can be asked about a connection: what may match is refused.
	if v := l.DecideL4(conn("a", "x")); v.Allowed || v.Reason != reasonCustomL4 {
		t.Errorf("a connection: %+v, want it refused", v)
	}
	l = CompileL7([]*mesh.AuthorizationPolicy{ask(opa, from(mesh.AuthzSource{Namespaces: []string{"b"}}))})
	if v := l.DecideL4(conn("a", "x")); !v.Allowed {
		t.Errorf("a connection that no rule matches: %+v", v)
	}
}
