package authz

import (
	"net/netip"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
	"github.com/google/go-cmp/cmp"
)

// TestConnection: connections are judged and counted as requests are.
func TestConnection(t *testing.T) {
	got := series{}
	r := NewRegistry(func(metric string, p Watched, label, value string) Counter {
		return seriesCounter{got, strings.TrimPrefix(metric, "cairn_authz_") + " " + p.Name.Name + " " + label + "=" + value}
	})
	from := func(name string, action mesh.Action, dry bool, namespaces ...string) *mesh.AuthorizationPolicy {
		return &mesh.AuthorizationPolicy{
			Name: mesh.Name{Namespace: "ns", Name: name}, Action: action, DryRun: dry,
			Rules: []mesh.AuthzRule{{From: []mesh.AuthzSource{{Namespaces: namespaces}}}},
		}
	}
	l := policy.Compile(policy.Attached{
		Authorization: []*mesh.AuthorizationPolicy{from("force", mesh.ActionAllow, false, "a", "b"), from("try", mesh.ActionAllow, true, "b", "c"), from("log", mesh.ActionAudit, false, "a")},
		Access:        []*mesh.AccessPolicy{{Name: mesh.Name{Namespace: "ns", Name: "cel"}, Mode: mesh.ModeDryRun, Rules: []mesh.AccessRule{{Effect: mesh.AccessDeny, When: "source.namespace == 'b'"}}}},
	}).Connections()
	for _, tt := range []struct {
		namespace string
		allowed   bool
		told      string
	}{
		{"a", true, "denied by ns/try, audited by ns/log"}, {"b", true, "denied by ns/cel"}, {"c", false, "allowed by ns/try"}, {"d", false, ""},
	} {
		in := policy.L4Facts{Peer: mesh.Identity{TrustDomain: "td", Namespace: tt.namespace, ServiceAccount: "x"}, Source: netip.MustParseAddr("10.0.0.1")}
		v, told := r.Connection(l, in)
		if v.Allowed != tt.allowed || told != tt.told {
			t.Errorf("%s: %+v, %q, want allowed %v, %q", tt.namespace, v, told, tt.allowed, tt.told)
		}
		var nobody *Registry
		if v, again := nobody.Connection(l, in); v.Allowed != tt.allowed || again != told {
			t.Errorf("%s, uncounted: %+v, %q", tt.namespace, v, again)
		}
	}
	want := series{
		"audited_total log =": 1, "dry_run_total try verdict=denied": 2, "dry_run_total try verdict=allowed": 2,
		"disagreements_total try would=deny": 1, "disagreements_total try would=allow": 1,
		"dry_run_total cel verdict=denied": 1, "disagreements_total cel would=deny": 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if v, _ := r.Connection(nil, policy.L4Facts{}); v.Allowed {
		t.Error("policies that were never compiled allow")
	}
}

func BenchmarkConnection(b *testing.B) {
	b.ReportAllocs()
	r := NewRegistry(func(string, Watched, string, string) Counter { return no{} })
	for _, dry := range []bool{false, true} {
		l := policy.CompileL7([]*mesh.AuthorizationPolicy{{Action: mesh.ActionDeny, DryRun: dry, Rules: []mesh.AuthzRule{{From: []mesh.AuthzSource{{Namespaces: []string{"a"}}}}}}}).Connections()
		in := policy.L4Facts{Peer: mesh.Identity{TrustDomain: "td", Namespace: "b", ServiceAccount: "x"}}
		in.Principal = in.Peer.Principal()
		b.Run(map[bool]string{false: "in_force", true: "dry_run"}[dry], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.Connection(l, in)
			}
		})
	}
}
