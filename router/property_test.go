package router

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// linear is the specification: every match of every rule, sorted by Gateway
// API's criteria written down directly, tried one after another.
type linear struct {
	rules []Rule[int]
	order []ref
}

type ref struct {
	rule, match int
	host        string
}

func newLinear(rules []Rule[int]) *linear {
	l := &linear{rules: rules}
	for i, r := range rules {
		hosts := r.Hostnames
		if len(hosts) == 0 {
			hosts = []string{""}
		}
		for m := range max(1, len(r.Matches)) {
			for _, h := range hosts {
				l.order = append(l.order, ref{i, m, h})
			}
		}
	}
	slices.SortStableFunc(l.order, func(a, b ref) int { return slices.Compare(l.key(a), l.key(b)) })
	return l
}

func (l *linear) match(r ref) mesh.RouteMatch {
	if m := l.rules[r.rule].Matches; len(m) > 0 {
		return m[r.match]
	}
	return mesh.RouteMatch{}
}

// key is the position of a match as strings that compare in the right order.
func (l *linear) key(r ref) []string {
	m, rule := l.match(r), l.rules[r.rule]
	descending := func(n int) string { return fmt.Sprintf("%09d", 999999999-n) }
	tier, length := "3", 0
	if m.Path != nil {
		switch v := m.Path.Value; {
		case m.Path.Kind == mesh.MatchExact:
			tier = "0"
		case m.Path.Kind == mesh.MatchRegex:
			tier, length = "2", len(v)
			if m.Precedence > 0 {
				length = int(m.Precedence)
			}
		case strings.TrimSuffix(v, "/") != "":
			tier, length = "1", len(strings.TrimSuffix(v, "/"))
		}
	}
	method := "1"
	if m.Method != "" {
		method = "0"
	}
	// Exact paths of different length never compete: their order is free.
	// GRPCRouteRule.Matches: characters of a host name without "*", then of one with.
	plain, wild := len(r.host), 0
	if strings.HasPrefix(r.host, "*") {
		plain, wild = 0, len(r.host)
	}
	return []string{
		descending(plain), descending(wild), tier, descending(length), method, descending(len(firsts(m.Headers))), descending(len(firsts(m.Query))),
		rule.Created.UTC().Format("2006-01-02T15:04:05"), rule.Object.String(),
		fmt.Sprintf("%09d", rule.Rule), fmt.Sprintf("%09d", r.match),
	}
}

func firsts(list []mesh.NamedMatch) []mesh.NamedMatch {
	var out []mesh.NamedMatch
	for _, n := range list {
		if !slices.ContainsFunc(out, func(o mesh.NamedMatch) bool { return o.Name == n.Name }) {
			out = append(out, n)
		}
	}
	return out
}

func (l *linear) find(r *mesh.Request) (ref, bool) {
	for _, c := range l.order {
		if naiveHost(c.host, r.Authority) && naive(l.match(c), r) {
			return c, true
		}
	}
	return ref{}, false
}

func naiveHost(pattern, authority string) bool {
	name, _, _ := strings.Cut(strings.ToLower(authority), ":")
	if suffix, ok := strings.CutPrefix(pattern, "*"); ok {
		return strings.HasSuffix(name, suffix) && name != suffix
	}
	return pattern == "" || pattern == name
}

func naive(m mesh.RouteMatch, r *mesh.Request) bool {
	if m.Path != nil {
		v := m.Path.Value
		ok := false
		switch m.Path.Kind {
		case mesh.MatchExact:
			ok = r.Path == v
		case mesh.MatchPrefix:
			v = strings.TrimSuffix(v, "/")
			ok = v == "" || r.Path == v || strings.HasPrefix(r.Path, v+"/")
		case mesh.MatchRegex:
			ok = regexp.MustCompile(`\A(?:` + v + `)\z`).MatchString(r.Path)
		}
		if !ok {
			return false
		}
	}
	if m.Method != "" && m.Method != r.Method {
		return false
	}
	compare := func(n mesh.NamedMatch, got string) bool {
		if n.Kind == mesh.MatchRegex {
			return regexp.MustCompile(`\A(?:` + n.Value + `)\z`).MatchString(got)
		}
		return n.Value == got
	}
	for _, h := range firsts(m.Headers) {
		var values []string
		for _, f := range r.Fields {
			if f.Name == h.Name {
				values = append(values, f.Value)
			}
		}
		if len(values) == 0 || !compare(h, strings.Join(values, ",")) {
			return false
		}
	}
	query, _ := url.ParseQuery(r.Query)
	for _, q := range firsts(m.Query) {
		if !query.Has(q.Name) || !compare(q, query.Get(q.Name)) {
			return false
		}
	}
	return true
}

// chooser makes small random things out of few letters, so that they collide often.
type chooser struct{ *rand.Rand }

func (c chooser) of(list ...string) string { return list[c.IntN(len(list))] }

func (c chooser) path() string {
	var b strings.Builder
	for range c.IntN(5) {
		b.WriteString("/" + c.of("a", "b", "ab", "", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8"))
	}
	if b.Len() == 0 || c.IntN(5) == 0 {
		b.WriteByte('/')
	}
	return b.String()
}

func (c chooser) named(names ...string) (list []mesh.NamedMatch) {
	for range c.IntN(3) * c.IntN(2) {
		if c.IntN(4) == 0 {
			list = append(list, named(mesh.MatchRegex, c.of(names...), c.of("1|2", ".*", "1,.", "")))
		} else {
			list = append(list, named(mesh.MatchExact, c.of(names...), c.of("1", "2", "1,2", "")))
		}
	}
	return list
}

func (c chooser) match() (m mesh.RouteMatch) {
	switch c.IntN(6) {
	case 0:
	case 1:
		defer func() { m.Precedence = uint32(c.IntN(2) * c.IntN(3)) }()
		m = regex(c.of("/a.*", "/.*b", "/a|/b", ".*", "/[abc]/?", "/a", "(?i)/A.*", "/ab/c[1-8]", "/c1(/.*)?", ""))
	case 2, 3:
		m = exact(c.path())
	default:
		m = prefix(c.path())
	}
	m.Method = c.of("", "", "GET", "POST")
	m.Headers = c.named("x-a", "x-b")
	m.Query = c.named("q", "r")
	return m
}

func (c chooser) rules(n int) []Rule[int] {
	rules := make([]Rule[int], n)
	for i := range rules {
		rules[i] = Rule[int]{
			Object:  mesh.Name{Namespace: c.of("a", "a-b"), Name: c.of("x", "y")},
			Created: time.Unix(int64(c.IntN(3)), 0),
			Rule:    c.IntN(4),
			Value:   i,
		}
		for range c.IntN(3) * c.IntN(2) {
			if h := c.of("a.b", "*.a.b", "c.a.b", "*.b", "b"); !slices.Contains(rules[i].Hostnames, h) {
				rules[i].Hostnames = append(rules[i].Hostnames, h)
			}
		}
		for range c.IntN(4) {
			rules[i].Matches = append(rules[i].Matches, c.match())
		}
		if len(rules[i].Matches) == 0 && c.IntN(4) > 0 {
			rules[i].Matches = []mesh.RouteMatch{c.match()}
		}
	}
	return rules
}

func (c chooser) request() *mesh.Request {
	r := get(c.path())
	r.Method = c.of("GET", "POST", "PUT")
	r.Authority = c.of("a.b", "A.b:80", "c.a.b", "d.c.a.b", "b:1", "x", "")
	for range c.IntN(4) {
		r.Fields.Add(c.of("x-a", "x-b", "x-c"), c.of("1", "2", ""))
	}
	var pairs []string
	for range c.IntN(3) {
		pairs = append(pairs, c.of("q", "r", "%71", "s")+c.of("=1", "=2", "", "=%31"))
	}
	r.Query = strings.Join(pairs, "&")
	return r
}

// same compares the table with the specification on requests of c.
func same(t *testing.T, c chooser, rules []Rule[int], requests int) {
	t.Helper()
	table, errs := New(rules)
	if len(errs) != 0 {
		t.Fatalf("New: %v", errs)
	}
	spec := newLinear(rules)
	for range requests {
		r := c.request()
		want, wantOK := spec.find(r)
		var how Match
		got, ok := table.Match(r, &how)
		if ok != wantOK || ok && (got != want.rule || how.Rule != want.rule || how.Match != want.match) {
			t.Fatalf("%s %s?%s %v:\n got rule %d match %d (%v)\nwant rule %d match %d (%v)",
				r.Method, r.Path, r.Query, r.Fields, got, how.Match, ok, want.rule, want.match, wantOK)
		}
		if !ok {
			continue
		}
		m := spec.match(want)
		prefixLen := 0
		if m.Path != nil && m.Path.Kind == mesh.MatchPrefix {
			prefixLen = len(strings.TrimSuffix(m.Path.Value, "/"))
		}
		if how.Prefix != prefixLen {
			t.Fatalf("%s: matched prefix of %d bytes, want %d", r.Path, how.Prefix, prefixLen)
		}
	}
}

func TestAgainstLinear(t *testing.T) {
	for seed := range uint64(150) {
		c := chooser{rand.New(rand.NewPCG(seed, 1))}
		same(t, c, c.rules(1+c.IntN(60)), 100)
	}
}

// With many rules the candidates of one path are found by an index.
func TestManyAgainstLinear(t *testing.T) {
	indexed := 0
	for seed := range uint64(30) {
		c := chooser{rand.New(rand.NewPCG(seed, 3))}
		rules := c.rules(100 + c.IntN(500))
		same(t, c, rules, 200)
		table, _ := New(rules)
		for _, l := range []*list{&table.regex, &table.root} {
			if l.index != nil {
				indexed++
			}
		}
	}
	if indexed < 40 {
		t.Errorf("only %d of 60 lists had an index", indexed)
	}
}

func FuzzAgainstLinear(f *testing.F) {
	f.Add(uint64(1), uint8(10))
	f.Fuzz(func(t *testing.T, seed uint64, n uint8) {
		c := chooser{rand.New(rand.NewPCG(seed, 2))}
		same(t, c, c.rules(int(n)), 50)
	})
}

// FuzzMatch feeds bytes of users and of clients: nothing may panic, and the two
// ways to compare a query parameter must agree.
func FuzzMatch(f *testing.F) {
	f.Add("/a/b", "/a.*", "x=%41&y", "A")
	f.Add("//", "(", "%", "+")
	f.Fuzz(func(t *testing.T, pattern, expr, query, value string) {
		rules := []Rule[int]{
			{Matches: []mesh.RouteMatch{prefix(pattern)}},
			{Matches: []mesh.RouteMatch{exact(pattern)}},
			{Matches: []mesh.RouteMatch{regex(expr)}},
			{Matches: []mesh.RouteMatch{{Query: []mesh.NamedMatch{named(mesh.MatchRegex, "x", expr)}}}},
		}
		table, _ := New(rules)
		var how Match
		for _, p := range []string{pattern, value, "", "*", "/" + value + "/"} {
			r := get(p)
			r.Query = query
			if _, ok := table.Match(r, &how); ok && how.Prefix > len(p) {
				t.Fatalf("matched prefix of %d bytes in %q", how.Prefix, p)
			}
		}
		if got, want := decodedEqual(query, value), decoded(query) == value; got != want {
			t.Fatalf("decodedEqual(%q, %q) = %v, want %v", query, value, got, want)
		}
		if un, err := url.QueryUnescape(query); err == nil && un != decoded(query) {
			t.Fatalf("decoded(%q) = %q, want %q", query, decoded(query), un)
		}
	})
}
