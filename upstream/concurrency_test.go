package upstream

import (
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// limitRig is an adaptive limit before a server whose latency is told.
type limitRig struct {
	*Concurrency
	s   *ClusterState
	now time.Time
}

func newLimitRig(p mesh.AdaptiveConcurrency) *limitRig {
	r := &limitRig{s: &ClusterState{}, now: epoch}
	r.Concurrency = NewConcurrency(r.s, &p, r.now)
	return r
}

// serve lets as many requests pass as the limit allows, each for latency, and ticks.
func (r *limitRig) serve(rounds int, latency func(active int64) time.Duration) {
	for range rounds {
		n := 0
		for r.Acquire() {
			n++
		}
		start, d := r.now, latency(int64(n))
		r.now = r.now.Add(d)
		for range n {
			r.Release(start, r.now, true)
		}
		r.Tick(r.s, r.now)
	}
}

func TestLimitIsMeasuredAtFirst(t *testing.T) {
	r := newLimitRig(mesh.AdaptiveConcurrency{MinRTTRequests: 9})
	if r.Limit() != 3 {
		t.Fatalf("the limit is %d at first, want 3", r.Limit())
	}
	n := 0
	for r.Acquire() {
		n++
	}
	if n != 3 || r.Blocked() != 1 || r.Active() != 3 {
		t.Fatalf("%d may pass, %d were refused", n, r.Blocked())
	}
	for range n {
		r.Release(r.now, r.now, false) // they broke off: no latency
	}
	r.serve(3, func(int64) time.Duration { return 10 * time.Millisecond })
	if got := r.MinRTT(); got < 9700*time.Microsecond || got > 10300*time.Microsecond {
		t.Errorf("minimum round-trip time %s, want 10 ms", got)
	}
}

// With latency as without load the limit rises to its maximum, with more it
// falls to where the latency is well again.
func TestLimitFollowsLatency(t *testing.T) {
	r := newLimitRig(mesh.AdaptiveConcurrency{Max: 200, SampleWindow: 100 * time.Millisecond, MinRTTInterval: time.Hour})
	steady := func(int64) time.Duration { return 10 * time.Millisecond }
	r.serve(300, steady)
	if r.Limit() != 200 {
		t.Errorf("the limit is %d with a steady latency, want the maximum of 200", r.Limit())
	}
	// A server that does 50 at once, and lets others wait.
	knee := func(active int64) time.Duration {
		return time.Duration(float64(10*time.Millisecond) * max(1, float64(active)/50))
	}
	r.serve(2000, knee)
	low, high := int64(math.MaxInt64), int64(0)
	for range 200 {
		r.serve(1, knee)
		low, high = min(low, r.Limit()), max(high, r.Limit())
	}
	// The limit settles above 50 × 1.25, by the head room of its root.
	if low < 50 || high > 120 {
		t.Errorf("the limit is between %d and %d for a server that does 50 at once", low, high)
	}
}

func TestLimitIsMeasuredAgain(t *testing.T) {
	r := newLimitRig(mesh.AdaptiveConcurrency{MinRTTInterval: 10 * time.Second, MinRTTRequests: 6})
	r.serve(100, func(int64) time.Duration { return 10 * time.Millisecond })
	before := r.Limit()
	if before < 10 {
		t.Fatalf("the limit has risen to %d only", before)
	}
	r.now = r.now.Add(12 * time.Second) // the interval, and 15% of it
	r.Tick(r.s, r.now)
	if r.Limit() != 3 {
		t.Fatalf("the limit is %d while the latency is measured again, want 3", r.Limit())
	}
	r.serve(2, func(int64) time.Duration { return 20 * time.Millisecond })
	if got := r.MinRTT(); got < 19*time.Millisecond || got > 21*time.Millisecond || r.Limit() != before {
		t.Errorf("then it is %d, want %d; minimum round-trip time %s", r.Limit(), before, got)
	}
}

// At the least for five windows: what was measured no longer holds. What began before it
// is measured again says nothing of a server without load.
func TestLimitOfASlowServer(t *testing.T) {
	r := newLimitRig(mesh.AdaptiveConcurrency{MinRTTInterval: 24 * time.Hour, MinRTTRequests: 6})
	r.serve(20, func(int64) time.Duration { return 10 * time.Millisecond })
	r.Acquire()
	before := r.now
	r.serve(200, func(int64) time.Duration { return time.Second })
	if got := r.MinRTT(); got < 900*time.Millisecond {
		t.Errorf("minimum round-trip time %s after a server became slow for good", got)
	}
	r = newLimitRig(mesh.AdaptiveConcurrency{MinRTTRequests: 1})
	r.Acquire()
	r.Release(r.now.Add(-time.Second), r.now, true)
	if r.Tick(r.s, r.now.Add(time.Second)); r.MinRTT() != 0 {
		t.Errorf("a request from before %s counts", before)
	}
}

// What was learnt survives a change of policy, and what was taken is given back.
func TestLimitSurvives(t *testing.T) {
	r := newLimitRig(mesh.AdaptiveConcurrency{MinRTTInterval: time.Hour})
	r.serve(100, func(int64) time.Duration { return 10 * time.Millisecond })
	before, rtt := r.Limit(), r.MinRTT()
	r.Acquire()
	next := NewConcurrency(r.s, &mesh.AdaptiveConcurrency{Max: 20, MinRTTInterval: time.Hour}, r.now)
	if before <= 20 || next.Limit() != 20 || next.MinRTT() != rtt || next.Active() != 1 {
		t.Errorf("limit %d became %d, minimum %s became %s, %d active", before, next.Limit(), rtt, next.MinRTT(), next.Active())
	}
	r.Release(r.now, r.now, true)
	if next.Active() != 0 {
		t.Error("what another policy let in is not given back")
	}
}

func TestHistogram(t *testing.T) {
	for us := uint64(0); us < 1<<33; us += us/50 + 1 {
		i := bucket(us)
		if i < 0 || i >= 464 {
			t.Fatalf("%d µs are counted in bucket %d", us, i)
		}
		if got := float64(middle(i).Microseconds()); us < 1<<32 && math.Abs(got-float64(us)) > max(1, float64(us)*0.07) {
			t.Fatalf("%d µs are told as %v", us, got)
		}
	}
	var h histogram
	for i := range 1000 {
		h.add(time.Duration(i+1) * time.Millisecond)
	}
	for _, p := range []float64{50, 90, 99} {
		hh := &histogram{}
		for i := range h.n {
			hh.n[i].Store(h.n[i].Load())
		}
		want := p / 100 * 1000
		if got := float64(hh.percentile(p).Milliseconds()); math.Abs(got-want) > want*0.05 {
			t.Errorf("the %v. percentile of 1…1000 ms is %v ms", p, got)
		}
		if hh.count() != 0 {
			t.Error("it is not empty afterwards")
		}
	}
}

func TestLimitRaces(t *testing.T) {
	r := newLimitRig(mesh.AdaptiveConcurrency{SampleWindow: time.Millisecond, MinRTTRequests: 5})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 7))
			for i := range 5000 {
				if r.Acquire() {
					now := epoch.Add(time.Duration(i) * time.Microsecond)
					r.Release(now, now.Add(time.Duration(rnd.IntN(1000))*time.Microsecond), true)
				}
			}
		})
	}
	for i := range 2000 {
		r.Tick(r.s, epoch.Add(time.Duration(i)*time.Millisecond))
	}
	wg.Wait()
	if r.Active() != 0 {
		t.Errorf("%d are active in the end", r.Active())
	}
}

func BenchmarkConcurrency(b *testing.B) {
	r := newLimitRig(mesh.AdaptiveConcurrency{})
	b.ReportAllocs()
	for b.Loop() {
		if r.Acquire() {
			r.Release(r.now, r.now.Add(time.Millisecond), true)
		}
	}
}

func BenchmarkGauge(b *testing.B) {
	var g Gauge
	b.ReportAllocs()
	for b.Loop() {
		if g.Acquire(10) {
			g.Release()
		}
	}
}
