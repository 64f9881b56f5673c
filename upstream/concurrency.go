package upstream

import (
	"cmp"
	"math"
	"math/bits"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// Concurrency bounds the requests in flight to a cluster by what their latency
// says. It is Envoy's gradient controller:
//
//	gradient = minRTT × (1 + buffer) / sampleRTT        within [0.5, 2]
//	limit    = limit × gradient + √(limit × gradient)   within [Min, Max]
//
// sampleRTT is a percentile of the latencies of a window; minRTT is the same of a
// number of requests while only Min may be in flight, so that none waits for another. It
// is measured at the start, again after each MinRTTInterval (and up to 15% of it, so
// that proxies do not do it together), and when the limit has been at Min for five windows. While it is
// measured, more than Min requests at once are refused: callers want retries, or a Min that fits.
//
// Acquire and Release run on the path of requests and cost two atomics; a third
// counts the latency. Tick is for one goroutine.
type Concurrency struct {
	g                    *gradient
	window, again        time.Duration
	least, most          int64
	requests             uint64
	percentile, headroom float64
}

// gradient is what survives a change of policy.
type gradient struct {
	active, limit atomic.Int64
	epoch         atomic.Int64 // latencies of requests from before do not count; Unix nanoseconds
	blocked       atomic.Uint64
	latencies     histogram

	// Guarded by the state's lock.
	minRTT    atomic.Int64 // read by dumps
	measuring bool
	before    int64 // the limit before measuring
	measure   time.Time
	sample    time.Time
	atLeast   int // windows in which the limit was least
}

// NewConcurrency makes the limit of a cluster by the policy p. What was learnt under
// another policy goes on.
func NewConcurrency(s *ClusterState, p *mesh.AdaptiveConcurrency, now time.Time) *Concurrency {
	c := &Concurrency{
		window: span(p.SampleWindow, 100*time.Millisecond), again: span(p.MinRTTInterval, time.Minute),
		least: int64(cmp.Or(p.Min, 3)), requests: uint64(cmp.Or(p.MinRTTRequests, 50)),
		percentile: 50, headroom: 1.25,
	}
	if p.Percentile > 0 {
		c.percentile = min(p.Percentile, 100)
	}
	if p.BufferPercent > 0 {
		c.headroom = 1 + p.BufferPercent/100
	}
	c.most = max(c.least, int64(cmp.Or(p.Max, 1000)))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gradient == nil {
		s.gradient = &gradient{}
		c.g = s.gradient
		c.g.limit.Store(c.least)
		c.begin(now)
		return c
	}
	c.g = s.gradient
	if !c.g.measuring {
		c.g.limit.Store(c.clamp(c.g.limit.Load()))
	} else {
		c.g.limit.Store(c.least)
	}
	if soon := now.Add(c.again); c.g.measure.After(soon) {
		c.g.measure = soon
	}
	return c
}

// Acquire counts a request, or reports that there are too many: the caller answers 503.
// Release must follow, once. It is safe for concurrent use.
func (c *Concurrency) Acquire() bool {
	if c.g.active.Add(1) <= c.g.limit.Load() {
		return true
	}
	c.g.active.Add(-1)
	c.g.blocked.Add(1)
	return false
}

// Release ends what Acquire began at start. done says that the response came to
// its end, and how long that took counts.
func (c *Concurrency) Release(start, now time.Time, done bool) {
	c.g.active.Add(-1)
	if done && start.UnixNano() >= c.g.epoch.Load() {
		c.g.latencies.add(now.Sub(start))
	}
}

// Limit, Active, MinRTT and Blocked are for dumps and metrics.
func (c *Concurrency) Limit() int64 { return c.g.limit.Load() }

// Active returns how many requests are in flight.
func (c *Concurrency) Active() int64 { return c.g.active.Load() }

// MinRTT returns the latency without load as it was measured last; 0 before the first time.
func (c *Concurrency) MinRTT() time.Duration { return time.Duration(c.g.minRTT.Load()) }

// Blocked returns how many requests were refused.
func (c *Concurrency) Blocked() uint64 { return c.g.blocked.Load() }

// Tick measures, and changes the limit, when it is time to. It returns when it is to
// be called again.
func (c *Concurrency) Tick(s *ClusterState, now time.Time) (next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := c.g
	if g.measuring {
		if g.latencies.count() < c.requests {
			return now.Add(min(c.window, 100*time.Millisecond))
		}
		g.minRTT.Store(int64(g.latencies.percentile(c.percentile)))
		g.measuring, g.atLeast = false, 0
		g.limit.Store(c.clamp(g.before))
		g.measure = now.Add(c.again + time.Duration(rand.Int64N(int64(c.again)*15/100+1)))
		g.sample = now.Add(c.window)
		return g.sample
	}
	if !now.Before(g.measure) {
		c.begin(now)
		return now.Add(c.window)
	}
	if !now.Before(g.sample) {
		g.sample = now.Add(c.window)
		if g.latencies.count() > 0 {
			c.adjust(now, g.latencies.percentile(c.percentile))
		}
	}
	return g.sample
}

// begin starts to measure the latency without load.
func (c *Concurrency) begin(now time.Time) {
	g := c.g
	g.measuring, g.before = true, g.limit.Load()
	g.limit.Store(c.least)
	g.epoch.Store(now.UnixNano())
	g.latencies.reset()
}

// adjust changes the limit for the latency of a window.
func (c *Concurrency) adjust(now time.Time, rtt time.Duration) {
	g := c.g
	ratio := c.headroom * float64(max(1, g.minRTT.Load())) / float64(max(1, rtt))
	limit := float64(g.limit.Load()) * min(2, max(0.5, ratio))
	n := c.clamp(int64(limit + math.Sqrt(limit)))
	g.limit.Store(n)
	if n > c.least {
		g.atLeast = 0
	} else if g.atLeast++; g.atLeast >= 5 {
		c.begin(now)
	}
}

func (c *Concurrency) clamp(n int64) int64 { return min(c.most, max(c.least, n)) }

// histogram counts durations in buckets each about 6% wider than the last, from
// a microsecond to an hour.
type histogram struct{ n [464]atomic.Uint32 }

func (h *histogram) add(d time.Duration) { h.n[bucket(uint64(max(0, d.Microseconds())))].Add(1) }

// bucket is where a number of microseconds is counted: 16 buckets for each
// doubling.
func bucket(us uint64) int {
	if us < 16 {
		return int(us)
	}
	us = min(us, 1<<32-1)
	shift := bits.Len64(us) - 5
	return shift<<4 + int(us>>shift)
}

// middle is the inverse of bucket: a duration in the middle of what a bucket counts.
func middle(i int) time.Duration {
	if i < 16 {
		return time.Duration(i) * time.Microsecond
	}
	shift := i>>4 - 1
	low := (i&15 + 16) << shift
	return time.Duration(low+1<<shift/2) * time.Microsecond
}

func (h *histogram) count() (n uint64) {
	for i := range h.n {
		n += uint64(h.n[i].Load())
	}
	return n
}

// percentile returns it, and empties the histogram.
func (h *histogram) percentile(p float64) time.Duration {
	var counts [len(h.n)]uint32
	var total, seen uint64
	for i := range h.n {
		if h.n[i].Load() > 0 {
			counts[i] = h.n[i].Swap(0)
			total += uint64(counts[i])
		}
	}
	want := uint64(math.Ceil(float64(total) * p / 100))
	for i, n := range counts {
		if seen += uint64(n); n > 0 && seen >= want {
			return middle(i)
		}
	}
	return 0
}

func (h *histogram) reset() { h.percentile(0) }
