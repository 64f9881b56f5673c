package router

import (
	"math/rand/v2"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

func TestWhyNot(t *testing.T) {
	r := get("/a/b?x=1", mesh.Field{Name: "h", Value: "v"})
	for _, tt := range []struct {
		name string
		m    mesh.RouteMatch
		want string
	}{
		{"all", mesh.RouteMatch{}, ""},
		{"prefix", prefix("/a/"), ""},
		{"other prefix", prefix("/ab"), `path "/a/b", and not below /ab`},
		{"exact", exact("/a"), `path "/a/b", and not /a`},
		{"regex", regex("/b.*"), `path "/a/b", and not ~ /b.*`},
		{"method", withMethod(prefix("/a"), "POST"), `method "GET", and not POST`},
		{"header", withHeader(prefix("/a"), "h", "w"), `header h is "v", and not "w"`},
		{"no header", withHeader(prefix("/a"), "i", "w"), "there is no header i"},
		{"query", withQuery(prefix("/a"), "x", "2"), `query "x=1", where x has to be "2"`},
		{"broken", regex("("), "path.value is not valid: error parsing regexp: missing closing ): `(`"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := WhyNot(&tt.m, r); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// TestWhyNotIsMatch: a reason is given where a match does not match, and only there.
func TestWhyNotIsMatch(t *testing.T) {
	for seed := range uint64(200) {
		c := chooser{rand.New(rand.NewPCG(seed, 3))}
		for range 20 {
			m, r := c.match(), c.request()
			if got, want := WhyNot(&m, r), naive(m, r); (got == "") != want {
				t.Fatalf("%+v for %+v: %q, matches: %v", m, r, got, want)
			}
		}
	}
}

func TestMeetsHost(t *testing.T) {
	for _, tt := range []struct {
		hostname, authority string
		want                bool
	}{{"a.example", "a.example:80", true}, {"*.example", "a.example", true}, {"*.example", "example", false}, {"a.example", "b.example", false}} {
		if got := MeetsHost(tt.hostname, tt.authority); got != tt.want {
			t.Errorf("MeetsHost(%q, %q) = %v", tt.hostname, tt.authority, got)
		}
	}
}
