package traffic

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

func TestLimits(t *testing.T) { runGroup(t, "limits", slices.Concat(limitCases, faultCases)) }

// passes proves that of requests one after the other so many pass, and the next is
// answered with a status.
func passes(n, status int, a ask) func(*trial) error {
	return func(x *trial) error {
		for i := range n {
			if _, err := x.check(a); err != nil {
				return fmt.Errorf("request %d: %w", i+1, err)
			}
		}
		over := a
		over.status = status
		_, err := x.check(over)
		return err
	}
}

// localLimit is Envoy's local rate limit: a bucket that fills once an hour.
func localLimit(tokens int, more obj) patch {
	return patch{filters: list{obj{"name": "envoy.filters.http.local_ratelimit", "typed_config": ext("envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit", merged(obj{
		"stat_prefix": "limit", "token_bucket": obj{"max_tokens": tokens, "tokens_per_fill": tokens, "fill_interval": "3600s"},
		"filter_enabled":  obj{"default_value": obj{"numerator": 100}, "runtime_key": "limit_enabled"},
		"filter_enforced": obj{"default_value": obj{"numerator": 100}, "runtime_key": "limit_enforced"},
	}, more))}}}
}

// local is a TrafficPolicy with local limits, the first three requests in an hour where
// nothing else is said.
func local(fields string) string {
	return onService("rateLimit: {local: [{name: hour, requests: 3, per: 1h, burst: 3" + fields + "}]}")
}

func user(name string) []string { return []string{"x-user", name} }

var limitCases = []testCase{
	{
		name: "limit", of: "a local limit: so many requests pass, then 429", yaml: local(""), envoy: localLimit(3, nil), prove: passes(3, 429, ask{}),
	},
	{
		name: "limit-headers", of: "RateLimit headers (draft 03) on what passes and on what does not, and Retry-After", yaml: local(""),
		alone: "its fields are called x-ratelimit-*",
		prove: func(x *trial) error {
			for i := range 3 {
				r, err := x.check(ask{want: []string{"ratelimit-limit: *", "ratelimit-reset: *", "ratelimit-remaining: " + strconv.Itoa(2-i)}})
				if err != nil {
					return err
				}
				if limit := r.header.Get("ratelimit-limit"); !strings.HasPrefix(limit, "3") {
					return wrongf("RateLimit-Limit: %q", limit)
				}
			}
			_, err := x.check(ask{status: 429, want: []string{"ratelimit-remaining: 0", "retry-after: *"}})
			return err
		},
	},
	{
		name: "limit-refills", of: "a bucket fills again",
		yaml: onService("rateLimit: {local: [{name: s, requests: 2, per: 1s, burst: 2}]}"), twin: local(""),
		envoy: patch{}.with(localLimit(2, obj{"token_bucket": obj{"fill_interval": "1s"}})), envoyTwin: localLimit(3, nil),
		prove: func(x *trial) error {
			if err := eventually(3*time.Second, func() error { _, err := x.check(ask{status: 429}); return err }); err != nil {
				return err
			}
			time.Sleep(1200 * time.Millisecond)
			_, err := x.check(ask{})
			return err
		},
	},
	{
		name: "limit-key", of: "a bucket for each value of a key: here a header", yaml: local(`, key: ["request.headers['x-user']"]`), twin: local(""),
		envoy: localLimit(1000, obj{
			"rate_limits": list{obj{"actions": list{obj{"request_headers": obj{"header_name": "x-user", "descriptor_key": "user"}}}}},
			"descriptors": list{obj{"entries": list{obj{"key": "user"}}, "token_bucket": obj{"max_tokens": 3, "tokens_per_fill": 3, "fill_interval": "3600s"}}},
		}),
		envoyTwin: localLimit(3, nil),
		prove:     steps(passes(3, 429, ask{headers: user("one")}), passes(3, 429, ask{headers: user("two")})),
	},
	{
		name: "limit-identity", of: "a bucket for each client, by the identity that its certificate proves",
		yaml: local(`, key: ["source.principal"]`), twin: local(""), alone: "its local limits have no descriptor of a peer's identity behind a tunnel",
		prove: func(x *trial) error {
			if err := passes(3, 429, ask{ns: x.ns + "-a"})(x); err != nil {
				return err
			}
			return passes(3, 429, ask{ns: x.ns + "-b"})(x)
		},
	},
	{
		name: "limit-when", of: "a limit for some requests, told by CEL", yaml: local(`, when: "request.path.startsWith('/limited')"`), twin: local(""),
		alone: "its local limits choose by descriptors, not by CEL",
		prove: steps(noneFails(6, ask{path: "/free"}), passes(3, 429, ask{path: "/limited/x"}), noneFails(2, ask{path: "/free"})),
	},
	{
		name: "limit-cost", of: "a request may cost several tokens, by CEL", yaml: onService(`rateLimit: {local: [{name: hour, requests: 10, per: 1h, burst: 10, cost: "request.method == 'POST' ? 5 : 1"}]}`),
		twin: onService(`rateLimit: {local: [{name: hour, requests: 10, per: 1h, burst: 10}]}`), alone: "its local limits take one token a request",
		prove: passes(2, 429, ask{method: "POST"}),
	},
	{
		name: "limit-several", of: "several limits: all must let a request pass, and one that refuses takes nothing from the others",
		yaml:  onService("rateLimit: {local: [{name: wide, requests: 6, per: 1h, burst: 6}, {name: user, requests: 2, per: 1h, burst: 2, key: [\"request.headers['x-user']\"]}]}"),
		twin:  onService("rateLimit: {local: [{name: user, requests: 2, per: 1h, burst: 2, key: [\"request.headers['x-user']\"]}]}"),
		alone: "its general bucket is taken from even where a descriptor's refuses",
		prove: steps(passes(2, 429, ask{headers: user("a")}), passes(2, 429, ask{headers: user("b")}), passes(2, 429, ask{headers: user("c")}), asks(ask{headers: user("d"), status: 429})),
	},
	{
		name: "limit-status", of: "a limit may answer with another status", yaml: local(", status: 503"), twin: local(""),
		envoy: localLimit(3, obj{"status": obj{"code": 503}}), envoyTwin: localLimit(3, nil), prove: passes(3, 503, ask{}),
	},
	{
		name: "limit-dry-run", of: "a dry run counts and lets pass", yaml: local(", dryRun: true"), twin: local(""),
		envoy: localLimit(3, obj{"filter_enforced": obj{"default_value": obj{"numerator": 0}}}), envoyTwin: localLimit(3, nil), prove: noneFails(8, ask{}),
	},
	{
		name: "limit-grpc", of: "gRPC is answered RESOURCE_EXHAUSTED", yaml: local(""), envoy: localLimit(3, obj{"rate_limited_as_resource_exhausted": true}),
		prove: calls(call{}, call{}, call{}, call{code: codes.ResourceExhausted}),
	},
	{
		name: "limit-rule", of: "a limit of one rule is for that rule alone",
		keep: httpRoute("r", "  - name: one\n    matches: [{path: {value: /one}}]\n    backendRefs: [{name: echo, port: 80}]\n  - backendRefs: [{name: echo, port: 80}]"),
		yaml: onRoute("one", "rateLimit: {local: [{name: hour, requests: 3, per: 1h, burst: 3}]}"), twin: local(""),
		envoy: localLimit(1000, nil).with(patch{services: func(_ *trial, services []envoyService) []envoyService {
			limit := localLimit(3, nil).filters[0].(obj)["typed_config"]
			for _, s := range services {
				for _, r := range s.Routes {
					if match := r.(obj)["match"].(obj); match["path_separated_prefix"] == "/one" {
						r.(obj)["typed_per_filter_config"] = obj{"envoy.filters.http.local_ratelimit": limit}
					}
				}
			}
			return services
		}}),
		envoyTwin: localLimit(3, nil), prove: steps(passes(3, 429, ask{path: "/one"}), noneFails(6, ask{path: "/two"})),
	},
	{
		name: "limit-live", of: "a limit that is changed keeps what was taken", yaml: local(""), alone: "Envoy is configured once here",
		prove: func(x *trial) error {
			if err := passes(3, 429, ask{})(x); err != nil {
				return err
			}
			if err := x.write(strings.ReplaceAll(x.manifests(), "requests: 3, per: 1h, burst: 3", "requests: 5, per: 1h, burst: 5")); err != nil {
				return err
			}
			passed := 0
			for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				if r, err := x.send(ask{}); err == nil && r.status == 200 {
					passed++
				}
			}
			if passed > 2 {
				return wrongf("%d more passed after the change from 3 to 5", passed)
			}
			return nil
		},
	},
}

// fault is Envoy's fault filter for a service.
func fault(fields obj) patch {
	return patch{entry: obj{"typed_per_filter_config": obj{"envoy.filters.http.fault": ext("envoy.extensions.filters.http.fault.v3.HTTPFault", fields)}}}
}

func percent(n int) obj { return obj{"numerator": n, "denominator": "HUNDRED"} }

func faults(text string) string { return onService("faultInjection: [" + text + "]") }

// sometimes proves that of n requests between least and most get a status.
func sometimes(n, status, least, most int, a ask) func(*trial) error {
	return func(x *trial) error {
		tr := x.transport(a)
		defer tr.CloseIdleConnections()
		got := 0
		for range n {
			r, err := x.sendOver(tr, a)
			if err != nil {
				return err
			}
			if r.status == status {
				got++
			}
		}
		if got < least || got > most {
			return wrongf("%d of %d requests were answered %d, want %d to %d", got, n, status, least, most)
		}
		return nil
	}
}

var faultCases = []testCase{
	{
		name: "fault-delay", of: "an injected delay", yaml: faults("{delay: {fixed: 400ms}}"),
		envoy: fault(obj{"delay": obj{"fixed_delay": "0.4s", "percentage": percent(100)}}), prove: asks(ask{least: 350 * time.Millisecond, within: 3 * time.Second}),
	},
	{
		name: "fault-abort", of: "an injected answer", yaml: faults("{abort: {httpStatus: 418}}"),
		envoy: fault(obj{"abort": obj{"http_status": 418, "percentage": percent(100)}}),
		prove: func(x *trial) error {
			if _, err := x.check(ask{status: 418, want: []string{"-x-pod"}}); err != nil {
				return err
			}
			return x.wantTries(0, 0)
		},
	},
	{
		name: "fault-both", of: "a delay and then an abort", yaml: faults("{delay: {fixed: 300ms}, abort: {httpStatus: 503}}"),
		envoy: fault(obj{"delay": obj{"fixed_delay": "0.3s", "percentage": percent(100)}, "abort": obj{"http_status": 503, "percentage": percent(100)}}),
		prove: asks(ask{status: 503, least: 250 * time.Millisecond}),
	},
	{
		name: "fault-grpc", of: "an injected gRPC status", yaml: faults("{abort: {grpcStatus: DATA_LOSS}}"),
		envoy: fault(obj{"abort": obj{"grpc_status": 15, "percentage": percent(100)}}), prove: calls(call{code: codes.DataLoss}),
	},
	{
		name: "fault-percent", of: "faults for a percentage of the requests", yaml: faults("{abort: {httpStatus: 418, percent: 30}}"),
		envoy: fault(obj{"abort": obj{"http_status": 418, "percentage": percent(30)}}), prove: sometimes(300, 418, 55, 130, ask{}),
	},
	{
		name: "fault-fraction", of: "faults for a fraction of a million", yaml: faults("{abort: {httpStatus: 418, percent: 2.5}}"),
		envoy: fault(obj{"abort": obj{"http_status": 418, "percentage": obj{"numerator": 25_000, "denominator": "MILLION"}}}), prove: sometimes(1000, 418, 5, 60, ask{}),
	},
	{
		name: "fault-header", of: "faults for requests with a header", yaml: faults("{match: {headers: [{name: x-test, value: fail}]}, abort: {httpStatus: 418}}"),
		envoy: fault(obj{"abort": obj{"http_status": 418, "percentage": percent(100)}, "headers": list{obj{"name": "x-test", "string_match": obj{"exact": "fail"}}}}),
		prove: asks(ask{headers: []string{"x-test", "fail"}, status: 418}, ask{headers: []string{"x-test", "pass"}}, ask{}),
	},
	{
		name: "fault-cel", of: "faults for requests that CEL chooses", yaml: faults(`{match: {when: "request.method == 'PUT' && request.path.contains('/x')"}, abort: {httpStatus: 418}}`),
		alone: "its fault filter chooses by headers alone",
		prove: asks(ask{method: "PUT", path: "/a/x", status: 418}, ask{method: "PUT", path: "/a"}, ask{path: "/a/x"}),
	},
	{
		name: "fault-several", of: "the first fault that applies aborts", yaml: faults("{match: {headers: [{name: x-test, value: one}]}, abort: {httpStatus: 418}}, {abort: {httpStatus: 419}}"),
		twin: faults("{abort: {httpStatus: 419}}"), alone: "its fault filter has one fault",
		prove: asks(ask{headers: []string{"x-test", "one"}, status: 418}, ask{status: 419}),
	},
	{
		name: "fault-rule", of: "faults of one rule are for that rule alone",
		keep: httpRoute("r", "  - name: one\n    matches: [{path: {value: /one}}]\n    backendRefs: [{name: echo, port: 80}]\n  - backendRefs: [{name: echo, port: 80}]"),
		yaml: onRoute("one", "faultInjection: [{abort: {httpStatus: 418}}]"),
		envoy: patch{services: func(_ *trial, services []envoyService) []envoyService {
			for _, s := range services {
				for _, r := range s.Routes {
					if match := r.(obj)["match"].(obj); match["path_separated_prefix"] == "/one" {
						fault(obj{"abort": obj{"http_status": 418, "percentage": percent(100)}}).apply([]envoyService{{Routes: list{r}}})
					}
				}
			}
			return services
		}},
		prove: asks(ask{path: "/one", status: 418}, ask{path: "/two"}),
	},
	{
		name: "fault-max-active", of: "no more than so many requests are held back at a time", yaml: faults("{delay: {fixed: 1500ms}, maxActive: 2}"),
		twin: faults("{delay: {fixed: 1500ms}}"), envoyTwin: fault(obj{"delay": obj{"fixed_delay": "1.5s", "percentage": percent(100)}}),
		envoy: fault(obj{"delay": obj{"fixed_delay": "1.5s", "percentage": percent(100)}, "max_active_faults": 2}),
		prove: func(x *trial) error {
			slow := make(chan bool)
			for range 8 {
				go func() {
					r, err := x.send(ask{})
					slow <- err != nil || r.took > 1400*time.Millisecond
				}()
			}
			n := 0
			for range 8 {
				if <-slow {
					n++
				}
			}
			if n < 1 || n > 2 {
				return wrongf("%d of 8 requests were held back, want 2 at most", n)
			}
			return nil
		},
	},
	{
		name: "fault-client-gone", of: "a client that goes away while it is held back leaves nothing behind", yaml: faults("{delay: {fixed: 1s}}"),
		twin: faults("{delay: {fixed: 1ms}}"), envoy: fault(obj{"delay": obj{"fixed_delay": "1s", "percentage": percent(100)}}), envoyTwin: fault(obj{"delay": obj{"fixed_delay": "0.001s", "percentage": percent(100)}}),
		prove: func(x *trial) error {
			for range 10 {
				if _, err := x.sendAndGo(200 * time.Millisecond); err != nil {
					return err
				}
			}
			time.Sleep(1500 * time.Millisecond)
			return x.wantTries(0, 0)
		},
	},
}

// sendAndGo sends a request and resets the stream after a time.
func (x *trial) sendAndGo(after time.Duration) (int, error) {
	conn, err := x.open(cmp.Or(x.c.services()[0].name, "echo"), portHTTP)
	if err != nil {
		return 0, err
	}
	n, err := fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: echo\r\n\r\n")
	time.Sleep(after)
	conn.Reset()
	return n, err
}
