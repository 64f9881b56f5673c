package object_test

import (
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"github.com/google/go-cmp/cmp"
)

func constraint(spec string) string {
	return "\n---\napiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {name: x}\nspec: {targetRefs: [{group: '', kind: Service, name: two}], " + spec + "} " + mark + "\n---\n" + twoServed
}

func TestXBackendTrafficPolicy(t *testing.T) {
	at := mesh.Name{Namespace: "default", Name: "x"}
	tests := []struct {
		name, spec string
		want       mesh.RetryBudget
	}{
		{"defaults", "retryConstraint: {}", mesh.RetryBudget{Policy: at, Percent: 20, Interval: 10 * time.Second, MinRate: 10, MinRateInterval: time.Second}},
		{"all", "retryConstraint: {budget: {percent: 0, interval: 1m}, minRetryRate: {count: 3, interval: 5s}}", mesh.RetryBudget{Policy: at, Interval: time.Minute, MinRate: 3, MinRateInterval: 5 * time.Second}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := port(t, good(t, constraint(tt.spec)), "two", 80)
			if d := cmp.Diff(&mesh.BackendPolicy{Budget: &tt.want}, p.Backend); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
	// A session without a name has one of the policy's own.
	a := port(t, good(t, constraint("sessionPersistence: {type: Header}")), "two", 80).Requests.Session
	b := port(t, good(t, strings.Replace(constraint("sessionPersistence: {type: Header}"), "{name: x}", "{name: y}", 1)), "two", 80).Requests.Session
	if a.Name == b.Name || !a.Header || a.Policy != at {
		t.Errorf("sessions %+v and %+v", a, b)
	}
}

func TestXBackendTrafficPolicyProblems(t *testing.T) {
	const obj = "XBackendTrafficPolicy default/x"
	checkWrong(t, []wrong{
		{"nothing", constraint(""), obj, "spec", "says nothing"},
		{"percent", constraint("retryConstraint: {budget: {percent: 101}}"), obj, "spec.retryConstraint.budget.percent", "use 0 to 100"},
		{"interval", constraint("retryConstraint: {budget: {interval: 0s}}"), obj, "spec.retryConstraint.budget.interval", "no time at all"},
		{"long-interval", constraint("retryConstraint: {budget: {interval: 2h}}"), obj, "spec.retryConstraint.budget.interval", "longer than an hour"},
		{"count", constraint("retryConstraint: {minRetryRate: {count: 0}}"), obj, "spec.retryConstraint.minRetryRate.count", "use 1 to 1000000"},
		{"rate-interval", constraint("retryConstraint: {minRetryRate: {interval: 2h}}"), obj, "spec.retryConstraint.minRetryRate.interval", "longer than an hour"},
		{"session", constraint("sessionPersistence: {type: Query}"), obj, "spec.sessionPersistence.type", "use Cookie or Header"},
		{"target", strings.Replace(constraint("retryConstraint: {}"), "name: two}]", "name: gone}]", 1), obj, "spec.targetRefs[0].name", "does not exist"},
		{"no-target", strings.Replace(constraint("retryConstraint: {}"), "targetRefs: [{group: '', kind: Service, name: two}], ", "", 1), obj, "spec.targetRefs", "attached to nothing"},
		{"route", strings.Replace(constraint("retryConstraint: {}"), "{group: '', kind: Service, name: two}", "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}", 1), obj, "spec.targetRefs[0].kind", "name a Service"},
	})
}

// Policies of a host outside the mesh, by its ServiceEntry.
func TestPoliciesOfServiceEntry(t *testing.T) {
	const entry = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext, labels: {istio.io/use-waypoint: wp}}
spec: {hosts: [a.example, b.example], addresses: [10.9.9.9], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP, targetPort: 443}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: tls}
spec: {targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: ext, sectionName: http}], validation: {hostname: a.example, wellKnownCACertificates: System}}
---
apiVersion: policy.cairnproxy.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: p}
spec: {targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: ext}], timeout: {request: 1s}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: d}
spec: {host: '*.example', trafficPolicy: {loadBalancer: {simple: RANDOM}}}
---
`
	res := good(t, entry+twoServed)
	n := 0
	for _, s := range res.Parts.Services {
		if s.Name != "ext" {
			continue
		}
		n++
		p := s.Ports[0]
		if p.Requests == nil || p.Requests.Timeouts.Request != time.Second || p.Backend.TLS.SNI != "a.example" || p.Backend.Balancer.Kind != mesh.BalanceRandom {
			t.Errorf("%s: requests %+v, backend %+v", s.Key.Hostname, p.Requests, p.Backend)
		}
	}
	if n != 2 {
		t.Errorf("there are %d hosts, want 2", n)
	}
}
