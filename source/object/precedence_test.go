package object_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/router"
	"cairnproxy.dev/cairn/source/object"
)

// grpcRule is a rule of a GRPCRoute as the specification looks at it.
type grpcRule struct {
	route, created int
	index          int
	matches        []grpcMatch
}

type grpcMatch struct {
	regex           bool
	service, method string
	headers         [][2]string
}

// takes is the specification: GRPCRouteMatch, word by word.
func (m grpcMatch) takes(service, method string, headers map[string]string) bool {
	agrees := func(pattern, got string) bool {
		if m.regex {
			return pattern == "" || regexp.MustCompile(`\A(?:`+pattern+`)\z`).MatchString(got)
		}
		return pattern == "" || pattern == got
	}
	for _, h := range m.headers {
		if headers[h[0]] != h[1] {
			return false
		}
	}
	return agrees(m.service, service) && agrees(m.method, method)
}

// first is the rule that GRPCRouteRule.Matches orders first: exact names before expressions
// (which it leaves open), then the characters of the service, those of the method, and headers; then
// the older route, its name, and the rule's place.
func first(rules []grpcRule, service, method string, headers map[string]string) string {
	type hit struct {
		rule  *grpcRule
		match grpcMatch
	}
	var hits []hit
	for i := range rules {
		for _, m := range rules[i].matches {
			if m.takes(service, method, headers) {
				hits = append(hits, hit{&rules[i], m})
			}
		}
		if len(rules[i].matches) == 0 {
			hits = append(hits, hit{&rules[i], grpcMatch{}})
		}
	}
	if len(hits) == 0 {
		return ""
	}
	rank := func(m grpcMatch) int {
		if m.regex || m.service == "" && m.method != "" {
			return 1
		}
		if m.service == "" {
			return 2
		}
		return 0
	}
	slices.SortStableFunc(hits, func(a, b hit) int {
		return cmp.Or(
			cmp.Compare(rank(a.match), rank(b.match)),
			cmp.Compare(len(b.match.service), len(a.match.service)), cmp.Compare(len(b.match.method), len(a.match.method)),
			cmp.Compare(len(b.match.headers), len(a.match.headers)),
			cmp.Compare(a.rule.created, b.rule.created), cmp.Compare(a.rule.route, b.rule.route), cmp.Compare(a.rule.index, b.rule.index),
		)
	})
	return fmt.Sprintf("r%d/%d", hits[0].rule.route, hits[0].rule.index)
}

// The order in which the router meets the rules of several GRPCRoutes on one service, once they are
// translated, is the specification's.
func TestGRPCPrecedence(t *testing.T) {
	for seed := range uint64(120) {
		r := rand.New(rand.NewPCG(seed, 7))
		of := func(list ...string) string { return list[r.IntN(len(list))] }
		var rules []grpcRule
		var text strings.Builder
		for route := range 1 + r.IntN(4) {
			created := r.IntN(3)
			fmt.Fprintf(&text, "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: r%d, creationTimestamp: %q}\nspec:\n  parentRefs: [{group: '', kind: Service, name: web}]\n  rules:\n",
				route, time.Unix(int64(created), 0).UTC().Format(time.RFC3339))
			for index := range 1 + r.IntN(4) {
				rule := grpcRule{route: route, created: created, index: index}
				var matches []string
				for range r.IntN(4) {
					m := grpcMatch{service: of("", "a", "a.b", "abc", "b"), method: of("", "Get", "Put", "G")}
					if m.service == "" && m.method == "" {
						m = grpcMatch{}
					} else if r.IntN(3) == 0 {
						m = grpcMatch{true, of("a|b", "a.*", ".*", "abc?"), of("", "G.*", "Get|Put", "[A-Z]"), nil}
						if r.IntN(4) == 0 {
							m.service, m.method = "", of("G.*", "Get|Put")
						}
					}
					for _, h := range []string{"x", "y"}[:r.IntN(3)] {
						m.headers = append(m.headers, [2]string{h, of("1", "2")})
					}
					rule.matches = append(rule.matches, m)
					matches = append(matches, m.yaml())
				}
				rules = append(rules, rule)
				fmt.Fprintf(&text, "  - matches: [%s]\n    backendRefs: [{name: web, port: 80}]\n", strings.Join(matches, ", "))
			}
		}
		table := tableOf(t, text.String()+svc+waypoint+served)
		for range 60 {
			service, method := of("a", "a.b", "abc", "b", "c"), of("Get", "Put", "G", "X")
			headers := map[string]string{"x": of("", "1", "2"), "y": of("", "1", "2")}
			req := &mesh.Request{Method: "POST", Path: "/" + service + "/" + method}
			for _, n := range []string{"x", "y"} {
				if headers[n] != "" {
					req.Fields.Add(n, headers[n])
				}
			}
			var how router.Match
			got, _ := table.Match(req, &how)
			if want := first(rules, service, method, headers); got != want {
				t.Fatalf("seed %d: %s %v goes to %q, want %q, of\n%s", seed, req.Path, req.Fields, got, want, &text)
			}
		}
	}
}

// yaml writes the match.
func (m grpcMatch) yaml() string {
	var parts []string
	if m.service != "" || m.method != "" {
		typ := "Exact"
		if m.regex {
			typ = "RegularExpression"
		}
		s := "method: {type: " + typ
		if m.service != "" {
			s += fmt.Sprintf(", service: %q", m.service)
		}
		if m.method != "" {
			s += fmt.Sprintf(", method: %q", m.method)
		}
		parts = append(parts, s+"}")
	}
	if len(m.headers) > 0 {
		var list []string
		for _, h := range m.headers {
			list = append(list, fmt.Sprintf("{name: %s, value: %q}", h[0], h[1]))
		}
		parts = append(parts, "headers: ["+strings.Join(list, ", ")+"]")
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// tableOf makes one table of all routes that are attached to Service web.
func tableOf(t *testing.T, text string) *router.Table[string] {
	t.Helper()
	res, _ := translate(t, "f.yaml", text, object.Options{})
	if len(res.Problems) > 0 {
		t.Fatalf("%v in\n%s", res.Problems, text)
	}
	var rules []router.Rule[string]
	for _, a := range res.Parts.Attachments {
		rules = append(rules, router.Rule[string]{
			Object: a.Route.Object, Created: a.Route.Created, Rule: a.Route.Rule, Hostnames: a.Route.Hostnames, Matches: a.Route.Matches,
			Value: fmt.Sprintf("%s/%d", a.Route.Object.Name, a.Route.Rule),
		})
	}
	table, errs := router.New(rules)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return table
}

// Several HTTPRoutes on one Service are one list: the criteria of HTTPRouteRule.Matches go across
// them before their age does.
func TestHTTPPrecedenceAcrossRoutes(t *testing.T) {
	route := func(name, created string, matches ...string) string {
		text := fmt.Sprintf("---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: %s, creationTimestamp: %q}\nspec:\n  parentRefs: [{group: '', kind: Service, name: web}]\n  rules:\n", name, created)
		for _, m := range matches {
			text += "  - matches: [" + m + "]\n    backendRefs: [{name: web, port: 80}]\n"
		}
		return text
	}
	const old, young = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
	table := tableOf(t, route("old", old, "{path: {value: /}}", "{path: {value: /a}}", "{path: {value: /a}, headers: [{name: x, value: '1'}]}", "{path: {value: /same}}", "{path: {value: /q}, queryParams: [{name: q, value: '1'}]}")+
		route("young", young, "{path: {value: /a/b}}", "{path: {type: Exact, value: /a}}", "{path: {value: /a}, method: PUT}", "{path: {value: /same}}", "{path: {value: /q}, headers: [{name: x, value: '1'}]}")+
		route("also-young", young, "{path: {value: /a/b}}", "{path: {type: RegularExpression, value: '/.*'}}")+svc+waypoint+served)
	tests := []struct{ method, path, query, header, want string }{
		{"GET", "/a", "", "", "young/1"},          // exact before prefix
		{"GET", "/a/c", "", "", "old/1"},          // the longest prefix
		{"GET", "/a/b/c", "", "", "also-young/0"}, // of the same age, by name
		{"GET", "/a/c", "", "1", "old/2"},         // more headers
		{"PUT", "/a/c", "", "1", "young/2"},       // a method before headers
		{"GET", "/same", "", "", "old/3"},         // the older
		{"GET", "/q", "q=1", "1", "young/4"},      // headers before query
		{"GET", "/q", "q=1", "", "old/4"},
		{"GET", "/elsewhere", "", "", "also-young/1"}, // an expression before "/"
	}
	for _, tt := range tests {
		req := &mesh.Request{Method: tt.method, Path: tt.path, Query: tt.query}
		if tt.header != "" {
			req.Fields.Add("x", tt.header)
		}
		var how router.Match
		if got, _ := table.Match(req, &how); got != tt.want {
			t.Errorf("%s %s?%s x=%q goes to %q, want %q", tt.method, tt.path, tt.query, tt.header, got, tt.want)
		}
	}
}
