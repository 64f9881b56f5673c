package ratelimit

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"cairnproxy.dev/cairn/filters/remote"
	"cairnproxy.dev/cairn/mesh"
)

// Registry holds what limits have counted and the connections to rate limit services, over
// all configurations of one proxy: a changed policy goes on with the buckets of the one
// before. What no configuration uses any more is let go with it. Its methods may be
// called from any goroutine.
type Registry struct {
	counters Counters
	epoch    time.Time
	services *remote.Pool

	mu     sync.Mutex
	limits map[limitKey]weak.Pointer[limit]
	totals map[totalKey]*totals
}

// NewRegistry returns an empty registry. dialer connects to rate limit services; nil is
// for proxies that have none. counters may be nil, too.
func NewRegistry(dialer remote.Dialer, counters Counters) *Registry {
	return &Registry{
		services: remote.NewPool(dialer), counters: counters, epoch: time.Now(),
		limits: map[limitKey]weak.Pointer[limit]{}, totals: map[totalKey]*totals{},
	}
}

// limitKey names a limit's count. With another key, it counts something else.
type limitKey struct {
	policy mesh.Name
	name   string
	key    string
	max    int
}

// limit is a live limit: steps of all configurations share it, and its shape is
// that of the newest.
type limit struct {
	name  string // "NAMESPACE/POLICY/NAME", for logs
	shape atomic.Pointer[shape]
	one   *bucket // without a key,
	many  *keyed  // or with one
	*totals
}

// limit returns the live limit of l, in the shape that l asks for.
func (r *Registry) limit(policy mesh.Name, l *mesh.LocalLimit, now time.Time) *limit {
	k := limitKey{policy: policy, name: l.Name, key: strings.Join(l.Key, "\x00")}
	if len(l.Key) > 0 {
		k.max = l.MaxKeys
	}
	s := newShape(l)
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.limits[k].Value()
	if v == nil {
		v = &limit{name: policy.String() + "/" + l.Name, totals: r.total(policy, l.Name)}
		if len(l.Key) > 0 {
			v.many = newKeyed(l.MaxKeys)
		} else {
			v.one = new(bucket)
		}
		v.shape.Store(s)
		sweep(r.limits)
		r.limits[k] = weak.Make(v)
		return v
	}
	if old := v.shape.Load(); *old != *s {
		v.reshape(old, s, now.Sub(r.epoch))
	}
	return v
}

// reshape changes the shape. A request that takes a token at that very moment may take
// it from the old one.
func (l *limit) reshape(old, s *shape, now time.Duration) {
	if l.many != nil {
		l.many.reshape(old, s, now)
	} else {
		l.one.full.Store(s.reshape(old, l.one.full.Load(), now))
	}
	l.shape.Store(s)
}

func (l *limit) take(now time.Duration, h hash, n uint64) (taken, *shape) {
	s := l.shape.Load()
	if l.many != nil {
		return l.many.take(s, now, h, n), s
	}
	return l.one.take(s, now, n), s
}

func (l *limit) giveBack(h hash, n uint64) {
	if s := l.shape.Load(); l.many != nil {
		l.many.giveBack(s, h, n)
	} else {
		l.one.giveBack(s, n)
	}
}

// sweep forgets what is gone. Maps here have an entry for each limit of the configuration, so that
// this costs little beside making one.
func sweep[K comparable, V any](m map[K]weak.Pointer[V]) {
	for k, p := range m {
		if p.Value() == nil {
			delete(m, k)
		}
	}
}

type totalKey struct {
	policy mesh.Name
	name   string
}

// Counter is one series of a metric.
type Counter interface{ Inc() }

// Counters makes the series of a limit's result: one of "limited", "dry_run", and, for global limits, whose
// name is "", "asked" and "unanswered".
type Counters func(policy mesh.Name, limit, result string) Counter

// totals count what a limit did, from the proxy's beginning.
type totals struct{ refused, dryRun, asked, failed Counter }

type uncounted struct{}

func (uncounted) Inc() {}

// maxTotals bounds the series of policies that came and went.
const maxTotals = 10_000

// total is kept when its limit is not: counters only ever grow. r is locked.
func (r *Registry) total(policy mesh.Name, name string) *totals {
	k := totalKey{policy, name}
	t := r.totals[k]
	if t != nil {
		return t
	}
	t = &totals{uncounted{}, uncounted{}, uncounted{}, uncounted{}}
	if len(r.totals) >= maxTotals || r.counters == nil {
		return t
	}
	t.refused, t.dryRun = r.counters(policy, name, "limited"), r.counters(policy, name, "dry_run")
	if name == "" {
		t.asked, t.failed = r.counters(policy, name, "asked"), r.counters(policy, name, "unanswered")
	}
	r.totals[k] = t
	return t
}

// Close ends the questions under way and the connections to rate limit services, and
// returns when they have ended. Requests that are asked about later count as unanswered.
func (r *Registry) Close() { r.services.Close() }
