package object_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/source/object"
)

// TestElsewhere: what leads to a service of another waypoint, which will be refused there, is told.
func TestElsewhere(t *testing.T) {
	const (
		head = `
{apiVersion: v1, kind: Service, metadata: {name: web, labels: {istio.io/use-waypoint: wp}}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: other, labels: {istio.io/use-waypoint: wp2LABEL}}, spec: {ports: [{name: http, port: 80}, {name: grpc, port: 81}]CLUSTERIP}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp2}, spec: {gatewayClassName: cairn-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
---
`
		says  = "is Service default/other, which is bound to waypoint default/wp2: its pods refuse waypoint default/wp; bind it to default/wp too, or give it the label policy.cairnproxy.dev/waypoint-binding: permissive"
		route = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r}, spec: {parentRefs: [{kind: Service, group: '', name: web}], rules: [{RULE}]}}"
		to    = "backendRefs: [{name: other, port: 80}]"
		back  = "backendRefs: [{name: web, port: 80}]"
	)
	rule := func(s string) string { return strings.Replace(route, "RULE", s, 1) }
	tokens := func(uri string) string {
		return tokensHead + tokensTo + "  jwtRules: [{issuer: a, jwksUri: '" + uri + "'}]"
	}
	for _, tt := range []struct{ name, text, label, ip, want string }{
		{"backend", rule(to), "", "", "HTTPRoute default/r: a backend of rule 0 " + says},
		{"own", rule(back), "", "", ""},
		{"permissive", rule(to), ", policy.cairnproxy.dev/waypoint-binding: permissive", "", ""},
		{"headless", rule(to), "", ", clusterIP: None", ""},
		{"mirror", rule(back + ", filters: [{type: RequestMirror, requestMirror: {backendRef: {name: other, port: 80}}}]"), "", "", "a mirror of rule 0 " + says},
		{"auth", rule(back + ", filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC, backendRef: {name: other, port: 81}}}]"), "", "", "the external authorization of rule 0 " + says},
		{"auth_of_backend", rule("backendRefs: [{name: web, port: 80, filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC, backendRef: {name: other, port: 81}}}]}]"), "", "", "the external authorization of rule 0 " + says},
		{"gateway", strings.Replace(rule(to), "kind: Service, group: ''", "kind: Gateway", 1), "", "", ""},
		{
			"limit", "{apiVersion: policy.cairnproxy.dev/v1alpha1, kind: TrafficPolicy, metadata: {name: l}, spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}], " +
				"rateLimit: {global: {domain: d, backendRef: {name: other, port: 81}, descriptors: [{entries: [{key: a, value: b}]}]}}}}\n---\n" + rule(back), "", "", "TrafficPolicy default/l: the rate limit service " + says,
		},
		{
			"limit_of_service", "{apiVersion: policy.cairnproxy.dev/v1alpha1, kind: TrafficPolicy, metadata: {name: l}, spec: {targetRefs: [{group: '', kind: Service, name: web}], " +
				"rateLimit: {global: {domain: d, backendRef: {name: other, port: 81}, descriptors: [{entries: [{key: a, value: b}]}]}}}}", "", "", "TrafficPolicy default/l: the rate limit service " + says,
		},
		{
			"provider", "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: \"extensionProviders: [{name: p, envoyExtAuthzGrpc: {service: default/other.default.svc.cluster.local, port: 81}}]\"}}\n---\n" +
				"{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p}, spec: {targetRefs: [{kind: Service, name: web}], action: CUSTOM, provider: {name: p}, rules: [{}]}}", "", "", `AuthorizationPolicy default/p: provider "p" ` + says,
		},
		{"keys", tokens("http://other.default.svc.cluster.local/k"), "", "", "RequestAuthentication default/p: spec.jwtRules[0].jwksUri " + says},
		{"keys_short", tokens("http://other/k"), "", "", "spec.jwtRules[0].jwksUri " + says},
		{"keys_outside", tokens("https://other.example.com/k"), "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.NewReplacer("LABEL", tt.label, "CLUSTERIP", tt.ip).Replace(head) + tt.text + waypoint
			if tt.name == "gateway" {
				text = strings.Replace(text, "name: web}], rules", "name: wp2}], rules", 1)
			}
			res, _ := translate(t, "f.yaml", text, object.Options{})
			if len(res.Problems) > 0 {
				t.Fatalf("problems: %v", res.Problems)
			}
			var got []string
			for _, n := range res.Notices {
				if strings.Contains(n.String(), "its pods refuse") {
					got = append(got, n.String())
				}
			}
			if tt.want == "" && len(got) > 0 || tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)) {
				t.Errorf("notices %q, want %q", got, tt.want)
			}
		})
	}
}

// TestKeyFile: a file of keys that is not there is told, and one that is there is not.
func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	for _, want := range []bool{true, false} {
		res, _ := translate(t, filepath.Join(dir, "f.yaml"), tokensHead+tokensTo+"  jwtRules: [{issuer: a, jwksUri: 'file:keys.json'}]"+svc+waypoint, object.Options{})
		told := false
		for _, n := range res.Notices {
			told = told || strings.Contains(n.Message, "spec.jwtRules[0].jwksUri: there is no file "+filepath.Join(dir, "keys.json"))
		}
		if told != want {
			t.Errorf("told %v, want %v: %v", told, want, res.Notices)
		}
		if err := os.WriteFile(filepath.Join(dir, "keys.json"), []byte(edKeys), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
