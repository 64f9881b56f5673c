package upstream

import (
	"cmp"
	"math"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// Outlier detection takes endpoints out of use that fail where others do not. It is
// Envoy's algorithm (arch_overview/upstream/outlier), with these differences:
//
//   - an ejection ends when its time is over, not at the interval that follows
//   - 429, and 503 with Retry-After, speak of load and not of failure: they count neither
//     for nor against an endpoint, which is left alone for as long as it asked
//   - probabilities of enforcing are not a part of it: a threshold is on or off
//
// Report runs on the path of requests and costs a few atomics; Tick is for
// one goroutine that looks at the rates, and lets endpoints come back.
type Outlier struct {
	c *Cluster
	s *ClusterState
	// With defaults filled in.
	cfg   mesh.OutlierDetection
	rates bool // successes and failures are to be counted for each interval
}

// Outcome is how one try ended.
type Outcome struct {
	// Status is that of the response; 0 when there is none. gRPC's statuses are
	// to be mapped to HTTP's.
	Status int
	// Timeout says that there is none because the endpoint took too long; otherwise no connection
	// could be made, or it broke off.
	Timeout bool
	// RetryAfter is what the response asks for; 0 for nothing.
	RetryAfter time.Duration
}

// load reports whether the endpoint says that it is overloaded.
func (o Outcome) load() bool { return o.Status == 429 || o.Status == 503 && o.RetryAfter > 0 }

// OutlierCounts are what outlier detection did in a cluster so far.
type OutlierCounts struct {
	// Ejections by their reason, and those that the policy's bounds forbade ("overflow").
	Consecutive5xx, ConsecutiveGateway, ConsecutiveLocal, SuccessRate, FailurePercentage, Overflow atomic.Uint64
}

// Total is the number of ejections.
func (c *OutlierCounts) Total() uint64 {
	return c.Consecutive5xx.Load() + c.ConsecutiveGateway.Load() + c.ConsecutiveLocal.Load() + c.SuccessRate.Load() + c.FailurePercentage.Load()
}

// outlierMonitor is what outlier detection knows of an endpoint.
type outlierMonitor struct {
	// Failures in a row.
	fives, gateway, local atomic.Uint32
	// Since the last interval.
	all, unreached window

	// Guarded by the state's lock.
	times uint32 // ejections that count towards the length of the next
	until time.Time
	rate  float64 // of success in the last interval that had enough requests, in percent
}

// begin forgets what speaks against an endpoint: what it did before an ejection is atoned.
func (m *outlierMonitor) begin() {
	for _, n := range []*atomic.Uint32{&m.fives, &m.gateway, &m.local, &m.all.total, &m.all.good, &m.unreached.total, &m.unreached.good} {
		n.Store(0)
	}
}

// window counts the outcomes of one interval.
type window struct{ total, good atomic.Uint32 }

func (w *window) count(good bool) {
	w.total.Add(1)
	if good {
		w.good.Add(1)
	}
}

// NewOutlier makes what detects outliers in c by the policy p. c has a State.
func NewOutlier(c *Cluster, p *mesh.OutlierDetection) *Outlier {
	o := &Outlier{c: c, s: c.state, cfg: *p, rates: p.SuccessRateStdev > 0 || p.FailurePercent > 0}
	f := &o.cfg
	f.Interval = span(f.Interval, 10*time.Second)
	f.BaseEjection = span(f.BaseEjection, 30*time.Second)
	f.MaxEjection = max(f.BaseEjection, span(f.MaxEjection, 300*time.Second))
	f.MaxEjectionPercent = min(100, cmp.Or(f.MaxEjectionPercent, 10))
	f.SuccessRateHosts, f.RequestVolume = cmp.Or(f.SuccessRateHosts, 5), cmp.Or(f.RequestVolume, 100)
	f.FailureHosts, f.FailureVolume = cmp.Or(f.FailureHosts, 5), cmp.Or(f.FailureVolume, 50)
	return o
}

// span is a duration of a policy, or what it is when the policy does not say; within
// what can be reckoned with.
func span(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return min(max(d, time.Millisecond), 365*24*time.Hour)
}

// Report notes how a try with e, an endpoint of the cluster, ended. It reports whether that
// made e unavailable: the cluster is to be refreshed then, and Tick to be called.
// It is safe for concurrent use.
func (o *Outlier) Report(now time.Time, e *Endpoint, out Outcome) (changed bool) {
	m := e.monitor
	switch {
	case m == nil:
		return false
	case out.load():
		return o.rest(now, m, out.RetryAfter)
	case out.Status == 0:
		changed = o.streak(now, e, &m.local, o.cfg.ConsecutiveLocal, "consecutive_local_origin_failure", &o.s.Outlier.ConsecutiveLocal)
		if o.cfg.SplitLocal {
			if o.rates {
				m.unreached.count(false)
			}
			return changed
		}
		out.Status = 503
		if out.Timeout {
			out.Status = 504
		}
	default:
		forget(&m.local)
		if o.cfg.SplitLocal && o.rates {
			m.unreached.count(true)
		}
	}
	if o.rates {
		m.all.count(out.Status < 500)
	}
	if out.Status < 500 {
		forget(&m.fives)
		forget(&m.gateway)
		return changed
	}
	if out.Status >= 502 && out.Status <= 504 {
		changed = o.streak(now, e, &m.gateway, o.cfg.ConsecutiveGateway, "consecutive_gateway_failure", &o.s.Outlier.ConsecutiveGateway) || changed
	} else {
		forget(&m.gateway)
	}
	return o.streak(now, e, &m.fives, o.cfg.Consecutive5xx, "consecutive_5xx", &o.s.Outlier.Consecutive5xx) || changed
}

// forget ends a streak, and writes nothing where there is none: endpoints that are well
// share their memory among processors.
func forget(n *atomic.Uint32) {
	if n.Load() != 0 {
		n.Store(0)
	}
}

// streak counts one more failure in a row, and ejects e at the limit.
func (o *Outlier) streak(now time.Time, e *Endpoint, n *atomic.Uint32, limit uint32, reason string, count *atomic.Uint64) bool {
	if limit == 0 || n.Add(1) < limit {
		return false
	}
	n.Store(0) // whatever comes of it, the next streak is another
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	return o.eject(now, e, reason, count)
}

// rest leaves a busy endpoint alone for a while. The state's lock is taken once for
// each such while.
func (o *Outlier) rest(now time.Time, m *Monitor, d time.Duration) bool {
	if d <= 0 || m.flags.Load()&busy != 0 {
		return false
	}
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	m.busyUntil.Store(now.Add(min(d, o.cfg.BaseEjection)).UnixNano())
	return o.s.set(m, busy, true)
}

// eject takes e out of use, if the policy's bounds allow. The state is locked.
func (o *Outlier) eject(now time.Time, e *Endpoint, reason string, count *atomic.Uint64) bool {
	m := e.monitor
	if m.flags.Load()&ejected != 0 {
		return false
	}
	out, healthy := 0, 0
	for _, x := range o.c.endpoints {
		if x.monitor.flags.Load()&ejected != 0 {
			out++
		}
		if x.Healthy() {
			healthy++
		}
	}
	n := len(o.c.endpoints)
	if out > 0 && (out+1)*100 > n*int(o.cfg.MaxEjectionPercent) || healthy*100 < n*int(o.cfg.MinHealthPercent) {
		o.s.Outlier.Overflow.Add(1)
		return false
	}
	if time.Duration(m.times)*o.cfg.BaseEjection < o.cfg.MaxEjection {
		m.times++
	}
	d := min(time.Duration(m.times)*o.cfg.BaseEjection, o.cfg.MaxEjection)
	m.until = now.Add(d)
	count.Add(1)
	o.s.tell(Event{Endpoint: e, What: "ejected", Reason: reason, For: d})
	return o.s.set(m, ejected, true)
}

// Tick lets endpoints come back whose time is over, and looks at the rates when an
// interval is over. It returns when it is to be called again, at the latest.
func (o *Outlier) Tick(now time.Time) (next time.Time) {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	if o.s.interval.IsZero() || o.s.interval.After(now.Add(o.cfg.Interval)) {
		o.s.interval = now.Add(o.cfg.Interval)
	}
	over := !now.Before(o.s.interval)
	for _, e := range o.c.endpoints {
		m := e.monitor
		switch f := m.flags.Load(); {
		case f&ejected == 0:
			if over && m.times > 0 {
				m.times--
			}
		case !now.Before(m.until):
			m.outlierMonitor.begin()
			o.s.set(m, ejected, false)
			o.s.tell(Event{Endpoint: e, What: "returned"})
		}
		if m.flags.Load()&busy != 0 && now.UnixNano() >= m.busyUntil.Load() {
			o.s.set(m, busy, false)
		}
	}
	if over {
		o.s.interval = now.Add(o.cfg.Interval)
		if o.rates {
			o.look(now, func(m *Monitor) *window { return &m.all })
			o.look(now, func(m *Monitor) *window { return &m.unreached })
		}
	}
	next = o.s.interval
	for _, e := range o.c.endpoints {
		f := e.monitor.flags.Load()
		if f&ejected != 0 && e.monitor.until.Before(next) {
			next = e.monitor.until
		}
		if at := time.Unix(0, e.monitor.busyUntil.Load()); f&busy != 0 && at.Before(next) {
			next = at
		}
	}
	return next
}

// look ejects the endpoints whose rate of success stands out. The state is locked.
func (o *Outlier) look(now time.Time, of func(*Monitor) *window) {
	type sample struct {
		e     *Endpoint
		total uint32
		rate  float64
	}
	var all []sample
	for _, e := range o.c.endpoints {
		w := of(e.monitor)
		total, good := w.total.Swap(0), w.good.Swap(0)
		if total == 0 || e.monitor.flags.Load()&ejected != 0 {
			continue
		}
		e.monitor.rate = 100 * min(1, float64(good)/float64(total))
		all = append(all, sample{e, total, e.monitor.rate})
	}
	if factor := float64(o.cfg.SuccessRateStdev) / 1000; factor > 0 {
		var n, sum, squares float64
		for _, s := range all {
			if s.total >= o.cfg.RequestVolume {
				n, sum = n+1, sum+s.rate
			}
		}
		mean := sum / n
		for _, s := range all {
			if s.total >= o.cfg.RequestVolume {
				squares += (s.rate - mean) * (s.rate - mean)
			}
		}
		floor := mean - factor*math.Sqrt(squares/n)
		for _, s := range all {
			if n >= float64(o.cfg.SuccessRateHosts) && s.total >= o.cfg.RequestVolume && s.rate < floor {
				o.eject(now, s.e, "success_rate", &o.s.Outlier.SuccessRate)
			}
		}
	}
	if o.cfg.FailurePercent > 0 {
		var n uint32
		for _, s := range all {
			if s.total >= o.cfg.FailureVolume {
				n++
			}
		}
		for _, s := range all {
			if n >= o.cfg.FailureHosts && s.total >= o.cfg.FailureVolume && 100-s.rate >= float64(o.cfg.FailurePercent) {
				o.eject(now, s.e, "failure_percentage", &o.s.Outlier.FailurePercentage)
			}
		}
	}
}

// Forgive makes endpoints available again that outlier detection has taken out of
// use: the policy asks for it no more.
func (c *Cluster) Forgive() { c.clear(ejected | busy) }

// clear lowers flags of all endpoints.
func (c *Cluster) clear(flags uint32) {
	if c.state == nil {
		return
	}
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	for _, e := range c.endpoints {
		for f := uint32(1); f <= flags; f <<= 1 {
			if f&flags != 0 && c.state.set(e.monitor, f, false) && f == ejected {
				e.monitor.times = 0
				c.state.tell(Event{Endpoint: e, What: "returned", Reason: "no policy"})
			}
		}
	}
}

// Ejections returns how many endpoints are ejected now.
func (c *Cluster) Ejections() (n int) {
	for _, e := range c.endpoints {
		if e.monitor != nil && e.monitor.flags.Load()&ejected != 0 {
			n++
		}
	}
	return n
}

// BusyUntil returns until when e asked to be left alone; the zero time when it did not.
func (e *Endpoint) BusyUntil() time.Time {
	if e.monitor == nil || e.monitor.flags.Load()&busy == 0 {
		return time.Time{}
	}
	return time.Unix(0, e.monitor.busyUntil.Load())
}
