package object

import (
	"math"
	"slices"
	"strings"
	"time"

	"cairnproxy.dev/cairn/expr"
	"cairnproxy.dev/cairn/mesh"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// The request part of a TrafficPolicy: what is done with requests before an
// endpoint is chosen.

// trafficRequests translates it; nil for nothing said.
func (t *translator) trafficRequests(o *Object, s *TrafficPolicySpec) *mesh.RequestPolicy {
	out := &mesh.RequestPolicy{
		Timeouts:  t.trafficTimeouts(o, s.Timeout),
		Retry:     t.trafficRetry(o, s.Retry),
		Hedging:   t.trafficHedging(o, s.Hedging),
		RateLimit: t.trafficRateLimit(o, s.RateLimit),
		Faults:    t.trafficFaults(o, s.FaultInjection),
		Session:   t.session(o, "spec.sessionPersistence", s.SessionPersistence, shortHash(o.Kind.Kind, o.Name.Namespace, o.Name.Name)),
	}
	if *out == (mesh.RequestPolicy{}) {
		return nil
	}
	if out.Session != nil {
		out.Session.Policy = o.Name
	}
	return out
}

func (t *translator) trafficTimeouts(o *Object, in *TrafficTimeout) *mesh.Timeouts {
	if in == nil {
		return nil
	}
	const path = "spec.timeout"
	out := mesh.Timeouts{
		Request:     t.timeout(o, path+".request", in.Request),
		PerTry:      t.timeout(o, path+".backendRequest", in.BackendRequest),
		Idle:        t.timeout(o, path+".idle", in.Idle),
		MaxDuration: t.timeout(o, path+".maxStreamDuration", in.MaxStreamDuration),
	}
	if out.Request > 0 && out.PerTry > out.Request {
		t.bad(o, path+".backendRequest", "it is longer than timeout.request; make it %s or less", *in.Request)
	}
	if out == (mesh.Timeouts{}) {
		return nil
	}
	return &out
}

// unsent are the failures after which an endpoint has not begun with a request.
const unsent = mesh.RetryConnectFailure | mesh.RetryRefusedStream | mesh.RetryResetBeforeRequest

var retryReasons = map[string]mesh.RetryOn{
	"ConnectFailure":     mesh.RetryConnectFailure,
	"RefusedStream":      mesh.RetryRefusedStream,
	"Reset":              mesh.RetryReset,
	"ResetBeforeRequest": mesh.RetryResetBeforeRequest,
	"PerTryTimeout":      mesh.RetryPerTryTimeout,
}

// trafficRetry is nil where a policy says of retries no more than their budget.
func (t *translator) trafficRetry(o *Object, in *TrafficRetry) *mesh.Retry {
	if in == nil || in.onlyBudget() {
		return nil
	}
	const path = "spec.retry"
	out := &mesh.Retry{Policy: o.Name, Attempts: defaultAttempts, SameEndpoint: in.SameEndpoint}
	if in.Attempts != nil {
		out.Attempts = int(number(t, o, path+".attempts", int64(*in.Attempts), 0, maxAttempts))
	}
	for i, c := range in.Codes {
		out.Codes = append(out.Codes, int(number(t, o, elem(path+".codes", i), int64(c), 400, 599)))
	}
	for i, s := range in.GRPCStatuses {
		out.GRPCStatuses = append(out.GRPCStatuses, t.grpcStatus(o, elem(path+".grpcStatuses", i), s))
	}
	for i, s := range in.Failures {
		on, ok := retryReasons[s]
		if !ok {
			t.bad(o, elem(path+".failures", i), "%q is not known; use %s", clip(s), choice(sortedKeys(retryReasons)))
		}
		out.On |= on
	}
	switch {
	case in.Failures != nil:
	case in.Codes == nil && in.GRPCStatuses == nil: // what Istio retries where nothing is said
		out.On, out.GRPCStatuses = unsent, []int{grpcCancelled, grpcUnavailable}
	default:
		out.On = unsent
	}
	if b := in.Backoff; b != nil {
		out.BackoffBase = t.positive(o, path+".backoff.base", b.Base)
		out.BackoffMax = t.positive(o, path+".backoff.max", b.Max)
		if out.BackoffMax > 0 && out.BackoffMax < out.BackoffBase {
			t.bad(o, path+".backoff.max", "it is shorter than backoff.base; make it %s or more", *b.Base)
		}
	}
	if a := in.RetryAfter; a != nil {
		out.RetryAfterMax = t.positive(o, path+".retryAfter.max", a.Max)
		if a.Ignore {
			out.RetryAfterMax = mesh.Never
			if a.Max != nil {
				t.bad(o, path+".retryAfter.max", "max and ignore exclude each other; remove one")
			}
		}
	}
	if q := in.BodyLimit; q != nil {
		const most = 16 << 20
		out.BodyLimit = int(q.Value())
		if n := q.Value(); n < 1 || n > most {
			t.bad(o, path+".bodyLimit", "%s is out of range; use 1 to 16Mi bytes", clip(q.String()))
			out.BodyLimit = 0
		}
	}
	return out
}

func (r *TrafficRetry) onlyBudget() bool {
	return r.Budget != nil && r.Attempts == nil && r.Codes == nil && r.GRPCStatuses == nil && r.Failures == nil &&
		r.Backoff == nil && r.RetryAfter == nil && r.BodyLimit == nil && !r.SameEndpoint
}

func (t *translator) trafficHedging(o *Object, in *TrafficHedging) *mesh.Hedging {
	if in == nil {
		return nil
	}
	out := &mesh.Hedging{Policy: o.Name, Delay: t.positive(o, "spec.hedging.delay", &in.Delay), Max: 1}
	if in.Max != nil {
		out.Max = int(number(t, o, "spec.hedging.max", int64(*in.Max), 1, 10))
	}
	return out
}

func (t *translator) trafficFaults(o *Object, in []TrafficFault) *mesh.Faults {
	if len(in) == 0 {
		return nil
	}
	out := &mesh.Faults{Policy: o.Name}
	t.atMost(o, "spec.faultInjection", len(in), 16)
	for i := range in {
		out.List = append(out.List, t.trafficFault(o, elem("spec.faultInjection", i), &in[i]))
	}
	return out
}

func (t *translator) trafficFault(o *Object, path string, in *TrafficFault) mesh.Fault {
	out := mesh.Fault{GRPCStatus: -1}
	if m := in.Match; m != nil {
		t.atMost(o, path+".match.headers", len(m.Headers), 16)
		for i, h := range m.Headers {
			typ := deref(h.Type, gwv1.HeaderMatchExact)
			out.Headers = append(out.Headers, t.namedMatch(o, elem(path+".match.headers", i), string(typ), strings.ToLower(string(h.Name)), h.Value))
		}
		out.When = t.cel(o, path+".match.when", m.When, expr.KindBool)
	}
	if in.Delay == nil && in.Abort == nil {
		t.bad(o, path, "the fault neither delays nor aborts; add delay or abort")
	}
	if d := in.Delay; d != nil {
		out.Delay = t.positive(o, path+".delay.fixed", &d.Fixed)
		out.DelayPPM = t.millionths(o, path+".delay.percent", d.Percent)
	}
	if a := in.Abort; a != nil {
		out.AbortPPM = t.millionths(o, path+".abort.percent", a.Percent)
		switch {
		case (a.HTTPStatus == nil) == (a.GRPCStatus == ""):
			t.bad(o, path+".abort", "the abort needs one of httpStatus and grpcStatus; give exactly one")
		case a.HTTPStatus != nil:
			out.Status = int(number(t, o, path+".abort.httpStatus", int64(*a.HTTPStatus), 200, 599))
		default:
			out.GRPCStatus = t.grpcStatus(o, path+".abort.grpcStatus", a.GRPCStatus)
		}
	}
	if in.MaxActive != nil {
		out.MaxActive = uint32(number(t, o, path+".maxActive", *in.MaxActive, 1, math.MaxUint32))
	}
	return out
}

// millionths reads a percentage that may be as fine as a millionth of all; nil is all.
func (t *translator) millionths(o *Object, path string, in *float64) uint32 {
	if in == nil {
		return 1_000_000
	}
	p := *in * 10_000
	switch n := math.Round(p); {
	case !(*in >= 0 && *in <= 100): // NaN, too
		t.bad(o, path, "%v is not a percentage; use 0 to 100", *in)
		return 0
	case math.Abs(p-n) > 1e-4:
		t.bad(o, path, "%v is finer than a millionth of the requests; use a multiple of 0.0001", *in)
		return 0
	default:
		return uint32(n)
	}
}

// gRPC's statuses by their numbers.
var grpcStatuses = []string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
	"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
	"UNAUTHENTICATED",
}

const (
	grpcCancelled   = 1
	grpcUnavailable = 14
)

// grpcStatus reads the name of a failure.
func (t *translator) grpcStatus(o *Object, path, s string) int {
	if i := slices.Index(grpcStatuses, s); i > 0 {
		return i
	}
	t.bad(o, path, "%q is not a gRPC status of a failure; use a name such as UNAVAILABLE or RESOURCE_EXHAUSTED", clip(s))
	return 0
}

// positive is a duration that may be left out and must not be 0.
func (t *translator) positive(o *Object, path string, in *gwv1.Duration) time.Duration {
	said := t.said
	d := t.duration(o, path, in)
	if d == 0 && in != nil && said == t.said {
		t.bad(o, path, "%q is no time at all; use a duration above 0", clip(string(*in)))
	}
	return d
}

// number checks a whole number and returns it, low where it is out of range.
func number(t *translator, o *Object, path string, n, low, high int64) int64 {
	if n < low || n > high {
		t.bad(o, path, "%d is out of range; use %d to %d", n, low, high)
		return low
	}
	return n
}

// optional is number for a field that may be left out, which is 0.
func (t *translator) optional(o *Object, path string, n *int64, low, high int64) uint32 {
	if n == nil {
		return 0
	}
	return uint32(number(t, o, path, *n, low, high))
}

// fraction checks a number that need not be whole, and may be left out for def.
func (t *translator) fraction(o *Object, path string, f *float64, def, low, high float64) float64 {
	switch {
	case f == nil:
		return def
	case !(*f >= low && *f <= high): // NaN, too
		t.bad(o, path, "%v is out of range; use %v to %v", *f, low, high)
		return def
	}
	return *f
}

// atMost bounds a list.
func (t *translator) atMost(o *Object, path string, n, most int) {
	if n > most {
		t.bad(o, path, "there are %d of them; keep to %d", n, most)
	}
}

// choice lists words: "a, b or c".
func choice(words []string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " or " + words[n-1]
	}
	return strings.Join(words, "")
}
