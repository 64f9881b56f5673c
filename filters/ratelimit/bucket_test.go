package ratelimit

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"golang.org/x/time/rate"
)

func shapeOf(requests uint64, per time.Duration, burst uint64) *shape {
	return newShape(&mesh.LocalLimit{Requests: requests, Per: per, Burst: burst})
}

func TestBucket(t *testing.T) {
	type ask struct {
		at   time.Duration
		n    uint64
		want taken
	}
	const s, ms = time.Second, time.Millisecond
	tests := []struct {
		name  string
		shape *shape
		asks  []ask
	}{
		{"per_second", shapeOf(2, s, 0), []ask{
			{0, 1, taken{true, 1, 500 * ms, 0}},
			{0, 1, taken{true, 0, s, 0}},
			{0, 1, taken{false, 0, s, 500 * ms}},
			{499 * ms, 1, taken{false, 0, 501 * ms, ms}},
			{500 * ms, 1, taken{true, 0, s, 0}},
			{5 * s, 0, taken{true, 2, 0, 0}},
		}},
		{"burst", shapeOf(1, s, 3), []ask{
			{0, 3, taken{true, 0, 3 * s, 0}}, {s, 2, taken{false, 1, 2 * s, s}}, {2 * s, 2, taken{true, 0, 3 * s, 0}},
		}},
		{"small_burst", shapeOf(100, s, 1), []ask{
			{0, 1, taken{true, 0, 10 * ms, 0}}, {9 * ms, 1, taken{false, 0, ms, ms}}, {10 * ms, 1, taken{true, 0, 10 * ms, 0}},
		}},
		{"never", shapeOf(5, s, 0), []ask{{0, 6, taken{false, 5, 0, -1}}, {0, 5, taken{true, 0, s, 0}}}},
		{"free", shapeOf(1, s, 0), []ask{{0, 1, taken{true, 0, s, 0}}, {0, 0, taken{true, 0, s, 0}}}},
		{"slow", shapeOf(1, 1<<51, 1000), []ask{{0, 1000, taken{true, 0, 1000 << 51, 0}}, {0, 1, taken{false, 0, 1000 << 51, 1 << 51}}}},
		{"no_numbers", newShape(&mesh.LocalLimit{}), []ask{{0, 1, taken{true, 0, s, 0}}, {0, 1, taken{false, 0, s, s}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b bucket
			for i, a := range tt.asks {
				if got := b.take(tt.shape, a.at, a.n); got != a.want {
					t.Errorf("ask %d: take(%v, %d) = %+v, want %+v", i, a.at, a.n, got, a.want)
				}
			}
		})
	}
}

// TestBucketIsATokenBucket compares with the naive one over random traffic.
func TestBucketIsATokenBucket(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		per, requests, burst := time.Duration(1+r.IntN(1000))*time.Millisecond, 1+r.Uint64N(50), 1+r.Uint64N(20)
		s := shapeOf(requests, per, burst)
		var b bucket
		tokens, last, now := float64(burst), time.Duration(0), time.Duration(0)
		for range 300 {
			now += time.Duration(r.ExpFloat64() * float64(per) / float64(requests))
			tokens = min(float64(burst), tokens+float64(now-last)/float64(per)*float64(requests))
			last = now
			n := r.Uint64N(3)
			got := b.take(s, now, n)
			if near := tokens - float64(n); near > -1e-3 && near < 1e-3 && n > 0 {
				break // too near to tell for floats
			}
			if want := tokens >= float64(n) || n == 0; got.ok != want {
				t.Fatalf("%d in %v, burst %d: at %v take(%d) = %v with %v tokens", requests, per, burst, now, n, got.ok, tokens)
			}
			if got.ok {
				tokens -= float64(n)
			}
		}
	}
}

func TestHighRates(t *testing.T) {
	for _, requests := range []uint64{1_000, 1_000_000, 50_000_000} {
		s := shapeOf(requests, time.Second, 1000)
		var b bucket
		passed := 0
		for now := time.Duration(0); now < 10*time.Millisecond; now += 200 * time.Nanosecond {
			for range 20 {
				if b.take(s, now, 1).ok {
					passed++
				}
			}
		}
		want := min(float64(requests)/100+1000, 50_000*20)
		if got := float64(passed); got < want*0.99 || got > want*1.03 {
			t.Errorf("%d/s: %v passed in 10 ms, want %v", requests, got, want)
		}
	}
}

func TestConcurrentTakes(t *testing.T) {
	s := shapeOf(1, time.Hour, 1000)
	k := newKeyed(0)
	var b bucket
	var passed, keyedPassed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if b.take(s, 0, 1).ok {
					passed.Add(1)
				}
				if k.take(s, 0, k.hash("a"), 1).ok {
					keyedPassed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if passed.Load() != 1000 || keyedPassed.Load() != 1000 {
		t.Errorf("%d and %d passed, want 1000", passed.Load(), keyedPassed.Load())
	}
}

func TestReshape(t *testing.T) {
	tests := []struct {
		name     string
		old, new *shape
		used     uint64
		left     uint64
	}{
		{"same", shapeOf(10, time.Second, 0), shapeOf(10, time.Second, 0), 4, 6},
		{"faster", shapeOf(10, time.Second, 10), shapeOf(100, time.Second, 10), 4, 6},
		{"slower", shapeOf(100, time.Second, 10), shapeOf(1, time.Minute, 10), 4, 6},
		{"larger", shapeOf(10, time.Second, 10), shapeOf(10, time.Second, 20), 10, 10},
		{"smaller", shapeOf(10, time.Second, 10), shapeOf(10, time.Second, 3), 5, 0},
		{"unused", shapeOf(10, time.Second, 10), shapeOf(10, time.Second, 3), 0, 3},
		{"another_scale", shapeOf(10, time.Second, 10), shapeOf(1, 1000*time.Hour, 1_000_000), 10, 999_990},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			const now = time.Hour
			var b bucket
			b.take(tt.old, now, tt.used)
			b.full.Store(tt.new.reshape(tt.old, b.full.Load(), now))
			if got := b.take(tt.new, now, 0).left; got != tt.left {
				t.Errorf("%d left, want %d", got, tt.left)
			}
		})
	}
}

func TestKeysAreBounded(t *testing.T) {
	s := shapeOf(1, time.Hour, 0)
	for _, maximum := range []int{1, 10, 1000, 10_000} {
		k := newKeyed(maximum)
		if !k.take(s, 0, k.hash("mine"), 1).ok || k.take(s, 0, k.hash("mine"), 1).ok {
			t.Fatal("one key: not one of two passed")
		}
		for i := range 3 * maximum {
			k.take(s, 0, k.hash(fmt.Sprint(i)), 1)
		}
		if got := k.len(); got > maximum+len(k.shards) || got < maximum {
			t.Errorf("%d keys are kept, want %d", got, maximum)
		}
	}
	// What has filled up again goes first, what is in use stays.
	k := newKeyed(100)
	fast := shapeOf(1, time.Millisecond, 0)
	k.take(s, 0, k.hash("busy"), 1)
	for i := range 99 {
		k.take(fast, 0, k.hash(fmt.Sprint(i)), 1)
	}
	for i := range 99 {
		k.take(fast, time.Second, k.hash(fmt.Sprint("new", i)), 1)
	}
	if k.take(s, time.Second, k.hash("busy"), 1).ok {
		t.Error("the bucket that was empty was forgotten before those that were full")
	}
}

func TestQuotaText(t *testing.T) {
	for want, s := range map[string]*shape{
		"10, 10;w=1":            shapeOf(10, time.Second, 0),
		"20, 10;w=60;burst=20":  shapeOf(10, time.Minute, 20),
		"5, 5;w=1":              shapeOf(5, 500*time.Millisecond, 0),
		"1, 100;w=3600;burst=1": shapeOf(100, time.Hour, 1),
	} {
		if s.quota != want {
			t.Errorf("quota %q, want %q", s.quota, want)
		}
	}
}

// BenchmarkBucket is where it was decided: one atomic number against x/time/rate's
// lock, when all processors ask.
func BenchmarkBucket(b *testing.B) {
	epoch := time.Now()
	b.Run("gcra", func(b *testing.B) {
		s := shapeOf(1000, time.Second, 100)
		var bu bucket
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			now := time.Duration(0)
			for pb.Next() {
				now += 100
				bu.take(s, now, 1)
			}
		})
	})
	b.Run("xtimerate", func(b *testing.B) {
		l := rate.NewLimiter(1000, 100)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			now := epoch
			for pb.Next() {
				now = now.Add(100)
				l.AllowN(now, 1)
			}
		})
	})
	b.Run("gcra_passing", func(b *testing.B) {
		s := shapeOf(1_000_000_000, time.Second, 1_000_000_000)
		var bu bucket
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			now := time.Duration(0)
			for pb.Next() {
				now += 100
				bu.take(s, now, 1)
			}
		})
	})
	b.Run("xtimerate_passing", func(b *testing.B) {
		l := rate.NewLimiter(1_000_000_000, 1_000_000_000)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			now := epoch
			for pb.Next() {
				now = now.Add(100)
				l.AllowN(now, 1)
			}
		})
	})
	b.Run("keyed", func(b *testing.B) {
		s := shapeOf(1000, time.Second, 100)
		k := newKeyed(0)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
			for i := 0; pb.Next(); i++ {
				k.take(s, time.Duration(i)*100, k.hash(names[i&7]), 1)
			}
		})
	})
}
