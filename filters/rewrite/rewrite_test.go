package rewrite

import (
	"strings"
	"testing"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
)

func compile(t testing.TB, f mesh.RouteFilters) filters.Chain {
	t.Helper()
	c, err := filters.Compile([]filters.Spec{Spec}, filters.BuildContext{Filters: &f})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRewrite(t *testing.T) {
	tests := []struct {
		name      string
		rule      mesh.Rewrite
		path      string
		authority string
	}{
		{"hostname", mesh.Rewrite{Hostname: "rw.example.com"}, "/foo/bar", "rw.example.com"},
		{"full", mesh.Rewrite{Path: &mesh.PathEdit{Value: "/one"}}, "/one", "reviews:9080"},
		{"prefix", mesh.Rewrite{Path: &mesh.PathEdit{Prefix: true, Value: "/xyz"}}, "/xyz/bar", "reviews:9080"},
		{"prefix_away", mesh.Rewrite{Path: &mesh.PathEdit{Prefix: true}}, "/bar", "reviews:9080"},
		{"both", mesh.Rewrite{Hostname: "h", Path: &mesh.PathEdit{Value: "/"}}, "/", "h"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := filters.Exchange{
				Req:           &mesh.Request{Path: "/foo/bar", Query: "q", HasQuery: true, Authority: "reviews:9080", Host: "reviews"},
				MatchedPrefix: len("/foo"),
			}
			if r, _ := compile(t, mesh.RouteFilters{Rewrite: &tt.rule}).Request(&x, 0); r != filters.Continue {
				t.Errorf("the step says %v", r)
			}
			host, _, _ := strings.Cut(tt.authority, ":")
			if x.Req.Path != tt.path || x.Req.Authority != tt.authority || x.Req.Host != host || x.Req.Query != "q" {
				t.Errorf("request becomes %+v, want path %q, authority %q", x.Req, tt.path, tt.authority)
			}
		})
	}
}

func TestBuild(t *testing.T) {
	for _, f := range []mesh.RouteFilters{{}, {Rewrite: &mesh.Rewrite{}}} {
		if n := len(compile(t, f)); n != 0 {
			t.Errorf("nothing to do compiles to %d steps", n)
		}
	}
	for name, f := range map[string]mesh.RouteFilters{
		"redirect": {Rewrite: &mesh.Rewrite{Hostname: "a"}, Redirect: &mesh.Redirect{}},
		"hostname": {Rewrite: &mesh.Rewrite{Hostname: "a\n"}},
		"path":     {Rewrite: &mesh.Rewrite{Path: &mesh.PathEdit{Value: "a"}}},
	} {
		if _, err := filters.Compile([]filters.Spec{Spec}, filters.BuildContext{Filters: &f}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func BenchmarkRewrite(b *testing.B) {
	c := compile(b, mesh.RouteFilters{Rewrite: &mesh.Rewrite{Path: &mesh.PathEdit{Prefix: true, Value: "/xyz"}}})
	var req mesh.Request
	var x filters.Exchange
	b.ReportAllocs()
	for b.Loop() {
		x.Reset()
		req.Path = "/foo/bar"
		x.Req, x.MatchedPrefix = &req, len("/foo")
		c.Request(&x, 0)
	}
}
