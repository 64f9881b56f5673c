package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func explainRun(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(t.Context(), append([]string{"explain"}, args...), &out, &err)
	return code, out.String(), err.String()
}

// TestExplainManifests: a request through the node proxy, the waypoint and the other node proxy, from manifests alone.
func TestExplainManifests(t *testing.T) {
	const example = "../../examples/authz"
	for _, tt := range []struct {
		name string
		args []string
		want []string
	}{
		{"allowed", []string{"--from", "authz/web", "--host", "orders", "--path", "/orders/7"}, []string{
			"outcome    passed on to authz/orders-v1.authz.svc.cluster.local:8080 or authz/orders-v2",
			"policies allowed by AuthorizationPolicy authz/orders-users rule 0", "rule 0 matches, and decides",
			"route    HTTPRoute authz/orders rule split: all", "not    HTTPRoute authz/orders rule beta: x-beta=true: there is no header x-beta",
		}},
		{"header", []string{"--from", "authz/web", "--host", "orders.authz", "--path", "/orders/7", "-H", "X-Beta: true"}, []string{"route    HTTPRoute authz/orders rule beta"}},
		{"denied", []string{"--from", "authz/batch", "--host", "orders", "--path", "/orders/x/../internal/k"}, []string{"answered 403 by the waypoint: AuthorizationPolicy authz/orders-internal rule 0"}},
		{"nobody", []string{"--from", "none", "--host", "orders.authz", "--path", "/orders/7"}, []string{"answered 403", "the peer has proven no identity"}},
		{"expression", []string{"--from", "authz/web", "--host", "catalog", "-H", "x-tenant: 7"}, []string{"require tenant is not met, and decides"}},
		{"dry run", []string{"--from", "authz/batch", "--host", "catalog", "-H", "x-tenant: acme"}, []string{"in dry run: refused by authz/catalog-next", "passed on to authz/catalog"}},
		{"node proxy", []string{"--from", "authz/batch", "--host", "vault"}, []string{"node       proxy of authz/vault: cluster.local/ns/authz/sa/waypoint, which connects, is allowed"}},
		{"json", []string{"--from", "authz/batch", "--host", "vault", "--json"}, []string{`"outcome": "passed on to`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, out, stderr := explainRun(t, append(tt.args, "-f", example)...)
			if code != exitGood {
				t.Fatalf("exit code %d: %s", code, stderr)
			}
			for _, w := range tt.want {
				if !strings.Contains(out, w) {
					t.Errorf("lacks %q:\n%s", w, out)
				}
			}
		})
	}
}

// TestExplainClaims: a token that is taken for valid.
func TestExplainClaims(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	policy := `
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: editors, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: echo}]
  rules: [{when: [{key: "request.auth.claims[role]", values: [editor]}]}]
`
	if err := os.WriteFile(path, []byte(echoMesh+policy), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"-f", path, "--from", "shop/default", "--host", "echo"}
	if _, out, stderr := explainRun(t, args...); !strings.Contains(out, "the request has no token") {
		t.Errorf("without a token:\n%s%s", out, stderr)
	}
	if _, out, stderr := explainRun(t, append(args, "--claims", `{"role":"editor"}`)...); !strings.Contains(out, "allowed by AuthorizationPolicy shop/editors rule 0") {
		t.Errorf("an editor:\n%s%s", out, stderr)
	}
}

const replayed = `{"start_time":"2026-11-27T10:00:00Z","request_id":"r1","method":"GET","authority":"orders:8080","path":"/orders/7","source_principal":"spiffe://cluster.local/ns/authz/sa/web","response_code":200,"service":"orders.authz.svc.cluster.local","downstream_local_address":"127.1.1.1:8080"}
{"start_time":"2026-11-27T10:00:01Z","request_id":"r2","method":"DELETE","authority":"orders:8080","path":"/orders/7","source_principal":"spiffe://cluster.local/ns/authz/sa/web","response_code":403,"response_code_details":"rbac_access_denied_matched_policy[none]","service":"orders.authz.svc.cluster.local","downstream_local_address":"127.1.1.1:8080"}
{"start_time":"2026-11-27T10:00:02Z","request_id":"r3","method":"POST","authority":"orders:8080","path":"/orders","source_principal":"spiffe://cluster.local/ns/authz/sa/batch","response_code":200,"service":"orders.authz.svc.cluster.local","downstream_local_address":"127.1.1.1:8080"}
{"start_time":"2026-11-27T10:00:03Z","request_id":"r4","method":"GET","authority":"catalog:8080","path":"/","source_principal":"spiffe://cluster.local/ns/authz/sa/web","response_code":200,"service":"catalog.authz.svc.cluster.local","downstream_local_address":"127.1.1.2:8080"}
{"start_time":"2026-11-27T10:00:04Z","request_id":"r5","method":"GET","authority":"gone:8080","path":"/","response_code":200,"service":"gone.authz.svc.cluster.local"}
`

const candidate = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: orders-users, namespace: authz}
spec:
  targetRefs: [{group: "", kind: Service, name: orders}]
  rules:
  - from: [{source: {serviceAccounts: ["authz/web"]}}]
    to: [{operation: {methods: ["GET", "DELETE"], paths: ["/orders/{*}"]}}]
`

func TestExplainReplay(t *testing.T) {
	dir := t.TempDir()
	records, next, same := filepath.Join(dir, "records.jsonl"), filepath.Join(dir, "next.yaml"), filepath.Join(dir, "same.yaml")
	old, err := os.ReadFile("../../examples/authz/policies.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{records: replayed, next: candidate, same: string(old)} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"in place", []string{"-f", "../../examples/authz", "--candidate", next}, exitFailed, []string{
			"2 of 5 requests would be answered otherwise\n", "allowed → refused: 1\n  now  allow policies exist, but none allowed\n  was  AuthorizationPolicy authz/orders-users rule 1\n      1 POST orders:8080/orders from cluster.local/ns/authz/sa/batch (r3)\n",
			"refused → allowed: 1\n  now  AuthorizationPolicy authz/orders-users rule 0\n", "(r2)", "1 of the others depend on header fields or tokens", "1 cannot be judged: there is no service gone",
		}},
		{"the same", []string{"-f", "../../examples/authz", "--candidate", same}, exitGood, []string{"0 of 5 requests"}},
		{"alone", []string{"--candidate", next}, exitFailed, []string{"2 of 5 requests", "was  rbac_access_denied_matched_policy[none]"}},
		{"json", []string{"--candidate", next, "--json"}, exitFailed, []string{`"to": "refused"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, out, stderr := explainRun(t, append(tt.args, "--replay", records)...)
			if code != tt.code {
				t.Fatalf("exit code %d: %s%s", code, out, stderr)
			}
			for _, w := range tt.want {
				if !strings.Contains(out, w) {
					t.Errorf("lacks %q:\n%s", w, out)
				}
			}
		})
	}
}

func TestExplainMistakes(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"nothing", nil, exitUsage, "--request-id"},
		{"two things", []string{"--record", "--request-id", "x"}, exitUsage, "give one of"},
		{"no client", []string{"--host", "x", "-f", "."}, exitUsage, "--from"},
		{"path", []string{"--host", "x", "--from", "none", "--path", "x"}, exitUsage, "--path"},
		{"header", []string{"--host", "x", "--from", "none", "-H", "x"}, exitUsage, "NAME:VALUE"},
		{"claims", []string{"--host", "x", "--from", "none", "--claims", "[]"}, exitUsage, "JSON object"},
		{"source", []string{"--host", "x", "--from", "none", "--source-ip", "x"}, exitUsage, "IP address"},
		{"no candidate", []string{"--replay", "x"}, exitUsage, "--candidate"},
		{"no service", []string{"--host", "x", "--from", "none", "-f", "../../examples/authz"}, exitFailed, "no service has the host"},
		{"nobody there", []string{"--request-id", "x", "--admin", "127.0.0.1:1"}, exitFailed, "127.0.0.1:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, _, stderr := explainRun(t, tt.args...)
			if code != tt.code || !strings.Contains(stderr, tt.want) {
				t.Errorf("exit code %d, want %d; stderr %q, want %q in it", code, tt.code, stderr, tt.want)
			}
		})
	}
}
