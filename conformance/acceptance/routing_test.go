package acceptance

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

const routingMesh = `
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels:
    istio.io/use-waypoint: waypoint
    policy.cairnproxy.dev/waypoint-binding: permissive # "plain" leads past the waypoint to the same pods
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec:
  gatewayClassName: cairn-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: shop}
spec: {selector: {app: echo}, ports: [{name: http, port: 8000, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: v1, namespace: shop}
spec: {selector: {app: echo, version: v1}, ports: [{name: http, port: 8000, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: v2, namespace: shop}
spec: {selector: {app: echo, version: v2}, ports: [{name: http, port: 8000, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: raw, namespace: shop}
spec: {selector: {app: echo, version: v1}, ports: [{name: tcp, port: 9000, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: shop}
spec: {selector: {app: nobody}, ports: [{name: http, port: 8000}]}
---
apiVersion: v1
kind: Service
metadata: {name: plain, namespace: shop, labels: {istio.io/use-waypoint: none}}
spec: {selector: {app: echo, version: v2}, ports: [{name: http, port: 8000, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: echo-1, namespace: shop, labels: {app: echo, version: v1}}
spec:
  serviceAccountName: one
  containers: [{name: echo, image: cairn/echo, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: echo-2, namespace: shop, labels: {app: echo, version: v2}}
spec:
  serviceAccountName: two
  containers: [{name: echo, image: cairn/echo, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: one, namespace: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: two, namespace: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: other}
---
apiVersion: v1
kind: Pod
metadata: {name: guest, namespace: other}
spec:
  containers: [{name: sleep, image: curlimages/curl, command: [/bin/sleep, infinity]}]
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: other}
spec: {selector: {app: far}, ports: [{name: http, port: 8000, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: other, labels: {app: far}}
spec:
  containers: [{name: echo, image: cairn/echo, ports: [{containerPort: 8080}]}]
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: shop, namespace: other}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}]
  to: [{group: "", kind: Service}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: echo, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: echo}]
  rules:
  - matches: [{path: {type: Exact, value: /exact}}]
    backendRefs: [{name: v2, port: 8000}]
  - matches: [{path: {type: PathPrefix, value: /prefix}}]
    backendRefs: [{name: v2, port: 8000}]
  - matches: [{path: {type: RegularExpression, value: "/re/[0-9]+"}}]
    backendRefs: [{name: v2, port: 8000}]
  - matches: [{headers: [{name: x-version, value: v2}]}]
    backendRefs: [{name: v2, port: 8000}]
  - matches: [{queryParams: [{name: version, value: v2}]}]
    backendRefs: [{name: v2, port: 8000}]
  - matches: [{method: PUT}]
    backendRefs: [{name: v2, port: 8000}]
  - matches: [{path: {type: PathPrefix, value: /far}}]
    backendRefs: [{name: far, namespace: other, port: 8000}]
  - matches: [{path: {type: PathPrefix, value: /modify}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-set, value: "1"}], add: [{name: x-add, value: "2"}], remove: [x-remove]}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: x-answer, value: "3"}]}
    backendRefs: [{name: v1, port: 8000}]
  - matches: [{path: {type: PathPrefix, value: /old}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 301}
  - matches: [{path: {type: PathPrefix, value: /rewrite}}]
    filters:
    - type: URLRewrite
      urlRewrite: {hostname: elsewhere.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /written}}
    backendRefs: [{name: v1, port: 8000}]
  - matches: [{path: {type: PathPrefix, value: /delay}}]
    timeouts: {request: 200ms}
    backendRefs: [{name: v1, port: 8000}]
  - matches: [{path: {type: PathPrefix, value: /none}}]
    backendRefs: [{name: empty, port: 8000}]
  - matches: [{path: {type: PathPrefix, value: /v1}}]
    backendRefs: [{name: v1, port: 8000, weight: 3}, {name: v2, port: 8000, weight: 0}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: rules, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: v1}]
  action: DENY
  rules:
  - from: [{source: {namespaces: [other]}}]
    to: [{operation: {paths: [/ns]}}]
  - to: [{operation: {paths: ["/secret/*"]}}]
  - to: [{operation: {paths: [/port], ports: ["8000"]}}]
  - to: [{operation: {paths: [/head]}}]
    when: [{key: "request.headers[x-bad]", values: ["yes"]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: l4, namespace: shop}
spec:
  selector: {matchLabels: {version: v2}}
  action: DENY
  rules:
  - from: [{source: {namespaces: [other]}}]
`

// TestRouting sends requests that each kind of match, filter and rule decides.
func TestRouting(t *testing.T) {
	m := up(t, write(t, t.TempDir(), "mesh.yaml", routingMesh))
	base := "http://" + m.addr(t, "shop", "echo")
	c := client(t, "", true)
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	ask := func(t *testing.T, c *http.Client, method, url string, headers ...string) (*http.Response, map[string]any) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+1 < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		var e map[string]any
		_ = json.Unmarshal(body, &e) // a local reply is no JSON
		return resp, e
	}
	for _, test := range []struct {
		name, method, path string
		headers            []string
		pod                string
		status             int
	}{
		{"exact", "GET", "/exact", nil, "echo-2", 200},
		{"exact-longer", "GET", "/exact/x", nil, "", 404},
		{"prefix", "GET", "/prefix/x", nil, "echo-2", 200},
		{"prefix-itself", "GET", "/prefix", nil, "echo-2", 200},
		{"prefix-half", "GET", "/prefixed", nil, "", 404},
		{"regex", "GET", "/re/42", nil, "echo-2", 200},
		{"regex-no", "GET", "/re/x", nil, "", 404},
		{"header", "GET", "/x", []string{"X-Version", "v2"}, "echo-2", 200},
		{"header-no", "GET", "/x", []string{"X-Version", "v22"}, "", 404},
		{"query", "GET", "/x?a=b&version=v2", nil, "echo-2", 200},
		{"method", "PUT", "/x", nil, "echo-2", 200},
		{"weights", "GET", "/v1", nil, "echo-1", 200},
		{"other-namespace", "GET", "/far", nil, "far", 200},
		{"no-endpoint", "GET", "/none", nil, "", 503},
		{"timeout", "GET", "/delay/2s", nil, "", 504},
		{"in-time", "GET", "/delay/20ms", nil, "echo-1", 200},
	} {
		t.Run(test.name, func(t *testing.T) {
			resp, e := ask(t, c, test.method, base+test.path, test.headers...)
			if pod, _ := e["pod"].(string); resp.StatusCode != test.status || pod != test.pod {
				t.Errorf("status %d from %q, want %d from %q", resp.StatusCode, pod, test.status, test.pod)
			}
		})
	}
	t.Run("headers", func(t *testing.T) {
		resp, e := ask(t, c, "GET", base+"/modify", "X-Set", "0", "X-Remove", "0")
		h := fmt.Sprint(e["headers"])
		if resp.Header.Get("X-Answer") != "3" || !strings.Contains(h, "X-Set:[1]") || !strings.Contains(h, "X-Add:[2]") || strings.Contains(h, "X-Remove") {
			t.Errorf("answer %v, request headers %s", resp.Header, h)
		}
	})
	t.Run("redirect", func(t *testing.T) {
		resp, _ := ask(t, c, "GET", base+"/old/x?y=z")
		if want := base + "/new/x?y=z"; resp.StatusCode != 301 || resp.Header.Get("Location") != want {
			t.Errorf("status %d to %q, want 301 to %q", resp.StatusCode, resp.Header.Get("Location"), want)
		}
	})
	t.Run("rewrite", func(t *testing.T) {
		_, e := ask(t, c, "GET", base+"/rewrite/x?y=z")
		if e["path"] != "/written/x?y=z" || e["host"] != "elsewhere.example" {
			t.Errorf("arrived as %v of %v, want /written/x?y=z of elsewhere.example", e["path"], e["host"])
		}
	})
	guest := client(t, m.pod(t, "guest").Address, true)
	v1 := "http://" + m.addr(t, "shop", "v1")
	for _, test := range []struct {
		name, path string
		c          *http.Client
		headers    []string
		want       int
	}{
		{"deny-namespace", "/ns", guest, nil, 403},
		{"other-namespace-may", "/ns", c, nil, 200},
		{"deny-path", "/secret/x", c, nil, 403},
		{"deny-path-tricky", "/x/../secret/x", c, nil, 403},
		{"deny-path-encoded", "/%73ecret/x", c, nil, 403},
		{"path-may", "/public", c, nil, 200},
		{"deny-port", "/port", c, nil, 403},
		{"deny-header", "/head", c, []string{"X-Bad", "yes"}, 403},
		{"header-may", "/head", c, []string{"X-Bad", "no"}, 200},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn, _ := ask(t, test.c, "GET", v1+test.path, test.headers...)
			if conn.StatusCode != test.want {
				t.Errorf("status %d, want %d", conn.StatusCode, test.want)
			}
		})
	}
	t.Run("l4-denied", func(t *testing.T) {
		// Past the waypoint the node proxy of echo-2 refuses the namespace: the
		// connection ends without an answer.
		if code, _, err := do(t.Context(), guest, "GET", "http://"+m.addr(t, "shop", "plain")+"/x"); err == nil {
			t.Errorf("status %d, want no answer", code)
		}
		must(t, c, 200, "GET", "http://"+m.addr(t, "shop", "plain")+"/x")
	})
	t.Run("tcp", func(t *testing.T) {
		// A service of plain TCP: the waypoint reads nothing into the bytes.
		conn, err := net.DialTimeout("tcp", m.addr(t, "shop", "raw"), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(conn, "DELETE /secret/x HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != 200 {
			t.Errorf("%v %v, want 200 of the application", resp, err)
		}
	})
}
