package router

import (
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

func TestHostnames(t *testing.T) {
	rules := []Rule[string]{
		{Hostnames: []string{"*.example.com"}, Matches: []mesh.RouteMatch{exact("/a")}, Value: "wild"},
		{Hostnames: []string{"*.b.example.com"}, Value: "longer"},
		{Hostnames: []string{"a.example.com"}, Matches: []mesh.RouteMatch{prefix("/a/b")}, Value: "exact"},
		{Otherwise: true, Value: "otherwise"},
	}
	tests := []struct{ authority, path, want string }{
		{"a.example.com", "/a/b", "exact"},
		{"A.Example.com:8080", "/a/b", "exact"},
		{"a.example.com.", "/a/b", "exact"},
		{"a.example.com", "/a", "wild"},
		{"a.example.com", "/c", ""}, // a name that is known gets nothing else
		{"x.b.example.com", "/a", "longer"},
		{"b.example.com", "/a", "wild"},
		{"example.com", "/a", "otherwise"}, // "*." is one label at least
		{"badexample.com", "/a", "otherwise"},
		{"[fd00::1]:80", "/a", "otherwise"},
		{"[fd00::1]", "/a", "otherwise"},
		{"", "/a", "otherwise"},
	}
	table, errs := New(rules)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	for _, tt := range tests {
		r := get(tt.path)
		r.Authority = tt.authority
		var how Match
		if got, _ := table.Match(r, &how); got != tt.want {
			t.Errorf("%s%s goes to %q, want %q", tt.authority, tt.path, got, tt.want)
		}
	}
}

func BenchmarkMatchHost(b *testing.B) {
	rules := []Rule[int]{{Hostnames: []string{"a.example.com"}, Value: 1}, {Hostnames: []string{"*.example.com"}, Value: 2}, {Value: 3}}
	table, _ := New(rules)
	r := get("/a/b")
	r.Authority = "x.example.com:80"
	var how Match
	b.ReportAllocs()
	for b.Loop() {
		if got, ok := table.Match(r, &how); !ok || got != 2 {
			b.Fatal(got)
		}
	}
}
