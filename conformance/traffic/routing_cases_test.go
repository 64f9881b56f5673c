package traffic

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestRouting(t *testing.T) {
	runGroup(t, "routing", slices.Concat(matchCases, precedenceCases, backendCases))
}

var versions = []svc{{name: "echo"}, {name: "v1"}, {name: "v2"}}

// httpRoute is an HTTPRoute of the HTTP port of the service echo with these rules.
func httpRoute(name, rules string) string {
	return routeOf("HTTPRoute", name, `{group: "", kind: Service, name: echo, port: 80}`, rules)
}

func routeOf(kind, name, parent, rules string) string {
	return fmt.Sprintf("\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: %s\nmetadata: {name: %s, namespace: $NS}\nspec:\n  parentRefs: [%s]\n  rules:\n%s\n",
		kind, name, parent, strings.TrimRight(strings.TrimLeft(rules, "\n"), "\n"))
}

// toV1 is a route whose first rule, with these matches, leads to v1, and whose second
// leads everything else to v2.
func toV1(matches string) string {
	return httpRoute("r", "  - matches: ["+matches+"]\n    backendRefs: [{name: v1, port: 80}]\n  - backendRefs: [{name: v2, port: 80}]")
}

var matchCases = []testCase{
	{
		name: "path-exact", of: "a path that is matched exactly", mesh: versions,
		yaml: toV1("{path: {type: Exact, value: /one}}"),
		prove: asks(
			ask{path: "/one", pod: "v1"}, ask{path: "/one?x=1", pod: "v1"},
			ask{path: "/one/", pod: "v2"}, ask{path: "/One", pod: "v2"}, ask{path: "/one/two", pod: "v2"},
		),
	},
	{
		name: "path-prefix", of: "a path prefix, by whole elements", mesh: versions,
		yaml: toV1("{path: {type: PathPrefix, value: /one}}"),
		prove: asks(
			ask{path: "/one", pod: "v1"}, ask{path: "/one/", pod: "v1"}, ask{path: "/one/two?x", pod: "v1"},
			ask{path: "/onetwo", pod: "v2"}, ask{path: "/", pod: "v2"}, ask{path: "/two/one", pod: "v2"},
		),
	},
	{
		name: "path-prefix-slash", of: "a prefix that ends in a slash is the same without", mesh: versions,
		yaml:  toV1("{path: {type: PathPrefix, value: /one/}}"),
		prove: asks(ask{path: "/one", pod: "v1"}, ask{path: "/one/two", pod: "v1"}, ask{path: "/onetwo", pod: "v2"}),
	},
	{
		name: "path-regex", of: "a path by a regular expression over the whole of it", mesh: versions,
		yaml: toV1(`{path: {type: RegularExpression, value: "/v[0-9]+/users"}}`),
		prove: asks(
			ask{path: "/v1/users", pod: "v1"}, ask{path: "/v22/users?x=/", pod: "v1"},
			ask{path: "/v1/users/7", pod: "v2"}, ask{path: "/api/v1/users", pod: "v2"}, ask{path: "/vx/users", pod: "v2"},
		),
	},
	{
		name: "method", of: "a method", mesh: versions, yaml: toV1("{method: POST}"),
		prove: asks(ask{method: "POST", pod: "v1"}, ask{method: "GET", pod: "v2"}, ask{method: "PUT", pod: "v2"}),
	},
	{
		name: "header-exact", of: "a header's exact value, its name in any case", mesh: versions,
		yaml: toV1("{headers: [{name: X-Kind, value: one}]}"),
		prove: asks(
			ask{headers: []string{"x-kind", "one"}, pod: "v1"}, ask{headers: []string{"X-KIND", "one"}, pod: "v1"},
			ask{headers: []string{"x-kind", "One"}, pod: "v2"}, ask{headers: []string{"x-kind", "one1"}, pod: "v2"}, ask{pod: "v2"},
		),
	},
	{
		name: "header-regex", of: "a header by a regular expression", mesh: versions,
		yaml: toV1(`{headers: [{name: x-kind, type: RegularExpression, value: "o.*e"}]}`),
		prove: asks(
			ask{headers: []string{"x-kind", "one"}, pod: "v1"}, ask{headers: []string{"x-kind", "orange"}, pod: "v1"},
			ask{headers: []string{"x-kind", "lone"}, pod: "v2"}, ask{headers: []string{"x-kind", "ones"}, pod: "v2"},
		),
	},
	{
		name: "headers-and", of: "all headers of a match must agree, and any match of a rule", mesh: versions,
		yaml: toV1("{headers: [{name: a, value: '1'}, {name: b, value: '2'}]}, {headers: [{name: c, value: '3'}]}"),
		prove: asks(
			ask{headers: []string{"a", "1", "b", "2"}, pod: "v1"}, ask{headers: []string{"c", "3"}, pod: "v1"},
			ask{headers: []string{"a", "1"}, pod: "v2"}, ask{headers: []string{"b", "2"}, pod: "v2"},
		),
	},
	{
		name: "query-exact", of: "a query parameter's exact value", mesh: versions,
		yaml: toV1("{queryParams: [{name: kind, value: one}]}"),
		prove: asks(
			ask{path: "/?kind=one", pod: "v1"}, ask{path: "/x?a=b&kind=one&c", pod: "v1"},
			ask{path: "/?kind=two", pod: "v2"}, ask{path: "/?Kind=one", pod: "v2"}, ask{path: "/?xkind=one", pod: "v2"}, ask{path: "/", pod: "v2"},
		),
	},
	{
		name: "query-regex", of: "a query parameter by a regular expression", mesh: versions,
		yaml:  toV1(`{queryParams: [{name: kind, type: RegularExpression, value: "on[ce]"}]}`),
		prove: asks(ask{path: "/?kind=once", pod: "v2"}, ask{path: "/?kind=one", pod: "v1"}, ask{path: "/?kind=onc", pod: "v1"}, ask{path: "/?kind=xone", pod: "v2"}),
	},
	{
		name: "no-rule", of: "a request that no rule of the routes matches is answered 404",
		yaml:  httpRoute("r", "  - matches: [{path: {value: /one}}]\n    backendRefs: [{name: echo, port: 80}]"),
		prove: asks(ask{path: "/one", status: 200}, ask{path: "/two", status: 404}),
	},
	{
		name: "several-at-once", of: "path, method, header and query of one match together", mesh: versions,
		yaml: toV1("{path: {value: /one}, method: PUT, headers: [{name: a, value: '1'}], queryParams: [{name: q, value: '2'}]}"),
		prove: asks(
			ask{method: "PUT", path: "/one/x?q=2", headers: []string{"a", "1"}, pod: "v1"},
			ask{method: "GET", path: "/one/x?q=2", headers: []string{"a", "1"}, pod: "v2"},
			ask{method: "PUT", path: "/one/x?q=3", headers: []string{"a", "1"}, pod: "v2"},
			ask{method: "PUT", path: "/one/x?q=2", pod: "v2"}, ask{method: "PUT", path: "/x?q=2", headers: []string{"a", "1"}, pod: "v2"},
		),
	},
}

// oneRule is a route of one rule to a service.
func oneRule(name, matches, to string) string {
	return httpRoute(name, "  - matches: ["+matches+"]\n    backendRefs: [{name: "+to+", port: 80}]")
}

var precedenceCases = []testCase{
	{
		name: "precedence-path", of: "exact before prefix, the longer prefix first, whatever the order of rules", mesh: append([]svc{{name: "v3"}}, versions...),
		yaml: strings.ReplaceAll(httpRoute("r", `
  - backendRefs: [{name: echo, port: 80}]
  - matches: [{path: {value: /a}}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /a/b}}]
    backendRefs: [{name: v2, port: 80}]
  - matches: [{path: {type: Exact, value: /a/b/c}}]
    backendRefs: [{name: v3, port: 80}]`), "name: echo, port: 80}]\n  rules", "name: echo, port: 80}]\n  rules"),
		prove: asks(
			ask{svc: "echo", path: "/a/b/c", pod: "v3"}, ask{svc: "echo", path: "/a/b/c/d", pod: "v2"}, ask{svc: "echo", path: "/a/x", pod: "v1"},
			ask{svc: "echo", path: "/x", pod: "echo"},
		),
	},
	{
		name: "precedence-method", of: "among equal paths a method first, then the most headers, then the most query parameters", mesh: append([]svc{{name: "v3"}, {name: "v4"}}, versions...),
		yaml: httpRoute("r", `
  - matches: [{path: {value: /a}}]
    backendRefs: [{name: echo, port: 80}]
  - matches: [{path: {value: /a}, queryParams: [{name: q, value: "1"}, {name: r, value: "1"}]}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /a}, headers: [{name: h, value: "1"}]}]
    backendRefs: [{name: v2, port: 80}]
  - matches: [{path: {value: /a}, headers: [{name: h, value: "1"}, {name: i, value: "1"}]}]
    backendRefs: [{name: v3, port: 80}]
  - matches: [{path: {value: /a}, method: GET}]
    backendRefs: [{name: v4, port: 80}]`),
		prove: asks(
			ask{svc: "echo", method: "PUT", path: "/a?q=1&r=1", pod: "v1"},
			ask{svc: "echo", method: "PUT", path: "/a?q=1&r=1", headers: []string{"h", "1"}, pod: "v2"},
			ask{svc: "echo", method: "PUT", path: "/a?q=1&r=1", headers: []string{"h", "1", "i", "1"}, pod: "v3"},
			ask{svc: "echo", path: "/a?q=1&r=1", headers: []string{"h", "1", "i", "1"}, pod: "v4"},
			ask{svc: "echo", method: "PUT", path: "/a", pod: "echo"},
		),
	},
	{
		name: "precedence-routes", of: "rules of several routes on one service are ordered together", mesh: versions,
		yaml: oneRule("a", "{path: {value: /a}}", "v1") + oneRule("b", "{path: {value: /a/b}}", "v2") + oneRule("c", "{path: {value: /}}", "echo"),
		prove: asks(
			ask{path: "/a/b", pod: "v2"}, ask{path: "/a", pod: "v1"}, ask{path: "/x", pod: "echo"},
		),
	},
	{
		name: "precedence-age", of: "of equal matches in two routes the older route wins, then the first by name", mesh: versions,
		yaml: strings.ReplaceAll(oneRule("a", "{path: {value: /age}}", "v2"), "{name: a,", `{name: a, creationTimestamp: "2026-02-01T00:00:00Z",`) +
			strings.ReplaceAll(oneRule("b", "{path: {value: /age}}", "v1"), "{name: b,", `{name: b, creationTimestamp: "2026-01-01T00:00:00Z",`) +
			oneRule("d", "{path: {value: /name}}", "v2") + oneRule("c", "{path: {value: /name}}", "v1"),
		prove: asks(ask{path: "/age", pod: "v1"}, ask{path: "/name", pod: "v1"}),
	},
	{
		name: "precedence-rule-order", of: "of equal matches in one route the first rule wins", mesh: versions,
		yaml: httpRoute("r", `
  - matches: [{headers: [{name: a, value: "1"}]}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{headers: [{name: b, value: "1"}]}]
    backendRefs: [{name: v2, port: 80}]`),
		prove: asks(ask{headers: []string{"a", "1", "b", "1"}, pod: "v1"}, ask{headers: []string{"b", "1"}, pod: "v2"}),
	},
	{
		name: "named-rules", of: "rules may have names, which change nothing in what they match", mesh: versions,
		yaml: httpRoute("r", `
  - name: first
    matches: [{path: {value: /named}}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {value: /unnamed}}]
    backendRefs: [{name: v2, port: 80}]`),
		prove: asks(ask{path: "/named", pod: "v1"}, ask{path: "/unnamed", pod: "v2"}),
	},
}

// share proves how often services answer of n requests, in percent, give or take 12
// in a hundred for chance.
func share(n int, a ask, want map[string]int) func(*trial) error {
	return func(x *trial) error {
		got, err := x.spread(n, a)
		if err != nil {
			return err
		}
		sums := map[string]int{}
		for pod, count := range got {
			name, _, _ := strings.Cut(pod, "-")
			sums[name] += count
		}
		for name, percent := range want {
			if d := sums[name]*100/n - percent; d < -12 || d > 12 || percent == 0 && sums[name] > 0 {
				return wrongf("of %d requests %v were answered, want %v percent", n, sums, want)
			}
		}
		return nil
	}
}

var backendCases = []testCase{
	{
		name: "weights", of: "a rule's backends share the requests by weight, and one of weight 0 gets none", mesh: append([]svc{{name: "v3"}}, versions...),
		yaml:  httpRoute("r", "  - backendRefs: [{name: v1, port: 80, weight: 70}, {name: v2, port: 80, weight: 30}, {name: v3, port: 80, weight: 0}]"),
		prove: share(300, ask{svc: "echo"}, map[string]int{"v1": 70, "v2": 30, "v3": 0}),
	},
	{
		name: "weight-all-zero", of: "backends that all have weight 0 answer 500", mesh: versions,
		yaml:  httpRoute("r", "  - backendRefs: [{name: v1, port: 80, weight: 0}, {name: v2, port: 80, weight: 0}]"),
		prove: asks(ask{status: 500}),
	},
	{
		name: "no-backend", of: "a rule without backends answers 500",
		yaml:  httpRoute("r", "  - matches: [{path: {value: /x}}]"),
		prove: asks(ask{path: "/x", status: 500}),
	},
	{
		name: "backend-missing", of: "a backend that does not exist answers 500, and the other rules serve", mesh: versions,
		yaml: httpRoute("r", `
  - matches: [{path: {value: /missing}}]
    backendRefs: [{name: nobody, port: 80}]
  - matches: [{path: {value: /port}}]
    backendRefs: [{name: v1, port: 1234}]
  - backendRefs: [{name: v2, port: 80}]`),
		prove: asks(ask{path: "/missing", status: 500}, ask{path: "/port", status: 500}, ask{path: "/x", pod: "v2"}),
	},
	{
		name: "backend-missing-share", of: "a backend that does not exist answers 500 for its share", mesh: versions,
		yaml:  httpRoute("r", "  - backendRefs: [{name: v1, port: 80, weight: 1}, {name: nobody, port: 80, weight: 1}]"),
		prove: share(200, ask{}, map[string]int{"v1": 50, "500": 50}),
	},
	{
		name: "reference-grant", of: "a backend of another namespace, which permits it", mesh: []svc{{name: "echo"}, {name: "far", ns: "-far"}},
		keep: httpRoute("r", "  - backendRefs: [{name: far, namespace: $NS-far, port: 80}]"),
		yaml: `
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: grant, namespace: $NS-far}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: $NS}]
  to: [{group: "", kind: Service}]
`,
		prove: asks(ask{pod: "far"}),
	},
	{
		name: "reference-no-grant", of: "a backend of another namespace that does not permit it answers 500", mesh: []svc{{name: "echo"}, {name: "far", ns: "-far"}},
		keep: httpRoute("r", "  - backendRefs: [{name: far, namespace: $NS-far, port: 80}]"),
		twin: `
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: grant, namespace: $NS-far}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: $NS}]
  to: [{group: "", kind: Service}]
`,
		prove: asks(ask{status: 500}),
	},
	{
		name: "consumer-route", of: "a route in the clients' namespace is for the clients of that namespace, told by their SPIFFE identity", mesh: []svc{{name: "echo"}, {name: "other", ns: "-consumer"}},
		yaml: strings.ReplaceAll(routeOf("HTTPRoute", "r", `{group: "", kind: Service, name: echo, namespace: $NS}`,
			"  - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-set, value: consumer}]}}]\n    backendRefs: [{name: echo, namespace: $NS, port: 80}]"),
			"{name: r, namespace: $NS}", "{name: r, namespace: $NS-consumer}"),
		prove: func(x *trial) error {
			if _, err := x.check(ask{ns: x.ns + "-consumer", want: []string{"x-set: consumer"}}); err != nil {
				return err
			}
			_, err := x.check(ask{want: []string{"-x-set"}})
			return err
		},
	},
	{
		name: "by-address", of: "routes are found by the service's address, not by the Host header", mesh: versions,
		yaml: oneRule("r", "{path: {value: /}}", "v1"),
		prove: asks(
			ask{host: "v2", pod: "v1"}, ask{host: "anything.example", pod: "v1"}, ask{svc: "v2", host: "echo", pod: "v2"},
		),
	},
	{
		name: "parent-port", of: "a route on one port of a service is not for the others", mesh: []svc{{name: "echo", ports: []svcPort{{"http", 80, appHTTP, "http"}, {"alt", 90, appHTTP, "http"}}}, {name: "v1"}},
		yaml:  oneRule("r", "{path: {value: /}}", "v1"),
		prove: asks(ask{pod: "v1"}, ask{port: 90, pod: "echo"}),
	},
	{
		name: "parent-all-ports", of: "a route without a port is for all ports of the service", mesh: []svc{{name: "echo", ports: []svcPort{{"http", 80, appHTTP, "http"}, {"alt", 90, appHTTP, "http"}}}, {name: "v1"}},
		yaml:  routeOf("HTTPRoute", "r", `{group: "", kind: Service, name: echo}`, "  - backendRefs: [{name: v1, port: 80}]"),
		prove: asks(ask{pod: "v1"}, ask{port: 90, pod: "v1"}),
	},
	{
		name: "parents-two", of: "a route may have several services as parents", mesh: versions,
		yaml:  routeOf("HTTPRoute", "r", `{group: "", kind: Service, name: echo, port: 80}, {group: "", kind: Service, name: v2, port: 80}`, "  - backendRefs: [{name: v1, port: 80}]"),
		prove: asks(ask{pod: "v1"}, ask{svc: "v2", pod: "v1"}),
	},
}
