package traffic

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestRetries(t *testing.T) { runGroup(t, "retries", retryCases) }

// failing makes the pods of echo answer the first n requests with a status, and
// the others as ever. It counts over all pods.
func failing(x *trial, n int, status int, headers ...string) {
	left := make(chan struct{}, n)
	for range n {
		left <- struct{}{}
	}
	for _, p := range x.podsOf("echo") {
		p.do(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-left:
				io.Copy(io.Discard, r.Body)
				for i := 0; i+1 < len(headers); i += 2 {
					w.Header().Set(headers[i], headers[i+1])
				}
				w.WriteHeader(status)
			default:
				p.obey(w, r)
			}
		})
	}
}

// always makes the pods of echo answer with a status after a time.
func always(x *trial, status int, after time.Duration) {
	for _, p := range x.podsOf("echo") {
		p.do(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(after)
			w.WriteHeader(status)
		})
	}
}

// tries is how many requests the pods of echo have seen.
func (x *trial) tries() int {
	n := 0
	for _, p := range x.podsOf("echo") {
		n += int(p.count.Load())
	}
	return n
}

// wantTries compares tries.
func (x *trial) wantTries(least, most int) error {
	if n := x.tries(); n < least || n > most {
		return wrongf("the pods saw %d requests, want %d to %d", n, least, most)
	}
	return nil
}

// afterFailures sends a request of which the first n tries fail, and counts tries.
func afterFailures(n, status int, a ask, tries int, headers ...string) func(*trial) error {
	return func(x *trial) error {
		failing(x, n, status, headers...)
		if _, err := x.check(a); err != nil {
			return err
		}
		return x.wantTries(tries, tries)
	}
}

// noneFails sends n requests, all of which must be answered 200.
func noneFails(n int, a ask) func(*trial) error {
	return func(x *trial) error {
		for range n {
			if _, err := x.check(a); err != nil {
				return err
			}
		}
		return nil
	}
}

// refusing lets the node proxy of one pod refuse connections.
func refusing(name string, then func(*trial) error) func(*trial) error {
	return func(x *trial) error {
		x.pod(name).refuse(x, true)
		return then(x)
	}
}

// asPod sets what one pod answers.
func asPod(name string, h func(p *pod) http.HandlerFunc, then func(*trial) error) func(*trial) error {
	return func(x *trial) error {
		p := x.pod(name)
		p.do(h(p))
		return then(x)
	}
}

func answers(status int, headers ...string) func(*pod) http.HandlerFunc {
	return func(*pod) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			for i := 0; i+1 < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			w.WriteHeader(status)
		}
	}
}

func sleeps(d time.Duration) func(*pod) http.HandlerFunc {
	return func(p *pod) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if pause(r.Context(), d) {
				p.obey(w, r)
			}
		}
	}
}

func resets(*pod) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { breakOff(w, true) }
}

// never is a policy without retries, for twins: without any policy a route
// retries as Istio's do.
var never = onService("retry: {attempts: 0}")

var retryCases = []testCase{
	{
		name: "retry-route-codes", of: "HTTPRoute retry: codes and attempts (GEP-1731)",
		yaml:  httpRoute("r", "  - retry: {codes: [503], attempts: 2, backoff: 10ms}\n    backendRefs: [{name: echo, port: 80}]"),
		prove: afterFailures(2, 503, ask{}, 3),
	},
	{
		name: "retry-attempts", of: "no more tries than attempts, then the last answer goes through",
		yaml:  httpRoute("r", "  - retry: {codes: [503], attempts: 2, backoff: 10ms}\n    backendRefs: [{name: echo, port: 80}]"),
		prove: afterFailures(9, 503, ask{status: 503}, 3),
	},
	{
		name: "retry-other-code", of: "an answer with another code is not tried again",
		yaml:  httpRoute("r", "  - retry: {codes: [503], attempts: 2}\n    backendRefs: [{name: echo, port: 80}]"),
		twin:  httpRoute("r", "  - retry: {codes: [503, 502], attempts: 2}\n    backendRefs: [{name: echo, port: 80}]"),
		prove: afterFailures(1, 502, ask{status: 502}, 1),
	},
	{
		name: "retry-policy-codes", of: "TrafficPolicy retry on codes, for a service",
		yaml: onService("retry: {attempts: 2, codes: [502, 503], backoff: {base: 10ms}}"), prove: afterFailures(2, 502, ask{}, 3),
		envoy: retries("retriable-status-codes", 2, obj{"retriable_status_codes": []int{502, 503}, "retry_back_off": obj{"base_interval": "0.01s"}}),
	},
	{
		name: "retry-default", of: "without any policy a refused connection is tried at another endpoint, as Istio has it", mesh: pods(2),
		twin: never, prove: refusing("echo-1", noneFails(30, ask{pod: "echo-2"})),
		alone: "the CONNECT to a pod is behind an internal connection, so that to Envoy a refusal is no connect failure",
	},
	{
		name: "retry-connect-failure", of: "retry on a connection that cannot be made", mesh: pods(2),
		yaml: onService("retry: {attempts: 2, failures: [ConnectFailure]}"), twin: never, prove: refusing("echo-1", noneFails(30, ask{pod: "echo-2"})),
		envoy: retries("connect-failure,reset", 2, obj{}),
	},
	{
		name: "retry-reset", of: "retry on a connection that is reset before an answer", mesh: pods(2),
		yaml: onService("retry: {attempts: 2, failures: [Reset]}"), twin: never, prove: asPod("echo-1", resets, noneFails(30, ask{pod: "echo-2"})),
		envoy: retries("reset", 2, obj{}),
	},
	{
		name: "retry-reset-before-request", of: "retry only if nothing of the request was sent", mesh: pods(2),
		yaml: onService("retry: {attempts: 2, failures: [ResetBeforeRequest]}"),
		prove: asPod("echo-1", resets, func(x *trial) error {
			for range 40 { // a request that was sent is not tried again
				if r, err := x.send(ask{}); err != nil || r.status != 200 {
					return nil
				}
			}
			return wrongf("40 requests were answered though one of two endpoints resets them")
		}),
		twin:  onService("retry: {attempts: 2, failures: [Reset]}"),
		envoy: retries("reset-before-request", 2, obj{}), alone: "Envoy counts a request as sent when its head left for the internal connection: the twin needs a fragment of its own",
	},
	{
		name: "retry-refused-stream", of: "retry on a stream that an HTTP/2 endpoint refuses", mesh: []svc{{name: "echo", app: "kubernetes.io/h2c"}},
		yaml: onService("retry: {attempts: 2, failures: [RefusedStream]}"), twin: never,
		envoy: retries("refused-stream", 2, obj{}), envoyTwin: noRetries,
		prove: func(x *trial) error {
			x.pod("echo-1").refuseStreams(x, 2)
			_, err := x.check(ask{h2: true})
			return err
		},
	},
	{
		name: "retry-grpc-status", of: "retry on a gRPC status",
		yaml: onService("retry: {attempts: 2, grpcStatuses: [RESOURCE_EXHAUSTED]}"), envoy: retries("resource-exhausted", 2, obj{}),
		prove: func(x *trial) error {
			x.pod("echo-1").failCalls(2, "RESOURCE_EXHAUSTED")
			return x.call(call{pod: "echo"})
		},
	},
	{
		name: "retry-per-try-timeout", of: "retry after an endpoint took too long, at another", mesh: pods(2),
		yaml:  onService("retry: {attempts: 2, failures: [PerTryTimeout]}\ntimeout: {backendRequest: 200ms}"),
		twin:  onService("retry: {attempts: 0}\ntimeout: {backendRequest: 200ms}"),
		prove: asPod("echo-1", sleeps(3*time.Second), noneFails(20, ask{pod: "echo-2", within: 2 * time.Second})),
		envoy: retries("gateway-error", 2, obj{"per_try_timeout": "0.2s"}),
	},
	{
		name: "retry-backoff", of: "exponential backoff with jitter between tries",
		yaml: onService("retry: {attempts: 6, codes: [503], backoff: {base: 200ms, max: 400ms}}"),
		twin: onService("retry: {attempts: 6, codes: [503], backoff: {base: 1ms, max: 2ms}}"),
		// Six random pauses below 200, 400, 400, ... ms are 1.1 s on average.
		prove: afterFailures(6, 503, ask{least: 250 * time.Millisecond, within: 3 * time.Second}, 7),
		envoy: retries("retriable-status-codes", 6, obj{"retriable_status_codes": []int{503}, "retry_back_off": obj{"base_interval": "0.2s", "max_interval": "0.4s"}}),
	},
	{
		name: "retry-after", of: "a response's Retry-After is the pause",
		yaml:  onService("retry: {attempts: 2, codes: [503], backoff: {base: 10ms}}"),
		twin:  onService("retry: {attempts: 2, codes: [503], backoff: {base: 10ms}, retryAfter: {ignore: true}}"),
		prove: afterFailures(1, 503, ask{least: 900 * time.Millisecond, within: 4 * time.Second}, 2, "Retry-After", "1"),
		envoy: retries("retriable-status-codes", 2, obj{
			"retriable_status_codes":      []int{503},
			"rate_limited_retry_back_off": obj{"reset_headers": list{obj{"name": "Retry-After", "format": "SECONDS"}}},
		}),
	},
	{
		name: "retry-after-too-long", of: "a Retry-After longer than the bound ends the trying, and the answer goes through",
		yaml:  onService("retry: {attempts: 2, codes: [503], retryAfter: {max: 2s}}"),
		twin:  onService("retry: {attempts: 2, codes: [503], retryAfter: {ignore: true}}"),
		prove: afterFailures(1, 503, ask{status: 503, within: time.Second}, 1, "Retry-After", "60"),
		alone: "where Retry-After is too long Envoy takes its own backoff",
	},
	{
		name: "retry-other-endpoint", of: "another endpoint is preferred for a retry", mesh: pods(2),
		yaml:  onService("retry: {attempts: 1, codes: [503], backoff: {base: 1ms}}"),
		twin:  onService("retry: {attempts: 1, codes: [503], backoff: {base: 1ms}, sameEndpoint: true}"),
		prove: asPod("echo-1", answers(503), noneFails(60, ask{pod: "echo-2"})),
		envoy: retries("retriable-status-codes", 1, obj{"retriable_status_codes": []int{503}, "retry_back_off": obj{"base_interval": "0.001s"}}),
	},
	{
		name: "retry-body", of: "a request's body is kept and sent again",
		yaml:  onService("retry: {attempts: 1, codes: [503], bodyLimit: 64Ki}"),
		envoy: retries("retriable-status-codes", 1, obj{"retriable_status_codes": []int{503}}),
		prove: func(x *trial) error {
			failing(x, 1, 503)
			r, err := x.check(ask{method: "POST", body: strings.Repeat("b", 40_000)})
			if err == nil && r.seen.Body != 40_000 {
				return wrongf("%d bytes came at the second try", r.seen.Body)
			}
			return err
		},
	},
	{
		name: "retry-body-limit", of: "a request whose body is longer than the limit is sent once",
		yaml:      onService("retry: {attempts: 1, codes: [503], bodyLimit: 16Ki}"),
		twin:      onService("retry: {attempts: 1, codes: [503], bodyLimit: 1Mi}"),
		prove:     afterFailures(1, 503, ask{method: "POST", body: strings.Repeat("b", 200_000), status: 503}, 1),
		envoy:     retries("retriable-status-codes", 1, obj{"retriable_status_codes": []int{503}}).with(patch{entry: obj{"per_request_buffer_limit_bytes": 16 << 10}}),
		envoyTwin: retries("retriable-status-codes", 1, obj{"retriable_status_codes": []int{503}}).with(patch{entry: obj{"per_request_buffer_limit_bytes": 1 << 20}}),
	},
	{
		name: "retry-never-twice", of: "nothing is sent again once bytes of a response have gone out", untold: true,
		yaml: onService("retry: {attempts: 2, codes: [503], failures: [Reset]}"), envoy: retries("reset,retriable-status-codes", 2, obj{"retriable_status_codes": []int{503}}),
		prove: breaksOff(true), wrong: breaksOff(false),
	},
	{
		name: "retry-on-rule", of: "a policy on one rule of a route is for that rule alone",
		keep: httpRoute("r", "  - name: one\n    matches: [{path: {value: /one}}]\n    backendRefs: [{name: echo, port: 80}]\n  - backendRefs: [{name: echo, port: 80}]"),
		yaml: onRoute("one", "retry: {attempts: 2, codes: [503], backoff: {base: 10ms}}"),
		prove: func(x *trial) error {
			if err := afterFailures(2, 503, ask{path: "/one"}, 3)(x); err != nil {
				return err
			}
			failing(x, 1, 503)
			_, err := x.check(ask{path: "/two", status: 503})
			return err
		},
		envoy: patch{services: func(x *trial, services []envoyService) []envoyService {
			for _, s := range services {
				for _, r := range s.Routes {
					if route := r.(obj); fmt.Sprint(route["match"]) == fmt.Sprint(obj{"path_separated_prefix": "/one"}) {
						retries("retriable-status-codes", 2, obj{"retriable_status_codes": []int{503}}).apply([]envoyService{{Routes: list{route}}})
					}
				}
			}
			return services
		}},
	},
	{
		name: "retry-most-specific", of: "a route's own words go over its policy's, and that over the service's",
		keep:  onServiceNamed("s", "retry: {attempts: 0}"),
		yaml:  httpRoute("r", "  - retry: {codes: [503], attempts: 3, backoff: 10ms}\n    backendRefs: [{name: echo, port: 80}]") + onRoute("", "retry: {attempts: 1, codes: [503]}"),
		prove: afterFailures(3, 503, ask{}, 4),
	},
	{
		name: "retry-extension-ref", of: "a rule names a policy by ExtensionRef",
		yaml: httpRoute("r", "  - filters: [{type: ExtensionRef, extensionRef: {group: policy.cairnproxy.dev, kind: TrafficPolicy, name: mine}}]\n    backendRefs: [{name: echo, port: 80}]") +
			unattached("mine", "retry: {attempts: 2, codes: [503], backoff: {base: 10ms}}"),
		prove: afterFailures(2, 503, ask{}, 3), envoy: retries("retriable-status-codes", 2, obj{"retriable_status_codes": []int{503}}),
	},
	{
		name: "retry-budget", of: "a retry budget stops a storm: percent of the requests in flight, and a minimum", quiet: true,
		yaml:      onService("retry: {attempts: 3, codes: [503], backoff: {base: 5ms}, budget: {percent: 20, minConcurrent: 1}}"),
		twin:      onService("retry: {attempts: 3, codes: [503], backoff: {base: 5ms}, budget: {percent: 100, minConcurrent: 1000}}"),
		prove:     storm(60, 130),
		envoyTwin: retries("retriable-status-codes", 3, obj{"retriable_status_codes": []int{503}, "retry_back_off": obj{"base_interval": "0.005s"}}),
		envoy: retries("retriable-status-codes", 3, obj{"retriable_status_codes": []int{503}, "retry_back_off": obj{"base_interval": "0.005s"}}).
			with(thresholds(obj{"retry_budget": obj{"budget_percent": obj{"value": 20}, "min_retry_concurrency": 1}})),
	},
	{
		name: "retry-budget-interval", of: "XBackendTrafficPolicy: a budget of the requests of an interval, and a rate that is free (GEP-3388)", quiet: true,
		keep: httpRoute("r", "  - retry: {codes: [503], attempts: 3, backoff: 5ms}\n    backendRefs: [{name: echo, port: 80}]"),
		yaml: `
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: p, namespace: $NS}
spec:
  targetRefs: [{group: "", kind: Service, name: echo}]
  retryConstraint: {budget: {percent: 20, interval: 10s}, minRetryRate: {count: 3, interval: 1s}}
`,
		prove: storm(60, 110), alone: "Envoy's budget is of the requests in flight",
	},
	{
		name: "hedge", of: "a second request goes out when the first is slow, and the first answer counts", mesh: pods(2),
		yaml: onService("hedging: {delay: 100ms, max: 1}"), prove: asPod("echo-1", sleeps(3*time.Second), noneFails(20, ask{pod: "echo-2", within: 1500 * time.Millisecond})),
		envoy: retries("5xx", 1, obj{"per_try_timeout": "0.1s"}).with(patch{route: obj{"hedge_policy": obj{"hedge_on_per_try_timeout": true}}}),
	},
	{
		name: "hedge-unsafe", of: "only idempotent requests are hedged", mesh: pods(2), untold: true,
		yaml:  onService("hedging: {delay: 100ms, max: 1}"),
		prove: hedged("POST", 1), wrong: hedged("GET", 1), alone: "Envoy hedges whatever a route gets",
	},
	{
		name: "hedge-budget", of: "hedges are taken from the retry budget", mesh: pods(2), quiet: true,
		yaml: onService("hedging: {delay: 50ms, max: 1}\nretry: {budget: {percent: 10, minConcurrent: 1}}"),
		twin: onService("hedging: {delay: 50ms, max: 1}\nretry: {budget: {percent: 100, minConcurrent: 100}}"),
		prove: func(x *trial) error {
			always(x, 200, 500*time.Millisecond)
			if err := all(20, func(int) error { _, err := x.check(ask{}); return err }); err != nil {
				return err
			}
			return x.wantTries(20, 30)
		},
		alone: "Envoy's hedges are retries after a timeout",
	},
}

// onServiceNamed is onService with a name.
func onServiceNamed(name, spec string) string {
	return trafficPolicy(name, `{group: "", kind: Service, name: echo}`, spec)
}

// breaksOff lets a pod fail in the middle of its answer, or before it.
func breaksOff(inTheMiddle bool) func(*trial) error {
	return func(x *trial) error {
		p := x.pod("echo-1")
		p.do(func(w http.ResponseWriter, r *http.Request) {
			if inTheMiddle {
				w.Header().Set("Content-Length", strconv.Itoa(1<<20))
				io.WriteString(w, "some")
				http.NewResponseController(w).Flush()
				time.Sleep(100 * time.Millisecond)
			}
			breakOff(w, true)
		})
		if r, err := x.send(ask{}); inTheMiddle && err == nil {
			return wrongf("answered %d with %d bytes as if nothing had happened", r.status, len(r.body))
		}
		return x.wantTries(1, 1)
	}
}

// storm sends n requests at once to pods that all fail, and counts tries.
func storm(n, most int) func(*trial) error {
	return func(x *trial) error {
		always(x, 503, 100*time.Millisecond)
		err := all(n, func(int) error {
			_, err := x.check(ask{status: 503})
			return err
		})
		if err != nil {
			return err
		}
		return x.wantTries(n, most)
	}
}

// hedged sends one request to slow pods and counts tries.
func hedged(method string, tries int) func(*trial) error {
	return func(x *trial) error {
		always(x, 200, 400*time.Millisecond)
		if _, err := x.check(ask{method: method}); err != nil {
			return err
		}
		return x.wantTries(tries, tries)
	}
}
