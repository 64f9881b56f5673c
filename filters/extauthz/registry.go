package extauthz

import (
	"sync"
	"time"

	"cairnproxy.dev/cairn/filters/remote"
	"cairnproxy.dev/cairn/mesh"
)

// Registry holds the connections to providers, and what they have said, over all configurations of one
// proxy. Its methods may be called from any goroutine.
type Registry struct {
	services *remote.Pool
	own      string
	counters Counters
	epoch    time.Time

	mu     sync.Mutex
	totals map[totalKey]*totals
}

// NewRegistry returns a registry for a proxy of that identity. counters may be nil.
func NewRegistry(d remote.Dialer, own mesh.Identity, counters Counters) *Registry {
	return &Registry{services: remote.NewPool(d), own: own.String(), counters: counters, epoch: time.Now(), totals: map[totalKey]*totals{}}
}

// Close ends the questions under way and the connections.
func (r *Registry) Close() { r.services.Close() }

// Metric counts questions, by provider (its name in MeshConfig, "" for a route's filter), service and
// result: "allowed", "denied", "failed" for no answer, "invalid" for one that cannot be heeded.
const Metric = "cairn_ext_authz_total"

// Counter is one series of Metric.
type Counter interface{ Inc() }

// Counters makes a series.
type Counters func(provider string, service mesh.ServiceKey, result string) Counter

type totalKey struct {
	provider string
	service  mesh.ServiceKey
}

type totals struct{ allowed, denied, failed, invalid Counter }

type uncounted struct{}

func (uncounted) Inc() {}

// maxTotals bounds the series of providers that came and went.
const maxTotals = 10_000

func (r *Registry) totalOf(m *mesh.ExtAuthz) *totals {
	k := totalKey{m.Name, m.Service}
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.totals[k]; t != nil {
		return t
	}
	if r.counters == nil || len(r.totals) >= maxTotals {
		return &totals{uncounted{}, uncounted{}, uncounted{}, uncounted{}}
	}
	of := func(result string) Counter { return r.counters(m.Name, m.Service, result) }
	t := &totals{of("allowed"), of("denied"), of("failed"), of("invalid")}
	r.totals[k] = t
	return t
}
