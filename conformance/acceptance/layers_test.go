package acceptance

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// layersMesh has services whose policies stand at the node proxy, at the waypoint, at the waypoint's TCP ports, or at several
// of these.
var layersMesh = `
apiVersion: v1
kind: Namespace
metadata: {name: layers, labels: {istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: layers}
spec:
  gatewayClassName: cairn-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
` + layerClient("friend") + layerClient("stranger") +
	layerService("guarded", "http", "") + layerService("locked", "http", "") + layerService("raw", "tcp", "") +
	layerService("open", "http", "none") + layerService("tried", "http", "none") +
	layerService("strict-deny", "http", "none") + layerService("strict-allow", "http", "none") +
	// Both must let pass: the waypoint whom and what, the node proxy the waypoint alone.
	layerPolicy("guarded-l7", "targetRefs: [{kind: Service, name: guarded}]", "ALLOW", "from: [{source: {serviceAccounts: [layers/friend]}}], to: [{operation: {methods: [GET]}}]") +
	layerPolicy("guarded-l4", "selector: {matchLabels: {app: guarded}}", "ALLOW", "from: [{source: {principals: [cluster.local/ns/layers/sa/waypoint]}}]") +
	layerPolicy("locked-l4", "selector: {matchLabels: {app: locked}}", "DENY", "from: [{source: {serviceAccounts: [layers/waypoint]}}]") +
	layerPolicy("raw-l4", "targetRefs: [{kind: Service, name: raw}]", "ALLOW", "from: [{source: {serviceAccounts: [layers/friend]}}]") +
	layerPolicy("open-l4", "selector: {matchLabels: {app: open}}", "ALLOW", "from: [{source: {serviceAccounts: [layers/friend]}}], to: [{operation: {ports: ['8080']}}]") +
	strings.Replace(layerPolicy("tried-l4", "selector: {matchLabels: {app: tried}}", "DENY", "from: [{source: {serviceAccounts: [layers/friend]}}]"), "metadata: {", `metadata: {annotations: {istio.io/dry-run: "true"}, `, 1) +
	layerPolicy("tried-audit", "selector: {matchLabels: {app: tried}}", "AUDIT", "from: [{source: {serviceAccounts: [layers/friend]}}]") +
	// What only requests have, where there are none.
	layerPolicy("strict-deny", "selector: {matchLabels: {app: strict-deny}}", "DENY", "to: [{operation: {methods: [DELETE]}}]") +
	layerPolicy("strict-allow", "selector: {matchLabels: {app: strict-allow}}", "ALLOW", "to: [{operation: {methods: [GET]}}]")

func layerClient(name string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %[1]s, namespace: layers}\nspec:\n  serviceAccountName: %[1]s\n  containers: [{name: sleep, image: curlimages/curl, command: [/bin/sleep, infinity]}]\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: %[1]s, namespace: layers}\n", name)
}

// layerService is a service with one pod; with waypoint "none" it has none.
func layerService(name, port, waypoint string) string {
	labels := ""
	if waypoint != "" {
		labels = ", labels: {istio.io/use-waypoint: " + waypoint + "}"
	}
	return fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: {name: %[1]s, namespace: layers%[3]s}\nspec: {selector: {app: %[1]s}, ports: [{name: %[2]s, port: 8000, targetPort: 8080}]}\n"+
		"---\napiVersion: v1\nkind: Pod\nmetadata: {name: pod-%[1]s, namespace: layers, labels: {app: %[1]s}}\nspec:\n  containers: [{name: echo, image: cairn/echo, ports: [{containerPort: 8080}]}]\n", name, port, labels)
}

func layerPolicy(name, place, action, rule string) string {
	return fmt.Sprintf("---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: %s, namespace: layers}\nspec:\n  %s\n  action: %s\n  rules: [{%s}]\n", name, place, action, rule)
}

// TestLayers: policies at the node proxy and at the waypoint are enforced together, each where it is attached, and one that
// cannot be evaluated where it stands refuses.
func TestLayers(t *testing.T) {
	m := up(t, write(t, t.TempDir(), "mesh.yaml", layersMesh))
	const none = 0 // the connection ends without an answer
	for _, tt := range []struct {
		name, from, method, service string
		want                        int
	}{
		{"both_allow", "friend", "GET", "guarded", 200},
		{"waypoint_refuses_method", "friend", "DELETE", "guarded", 403},
		{"waypoint_refuses_who", "stranger", "GET", "guarded", 403},
		{"node_refuses_waypoint", "friend", "GET", "locked", 503},
		{"tcp_allowed", "friend", "GET", "raw", 200},
		{"tcp_any_method", "friend", "DELETE", "raw", 200},
		{"tcp_refused", "stranger", "GET", "raw", none},
		{"node_allows", "friend", "GET", "open", 200},
		{"node_refuses_who", "stranger", "GET", "open", none},
		{"node_dry_run", "friend", "GET", "tried", 200},
		{"node_request_deny", "friend", "GET", "strict-deny", none},
		{"node_request_allow", "friend", "GET", "strict-allow", none},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			got, body, err := do(ctx, client(t, m.pod(t, tt.from).Address, false), tt.method, "http://"+m.addr(t, "layers", tt.service)+"/")
			switch {
			case tt.want == none && err == nil:
				t.Errorf("answered with %s, want no answer: %.80s", status(got, nil), body)
			case tt.want != none && (err != nil || got != tt.want):
				t.Errorf("%s, want %d: %.80s", status(got, err), tt.want, body)
			case tt.want == 403 && body != "RBAC: access denied":
				t.Errorf("refused with %q", body)
			}
		})
	}
	// The access log says who refused, and by which policy.
	for _, want := range [][]string{
		{`"DELETE / HTTP/1.1" 403 - rbac_access_denied_matched_policy[none]`},
		{"explicitly denied by policy: layers/locked-l4", "dst.workload=\"pod-locked\"", "direction=\"inbound\""},
		{"rbac_access_denied_matched_policy[none]", `"- - -" 0`},
		{"allow policies exist, but none allowed", "dst.workload=\"pod-open\"", "sa/stranger"},
		{"explicitly denied by policy: layers/strict-deny", "dst.workload=\"pod-strict-deny\""},
		{"allow policies exist, but none allowed", "dst.workload=\"pod-strict-allow\""},
		{`dry_run="denied by layers/tried-l4, audited by layers/tried-audit"`, "dst.workload=\"pod-tried\""},
	} {
		eventually(t, 5*time.Second, func() error {
		lines:
			for _, line := range readLines(t, m.access) {
				for _, s := range want {
					if !strings.Contains(line, s) {
						continue lines
					}
				}
				return nil
			}
			return fmt.Errorf("no line of the access log has %q", want)
		})
	}
}
