package authz

import (
	"sync"

	"cairnproxy.dev/cairn/policy"
)

// The metrics of policies that decide nothing.
const (
	// MetricDryRun has the label verdict, "allowed" or "denied".
	MetricDryRun = "cairn_authz_dry_run_total"
	// MetricDisagreements has the label would, "allow" or "deny": what the policy would have done, which
	// is not what was done.
	MetricDisagreements = "cairn_authz_disagreements_total"
	// MetricAudited has no label beside the policy.
	MetricAudited = "cairn_authz_audited_total"
)

// Help is what a metric counts, for those who read it.
func Help(metric string) string {
	return map[string]string{
		MetricDryRun:        "Requests and connections that an authorization policy in dry run was asked about, and what it said.",
		MetricDisagreements: "Requests and connections about which an authorization policy in dry run says something else than was done, and what.",
		MetricAudited:       "Requests and connections that a rule of an authorization policy which audits matched.",
	}[metric]
}

// Counter is one series of a metric.
type Counter interface{ Inc() }

// Counters makes a series of a metric for a policy, with one more label where it is not "".
type Counters func(metric string, p Watched, label, value string) Counter

// Registry holds the counters of policies over all configurations of one proxy. Its methods
// may be called from any goroutine.
type Registry struct {
	make Counters

	made sync.Map // of Watched: *counters. Connections look here, so that they share no lock
	mu   sync.Mutex
	n    int // in made; guarded by mu
}

// NewRegistry returns an empty registry.
func NewRegistry(m Counters) *Registry { return &Registry{make: m} }

// counters are one policy's, by what it says.
type counters struct {
	allowed, denied, wouldAllow, wouldDeny, audited Counter
}

// maxPolicies bounds the series of policies that came and went.
const maxPolicies = 10_000

var uncounted = counters{no{}, no{}, no{}, no{}, no{}}

type no struct{}

func (no) Inc() {}

// counters returns those of each policy of list.
func (r *Registry) counters(list []Watched) []*counters {
	out := make([]*counters, 0, len(list))
	for _, w := range list {
		out = append(out, r.of(w))
	}
	return out
}

func (r *Registry) of(w Watched) *counters {
	if r == nil {
		return &uncounted
	}
	if c, ok := r.made.Load(w); ok {
		return c.(*counters)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, ok := r.made.Load(w); ok {
		return c.(*counters)
	}
	if r.n >= maxPolicies {
		return &uncounted
	}
	var c *counters
	if w.Audit {
		c = &counters{no{}, no{}, no{}, no{}, r.make(MetricAudited, w, "", "")}
	} else {
		c = &counters{
			r.make(MetricDryRun, w, "verdict", "allowed"), r.make(MetricDryRun, w, "verdict", "denied"),
			r.make(MetricDisagreements, w, "would", "allow"), r.make(MetricDisagreements, w, "would", "deny"),
			no{},
		}
	}
	r.made.Store(w, c)
	r.n++
	return c
}

func (c *counters) count(o policy.Outcome) {
	switch o {
	case policy.Audited:
		c.audited.Inc()
	case policy.AgreedAllow:
		c.allowed.Inc()
	case policy.AgreedDeny:
		c.denied.Inc()
	case policy.WouldAllow:
		c.allowed.Inc()
		c.wouldAllow.Inc()
	case policy.WouldDeny:
		c.denied.Inc()
		c.wouldDeny.Inc()
	}
}
