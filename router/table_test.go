package router

import (
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

func path(kind mesh.MatchKind, value string) mesh.RouteMatch {
	return mesh.RouteMatch{Path: &mesh.StringMatch{Kind: kind, Value: value}}
}

func exact(v string) mesh.RouteMatch  { return path(mesh.MatchExact, v) }
func prefix(v string) mesh.RouteMatch { return path(mesh.MatchPrefix, v) }
func regex(v string) mesh.RouteMatch  { return path(mesh.MatchRegex, v) }

func withMethod(m mesh.RouteMatch, method string) mesh.RouteMatch {
	m.Method = method
	return m
}

func withHeader(m mesh.RouteMatch, name, value string) mesh.RouteMatch {
	m.Headers = append(m.Headers[:len(m.Headers):len(m.Headers)], named(mesh.MatchExact, name, value))
	return m
}

func withQuery(m mesh.RouteMatch, name, value string) mesh.RouteMatch {
	m.Query = append(m.Query[:len(m.Query):len(m.Query)], named(mesh.MatchExact, name, value))
	return m
}

func named(kind mesh.MatchKind, name, value string) mesh.NamedMatch {
	return mesh.NamedMatch{Name: name, StringMatch: mesh.StringMatch{Kind: kind, Value: value}}
}

func get(target string, fields ...mesh.Field) *mesh.Request {
	r := &mesh.Request{Method: "GET", Scheme: "http", Authority: "reviews:9080", Host: "reviews", Fields: fields}
	r.Path, r.Query, r.HasQuery = strings.Cut(target, "?")
	return r
}

// rule makes a rule whose value is its name.
func rule(name string, matches ...mesh.RouteMatch) Rule[string] {
	return Rule[string]{Object: mesh.Name{Namespace: "ns", Name: "route"}, Matches: matches, Value: name}
}

func mustTable(t testing.TB, rules ...Rule[string]) *Table[string] {
	t.Helper()
	for i := range rules {
		rules[i].Rule = i
	}
	table, errs := New(rules)
	for _, err := range errs {
		t.Fatalf("New: %v", err)
	}
	return table
}

func TestPaths(t *testing.T) {
	tests := []struct {
		name  string
		match mesh.RouteMatch
		yes   []string
		no    []string
	}{
		{"exact", exact("/foo"), []string{"/foo", "/foo?a=b"}, []string{"/foo/", "/fo", "/foobar", "/Foo", "/"}},
		{"exact_slash", exact("/foo/"), []string{"/foo/"}, []string{"/foo", "/foo/a"}},
		{"exact_root", exact("/"), []string{"/"}, []string{"/a", "//", ""}},
		{"prefix", prefix("/foo"), []string{"/foo", "/foo/", "/foo/bar", "/foo//bar", "/foo?x"}, []string{"/foobar", "/fo", "/", "/FOO", "foo", "/x/foo"}},
		{"prefix_slash", prefix("/foo/"), []string{"/foo", "/foo/", "/foo/bar"}, []string{"/foobar"}},
		{"prefix_deep", prefix("/a/b/c"), []string{"/a/b/c", "/a/b/c/d"}, []string{"/a/b", "/a/b/", "/a/b/cd", "/a//b/c"}},
		{"prefix_empty_element", prefix("/a//b"), []string{"/a//b", "/a//b/c"}, []string{"/a/b", "/a//bc"}},
		{"prefix_two_slashes", prefix("/a//"), []string{"/a/", "/a//", "/a//b"}, []string{"/a", "/a/b"}},
		{"prefix_only_slashes", prefix("//"), []string{"/", "//", "//a"}, []string{"/a", ""}},
		{"prefix_root", prefix("/"), []string{"/", "/a", "//", "*", ""}, nil},
		{"prefix_empty", prefix(""), []string{"/", "/a"}, nil},
		{"no_path", mesh.RouteMatch{}, []string{"/", "/a", "*", ""}, nil},
		{"regex_whole", regex("/a+"), []string{"/a", "/aaa"}, []string{"/ab", "x/a", "/a/", ""}},
		{"regex_alternatives", regex("/a|/b"), []string{"/a", "/b"}, []string{"/ab", "/ax", "x/b"}},
		{"regex_quote", regex(`/\Qa.b`), []string{"/a.b"}, []string{"/axb", "/a.bc"}},
		{"regex_flags", regex("(?i)/abc"), []string{"/abc", "/ABC"}, []string{"/abcd"}},
		{"regex_multiline", regex("(?m)/a$"), []string{"/a"}, []string{"/a\n/b"}},
		{"regex_anchored", regex("^/a$"), []string{"/a"}, []string{"/a/"}},
		{"regex_empty", regex(""), []string{""}, []string{"/"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := mustTable(t, rule("it", tt.match))
			var how Match
			for _, p := range tt.yes {
				if _, ok := table.Match(get(p), &how); !ok {
					t.Errorf("Match(%q) = no, want yes", p)
				}
			}
			for _, p := range tt.no {
				if _, ok := table.Match(get(p), &how); ok {
					t.Errorf("Match(%q) = yes, want no", p)
				}
			}
		})
	}
}

func TestConditions(t *testing.T) {
	field := func(name, value string) mesh.Field { return mesh.Field{Name: name, Value: value} }
	base := mesh.RouteMatch{}
	re := func(name, value string) mesh.RouteMatch {
		return mesh.RouteMatch{Headers: []mesh.NamedMatch{named(mesh.MatchRegex, name, value)}}
	}
	queryRE := func(name, value string) mesh.RouteMatch {
		return mesh.RouteMatch{Query: []mesh.NamedMatch{named(mesh.MatchRegex, name, value)}}
	}
	post := get("/")
	post.Method = "POST"
	tests := []struct {
		name  string
		match mesh.RouteMatch
		req   *mesh.Request
		want  bool
	}{
		{"method", withMethod(base, "GET"), get("/"), true},
		{"method_other", withMethod(base, "GET"), post, false},
		{"method_case", withMethod(base, "get"), get("/"), false},
		{"header", withHeader(base, "x-a", "1"), get("/", field("x-a", "1")), true},
		{"header_upper_in_rule", withHeader(base, "X-A", "1"), get("/", field("x-a", "1")), true},
		{"header_absent", withHeader(base, "x-a", "1"), get("/"), false},
		{"header_absent_empty", withHeader(base, "x-a", ""), get("/"), false},
		{"header_empty", withHeader(base, "x-a", ""), get("/", field("x-a", "")), true},
		{"header_case", withHeader(base, "x-a", "a"), get("/", field("x-a", "A")), false},
		{"header_all", withHeader(withHeader(base, "x-a", "1"), "x-b", "2"), get("/", field("x-b", "2")), false},
		{"header_first_of_name", withHeader(withHeader(base, "x-a", "1"), "X-A", "2"), get("/", field("x-a", "1")), true},
		{"header_joined", withHeader(base, "x-a", "1,2"), get("/", field("x-a", "1"), field("x-b", "0"), field("x-a", "2")), true},
		{"header_joined_one_of", withHeader(base, "x-a", "1"), get("/", field("x-a", "1"), field("x-a", "2")), false},
		{"header_joined_short", withHeader(base, "x-a", "1,"), get("/", field("x-a", "1"), field("x-a", "2")), false},
		{"header_joined_empty", withHeader(base, "x-a", ","), get("/", field("x-a", ""), field("x-a", "")), true},
		{"header_cookies", withHeader(base, "cookie", "a=1; b=2"), get("/", field("cookie", "a=1"), field("cookie", "b=2")), true},
		{"header_regex", re("x-a", "a.*b"), get("/", field("x-a", "a--b")), true},
		{"header_regex_part", re("x-a", "a"), get("/", field("x-a", "ab")), false},
		{"header_regex_joined", re("x-a", "a,b"), get("/", field("x-a", "a"), field("x-a", "b")), true},
		{"host", withHeader(base, "Host", "reviews:9080"), get("/"), true},
		{"host_regex", re("host", "reviews(:[0-9]+)?"), get("/"), true},
		{"query", withQuery(base, "a", "1"), get("/?a=1"), true},
		{"query_none", withQuery(base, "a", "1"), get("/"), false},
		{"query_first", withQuery(base, "a", "1"), get("/?a=2&a=1"), false},
		{"query_later", withQuery(base, "a", "1"), get("/?b=2&a=1&c"), true},
		{"query_name_case", withQuery(base, "a", "1"), get("/?A=1"), false},
		{"query_empty", withQuery(base, "a", ""), get("/?a"), true},
		{"query_decoded", withQuery(base, "a b", "x&y"), get("/?a+b=x%26y"), true},
		{"query_decoded_lower", withQuery(base, "a", "/"), get("/?a=%2f"), true},
		{"query_bad_escape", withQuery(base, "a", "%zz%2"), get("/?a=%zz%2"), true},
		{"query_equals_in_value", withQuery(base, "a", "b=c"), get("/?a=b=c"), true},
		{"query_longer", withQuery(base, "a", "12"), get("/?a=1"), false},
		{"query_shorter", withQuery(base, "a", "1"), get("/?a=12"), false},
		{"query_regex", queryRE("a", "[0-9]+"), get("/?a=12"), true},
		{"query_regex_decoded", queryRE("a", "x y"), get("/?a=x%20y"), true},
		{"query_regex_part", queryRE("a", "[0-9]+"), get("/?a=12x"), false},
		{"query_first_of_name", withQuery(withQuery(base, "a", "1"), "a", "2"), get("/?a=1"), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var how Match
			if _, got := mustTable(t, rule("it", tt.match)).Match(tt.req, &how); got != tt.want {
				t.Errorf("Match = %v, want %v", got, tt.want)
			}
		})
	}
}

// TestPrecedence gives New the two rules in the wrong order: the second must win.
func TestPrecedence(t *testing.T) {
	req := get("/foo/bar?a=1&b=2", mesh.Field{Name: "x-a", Value: "1"}, mesh.Field{Name: "x-b", Value: "2"})
	p := prefix("/foo")
	early, late := time.Unix(1, 0), time.Unix(2, 0)
	tests := []struct {
		name        string
		loser, wins Rule[string]
	}{
		{"exact_over_prefix", rule("l", prefix("/foo/bar")), rule("w", exact("/foo/bar"))},
		{"exact_over_conditions", rule("l", withHeader(withMethod(prefix("/foo/bar"), "GET"), "x-a", "1")), rule("w", exact("/foo/bar"))},
		{"longer_prefix", rule("l", p), rule("w", prefix("/foo/bar"))},
		{"longer_prefix_over_conditions", rule("l", withHeader(withMethod(p, "GET"), "x-a", "1")), rule("w", prefix("/foo/bar"))},
		{"prefix_over_regex", rule("l", regex("/foo/bar")), rule("w", p)},
		{"regex_over_root", rule("l", withMethod(prefix("/"), "GET")), rule("w", regex("/.*"))},
		{"longer_regex", rule("l", regex("/.*")), rule("w", regex("/foo/.*"))},
		{"method_over_headers", rule("l", withHeader(withHeader(p, "x-a", "1"), "x-b", "2")), rule("w", withMethod(p, "GET"))},
		{"more_headers", rule("l", withHeader(p, "x-a", "1")), rule("w", withHeader(withHeader(p, "x-a", "1"), "x-b", "2"))},
		{"same_header_twice_counts_once", rule("l", withHeader(withHeader(p, "x-a", "1"), "X-A", "9")), rule("w", withQuery(withHeader(p, "x-a", "1"), "a", "1"))},
		{"headers_over_query", rule("l", withQuery(withQuery(p, "a", "1"), "b", "2")), rule("w", withHeader(p, "x-a", "1"))},
		{"more_query", rule("l", withQuery(p, "a", "1")), rule("w", withQuery(withQuery(p, "a", "1"), "b", "2"))},
		{"older_route", Rule[string]{Created: late, Matches: []mesh.RouteMatch{p}, Value: "l"}, Rule[string]{Created: early, Matches: []mesh.RouteMatch{p}, Value: "w", Object: mesh.Name{Namespace: "z"}}},
		{
			"name",
			Rule[string]{Object: mesh.Name{Namespace: "a", Name: "b"}, Matches: []mesh.RouteMatch{p}, Value: "l"},
			Rule[string]{Object: mesh.Name{Namespace: "a", Name: "a"}, Matches: []mesh.RouteMatch{p}, Value: "w"},
		},
		// The order is of "namespace/name" as one string: '-' sorts before '/'.
		{
			"name_joined",
			Rule[string]{Object: mesh.Name{Namespace: "a", Name: "x"}, Matches: []mesh.RouteMatch{p}, Value: "l"},
			Rule[string]{Object: mesh.Name{Namespace: "a-b", Name: "x"}, Matches: []mesh.RouteMatch{p}, Value: "w"},
		},
		{"rule_order", Rule[string]{Rule: 2, Matches: []mesh.RouteMatch{p}, Value: "l"}, Rule[string]{Rule: 1, Matches: []mesh.RouteMatch{p}, Value: "w"}},
		{"slash_is_no_length", Rule[string]{Rule: 2, Matches: []mesh.RouteMatch{prefix("/foo/")}, Value: "l"}, Rule[string]{Rule: 1, Matches: []mesh.RouteMatch{p}, Value: "w"}},
		{"any_match_of_a_rule", rule("l", prefix("/foo/bar")), rule("w", regex("nothing"), exact("/foo/bar"))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table, errs := New([]Rule[string]{tt.loser, tt.wins})
			if len(errs) != 0 {
				t.Fatalf("New: %v", errs)
			}
			var how Match
			if got, _ := table.Match(req, &how); got != "w" {
				t.Errorf("Match = %q, want the second rule", got)
			}
		})
	}
}

func TestHow(t *testing.T) {
	table := mustTable(t,
		rule("none"),
		rule("two", regex("/re.*"), prefix("/foo/")),
		rule("exact", exact("/exact")),
	)
	tests := []struct {
		target string
		want   Match
	}{
		{"/", Match{Kind: mesh.MatchPrefix, Rule: 0}},
		{"/foo", Match{Kind: mesh.MatchPrefix, Prefix: 4, Rule: 1, Match: 1}},
		{"/foo/bar?x", Match{Kind: mesh.MatchPrefix, Prefix: 4, Rule: 1, Match: 1}},
		{"/re/x", Match{Kind: mesh.MatchRegex, Rule: 1}},
		{"/exact", Match{Kind: mesh.MatchExact, Rule: 2}},
	}
	for _, tt := range tests {
		how := Match{Prefix: 99}
		if _, ok := table.Match(get(tt.target), &how); !ok || how != tt.want {
			t.Errorf("Match(%q) fills %+v (%v), want %+v", tt.target, how, ok, tt.want)
		}
	}
}

func TestNoMatch(t *testing.T) {
	how := Match{Rule: 7}
	for _, table := range []*Table[string]{mustTable(t), mustTable(t, rule("a", exact("/a")))} {
		if v, ok := table.Match(get("/b"), &how); ok || v != "" || how.Rule != 7 {
			t.Errorf("Match = %q, %v with how %+v, want nothing and how untouched", v, ok, how)
		}
	}
}

func TestBadMatches(t *testing.T) {
	tests := []struct {
		name  string
		match mesh.RouteMatch
		field string
		text  string
	}{
		{"path_regex", regex("("), "path.value", "missing closing )"},
		{"path_regex_escape", regex("a)|(b"), "path.value", "unexpected )"},
		{"path_regex_long", regex(strings.Repeat("a", MaxRegexLength+1)), "path.value", "at most 4096"},
		{"path_regex_big", regex("a{1000}b{1000}c{1000}d{1000}e{1000}"), "path.value", "instructions"},
		{"path_relative", exact("foo"), "path.value", "does not begin with /"},
		{"prefix_relative", prefix("foo"), "path.value", "does not begin with /"},
		{"path_kind", path(9, "/"), "path.value", "unknown kind"},
		{"header_regex", mesh.RouteMatch{Headers: []mesh.NamedMatch{named(mesh.MatchExact, "a", ""), named(mesh.MatchRegex, "b", "[")}}, "headers[1].value", "missing closing ]"},
		{"header_kind", mesh.RouteMatch{Headers: []mesh.NamedMatch{named(mesh.MatchPrefix, "a", "")}}, "headers[0].value", "not for headers"},
		{"header_name", withHeader(mesh.RouteMatch{}, "", "x"), "headers[0].value", "name is empty"},
		{"query_regex", mesh.RouteMatch{Query: []mesh.NamedMatch{named(mesh.MatchRegex, "b", "(?<")}}, "queryParams[0].value", "invalid"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table, errs := New([]Rule[string]{
				{Object: mesh.Name{Namespace: "ns", Name: "bad"}, Rule: 3, Matches: []mesh.RouteMatch{exact("/good"), tt.match}, Value: "bad"},
				rule("neighbour", exact("/n")),
			})
			if len(errs) != 1 {
				t.Fatalf("New reports %v, want one error", errs)
			}
			e := errs[0]
			if e.Object.Name != "bad" || e.Rule != 3 || e.Match != 1 || e.Field != tt.field || !strings.Contains(e.Error(), tt.text) {
				t.Errorf("New reports %q (field %q), want field %q and text %q", e, e.Field, tt.field, tt.text)
			}
			var how Match
			for _, p := range []string{"/good", "/n"} {
				if _, ok := table.Match(get(p), &how); !ok {
					t.Errorf("Match(%q) = no, want the rest of the rules to be live", p)
				}
			}
		})
	}
}
