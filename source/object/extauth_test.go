package object_test

import (
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source/object"
	"github.com/google/go-cmp/cmp"
)

const authService = `---
apiVersion: v1
kind: Service
metadata: {name: authz, namespace: auth}
spec:
  selector: {app: authz}
  ports: [{name: grpc, port: 9000}, {name: http, port: 8000}]
`

// withProviders is a CUSTOM policy that names provider x, and a MeshConfig with these providers.
func withProviders(providers string) string {
	return `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p}
spec:
  targetRefs: [{kind: Service, name: web}]
  action: CUSTOM
  provider: {name: x}
  rules: [{to: [{operation: {paths: [/admin*]}}]}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
    extensionProviders:
    - name: traces
      opentelemetry: {service: otel.obs.svc.cluster.local, port: 4317, whatever: 1}
    ` + strings.ReplaceAll(strings.TrimSpace(providers), "\n", "\n    ") + "\n" + authService + svc
}

var authKey = mesh.ServiceKey{Namespace: "auth", Hostname: "authz.auth.svc.cluster.local"}

func TestProviders(t *testing.T) {
	const full = `
- name: x
  envoyExtAuthzHttp:
    service: auth/authz.auth.svc.cluster.local
    port: 8000
    timeout: 0.5s
    failOpen: true
    clearRouteCache: true
    statusOnError: "503"
    pathPrefix: /check
    includeRequestHeadersInCheck: [X-User, "x-auth-*"]
    includeAdditionalHeadersInCheck: {X-From: cairn}
    headersToUpstreamOnAllow: [x-who]
    headersToDownstreamOnDeny: [x-why]
    headersToDownstreamOnAllow: [set-cookie]
    includeRequestBodyInCheck: {maxRequestBytes: 100, allowPartialMessage: true, packAsBytes: true}`
	for _, tt := range []struct {
		name, text string
		want       *mesh.ExtAuthz
	}{
		{"grpc", "- name: x\n  envoyExtAuthzGrpc: {service: auth/authz.auth.svc.cluster.local, port: 9000}", &mesh.ExtAuthz{Name: "x", Service: authKey, Port: 9000, GRPC: true}},
		{"no_namespace", "- name: x\n  envoyExtAuthzGrpc: {service: authz.auth.svc.cluster.local, port: 9000}", &mesh.ExtAuthz{Name: "x", Service: authKey, Port: 9000, GRPC: true}},
		{"http", full, &mesh.ExtAuthz{
			Name: "x", Service: authKey, Port: 8000, PathPrefix: "/check", Timeout: 500 * time.Millisecond, FailOpen: true, StatusOnError: 503,
			RequestHeaders: []string{"x-user", "x-auth-*"}, AddHeaders: []mesh.Field{{Name: "x-from", Value: "cairn"}},
			UpstreamOnAllow: []string{"x-who"}, DownstreamOnDeny: []string{"x-why"}, DownstreamOnAllow: []string{"set-cookie"},
			Body: 100, PartialBody: true, PackAsBytes: true,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res, _ := translate(t, "f.yaml", withProviders(tt.text), object.Options{})
			if len(res.Problems) > 0 {
				t.Fatal(res.Problems)
			}
			p := res.Parts.Policies[0]
			if diff := cmp.Diff(tt.want, p.Provider); diff != "" || p.Invalid != "" {
				t.Errorf("invalid %q; -want +got:\n%s", p.Invalid, diff)
			}
		})
	}
}

// What is wrong with a provider is told at the policy that names it, and the policy refuses what it matches.
func TestProviderProblems(t *testing.T) {
	grpc := func(fields string) string {
		return "- name: x\n  envoyExtAuthzGrpc: {" + fields + "}"
	}
	http := func(fields string) string {
		return "- name: x\n  envoyExtAuthzHttp: {service: auth/authz.auth.svc.cluster.local, port: 8000, " + fields + "}"
	}
	for _, tt := range []struct{ name, text, want string }{
		{"none", "", "there is no extension provider"},
		{"other_kind", "- {name: x, zipkin: {service: a, port: 1}}", "not for external authorization; name one"},
		{"both", grpc("port: 1") + "\n  envoyExtAuthzHttp: {}", "exclude each other; remove one"},
		{"twice", grpc("service: auth/authz.auth.svc.cluster.local, port: 9000") + "\n" + grpc(""), "several extension providers of this name; rename"},
		{"no_service", grpc("port: 9000"), "envoyExtAuthzGrpc.service: it names no service; write"},
		{"service_unknown", grpc("service: auth/nobody.auth.svc, port: 9000"), "no Service or ServiceEntry has host"},
		{"no_port", grpc("service: auth/authz.auth.svc.cluster.local"), "envoyExtAuthzGrpc.port: 0 is not a port; use"},
		{"port_unknown", grpc("service: auth/authz.auth.svc.cluster.local, port: 1"), "has no TCP port 1"},
		{"unknown_field", grpc("service: a, prot: 1"), "extensionProviders[1].envoyExtAuthzGrpc.prot: "},
		{"timeout", http("timeout: soon"), "envoyExtAuthzHttp.timeout: \"soon\" is no duration"},
		{"timeout_zero", http("timeout: 0s"), "envoyExtAuthzHttp.timeout"},
		{"status", http("statusOnError: \"700\""), "use 200 to 599"},
		{"prefix", http("pathPrefix: check"), "begin with /"},
		{"header", http("headersToUpstreamOnAllow: [\"a b\"]"), "headersToUpstreamOnAllow[0]"},
		{"header_stars", http("headersToUpstreamOnAllow: [\"a*b*\"]"), "headersToUpstreamOnAllow[0]"},
		{"added", http("includeAdditionalHeadersInCheck: {x-a: \"1\\r\\n\"}"), "includeAdditionalHeadersInCheck"},
		{"body", http("includeRequestBodyInCheck: {maxRequestBytes: 0}"), "maxRequestBytes: 0 is out of range; use"},
		{"grpc_http", grpc("service: auth/authz.auth.svc.cluster.local, port: 9000, pathPrefix: /a"), "are of envoyExtAuthzHttp alone; remove"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res, _ := translate(t, "f.yaml", withProviders(tt.text), object.Options{})
			if len(res.Problems) != 1 {
				t.Fatalf("%d problems: %v", len(res.Problems), res.Problems)
			}
			p := res.Problems[0]
			if p.Object != "AuthorizationPolicy default/p" || p.Field != "spec.provider.name" || !strings.Contains(p.Message, tt.want) || !p.Served {
				t.Errorf("got %+v, want %q, and that the rest is served", p, tt.want)
			}
			if m := res.Parts.Policies[0]; m.Provider == nil || m.Provider.Broken != p.Message || m.Invalid != "" {
				t.Errorf("provider %+v, invalid %q; want it broken", m.Provider, m.Invalid)
			}
		})
	}
}

func TestExternalAuth(t *testing.T) {
	route := func(filter string) string {
		return "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  parentRefs: [{group: \"\", kind: Service, name: web}]\n  rules:\n" +
			"  - filters:\n    - type: ExternalAuth\n      externalAuth: {" + filter + "}\n    backendRefs: [{name: web, port: 80}]\n" + authService +
			"---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: auth}\nspec:\n" +
			"  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]\n  to: [{group: \"\", kind: Service}]\n" + svc
	}
	for _, tt := range []struct {
		name, filter string
		want         *mesh.ExtAuthz
		broken       string
	}{
		{"grpc", "protocol: GRPC, backendRef: {name: authz, namespace: auth, port: 9000}, grpc: {allowedHeaders: [X-User]}, forwardBody: {maxSize: 100}", &mesh.ExtAuthz{Service: authKey, Port: 9000, GRPC: true, RequestHeaders: []string{"x-user"}, Body: 100, PackAsBytes: true}, ""},
		{"http", "protocol: HTTP, backendRef: {name: authz, namespace: auth, port: 8000}, http: {path: check, allowedResponseHeaders: [X-Who]}", &mesh.ExtAuthz{Service: authKey, Port: 8000, PathPrefix: "/check", UpstreamOnAllow: []string{"x-who"}}, ""},
		{"http_all", "protocol: HTTP, backendRef: {name: authz, namespace: auth, port: 8000}", &mesh.ExtAuthz{Service: authKey, Port: 8000, UpstreamOnAllow: []string{"*"}}, ""},
		{"gone", "protocol: HTTP, backendRef: {name: gone, port: 8000}", nil, "does not exist"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res, _ := translate(t, "f.yaml", route(tt.filter), object.Options{})
			r := res.Parts.Attachments[0].Route
			if tt.broken != "" {
				if !strings.Contains(r.Broken, tt.broken) {
					t.Errorf("broken by %q, want %q", r.Broken, tt.broken)
				}
				return
			}
			if diff := cmp.Diff(tt.want, r.Filters.ExternalAuth); diff != "" || r.Broken != "" || len(res.Problems) > 0 {
				t.Errorf("broken by %q, %v; -want +got:\n%s", r.Broken, res.Problems, diff)
			}
		})
	}
}

// TestExternalAuthWrong: a rule whose filter ExternalAuth cannot be understood serves nobody: it is not served without the filter.
func TestExternalAuthWrong(t *testing.T) {
	const ref = "backendRef: {name: authz, namespace: auth, port: 8000}"
	for _, tt := range []struct{ name, filter string }{
		{"protocol", "{type: ExternalAuth, externalAuth: {protocol: FTP, " + ref + "}}"},
		{"no_protocol", "{type: ExternalAuth, externalAuth: {" + ref + "}}"},
		{"nothing", "{type: ExternalAuth}"},
		{"type", "{type: ExternalAuthn, externalAuth: {protocol: HTTP, " + ref + "}}"},
		{"body", "{type: ExternalAuth, externalAuth: {protocol: HTTP, " + ref + ", forwardBody: {maxSize: some}}}"},
		{"unknown_field", "{type: ExternalAuth, externalAuth: {protocol: HTTP, " + ref + ", forwardBdy: {maxSize: 1}}}"},
		{"not_granted", "{type: ExternalAuth, externalAuth: {protocol: HTTP, " + ref + "}}"},
		{"text", "{type: ExternalAuth, externalAuth: please}"},
		{"no_list", "please"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res, _ := translate(t, "f.yaml", "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  parentRefs: [{group: \"\", kind: Service, name: web}]\n  rules:\n"+
				"  - filters: ["+tt.filter+"]\n    backendRefs: [{name: web, port: 80}]\n"+authService+svc, object.Options{})
			if len(res.Parts.Attachments) == 0 {
				t.Errorf("the route is not there, and the service is open; %v", res.Problems)
			}
			for _, a := range res.Parts.Attachments {
				if a.Route.Broken == "" && (a.Route.Filters.ExternalAuth == nil || a.Route.Filters.ExternalAuth.Broken == "") {
					t.Errorf("served with %+v; %v", a.Route.Filters.ExternalAuth, res.Problems)
				}
			}
		})
	}
}
