package waypoint

import (
	"cmp"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// resilience is what a rule says of times and tries, ready for use.
type resilience struct {
	timeouts mesh.Timeouts // 0: none
	// soonest is the least of the times that are counted from the beginning, or from soon after
	// it, where there are several; otherwise 0.
	soonest time.Duration
	retry   retryPolicy
	hedge   *mesh.Hedging // nil: none
}

// retryPolicy is a mesh.Retry with its defaults filled in.
type retryPolicy struct {
	attempts      int
	on            mesh.RetryOn
	codes         *codeSet // nil: none
	grpc          uint32   // a bit for each gRPC status
	base, max     time.Duration
	least         time.Duration // no pause is shorter
	retryAfterMax time.Duration // negative: it is not heeded
	bodyLimit     int
	sameEndpoint  bool
}

// codeSet is a set of HTTP statuses.
type codeSet [16]uint64

func (s *codeSet) has(code int) bool {
	return s != nil && code >= 0 && code < 64*len(s) && s[code/64]&(1<<(code%64)) != 0
}

const (
	// defaultBackoff is Envoy's.
	defaultBackoff = 25 * time.Millisecond
	// defaultRetryAfter is the longest Retry-After that is waited for.
	defaultRetryAfter = 5 * time.Second
	// maxReplay is how much of a request body is kept for another try.
	maxReplay = 64 << 10
	// maxHedges bounds how many hedges a request may have.
	maxHedges = 10
	// maxAttempts is Istio's default of two retries.
	maxAttempts = 3
)

// plainResilience is of rules that say nothing: Istio's default retry policy, as
// far as it is for what fails before a request was sent. Such tries follow at once.
var plainResilience = &resilience{retry: retryPolicy{
	attempts:      maxAttempts - 1,
	on:            mesh.RetryConnectFailure | mesh.RetryRefusedStream | mesh.RetryResetBeforeRequest,
	retryAfterMax: -1, bodyLimit: maxReplay,
}}

// resilienceOf compiles a policy; nil is plainResilience, which most rules have.
func resilienceOf(p *mesh.RequestPolicy) *resilience {
	if p == nil || p.Timeouts == nil && p.Retry == nil && p.Hedging == nil {
		return nil
	}
	r := &resilience{timeouts: timeoutsOf(p), retry: plainResilience.retry}
	if p.Retry != nil {
		r.retry = retryOf(p.Retry)
	}
	if h := p.Hedging; h != nil && h.Max > 0 && h.Delay > 0 {
		one := *h
		one.Max = min(h.Max, maxHedges)
		r.hedge = &one
	}
	r.soonest = r.leastTime()
	return r
}

// leastTime is r.soonest.
func (r *resilience) leastTime() (least time.Duration) {
	all := []time.Duration{r.timeouts.Request, r.timeouts.PerTry, r.timeouts.Idle, r.timeouts.MaxDuration}
	if r.hedge != nil {
		all = append(all, r.hedge.Delay)
	}
	n := 0
	for _, d := range all {
		if d > 0 {
			n++
			least = min(cmp.Or(least, d), d)
		}
	}
	if n < 2 {
		return 0
	}
	return least
}

func retryOf(p *mesh.Retry) retryPolicy {
	r := retryPolicy{
		attempts: min(max(p.Attempts, 0), 255), on: p.On, base: p.BackoffBase, max: p.BackoffMax, least: p.BackoffMin,
		retryAfterMax: p.RetryAfterMax, bodyLimit: p.BodyLimit, sameEndpoint: p.SameEndpoint,
	}
	for _, c := range p.Codes {
		if r.codes == nil {
			r.codes = &codeSet{}
		}
		if c >= 0 && c < 64*len(r.codes) {
			r.codes[c/64] |= 1 << (c % 64)
		}
	}
	for _, s := range p.GRPCStatuses {
		if s > 0 && s < 32 { // 0 is success
			r.grpc |= 1 << s
		}
	}
	if r.base <= 0 {
		r.base = defaultBackoff
	}
	if r.max <= 0 {
		r.max = 10 * r.base
	}
	r.max = max(r.max, r.base)
	if r.retryAfterMax == 0 {
		r.retryAfterMax = defaultRetryAfter
	}
	if r.bodyLimit <= 0 {
		r.bodyLimit = maxReplay
	}
	return r
}

// policy is what the rule says of times and tries.
func (ru *rule) policy() *resilience {
	if ru.res == nil {
		return plainResilience
	}
	return ru.res
}

// timeoutsOf is what a policy says of timeouts, with 0 for none.
func timeoutsOf(p *mesh.RequestPolicy) mesh.Timeouts {
	if p == nil || p.Timeouts == nil {
		return mesh.Timeouts{}
	}
	t := *p.Timeouts
	for _, d := range []*time.Duration{&t.Request, &t.PerTry, &t.Idle, &t.MaxDuration} {
		*d = max(*d, 0)
	}
	return t
}
