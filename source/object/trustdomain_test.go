package object_test

import (
	"slices"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/source/object"
	"github.com/google/go-cmp/cmp"
)

func aliases(list string) string {
	return "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    trustDomainAliases: " + list + "\n"
}

func sourcePolicy(source string) string {
	return "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec:\n  rules:\n  - from: [{source: {" + source + "}}]\n    when: [{key: source.principal, values: [td/ns/a/sa/w]}]\n"
}

// TestTrustDomainAliases: a policy that names the mesh under one of its names names it under all.
func TestTrustDomainAliases(t *testing.T) {
	tests := []struct {
		name, domain, aliases, in string
		want                      []string
	}{
		{"own", "td", "[old, older]", "td/ns/a/sa/b", []string{"td/ns/a/sa/b", "old/ns/a/sa/b", "older/ns/a/sa/b"}},
		{"alias", "td", "[old, older]", "older/ns/a/sa/b", []string{"td/ns/a/sa/b", "old/ns/a/sa/b", "older/ns/a/sa/b"}},
		{"default_name", "td", "[old]", "cluster.local/ns/a/sa/b", []string{"td/ns/a/sa/b", "old/ns/a/sa/b"}},
		{"no_aliases", "td", "[]", "cluster.local/ns/a/sa/b", []string{"td/ns/a/sa/b"}},
		{"default_mesh", "", "[old]", "cluster.local/ns/a/sa/b", []string{"cluster.local/ns/a/sa/b", "old/ns/a/sa/b"}},
		{"default_mesh_alone", "", "[]", "cluster.local/ns/a/sa/b", []string{"cluster.local/ns/a/sa/b"}},
		{"own_as_alias", "td", "[td, td]", "td/ns/a/sa/b", []string{"td/ns/a/sa/b"}},
		{"foreign", "td", "[old]", "evil/ns/a/sa/b", []string{"evil/ns/a/sa/b"}},
		{"beginning_only", "td", "[old]", "tdx/ns/a/sa/b", []string{"tdx/ns/a/sa/b"}},
		{"prefix", "td", "[old]", "old/ns/a/*", []string{"td/ns/a/*", "old/ns/a/*"}},
		{"any", "td", "[old]", "*", []string{"*"}},
		{"suffix", "td", "[old]", "*/sa/b", []string{"*/sa/b"}},
		{"suffix_in_domain", "my-td", "[old]", "*-td/ns/a/sa/b", []string{"*-td/ns/a/sa/b", "my-td/ns/a/sa/b", "old/ns/a/sa/b"}},
		{"suffix_of_others", "td", "[old]", "*-x/ns/a/sa/b", []string{"*-x/ns/a/sa/b"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := sourcePolicy("principals: ['"+tt.in+"'], notPrincipals: ['"+tt.in+"']") + aliases(tt.aliases)
			res, _ := translate(t, "f.yaml", text, object.Options{TrustDomain: tt.domain})
			if len(res.Problems) > 0 {
				t.Fatal(res.Problems)
			}
			s := res.Parts.Policies[0].Rules[0].From[0]
			if diff := cmp.Diff(tt.want, s.Principals); diff != "" {
				t.Errorf("principals (-want +got):\n%s", diff)
			}
			if !slices.Equal(s.NotPrincipals, s.Principals) {
				t.Errorf("notPrincipals %q", s.NotPrincipals)
			}
		})
	}
	res, _ := translate(t, "f.yaml", sourcePolicy("trustDomains: [old, x], notTrustDomains: [y]")+aliases("[old, new]"), object.Options{TrustDomain: "td"})
	r := res.Parts.Policies[0].Rules[0]
	if s := r.From[0]; !slices.Equal(s.TrustDomains, []string{"td", "old", "new", "x"}) || !slices.Equal(s.NotTrustDomains, []string{"y"}) {
		t.Errorf("trust domains %q, %q", s.TrustDomains, s.NotTrustDomains)
	}
	if got := r.When[0].Values; !slices.Equal(got, []string{"td/ns/a/sa/w", "old/ns/a/sa/w", "new/ns/a/sa/w"}) {
		t.Errorf("source.principal %q", got)
	}
	if got := res.Parts.TrustDomainAliases; !slices.Equal(got, []string{"old", "new"}) {
		t.Errorf("TrustDomainAliases = %q", got)
	}
	for _, bad := range []string{"['']", "['*']", "[a/b]", "['spiffe://a']", "[" + strings.Repeat("x, ", 40) + "y]"} {
		res, _ := translate(t, "f.yaml", aliases(bad), object.Options{})
		if len(res.Problems) != 1 || !strings.HasPrefix(res.Problems[0].Field, "data.mesh.trustDomainAliases") {
			t.Errorf("%s: problems %v, want one", bad, res.Problems)
		}
	}
}

// TestPeerAuthenticationNotes: what does not count is told.
func TestPeerAuthenticationNotes(t *testing.T) {
	peer := func(ns, name, created, spec string) string {
		return "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: " + name + ", namespace: " + ns + created + "}\nspec: {" + spec + "}\n"
	}
	strict, selected := "mtls: {mode: STRICT}", "selector: {matchLabels: {a: b}}"
	tests := []struct{ name, text, want string }{
		{"one", peer("a", "p", "", strict), ""},
		{"two_levels", peer("a", "p", "", strict) + peer("istio-system", "p", "", strict) + peer("a", "q", "", selected), ""},
		{"by_name", peer("a", "p", "", strict) + peer("a", "o", "", strict), "a/o, and not a/p"},
		{"by_age", peer("a", "p", ", creationTimestamp: '2026-01-02T00:00:00Z'", strict) + peer("a", "q", ", creationTimestamp: '2026-01-01T00:00:00Z'", strict), "a/q, and not a/p"},
		{"root_selector", peer("istio-system", "p", "", selected), "has no effect"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, _ := translate(t, "f.yaml", tt.text, object.Options{})
			if len(res.Problems) > 0 {
				t.Fatal(res.Problems)
			}
			switch {
			case tt.want == "" && len(res.Notices) > 0:
				t.Errorf("notices %v", res.Notices)
			case tt.want != "" && (len(res.Notices) != 1 || !strings.Contains(res.Notices[0].String(), tt.want)):
				t.Errorf("notices %v, want one with %q", res.Notices, tt.want)
			}
		})
	}
}
