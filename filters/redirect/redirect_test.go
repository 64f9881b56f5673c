package redirect

import (
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
)

func exchange(target string) *filters.Exchange {
	r := &mesh.Request{Method: "GET", Scheme: "http", Authority: "reviews:9080", Host: "reviews", Destination: netip.MustParseAddrPort("10.96.1.3:9080")}
	r.Path, r.Query, r.HasQuery = strings.Cut(target, "?")
	return &filters.Exchange{Req: r}
}

func compile(t testing.TB, r mesh.Redirect) filters.Chain {
	t.Helper()
	c, err := filters.Compile([]filters.Spec{Spec}, filters.BuildContext{Filters: &mesh.RouteFilters{Redirect: &r}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLocation(t *testing.T) {
	on := func(change func(*mesh.Request)) *filters.Exchange {
		x := exchange("/a?b")
		change(x.Req)
		return x
	}
	port := func(s string) *filters.Exchange {
		return on(func(r *mesh.Request) { r.Destination = netip.MustParseAddrPort(s) })
	}
	prefixed := exchange("/foo/bar?x=1")
	prefixed.MatchedPrefix = len("/foo")
	tests := []struct {
		name string
		rule mesh.Redirect
		x    *filters.Exchange
		want string
	}{
		{"nothing", mesh.Redirect{}, exchange("/a?b=c"), "http://reviews:9080/a?b=c"},
		{"empty_query", mesh.Redirect{}, exchange("/a?"), "http://reviews:9080/a?"},
		{"hostname", mesh.Redirect{Hostname: "example.org"}, exchange("/a"), "http://example.org:9080/a"},
		{"hostname_port_80", mesh.Redirect{Hostname: "example.org"}, port("10.96.1.3:80"), "http://example.org/a?b"},
		{"https", mesh.Redirect{Scheme: "https"}, exchange("/a"), "https://reviews/a"},
		{"https_upper", mesh.Redirect{Scheme: "HTTPS"}, exchange("/a"), "https://reviews/a"},
		{"http", mesh.Redirect{Scheme: "http"}, exchange("/a"), "http://reviews/a"},
		{"port", mesh.Redirect{Port: 8443}, exchange("/a"), "http://reviews:8443/a"},
		{"port_80", mesh.Redirect{Port: 80}, exchange("/a"), "http://reviews/a"},
		{"port_443_on_http", mesh.Redirect{Port: 443}, exchange("/a"), "http://reviews:443/a"},
		{"https_port_443", mesh.Redirect{Scheme: "https", Port: 443}, exchange("/a"), "https://reviews/a"},
		{"https_port_80", mesh.Redirect{Scheme: "https", Port: 80}, exchange("/a"), "https://reviews:80/a"},
		{"https_port_8443", mesh.Redirect{Scheme: "https", Port: 8443}, exchange("/a"), "https://reviews:8443/a"},
		{"https_client", mesh.Redirect{}, on(func(r *mesh.Request) { r.Scheme = "https"; r.Destination = netip.MustParseAddrPort("10.0.0.1:443") }), "https://reviews/a?b"},
		{"odd_scheme", mesh.Redirect{}, on(func(r *mesh.Request) { r.Scheme = "javascript" }), "http://reviews:9080/a?b"},
		{"full_path", mesh.Redirect{Path: &mesh.PathEdit{Value: "/new"}}, exchange("/a?b=c"), "http://reviews:9080/new?b=c"},
		{"prefix_path", mesh.Redirect{Path: &mesh.PathEdit{Prefix: true, Value: "/new/"}}, prefixed, "http://reviews:9080/new/bar?x=1"},
		{"no_host", mesh.Redirect{}, on(func(r *mesh.Request) { r.Host = "" }), "http://10.96.1.3:9080/a?b"},
		{"no_host_ipv6", mesh.Redirect{}, on(func(r *mesh.Request) { r.Host = ""; r.Destination = netip.MustParseAddrPort("[fd00::1]:80") }), "http://[fd00::1]/a?b"},
		{"ipv6_host", mesh.Redirect{}, on(func(r *mesh.Request) { r.Host = "fd00::1" }), "http://[fd00::1]:9080/a?b"},
		{"ipv6_host_brackets", mesh.Redirect{}, on(func(r *mesh.Request) { r.Host = "[fd00::1]" }), "http://[fd00::1]:9080/a?b"},
		{"nothing_known", mesh.Redirect{}, on(func(r *mesh.Request) { r.Host, r.Destination = "", netip.AddrPort{} }), "/a?b"},
		{"nothing_known_slashes", mesh.Redirect{}, on(func(r *mesh.Request) {
			r.Host, r.Destination, r.Path = "", netip.AddrPort{}, "//evil.example.com"
		}), "/.//evil.example.com?b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, _ := compile(t, tt.rule).Request(tt.x, 0)
			got, _ := tt.x.Reply.Fields.Get("location")
			if r != filters.Replied || got != tt.want {
				t.Errorf("%v to %q, want %q", r, got, tt.want)
			}
			if tt.x.Reply.Status != 302 || tt.x.Reply.Details != "direct_response" || tt.x.Reply.Body != "" {
				t.Errorf("reply %+v", tt.x.Reply)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		x := exchange("/")
		compile(t, mesh.Redirect{Status: status}).Request(x, 0)
		if x.Reply.Status != status {
			t.Errorf("status = %d, want %d", x.Reply.Status, status)
		}
	}
}

func TestRefused(t *testing.T) {
	tests := []struct {
		name  string
		level filters.Level
		rule  mesh.Redirect
		text  string
	}{
		{"status", filters.LevelRule, mesh.Redirect{Status: 200}, "status 200"},
		{"scheme", filters.LevelRule, mesh.Redirect{Scheme: "ftp"}, "ftp"},
		{"hostname", filters.LevelRule, mesh.Redirect{Hostname: "a b"}, "hostname"},
		{"path", filters.LevelRule, mesh.Redirect{Path: &mesh.PathEdit{Value: "x"}}, "does not begin with /"},
		{"backend", filters.LevelBackend, mesh.Redirect{}, "backend"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := filters.Compile([]filters.Spec{Spec}, filters.BuildContext{Level: tt.level, Filters: &mesh.RouteFilters{Redirect: &tt.rule}})
			if err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Compile = %v, want an error with %q", err, tt.text)
			}
		})
	}
}

// FuzzLocation: whatever a client asks for, it is sent to the host of the rule.
func FuzzLocation(f *testing.F) {
	f.Add("/a?b", "reviews")
	f.Add("//evil.example.com/%2e", "")
	f.Fuzz(func(t *testing.T, target, host string) {
		x := exchange(target)
		x.Req.Host = host
		compile(t, mesh.Redirect{Hostname: "good.example.com"}).Request(x, 0)
		got, _ := x.Reply.Fields.Get("location")
		if !strings.HasPrefix(got, "http://good.example.com:9080"+x.Req.Path) {
			t.Fatalf("location %q", got)
		}
		if u, err := url.Parse(got); err == nil && strings.HasPrefix(x.Req.Path, "/") && u.Host != "good.example.com:9080" {
			t.Fatalf("location %q is on host %q", got, u.Host)
		}
	})
}

func BenchmarkRedirect(b *testing.B) {
	c := compile(b, mesh.Redirect{Scheme: "https", Hostname: "example.org", Path: &mesh.PathEdit{Prefix: true, Value: "/new"}})
	req := exchange("/old/a?b=c").Req
	var x filters.Exchange
	b.ReportAllocs()
	for b.Loop() {
		x.Reset()
		x.Req, x.MatchedPrefix = req, len("/old")
		c.Request(&x, 0)
	}
}
