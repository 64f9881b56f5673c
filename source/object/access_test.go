package object_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source/object"
	"github.com/google/go-cmp/cmp"
)

const accessHead = "apiVersion: policy.cairnproxy.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: p}\nspec:\n"

const (
	accessTarget = "  targetRefs: [{group: '', kind: Service, name: web}]\n"
	accessRule   = "  rules: [{effect: deny, when: 'true'}]\n"
)

func TestAccessPolicy(t *testing.T) {
	res, _ := translate(t, "f.yaml", accessHead+`  targetRefs:
  - {group: '', kind: Service, name: web, sectionName: http}
  - {group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: one}
  mode: dryRun
  rules:
  - {name: readers, effect: allow, when: "request.method == 'GET'"}
  - {effect: deny, when: "source.namespace == 'x'"}
  - {name: tenant, effect: require, when: "'x-tenant' in request.headers"}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules: [{name: one, backendRefs: [{name: web, port: 80}]}]
`+svc, object.Options{})
	if len(res.Problems) > 0 || len(res.Parts.Access) != 1 {
		t.Fatalf("%d policies; %v", len(res.Parts.Access), res.Problems)
	}
	got := *res.Parts.Access[0]
	got.Origin = mesh.Origin{}
	want := mesh.AccessPolicy{
		Name: mesh.Name{Namespace: "default", Name: "p"}, Mode: mesh.ModeDryRun,
		TargetRefs: []mesh.TargetRef{{Kind: "Service", Name: "web", Section: "http"}, {Group: "gateway.networking.k8s.io", Kind: "HTTPRoute", Name: "r", Section: "one"}},
		Rules: []mesh.AccessRule{
			{Name: "readers", When: "request.method == 'GET'"},
			{Effect: mesh.AccessDeny, When: "source.namespace == 'x'"},
			{Name: "tenant", Effect: mesh.AccessRequire, When: "'x-tenant' in request.headers"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if s := statusOf(t, &res, "AccessPolicy", "p"); len(s.Parents) != 2 || !s.Good() {
		t.Errorf("status is %+v, want two good parents", s)
	}
	if n := res.Notices; len(n) != 2 || !strings.Contains(n[1].Message, "has no waypoint") {
		t.Errorf("notices are %v, want that the service has no waypoint", n)
	}
}

func statusOf(t *testing.T, res *object.Result, kind, name string) *mesh.Status {
	t.Helper()
	for _, s := range res.Parts.Statuses {
		if s.Kind == kind && s.Object.Name == name {
			return s
		}
	}
	t.Fatalf("%s %s has no status", kind, name)
	return nil
}

// TestAccessPolicyProblems: what is wrong is told with its field, and the policy, where
// it is known what it is attached to, refuses.
func TestAccessPolicyProblems(t *testing.T) {
	tests := []struct{ name, spec, field, message string }{
		{"mode", accessTarget + accessRule + "  mode: DryRun " + mark + "\n", "spec.mode", "use enforce, dryRun or audit"},
		{"no_rules", accessTarget + "  rules: [] " + mark + "\n", "spec.rules", "has no rules"},
		{"effect", accessTarget + "  rules:\n  - effect: block " + mark + "\n    when: 'true'\n", "spec.rules[0].effect", "use allow, deny or require"},
		{"no_effect", accessTarget + "  rules:\n  - when: 'true' " + mark + "\n", "spec.rules[0].effect", "is not an effect"},
		{"no_when", accessTarget + "  rules:\n  - effect: deny " + mark + "\n", "spec.rules[0].when", "the expression is empty"},
		{"when", accessTarget + "  rules:\n  - effect: deny\n    when: request.pth == 'a' " + mark + "\n", "spec.rules[0].when", "did you mean 'request.path'?"},
		{"not_bool", accessTarget + "  rules:\n  - effect: deny\n    when: request.path " + mark + "\n", "spec.rules[0].when", "where a bool is needed"},
		{"cost", accessTarget + "  rules:\n  - effect: deny\n    when: request.headers.all(a, request.headers.all(b, request.headers[a] != request.headers[b])) " + mark + "\n", "spec.rules[0].when", "units per request"},
		{"name", accessTarget + "  rules:\n  - effect: deny\n    when: 'true'\n    name: A b " + mark + "\n", "spec.rules[0].name", "is not a name"},
		{"names", accessTarget + "  rules:\n  - {name: a, effect: deny, when: 'true'}\n  - {name: a, effect: deny, when: 'true'} " + mark + "\n", "spec.rules[1].name", "rules[0] has the name"},
		{"unknown_field", accessTarget + accessRule + "  action: DENY " + mark + "\n", "spec.action", "unknown field"},
		{"type", accessTarget + "  rules:\n  - effect: deny\n    when: true " + mark + "\n", "spec.rules[0].when", "wants a string"},
		{"no_target", "  targetRefs: [] " + mark + "\n" + accessRule, "spec.targetRefs", "attached to nothing"},
		{"target_kind", "  targetRefs:\n  - group: apps\n    kind: Deployment " + mark + "\n    name: x\n" + accessRule, "spec.targetRefs[0].kind", "cannot be attached"},
		{"target_gone", "  targetRefs:\n  - {group: '', kind: Service, name: gone} " + mark + "\n" + accessRule, "spec.targetRefs[0].name", "does not exist"},
		{"target_port", "  targetRefs:\n  - {group: '', kind: Service, name: web, sectionName: x} " + mark + "\n" + accessRule, "spec.targetRefs[0].sectionName", "no TCP port"},
		{"target_twice", "  targetRefs:\n  - {group: '', kind: Service, name: web}\n  - {group: '', kind: Service, name: web} " + mark + "\n" + accessRule, "spec.targetRefs[1]", "targetRefs[0] again"},
	}
	var list []wrong
	for _, tt := range tests {
		list = append(list, wrong{tt.name, accessHead + tt.spec + "---\n" + strings.TrimPrefix(svc, "---\n"), "AccessPolicy default/p", tt.field, tt.message})
		if strings.HasPrefix(tt.name, "target") || tt.name == "no_target" {
			continue
		}
		res, _ := translate(t, "f.yaml", accessHead+tt.spec+"---\n"+strings.TrimPrefix(svc, "---\n"), object.Options{})
		if len(res.Parts.Access) != 1 || res.Parts.Access[0].Invalid == "" || len(res.Parts.Access[0].TargetRefs) != 1 {
			t.Errorf("%s: %+v, want an invalid policy of one target", tt.name, res.Parts.Access)
			continue
		}
		if s := statusOf(t, &res, "AccessPolicy", "p"); s.Good() {
			t.Errorf("%s: status %+v is good", tt.name, s)
		}
	}
	checkWrong(t, list)
}

// TestAuthorizationPolicyUnread: a policy of which a field cannot be read refuses, whatever the
// rest of it says.
func TestAuthorizationPolicyUnread(t *testing.T) {
	for _, spec := range []string{"{rules: [{from: [{source: {namespaces: a}}]}]}", "{rules: [{form: [{source: {namespaces: [a]}}]}]}", "{action: 3}"} {
		res, _ := translate(t, "f.yaml", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: "+spec+"\n", object.Options{})
		if len(res.Parts.Policies) != 1 || res.Parts.Policies[0].Invalid == "" {
			t.Errorf("%s: %+v, want it invalid", spec, res.Parts.Policies)
		}
	}
}

// TestAuthorizationActions: what each action and attribute becomes.
func TestAuthorizationActions(t *testing.T) {
	res, _ := translate(t, "f.yaml", `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p}
spec:
  action: AUDIT
  targetRefs: [{kind: Service, name: web}]
  rules:
  - from: [{source: {trustDomains: [cluster.local, other], notTrustDomains: [b], requestPrincipals: ["*"], notRequestPrincipals: [a/b]}}]
    when:
    - {key: "request.auth.claims[a][b]", values: [x]}
    - {key: request.auth.audiences, notValues: [x]}
---
`+svc, object.Options{TrustDomain: "td"})
	if len(res.Problems) > 0 {
		t.Fatal(res.Problems)
	}
	p := res.Parts.Policies[0]
	want := []mesh.AuthzRule{{
		From: []mesh.AuthzSource{{TrustDomains: []string{"td", "other"}, NotTrustDomains: []string{"b"}, RequestPrincipals: []string{"*"}, NotRequestPrincipals: []string{"a/b"}}},
		When: []mesh.AuthzCondition{{Key: "request.auth.claims[a][b]", Values: []string{"x"}}, {Key: "request.auth.audiences", NotValues: []string{"x"}}},
	}}
	if diff := cmp.Diff(want, p.Rules); diff != "" || p.Action != mesh.ActionAudit {
		t.Errorf("%s, -want +got:\n%s", p.Action, diff)
	}
	for _, key := range []string{"request.auth.claims", "request.auth.claims[]", "request.auth.claims[a", "request.auth.claims[a][]", "request.auth.claims[a]b", "request.auth.claimsx"} {
		res, _ := translate(t, "f.yaml", fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: {rules: [{when: [{key: %q, values: [a]}]}]}\n", key), object.Options{})
		if len(res.Problems) != 1 || res.Parts.Policies[0].Invalid == "" {
			t.Errorf("%s: %v, want one problem", key, res.Problems)
		}
	}
}

// The examples of docs/authorization.md are good, together.
func TestAuthorizationDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/authorization.md")
	if err != nil {
		t.Fatal(err)
	}
	docs := []string{"apiVersion: v1\nkind: Service\nmetadata: {name: reviews, namespace: shop}\nspec:\n  ports: [{name: http, port: 80}]\n"}
	for i, part := range strings.Split(string(text), "```yaml\n") {
		if i > 0 {
			example, _, _ := strings.Cut(part, "```")
			docs = append(docs, example)
		}
	}
	res, _ := translate(t, "authorization.md", strings.Join(docs, "---\n"), object.Options{})
	if len(res.Problems) > 0 {
		t.Error(res.Problems)
	}
	if p := res.Parts; len(p.Policies) != 2 || len(p.Access) != 2 {
		t.Errorf("%d AuthorizationPolicies and %d AccessPolicies, want 2 and 2", len(p.Policies), len(p.Access))
	}
	for _, k := range []string{"cairn_authz_dry_run_total", "cairn_authz_disagreements_total", "cairn_authz_audited_total"} {
		if !strings.Contains(string(text), k) {
			t.Errorf("nothing is said of %s", k)
		}
	}
}
