package manifests

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const base = `
apiVersion: v1
kind: Namespace
metadata: {name: ns, labels: {istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: ns}
spec:
  gatewayClassName: cairn-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: ns}
spec:
  clusterIP: 10.0.0.1
  selector: {app: shop}
  ports:
  - {name: http-web, port: 80, targetPort: 8080}
  - {name: any, port: 81, appProtocol: grpc}
`

func podNamed(name, ip string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: ns, labels: {app: shop}}
spec: {serviceAccountName: seller}
status: {phase: Running, podIP: %s}
`, name, ip)
}

func routeNamed(name, port string, prefixes ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s, namespace: ns}
spec:
  parentRefs: [{group: "", kind: Service, name: shop, port: %s}]
  rules:
`, name, port)
	for _, p := range prefixes {
		fmt.Fprintf(&b, "  - {matches: [{path: {type: PathPrefix, value: %s}}], backendRefs: [{name: shop, port: %s}]}\n", p, port)
	}
	return b.String()
}

const allow = `---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: ns}
spec:
  targetRefs: [{group: "", kind: Service, name: shop}]
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/ns/sa/buyer]}}]
    to: [{operation: {methods: [GET]}}]
`

func read(t *testing.T, text string) (*Mesh, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return Read(dir)
}

func TestRead(t *testing.T) {
	got, err := read(t, base+podNamed("a", "10.1.0.1")+podNamed("b", "10.1.0.2")+
		routeNamed("z", "80", "/long/one", "/a")+routeNamed("b", "80", "/b", "/long/two", "/c")+allow)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort
	rule := &Allow{Principals: []string{"spiffe://cluster.local/ns/ns/sa/buyer"}, Methods: []string{"GET"}}
	endpoints := func(port uint16) []Endpoint {
		var all []Endpoint
		for _, ip := range []string{"10.1.0.1", "10.1.0.2"} {
			all = append(all, Endpoint{netip.AddrPortFrom(netip.MustParseAddr(ip), port), "spiffe://cluster.local/ns/ns/sa/seller"})
		}
		return all
	}
	want := &Mesh{Services: []Service{
		{
			Namespace: "ns", Name: "shop", Addr: at("10.0.0.1:80"), Protocol: HTTP, Endpoints: endpoints(8080), Allow: rule,
			// The longest first; then by the route's name; then as they stand.
			Prefixes: []string{"/long/two", "/long/one", "/b", "/c", "/a"},
		},
		{Namespace: "ns", Name: "shop", Addr: at("10.0.0.1:81"), Protocol: HTTP2, Endpoints: endpoints(81), Allow: rule},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	if s, err := got.Find(at("10.0.0.1:81")); err != nil || s.Host() != "shop.ns.svc.cluster.local" {
		t.Errorf("found %+v, %v", s, err)
	}
	if _, err := got.Find(at("10.0.0.2:81")); err == nil {
		t.Error("found a service that is not there")
	}
}

// TestUnknown: whatever could make two proxies do different things is refused.
func TestUnknown(t *testing.T) {
	whole := base + podNamed("a", "10.1.0.1") + routeNamed("r", "80", "/a") + allow
	if _, err := read(t, whole); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, old, new, want string }{
		{"kind", "kind: AuthorizationPolicy", "kind: PeerAuthentication", "does not know security.istio.io/v1 PeerAuthentication"},
		{"field", "action: ALLOW", "action: ALLOW\n  provider: {name: ext}", `unknown field "provider"`},
		{"action", "action: ALLOW", "action: DENY", "ALLOW with targets"},
		{"wildcard", "methods: [GET]", "methods: ['GET*']", "without a wildcard"},
		{"negation", "methods: [GET]", "notMethods: [GET]", `unknown field "notMethods"`},
		{"exact", "PathPrefix", "Exact", "PathPrefix is understood"},
		{"headers", "matches: [{path", "matches: [{headers: [], path", `unknown field "headers"`},
		{"other-backend", "backendRefs: [{name: shop", "backendRefs: [{name: other", "the parent itself"},
		{"filters", "backendRefs: [{", "filters: [], backendRefs: [{", "unknown field"},
		{"protocol", "appProtocol: grpc", "appProtocol: redis", `protocol "redis" is not understood`},
		{"selector", "selector: {app: shop}", "selector: {app: shop, version: v1}", "one label is understood"},
		{"no-waypoint", "use-waypoint: waypoint", "use-waypoint: other", `uses waypoint "other"`},
		{"pod-phase", "phase: Running", "phase: Pending", `phase "Pending"`},
		{"listener", "protocol: HBONE", "protocol: HTTP", "one for HBONE"},
		{"no-such-service", "{group: \"\", kind: Service, name: shop}", "{group: \"\", kind: Service, name: gone}", "a Service of its namespace"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := strings.ReplaceAll(whole, test.old, test.new)
			if text == whole {
				t.Fatalf("%q is not in the manifests", test.old)
			}
			_, err := read(t, text)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
