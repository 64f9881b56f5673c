package policy

import (
	"fmt"
	"syscall"
	"testing"
	"time"

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
	one := []*mesh.AuthorizationPolicy{policyOf(mesh.ActionAllow, mesh.AuthzRule{
		From: []mesh.AuthzSource{{Principals: []string{"cluster.local/ns/client/sa/curl"}}},
		To:   []mesh.AuthzOperation{{Methods: []string{"GET"}, Paths: []string{"/reviews/*"}}},
	})}
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
		"none": CompileL7(nil), "typical": CompileL7(typical), "rule1": CompileL7(one), "rules10x10": CompileL7(tenByTen()), "lists1000": CompileL7(thousands("")), "prefixes1000": CompileL7(thousands("/*")),
		"rules10": CompileL7(many(10)), "rules100": CompileL7(many(100)), "rules1000": CompileL7(many(1000)), "paths1000": CompileL7(pathRules(1000)),
		"access1":   Compile(Attached{Access: []*mesh.AccessPolicy{access(mesh.ModeEnforce, allowIf("source.namespace == 'client' && request.method == 'GET' && request.url_path.startsWith('/reviews/')"))}}),
		"access200": Compile(Attached{Access: []*mesh.AccessPolicy{accessRules(200)}}),
	}
}

// tenByTen is ten policies of ten rules, of which the last matches.
func tenByTen() (list []*mesh.AuthorizationPolicy) {
	for i := range 10 {
		p := policyOf(mesh.ActionAllow)
		for j := range 10 {
			p.Rules = append(p.Rules, mesh.AuthzRule{
				From: []mesh.AuthzSource{{Principals: []string{fmt.Sprintf("cluster.local/ns/client/sa/s%d", 10*i+j)}}, {Namespaces: []string{fmt.Sprintf("n%d", j)}}},
				To:   []mesh.AuthzOperation{{Methods: []string{"GET"}, Paths: []string{fmt.Sprintf("/svc%d/*", 10*i+j)}}},
			})
		}
		if i == 9 {
			p.Rules[9] = from(mesh.AuthzSource{Principals: []string{"cluster.local/ns/client/sa/curl"}})
		}
		list = append(list, p)
	}
	return list
}

// thousands is one rule of 1,000 principals and 1,000 paths.
func thousands(star string) []*mesh.AuthorizationPolicy {
	var principals, paths []string
	for i := range 999 {
		principals, paths = append(principals, fmt.Sprintf("cluster.local/ns/n%d/sa/s", i)), append(paths, fmt.Sprintf("/api/v1/resource%d%s", i, star))
	}
	if star != "" {
		star = "/reviews/*"
	} else {
		star = "/reviews/7"
	}
	return []*mesh.AuthorizationPolicy{policyOf(mesh.ActionAllow, mesh.AuthzRule{
		From: []mesh.AuthzSource{{Principals: append(principals, "cluster.local/ns/client/sa/curl")}},
		To:   []mesh.AuthzOperation{{Paths: append(paths, star)}},
	})}
}

// pathRules is n rules of a path each, for the same client.
func pathRules(n int) []*mesh.AuthorizationPolicy {
	p := policyOf(mesh.ActionAllow)
	for i := range n {
		path := fmt.Sprintf("/api/v1/resource%d/*", i)
		if i == n-1 {
			path = "/reviews/*"
		}
		p.Rules = append(p.Rules, mesh.AuthzRule{From: []mesh.AuthzSource{{Namespaces: []string{"client"}}}, To: []mesh.AuthzOperation{{Paths: []string{path}, Methods: []string{"GET"}}}})
	}
	return []*mesh.AuthorizationPolicy{p}
}

func accessRules(n int) *mesh.AccessPolicy {
	p := access(mesh.ModeEnforce)
	for i := range n - 1 {
		p.Rules = append(p.Rules, allowIf(fmt.Sprintf("source.principal == 'cluster.local/ns/n%d/sa/s' && request.method == 'GET'", i)))
	}
	p.Rules = append(p.Rules, allowIf("source.namespace == 'client' && request.headers['x-token'] == 'admin'"))
	return p
}

func benchRequest() *mesh.Request {
	return request("GET", "/reviews/7",
		mesh.Field{Name: "user-agent", Value: "curl/8"}, mesh.Field{Name: "accept", Value: "*/*"},
		mesh.Field{Name: "x-request-id", Value: "8f6c"}, mesh.Field{Name: "x-token", Value: "admin"})
}

func BenchmarkL7(b *testing.B) {
	sets, r := benchSets(), benchRequest()
	for _, name := range []string{"none", "typical", "rule1", "rules10x10", "lists1000", "prefixes1000", "rules10", "rules100", "rules1000", "paths1000", "access1", "access200"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			began := cpuTime()
			for b.Loop() {
				if v := sets[name].Decide(r); !v.Allowed {
					b.Fatal(v)
				}
			}
			b.ReportMetric(float64(b.N)/(cpuTime()-began).Seconds(), "decisions/cpu-s")
		})
	}
}

// cpuTime is what the process has used: the clock on the wall tells little on a busy machine.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
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
		if l.l4.set.cel {
			continue // one request to stand for a connection's
		}
		f := conn("client", "curl")
		if n := testing.AllocsPerRun(100, func() { l.DecideL4(f) }); n != 0 {
			t.Errorf("DecideL4 of %s allocates %v times, want 0", name, n)
		}
	}
	watching := Compile(Attached{Access: []*mesh.AccessPolicy{access(mesh.ModeDryRun, denyIf("request.method == 'GET'")), access(mesh.ModeAudit, denyIf("request.method == 'GET'"))}})
	said := 0
	if n := testing.AllocsPerRun(100, func() { watching.DecideAnd(Input{Req: r}, func(int, Outcome) { said++ }) }); n != 0 || said == 0 {
		t.Errorf("DecideAnd allocates %v times, want 0; %d outcomes", n, said)
	}
}
