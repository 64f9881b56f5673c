package policy

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
	"github.com/google/go-cmp/cmp"
)

func stepLine(s *Step) string {
	out := fmt.Sprintf("%s %s %s %s rule %d", s.Kind, s.Policy.Name, s.Action, s.Mode, s.Rule)
	for _, add := range []struct {
		on   bool
		text string
	}{{s.RuleName != "", " " + s.RuleName}, {s.Matched, " matched"}, {s.Decided, " decided"}, {s.Failed != "", ": " + s.Failed}, {s.Error != "", "; " + s.Error}} {
		if add.on {
			out += add.text
		}
	}
	return out
}

func TestExplain(t *testing.T) {
	policies := Attached{
		Authorization: []*mesh.AuthorizationPolicy{
			{Name: name("ns", "admins"), Rules: []mesh.AuthzRule{
				from(mesh.AuthzSource{ServiceAccounts: []string{"ns/admin"}}),
				{From: []mesh.AuthzSource{{Namespaces: []string{"client"}}}, To: []mesh.AuthzOperation{{Methods: []string{"PUT"}}, {Methods: []string{"POST"}}}},
				paths("/a{*}"),
			}},
			{Name: name("ns", "idle"), Action: mesh.ActionDeny},
			{Name: name("ns", "ask"), Action: mesh.ActionCustom, Provider: &mesh.ExtAuthz{Name: "opa"}, Rules: []mesh.AuthzRule{paths("/x")}},
			{Name: name("ns", "users"), Action: mesh.ActionDeny, Rules: []mesh.AuthzRule{when("request.auth.claims[role]", "guest"), from(mesh.AuthzSource{NotPrincipals: []string{"*"}})}},
			{Name: name("ns", "next"), Action: mesh.ActionDeny, DryRun: true, Rules: []mesh.AuthzRule{to(mesh.AuthzOperation{Methods: []string{"GET"}})}},
		},
		Access: []*mesh.AccessPolicy{
			{Name: name("ns", "cel"), Rules: []mesh.AccessRule{
				{Name: "readers", Effect: mesh.AccessAllow, When: "request.method == 'GET' && source.namespace == 'client'"},
				{Name: "tenant", Effect: mesh.AccessRequire, When: "connection.mtls && request.headers['x-tenant'] == 'a'"},
				{Effect: mesh.AccessDeny, When: "request.url_path.startsWith('/admin') && connection.mtls"},
			}},
			{Name: name("ns", "v2"), Mode: mesh.ModeDryRun, Rules: []mesh.AccessRule{{Name: "none", Effect: mesh.AccessAllow, When: "false"}}},
			{Name: name("ns", "trail"), Mode: mesh.ModeAudit, Rules: []mesh.AccessRule{{Name: "all", Effect: mesh.AccessAllow, When: "true"}}},
			{Name: name("ns", "wrong"), Mode: mesh.ModeDryRun, Invalid: "no such thing", Rules: make([]mesh.AccessRule, 1)},
		},
	}
	l := Compile(policies)
	v, steps := l.Explain(Input{Req: request("GET", "/a/b", mesh.Field{Name: "x-tenant", Value: "a"})})
	var got []string
	for i := range steps {
		got = append(got, stepLine(&steps[i]))
	}
	want := []string{
		`AuthorizationPolicy ask CUSTOM enforce rule 0: to[0].operation.paths: "/a/b"`,
		`AuthorizationPolicy idle DENY enforce rule -1: it has no rules, so that none matches`,
		`AuthorizationPolicy users DENY enforce rule 0: when.request.auth.claims[role]: the request has no token`,
		`AuthorizationPolicy users DENY enforce rule 1: from[0].source.notPrincipals: "cluster.local/ns/client/sa/curl"`,
		`AccessPolicy cel allow enforce rule 0 readers matched decided`,
		`AccessPolicy cel require enforce rule 1 tenant`,
		`AccessPolicy cel deny enforce rule 2: request.url_path.startsWith("/admin")`,
		`AuthorizationPolicy admins ALLOW enforce rule 0: from[0].source.serviceAccounts: "cluster.local/ns/client/sa/curl"`,
		`AuthorizationPolicy admins ALLOW enforce rule 1: to[0].operation.methods: "GET" (and 1 more)`,
		`AuthorizationPolicy admins ALLOW enforce rule 2: to[0].operation.paths cannot be evaluated`,
		`AuthorizationPolicy next DENY dryRun rule 0 matched`,
		`AccessPolicy v2 allow dryRun rule 0 none: false`,
		`AccessPolicy wrong deny dryRun rule -1 matched: the policy is invalid and refuses everything that it is bound to`,
		`AccessPolicy trail allow audit rule 0 all matched`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if !v.Allowed || v.Kind != KindAccess || v.Policy.Name != "cel" || v.Rule != 0 {
		t.Errorf("%+v, want allowed by the AccessPolicy", v)
	}
	v, steps = l.Explain(Input{Req: request("GET", "/a/b")})
	i := 5
	if got, want := stepLine(&steps[i]), `AccessPolicy cel require enforce rule 1 tenant matched decided: request.headers["x-tenant"] == "a"; no such header`; got != want || v.Allowed {
		t.Errorf("without the header: %+v\n got %s\nwant %s", v, got, want)
	}
	v, steps = l.ExplainL4(conn("client", "curl"))
	if v.Allowed || len(steps) < 10 {
		t.Errorf("a connection: %+v, %d steps; want a refusal and all rules", v, len(steps))
	}
	var missing *L7
	if v, steps := missing.Explain(Input{Req: request("GET", "/")}); v.Allowed || steps != nil {
		t.Errorf("a nil set: %+v, %v", v, steps)
	}
}

// TestExplainIsDecide: what is explained is what is decided, by the same rule.
func TestExplainIsDecide(t *testing.T) {
	for seed := range uint64(300) {
		c := chooser{rand.New(rand.NewPCG(seed, 8))}
		list := c.policies()
		l := CompileL7(list)
		for range 10 {
			r := c.request()
			want := l.Decide(r)
			got, steps := l.Explain(Input{Req: r})
			if got != want {
				t.Fatalf("explained %+v, decided %+v", got, want)
			}
			decided := 0
			for _, s := range steps {
				if s.Decided {
					decided++
					if s.Policy != want.Policy || s.Rule != want.Rule || !s.Matched {
						t.Fatalf("%+v decided, want %+v", s, want)
					}
				}
				if !s.Matched && s.Failed == "" {
					t.Fatalf("%s does not match, and nothing says why\n%+v", stepLine(&s), *r)
				}
				if s.Matched && s.Failed != "" && !strings.Contains(s.Failed, "invalid") {
					t.Fatalf("%s matches, and says why not", stepLine(&s))
				}
			}
			if (decided == 1) != (want.Rule >= 0) {
				t.Fatalf("%d steps decided, want the one of %+v", decided, want)
			}
		}
	}
}
