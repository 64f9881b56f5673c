package object_test

import (
	"fmt"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/source/object"
)

// policyTexts are 10,000 services behind 100 waypoints, and the policies of kinds.
func policyTexts(gateway, rules bool) string {
	var b strings.Builder
	for ns := range 100 {
		fmt.Fprintf(&b, "apiVersion: v1\nkind: Namespace\nmetadata: {name: ns-%d, labels: {istio.io/use-waypoint: wp}}\n---\n", ns)
		fmt.Fprintf(&b, "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: wp, namespace: ns-%d}\nspec: {gatewayClassName: cairn-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n---\n", ns)
		if gateway {
			fmt.Fprintf(&b, "apiVersion: policy.cairnproxy.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: gw, namespace: ns-%d}\nspec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}], timeout: {request: 10s}, circuitBreaker: {maxRequests: 1000}}\n---\n", ns)
		}
	}
	for i := range manyServices {
		fmt.Fprintf(&b, "apiVersion: v1\nkind: Service\nmetadata: {name: svc-%d, namespace: ns-%d}\nspec: {clusterIP: 10.%d.%d.%d, ports: [{name: http, port: 80}]}\n---\n", i, i%100, 64+i>>16, i>>8&255, i&255)
		if rules && i%10 == 0 {
			fmt.Fprintf(&b, "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: dr-%d, namespace: ns-%d}\nspec: {host: svc-%d, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}\n---\n", i, i%100, i)
		}
	}
	return b.String()
}

// BenchmarkPolicyEdit is a translation in which one policy of one service has changed,
// among 10,000 services, with nothing else, with a policy for each waypoint, and with 1,000 rules beside.
func BenchmarkPolicyEdit(b *testing.B) {
	for _, bb := range []struct {
		name           string
		gateway, rules bool
	}{{"alone", false, false}, {"gateways", true, false}, {"rules", true, true}} {
		b.Run(bb.name, func(b *testing.B) {
			base := object.Decode("base.yaml", []byte(policyTexts(bb.gateway, bb.rules))).Objects
			edit := func(i int) []*object.Object {
				text := fmt.Sprintf("apiVersion: policy.cairnproxy.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: p, namespace: ns-0}\nspec: {targetRefs: [{group: '', kind: Service, name: svc-100}], timeout: {idle: %ds}}\n", 1+i%1000)
				return append(base[:len(base):len(base)], object.Decode("edit.yaml", []byte(text)).Objects...)
			}
			tr := object.NewTranslator(object.Options{})
			before := heap()
			last := tr.Translate(edit(0))
			kept := heap() - before
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				i++
				res := tr.Translate(edit(i))
				if len(res.Problems) > 0 {
					b.Fatal(res.Problems)
				}
				changed := 0
				for j, s := range res.Parts.Services {
					if s != last.Parts.Services[j] {
						changed++
					}
				}
				if changed != 1 {
					b.Fatalf("%d services are new, want 1", changed)
				}
				last = res
			}
			b.ReportMetric(kept, "MiB-kept")
		})
	}
}
