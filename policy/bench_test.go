package policy

import (
	"fmt"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

func benchSets() map[string]*L7 {
	typical := []*mesh.AuthorizationPolicy{
		policyOf(mesh.ActionDeny, mesh.AuthzRule{
			From: []mesh.AuthzSource{{NotNamespaces: []string{"client"}}},
			To:   []mesh.AuthzOperation{{Paths: []string{"/admin*"}, Methods: []string{"POST"}}},
		}),
		policyOf(mesh.ActionAllow, mesh.AuthzRule{
			From: []mesh.AuthzSource{{Principals: []string{"cluster.local/ns/client/sa/curl"}}},
			To:   []mesh.AuthzOperation{{Methods: []string{"GET", "HEAD"}, Paths: []string{"/reviews/*"}, Hosts: []string{"reviews.example.com"}}},
			When: []mesh.AuthzCondition{{Key: "request.headers[x-token]", Values: []string{"admin"}}},
		}),
	}
	many := func(n int) []*mesh.AuthorizationPolicy {
		var rules []mesh.AuthzRule
		for i := range n - 1 {
			rules = append(rules, mesh.AuthzRule{
				From: []mesh.AuthzSource{{Principals: []string{fmt.Sprintf("cluster.local/ns/n%d/sa/s", i)}}},
				To:   []mesh.AuthzOperation{{Methods: []string{"GET"}}},
			})
		}
		return []*mesh.AuthorizationPolicy{policyOf(mesh.ActionAllow, append(rules, from(mesh.AuthzSource{Namespaces: []string{"client"}}))...)}
	}
	return map[string]*L7{
		"none": CompileL7(nil), "typical": CompileL7(typical),
		"rules10": CompileL7(many(10)), "rules100": CompileL7(many(100)), "rules1000": CompileL7(many(1000)),
	}
}

func benchRequest() *mesh.Request {
	return request("GET", "/reviews/7",
		mesh.Field{Name: "user-agent", Value: "curl/8"}, mesh.Field{Name: "accept", Value: "*/*"},
		mesh.Field{Name: "x-request-id", Value: "8f6c"}, mesh.Field{Name: "x-token", Value: "admin"})
}

func BenchmarkL7(b *testing.B) {
	sets, r := benchSets(), benchRequest()
	for _, name := range []string{"none", "typical", "rules10", "rules100", "rules1000"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if v := sets[name].Decide(r); !v.Allowed {
					b.Fatal(v)
				}
			}
		})
	}
}

func BenchmarkL4(b *testing.B) {
	l := compileAll(nil,
		global("strict", mesh.ActionDeny, one(mesh.L4Match{NotPrincipals: str("*")})),
		global("allow", mesh.ActionAllow, one(mesh.L4Match{Namespaces: str("client"), DestinationPorts: []uint16{9080}})))
	f := conn("client", "curl")
	b.ReportAllocs()
	for b.Loop() {
		if v := l.Decide(f); !v.Allowed {
			b.Fatal(v)
		}
	}
}

func BenchmarkCompileL4(b *testing.B) {
	var p mesh.Parts
	for i := range 1000 {
		p.Policies = append(p.Policies, &mesh.AuthorizationPolicy{Name: name(fmt.Sprint("ns", i), "p"), Rules: []mesh.AuthzRule{{}}})
	}
	s := mesh.NewSnapshot(1, p)
	w := &mesh.Workload{Namespace: "ns7"}
	b.ReportAllocs()
	for b.Loop() {
		CompileL4(s, w)
	}
}

// TestNoAllocation holds the promise of the package comment.
func TestNoAllocation(t *testing.T) {
	r := benchRequest()
	for name, l := range benchSets() {
		if n := testing.AllocsPerRun(100, func() { l.Decide(r) }); n != 0 {
			t.Errorf("Decide of %s allocates %v times, want 0", name, n)
		}
		f := conn("client", "curl")
		if n := testing.AllocsPerRun(100, func() { l.DecideL4(f) }); n != 0 {
			t.Errorf("DecideL4 of %s allocates %v times, want 0", name, n)
		}
	}
}
