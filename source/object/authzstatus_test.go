package object_test

import (
	"strings"
	"testing"

	"cairnproxy.dev/cairn/source/object"
)

// TestAuthorizationStatus: what each target, and the namespace, says of a policy.
func TestAuthorizationStatus(t *testing.T) {
	const world = `
---
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio.io/use-waypoint: wp}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: default}
spec:
  gatewayClassName: cairn-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: bare, namespace: default, labels: {istio.io/use-waypoint: none}}
spec: {ports: [{name: http, port: 80}]}
`
	const (
		service  = "{kind: Service, name: web}"
		methods  = "rules: [{to: [{operation: {methods: [GET]}}]}]"
		netAndIP = "rules: [{from: [{source: {namespaces: [a], ipBlocks: [10.0.0.0/8]}}], to: [{operation: {ports: ['80']}}]}]"
	)
	tests := []struct {
		name, spec string
		want       []string // "parent: type=status reason", and a part of the message after a "|"
	}{
		{"service", "targetRefs: [" + service + "]\n  " + methods, []string{"Service default/web: WaypointAccepted=true Accepted|"}},
		{"gateway", "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}]", []string{"Gateway default/wp: WaypointAccepted=true Accepted|"}},
		{"target_ref", "targetRef: " + service, []string{"Service default/web: WaypointAccepted=true Accepted|"}},
		{"gone", "targetRefs: [" + service + ", {kind: Service, name: gone}]", []string{
			"Service default/web: WaypointAccepted=true Accepted|", "Service default/gone: WaypointAccepted=false TargetNotFound|Service default/gone does not exist",
		}},
		{"class_elsewhere", "targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: cairn-waypoint}]", []string{
			"GatewayClass cairn-waypoint: WaypointAccepted=false Invalid|only policies of the root namespace",
		}},
		{"unbound", "targetRefs: [{kind: Service, name: bare}]", []string{"Service default/bare: WaypointAccepted=false AncestorNotBound|istio.io/use-waypoint"}},
		{"invalid", "targetRefs: [" + service + "]\n  rules: [{when: [{key: nonsense, values: [a]}]}]", []string{"Service default/web: WaypointAccepted=false Invalid|spec.rules[0].when[0].key: \"nonsense\" is not a condition"}},
		{"one_target_wrong", "targetRefs: [" + service + ", {kind: Pod, name: x}]", []string{
			"Service default/web: WaypointAccepted=false Invalid|spec.targetRefs[1].kind", "Pod default/x: WaypointAccepted=false Invalid|cannot target kind",
		}},
		{"node", netAndIP, []string{"Namespace default: ZtunnelAccepted=true Accepted|"}},
		{"node_allow", methods, []string{"Namespace default: ZtunnelAccepted=true UnsupportedValue|(methods): rules with these never match"}},
		{"node_deny", "action: DENY\n  rules: [{to: [{operation: {paths: [/a], hosts: [b]}}], when: [{key: 'request.headers[x]', values: [a]}, {key: source.ip, values: [10.0.0.1]}]}]", []string{
			"Namespace default: ZtunnelAccepted=true UnsupportedValue|(hosts, paths, request.headers[x]): rules are enforced without these",
		}},
		{"node_invalid", "action: DENI", []string{"Namespace default: ZtunnelAccepted=false Invalid|\"DENI\" is not an action"}},
		{"node_custom", "action: CUSTOM\n  provider: {name: x}", []string{"Namespace default: ZtunnelAccepted=false Invalid|only waypoints ask providers"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// The neighbour, which is good, is in force whatever the other says.
			policy := "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: NAME, namespace: default}\nspec:\n  SPEC\n"
			text := strings.NewReplacer("NAME", "p", "SPEC", tt.spec).Replace(policy) + "---\n" + strings.NewReplacer("NAME", "neighbour", "SPEC", "targetRefs: ["+service+"]\n  "+methods).Replace(policy) + world
			res, _ := translate(t, "f.yaml", text, object.Options{})
			var got []string
			status := statusOf(t, &res, "AuthorizationPolicy", "p")
			for _, p := range status.Parents {
				for _, c := range p.Conditions {
					truth := "false"
					if c.True {
						truth = "true"
					}
					got = append(got, p.Parent.String()+": "+c.Type+"="+truth+" "+c.Reason+"|"+c.Message)
				}
			}
			if len(got) != len(tt.want) {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			for i, want := range tt.want {
				head, part, _ := strings.Cut(want, "|")
				if !strings.HasPrefix(got[i], head+"|") || !strings.Contains(got[i], part) || part == "" && !strings.HasSuffix(got[i], "|") {
					t.Errorf("got %q, want %q", got[i], want)
				}
			}
			if n := statusOf(t, &res, "AuthorizationPolicy", "neighbour"); !n.Good() {
				t.Errorf("the neighbour is not good: %+v", n)
			}
			for _, p := range res.Parts.Policies {
				if p.Name.Name == "neighbour" && (p.Invalid != "" || len(p.Rules) != 1) {
					t.Errorf("the neighbour is %+v", p)
				}
			}
		})
	}
}
