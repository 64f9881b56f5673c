package traffic

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFilters(t *testing.T) {
	runGroup(t, "filters", slices.Concat(headerCases, redirectCases, rewriteCases, mirrorCases, corsCases))
}

// filtered is a route of one rule with filters to the service itself.
func filtered(matches, filters string) string {
	return httpRoute("r", "  - matches: ["+matches+"]\n    filters:\n"+strings.Trim(filters, "\n")+"\n    backendRefs: [{name: echo, port: 80}]")
}

var headerCases = []testCase{
	{
		name: "request-headers", of: "RequestHeaderModifier sets, adds and removes",
		yaml: filtered("{path: {value: /}}", `
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: X-Set, value: set}]
        add: [{name: X-Add, value: added}]
        remove: [X-Remove]`),
		prove: asks(
			ask{headers: []string{"x-set", "old", "x-add", "old", "x-remove", "old"}, seen: []string{"x-set: set", "x-add: old,added", "-x-remove"}},
			ask{seen: []string{"x-set: set", "x-add: added", "-x-remove"}},
		),
	},
	{
		name: "response-headers", of: "ResponseHeaderModifier sets, adds and removes",
		yaml: filtered("{path: {value: /}}", `
    - type: ResponseHeaderModifier
      responseHeaderModifier:
        set: [{name: X-Set, value: set}]
        add: [{name: X-Add, value: added}]
        remove: [X-Remove]`),
		prove: asks(ask{headers: []string{"x-do", "X-Set=old X-Add=old X-Remove=old"}, want: []string{"x-set: set", "x-add: old,added", "-x-remove"}}),
	},
	{
		name: "backend-headers", of: "filters of a backend are for its share of the requests alone", mesh: versions,
		yaml: httpRoute("r", `
  - backendRefs:
    - name: v1
      port: 80
      filters:
      - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-backend, value: one}]}}
      - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-answer, value: one}]}}
    - name: v2
      port: 80
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-backend, value: two}]}}]`),
		prove: func(x *trial) error {
			both := map[string]bool{}
			for range 40 {
				r, err := x.check(ask{pod: "v"})
				if err != nil {
					return err
				}
				name, _, _ := strings.Cut(r.seen.Pod, "-")
				want := map[string][2]string{"v1": {"one", "one"}, "v2": {"two", ""}}[name]
				if got := [2]string{r.seen.Headers.Get("x-backend"), r.header.Get("x-answer")}; got != want {
					return wrongf("%s saw x-backend, and answered x-answer %q, want %q", name, got, want)
				}
				both[name] = true
			}
			if len(both) != 2 {
				return wrongf("only %v answered", both)
			}
			return nil
		},
	},
}

// redirectRule redirects what begins with a path; it is one rule of a route.
func redirectRule(path, fields string) string {
	return fmt.Sprintf("  - matches: [{path: {value: %s}}]\n    filters: [{type: RequestRedirect, requestRedirect: {%s}}]\n", path, fields)
}

func redirectCase(name, of, path, fields string, list ...ask) testCase {
	return testCase{name: name, of: of, yaml: httpRoute("r", redirectRule(path, fields)), prove: asks(list...)}
}

// moved is what is answered to a path: a status and where to.
func moved(path string, status int, location string) ask {
	return ask{path: path, host: "shop.example", status: status, want: []string{"location: " + location}}
}

var redirectCases = []testCase{
	redirectCase("redirect-scheme", "RequestRedirect to another scheme, and its own port", "/", "scheme: https",
		moved("/a?b=c", 302, "https://shop.example/a?b=c")),
	redirectCase("redirect-host", "RequestRedirect to another host", "/", "hostname: example.org", moved("/a", 302, "http://example.org/a")),
	redirectCase("redirect-port", "RequestRedirect to another port", "/", "port: 8083", moved("/a", 302, "http://shop.example:8083/a")),
	redirectCase("redirect-path-full", "RequestRedirect to another path, and the query stays", "/old", "path: {type: ReplaceFullPath, replaceFullPath: /new}",
		moved("/old/a?q=1", 302, "http://shop.example/new?q=1")),
	redirectCase("redirect-path-prefix", "RequestRedirect with the matched prefix replaced", "/old", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}",
		moved("/old/a?q=1", 302, "http://shop.example/new/a?q=1"), moved("/old", 302, "http://shop.example/new")),
	redirectCase("redirect-path-strip", "RequestRedirect with the matched prefix taken away", "/old", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}",
		moved("/old/a", 302, "http://shop.example/a"), moved("/old", 302, "http://shop.example/")),
	redirectCase("redirect-all", "RequestRedirect of scheme, host, port, path and status at once", "/old",
		"scheme: https, hostname: example.org, port: 8443, statusCode: 301, path: {type: ReplaceFullPath, replaceFullPath: /new}",
		moved("/old", 301, "https://example.org:8443/new")),
	redirectCase("redirect-301", "RequestRedirect with status 301", "/", "statusCode: 301, hostname: example.org", moved("/a", 301, "http://example.org/a")),
	redirectCase("redirect-303", "RequestRedirect with status 303", "/", "statusCode: 303, hostname: example.org", moved("/a", 303, "http://example.org/a")),
	redirectCase("redirect-307", "RequestRedirect with status 307", "/", "statusCode: 307, hostname: example.org", moved("/a", 307, "http://example.org/a")),
	redirectCase("redirect-308", "RequestRedirect with status 308", "/", "statusCode: 308, hostname: example.org", moved("/a", 308, "http://example.org/a")),
}

func rewriteCase(name, of, path, fields string, list ...ask) testCase {
	return testCase{
		name: name, of: of, prove: asks(list...),
		yaml: filtered("{path: {value: "+path+"}}", "    - {type: URLRewrite, urlRewrite: {"+fields+"}}"),
	}
}

var rewriteCases = []testCase{
	rewriteCase("rewrite-host", "URLRewrite of the host", "/", "hostname: inner.example", ask{path: "/a?b", as: "inner.example", at: "/a?b"}),
	rewriteCase("rewrite-path-full", "URLRewrite of the whole path, and the query stays", "/old", "path: {type: ReplaceFullPath, replaceFullPath: /new}",
		ask{path: "/old/a?q=1", at: "/new?q=1"}),
	rewriteCase("rewrite-path-prefix", "URLRewrite of the matched prefix", "/old", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}",
		ask{path: "/old/a?q=1", at: "/new/a?q=1"}, ask{path: "/old", at: "/new"}, ask{path: "/old/", at: "/new/"}),
	rewriteCase("rewrite-path-strip", "URLRewrite that takes the prefix away", "/old", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}",
		ask{path: "/old/a", at: "/a"}, ask{path: "/old", at: "/"}),
	rewriteCase("rewrite-path-root", "URLRewrite of the prefix /", "/", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /base}",
		ask{path: "/a", at: "/base/a"}, ask{path: "/", at: "/base/"}),
	{
		name: "rewrite-and-headers", of: "URLRewrite and RequestHeaderModifier in one rule",
		yaml: filtered("{path: {value: /old}}", `
    - {type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-add, value: added}]}}`),
		prove: asks(ask{path: "/old/a", at: "/new/a", as: "inner.example", seen: []string{"x-add: added"}}),
	},
}

// mirrored proves how many of n requests a service sees copies of.
func mirrored(n, least, most int, to ...string) func(*trial) error {
	return func(x *trial) error {
		for i := range n {
			if _, err := x.check(ask{svc: "echo", method: "POST", path: fmt.Sprintf("/m/%d", i), body: "hello", pod: "echo"}); err != nil {
				return err
			}
		}
		for _, name := range to {
			p := x.pod(name)
			err := eventually(3*time.Second, func() error {
				if got := int(p.count.Load()); got < least || got > most {
					return wrongf("%s saw %d of %d requests, want %d to %d", name, got, n, least, most)
				}
				return nil
			})
			if err != nil {
				return err
			}
			for _, s := range p.requests() {
				if s.Method != "POST" || !strings.HasPrefix(s.Path, "/m/") {
					return wrongf("%s saw a copy %s %s", name, s.Method, s.Path)
				}
			}
		}
		return nil
	}
}

func mirrorTo(name, fields string) string {
	return "    - {type: RequestMirror, requestMirror: {backendRef: {name: " + name + ", port: 80}" + fields + "}}\n"
}

var mirrorCases = []testCase{
	{
		name: "mirror", of: "RequestMirror sends a copy and drops its answer", mesh: versions,
		yaml: filtered("{path: {value: /}}", mirrorTo("v1", "")),
		prove: func(x *trial) error {
			x.pod("v1-1").answer(503)
			return mirrored(10, 10, 10, "v1-1")(x)
		},
	},
	{
		name: "mirror-several", of: "several RequestMirrors of one rule", mesh: versions,
		yaml: filtered("{path: {value: /}}", mirrorTo("v1", "")+mirrorTo("v2", "")), prove: mirrored(10, 10, 10, "v1-1", "v2-1"),
	},
	{
		name: "mirror-percent", of: "RequestMirror of a percentage", mesh: versions,
		yaml: filtered("{path: {value: /}}", mirrorTo("v1", ", percent: 50")), prove: mirrored(200, 70, 130, "v1-1"),
	},
	{
		name: "mirror-fraction", of: "RequestMirror of a fraction", mesh: versions,
		yaml: filtered("{path: {value: /}}", mirrorTo("v1", ", fraction: {numerator: 1, denominator: 4}")), prove: mirrored(200, 25, 80, "v1-1"),
	},
	{
		name: "mirror-slow", of: "a mirror that hangs delays nobody", mesh: versions,
		yaml: filtered("{path: {value: /}}", mirrorTo("v1", "")),
		prove: func(x *trial) error {
			x.nodes.Hang(x.pod("v1-1").addr, true)
			for range 5 {
				if _, err := x.check(ask{pod: "echo", within: time.Second}); err != nil {
					return err
				}
			}
			return eventually(2*time.Second, func() error {
				if x.nodes.Streams(x.pod("v1-1").addr) == 0 {
					return wrongf("no copy was tried to be sent")
				}
				return nil
			})
		},
	},
}

var corsRoute = filtered("{path: {value: /}}", `
    - type: CORS
      cors:
        allowOrigins: ["https://www.foo.com", "https://*.bar.com"]
        allowMethods: [GET, PUT]
        allowHeaders: [X-One, X-Two]
        exposeHeaders: [X-Expose]
        allowCredentials: true
        maxAge: 3600`)

func preflight(origin, method string) ask {
	return ask{method: "OPTIONS", headers: []string{"origin", origin, "access-control-request-method", method}}
}

var corsCases = []testCase{
	{
		name: "cors-preflight", of: "CORS answers a preflight request by itself", yaml: corsRoute,
		prove: func(x *trial) error {
			a := preflight("https://www.foo.com", "PUT")
			a.status = anyStatus // 200 or 204
			a.want = []string{
				"access-control-allow-origin: https://www.foo.com", "access-control-allow-credentials: true",
				"access-control-allow-methods: *", "access-control-allow-headers: *", "access-control-max-age: 3600", "-x-pod",
			}
			r, err := x.check(a)
			if err == nil && r.status != 200 && r.status != 204 {
				return wrongf("status %d", r.status)
			}
			if err == nil && !strings.Contains(r.header.Get("access-control-allow-methods"), "PUT") {
				return wrongf("methods %q", r.header.Get("access-control-allow-methods"))
			}
			return err
		},
	},
	{
		name: "cors-actual", of: "CORS marks the answer to an actual request", yaml: corsRoute,
		prove: asks(ask{
			headers: []string{"origin", "https://www.foo.com"}, pod: "echo",
			want: []string{"access-control-allow-origin: https://www.foo.com", "access-control-allow-credentials: true", "access-control-expose-headers: *"},
		}),
	},
	{
		name: "cors-wildcard", of: "CORS of an origin by a wildcard names that origin", yaml: corsRoute,
		prove: asks(ask{headers: []string{"origin", "https://a.bar.com"}, pod: "echo", want: []string{"access-control-allow-origin: https://a.bar.com"}}),
	},
	{
		name: "cors-denied", of: "CORS tells an origin that is not allowed nothing", yaml: corsRoute,
		twin:  strings.ReplaceAll(corsRoute, "https://www.foo.com", "https://evil.example"),
		prove: asks(ask{headers: []string{"origin", "https://evil.example"}, status: anyStatus, want: []string{"-access-control-allow-origin"}}),
	},
}
