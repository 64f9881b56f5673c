package main

import "fmt"

// featureCases switch on one after the other what a waypoint does for a
// request beside passing it on, and then all of it. Cairn's metrics are always
// on; Envoy's are on where the name says so, by what stands in for Istio's
// filter. Cairn does not trace: what tracing costs Envoy stands there for
// information and is in no goal.
func featureCases(long span) []benchCase {
	both, envoy := []string{"cairn", "envoy"}, []string{"envoy"}
	var all []benchCase
	for _, f := range []struct {
		name, title string
		on          []string
		shape       shape
		cost        metric
	}{
		{"bare", "no policy, no access log", both, shape{noPolicy: true, noLog: true}, cost},
		{"idle", "ten features that no request makes act", both, shape{noPolicy: true, noLog: true, idle: true}, cost.atLeastOf("features-bare", 0.91)},
		{"policy", "an authorization policy", both, shape{noLog: true}, cost},
		{"log", "an access log", both, shape{noPolicy: true}, cost},
		{"metrics", "Istio's metrics", envoy, shape{noPolicy: true, noLog: true, stats: true}, cost},
		{"tracing", "tracing of one in a hundred", envoy, shape{noPolicy: true, noLog: true, tracing: true}, cost},
		{"all", "policy, access log and Istio's metrics", both, shape{stats: true}, cost.atLeast(8)},
	} {
		all = append(all, benchCase{
			name: "features-" + f.name, title: fmt.Sprintf("%s; small GET, 4 connections × 16 streams", f.title),
			on: f.on, shape: f.shape, metrics: loadMetrics(f.cost),
			run: closedLoop(4, 16, 0, nil, long),
		})
	}
	return all
}
