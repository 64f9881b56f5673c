package authz

import (
	"strings"
	"testing"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
	"github.com/google/go-cmp/cmp"
)

func deletes(dryRun bool) *Policies {
	return policy.CompileL7([]*mesh.AuthorizationPolicy{{
		Name: mesh.Name{Namespace: "ns", Name: "p"}, Action: mesh.ActionDeny, DryRun: dryRun,
		Rules: []mesh.AuthzRule{{To: []mesh.AuthzOperation{{Methods: []string{"DELETE"}}}}},
	}})
}

func run(t *testing.T, p *Policies, method string) (filters.Result, *filters.Exchange) {
	t.Helper()
	c, err := filters.Compile([]filters.Spec{Spec(p, nil)}, filters.BuildContext{})
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
		{"rule", deletes(false), filters.LevelRule, 1},
		{"backend", deletes(false), filters.LevelBackend, 0},
		{"no_policies", policy.CompileL7(nil), filters.LevelService, 0},
		{"nil_refuses", nil, filters.LevelService, 1},
	}
	for _, tt := range tests {
		c, err := filters.Compile([]filters.Spec{Spec(tt.p, nil)}, filters.BuildContext{Level: tt.level})
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

// series counts the counters of a test by what stands in them.
type series map[string]int

type seriesCounter struct {
	s   series
	key string
}

func (c seriesCounter) Inc() { c.s[c.key]++ }

func TestWatched(t *testing.T) {
	got := series{}
	r := NewRegistry(func(metric string, p Watched, label, value string) Counter {
		return seriesCounter{got, strings.TrimPrefix(metric, "cairn_authz_") + " " + p.Kind + " " + p.Name.String() + " " + label + "=" + value}
	})
	policies := func() *Policies {
		name := func(n string) mesh.Name { return mesh.Name{Namespace: "ns", Name: n} }
		return policy.Compile(policy.Attached{
			Authorization: []*mesh.AuthorizationPolicy{{Name: name("log"), Action: mesh.ActionAudit, Rules: []mesh.AuthzRule{{To: []mesh.AuthzOperation{{Methods: []string{"PUT"}}}}}}},
			Access: []*mesh.AccessPolicy{
				{Name: name("v1"), Rules: []mesh.AccessRule{{When: "request.method in ['GET', 'PUT']"}}},
				{Name: name("v2"), Mode: mesh.ModeDryRun, Rules: []mesh.AccessRule{{When: "request.method in ['GET', 'POST']"}}},
				{Name: name("v3"), Mode: mesh.ModeDryRun, Rules: []mesh.AccessRule{{When: "request.method in ['PUT', 'POST']"}}},
			},
		})
	}
	for _, tt := range []struct {
		method               string
		deny, allow, audited string
		refused              bool
	}{
		{"GET", "v3", "", "", false},
		{"PUT", "v2", "", "log", false},
		{"POST", "", "v2", "", true},
		{"DELETE", "", "", "", true},
	} {
		c, err := filters.Compile([]filters.Spec{Spec(policies(), r)}, filters.BuildContext{}) // each time anew: counters outlive it
		if err != nil {
			t.Fatal(err)
		}
		x := &filters.Exchange{Req: &mesh.Request{Method: tt.method, Path: "/"}}
		result, _ := c.Request(x, 0)
		n := x.Noted()
		if n == nil {
			n = &filters.Notes{}
		}
		if (result == filters.Replied) != tt.refused || n.WouldDeny.Name != tt.deny || n.WouldAllow.Name != tt.allow || n.Audited.Name != tt.audited {
			t.Errorf("%s: %v, %+v", tt.method, result, n)
		}
	}
	want := series{
		"dry_run_total AccessPolicy ns/v2 verdict=allowed": 2, "dry_run_total AccessPolicy ns/v2 verdict=denied": 2,
		"dry_run_total AccessPolicy ns/v3 verdict=allowed": 2, "dry_run_total AccessPolicy ns/v3 verdict=denied": 2,
		"disagreements_total AccessPolicy ns/v2 would=deny": 1, "disagreements_total AccessPolicy ns/v2 would=allow": 1,
		"disagreements_total AccessPolicy ns/v3 would=deny": 1, "disagreements_total AccessPolicy ns/v3 would=allow": 1,
		"audited_total AuthorizationPolicy ns/log =": 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestWatchingAllocation: what is watched costs no memory where nothing is noted.
func TestWatchingAllocation(t *testing.T) {
	p := policy.Compile(policy.Attached{Access: []*mesh.AccessPolicy{{Mode: mesh.ModeDryRun, Rules: []mesh.AccessRule{{When: "request.method == 'GET'"}}}}})
	c, err := filters.Compile([]filters.Spec{Spec(p, nil)}, filters.BuildContext{})
	if err != nil {
		t.Fatal(err)
	}
	x := &filters.Exchange{Req: &mesh.Request{Method: "GET", Path: "/"}}
	if n := testing.AllocsPerRun(100, func() { c.Request(x, 0) }); n != 0 {
		t.Errorf("a request allocates %v times, want 0", n)
	}
}
