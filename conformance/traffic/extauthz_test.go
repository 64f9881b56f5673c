package traffic

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/conformance/extauthz"
	"cairnproxy.dev/cairn/conformance/loopback"
)

// TestExternalAuthorization asks a service on Envoy's published API, which each waypoint reaches as a
// service of the mesh.
func TestExternalAuthorization(t *testing.T) {
	block, err := loopback.Take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { block.Close() })
	s, err := extauthz.Start(block.Addr(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	cases := slices.Concat(askedCases("grpc"), askedCases("http"), grpcAuthCases, routeAuthCases, backendAuthCases)
	for i := range cases {
		c := &cases[i]
		if c.mesh == nil {
			c.mesh = []svc{{name: "echo"}, {name: "auth"}}
		}
		joined := func(prove func(*trial) error) func(*trial) error {
			return func(x *trial) error {
				for _, p := range x.podsOf("auth") {
					p.forward(x, appGRPC, s.GRPC)
					p.forward(x, appHTTP, s.HTTP)
				}
				return prove(x)
			}
		}
		c.prove = joined(c.prove)
	}
	runGroup(t, "external-authorization", cases)
}

// provider is how a service is asked: by kind, and with further fields of the provider, and of Envoy's filter.
type provider struct {
	kind   string
	fields string // of both kinds
	envoy  obj    // over the filter
	path   string // pattern of what is asked about; "" for all
}

// meshConfig is the entry of MeshConfig's extensionProviders.
func (p provider) meshConfig() string {
	port, kind, more := portGRPC, "envoyExtAuthzGrpc", ""
	if p.kind == "http" {
		port, kind = portHTTP, "envoyExtAuthzHttp"
		more = ", includeRequestHeadersInCheck: [x-auth], headersToUpstreamOnAllow: [x-saw, x-user], headersToDownstreamOnDeny: [x-why], headersToDownstreamOnAllow: [x-down]"
	}
	return fmt.Sprintf("- name: $NS\n  %s: {service: $NS/auth.$NS.svc.cluster.local, port: %d%s%s}\n", kind, port, more, p.fields)
}

// policy is what asks.
func (p provider) policy() string {
	rule := "{}"
	if p.path != "" {
		rule = "{to: [{operation: {paths: [\"" + p.path + "\"]}}]}"
	}
	return "\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: $NS}\nspec:\n  targetRefs: [{group: \"\", kind: Service, name: echo}]\n" +
		"  action: CUSTOM\n  provider: {name: $NS}\n  rules: [" + rule + "]\n"
}

// filter is Envoy's: as istiod has it, an RBAC filter in the shadow marks what is to be asked about.
func (p provider) filter() patch {
	return patch{services: func(x *trial, services []envoyService) []envoyService {
		cluster := func(port uint16) string {
			for _, s := range services {
				if strings.HasPrefix(s.Host, "auth.") && s.Addr.Port() == port {
					return s.ClusterName()
				}
			}
			return ""
		}
		exact := func(names ...string) obj {
			var l list
			for _, n := range names {
				l = append(l, obj{"exact": n, "ignore_case": true})
			}
			return obj{"patterns": l}
		}
		cfg := obj{"transport_api_version": "V3"}
		if p.kind == "grpc" {
			cfg["grpc_service"] = obj{"envoy_grpc": obj{"cluster_name": cluster(portGRPC), "authority": "auth"}, "timeout": "10s"}
		} else {
			cfg["allowed_headers"] = exact("x-auth")
			cfg["http_service"] = obj{
				"server_uri": obj{"uri": "http://auth", "cluster": cluster(portHTTP), "timeout": "10s"},
				"authorization_response": obj{
					"allowed_upstream_headers": exact("x-saw", "x-user"), "allowed_client_headers": exact("x-why"), "allowed_client_headers_on_success": exact("x-down"),
				},
			}
		}
		cfg = merged(cfg, p.envoy)
		var rbac list
		if p.path != "" {
			cfg["filter_enabled_metadata"] = obj{
				"filter": "envoy.filters.http.rbac", "path": list{obj{"key": "istio_ext_authz_shadow_effective_policy_id"}},
				"value": obj{"string_match": obj{"prefix": "istio-ext-authz"}},
			}
			rbac = list{obj{"name": "envoy.filters.http.rbac", "typed_config": ext("envoy.extensions.filters.http.rbac.v3.RBAC", obj{
				"shadow_rules_stat_prefix": "istio_ext_authz_",
				"shadow_rules": obj{"action": "DENY", "policies": obj{"istio-ext-authz-p": obj{
					"permissions": list{obj{"url_path": obj{"path": obj{"prefix": strings.TrimSuffix(p.path, "*")}}}}, "principals": list{obj{"any": true}},
				}}},
			})}}
		}
		for i := range services {
			if strings.HasPrefix(services[i].Host, "echo.") {
				services[i].Filters = append(append(rbac, services[i].Filters...), obj{"name": "envoy.filters.http.ext_authz", "typed_config": ext("envoy.extensions.filters.http.ext_authz.v3.ExtAuthz", cfg)})
			}
		}
		return services
	}}
}

// timeout is the filter's, of either kind.
func (p provider) timeout(d string) provider {
	p.fields += ", timeout: " + d
	of := obj{"grpc_service": obj{"timeout": d}}
	if p.kind == "http" {
		of = obj{"http_service": obj{"server_uri": obj{"timeout": d}}}
	}
	p.envoy = merged(p.envoy, of)
	return p
}

func (p provider) open() provider {
	p.fields += ", failOpen: true"
	p.envoy = merged(p.envoy, obj{"failure_mode_allow": true})
	return p
}

func (p provider) body(n int, partial bool) provider {
	p.fields += fmt.Sprintf(", includeRequestBodyInCheck: {maxRequestBytes: %d, allowPartialMessage: %t, packAsBytes: %t}", n, partial, p.kind == "grpc")
	p.envoy = merged(p.envoy, obj{"with_request_body": obj{"max_request_bytes": n, "allow_partial_message": partial, "pack_as_bytes": p.kind == "grpc"}})
	return p
}

// asked is a case in which the provider is asked; its twin has no policy.
func (p provider) asked(name, of string, prove func(*trial) error) testCase {
	return testCase{
		name: "ext-" + p.kind + "-" + name, of: of + ", by " + map[string]string{"grpc": "gRPC", "http": "HTTP"}[p.kind],
		provider: p.meshConfig(), providerTwin: p.meshConfig(), yaml: p.policy(), envoy: p.filter(), prove: prove,
	}
}

// unlike has another provider in its twin.
func (p provider) unlike(twin provider, c testCase) testCase {
	c.providerTwin, c.twin, c.envoyTwin = twin.meshConfig(), twin.policy(), twin.filter()
	return c
}

// orders are the header that tells the service what to do.
func orders(words string) []string { return []string{"x-auth", words} }

// askedCases are those of both kinds.
func askedCases(kind string) []testCase {
	p := provider{kind: kind}
	protocol := ""
	if kind == "grpc" {
		protocol = " HTTP/1.1"
	}
	saw := func(text, partial string) string {
		return "x-saw: " + strings.TrimRight(text+" "+partial+protocol, " ")
	}
	admin := p
	admin.path = "/admin*"
	failing := p
	failing.fields, failing.envoy = ", statusOnError: \"503\"", obj{"status_on_error": obj{"code": 503}}
	post := func(n int, a ask) ask {
		a.method, a.path, a.body, a.headers = "POST", "/up", strings.Repeat("a", n), append(a.headers, "x-auth", "pass")
		return a
	}
	return []testCase{
		p.asked("allow", "a provider is asked and lets pass", asks(ask{path: "/a?b=c", host: "shop.example", seen: []string{saw("GET shop.example /a?b=c 0", "")}})),
		p.asked("deny", "a provider refuses, with its status, headers and body", asks(
			ask{headers: orders("deny=401 why=because"), status: 401, want: []string{"x-why: because"}, text: "refused by auth"},
			ask{headers: orders("deny=302"), status: 302},
		)),
		p.asked("up", "a provider sets a header of the request, whatever the client says", asks(ask{headers: append(orders("user=alice"), "x-user", "mallory"), seen: []string{"x-user: alice"}})),
		p.asked("strip", "a provider removes a header of the request", asks(ask{headers: append(orders("strip=x-secret"), "x-secret", "a"), seen: []string{"-x-secret"}})),
		p.asked("down", "a provider adds a header to the response", asks(ask{headers: orders("down=1"), want: []string{"x-down: 1"}})),
		p.body(100, false).asked("body", "the whole body is sent along", steps(asks(
			post(100, ask{seen: []string{saw("POST echo /up 100", "false")}}),
		), bodyArrives(100))),
		p.body(100, true).asked("body-part", "the beginning of a body is sent along, and all of it to the service", steps(asks(
			post(5000, ask{seen: []string{saw("POST echo /up 100", "true")}}),
		), bodyArrives(5000))),
		p.body(100, false).asked("body-large", "a body that is too large is refused with 413", asks(post(101, ask{status: 413}))),
		p.timeout("0.3s").asked("late", "a provider that does not answer in time refuses", asks(ask{headers: orders("wait=3s"), status: 403, within: 2 * time.Second})),
		p.timeout("0.3s").open().unlike(p.timeout("0.3s"), p.timeout("0.3s").open().asked("late-open", "with failOpen a provider that does not answer in time lets pass", asks(ask{headers: orders("wait=3s"), pod: "echo-1", within: 2 * time.Second}))),
		p.asked("away", "a provider that is away refuses", authAway(ask{status: 403})),
		p.open().unlike(p, p.open().asked("away-open", "with failOpen a provider that is away lets pass", authAway(ask{pod: "echo-1"}))),
		p.asked("error", "a provider that cannot tell refuses", asks(ask{headers: orders("error"), status: 403})),
		failing.asked("error-status", "without an answer statusOnError is answered", asks(ask{headers: orders("error"), status: 503})),
		admin.asked("paths", "only what a CUSTOM policy matches is asked about", asks(
			ask{path: "/admin/a", seen: []string{saw("GET echo /admin/a 0", "")}}, ask{path: "/admin/a", headers: orders("deny=401"), status: 401},
			ask{path: "/free", headers: orders("deny=401"), seen: []string{"-x-saw"}},
		)),
	}
}

// bodyArrives proves that the pod got all of the last body.
func bodyArrives(n int) func(*trial) error {
	return func(x *trial) error {
		r, err := x.check(ask{method: "POST", path: "/whole", body: strings.Repeat("a", n)})
		if err != nil {
			return err
		}
		if r.seen.Body != int64(n) {
			return wrongf("the pod got %d bytes, want %d", r.seen.Body, n)
		}
		return nil
	}
}

// authAway lets the node proxy of the provider refuse connections.
func authAway(a ask) func(*trial) error {
	return func(x *trial) error {
		x.pod("auth-1").refuse(x, true)
		return eventually(3*time.Second, func() error { _, err := x.check(a); return err })
	}
}

var byGRPC = provider{kind: "grpc"}

var grpcAuthCases = []testCase{
	byGRPC.asked("query", "a provider sets a parameter of the query", asks(ask{path: "/a?q=old", headers: orders("query=new"), at: "/a?q=new"})),
	alone(byGRPC.asked("identity", "the provider is told who asks, by SPIFFE identity", func(x *trial) error {
		_, err := x.check(ask{seen: []string{"x-peer: " + identityOf(x.ns, "client")}})
		return err
	}), "it tells of no peer behind a tunnel"),
	byGRPC.asked("h2", "requests of HTTP/2, with bodies in a window's way", func(x *trial) error {
		r, err := x.check(ask{method: "POST", path: "/a", body: strings.Repeat("a", 300_000), h2: true, seen: []string{"x-saw: POST echo /a 0  HTTP/2"}})
		if err == nil && r.seen.Body != 300_000 {
			err = wrongf("the pod got %d bytes", r.seen.Body)
		}
		return err
	}),
	byGRPC.body(1<<20, false).asked("h2-body", "a body larger than HTTP/2's window is held", func(x *trial) error {
		r, err := x.check(ask{method: "POST", path: "/a", body: strings.Repeat("a", 300_000), h2: true, seen: []string{"x-saw: POST echo /a 300000 false HTTP/2"}})
		if err == nil && r.seen.Body != 300_000 {
			err = wrongf("the pod got %d bytes", r.seen.Body)
		}
		return err
	}),
	alone(byGRPC.unlike(byGRPC, testCase{
		name: "ext-grpc-unknown", of: "a provider that is not there refuses what the policy matches, and nothing else", yaml: strings.Replace(provider{path: "/admin*"}.policy(), "name: $NS}", "name: nobody}", 1),
		prove: asks(ask{path: "/admin", status: 403}, ask{path: "/free"}),
	}), "a filter without a service is an error of its configuration"),
}

func alone(c testCase, why string) testCase {
	c.alone = why
	return c
}

// routeAuth is an HTTPRoute whose rule asks.
func routeAuth(fields string) string {
	return filtered("{path: {value: /}}", "\n    - type: ExternalAuth\n      externalAuth: {"+fields+"}")
}

var routeAuthCases = []testCase{
	{
		name: "ext-route-grpc", of: "HTTPRoute's ExternalAuth by gRPC: the service's answer decides",
		yaml: routeAuth("protocol: GRPC, backendRef: {name: auth, port: 81}"), twin: filtered("{path: {value: /}}", "\n    - type: RequestHeaderModifier\n      requestHeaderModifier: {remove: [x-a]}"),
		envoy: byGRPC.filter(),
		prove: asks(ask{path: "/a", seen: []string{"x-saw: GET echo /a 0  HTTP/1.1"}}, ask{headers: orders("deny=401"), status: 401, text: "refused by auth"}),
	},
	{
		name: "ext-route-http", of: "HTTPRoute's ExternalAuth by HTTP, with a path and lists of headers",
		yaml:  routeAuth("protocol: HTTP, backendRef: {name: auth, port: 80}, http: {path: /check, allowedHeaders: [x-auth], allowedResponseHeaders: [x-saw]}"),
		twin:  routeAuth("protocol: HTTP, backendRef: {name: auth, port: 80}"),
		envoy: provider{kind: "http", envoy: obj{"http_service": obj{"path_prefix": "/check"}}}.filter(), envoyTwin: provider{kind: "http"}.filter(),
		prove: asks(ask{path: "/a", seen: []string{"x-saw: GET echo /check/a 0"}}, ask{headers: orders("deny=401"), status: 401, text: "refused by auth"}),
	},
	{
		name: "ext-route-missing", of: "an ExternalAuth filter whose service does not exist fails closed", alone: "a cluster that is not there is an error of its configuration",
		yaml: routeAuth("protocol: GRPC, backendRef: {name: nobody, port: 81}"), twin: routeAuth("protocol: GRPC, backendRef: {name: auth, port: 81}"),
		prove: asks(ask{status: 500}),
	},
}
