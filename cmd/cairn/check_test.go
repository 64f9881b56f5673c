package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const danglingManifest = `apiVersion: v1
kind: Service
metadata: {name: web, labels: {istio.io/use-waypoint: wp}}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp}
spec: {gatewayClassName: cairn-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - backendRefs:
    - {name: web, port: 80}
    - {name: gone, port: 80}
`

const danglingStatus = "status: HTTPRoute default/r at Service default/web:80: ResolvedRefs=False BackendNotFound: spec.rules[0].backendRefs[1].name: Service default/gone does not exist; correct the name or add the Service\n"

func check(t *testing.T, manifest string, flags ...string) (out string, code int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(path, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), append([]string{"check", path}, flags...), &stdout, &stderr)
	return strings.ReplaceAll(stdout.String(), path, "f.yaml") + stderr.String(), code
}

func TestCheckTellsConditions(t *testing.T) {
	whole := strings.Replace(danglingManifest, "gone", "web", 1)
	const accepted = "status: HTTPRoute default/r at Service default/web:80: Accepted=True Accepted\n"
	const problem = "f.yaml:19: HTTPRoute default/r: spec.rules[0].backendRefs[1].name: Service default/gone does not exist; correct the name or add the Service\n"
	tests := []struct {
		name, manifest string
		flags          []string
		want           string
		code           int
	}{
		{"good", whole, nil, "3 objects in 1 files: good\n", 0},
		{"good, all", whole, []string{"--status"}, accepted + "status: HTTPRoute default/r at Service default/web:80: ResolvedRefs=True ResolvedRefs\n3 objects in 1 files: good\n", 0},
		{"dangling", danglingManifest, nil, problem + danglingStatus, 1},
		{"dangling, all", danglingManifest, []string{"--status"}, problem + accepted + danglingStatus, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, code := check(t, tt.manifest, tt.flags...); got != tt.want || code != tt.code {
				t.Errorf("exit %d, want %d; got:\n%swant:\n%s", code, tt.code, got, tt.want)
			}
		})
	}
}

func TestCheckJSON(t *testing.T) {
	text, code := check(t, danglingManifest, "--json")
	var got struct {
		Problems []struct {
			Field  string
			Served bool
		}
		Statuses []struct {
			Kind, Namespace, Name string
			Parents               []struct {
				ParentRef  struct{ Kind, Name string }
				Conditions []struct{ Type, Status, Reason string }
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	if code != 1 || len(got.Problems) != 1 || !got.Problems[0].Served || got.Problems[0].Field != "spec.rules[0].backendRefs[1].name" {
		t.Errorf("exit %d, problems %+v; want one that is served", code, got.Problems)
	}
	s := got.Statuses
	if len(s) != 1 || s[0].Name != "r" || len(s[0].Parents) != 1 || s[0].Parents[0].ParentRef.Name != "web" ||
		len(s[0].Parents[0].Conditions) != 2 || s[0].Parents[0].Conditions[1].Reason != "BackendNotFound" {
		t.Errorf("statuses %+v, want that of the route with all its conditions", s)
	}
}
