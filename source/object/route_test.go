package object_test

import (
	"fmt"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/object"
	"github.com/google/go-cmp/cmp"
)

const (
	served = "\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: default, labels: {istio.io/use-waypoint: wp}}}\n"
	ports  = "\n---\n{apiVersion: v1, kind: Service, metadata: {name: all}, spec: {ports: [{name: http, port: 80}, {name: grpc, port: 90}, {name: tls, port: 443}, {name: tcp, port: 99}, {name: x, port: 100}]}}\n"
)

// header begins a route that is attached to Service web.
func header(kind string) string {
	return "apiVersion: gateway.networking.k8s.io/v1\nkind: " + kind + "\nmetadata: {name: r}\nspec:\n  parentRefs: [{group: \"\", kind: Service, name: web}]\n  rules:\n"
}

func TestFieldProblems(t *testing.T) {
	rule := func(s string) string {
		return header("HTTPRoute") + "  - backendRefs: [{name: web, port: 80}]\n" + s + svc
	}
	filter := func(s string) string {
		return rule("    filters:\n" + s)
	}
	const obj = "HTTPRoute default/r"
	const at = "spec.rules[0]"
	cors := func(s string) string { return filter("    - type: CORS\n      cors:\n" + s) }
	auth := func(s string) string {
		return filter("    - type: ExternalAuth\n      externalAuth:\n        backendRef: {name: web, port: 80}\n" + s)
	}
	mirror := func(s string) string {
		return filter("    - type: RequestMirror\n      requestMirror:\n" + s)
	}
	const to = "        backendRef: {name: web, port: 80}\n"
	checkWrong(t, []wrong{
		{"attempts", rule("    retry:\n      attempts: 0 # HERE\n"), obj, at + ".retry.attempts", "use 1 to 100"},
		{"attempts-many", rule("    retry:\n      attempts: 101 # HERE\n"), obj, at + ".retry.attempts", "use 1 to 100"},
		{"code", rule("    retry:\n      codes:\n      - 503\n      - 200 # HERE\n"), obj, at + ".retry.codes[1]", "use 400 to 599"},
		{"code-twice", rule("    retry:\n      codes:\n      - 503\n      - 503 # HERE\n"), obj, at + ".retry.codes[1]", "twice"},
		{"backoff", rule("    retry:\n      backoff: soon # HERE\n"), obj, at + ".retry.backoff", "not a duration"},
		{"session-type", rule("    sessionPersistence:\n      type: Address # HERE\n"), obj, at + ".sessionPersistence.type", "use Cookie or Header"},
		{"session-name", rule("    sessionPersistence:\n      sessionName: a;b # HERE\n"), obj, at + ".sessionPersistence.sessionName", "use letters"},
		{"session-long", rule("    sessionPersistence:\n      sessionName: " + strings.Repeat("a", 129) + " # HERE\n"), obj, at + ".sessionPersistence.sessionName", "keep it to 128"},
		{"session-header", rule("    sessionPersistence:\n      type: Header\n      sessionName: Authorization # HERE\n"), obj, at + ".sessionPersistence.sessionName", "use another name"},
		{"session-prefix", rule("    sessionPersistence:\n      sessionName: __Host-a # HERE\n"), obj, at + ".sessionPersistence.sessionName", "use another name"},
		{"session-permanent", rule("    sessionPersistence: # HERE\n      cookieConfig: {lifetimeType: Permanent}\n"), obj, at + ".sessionPersistence.absoluteTimeout", "set absoluteTimeout"},
		{"session-lifetime", rule("    sessionPersistence:\n      cookieConfig:\n        lifetimeType: Long # HERE\n"), obj, at + ".sessionPersistence.cookieConfig.lifetimeType", "use Session or Permanent"},
		{"session-zero", rule("    sessionPersistence:\n      absoluteTimeout: 0s # HERE\n"), obj, at + ".sessionPersistence.absoluteTimeout", "use a longer time"},
		{"session-timeout", rule("    sessionPersistence:\n      absoluteTimeout: long # HERE\n"), obj, at + ".sessionPersistence.absoluteTimeout", "not a duration"},
		{"session-cookie-header", rule("    sessionPersistence:\n      type: Header\n      cookieConfig: {} # HERE\n"), obj, at + ".sessionPersistence.cookieConfig", "no effect"},
		{"session-idle", rule("    sessionPersistence:\n      idleTimeout: 1h # HERE\n"), obj, at + ".sessionPersistence.idleTimeout", "idleTimeout"},
		{"regex-program", rule("    matches:\n    - path:\n        type: RegularExpression\n        value: \"(a|bc|def|ghij){900}\" # HERE\n"), obj, at + ".matches[0].path.value", "fewer or smaller repetitions"},
		{"regex-long", rule("    matches:\n    - path:\n        type: RegularExpression\n        value: \"" + strings.Repeat("a", 4097) + "\" # HERE\n"), obj, at + ".matches[0].path.value", "keep it to 4096"},
		{"rule-name", rule("    name: A b # HERE\n"), obj, at + ".name", "not a name"},
		{"external-auth-protocol", auth("        protocol: TCP # HERE\n"), obj, at + ".filters[0].externalAuth.protocol", "use HTTP or GRPC"},
		{"external-auth-other", auth("        protocol: GRPC\n        http: {path: /a} # HERE\n"), obj, at + ".filters[0].externalAuth.http", "no effect"},
		{"external-auth-path", auth("        protocol: HTTP\n        http:\n          path: \"/a?b\" # HERE\n"), obj, at + ".filters[0].externalAuth.http.path", "is no path"},
		{"external-auth-header", auth("        protocol: GRPC\n        grpc:\n          allowedHeaders:\n          - x y # HERE\n"), obj, at + ".filters[0].externalAuth.grpc.allowedHeaders[0]", "not a header"},
		{"external-auth-port", filter("    - type: ExternalAuth\n      externalAuth:\n        protocol: GRPC\n        backendRef:\n          name: web\n          port: 81 # HERE\n"), obj, at + ".filters[0].externalAuth.backendRef.port", "no TCP port 81"},
		{"external-auth-grant", filter("    - type: ExternalAuth\n      externalAuth:\n        protocol: GRPC\n        backendRef:\n          name: web\n          namespace: other # HERE\n          port: 80\n"), obj, at + ".filters[0].externalAuth.backendRef.namespace", "add a ReferenceGrant"},
		{"origin", cors("        allowOrigins:\n        - www.example.com # HERE\n"), obj, at + ".filters[0].cors.allowOrigins[0]", "not an origin"},
		{"origin-scheme", cors("        allowOrigins:\n        - ftp://a.b # HERE\n"), obj, at + ".filters[0].cors.allowOrigins[0]", "not an origin"},
		{"origin-port", cors("        allowOrigins:\n        - http://a.b:99999 # HERE\n"), obj, at + ".filters[0].cors.allowOrigins[0]", "not an origin"},
		{"origin-path", cors("        allowOrigins:\n        - http://a.b/c # HERE\n"), obj, at + ".filters[0].cors.allowOrigins[0]", "not an origin"},
		{"origin-inner-wildcard", cors("        allowOrigins:\n        - http://a.*.b # HERE\n"), obj, at + ".filters[0].cors.allowOrigins[0]", "not an origin"},
		{"origin-all", cors("        allowOrigins: [\"*\", \"http://a.b\"] # HERE\n"), obj, at + ".filters[0].cors.allowOrigins", "remove it or the others"},
		{"cors-method", cors("        allowMethods:\n        - get # HERE\n"), obj, at + ".filters[0].cors.allowMethods[0]", "use GET"},
		{"cors-methods", cors("        allowMethods: [GET, \"*\"] # HERE\n"), obj, at + ".filters[0].cors.allowMethods", "remove it or the others"},
		{"cors-header", cors("        allowHeaders:\n        - \"a b\" # HERE\n"), obj, at + ".filters[0].cors.allowHeaders[0]", "valid header name"},
		{"cors-headers", cors("        allowHeaders: [a, \"*\"] # HERE\n"), obj, at + ".filters[0].cors.allowHeaders", "remove it or the others"},
		{"cors-expose", cors("        exposeHeaders:\n        - \"a,b\" # HERE\n"), obj, at + ".filters[0].cors.exposeHeaders[0]", "valid header name"},
		{"cors-age", cors("        maxAge: -1 # HERE\n"), obj, at + ".filters[0].cors.maxAge", "1 or more"},
		{"cors-twice", filter("    - {type: CORS, cors: {}}\n    - type: CORS # HERE\n      cors: {}\n"), obj, at + ".filters[1].type", "merge the two"},
		{"mirror-percent", mirror(to + "        percent: 101 # HERE\n"), obj, at + ".filters[0].requestMirror.percent", "use 0 to 100"},
		{"mirror-both", mirror(to + "        percent: 1\n        fraction: {numerator: 1} # HERE\n"), obj, at + ".filters[0].requestMirror.fraction", "remove one"},
		{"mirror-numerator", mirror(to + "        fraction:\n          numerator: 101 # HERE\n"), obj, at + ".filters[0].requestMirror.fraction.numerator", "use 0 to 100"},
		{"mirror-denominator", mirror(to + "        fraction:\n          numerator: 0\n          denominator: 0 # HERE\n"), obj, at + ".filters[0].requestMirror.fraction.denominator", "use 1 or more"},
		{"mirror-missing", mirror("        backendRef:\n          name: gone # HERE\n          port: 80\n"), obj, at + ".filters[0].requestMirror.backendRef.name", "Service default/gone does not exist"},
		{"mirror-no-port", mirror("        backendRef: # HERE\n          name: web\n"), obj, at + ".filters[0].requestMirror.backendRef.port", "names no port"},
		{"extension-missing", filter("    - type: ExtensionRef\n      extensionRef:\n        group: policy.cairnproxy.dev\n        kind: TrafficPolicy\n        name: x # HERE\n"), obj, at + ".filters[0].extensionRef.name", "TrafficPolicy default/x does not exist"},
		{"extension-kind", filter("    - type: ExtensionRef\n      extensionRef:\n        group: example.com\n        kind: Filter # HERE\n        name: x\n"), obj, at + ".filters[0].extensionRef.kind", "use a TrafficPolicy"},
		{"backend-tcp", header("HTTPRoute") + "  - backendRefs:\n    - name: all\n      port: 99 # HERE\n" + svc + ports, obj, at + ".backendRefs[0].port", "carries TCP"},
		{"hostname-ip", strings.Replace(rule(""), "  rules:", "  hostnames:\n  - 10.0.0.1 # HERE\n  rules:", 1), obj, "spec.hostnames[0]", "not a host name"},
	})
}

func TestGRPCRouteProblems(t *testing.T) {
	rule := func(s string) string {
		return header("GRPCRoute") + "  - backendRefs: [{name: web, port: 80}]\n" + s + svc
	}
	method := func(s string) string { return rule("    matches:\n    - method:\n" + s) }
	const obj = "GRPCRoute default/r"
	const at = "spec.rules[0]"
	checkWrong(t, []wrong{
		{"type", method("        type: Prefix # HERE\n        service: a\n"), obj, at + ".matches[0].method.type", "use Exact or RegularExpression"},
		{"nothing", rule("    matches:\n    - method: # HERE\n        type: Exact\n"), obj, at + ".matches[0].method", "add one"},
		{"service", method("        service: a/b # HERE\n"), obj, at + ".matches[0].method.service", "helloworld.Greeter"},
		{"method", method("        method: a.b # HERE\n"), obj, at + ".matches[0].method.method", "SayHello"},
		{"long", method("        service: " + strings.Repeat("a", 1025) + " # HERE\n"), obj, at + ".matches[0].method.service", "keep it to 1024"},
		{"regex", method("        type: RegularExpression\n        service: \"a(\" # HERE\n"), obj, at + ".matches[0].method.service", "RE2"},
		{"regex-method", method("        type: RegularExpression\n        method: \"a(\" # HERE\n"), obj, at + ".matches[0].method.method", "RE2"},
		{"header-type", rule("    matches:\n    - headers:\n      - name: a\n        value: b\n        type: Glob # HERE\n"), obj, at + ".matches[0].headers[0].type", "use Exact"},
		{"header-name", rule("    matches:\n    - headers:\n      - name: \":path\" # HERE\n        value: b\n"), obj, at + ".matches[0].headers[0].name", "valid name"},
		{"filter", rule("    filters:\n    - type: URLRewrite # HERE\n"), obj, at + ".filters[0].type", "not a filter of a GRPCRoute; use RequestHeaderModifier, ResponseHeaderModifier, RequestMirror or ExtensionRef"},
		{"filter-nothing", rule("    filters:\n    - type: RequestMirror # HERE\n"), obj, at + ".filters[0]", "add requestMirror"},
		{"backend", header("GRPCRoute") + "  - backendRefs:\n    - name: gone # HERE\n      port: 80\n" + svc, obj, at + ".backendRefs[0].name", "does not exist"},
		{"grant", header("GRPCRoute") + "  - backendRefs:\n    - name: far\n      namespace: other # HERE\n      port: 80\n" + svc + farSvc, obj, at + ".backendRefs[0].namespace", "does not let GRPCRoutes of default refer"},
		{"timeouts", rule("    timeouts: {request: 1s} # HERE\n"), obj, at + ".timeouts", "timeouts"},
	})
}

func TestConnectionRouteProblems(t *testing.T) {
	const tcp, tls = "TCPRoute default/r", "TLSRoute default/r"
	route := func(kind, s string) string {
		return strings.Replace(header(kind), "name: web", "name: all", 1) + s + ports
	}
	const to = "  - backendRefs: [{name: all, port: 99}]\n"
	checkWrong(t, []wrong{
		{"two-rules", strings.Replace(route("TCPRoute", to+to), "rules:", "rules: # HERE", 1), tcp, "spec.rules", "has one rule"},
		{"backend", route("TCPRoute", "  - backendRefs:\n    - name: gone # HERE\n      port: 80\n"), tcp, "spec.rules[0].backendRefs[0].name", "does not exist"},
		{"weight", route("TLSRoute", "  - backendRefs:\n    - name: all\n      port: 443\n      weight: -1 # HERE\n"), tls, "spec.rules[0].backendRefs[0].weight", "use 0 to"},
		{"sni", strings.Replace(route("TLSRoute", to), "  rules:", "  hostnames:\n  - \"*.*.a\" # HERE\n  rules:", 1), tls, "spec.hostnames[0]", "not a host name"},
		{"sni-ip", strings.Replace(route("TLSRoute", to), "  rules:", "  hostnames:\n  - 10.0.0.1 # HERE\n  rules:", 1), tls, "spec.hostnames[0]", "not a host name"},
		{"tcp-on-http", strings.Replace(route("TCPRoute", to), "parentRefs: [{group: \"\", kind: Service, name: all}]", "parentRefs:\n  - {group: \"\", kind: Service, name: all, port: 80} # HERE", 1), tcp, "spec.parentRefs[0]", "does not carry what a TCPRoute routes"},
		{"http-on-tcp", strings.Replace(route("HTTPRoute", "  - backendRefs: [{name: all, port: 80}]\n"), "parentRefs: [{group: \"\", kind: Service, name: all}]", "parentRefs:\n  - {group: \"\", kind: Service, name: all, port: 99} # HERE", 1), "HTTPRoute default/r", "spec.parentRefs[0]", "does not carry what a HTTPRoute routes"},
	})
}

// conditions are those of one route, a line each.
func conditions(res object.Result, kind, name string) (out []string) {
	for _, s := range res.Parts.Statuses {
		if s.Kind != kind || s.Object.Name != name {
			continue
		}
		for i := range s.Parents {
			for _, c := range s.Parents[i].Conditions {
				out = append(out, fmt.Sprintf("%s %s=%v %s", s.Parents[i].Parent, c.Type, c.True, c.Reason))
			}
		}
	}
	return out
}

func TestRouteConditions(t *testing.T) {
	const good = "  - backendRefs: [{name: web, port: 80}]\n"
	const accepted, resolved = "Service default/web Accepted=true Accepted", "Service default/web ResolvedRefs=true ResolvedRefs"
	parents := func(s string) string {
		return strings.Replace(header("HTTPRoute")+good, "{group: \"\", kind: Service, name: web}", s, 1)
	}
	gw := func(listener string) string {
		return "\n---\n{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp}, spec: {gatewayClassName: cairn-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE" + listener + "}]}}\n"
	}
	tests := []struct {
		name, text string
		want       []string
	}{
		{"good", header("HTTPRoute") + good + svc + waypoint + served, []string{accepted, resolved}},
		{"no-waypoint", header("HTTPRoute") + good + svc, []string{accepted, resolved, "Service default/web ResolvedWaypoints=false WaypointMissing"}},
		{"parent-missing", parents("{group: \"\", kind: Service, name: nope}") + svc + waypoint + served, []string{"Service default/nope Accepted=false NoMatchingParent", "Service default/nope ResolvedRefs=true ResolvedRefs"}},
		{"one-of-two", parents("{group: \"\", kind: Service, name: nope}, {group: \"\", kind: Service, name: web}") + svc + waypoint + served, []string{
			"Service default/nope Accepted=false NoMatchingParent", "Service default/nope ResolvedRefs=true ResolvedRefs", accepted, resolved,
		}},
		{"parent-port", parents("{group: \"\", kind: Service, name: web, port: 81}") + svc + waypoint + served, []string{"Service default/web:81 Accepted=false NoMatchingParent", "Service default/web:81 ResolvedRefs=true ResolvedRefs"}},
		{"parent-section", parents("{group: \"\", kind: Service, name: web, sectionName: x}") + svc + waypoint + served, []string{"Service default/web/x Accepted=false NoMatchingParent", "Service default/web/x ResolvedRefs=true ResolvedRefs"}},
		{"backend-missing", header("HTTPRoute") + "  - backendRefs: [{name: web, port: 80}, {name: nope, port: 80}]\n" + svc + waypoint + served, []string{accepted, "Service default/web ResolvedRefs=false BackendNotFound"}},
		{"backend-port", header("HTTPRoute") + "  - backendRefs: [{name: web, port: 81}]\n" + svc + waypoint + served, []string{accepted, "Service default/web ResolvedRefs=false BackendNotFound"}},
		{"backend-kind", header("HTTPRoute") + "  - backendRefs: [{kind: Pod, name: web, port: 80}]\n" + svc + waypoint + served, []string{accepted, "Service default/web ResolvedRefs=false InvalidKind"}},
		{"backend-grant", header("HTTPRoute") + "  - backendRefs: [{name: far, namespace: other, port: 80}]\n" + svc + farSvc + waypoint + served, []string{accepted, "Service default/web ResolvedRefs=false RefNotPermitted"}},
		{"backend-protocol", header("HTTPRoute") + "  - backendRefs: [{name: all, port: 99}]\n" + svc + ports + waypoint + served, []string{accepted, "Service default/web ResolvedRefs=false UnsupportedProtocol"}},
		{"mirror", header("HTTPRoute") + "  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: nope, port: 80}}}]\n    backendRefs: [{name: web, port: 80}]\n" + svc + waypoint + served, []string{accepted, "Service default/web ResolvedRefs=false BackendNotFound"}},
		{"value", header("HTTPRoute") + "  - backendRefs: [{name: web, port: 80}]\n    timeouts: {request: soon}\n" + svc + waypoint + served, []string{"Service default/web Accepted=false UnsupportedValue", resolved}},
		{"some-rules", header("HTTPRoute") + good + "  - backendRefs: [{name: web, port: 80}]\n    timeouts: {request: soon}\n" + svc + waypoint + served, []string{accepted, resolved, "Service default/web PartiallyInvalid=true UnsupportedValue"}},
		{"incompatible", header("HTTPRoute") + "  - filters: [{type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {}}]\n" + svc + waypoint + served, []string{"Service default/web Accepted=false IncompatibleFilters", resolved}},
		{"hostname", strings.Replace(header("HTTPRoute")+good, "  rules:", "  hostnames: [a_b]\n  rules:", 1) + svc + waypoint + served, []string{"Service default/web Accepted=false UnsupportedValue", resolved}},
		{"gateway", parents("{name: wp}") + svc + waypoint + served, []string{"Gateway default/wp Accepted=true Accepted", "Gateway default/wp ResolvedRefs=true ResolvedRefs"}},
		{"gateway-foreign", parents("{name: ingress}") + svc + waypoint + served + ingress, nil},
		{"gateway-listener", parents("{name: wp, sectionName: x}") + svc + waypoint + served, []string{"Gateway default/wp/x Accepted=false NoMatchingParent", "Gateway default/wp/x ResolvedRefs=true ResolvedRefs"}},
		{"gateway-namespace", strings.Replace(parents("{name: wp, namespace: default}"), "name: r}", "name: r, namespace: other}", 1) + svc + waypoint + served, []string{"Gateway default/wp Accepted=false NotAllowedByListeners", "Gateway default/wp ResolvedRefs=false BackendNotFound"}},
		{"gateway-kind", parents("{name: wp}") + svc + served + gw(", allowedRoutes: {kinds: [{kind: GRPCRoute}]}"), []string{"Gateway default/wp Accepted=false NotAllowedByListeners", "Gateway default/wp ResolvedRefs=true ResolvedRefs"}},
		{"gateway-hostname", strings.Replace(parents("{name: wp}"), "  rules:", "  hostnames: [a.b]\n  rules:", 1) + svc + served + gw(`, hostname: "*.c"`), []string{"Gateway default/wp Accepted=false NoMatchingListenerHostname", "Gateway default/wp ResolvedRefs=true ResolvedRefs"}},
		{"gateway-hostname-agrees", strings.Replace(parents("{name: wp}"), "  rules:", "  hostnames: [a.b, x.c]\n  rules:", 1) + svc + served + gw(`, hostname: "*.c"`), []string{"Gateway default/wp Accepted=true Accepted", "Gateway default/wp ResolvedRefs=true ResolvedRefs"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, _ := translate(t, "f.yaml", tt.text, object.Options{})
			if d := cmp.Diff(tt.want, conditions(res, "HTTPRoute", "r")); d != "" {
				t.Errorf("conditions (-want +got):\n%s", d)
			}
			for _, s := range res.Parts.Statuses {
				for i := range s.Parents {
					for _, c := range s.Parents[i].Conditions {
						if !c.Good() && c.Message == "" {
							t.Errorf("%s=%v says nothing", c.Type, c.True)
						}
					}
				}
			}
		})
	}
}

// What leads nowhere is served but for what depends on it; what cannot be understood refuses all.
func TestServedProblems(t *testing.T) {
	const good = "  - backendRefs: [{name: web, port: 80}]\n"
	tests := []struct {
		name, rules string
		refused     bool
		broken      []string // by rule: the first word of why, or of its second backend's
	}{
		{"backend", "  - backendRefs: [{name: web, port: 80}, {name: nope, port: 80}]\n" + good, false, []string{"/Service", ""}},
		{"grant", "  - backendRefs: [{name: web, port: 80}, {name: far, namespace: other, port: 80}]\n" + good, false, []string{"/namespace", ""}},
		{"extension", "  - backendRefs: [{name: web, port: 80}]\n    filters: [{type: ExtensionRef, extensionRef: {group: policy.cairnproxy.dev, kind: TrafficPolicy, name: x}}]\n" + good, false, []string{"TrafficPolicy", ""}},
		{"backend-extension", "  - backendRefs: [{name: web, port: 80}, {name: web, port: 80, filters: [{type: ExtensionRef, extensionRef: {group: policy.cairnproxy.dev, kind: TrafficPolicy, name: x}}]}]\n" + good, false, []string{"/TrafficPolicy", ""}},
		{"mirror", "  - backendRefs: [{name: web, port: 80}]\n    filters: [{type: RequestMirror, requestMirror: {backendRef: {name: nope, port: 80}}}]\n" + good, false, []string{"", ""}},
		{"value", "  - backendRefs: [{name: web, port: 80}]\n    timeouts: {request: soon}\n" + good, true, []string{"\"soon\"", ""}},
		{"mirror-value", "  - backendRefs: [{name: web, port: 80}]\n    filters: [{type: RequestMirror, requestMirror: {percent: 900, backendRef: {name: web, port: 80}}}]\n" + good, true, []string{"900", ""}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, _ := translate(t, "f.yaml", header("HTTPRoute")+tt.rules+svc+farSvc+waypoint+served, object.Options{})
			if len(res.Problems) != 1 || (source.Refused(res.Problems) != nil) != tt.refused {
				t.Errorf("problems %+v, refused: want %v", res.Problems, tt.refused)
			}
			var got []string
			for _, a := range res.Parts.Attachments {
				why, _, _ := strings.Cut(a.Route.Broken, " ")
				if b := a.Route.Backends; why == "" && len(b) > 1 {
					first, _, _ := strings.Cut(b[1].Broken, " ")
					why = "/" + first
				}
				got = append(got, why)
				if len(a.Route.Filters.Mirrors) > 0 && tt.name == "mirror" {
					t.Error("a mirror that leads nowhere is not left out")
				}
			}
			if d := cmp.Diff(tt.broken, got); d != "" {
				t.Errorf("broken (-want +got):\n%s", d)
			}
		})
	}
}

// However many problems there are, what must be refused is, and what is broken is known to be.
func TestProblemsBeyondTheLimit(t *testing.T) {
	var b strings.Builder
	b.WriteString(header("HTTPRoute"))
	for range 1500 {
		b.WriteString("  - backendRefs: [{name: nope, port: 80}]\n")
	}
	b.WriteString("  - backendRefs: [{name: far, namespace: other, port: 80}]\n")
	res, _ := translate(t, "f.yaml", b.String()+svc+farSvc, object.Options{})
	if source.Refused(res.Problems) != nil {
		t.Errorf("refused for what leads nowhere: %v", source.Refused(res.Problems)[0])
	}
	if last := res.Parts.Attachments[1500].Route.Backends[0]; last.Broken == "" {
		t.Error("a reference without a grant is served")
	}
	b.WriteString("  - timeouts: {request: soon}\n")
	res, _ = translate(t, "f.yaml", b.String()+svc+farSvc, object.Options{})
	if len(source.Refused(res.Problems)) != 1 {
		t.Errorf("%d problems, of which %d refuse; want 1 for the duration", len(res.Problems), len(source.Refused(res.Problems)))
	}
}

// Of an HTTPRoute and a GRPCRoute on one port the older goes first.
func TestRouteConflicts(t *testing.T) {
	route := func(kind, name, created, parent, more string) string {
		return fmt.Sprintf("---\napiVersion: gateway.networking.k8s.io/v1\nkind: %s\nmetadata: {name: %s, creationTimestamp: %q}\nspec:\n  parentRefs: [%s]\n%s  rules: [{backendRefs: [{name: all, port: 80}]}]\n", kind, name, created, parent, more)
	}
	const old, young = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
	const whole, at80, at90 = "{group: '', kind: Service, name: all}", "{group: '', kind: Service, name: all, port: 80}", "{group: '', kind: Service, name: all, port: 90}"
	tests := []struct {
		name, text string
		want       []string // attachments: route, port
		problems   int
	}{
		{"older-http", route("HTTPRoute", "h", old, at80, "") + route("GRPCRoute", "g", young, at80, ""), []string{"h 80"}, 1},
		{"older-grpc", route("HTTPRoute", "h", young, at80, "") + route("GRPCRoute", "g", old, at80, ""), []string{"g 80"}, 1},
		{"by-name", route("HTTPRoute", "h", old, at80, "") + route("GRPCRoute", "g", old, at80, ""), []string{"g 80"}, 1},
		{"other-port", route("HTTPRoute", "h", old, at80, "") + route("GRPCRoute", "g", young, at90, ""), []string{"h 80", "g 90"}, 0},
		{"all-ports", route("HTTPRoute", "h", old, at80, "") + route("GRPCRoute", "g", young, whole, ""), []string{"h 80", "g 90", "g 100"}, 1},
		{"same-kind", route("HTTPRoute", "h", old, at80, "") + route("HTTPRoute", "i", young, at80, ""), []string{"h 80", "i 80"}, 0},
		{"losers-lose-to-the-winner-alone", route("GRPCRoute", "a", old, at80, "") + route("HTTPRoute", "h", young, at80, "") + route("GRPCRoute", "z", "2026-03-01T00:00:00Z", at80, ""), []string{"a 80", "z 80"}, 1},
		{"other-names", route("HTTPRoute", "h", old, "{name: wp}", "  hostnames: [a.b]\n") + route("GRPCRoute", "g", young, "{name: wp}", "  hostnames: [c.b]\n"), []string{"h 0", "g 0"}, 0},
		{"names-meet", route("HTTPRoute", "h", old, "{name: wp}", "  hostnames: [a.b]\n") + route("GRPCRoute", "g", young, "{name: wp}", "  hostnames: ['*.b']\n"), []string{"h 0"}, 1},
		{"tcp-beside", route("HTTPRoute", "h", old, at80, "") + route("TCPRoute", "t", young, "{group: '', kind: Service, name: all, port: 99}", ""), []string{"h 80", "t 99"}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr := object.NewTranslator(object.Options{})
			f := object.Decode("f.yaml", []byte(tt.text+ports+waypoint+served))
			var res object.Result
			for range 2 { // and once more, from what is remembered
				before := res.Parts.Statuses
				res = tr.Translate(f.Objects)
				var got []string
				for _, a := range res.Parts.Attachments {
					got = append(got, fmt.Sprintf("%s %d", a.Route.Object.Name, a.Port))
				}
				if d := cmp.Diff(tt.want, got); d != "" {
					t.Errorf("attachments (-want +got):\n%s", d)
				}
				if len(res.Problems) != tt.problems || source.Refused(res.Problems) != nil {
					t.Errorf("problems: %v, want %d that are served", res.Problems, tt.problems)
				}
				for i, s := range before {
					if res.Parts.Statuses[i] != s {
						t.Errorf("the status of %s %s is another, but says the same", s.Kind, s.Object)
					}
				}
			}
		})
	}
}

// A consumer's route may send back to the service that it is attached to, and to no
// other of that namespace.
func TestConsumerRouteSendsBack(t *testing.T) {
	for _, tt := range []struct {
		name, parent string
		want         bool
	}{
		{"parent", "{group: '', kind: Service, name: far, namespace: other}", true},
		{"own-service", "{group: '', kind: Service, name: web}", false},
		{"same-name-here", "{group: '', kind: Service, name: far}", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: default}\nspec:\n  parentRefs: [" + tt.parent +
				"]\n  rules:\n  - backendRefs: [{name: far, namespace: other, port: 80}]\n" + svc + farSvc + strings.ReplaceAll(farSvc, "namespace: other", "namespace: default")
			res, _ := translate(t, "f.yaml", text, object.Options{})
			if len(res.Parts.Attachments) == 0 {
				t.Fatalf("no attachment: %v", res.Problems)
			}
			b := res.Parts.Attachments[0].Route.Backends[0]
			if got := b.Broken == ""; got != tt.want {
				t.Errorf("the backend is served: %v (%s), want %v", got, b.Broken, tt.want)
			}
		})
	}
}

// A ReferenceGrant is for the kind, the namespace and the name that it says.
func TestReferenceGrants(t *testing.T) {
	grant := func(from, to string) string {
		return "\n---\n{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: g, namespace: other}, spec: {from: [" + from + "], to: [" + to + "]}}\n"
	}
	const us, services = "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}", "{group: '', kind: Service}"
	tests := []struct {
		name, grant string
		want        bool
	}{
		{"none", "", false},
		{"all", grant(us, services), true},
		{"by-name", grant(us, "{group: '', kind: Service, name: far}"), true},
		{"second", grant("{group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: default}, "+us, "{group: '', kind: Secret}, "+services), true},
		{"other-name", grant(us, "{group: '', kind: Service, name: near}"), false},
		{"other-kind", grant("{group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: default}", services), false},
		{"other-namespace", grant("{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: third}", services), false},
		{"other-group", grant("{group: example.com, kind: HTTPRoute, namespace: default}", services), false},
		{"other-target", grant(us, "{group: '', kind: Secret}"), false},
		{"in-our-namespace", strings.Replace(grant(us, services), "namespace: other", "namespace: default", 1), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, _ := translate(t, "f.yaml", header("HTTPRoute")+"  - backendRefs: [{name: far, namespace: other, port: 80}]\n    filters: [{type: RequestMirror, requestMirror: {backendRef: {name: far, namespace: other, port: 80}}}]\n"+svc+farSvc+tt.grant, object.Options{})
			r := res.Parts.Attachments[0].Route
			if got := r.Backends[0].Broken == ""; got != tt.want {
				t.Errorf("the backend is served: %v (%s), want %v", got, r.Backends[0].Broken, tt.want)
			}
			if got := len(r.Filters.Mirrors) == 1; got != tt.want {
				t.Errorf("the mirror is there: %v, want %v", got, tt.want)
			}
		})
	}
}

// Routes that did not change are not translated again: their rules are the same pointers.
func TestRoutesAreRemembered(t *testing.T) {
	kinds := map[string]int{"HTTPRoute": 80, "GRPCRoute": 90, "TCPRoute": 99, "TLSRoute": 443}
	var b strings.Builder
	for kind, port := range kinds {
		fmt.Fprintf(&b, "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: %s, metadata: {name: r}, spec: {parentRefs: [{group: '', kind: Service, name: all, port: %d}], rules: [{backendRefs: [{name: all, port: %d}]}]}}\n", kind, port, port)
	}
	text := b.String() + ports + waypoint + served
	tr := object.NewTranslator(object.Options{})
	f := object.Decode("f.yaml", []byte(text))
	first := tr.Translate(f.Objects)
	f = object.Redecode("f.yaml", []byte(text+"---\n{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c}]}}\n"), f)
	second := tr.Translate(f.Objects)
	if len(first.Problems) > 0 || len(first.Parts.Attachments) != len(kinds) || len(first.Parts.Statuses) != len(kinds) {
		t.Fatalf("problems %v, %d attachments", first.Problems, len(first.Parts.Attachments))
	}
	for i, a := range first.Parts.Attachments {
		if second.Parts.Attachments[i] != a {
			t.Errorf("%s was translated again", a.Route.Kind)
		}
		if first.Parts.Statuses[i] != second.Parts.Statuses[i] {
			t.Errorf("the status of %s is another", first.Parts.Statuses[i].Kind)
		}
	}
	if k := first.Parts.Attachments[0].Route; k.Kind.String() == "" || k.Object != (mesh.Name{Namespace: "default", Name: "r"}) {
		t.Errorf("route %+v", k)
	}
}
