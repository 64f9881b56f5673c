package router

import (
	"fmt"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

func benchRules(n int, match func(i int) mesh.RouteMatch) []Rule[int] {
	rules := make([]Rule[int], n)
	for i := range rules {
		rules[i] = Rule[int]{Rule: i, Matches: []mesh.RouteMatch{match(i)}, Value: i}
	}
	return rules
}

func BenchmarkMatch(b *testing.B) {
	kinds := []struct {
		name  string
		match func(i int) mesh.RouteMatch
	}{
		{"exact", func(i int) mesh.RouteMatch { return exact(fmt.Sprintf("/service/v1/item-%d", i)) }},
		{"header", func(i int) mesh.RouteMatch { return withHeader(prefix("/"), "x-tenant", fmt.Sprintf("t-%d", i)) }},
		{"regex", func(i int) mesh.RouteMatch { return regex(fmt.Sprintf("/service/v1/item-%d(/.*)?", i)) }},
		{"prefix", func(i int) mesh.RouteMatch { return prefix(fmt.Sprintf("/service/v1/item-%d", i)) }},
	}
	for _, k := range kinds {
		for _, n := range []int{10, 100, 1000, 10000} {
			b.Run(fmt.Sprintf("%s/%d", k.name, n), func(b *testing.B) {
				table, errs := New(benchRules(n, k.match))
				if len(errs) != 0 {
					b.Fatal(errs)
				}
				req := get(fmt.Sprintf("/service/v1/item-%d", n-1), mesh.Field{Name: "x-tenant", Value: fmt.Sprintf("t-%d", n-1)})
				var how Match
				b.ReportAllocs()
				for b.Loop() {
					if v, ok := table.Match(req, &how); !ok || v != n-1 {
						b.Fatal("no match")
					}
				}
			})
		}
	}
}

func BenchmarkConditions(b *testing.B) {
	m := withQuery(withHeader(withMethod(prefix("/api"), "GET"), "x-user", "jason"), "v", "2")
	table, _ := New([]Rule[int]{{Matches: []mesh.RouteMatch{m}}, {Rule: 1}})
	req := get("/api/users?x=1&v=2",
		mesh.Field{Name: "user-agent", Value: "curl/8"}, mesh.Field{Name: "accept", Value: "*/*"},
		mesh.Field{Name: "x-request-id", Value: "8f6c"}, mesh.Field{Name: "x-user", Value: "jason"})
	var how Match
	b.ReportAllocs()
	for b.Loop() {
		if v, _ := table.Match(req, &how); v != 0 {
			b.Fatal("wrong rule")
		}
	}
}

// BenchmarkRegex shows what one expression costs, and that they add up.
func BenchmarkRegex(b *testing.B) {
	for _, n := range []int{1, 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			table, _ := New(benchRules(n, func(i int) mesh.RouteMatch { return regex(fmt.Sprintf("/re-%d/[^/]+", i)) }))
			req := get(fmt.Sprintf("/re-%d/abc", n-1))
			var how Match
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := table.Match(req, &how); !ok {
					b.Fatal("no match")
				}
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	rules := benchRules(10000, func(i int) mesh.RouteMatch { return prefix(fmt.Sprintf("/service/v1/item-%d", i)) })
	b.ReportAllocs()
	for b.Loop() {
		New(rules)
	}
}

// TestNoAllocation holds the promise of the package comment.
func TestNoAllocation(t *testing.T) {
	table := mustTable(t,
		rule("a", withQuery(withHeader(withMethod(prefix("/api"), "GET"), "x-user", "jason"), "v", "2 3")),
		rule("b", regex("/re/[a-z]+")),
		rule("c", exact("/exact")))
	for _, target := range []string{"/api/x?v=2%203", "/re/abc", "/exact", "/nothing"} {
		req := get(target, mesh.Field{Name: "x-user", Value: "jason"})
		var how Match
		if n := testing.AllocsPerRun(100, func() { table.Match(req, &how) }); n != 0 {
			t.Errorf("Match(%q) allocates %v times, want 0", target, n)
		}
	}
}
