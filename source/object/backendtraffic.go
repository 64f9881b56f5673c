package object

import (
	"time"

	"cairnproxy.dev/cairn/mesh"
	gwx "sigs.k8s.io/gateway-api/apisx/v1alpha1"
)

// constraintBody translates an XBackendTrafficPolicy (GEP-3388, GEP-1619).
func (t *translator) constraintBody(o *Object, v *gwx.XBackendTrafficPolicy, b *policyBody) {
	if c := v.Spec.RetryConstraint; c != nil {
		b.backend = &mesh.BackendPolicy{Budget: t.retryConstraint(o, "spec.retryConstraint", c)}
	}
	if s := v.Spec.SessionPersistence; s != nil {
		session := t.session(o, "spec.sessionPersistence", s, shortHash(o.Kind.Kind, o.Name.Namespace, o.Name.Name))
		session.Policy = o.Name
		b.requests = &mesh.RequestPolicy{Session: session}
	}
	switch {
	case len(v.Spec.TargetRefs) == 0:
		t.bad(o, "spec.targetRefs", "the policy is attached to nothing; name a Service")
	case b.backend == nil && b.requests == nil:
		t.bad(o, "spec", "the policy says nothing; add retryConstraint or sessionPersistence")
	}
}

// retryConstraint has the defaults of the published API: 20 % of the requests of
// 10 s, and 10 retries a second whatever the percentage.
func (t *translator) retryConstraint(o *Object, path string, in *gwx.RetryConstraint) *mesh.RetryBudget {
	out := &mesh.RetryBudget{Policy: o.Name, Percent: defaultBudgetPercent, Interval: 10 * time.Second, MinRate: 10, MinRateInterval: time.Second}
	if b := in.Budget; b != nil {
		if b.Percent != nil {
			out.Percent = float64(number(t, o, path+".budget.percent", int64(*b.Percent), 0, 100))
		}
		if b.Interval != nil {
			out.Interval = t.positive(o, path+".budget.interval", b.Interval)
			if out.Interval > time.Hour {
				t.bad(o, path+".budget.interval", "%s is longer than an hour; use 1h or less", *b.Interval)
			}
		}
	}
	if r := in.MinRetryRate; r != nil {
		if r.Count != nil {
			out.MinRate = uint32(number(t, o, path+".minRetryRate.count", int64(*r.Count), 1, 1_000_000))
		}
		if r.Interval != nil {
			out.MinRateInterval = t.positive(o, path+".minRetryRate.interval", r.Interval)
			if out.MinRateInterval > time.Hour {
				t.bad(o, path+".minRetryRate.interval", "%s is longer than an hour; use 1h or less", *r.Interval)
			}
		}
	}
	return out
}
