package traffic

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestOutliers(t *testing.T) {
	runGroup(t, "outliers", slices.Concat(outlierCases, healthCases))
}

// atOnce lets Envoy's balancers hear of an endpoint's health without a delay; otherwise
// they hear of what changes within a second together.
var atOnce = obj{"update_merge_window": "0s"}

// outlier is outlier detection of Envoy that acts on what is named alone.
func outlier(fields obj) patch {
	return onCluster(obj{"common_lb_config": atOnce, "outlier_detection": merged(obj{
		"enforcing_consecutive_5xx": 0, "enforcing_consecutive_gateway_failure": 0, "enforcing_success_rate": 0,
		"enforcing_failure_percentage": 0, "enforcing_consecutive_local_origin_failure": 0, "enforcing_local_origin_success_rate": 0,
		"base_ejection_time": "30s", "max_ejection_percent": 50, "interval": "0.2s",
	}, fields)})
}

// ejected proves that, after n requests of which some fail, none fails any more.
func ejected(n int) func(*trial) error {
	return func(x *trial) error {
		failed, err := x.failures(n, ask{})
		if err != nil {
			return err
		}
		if failed == 0 {
			return wrongf("none of the first %d requests failed: the endpoint was not used", n)
		}
		return eventually(3*time.Second, func() error { return x.noneFailsNow(30) })
	}
}

// noneFailsNow sends n requests over one connection.
func (x *trial) noneFailsNow(n int) error {
	failed, err := x.failures(n, ask{})
	if err == nil && failed > 0 {
		err = wrongf("%d of %d requests fail", failed, n)
	}
	return err
}

// noRetry is a TrafficPolicy that retries nothing, and so lets failures be seen,
// with other words.
func noRetry(more string) string { return onService("retry: {attempts: 0}\n" + more) }

var outlierCases = []testCase{
	{
		name: "outlier-5xx", of: "consecutive5xxErrors eject an endpoint", mesh: pods(2), twin: noRetry(""),
		yaml:  noRetry("outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 30s, maxEjectionPercent: 50}"),
		envoy: noRetries.with(outlier(obj{"consecutive_5xx": 3, "enforcing_consecutive_5xx": 100})),
		prove: asPod("echo-1", answers(500), ejected(40)),
	},
	{
		name: "outlier-destination-rule", of: "DestinationRule outlierDetection has the same words", mesh: pods(2), twin: noRetry(""),
		yaml:  noRetry("") + destinationRule("outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 30s, maxEjectionPercent: 50}"),
		envoy: noRetries.with(outlier(obj{"consecutive_5xx": 3, "enforcing_consecutive_5xx": 100})),
		prove: asPod("echo-1", answers(500), ejected(40)),
	},
	{
		name: "outlier-gateway", of: "consecutiveGatewayErrors count 502, 503 and 504 alone", mesh: pods(2), untold: true,
		yaml:  noRetry("outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 3, baseEjectionTime: 30s, maxEjectionPercent: 50}"),
		envoy: noRetries.with(outlier(obj{"consecutive_gateway_failure": 3, "enforcing_consecutive_gateway_failure": 100})),
		prove: asPod("echo-1", answers(503), ejected(40)), wrong: asPod("echo-1", answers(500), ejected(40)),
	},
	{
		name: "outlier-local-origin", of: "consecutiveLocalOriginErrors count what is no answer at all", mesh: pods(2), twin: noRetry(""),
		yaml:  noRetry("outlierDetection: {consecutive5xxErrors: 0, splitLocalOriginErrors: true, consecutiveLocalOriginErrors: 3, baseEjectionTime: 30s, maxEjectionPercent: 50}"),
		prove: refusing("echo-1", ejected(40)), alone: "its connections to endpoints are internal ones, which never fail to be made",
	},
	{
		name: "outlier-split", of: "with splitLocalOriginErrors an answer of 5xx is no local error", mesh: pods(2), untold: true,
		yaml: noRetry("outlierDetection: {consecutive5xxErrors: 0, splitLocalOriginErrors: true, consecutiveLocalOriginErrors: 3, baseEjectionTime: 30s, maxEjectionPercent: 50}"),
		prove: func(x *trial) error {
			x.pod("echo-1").answer(503)
			if ejected(40)(x) == nil {
				return wrongf("an endpoint was ejected that answers")
			}
			return nil
		},
		wrong: func(x *trial) error {
			x.pod("echo-1").refuse(x, true)
			if ejected(40)(x) == nil {
				return wrongf("an endpoint was ejected that refuses")
			}
			return nil
		},
		alone: "its connections to endpoints are internal ones, which never fail to be made",
	},
	{
		name: "outlier-success-rate", of: "successRate ejects an endpoint that succeeds less than the others", mesh: pods(5), twin: noRetry(""),
		yaml:  noRetry("outlierDetection: {consecutive5xxErrors: 0, interval: 600ms, baseEjectionTime: 30s, maxEjectionPercent: 50, successRate: {stdevFactor: 1.5, minHosts: 4, requestVolume: 5}}"),
		envoy: noRetries.with(outlier(obj{"enforcing_success_rate": 100, "success_rate_minimum_hosts": 4, "success_rate_request_volume": 5, "success_rate_stdev_factor": 1500, "interval": "0.6s", "consecutive_5xx": 1000})),
		prove: asPod("echo-1", answers(500), ejectedByRate),
	},
	{
		name: "outlier-failure-percentage", of: "failurePercentage ejects an endpoint whose share of failures is too high", mesh: pods(3), twin: noRetry(""),
		yaml:  noRetry("outlierDetection: {consecutive5xxErrors: 0, interval: 600ms, baseEjectionTime: 30s, maxEjectionPercent: 50, failurePercentage: {threshold: 40, minHosts: 2, requestVolume: 5}}"),
		envoy: noRetries.with(outlier(obj{"enforcing_failure_percentage": 100, "failure_percentage_minimum_hosts": 2, "failure_percentage_request_volume": 5, "failure_percentage_threshold": 40, "interval": "0.6s"})),
		prove: asPod("echo-1", everySecondFails, ejectedByRate),
	},
	{
		name: "outlier-return", of: "an ejected endpoint comes back after its time", mesh: pods(2), untold: true,
		yaml:  noRetry("outlierDetection: {consecutive5xxErrors: 3, interval: 200ms, baseEjectionTime: 2s, maxEjectionPercent: 50}"),
		envoy: noRetries.with(outlier(obj{"consecutive_5xx": 3, "enforcing_consecutive_5xx": 100, "base_ejection_time": "2s"})),
		prove: func(x *trial) error {
			p := x.pod("echo-1")
			p.answer(500)
			if err := ejected(40)(x); err != nil {
				return err
			}
			p.do(nil)
			return eventually(10*time.Second, func() error { _, err := x.check(ask{pod: "echo-1"}); return err })
		},
		wrong: func(x *trial) error { // it never gets well
			p := x.pod("echo-1")
			p.answer(500)
			if err := ejected(40)(x); err != nil {
				return err
			}
			return eventually(3*time.Second, func() error { _, err := x.check(ask{pod: "echo-1"}); return err })
		},
	},
	{
		name: "outlier-growth", of: "each ejection of an endpoint is longer than the one before, up to maxEjectionTime", mesh: pods(2), quiet: true,
		yaml:      noRetry("outlierDetection: {consecutive5xxErrors: 2, interval: 100ms, baseEjectionTime: 600ms, maxEjectionPercent: 50}"),
		twin:      noRetry("outlierDetection: {consecutive5xxErrors: 2, interval: 100ms, baseEjectionTime: 600ms, maxEjectionTime: 600ms, maxEjectionPercent: 50}"),
		envoy:     noRetries.with(outlier(obj{"consecutive_5xx": 2, "enforcing_consecutive_5xx": 100, "base_ejection_time": "0.6s", "interval": "0.1s"})),
		envoyTwin: noRetries.with(outlier(obj{"consecutive_5xx": 2, "enforcing_consecutive_5xx": 100, "base_ejection_time": "0.6s", "max_ejection_time": "0.6s", "interval": "0.1s"})),
		prove:     growth,
	},
	{
		name: "outlier-max-percent", of: "maxEjectionPercent bounds how many are ejected", mesh: pods(4), quiet: true,
		yaml:      noRetry("outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 30s, maxEjectionPercent: 25}"),
		twin:      noRetry("outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 30s, maxEjectionPercent: 100}"),
		envoy:     noRetries.with(outlier(obj{"consecutive_5xx": 3, "enforcing_consecutive_5xx": 100, "max_ejection_percent": 25})),
		envoyTwin: noRetries.with(outlier(obj{"consecutive_5xx": 3, "enforcing_consecutive_5xx": 100, "max_ejection_percent": 100})),
		prove: func(x *trial) error {
			bad := []string{"echo-1", "echo-2", "echo-3"}
			for _, name := range bad {
				x.pod(name).answer(500)
			}
			if _, err := x.spread(200, ask{}); err != nil {
				return err
			}
			time.Sleep(500 * time.Millisecond)
			got, err := x.spread(100, ask{})
			if err != nil {
				return err
			}
			still := 0
			for _, name := range bad {
				if got[name] > 0 {
					still++
				}
			}
			if still != 2 {
				return wrongf("of three bad endpoints %d are still used, want 2: %v", still, got)
			}
			return nil
		},
	},
	{
		name: "outlier-panic", of: "with fewer healthy than minHealthPercent all endpoints are used", mesh: pods(4), quiet: true,
		yaml:      noRetry("outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 30s, maxEjectionPercent: 100, minHealthPercent: 60}"),
		twin:      noRetry("outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 30s, maxEjectionPercent: 100}"),
		envoy:     noRetries.with(outlier(obj{"consecutive_5xx": 3, "enforcing_consecutive_5xx": 100, "max_ejection_percent": 100})).with(onCluster(obj{"common_lb_config": obj{"healthy_panic_threshold": obj{"value": 60}}})),
		envoyTwin: noRetries.with(outlier(obj{"consecutive_5xx": 3, "enforcing_consecutive_5xx": 100, "max_ejection_percent": 100})),
		prove: func(x *trial) error {
			for _, name := range []string{"echo-1", "echo-2", "echo-3"} {
				x.pod(name).answer(500)
			}
			if _, err := x.spread(200, ask{}); err != nil {
				return err
			}
			time.Sleep(500 * time.Millisecond)
			got, err := x.spread(100, ask{})
			if err != nil {
				return err
			}
			if bad := 100 - got["echo-4"]; bad < 20 {
				return wrongf("%v were answered: three of four endpoints fail, and are not used", got)
			}
			return nil
		},
	},
	{
		name: "outlier-load", of: "a 503 with Retry-After is load, not failure: the endpoint is not ejected", mesh: pods(2), untold: true,
		yaml:  noRetry("outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 30s, maxEjectionPercent: 50}"),
		alone: "to Envoy it is a failure as any other",
		prove: overloaded("Retry-After", "1"), wrong: overloaded("X-Retry-After", "1"),
	},
	{
		name: "outlier-busy", of: "an endpoint that answers 429 with Retry-After is spared for that time", mesh: pods(2), untold: true,
		yaml: noRetry("outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 30s, maxEjectionPercent: 50}"), alone: "to Envoy a Retry-After is for clients",
		prove: busy("Retry-After", "10"), wrong: busy("X-Retry-After", "10"),
	},
	{
		name: "outlier-live", of: "an ejection outlives a change of the policy", mesh: pods(2),
		yaml:  noRetry("outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 30s, maxEjectionPercent: 50}"),
		twin:  noRetry("outlierDetection: {consecutive5xxErrors: 3, interval: 200ms, baseEjectionTime: 300ms, maxEjectionPercent: 50}"),
		alone: "Envoy is configured once here",
		prove: func(x *trial) error {
			x.pod("echo-1").answer(500)
			if err := ejected(40)(x); err != nil {
				return err
			}
			if err := x.write(strings.ReplaceAll(x.manifests(), "consecutive5xxErrors: 3", "consecutive5xxErrors: 4")); err != nil {
				return err
			}
			time.Sleep(1500 * time.Millisecond)
			return noneFails(30, ask{})(x)
		},
	},
}

// busy lets a pod answer 429 with a field and proves that most requests go elsewhere.
func busy(field, value string) func(*trial) error {
	return func(x *trial) error {
		p := x.pod("echo-1")
		p.do(answers(429, field, value)(p))
		if _, err := x.spread(20, ask{}); err != nil {
			return err
		}
		got, err := x.spread(60, ask{})
		if err == nil && got["echo-1"] > 12 {
			err = wrongf("60 requests went to %v", got)
		}
		return err
	}
}

func everySecondFails(p *pod) http.HandlerFunc {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1)%2 == 0 {
			w.WriteHeader(500)
			return
		}
		p.obey(w, r)
	}
}

// ejectedByRate sends requests for as long as a few intervals last.
func ejectedByRate(x *trial) error {
	return eventually(6*time.Second, func() error { return x.noneFailsNow(100) })
}

// failures sends n requests over one connection and counts those that fail.
func (x *trial) failures(n int, a ask) (failed int, err error) {
	tr := x.transport(a)
	defer tr.CloseIdleConnections()
	for range n {
		r, err := x.sendOver(tr, a)
		if err != nil {
			return 0, err
		}
		if r.status != 200 {
			failed++
		}
	}
	return failed, nil
}

// overloaded lets a pod answer 503 with a field for a while and proves that it is
// used again soon after.
func overloaded(field, value string) func(*trial) error {
	return func(x *trial) error {
		p := x.pod("echo-1")
		p.do(answers(503, field, value)(p))
		if _, err := x.spread(60, ask{}); err != nil {
			return err
		}
		p.do(nil)
		return eventually(4*time.Second, func() error { _, err := x.check(ask{pod: "echo-1"}); return err })
	}
}

// growth sends requests for some seconds to a service of which one pod fails all,
// and proves that the times in which it gets none grow.
func growth(x *trial) error {
	p := x.pod("echo-1")
	p.answer(500)
	tr := x.transport(ask{})
	defer tr.CloseIdleConnections()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, err := x.sendOver(tr, ask{}); err != nil {
			return err
		}
	}
	var gaps []time.Duration
	seen := p.requests()
	for i := 1; i < len(seen); i++ {
		if gap := seen[i].at.Sub(seen[i-1].at).Round(time.Millisecond); gap > 500*time.Millisecond {
			gaps = append(gaps, gap)
		}
	}
	// The first is 0.6 s. An endpoint that behaves for an interval is forgiven one: where the
	// machine is slow it is not the second that is longer, but a later one.
	if len(gaps) < 2 || slices.Max(gaps) < 1100*time.Millisecond {
		return wrongf("the ejections lasted %v", gaps)
	}
	return nil
}

// unhealthy makes a pod fail its checks, whatever they ask, and proves that nobody
// is sent there; then that a pod which is well again is used.
func unhealthy(sick func(x *trial, p *pod, yes bool), get func(x *trial) (map[string]int, error)) func(*trial) error {
	return func(x *trial) error {
		p := x.pod("echo-1")
		sick(x, p, true)
		err := eventually(4*time.Second, func() error {
			got, err := get(x)
			if err == nil && got["echo-1"] > 0 {
				err = wrongf("a pod that fails its checks answered: %v", got)
			}
			return err
		})
		if err != nil {
			return err
		}
		sick(x, p, false)
		return eventually(4*time.Second, func() error {
			got, err := get(x)
			if err == nil && got["echo-1"] == 0 {
				err = wrongf("a pod that is well again is not used: %v", got)
			}
			return err
		})
	}
}

func spread20(x *trial) (map[string]int, error) { return x.spread(20, ask{}) }

// sickAt lets a pod answer a path with a status and all else as ever.
func sickAt(path string, status int) func(*trial, *pod, bool) {
	return func(_ *trial, p *pod, yes bool) {
		p.do(func(w http.ResponseWriter, r *http.Request) {
			if yes && r.URL.Path == path {
				w.WriteHeader(status)
				return
			}
			p.obey(w, r)
		})
	}
}

// checks are health checks of Envoy. They cannot go through internal listeners, which are
// the workers', because they are made by the main thread: they go to the pods
// directly, in plain text.
func checks(port uint16, fields obj) patch {
	p := onCluster(obj{
		"common_lb_config": atOnce,
		"health_checks": list{merged(obj{
			"interval": "0.2s", "timeout": "1s", "unhealthy_threshold": 2, "healthy_threshold": 1, "no_traffic_interval": "0.2s",
			"transport_socket_match_criteria": obj{"plain": true},
		}, fields)},
		"transport_socket_matches": list{obj{"name": "plain", "match": obj{"plain": true}, "transport_socket": obj{
			"name": "raw", "typed_config": ext("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer", nil),
		}}},
	})
	p.port = port
	p.services = func(_ *trial, services []envoyService) []envoyService {
		for i := range services {
			services[i].Metadata = map[string]obj{}
			for _, e := range services[i].Endpoints {
				services[i].Metadata[e.String()] = obj{"endpoint": obj{"health_check_config": obj{
					"address": obj{"socket_address": obj{"address": e.Addr().String(), "port_value": e.Port()}},
				}}}
			}
		}
		return services
	}
	return p
}

// plainPods is the service echo with n pods that can be reached without a node proxy, too.
func plainPods(n int) []svc { return []svc{{name: "echo", pods: n, plain: true}} }

var healthCases = []testCase{
	{
		name: "health-http", of: "healthCheck.http: an endpoint whose answer is not as expected gets nothing until it is", mesh: plainPods(2),
		yaml:  onService("healthCheck: {http: {path: /health}, interval: 200ms, unhealthyThreshold: 2, healthyThreshold: 1}"),
		envoy: checks(portHTTP, obj{"http_health_check": obj{"host": "echo", "path": "/health"}}),
		prove: unhealthy(sickAt("/health", 503), spread20),
	},
	{
		name: "health-http-statuses", of: "healthCheck.http.statuses say which answers are well", mesh: plainPods(2),
		yaml:  onService("healthCheck: {http: {path: /health, statuses: [{from: 200, to: 299}]}, interval: 200ms, unhealthyThreshold: 2, healthyThreshold: 1}"),
		twin:  onService("healthCheck: {http: {path: /health, statuses: [{from: 200, to: 499}]}, interval: 200ms, unhealthyThreshold: 2, healthyThreshold: 1}"),
		envoy: checks(portHTTP, obj{"http_health_check": obj{"host": "echo", "path": "/health", "expected_statuses": list{obj{"start": 200, "end": 300}}}}),
		prove: unhealthy(sickAt("/health", 404), spread20),
	},
	{
		name: "health-grpc", of: "healthCheck.grpc asks grpc.health.v1", mesh: plainPods(2),
		yaml:  onService("healthCheck: {grpc: {}, port: 8081, interval: 200ms, unhealthyThreshold: 2, healthyThreshold: 1}"),
		envoy: checks(portGRPC, obj{"grpc_health_check": obj{"authority": "echo"}}),
		prove: unhealthy(func(_ *trial, p *pod, yes bool) { p.serving(!yes) }, func(x *trial) (map[string]int, error) { return x.spreadGRPC(20, ask{}) }),
	},
	{
		name: "health-tcp", of: "healthCheck.tcp: a connection that is accepted", mesh: pods(2),
		yaml: noRetry("healthCheck: {tcp: {}, interval: 200ms, unhealthyThreshold: 2, healthyThreshold: 1}"), twin: noRetry(""),
		prove: unhealthy(func(x *trial, p *pod, yes bool) { p.refuse(x, yes) }, func(x *trial) (map[string]int, error) {
			got, err := x.spread(20, ask{})
			if err == nil && got["503"] > 0 {
				err = wrongf("answered %v", got)
			}
			return got, err
		}),
		alone: "its connections to endpoints are internal ones, which are always accepted",
	},
	{
		name: "health-all-down", of: "with all endpoints unhealthy requests are answered 503", mesh: plainPods(2),
		yaml: noRetry("healthCheck: {http: {path: /health}, interval: 200ms, unhealthyThreshold: 2, healthyThreshold: 1}"), twin: noRetry(""),
		envoy: checks(portHTTP, obj{"http_health_check": obj{"host": "echo", "path": "/health"}}),
		prove: func(x *trial) error {
			for _, p := range x.pods {
				sickAt("/health", 503)(x, p, true)
			}
			return eventually(4*time.Second, func() error { _, err := x.check(ask{status: 503}); return err })
		},
	},
}
