package authz

import (
	"testing"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
)

func deletes(dryRun bool) *Policies {
	return policy.CompileL7([]*mesh.AuthorizationPolicy{{
		Name: mesh.Name{Namespace: "ns", Name: "p"}, Action: mesh.ActionDeny, DryRun: dryRun,
		Rules: []mesh.AuthzRule{{To: []mesh.AuthzOperation{{Methods: []string{"DELETE"}}}}},
	}})
}

func run(t *testing.T, p *Policies, method string) (filters.Result, *filters.Exchange) {
	t.Helper()
	c, err := filters.Compile([]filters.Spec{Spec(p)}, filters.BuildContext{})
	if err != nil {
		t.Fatal(err)
	}
	x := &filters.Exchange{Req: &mesh.Request{Method: method, Path: "/"}}
	r, _ := c.Request(x, 0)
	return r, x
}

func TestDenial(t *testing.T) {
	r, x := run(t, deletes(false), "DELETE")
	if r != filters.Replied || x.Reply.Status != 403 || x.Reply.Body != "RBAC: access denied" || x.Reply.Flag != "" ||
		x.Reply.Details != "rbac_access_denied_matched_policy[ns[ns]-policy[p]-rule[0]]" {
		t.Errorf("DELETE: %v, %+v", r, x.Reply)
	}
	if r, _ := run(t, deletes(false), "GET"); r != filters.Continue {
		t.Errorf("GET: %v", r)
	}
}

func TestDryRun(t *testing.T) {
	r, x := run(t, deletes(true), "DELETE")
	if r != filters.Continue || x.Noted() == nil || x.Noted().WouldDeny.Name != "p" {
		t.Errorf("DELETE: %v, %+v", r, x.Noted())
	}
	if r, x := run(t, deletes(true), "GET"); r != filters.Continue || x.Noted() != nil {
		t.Errorf("GET: %v, %+v", r, x.Noted())
	}
}

func TestSteps(t *testing.T) {
	tests := []struct {
		name  string
		p     *Policies
		level filters.Level
		want  int
	}{
		{"service", deletes(false), filters.LevelService, 1},
		{"rule", deletes(false), filters.LevelRule, 0},
		{"backend", deletes(false), filters.LevelBackend, 0},
		{"no_policies", policy.CompileL7(nil), filters.LevelService, 0},
		{"nil_refuses", nil, filters.LevelService, 1},
	}
	for _, tt := range tests {
		c, err := filters.Compile([]filters.Spec{Spec(tt.p)}, filters.BuildContext{Level: tt.level})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(c); n != tt.want {
			t.Errorf("%s: %d steps, want %d", tt.name, n, tt.want)
		}
	}
	if r, _ := run(t, nil, "GET"); r != filters.Replied {
		t.Errorf("without policies compiled: %v, want a refusal", r)
	}
}
