package traffic

import (
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestBreakers(t *testing.T) {
	runGroup(t, "breakers", slices.Concat(breakerCases, concurrencyCases))
}

// burst sends n requests at once and returns how many were answered with each
// status, and how long refusals took at most.
func (x *trial) burst(n int, a ask) (statuses map[int]int, slowest time.Duration, err error) {
	type result struct {
		*reply
		err error
	}
	results := make(chan result)
	for range n {
		go func() {
			r, err := x.send(a)
			results <- result{r, err}
		}()
	}
	statuses = map[int]int{}
	for range n {
		r := <-results
		if r.err != nil {
			err = r.err
			continue
		}
		statuses[r.status]++
		if r.status == 503 {
			slowest = max(slowest, r.took)
		}
	}
	return statuses, slowest, err
}

// overflow proves that of n requests at once, to a pod that takes a time for each,
// some are answered and some refused at once, and that no more than so many are
// in the pod at a time.
func overflow(n int, takes time.Duration, most, passed, refused int) func(*trial) error {
	return func(x *trial) error {
		top := x.pod("echo-1").inFlight(takes)
		got, slowest, err := x.burst(n, ask{})
		if err != nil {
			return err
		}
		if got[200] < passed || got[503] < refused {
			return wrongf("answered %v, want at least %d times 200 and %d times 503", got, passed, refused)
		}
		if t := top(); t > most {
			return wrongf("%d requests were in the pod at a time, want %d", t, most)
		}
		if slowest > takes {
			return wrongf("a refusal took %v", slowest.Round(time.Millisecond))
		}
		return nil
	}
}

var breakerCases = []testCase{
	{
		name: "breaker-requests", of: "circuitBreaker.maxRequests: what is over is answered 503 at once",
		yaml: onService("circuitBreaker: {maxRequests: 2}"), envoy: thresholds(obj{"max_requests": 2}),
		prove: overflow(12, 1500*time.Millisecond, 2, 2, 8),
	},
	{
		name: "breaker-words", of: "an overflow says so: flag UO, and the header x-envoy-overloaded",
		yaml: onService("circuitBreaker: {maxRequests: 1}"), envoy: thresholds(obj{"max_requests": 1}),
		prove: func(x *trial) error {
			x.pod("echo-1").inFlight(time.Second)
			first := make(chan error, 1)
			go func() { _, err := x.check(ask{}); first <- err }()
			if err := eventually(2*time.Second, func() error { return x.wantTries(1, 1) }); err != nil {
				return err
			}
			if _, err := x.check(ask{path: "/over", status: 503, want: []string{"x-envoy-overloaded: true"}, text: "overflow"}); err != nil {
				return err
			}
			if err := <-first; err != nil {
				return err
			}
			return eventually(15*time.Second, func() error {
				if x.logged("/over", "UO") == nil && x.logged("/over") != nil {
					return wrongf("the access log has no UO: %s", x.logged("/over"))
				}
				if x.logged("/over", "UO") == nil {
					return wrongf("the access log has no record of it")
				}
				return nil
			})
		},
	},
	{
		name: "breaker-closes", of: "a breaker lets requests pass again when there is room",
		yaml: onService("circuitBreaker: {maxRequests: 1}"), envoy: thresholds(obj{"max_requests": 1}),
		prove: func(x *trial) error {
			if err := overflow(8, 1500*time.Millisecond, 1, 1, 4)(x); err != nil {
				return err
			}
			return eventually(5*time.Second, func() error { _, err := x.check(ask{}); return err })
		},
	},
	{
		name: "breaker-connections", of: "circuitBreaker.maxConnections: requests wait for a connection",
		yaml: onService("circuitBreaker: {maxConnections: 1}"), envoy: thresholds(obj{"max_connections": 1, "max_pending_requests": 1000}),
		prove: overflow(5, 150*time.Millisecond, 1, 5, 0),
	},
	{
		name: "breaker-pending", of: "circuitBreaker.maxPendingRequests: more may not wait",
		yaml: onService("circuitBreaker: {maxConnections: 1, maxPendingRequests: 1}"), envoy: thresholds(obj{"max_connections": 1, "max_pending_requests": 1}),
		prove: overflow(10, 1500*time.Millisecond, 1, 1, 6),
	},
	{
		name: "breaker-retries", of: "circuitBreaker.maxRetries: what would be one more passes its answer on", quiet: true,
		yaml:      onService("circuitBreaker: {maxRetries: 2}\nretry: {attempts: 3, codes: [503], backoff: {base: 50ms}}"),
		twin:      onService("retry: {attempts: 3, codes: [503], backoff: {base: 50ms}}"),
		prove:     storm(40, 80),
		envoy:     retries("retriable-status-codes", 3, obj{"retriable_status_codes": []int{503}, "retry_back_off": obj{"base_interval": "0.05s"}}).with(thresholds(obj{"max_retries": 2})),
		envoyTwin: retries("retriable-status-codes", 3, obj{"retriable_status_codes": []int{503}, "retry_back_off": obj{"base_interval": "0.05s"}}),
	},
	{
		name: "breaker-tcp", of: "circuitBreaker.maxConnections of a TCP port",
		yaml: onService("circuitBreaker: {maxConnections: 1}"), envoy: thresholds(obj{"max_connections": 1}),
		prove: func(x *trial) error {
			first, err := x.tcp("", "hello")
			if err != nil {
				return err
			}
			defer first.Close()
			second, err := x.tcp("", "hello")
			if err == nil {
				second.Close()
				return wrongf("a second connection was made")
			}
			return nil
		},
	},
	{
		name: "breaker-destination-rule", of: "DestinationRule connectionPool has the same words",
		yaml: destinationRule("connectionPool: {http: {http2MaxRequests: 2}}"), envoy: thresholds(obj{"max_requests": 2}),
		prove: overflow(12, 1500*time.Millisecond, 2, 2, 8),
	},
	{
		name: "breaker-live", of: "a cap that is changed counts what is under way",
		yaml:  onService("circuitBreaker: {maxRequests: 2}"),
		twin:  onService("circuitBreaker: {maxRequests: 100}"),
		alone: "Envoy is configured once here",
		prove: func(x *trial) error {
			x.pod("echo-1").inFlight(4 * time.Second)
			held := make(chan error, 2)
			for range 2 {
				go func() { _, err := x.check(ask{}); held <- err }()
			}
			if err := eventually(2*time.Second, func() error { return x.wantTries(2, 2) }); err != nil {
				return err
			}
			if _, err := x.check(ask{status: 503, timeout: time.Second}); err != nil {
				return err
			}
			if err := x.write(strings.ReplaceAll(x.manifests(), "maxRequests: 2", "maxRequests: 3")); err != nil {
				return err
			}
			// One more fits now, which is a fourth only if the two are not counted.
			var passed atomic.Int64
			err := eventually(2500*time.Millisecond, func() error {
				go func() {
					if r, err := x.send(ask{}); err == nil && r.status == 200 {
						passed.Add(1)
					}
				}()
				time.Sleep(100 * time.Millisecond)
				return x.wantTries(3, 3)
			})
			if err != nil {
				return err
			}
			if _, err := x.check(ask{status: 503, timeout: time.Second}); err != nil {
				return err
			}
			<-held
			return <-held
		},
	},
}

// destinationRule is Istio's policy for the service echo.
func destinationRule(policy string) string {
	return "\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d, namespace: $NS}\nspec:\n  host: echo\n  trafficPolicy:\n    " +
		strings.ReplaceAll(strings.TrimSpace(policy), "\n", "\n    ") + "\n"
}

// tcp opens a connection to a TCP port, sends text and expects the pod's name and
// the text back.
func (x *trial) tcp(service, text string) (net.Conn, error) {
	conn, _, err := x.tcpFrom(service, text)
	return conn, err
}

var adaptive = obj{
	"sample_aggregate_percentile": obj{"value": 50},
	"concurrency_limit_params":    obj{"concurrency_update_interval": "0.1s", "max_concurrency_limit": 4},
	"min_rtt_calc_params":         obj{"interval": "60s", "request_count": 5, "min_concurrency": 2},
}

var concurrencyCases = []testCase{
	{
		name: "adaptive-concurrency", of: "adaptiveConcurrency bounds the requests in flight by what latency says", quiet: true,
		yaml: onService("adaptiveConcurrency: {sampleWindow: 100ms, minRTT: {interval: 60s, requests: 5}, minConcurrency: 2, maxConcurrency: 4}"),
		envoy: patch{port: portHTTP, filters: list{obj{"name": "envoy.filters.http.adaptive_concurrency", "typed_config": ext("envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency", obj{
			"gradient_controller_config": adaptive,
			"enabled":                    obj{"default_value": true, "runtime_key": "adaptive"},
		})}}},
		prove: overflow(30, 1500*time.Millisecond, 8, 1, 15),
	},
	{
		name: "adaptive-concurrency-room", of: "adaptiveConcurrency lets pass what is under its limit", untold: true,
		yaml: onService("adaptiveConcurrency: {sampleWindow: 100ms, minRTT: {interval: 60s, requests: 5}, minConcurrency: 2, maxConcurrency: 4}"),
		envoy: patch{port: portHTTP, filters: list{obj{"name": "envoy.filters.http.adaptive_concurrency", "typed_config": ext("envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency", obj{
			"gradient_controller_config": adaptive,
			"enabled":                    obj{"default_value": true, "runtime_key": "adaptive"},
		})}}},
		prove: noneFails(20, ask{}),
		wrong: func(x *trial) error {
			x.pod("echo-1").inFlight(500 * time.Millisecond)
			got, _, err := x.burst(30, ask{})
			if err == nil && got[503] > 0 {
				return wrongf("answered %v", got)
			}
			return err
		},
	},
}
