package object

import (
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

func TestReading(t *testing.T) {
	for _, tt := range []struct {
		name, mesh, annotations string
		want                    mesh.Reading
		problem                 string // part of the only problem, "" for none
	}{
		{"nothing", "", "", mesh.Reading{}, ""},
		{"paths", "pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}", "", mesh.Reading{Paths: mesh.PathDecode}, ""},
		{"paths-merge", "pathNormalization: {normalization: MERGE_SLASHES}", "", mesh.Reading{Paths: mesh.PathMerge}, ""},
		{"paths-none", "pathNormalization: {normalization: NONE}", "", mesh.Reading{Paths: mesh.PathNone}, ""},
		{"paths-default", "pathNormalization: {normalization: DEFAULT}", "", mesh.Reading{}, ""},
		{"paths-base", "pathNormalization: {normalization: BASE}", "", mesh.Reading{}, ""},
		{"paths-empty", "pathNormalization: {}", "", mesh.Reading{}, ""},
		{"paths-wrong", "pathNormalization: {normalization: merge}", "", mesh.Reading{}, "use NONE, BASE, MERGE_SLASHES"},
		{"paths-unknown", "pathNormalization: {normalisation: BASE}", "", mesh.Reading{}, "data.mesh.pathNormalization.normalisation"},
		{"proxies", "defaultConfig: {discoveryAddress: x, gatewayTopology: {numTrustedProxies: 2, forwardClientCertDetails: SANITIZE}}", "", mesh.Reading{TrustedProxies: 2}, ""},
		{"proxies-annotation", "defaultConfig: {gatewayTopology: {numTrustedProxies: 2}}", `proxy.istio.io/config: '{"gatewayTopology": {"numTrustedProxies": 1}, "concurrency": 4}'`, mesh.Reading{TrustedProxies: 1}, ""},
		{"proxies-annotation-0", "defaultConfig: {gatewayTopology: {numTrustedProxies: 2}}", `proxy.istio.io/config: "gatewayTopology:\n  numTrustedProxies: 0\n"`, mesh.Reading{}, ""},
		{"proxies-annotation-other", "defaultConfig: {gatewayTopology: {numTrustedProxies: 2}}", `proxy.istio.io/config: '{concurrency: 4}'`, mesh.Reading{TrustedProxies: 2}, ""},
		{"proxies-many", "defaultConfig: {gatewayTopology: {numTrustedProxies: 33}}", "", mesh.Reading{TrustedProxies: 32}, "use 0 to 32"},
		{"proxies-negative", "defaultConfig: {gatewayTopology: {numTrustedProxies: -1}}", "", mesh.Reading{}, "numTrustedProxies"},
		{"proxies-annotation-many", "", `proxy.istio.io/config: '{gatewayTopology: {numTrustedProxies: 300}}'`, mesh.Reading{}, "use 0 to 32"},
		{"proxies-annotation-text", "", `proxy.istio.io/config: '{gatewayTopology: {numTrustedProxies: x}}'`, mesh.Reading{}, "metadata.annotations[proxy.istio.io/config]"},
		{"proxies-annotation-yaml", "", `proxy.istio.io/config: '{'`, mesh.Reading{}, "not YAML"},
		{"cert", "", `ambient.istio.io/xfcc-include-client-identity: "true"`, mesh.Reading{ClientCert: true}, ""},
		{"cert-false", "", `ambient.istio.io/xfcc-include-client-identity: "false"`, mesh.Reading{}, ""},
		{"cert-wrong", "", `ambient.istio.io/xfcc-include-client-identity: "yes"`, mesh.Reading{}, "neither true nor false"},
		{"underscores-drop", "", `policy.cairnproxy.dev/header-underscores: drop`, mesh.Reading{Underscores: mesh.UnderscoresDrop}, ""},
		{"underscores-reject", "", `policy.cairnproxy.dev/header-underscores: reject`, mesh.Reading{Underscores: mesh.UnderscoresReject}, ""},
		{"underscores-allow", "", `policy.cairnproxy.dev/header-underscores: allow`, mesh.Reading{}, ""},
		{"underscores-wrong", "", `policy.cairnproxy.dev/header-underscores: DROP`, mesh.Reading{}, "use allow, drop or reject"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: wp\n  annotations:\n    x: y\n    " + tt.annotations +
				"\nspec: {gatewayClassName: cairn-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n---\n" + meshConfigObject + "    " + tt.mesh + "\n"
			f := Decode("f.yaml", []byte(text))
			res := Translate(f.Objects, Options{})
			switch {
			case len(f.Problems) > 0:
				t.Fatal(f.Problems)
			case tt.problem == "" && len(res.Problems) > 0:
				t.Fatalf("problems: %v", res.Problems)
			case tt.problem != "" && (len(res.Problems) != 1 || !strings.Contains(res.Problems[0].String(), tt.problem)):
				t.Fatalf("problems %v, want one with %q", res.Problems, tt.problem)
			}
			if got := res.Parts.Waypoints[0].Reading; got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}
