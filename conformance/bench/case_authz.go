package main

import "fmt"

// decisions are told from what requests cost more with policies than without. A difference below what two runs of the
// same thing differ by says nothing, so that no decision counts as cheaper than resolution.
var decisions = metric{name: "decisions/CPU-s", format: "%.0f", better: more}

const resolution = 0.1 // µs

// authzCases judge requests by the same policies: one of one rule, ten of ten rules, and one of a rule of
// 1,000 principals and 1,000 paths. What requests match stands last. Envoy has them as istiod would give
// them to it, in one filter. What Cairn needs for one is near the resolution in all three; go test -bench L7 ./policy
// measures it by itself.
func authzCases(long span) []benchCase {
	var all []benchCase
	for _, a := range []struct {
		name, title string
		shape       shape
		decisions   metric
	}{
		{"1", "1 policy of 1 rule", shape{authzPolicies: 1, authzRules: 1, authzValues: 1}, decisions.atLeast(3)},
		{"10x10", "10 policies of 10 rules", shape{authzPolicies: 10, authzRules: 10, authzValues: 1}, decisions.atLeast(3)},
		{"1000", "1 policy of 1,000 principals and 1,000 paths", shape{authzPolicies: 1, authzRules: 1, authzValues: 1000}, decisions.atLeast(3)},
	} {
		a.shape.noLog = true
		all = append(all, benchCase{
			name: "authz-" + a.name, title: fmt.Sprintf("%s; small GET, 4 connections × 16 streams", a.title),
			shape: a.shape, metrics: append([]metric{a.decisions}, loadMetrics(cost)...),
			from: "features-bare",
			derive: func(values, from map[string]float64) {
				values[decisions.name] = 1e6 / max(values[perRequest.name]-from[perRequest.name], resolution)
			},
			run: closedLoop(4, 16, 0, nil, long),
		})
	}
	return all
}
