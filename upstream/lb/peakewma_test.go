package lb

import (
	"math"
	"testing"
	"time"
)

func TestLatency(t *testing.T) {
	const s = int64(time.Second)
	start := 1_800_000_000 * s
	for _, tt := range []struct {
		name     string
		observed []time.Duration // one each second
		after    time.Duration
		want     time.Duration
	}{
		{"nothing", nil, 0, 0},
		{"one", []time.Duration{50 * time.Millisecond}, 0, 50 * time.Millisecond},
		{"peak", []time.Duration{time.Millisecond, 80 * time.Millisecond}, 0, 80 * time.Millisecond},
		{"falls", []time.Duration{100 * time.Millisecond}, 10 * time.Second, 36788 * time.Microsecond},
		{"steady", []time.Duration{10e6, 10e6, 10e6, 10e6}, 0, 10 * time.Millisecond},
		{"recovers", append([]time.Duration{100e6}, make60(time.Millisecond)...), 0, 1245 * time.Microsecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var l Latency
			now := start
			for _, d := range tt.observed {
				l.Observe(d, now)
				now += s
			}
			if len(tt.observed) > 0 {
				now -= s
			}
			got := l.At(now + int64(tt.after))
			if diff := math.Abs(float64(got - tt.want)); diff > float64(tt.want)*0.01 {
				t.Errorf("latency %v, want %v", got, tt.want)
			}
		})
	}
}

func make60(d time.Duration) []time.Duration {
	out := make([]time.Duration, 60)
	for i := range out {
		out[i] = d
	}
	return out
}

// TestPeakEWMAPrefersFast: a host that is ten times as slow gets little, and is
// tried again when it has been quiet for a while.
func TestPeakEWMAPrefersFast(t *testing.T) {
	list, lat := hosts(1, 1, 1), latencies(3)
	p := NewPeakEWMA(list, lat)
	now := int64(1e18)
	rtt := []time.Duration{time.Millisecond, time.Millisecond, 10 * time.Millisecond}
	counts := make([]int, 3)
	run := func(n int) {
		clear(counts)
		for range n {
			i := p.Pick(Want{Now: now})
			counts[i]++
			lat[i].Observe(rtt[i], now)
			now += int64(time.Millisecond)
		}
	}
	run(3000)
	if counts[2] > 300 || counts[0] < 1000 || counts[1] < 1000 {
		t.Errorf("picks %v: the slow third should have few", counts)
	}
	rtt[2] = time.Millisecond
	now += int64(40 * time.Second)
	run(30000)
	if counts[2] < 5000 {
		t.Errorf("picks %v: the third is as fast as the others now", counts)
	}
	// Requests that do not end weigh too.
	list[0].Active.Store(50)
	list[1].Active.Store(50)
	clear(counts)
	for range 1000 {
		counts[p.Pick(Want{Now: now})]++
	}
	if counts[2] < 600 {
		t.Errorf("picks %v: the idle host should have most", counts)
	}
}

// A host that has never answered gets one request, and no more until it did.
func TestPeakEWMAUnknown(t *testing.T) {
	list, lat := hosts(1, 1), latencies(2)
	lat[0].Observe(20*time.Millisecond, 1e18)
	p := NewPeakEWMA(list, lat)
	for range 50 {
		if got := p.Pick(Want{Now: 1e18}); got != 1 {
			t.Fatalf("Pick = %d, want the one of which nothing is known", got)
		}
	}
	list[1].Active.Store(1)
	for range 50 {
		if got := p.Pick(Want{Now: 1e18}); got != 0 {
			t.Fatalf("Pick = %d, want the one that is known to answer", got)
		}
	}
}

func BenchmarkObserve(b *testing.B) {
	var l Latency
	b.ReportAllocs()
	now := int64(1e18)
	for b.Loop() {
		l.Observe(time.Millisecond, now)
		now += 1e6
	}
}
