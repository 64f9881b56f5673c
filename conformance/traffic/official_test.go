package traffic

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"cairnproxy.dev/cairn/conformance/peers"
)

// TestOfficial has a twin for each test of Gateway API's mesh suite, by its name: the
// same services and the same manifests, read from the suite's own module, and
// the same requests. A namespace for each test stands for the suite's one.
func TestOfficial(t *testing.T) {
	dir, err := peers.GatewaySuite(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mesh, err := officialMesh(filepath.Join(dir, "mesh", "manifests.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	cases := officialCases
	for i := range cases {
		cases[i].mesh = mesh
		if file, ok := strings.CutPrefix(cases[i].yaml, "file:"); ok {
			text, err := os.ReadFile(filepath.Join(dir, "tests", "mesh", file))
			if err != nil {
				t.Fatal(err)
			}
			cases[i].yaml = string(text)
		}
		cases[i].yaml = strings.ReplaceAll(cases[i].yaml, "gateway-conformance-mesh", "$NS")
	}
	runGroup(t, "official", cases)
}

// officialMesh reads the suite's services, and its Deployments as a pod each.
func officialMesh(path string) ([]svc, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	type object struct {
		Kind     string
		Metadata struct{ Name, Namespace string }
		Spec     struct {
			Selector json.RawMessage
			Template struct {
				Metadata struct{ Labels map[string]string }
			}
			Ports []struct {
				Name             string
				Port, TargetPort uint16
				AppProtocol      string
			}
		}
	}
	var out []svc
	labels := map[string]map[string]string{} // of the pods, by NAMESPACE/NAME of the Deployment
	for part := range strings.SplitSeq("\n"+string(text), "\n---\n") {
		doc, err := yaml.YAMLToJSON([]byte(part))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		var o object
		if err := json.Unmarshal(doc, &o); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		ns := strings.TrimPrefix(o.Metadata.Namespace, "gateway-conformance-mesh")
		switch o.Kind {
		case "Deployment":
			labels[ns+"/"+o.Metadata.Name] = o.Spec.Template.Metadata.Labels
		case "Service":
			s := svc{name: o.Metadata.Name, ns: ns, pods: none}
			if err := json.Unmarshal(o.Spec.Selector, &s.pick); err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			for _, p := range o.Spec.Ports {
				if p.TargetPort == 0 {
					p.TargetPort = p.Port
				}
				s.ports = append(s.ports, svcPort{p.Name, p.Port, p.TargetPort, p.AppProtocol})
			}
			out = append(out, s)
		}
	}
	for i, s := range out {
		if l := labels[s.ns+"/"+s.name]; l != nil {
			out[i].pods, out[i].labels = 1, l
		}
	}
	return out, nil
}

// toEcho sends to a service of the suite on port 80.
func toEcho(name string, a ask) ask {
	a.svc, a.host = name, name
	return a
}

// echoes are requests to the service echo.
func echoes(list ...ask) func(*trial) error {
	for i := range list {
		list[i] = toEcho("echo", list[i])
	}
	return asks(list...)
}

var officialHeaders = echoes(
	ask{path: "/set", headers: []string{"Some-Other-Header", "val"}, pod: "echo-v1", seen: []string{"Some-Other-Header: val", "X-Header-Set: set-overwrites-values"}},
	ask{path: "/set", headers: []string{"Some-Other-Header", "val", "X-Header-Set", "some-other-value"}, pod: "echo-v1", seen: []string{"Some-Other-Header: val", "X-Header-Set: set-overwrites-values"}},
	ask{path: "/add", headers: []string{"Some-Other-Header", "val"}, pod: "echo-v1", seen: []string{"X-Header-Add: add-appends-values"}},
	ask{path: "/add", headers: []string{"X-Header-Add", "some-other-value"}, pod: "echo-v1", seen: []string{"X-Header-Add: some-other-value,add-appends-values"}},
	ask{path: "/remove", headers: []string{"X-Header-Remove", "val"}, pod: "echo-v1", seen: []string{"-X-Header-Remove"}},
	ask{
		path: "/multiple", headers: []string{"X-Header-Set-2", "set-val-2", "X-Header-Add-2", "add-val-2", "X-Header-Remove-2", "remove-val-2", "Another-Header", "another-header-val"},
		pod: "echo-v1", seen: []string{
			"X-Header-Set-1: header-set-1", "X-Header-Set-2: header-set-2", "X-Header-Add-1: header-add-1",
			"X-Header-Add-2: add-val-2,header-add-2", "X-Header-Add-3: header-add-3", "Another-Header: another-header-val", "-X-Header-Remove-1", "-X-Header-Remove-2",
		},
	},
	ask{
		path: "/case-insensitivity", headers: []string{"x-header-set", "original-val-set", "x-header-add", "original-val-add", "x-header-remove", "original-val-remove", "Another-Header", "v"},
		pod: "echo-v1", seen: []string{"X-Header-Set: header-set", "X-Header-Add: original-val-add,header-add", "Another-Header: v", "-x-header-remove"},
	},
)

// redirected is an answer with a Location.
func redirected(path string, status int, location string) ask {
	return ask{path: path, status: status, want: []string{"location: " + location}}
}

var officialRewritten = []string{"X-Header-Set: set-overwrites-values", "X-Header-Add: header-val-1", "X-Header-Add-Append: append-val-1,header-val-2", "-X-Header-Remove"}

var officialRewrite = []string{"X-Header-Remove", "remove-val", "X-Header-Add-Append", "append-val-1", "X-Header-Set", "set-val"}

var officialCases = []testCase{
	{
		name: "MeshBasic", of: "reachability with no configuration", prove: echoes(ask{}),
		// Without configuration there is nothing to take away: a port that the service
		// lacks must not be reached.
		wrong: func(x *trial) error {
			_, err := x.check(ask{svc: "echo", port: 8081})
			return err
		},
	},
	{
		name: "MeshTrafficSplit", of: "paths to two versions", yaml: "file:mesh-split.yaml",
		prove: echoes(times(6, ask{path: "/v1", pod: "echo-v1"}, ask{path: "/v2", pod: "echo-v2"})...),
	},
	{
		name: "MeshHTTPRouteSimpleSameNamespace", of: "a route to a service of its namespace", yaml: "file:httproute-simple-same-namespace.yaml",
		prove: echoes(times(12, ask{pod: "echo-v1"})...),
	},
	{
		name: "MeshHTTPRouteMatching", of: "path and header matching, default precedence", yaml: "file:httproute-matching.yaml",
		prove: echoes(
			ask{path: "/", pod: "echo-v1"}, ask{path: "/example", pod: "echo-v1"}, ask{path: "/", headers: []string{"Version", "one"}, pod: "echo-v1"},
			ask{path: "/v2", pod: "echo-v2"}, ask{path: "/v2/example", pod: "echo-v2"}, ask{path: "/", headers: []string{"Version", "two"}, pod: "echo-v2"},
			ask{path: "/v2/", pod: "echo-v2"}, ask{path: "/v2example", pod: "echo-v1"}, ask{path: "/foo/v2/example", pod: "echo-v1"},
		),
	},
	{name: "MeshHTTPRouteRequestHeaderModifier", of: "set, add and remove request headers", yaml: "file:httproute-request-header-modifier.yaml", prove: officialHeaders},
	{
		name: "MeshHTTPRouteRedirectHostAndStatus", of: "redirects to a host with 302 and 301", yaml: "file:httproute-redirect-host-and-status.yaml",
		prove: echoes(redirected("/hostname-redirect", 302, "http://example.org/hostname-redirect"), redirected("/host-and-status", 301, "http://example.org/host-and-status")),
	},
	{name: "MeshHTTPRouteWeight", of: "weights 70 and 30", yaml: "file:httproute-weight.yaml", prove: officialWeight(500, 5, func(x *trial) (map[string]int, error) {
		return x.spread(500, toEcho("echo", ask{}))
	})},
	{name: "MeshGRPCRouteWeight", of: "weights of a GRPCRoute, one of them 0", yaml: "file:grpcroute-weight.yaml", prove: officialWeight(500, 5, func(x *trial) (map[string]int, error) {
		return x.spreadGRPC(500, ask{svc: "echo", port: 7070})
	})},
	{
		name: "MeshGRPCRouteRequestHeaderModifier", of: "set, add and remove metadata by GRPCRoute (the suite has it from 1.7 on)", yaml: officialGRPCHeaders,
		prove: func(x *trial) error {
			for _, test := range []struct {
				headers []string
				pod     string
				seen    []string
			}{
				{[]string{"x-test-case", "set", "x-header-set", "old"}, "echo-v1", []string{"x-header-set: set-overwrites-values", "x-test-case: set"}},
				{[]string{"x-test-case", "add", "x-header-add", "old"}, "echo-v1", []string{"x-header-add: old,add-appends-values"}},
				{[]string{"x-test-case", "remove", "x-header-remove", "old"}, "echo-v1", []string{"-x-header-remove"}},
				{
					[]string{"x-test-case", "multi", "x-header-set-2", "old", "x-header-add-2", "old", "x-header-remove-2", "old"},
					"echo-v2",
					[]string{"x-header-set-1: header-set-1", "x-header-set-2: header-set-2", "x-header-add-1: header-add-1", "x-header-add-2: old,header-add-2", "-x-header-remove-1", "-x-header-remove-2"},
				},
			} {
				if err := x.call(call{svc: "echo", port: 7070, headers: test.headers, pod: test.pod, seen: test.seen}); err != nil {
					return err
				}
			}
			return nil
		},
	},
	{
		name: "MeshHTTPRouteBackendRequestHeaderModifier", of: "header filters of a backendRef", yaml: "file:httproute-request-header-modifier-backend.yaml", prove: officialHeaders,
	},
	{
		name: "MeshHTTPRouteQueryParamMatching", of: "query parameters", yaml: "file:httproute-query-param-matching.yaml",
		prove: echoes(
			ask{path: "/?animal=whale", pod: "echo-v1"}, ask{path: "/?animal=dolphin", pod: "echo-v2"},
			ask{path: "/?animal=whale&otherparam=irrelevant", pod: "echo-v1"}, ask{path: "/?animal=dolphin&color=yellow", pod: "echo-v2"},
			ask{path: "/?color=blue", status: 404}, ask{path: "/?animal=dog", status: 404}, ask{path: "/?animal=whaledolphin", status: 404}, ask{path: "/", status: 404},
			ask{path: "/path1?animal=whale", pod: "echo-v1"}, ask{path: "/?animal=whale", headers: []string{"version", "one"}, pod: "echo-v2"},
			ask{path: "/path3?animal=shark", pod: "echo-v1"}, ask{path: "/path4?animal=kraken", headers: []string{"version", "three"}, pod: "echo-v1"},
			ask{path: "/?animal=shark", status: 404}, ask{path: "/path4?animal=kraken", status: 404}, ask{path: "/path5?animal=hydra", pod: "echo-v1"},
		),
	},
	{
		name: "MeshHTTPRouteRedirectPath", of: "redirects of prefix and path", yaml: "file:httproute-redirect-path.yaml",
		prove: echoes(
			redirected("/original-prefix/lemon", 302, "http://echo/replacement-prefix/lemon"), redirected("/full/path/original", 302, "http://echo/full-path-replacement"),
			redirected("/path-and-host", 302, "http://example.org/replacement-prefix"), redirected("/path-and-status", 301, "http://echo/replacement-prefix"),
			redirected("/full-path-and-host", 302, "http://example.org/replacement-full"), redirected("/full-path-and-status", 301, "http://echo/replacement-full"),
		),
	},
	{
		name: "MeshHTTPRouteRedirectPort", of: "redirects to a port", yaml: "file:httproute-redirect-port.yaml",
		prove: echoes(
			redirected("/port", 302, "http://echo:8083/port"), redirected("/port-and-host", 302, "http://example.org:8083/port-and-host"),
			redirected("/port-and-status", 301, "http://echo:8083/port-and-status"), redirected("/port-and-host-and-status", 302, "http://example.org:8083/port-and-host-and-status"),
		),
	},
	{
		name: "MeshHTTPRouteSchemeRedirect", of: "redirects to https", yaml: "file:httproute-redirect-scheme.yaml",
		prove: echoes(
			redirected("/scheme", 302, "https://echo/scheme"), redirected("/scheme-and-host", 302, "https://example.org/scheme-and-host"),
			redirected("/scheme-and-status", 301, "https://echo/scheme-and-status"), redirected("/scheme-and-host-and-status", 302, "https://example.org/scheme-and-host-and-status"),
		),
	},
	{
		name: "MeshHTTPRouteRewritePath", of: "rewrites of path and headers", yaml: "file:httproute-rewrite-path.yaml",
		prove: echoes(
			ask{path: "/prefix/one/two", at: "/one/two", pod: "echo-v1"}, ask{path: "/strip-prefix/three", at: "/three", pod: "echo-v1"},
			ask{path: "/strip-prefix", at: "/", pod: "echo-v1"}, ask{path: "/full/one/two", at: "/one", pod: "echo-v1"},
			ask{path: "/full/rewrite-path-and-modify-headers/test", headers: officialRewrite, at: "/test", pod: "echo-v1", seen: officialRewritten},
			ask{path: "/prefix/rewrite-path-and-modify-headers/one", headers: officialRewrite, at: "/prefix/one", pod: "echo-v1", seen: officialRewritten},
		),
	},
	{
		name: "MeshHTTPRouteNamedRule", of: "a rule with a name", yaml: "file:httproute-named-rule.yaml",
		prove: echoes(ask{path: "/named", pod: "echo-v1"}, ask{path: "/unnamed", pod: "echo-v2"}, ask{path: "/x", status: 404}),
	},
	{
		name: "MeshConsumerRoute", of: "a route of the clients' namespace is for that namespace alone", yaml: "file:mesh-consumer-route.yaml",
		prove: func(x *trial) error {
			if _, err := x.check(toEcho("echo-v1", ask{ns: x.ns + "-consumer", pod: "echo-v1", want: []string{"X-Header-Set: set"}})); err != nil {
				return err
			}
			_, err := x.check(toEcho("echo-v1", ask{pod: "echo-v1", want: []string{"-X-Header-Set"}}))
			return err
		},
	},
	{
		name: "MeshFrontendHostname", of: "the parent is known by its cluster IP, not by the Host", yaml: "file:mesh-frontend.yaml",
		prove: asks(
			ask{svc: "echo-v2", host: "echo-v1", pod: "echo-v2", want: []string{"X-Header-Set: set"}},
			ask{svc: "echo-v1", host: "echo-v2", pod: "echo-v1", want: []string{"-X-Header-Set"}},
		),
	},
	{
		name: "MeshFrontend", of: "a route is for its frontend alone; to a pod's own address a waypoint for services carries nothing", yaml: "file:mesh-frontend.yaml",
		prove: func(x *trial) error {
			if _, err := x.check(toEcho("echo-v2", ask{pod: "echo-v2", want: []string{"X-Header-Set: set"}})); err != nil {
				return err
			}
			x.vips["pod"] = x.pod("echo-v2-1").addr
			if r, err := x.send(ask{svc: "pod", port: 8080, host: "echo-v2"}); err == nil {
				return wrongf("the waypoint carried a request to a pod's address: %d", r.status)
			}
			return nil
		},
	},
	{
		name: "MeshPorts", of: "a parentRef's port", yaml: "file:mesh-ports.yaml",
		prove: asks(
			toEcho("echo-v1", ask{pod: "echo-v1", want: []string{"X-Header-Set: v1"}}),
			toEcho("echo-v1", ask{port: 8080, pod: "echo-v1", want: []string{"-X-Header-Set"}}),
			toEcho("echo-v2", ask{pod: "echo-v2", want: []string{"X-Header-Set: v2"}}),
			toEcho("echo-v2", ask{port: 8080, pod: "echo-v2", want: []string{"X-Header-Set: v2"}}),
		),
	},
	{name: "MeshHTTPRoute303Redirect", of: "status 303", yaml: "file:httproute-303-redirect.yaml", prove: echoes(redirected("/redirect", 303, "http://echo/redirect"))},
	{name: "MeshHTTPRoute307Redirect", of: "status 307", yaml: "file:httproute-307-redirect.yaml", prove: echoes(redirected("/temporary", 307, "http://echo/temporary"))},
	{name: "MeshHTTPRoute308Redirect", of: "status 308", yaml: "file:httproute-308-redirect.yaml", prove: echoes(redirected("/permanent", 308, "http://echo/permanent"))},
}

// times repeats requests, so that what two pods answer alike does not agree by chance.
func times(n int, list ...ask) []ask { return slices.Repeat(list, n) }

// officialWeight proves weights as the suite does: within some percent, in one
// of ten tries.
func officialWeight(n, within int, send func(x *trial) (map[string]int, error)) func(*trial) error {
	return func(x *trial) error {
		var got map[string]int
		for range 10 {
			var err error
			if got, err = send(x); err != nil {
				return err
			}
			v1, v2 := got["echo-v1-1"]*100, got["echo-v2-1"]*100
			if v1+v2 == n*100 && v1 >= (70-within)*n && v1 <= (70+within)*n {
				return nil
			}
		}
		return wrongf("of %d requests %v were answered, want 70 and 30 percent", n, got)
	}
}

const officialGRPCHeaders = `
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: grpc-request-header-modifier, namespace: gateway-conformance-mesh}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: 7070}]
  rules:
  - matches: [{headers: [{name: x-test-case, value: set}]}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-header-set, value: set-overwrites-values}]}}]
    backendRefs: [{name: echo-v1, port: 7070}]
  - matches: [{headers: [{name: x-test-case, value: add}]}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-header-add, value: add-appends-values}]}}]
    backendRefs: [{name: echo-v1, port: 7070}]
  - matches: [{headers: [{name: x-test-case, value: remove}]}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [x-header-remove]}}]
    backendRefs: [{name: echo-v1, port: 7070}]
  - matches: [{headers: [{name: x-test-case, value: multi}]}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: x-header-set-1, value: header-set-1}, {name: x-header-set-2, value: header-set-2}]
        add: [{name: x-header-add-1, value: header-add-1}, {name: x-header-add-2, value: header-add-2}]
        remove: [x-header-remove-1, x-header-remove-2]
    backendRefs: [{name: echo-v2, port: 7070}]
`
