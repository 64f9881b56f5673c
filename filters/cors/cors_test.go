package cors

import (
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
)

func compile(t testing.TB, c mesh.CORS) filters.Step {
	t.Helper()
	s, err := build(filters.BuildContext{Level: filters.LevelRule, Filters: &mesh.RouteFilters{CORS: &c}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func request(method string, fields ...string) *filters.Exchange {
	x := &filters.Exchange{Req: &mesh.Request{Method: method}}
	for i := 0; i < len(fields); i += 2 {
		x.Req.Fields.Add(fields[i], fields[i+1])
	}
	return x
}

// text is the fields that matter here, in their order.
func text(f mesh.Fields) string {
	var out []string
	for _, e := range f {
		if name, ok := strings.CutPrefix(e.Name, "access-control-"); ok {
			out = append(out, name+"="+e.Value)
		}
	}
	return strings.Join(out, " ")
}

func TestPreflight(t *testing.T) {
	const from, evil = "https://a.example", "https://evil.example"
	one := mesh.CORS{Origins: []string{from}}
	tests := []struct {
		name         string
		cors         mesh.CORS
		origin       string
		method, asks string
		want         string
	}{
		{"plain", one, from, "GET", "", "allow-origin=https://a.example max-age=5"},
		{"denied", one, evil, "GET", "", ""},
		{"null_origin", one, "null", "GET", "", ""},
		{"methods", mesh.CORS{Origins: []string{from}, Methods: []string{"GET", "PUT"}}, from, "PUT", "", "allow-origin=https://a.example allow-methods=GET, PUT max-age=5"},
		{"headers", mesh.CORS{Origins: []string{from}, Headers: []string{"X-A", "X-B"}, MaxAge: time.Minute}, from, "GET", "x-a", "allow-origin=https://a.example allow-headers=X-A, X-B max-age=60"},
		{"any_origin", mesh.CORS{Origins: []string{"*"}}, evil, "GET", "", "allow-origin=* max-age=5"},
		{"any_origin_credentials", mesh.CORS{Origins: []string{"*"}, Credentials: true}, evil, "GET", "", "allow-origin=https://evil.example allow-credentials=true max-age=5"},
		{"any_method", mesh.CORS{Origins: []string{from}, Methods: []string{"*"}, Headers: []string{"*"}}, from, "PATCH", "x-z", "allow-origin=https://a.example allow-methods=* allow-headers=* max-age=5"},
		{"any_method_credentials", mesh.CORS{Origins: []string{from}, Methods: []string{"*"}, Headers: []string{"*"}, Credentials: true}, from, "PATCH", "x-z", "allow-origin=https://a.example allow-credentials=true allow-methods=PATCH allow-headers=x-z max-age=5"},
		{"no_headers_asked", mesh.CORS{Origins: []string{from}, Headers: []string{"*"}, Credentials: true}, from, "GET", "", "allow-origin=https://a.example allow-credentials=true max-age=5"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fields := []string{"origin", tt.origin, "access-control-request-method", tt.method}
			if tt.asks != "" {
				fields = append(fields, "access-control-request-headers", tt.asks)
			}
			x := request("OPTIONS", fields...)
			if r := compile(t, tt.cors).Request(x); r != filters.Replied || x.Reply.Status != 204 {
				t.Fatalf("a preflight is %v with %d, want replied with 204", r, x.Reply.Status)
			}
			if got := text(x.Reply.Fields); got != tt.want {
				t.Errorf("answered %q, want %q", got, tt.want)
			}
			if v, _ := x.Reply.Fields.Get("vary"); !strings.HasPrefix(v, "Origin") {
				t.Errorf("vary is %q", v)
			}
		})
	}
}

func TestActual(t *testing.T) {
	cors := mesh.CORS{Origins: []string{"https://a.example"}, Credentials: true, Expose: []string{"X-Id"}}
	tests := []struct {
		name, method, origin string
		cors                 mesh.CORS
		upstream             string // what the backend says itself
		want                 string
	}{
		{"allowed", "GET", "https://a.example", cors, "", "allow-origin=https://a.example allow-credentials=true expose-headers=X-Id"},
		{"replaces", "GET", "https://a.example", cors, "https://other", "allow-origin=https://a.example allow-credentials=true expose-headers=X-Id"},
		{"denied", "GET", "https://b.example", cors, "", ""},
		{"same_origin", "POST", "", cors, "", ""},
		{"options_that_is_none", "OPTIONS", "https://a.example", cors, "", "allow-origin=https://a.example allow-credentials=true expose-headers=X-Id"},
		{"any", "GET", "https://b.example", mesh.CORS{Origins: []string{"*"}, Expose: []string{"*"}}, "", "allow-origin=* expose-headers=*"},
		{"any_expose_credentials", "GET", "https://b.example", mesh.CORS{Origins: []string{"*"}, Expose: []string{"*"}, Credentials: true}, "", "allow-origin=https://b.example allow-credentials=true"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := request(tt.method)
			if tt.origin != "" {
				x.Req.Fields.Add("origin", tt.origin)
			}
			s := compile(t, tt.cors)
			if r := s.Request(x); r != filters.Continue {
				t.Fatalf("the request is %v, want continue", r)
			}
			x.Req.Fields = nil // another filter removed the origin on the way
			x.Resp = &mesh.Response{Status: 200}
			if tt.upstream != "" {
				x.Resp.Fields.Add("access-control-allow-origin", tt.upstream)
			}
			s.Response(x)
			if got := text(x.Resp.Fields); got != tt.want {
				t.Errorf("the response has %q, want %q", got, tt.want)
			}
		})
	}
}

func TestOrigins(t *testing.T) {
	tests := []struct {
		allowed, origin string
		want            bool
	}{
		{"https://a.example", "https://a.example", true},
		{"https://a.example", "HTTPS://A.example", true},
		{"https://a.example", "http://a.example", false},
		{"https://a.example", "https://a.example.evil", false},
		{"https://a.example:443", "https://a.example", true},
		{"http://a.example:80", "http://a.example", true},
		{"https://a.example:8443", "https://a.example:8443", true},
		{"https://a.example:8443", "https://a.example", false},
		{"https://*.example", "https://a.example", true},
		{"https://*.example", "https://a.b.example", true},
		{"https://*.example", "https://example", false},
		{"https://*.example", "https://.example", false},
		{"https://*.example", "https://evilexample", false},
		{"https://*.example", "https://evil/.example", false},
		{"https://*.example", "https://evil:1.example", false},
		{"https://*.example:8443", "https://a.example:8443", true},
		{"https://*", "https://anything.at.all", true},
		{"https://*", "https://anything:8443", false},
		{"https://*", "http://anything", false},
		{"https://a.example", "null", false},
		{"https://a.example", "", false},
	}
	for _, tt := range tests {
		o, err := parseOrigin(tt.allowed)
		if err != nil {
			t.Fatal(err)
		}
		if got := o.matches(tt.origin); got != tt.want {
			t.Errorf("%q allows %q = %v, want %v", tt.allowed, tt.origin, got, tt.want)
		}
	}
	for _, bad := range []string{"", "a.example", "ftp://a.example", "https://", "https://a b", "https://a.*.example", "https://*a.example", "https://a.example:0", "https://a.example:x", "https://a.example/", "https://*.*"} {
		if _, err := parseOrigin(bad); err == nil {
			t.Errorf("origin %q is accepted", bad)
		}
	}
}

func TestBackendRefused(t *testing.T) {
	if _, err := build(filters.BuildContext{Level: filters.LevelBackend, Filters: &mesh.RouteFilters{CORS: &mesh.CORS{}}}); err == nil {
		t.Error("a backend may have CORS")
	}
}

func FuzzOrigin(f *testing.F) {
	f.Add("https://*.example", "https://a.example")
	f.Fuzz(func(t *testing.T, allowed, from string) {
		o, err := parseOrigin(allowed)
		if err != nil || !o.matches(from) {
			return
		}
		// What matches a wildcard has the scheme and the domain of it.
		if o.wild && (!strings.EqualFold(from[:len(o.head)], o.head) || strings.Contains(from[len(o.head):], "/")) {
			t.Fatalf("%q allows %q", allowed, from)
		}
	})
}

func BenchmarkNotCrossOrigin(b *testing.B) {
	s := compile(b, mesh.CORS{Origins: []string{"https://a.example", "https://*.b.example"}})
	x := request("GET", "accept", "*/*", "user-agent", "bench")
	x.Resp = &mesh.Response{Fields: make(mesh.Fields, 0, 8)}
	b.ReportAllocs()
	for b.Loop() {
		x.Resp.Fields = x.Resp.Fields[:0]
		s.Request(x)
		s.Response(x)
	}
}
