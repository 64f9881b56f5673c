package object_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/object"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// twoServed is a namespace with a waypoint and two services behind it.
const twoServed = `
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio.io/use-waypoint: wp}}
` + waypoint + svc + `
---
apiVersion: v1
kind: Service
metadata: {name: two}
spec: {ports: [{name: http, port: 80}, {name: grpc, port: 90}]}
---
`

// port returns what is in force for a port of a service of namespace default.
func port(t *testing.T, res object.Result, service string, n uint16) *mesh.ServicePort {
	t.Helper()
	for _, s := range res.Parts.Services {
		if s.Name == service && s.Key.Namespace == "default" {
			if p := s.Port(n); p != nil {
				return p
			}
		}
	}
	t.Fatalf("there is no port %d of service %s", n, service)
	return nil
}

// good translates what must be without problems.
func good(t *testing.T, text string) object.Result {
	t.Helper()
	res, _ := translate(t, "f.yaml", text, object.Options{})
	if len(res.Problems) > 0 {
		t.Fatalf("problems: %v", res.Problems)
	}
	return res
}

// policy is a TrafficPolicy of a day in January.
func policy(name string, day int, target, spec string) string {
	return fmt.Sprintf("\n---\napiVersion: policy.cairnproxy.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: %s, creationTimestamp: '2026-01-%02dT00:00:00Z'}\nspec: {targetRefs: [%s], %s}\n", name, day, target, spec)
}

func extension(name, spec string) string {
	return fmt.Sprintf("\n---\napiVersion: policy.cairnproxy.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: %s}\nspec: {%s}\n", name, spec)
}

const (
	onGateway = "{group: gateway.networking.k8s.io, kind: Gateway, name: wp}"
	onTwo     = "{group: '', kind: Service, name: two}"
	onTwoHTTP = "{group: '', kind: Service, name: two, sectionName: http}"
	onRoute   = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}"
	onRule    = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: first}"
)

func TestPoliciesAreLaidOverEachOther(t *testing.T) {
	res := good(t, twoServed+
		policy("gw", 1, onGateway, "timeout: {request: 1s, idle: 1s, connect: 1s}, circuitBreaker: {maxRequests: 1, maxRetries: 1}, loadBalancer: {policy: Random}, retry: {budget: {percent: 1}}")+
		policy("svc", 2, onTwo, "timeout: {request: 2s, maxStreamDuration: 2s}, circuitBreaker: {maxRequests: 2}")+
		policy("port", 3, onTwoHTTP, "timeout: {request: 3s}, connection: {http2: true}")+`
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: dr}
spec: {host: two, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, connectionPool: {http: {http2MaxRequests: 7, maxRequestsPerConnection: 8}}, portLevelSettings: [{port: {number: 90}, outlierDetection: {}}]}}
---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: xb}
spec: {targetRefs: [{group: '', kind: Service, name: two}], retryConstraint: {budget: {percent: 30}}, sessionPersistence: {sessionName: s}}
`)
	at := func(name string) mesh.Name { return mesh.Name{Namespace: "default", Name: name} }
	session := &mesh.Session{Policy: at("xb"), Name: "s"}
	budget := &mesh.RetryBudget{Policy: at("xb"), Percent: 30, Interval: 10 * time.Second, MinRate: 10, MinRateInterval: time.Second}
	tests := []struct {
		service  string
		port     uint16
		requests mesh.RequestPolicy
		backend  mesh.BackendPolicy
	}{
		{
			"web", 80,
			mesh.RequestPolicy{Timeouts: &mesh.Timeouts{Request: time.Second, Idle: time.Second}},
			mesh.BackendPolicy{
				Connection: &mesh.ConnectionSettings{Policy: at("gw"), ConnectTimeout: time.Second},
				Breaker:    &mesh.CircuitBreaker{Policy: at("gw"), MaxRequests: 1, MaxRetries: 1},
				Balancer:   &mesh.Balancer{Policy: at("gw"), Kind: mesh.BalanceRandom},
				Budget:     &mesh.RetryBudget{Policy: at("gw"), Percent: 1, MinConcurrency: 3},
			},
		},
		{
			"two", 80,
			mesh.RequestPolicy{Timeouts: &mesh.Timeouts{Request: 3 * time.Second, Idle: time.Second, MaxDuration: 2 * time.Second}, Session: session},
			mesh.BackendPolicy{
				Connection: &mesh.ConnectionSettings{Policy: at("port"), ConnectTimeout: time.Second, MaxRequests: 8, HTTP2: true},
				Breaker:    &mesh.CircuitBreaker{Policy: at("svc"), MaxRequests: 2, MaxRetries: 1},
				Balancer:   &mesh.Balancer{Policy: at("dr"), Kind: mesh.BalanceRoundRobin},
				Budget:     budget,
			},
		},
		{ // the port's settings of a rule replace those of the whole
			"two", 90,
			mesh.RequestPolicy{Timeouts: &mesh.Timeouts{Request: 2 * time.Second, Idle: time.Second, MaxDuration: 2 * time.Second}, Session: session},
			mesh.BackendPolicy{
				Connection: &mesh.ConnectionSettings{Policy: at("gw"), ConnectTimeout: time.Second},
				Breaker:    &mesh.CircuitBreaker{Policy: at("svc"), MaxRequests: 2, MaxRetries: 1},
				Balancer:   &mesh.Balancer{Policy: at("gw"), Kind: mesh.BalanceRandom},
				Outlier:    &mesh.OutlierDetection{Policy: at("dr"), Consecutive5xx: 5},
				Budget:     budget,
			},
		},
	}
	for _, tt := range tests {
		p := port(t, res, tt.service, tt.port)
		if d := cmp.Diff(&tt.requests, p.Requests); d != "" {
			t.Errorf("%s:%d: requests (-want +got):\n%s", tt.service, tt.port, d)
		}
		if d := cmp.Diff(&tt.backend, p.Backend); d != "" {
			t.Errorf("%s:%d: backend (-want +got):\n%s", tt.service, tt.port, d)
		}
	}
}

// What ports and services have in common is one value, and costs no second copy.
func TestPoliciesAreShared(t *testing.T) {
	res := good(t, twoServed+policy("gw", 1, onGateway, "timeout: {request: 1s}, circuitBreaker: {maxRequests: 1}"))
	a, b, c := port(t, res, "web", 80), port(t, res, "two", 80), port(t, res, "two", 90)
	if a.Requests != b.Requests || b.Requests != c.Requests || a.Backend != b.Backend || b.Backend != c.Backend {
		t.Errorf("policies are copied: %p %p %p, %p %p %p", a.Requests, b.Requests, c.Requests, a.Backend, b.Backend, c.Backend)
	}
}

// A change of a policy touches the services that it concerns.
func TestPolicyChangeLeavesOthersAlone(t *testing.T) {
	text := func(request string) string {
		return twoServed + policy("gw", 1, onGateway, "timeout: {idle: 1s}") + policy("svc", 2, onTwo, "timeout: {request: "+request+"}") + route("first")
	}
	tr := object.NewTranslator(object.Options{})
	f := object.Decode("f.yaml", []byte(text("1s")))
	first := tr.Translate(f.Objects)
	f = object.Redecode("f.yaml", []byte(text("2s")), f)
	second := tr.Translate(f.Objects)
	for i, s := range second.Parts.Services {
		if same := s == first.Parts.Services[i]; same != (s.Name != "two") {
			t.Errorf("service %s: same pointer is %v", s.Name, same)
		}
	}
	if got := port(t, second, "two", 80).Requests.Timeouts; *got != (mesh.Timeouts{Request: 2 * time.Second, Idle: time.Second}) {
		t.Errorf("timeouts are %+v", got)
	}
	third := tr.Translate(object.Redecode("f.yaml", []byte(text("2s")+"\n---\n{apiVersion: v1, kind: Service, metadata: {name: new}, spec: {ports: [{port: 80}]}}"), f).Objects)
	for i, s := range second.Parts.Services {
		if third.Parts.Services[i] != s {
			t.Errorf("a new service made %s anew", s.Name)
		}
	}
	for _, s := range second.Parts.Statuses {
		if s.Kind == "TrafficPolicy" && s.Object.Name == "gw" && s != first.Parts.Statuses[1] {
			t.Error("the status of a policy that did not change is another pointer")
		}
	}
}

// policyConditions lists what became of an object: "PARENT TYPE REASON".
func policyConditions(res object.Result, kind, name string) string {
	var out []string
	for _, s := range res.Parts.Statuses {
		if s.Kind == kind && s.Object.Name == name {
			for _, p := range s.Parents {
				for _, c := range p.Conditions {
					out = append(out, fmt.Sprintf("%s %s %v %s", p.Parent, c.Type, c.True, c.Reason))
				}
			}
		}
	}
	return strings.Join(out, "; ")
}

func TestOlderPolicyWins(t *testing.T) {
	res, _ := translate(t, "f.yaml", twoServed+
		policy("new", 3, onTwo, "timeout: {request: 3s, idle: 3s}, circuitBreaker: {maxRequests: 3}")+
		policy("old", 2, onTwo, "timeout: {request: 2s}")+
		policy("b-same-age", 2, onTwo, "timeout: {request: 4s}"), object.Options{})
	p := port(t, res, "two", 80)
	if *p.Requests.Timeouts != (mesh.Timeouts{Request: 4 * time.Second, Idle: 3 * time.Second}) || p.Backend.Breaker.MaxRequests != 3 {
		t.Errorf("in force: %+v, %+v", p.Requests.Timeouts, p.Backend.Breaker)
	}
	for name, want := range map[string]string{
		"b-same-age": "Service default/two Accepted true Accepted",
		"old":        "Service default/two Accepted false Conflicted",
		"new":        "Service default/two Accepted false Conflicted",
	} {
		if got := policyConditions(res, "TrafficPolicy", name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if len(res.Problems) != 2 || source.Refused(res.Problems) != nil {
		t.Fatalf("problems: %v, want two for which the rest is served", res.Problems)
	}
	for i, want := range []string{"timeout.request (TrafficPolicy default/b-same-age); the rest of it is in force", "nothing of it is in force here"} {
		if p := res.Problems[i]; p.Field != "spec.targetRefs[0]" || !strings.Contains(p.Message, want) {
			t.Errorf("problem %v, want one with %q", p, want)
		}
	}
}

func route(rule string) string {
	return `
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: two}]
  rules:
  - name: ` + rule + `
    timeouts: {backendRequest: 1s}
    filters: [{type: ExtensionRef, extensionRef: {group: policy.cairnproxy.dev, kind: TrafficPolicy, name: ext}}]
    backendRefs:
    - name: two
      port: 80
      filters: [{type: ExtensionRef, extensionRef: {group: policy.cairnproxy.dev, kind: TrafficPolicy, name: sub}}]
` + extension("ext", "timeout: {backendRequest: 2s, request: 2s}") + extension("sub", "loadBalancer: {subset: {labels: {v: one}}}")
}

func TestPoliciesOfRoutes(t *testing.T) {
	res := good(t, twoServed+route("first")+
		policy("route", 1, onRoute, "timeout: {backendRequest: 4s, request: 4s, idle: 4s, maxStreamDuration: 4s}")+
		policy("rule", 2, onRule, "timeout: {request: 3s, idle: 3s}"))
	r := res.Parts.Attachments[0].Route
	want := &mesh.Timeouts{PerTry: time.Second, Request: 2 * time.Second, Idle: 3 * time.Second, MaxDuration: 4 * time.Second}
	if d := cmp.Diff(want, r.Requests.Timeouts); d != "" {
		t.Errorf("timeouts (-want +got):\n%s", d)
	}
	if d := cmp.Diff(&mesh.BackendPolicy{Subset: map[string]string{"v": "one"}}, r.Backends[0].Policy); d != "" {
		t.Errorf("backend (-want +got):\n%s", d)
	}
}

// A policy that changes makes the routes that it is attached to anew.
func TestRouteFollowsItsPolicy(t *testing.T) {
	text := func(idle string) string {
		return twoServed + route("first") + policy("rule", 2, onRule, "timeout: {idle: "+idle+"}")
	}
	tr := object.NewTranslator(object.Options{})
	f := object.Decode("f.yaml", []byte(text("1s")))
	tr.Translate(f.Objects)
	res := tr.Translate(object.Redecode("f.yaml", []byte(text("2s")), f).Objects)
	if got := res.Parts.Attachments[0].Route.Requests.Timeouts.Idle; got != 2*time.Second {
		t.Errorf("the route's idle timeout is %s, want 2s", got)
	}
}

func TestExtensionsThatCannotBe(t *testing.T) {
	tests := []struct{ name, remove, add, broken, message string }{
		{"missing", "name: ext}", "name: gone}", "rule", "TrafficPolicy default/gone does not exist"},
		{"invalid", "request: 2s}", "request: 2x}", "rule", "is not valid (spec.timeout.request"},
		{"kind", "kind: TrafficPolicy, name: ext", "kind: Other, name: ext", "rule", "an extension of kind"},
		{"backend", "name: sub}", "name: gone}", "backend", "TrafficPolicy default/gone does not exist"},
		{"subset", "subset: {labels: {v: one}}", "subsetName: one", "backend", "no DestinationRule for two.default.svc.cluster.local has the subset"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, _ := translate(t, "f.yaml", twoServed+strings.Replace(route("first"), tt.remove, tt.add, 1), object.Options{})
			r := res.Parts.Attachments[0].Route
			got := map[string]string{"rule": r.Broken, "backend": r.Backends[0].Broken}
			if !strings.Contains(got[tt.broken], tt.message) {
				t.Errorf("broken: %q, want %s with %q", got, tt.broken, tt.message)
			}
		})
	}
}

// What has no meaning where a policy is named is told.
func TestExtensionSaysTooMuch(t *testing.T) {
	res := good(t, twoServed+strings.Replace(strings.Replace(route("first"), "request: 2s}", "request: 2s}, circuitBreaker: {maxRequests: 1}", 1), "labels: {v: one}}}", "labels: {v: one}}}, timeout: {idle: 1s}", 1))
	var said []string
	for _, n := range res.Notices {
		said = append(said, n.Message)
	}
	all := strings.Join(said, "\n")
	for _, want := range []string{"(circuitBreaker.maxRequests), which has no effect in spec.rules[0].filters[0]", "(timeout.idle), which has no effect in spec.rules[0].backendRefs[0].filters[0]"} {
		if !strings.Contains(all, want) {
			t.Errorf("nobody was told %q:\n%s", want, all)
		}
	}
}

func TestTargets(t *testing.T) {
	tests := []struct{ name, text, condition, field string }{
		{"route-backend", policy("p", 1, onRoute, "circuitBreaker: {maxRequests: 1}"), "HTTPRoute default/r Accepted false Invalid", "spec.targetRefs[0]"},
		{"route-rule", policy("p", 1, strings.Replace(onRule, "first", "second", 1), "timeout: {idle: 1s}"), "HTTPRoute default/r/second Accepted false TargetNotFound", "spec.targetRefs[0].sectionName"},
		{"gateway-listener", policy("p", 1, strings.Replace(onGateway, "name: wp", "name: wp, sectionName: x", 1), "timeout: {idle: 1s}"), "Gateway default/wp/x Accepted false TargetNotFound", "spec.targetRefs[0].sectionName"},
		{"gateway-other", policy("p", 1, strings.Replace(onGateway, "wp", "ingress", 1), "timeout: {idle: 1s}") + ingress, "Gateway default/ingress Accepted false TargetNotFound", "spec.targetRefs[0].name"},
		{"gateway-subset", policy("p", 1, onGateway, "loadBalancer: {subset: {labels: {a: b}}}"), "Gateway default/wp Accepted false Invalid", "spec.targetRefs[0]"},
		{"subset", policy("p", 1, onTwo, "loadBalancer: {subsetName: v1}"), "Service default/two Accepted true Accepted", "spec.loadBalancer.subsetName"},
		{"missing", policy("p", 1, strings.Replace(onTwo, "two", "three", 1), "timeout: {idle: 1s}"), "Service default/three Accepted false TargetNotFound", "spec.targetRefs[0].name"},
		{"invalid", policy("p", 1, onTwo, "timeout: {idle: x}"), "Service default/two Accepted false Invalid", "spec.timeout.idle"},
		{
			"limit-service", policy("p", 1, onTwo, "rateLimit: {global: {backendRef: {name: gone, port: 1}, domain: d, descriptors: [{entries: [{key: a, value: b}]}]}}"),
			"Service default/two Accepted true Accepted; Service default/two ResolvedRefs false BackendNotFound", "spec.rateLimit.global.backendRef.name",
		},
		{
			"limit-grant", policy("p", 1, onTwo, "rateLimit: {global: {backendRef: {name: far, namespace: other, port: 80}, domain: d, descriptors: [{entries: [{key: a, value: b}]}]}}") + farSvc,
			"Service default/two Accepted true Accepted; Service default/two ResolvedRefs false RefNotPermitted", "spec.rateLimit.global.backendRef.namespace",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, _ := translate(t, "f.yaml", twoServed+route("first")+tt.text, object.Options{})
			if got := policyConditions(res, "TrafficPolicy", "p"); got != tt.condition {
				t.Errorf("conditions: %s, want %s", got, tt.condition)
			}
			if len(res.Problems) != 1 || res.Problems[0].Field != tt.field {
				t.Errorf("problems: %v, want one of %s", res.Problems, tt.field)
			}
		})
	}
}

// The service of a global limit: its key where there is a grant, and the reason where it cannot be asked.
func TestGlobalLimit(t *testing.T) {
	const spec = "rateLimit: {global: {backendRef: {name: far, namespace: other, port: 80}, domain: d, failureMode: Open, descriptors: [{entries: [{key: a, expression: source.principal}]}]}}"
	grant := "\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: other}\nspec: {from: [{group: policy.cairnproxy.dev, kind: TrafficPolicy, namespace: default}], to: [{group: '', kind: Service}]}\n"
	res := good(t, twoServed+policy("p", 1, onTwo, spec)+farSvc+grant)
	want := &mesh.GlobalLimit{
		Service: mesh.ServiceKey{Namespace: "other", Hostname: "far.other.svc.cluster.local"}, Port: 80, Domain: "d", FailOpen: true,
		Descriptors: []mesh.Descriptor{{Entries: []mesh.DescriptorEntry{{Key: "a", Expr: "source.principal"}}}},
	}
	if d := cmp.Diff(want, port(t, res, "two", 80).Requests.RateLimit.Global); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	res, _ = translate(t, "f.yaml", twoServed+policy("p", 1, onTwo, spec)+farSvc, object.Options{})
	if got := port(t, res, "two", 80).Requests.RateLimit.Global.Broken; !strings.Contains(got, "does not let") {
		t.Errorf("broken is %q", got)
	}
}

// A subset that a DestinationRule defines: its labels and its policies, and no
// endpoint at all where there is none of that name.
func TestSubsetByName(t *testing.T) {
	const rule = "\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: dr}\nspec: {host: two, trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, portLevelSettings: [{port: {number: 90}, outlierDetection: {}}]}}]}\n"
	res := good(t, twoServed+rule+policy("p", 1, onTwo, "loadBalancer: {subsetName: v1}"))
	name := mesh.Name{Namespace: "default", Name: "dr"}
	labels := map[string]string{"version": "v1"}
	want := &mesh.BackendPolicy{Balancer: &mesh.Balancer{Policy: name, Kind: mesh.BalanceRoundRobin}, Subset: labels}
	if d := cmp.Diff(want, port(t, res, "two", 80).Backend); d != "" {
		t.Errorf("port 80 (-want +got):\n%s", d)
	}
	want = &mesh.BackendPolicy{Outlier: &mesh.OutlierDetection{Policy: name, Consecutive5xx: 5}, Subset: labels}
	if d := cmp.Diff(want, port(t, res, "two", 90).Backend); d != "" {
		t.Errorf("port 90 (-want +got):\n%s", d)
	}
	res, _ = translate(t, "f.yaml", twoServed+rule+policy("p", 1, onTwo, "loadBalancer: {subsetName: v2}"), object.Options{})
	if got := port(t, res, "two", 80).Backend.Subset; len(got) != 1 || got["version"] != "" {
		t.Errorf("a subset that is not there leaves the endpoints with labels %v", got)
	}
}

// Nothing that somebody may read shows the key of a certificate.
func TestSecretsAreHidden(t *testing.T) {
	cert, key := pair(t)
	text := twoServed + "\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: k}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n" + indent(cert) + "  tls.key: |\n" + indent(key) +
		tlsPolicy("b", 1, "wellKnownCACertificates: System", "options: {policy.cairnproxy.dev/client-certificate: k}, ")
	res := good(t, text)
	got := port(t, res, "two", 80).Backend.TLS
	if string(got.Key) != key || string(got.Certificate) != cert {
		t.Fatal("the certificate and its key did not arrive")
	}
	middle := strings.Split(key, "\n")[1]
	asJSON, err := json.Marshal(res.Parts.Services)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Marshal(res.Parts.Services)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"JSON": string(asJSON), "YAML": string(asYAML), "%v": fmt.Sprintf("%v %+v %#v %s %x %d", got, got, got, got.Key, got.Key, got.Key)} {
		if strings.Contains(text, middle) || strings.Contains(text, fmt.Sprintf("%x", middle)) || strings.Contains(text, strings.Trim(fmt.Sprintf("%d", []byte(middle[:8])), "[]")) {
			t.Errorf("%s shows the key", name)
		}
	}
	for _, wrong := range []string{
		"data: {tls.key: MYSECRET!}", "data: MYSECRET", "data: {tls.key: [MYSECRET]}", "stringData: {tls.key: {a: MYSECRET}}", "type: [MYSECRET]",
		"stringData: {tls.crt: MYSECRET, tls.key: MYSECRET}", "immutable: MYSECRET",
	} {
		res, _ := translate(t, "f.yaml", twoServed+"\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: k}\n"+wrong+tlsPolicy("b", 1, "wellKnownCACertificates: System", "options: {policy.cairnproxy.dev/client-certificate: k}, "), object.Options{})
		said := fmt.Sprint(res.Problems, res.Notices, policyConditions(res, "BackendTLSPolicy", "b"), port(t, res, "two", 80).Backend.TLS.Broken)
		if len(res.Problems) == 0 || strings.Contains(said, "MYSECRET") || strings.Contains(said, "TVlTRUNSRVQ") {
			t.Errorf("%s: problems %v", wrong, res.Problems)
		}
	}
}
