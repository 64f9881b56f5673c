package builtin

import (
	"net/netip"
	"slices"
	"testing"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
)

func onlyGet() Deps {
	return Deps{Policies: policy.CompileL7([]*mesh.AuthorizationPolicy{{
		Name:  mesh.Name{Namespace: "ns", Name: "p"},
		Rules: []mesh.AuthzRule{{To: []mesh.AuthzOperation{{Methods: []string{"GET"}, Paths: []string{"/old*"}}}}},
	}})}
}

func compile(t testing.TB, d Deps, level filters.Level, f *mesh.RouteFilters) filters.Chain {
	t.Helper()
	c, err := filters.Compile(Specs(d), filters.BuildContext{Level: level, Filters: f})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func exchange(method string) *filters.Exchange {
	return &filters.Exchange{
		Req:           &mesh.Request{Method: method, Scheme: "http", Authority: "h", Host: "h", Path: "/old/x", Destination: netip.MustParseAddrPort("10.0.0.1:80")},
		Resp:          &mesh.Response{Status: 200},
		MatchedPrefix: 4,
	}
}

func TestOrder(t *testing.T) {
	var got []string
	for _, s := range Specs(Deps{}) {
		got = append(got, s.Name)
	}
	if want := []string{"jwt", "extauthz", "authz", "cors", "externalauth", "ratelimit", "fault", "redirect", "headers", "rewrite"}; !slices.Equal(got, want) {
		t.Errorf("the order is %v, want %v", got, want)
	}
}

// through runs a request through the service's and the rule's chains.
func through(t testing.TB, f *mesh.RouteFilters, x *filters.Exchange) filters.Result {
	t.Helper()
	if r, _ := compile(t, onlyGet(), filters.LevelService, nil).Request(x, 0); r != filters.Continue {
		return r
	}
	r, _ := compile(t, onlyGet(), filters.LevelRule, f).Request(x, 0)
	return r
}

func TestRule(t *testing.T) {
	edits := &mesh.HeaderEdits{Set: []mesh.Field{{Name: "x-a", Value: "1"}}}
	full := &mesh.RouteFilters{RequestHeaders: edits, ResponseHeaders: edits, Rewrite: &mesh.Rewrite{Hostname: "new", Path: &mesh.PathEdit{Prefix: true, Value: "/new"}}}

	// The policy is for /old: it judges before the path is rewritten.
	x := exchange("GET")
	if r := through(t, full, x); r != filters.Continue || x.Req.Path != "/new/x" || x.Req.Host != "new" || !x.Req.Fields.Has("x-a") {
		t.Errorf("GET: %v, request %+v", r, x.Req)
	}
	if compile(t, onlyGet(), filters.LevelRule, full).Response(x, 0); !x.Resp.Fields.Has("x-a") {
		t.Error("the response's fields are not changed")
	}
	x = exchange("PUT")
	if r := through(t, full, x); r != filters.Replied || x.Reply.Status != 403 || x.Req.Path != "/old/x" {
		t.Errorf("PUT: %v, %+v", r, x.Reply)
	}
	redirect := &mesh.RouteFilters{Redirect: &mesh.Redirect{Status: 301}}
	for method, status := range map[string]int{"GET": 301, "PUT": 403} {
		x := exchange(method)
		if r := through(t, redirect, x); r != filters.Replied || x.Reply.Status != status {
			t.Errorf("%s with a redirect: %v, status %d, want %d", method, r, x.Reply.Status, status)
		}
	}
}

func TestBackend(t *testing.T) {
	edits := &mesh.HeaderEdits{Set: []mesh.Field{{Name: "x-a", Value: "1"}}}
	x := exchange("PUT")
	if r, _ := compile(t, onlyGet(), filters.LevelBackend, &mesh.RouteFilters{RequestHeaders: edits}).Request(x, 0); r != filters.Continue || !x.Req.Fields.Has("x-a") {
		t.Errorf("backend: %v, fields %v", r, x.Req.Fields)
	}
	if _, err := filters.Compile(Specs(onlyGet()), filters.BuildContext{Level: filters.LevelBackend, Filters: &mesh.RouteFilters{Redirect: &mesh.Redirect{}}}); err == nil {
		t.Error("a backend may redirect")
	}
}

func TestNoAllocation(t *testing.T) {
	edits := &mesh.HeaderEdits{Set: []mesh.Field{{Name: "x-a", Value: "1"}}}
	service := compile(t, onlyGet(), filters.LevelService, nil)
	rule := compile(t, onlyGet(), filters.LevelRule, &mesh.RouteFilters{RequestHeaders: edits, Rewrite: &mesh.Rewrite{Path: &mesh.PathEdit{Prefix: true, Value: "/new"}}})
	req := exchange("GET").Req
	req.Fields = make(mesh.Fields, 0, 8)
	var x filters.Exchange
	n := testing.AllocsPerRun(100, func() {
		x.Reset()
		x.Req, x.MatchedPrefix = req, 4
		req.Path, req.Fields = "/old/x", req.Fields[:0]
		service.Request(&x, 0)
		rule.Request(&x, 0)
	})
	if n != 0 {
		t.Errorf("three steps allocate %v times, want 0", n)
	}
}

func BenchmarkChain(b *testing.B) {
	c := compile(b, onlyGet(), filters.LevelService, nil)
	x := exchange("GET")
	b.ReportAllocs()
	for b.Loop() {
		if r, _ := c.Request(x, 0); r != filters.Continue {
			b.Fatal("refused")
		}
	}
}
