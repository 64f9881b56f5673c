package upstream

import (
	"sync"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// StateKey is what the live state of a cluster is known by across snapshots.
type StateKey struct {
	Service  mesh.ServiceKey
	Workload string // instead of Service: the UID
	Port     uint16
	// Variant tells clusters of one port apart: a backend's own policy may make another.
	Variant string
}

// ClusterState is what is counted and known of a cluster while requests run: what
// its circuit breaker counts, which endpoints are ejected. It belongs to the
// Registry and outlives configurations: a policy that changes finds all of it. The limits
// themselves are the policy's and not here.
type ClusterState struct {
	// What the circuit breaker bounds.
	Connections, Pending, Requests, Retries Gauge
	// Overflows counts what the breaker refused, for each of the four.
	Overflows struct{ Connections, Pending, Requests, Retries atomic.Uint64 }

	// Budget is what a retry budget counts.
	Budget BudgetState

	// Outlier counts what outlier detection did.
	Outlier OutlierCounts

	changes  atomic.Uint64
	monitors weakMap[endpointKey, Monitor]

	mu       sync.Mutex // of decisions: ejections, health, limits
	interval time.Time  // when outlier detection looks at rates again
	gradient *gradient  // of adaptive concurrency; nil: it never was
	events   []Event
}

// Event is something that happened to an endpoint.
type Event struct {
	Endpoint *Endpoint
	// What is "ejected", "returned", "unhealthy" or "healthy".
	What, Reason string
	// For is how long an ejection lasts.
	For time.Duration
}

// maxEvents bounds the events that wait to be told.
const maxEvents = 1024

// tell keeps an event for Events. s.mu is held.
func (s *ClusterState) tell(e Event) {
	if len(s.events) < maxEvents {
		s.events = append(s.events, e)
	}
}

// Events returns what has happened since the last call.
func (s *ClusterState) Events() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.events
	s.events = nil
	return list
}

// Changes counts how often an endpoint's availability changed: a cluster that
// was refreshed at another count is to be refreshed again.
func (s *ClusterState) Changes() uint64 { return s.changes.Load() }

// Gauge counts what is under way, up to a bound that the caller brings. The
// zero Gauge is empty. It is safe for concurrent use.
type Gauge struct{ n atomic.Int64 }

// Acquire counts one more, unless limit are under way already; 0 is no limit.
func (g *Gauge) Acquire(limit uint32) bool {
	if n := g.n.Add(1); limit == 0 || n <= int64(limit) {
		return true
	}
	g.n.Add(-1)
	return false
}

// Force counts one more whatever the limit is.
func (g *Gauge) Force() { g.n.Add(1) }

// Release ends what Acquire or Force began.
func (g *Gauge) Release() { g.n.Add(-1) }

// Load returns how many are under way.
func (g *Gauge) Load() int64 { return g.n.Load() }

// Monitor is what one cluster knows of one of its endpoints: whether it may be
// used, and what speaks against it. It outlives configurations like ClusterState.
type Monitor struct {
	flags atomic.Uint32
	// busyUntil is when a busy endpoint may be asked again, in nanoseconds of the Unix clock.
	busyUntil atomic.Int64
	outlierMonitor
	health healthMonitor
}

// flags of a Monitor: why an endpoint is not to be used.
const (
	ejected uint32 = 1 << iota
	unhealthy
	busy
)

// Available reports whether e may be used: it is not ejected, not found
// unhealthy, and does not ask to be left alone. It is one atomic read, and none for
// endpoints of clusters that watch nothing.
func (e *Endpoint) Available() bool { return e.monitor == nil || e.monitor.flags.Load() == 0 }

// Healthy is Available, busy endpoints included: what healthy endpoints are
// counted by for panic and for localities.
func (e *Endpoint) Healthy() bool {
	return e.monitor == nil || e.monitor.flags.Load()&^busy == 0
}

// Condition says in a word why e is not available, "" when it is.
func (e *Endpoint) Condition() string {
	if e.monitor == nil {
		return ""
	}
	switch f := e.monitor.flags.Load(); {
	case f&unhealthy != 0:
		return "unhealthy"
	case f&ejected != 0:
		return "ejected"
	case f&busy != 0:
		return "busy"
	}
	return ""
}

// set raises or lowers a flag of m, and reports whether that changed it. s.mu is held.
func (s *ClusterState) set(m *Monitor, flag uint32, on bool) bool {
	f := m.flags.Load()
	if (f&flag != 0) == on {
		return false
	}
	m.flags.Store(f ^ flag)
	s.changes.Add(1)
	return true
}
