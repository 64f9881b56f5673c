package lb

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// algorithms is every algorithm; all of them run the same tests.
var algorithms = []struct {
	name string
	make func([]Host) Picker
}{
	{"weighted", func(h []Host) Picker { return NewWeighted(h) }},
	{"round_robin", func(h []Host) Picker { return NewRoundRobin(h) }},
	{"least_request", func(h []Host) Picker { return NewLeastRequest(h) }},
	{"peak_ewma", func(h []Host) Picker { return NewPeakEWMA(h, latencies(len(h))) }},
	{"maglev", func(h []Host) Picker { return NewMaglev(h, keysOf(len(h)), 0) }},
	{"rendezvous", func(h []Host) Picker { return NewRendezvous(h, keysOf(len(h))) }},
	{"ring_hash", func(h []Host) Picker { return NewRingHash(h, keysOf(len(h)), 0, 0) }},
	{"lazy", func(h []Host) Picker { return NewLazy(func() Picker { return NewWeighted(h) }) }},
}

// exact are those whose picks are independent draws in proportion to the weights.
// The others have tests of their own for how near they come.
var exact = []string{"weighted", "round_robin", "least_request", "peak_ewma", "lazy"}

// anyone is what a request without a key wants.
func anyone() Want { return Want{Key: rand.Uint64()} }

func keysOf(n int) []uint64 {
	keys := make([]uint64, n)
	for i := range keys {
		keys[i] = Hash(fmt.Sprintf("Kubernetes//Pod/ns/web-%d", i))
	}
	return keys
}

func hosts(weights ...uint32) []Host {
	out := make([]Host, len(weights))
	for i, w := range weights {
		out[i] = Host{Weight: w, Active: new(atomic.Int64)}
	}
	return out
}

func same(n int, weight uint32) []uint32 {
	out := make([]uint32, n)
	for i := range out {
		out[i] = weight
	}
	return out
}

// within3Sigma checks counts of n independent draws against the weights. The
// bound is of each host by itself; z is raised a little with the number of hosts, so
// that a sound algorithm fails less than once in 10,000 runs.
func within3Sigma(t *testing.T, weights []uint32, counts []int64) {
	t.Helper()
	var total float64
	var n int64
	for i := range weights {
		total += float64(weights[i])
		n += counts[i]
	}
	z := 3 + math.Sqrt(2*math.Log(float64(len(weights))+1))/2 + 1
	for i, w := range weights {
		p := float64(w) / total
		want, sigma := float64(n)*p, math.Sqrt(float64(n)*p*(1-p))
		// Where hardly any pick is expected, sigma says too little: such counts
		// are Poisson's, and 10 more than expected is as rare as z sigma elsewhere.
		if d := math.Abs(float64(counts[i]) - want); d > z*sigma+10 {
			t.Errorf("host %d of weight %d: %d of %d picks, want %.0f ± %.0f", i, w, counts[i], n, want, z*sigma+10)
		}
	}
}

func TestDistribution(t *testing.T) {
	tests := []struct {
		name    string
		weights []uint32
	}{
		{"one", []uint32{7}},
		{"two", []uint32{1, 1}},
		{"equal", same(10, 3)},
		{"ninety_ten", []uint32{90, 10}},
		{"with_zero", []uint32{0, 5, 0, 1}},
		{"one_usable", []uint32{0, 5, 0}},
		{"skewed", append(same(20, 1), 50)},
		{"primes", []uint32{2, 3, 5, 7, 11, 13}},
		{"long_round", []uint32{1, 100003, 50021}},
		{"largest", []uint32{math.MaxUint32, math.MaxUint32 - 1, 1}},
	}
	const n = 60000
	for _, a := range algorithms {
		if !slices.Contains(exact, a.name) {
			continue
		}
		for _, tt := range tests {
			t.Run(a.name+"/"+tt.name, func(t *testing.T) {
				p := a.make(hosts(tt.weights...))
				counts := make([]int64, len(tt.weights))
				for range n {
					counts[p.Pick(anyone())]++
				}
				within3Sigma(t, tt.weights, counts)
			})
		}
	}
}

func TestNoHost(t *testing.T) {
	for _, a := range algorithms {
		for _, weights := range [][]uint32{nil, {}, {0}, {0, 0, 0}} {
			if got := a.make(hosts(weights...)).Pick(anyone()); got != -1 {
				t.Errorf("%s of %v: Pick = %d, want -1", a.name, weights, got)
			}
		}
	}
}

func TestConcurrent(t *testing.T) {
	weights := []uint32{4, 2, 1, 0}
	const workers, each = 8, 5000
	for _, a := range algorithms {
		t.Run(a.name, func(t *testing.T) {
			list := hosts(weights...)
			p := a.make(list)
			counts := make([]int64, len(weights))
			var wg sync.WaitGroup
			for range workers {
				wg.Go(func() {
					for range each {
						i := p.Pick(anyone())
						list[i].Active.Add(1)
						atomic.AddInt64(&counts[i], 1)
						list[i].Active.Add(-1)
					}
				})
			}
			wg.Wait()
			var sum int64
			for _, c := range counts {
				sum += c
			}
			if sum != workers*each || counts[3] != 0 || counts[0] == 0 || counts[1] == 0 || counts[2] == 0 {
				t.Errorf("counts = %v", counts)
			}
		})
	}
}

func TestRoundRobinTurns(t *testing.T) {
	tests := []struct {
		name    string
		weights []uint32
		round   int
	}{
		{"equal", []uint32{9, 9, 9}, 3},
		{"smooth", []uint32{5, 1, 1}, 7},
		{"divided", []uint32{900, 100}, 10},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := NewRoundRobin(hosts(tt.weights...))
			if len(r.round) != tt.round {
				t.Fatalf("a round has %d picks, want %d", len(r.round), tt.round)
			}
			var total uint32
			for _, w := range tt.weights {
				total += w
			}
			counts := make([]uint32, len(tt.weights))
			for range tt.round {
				counts[r.Pick(Want{})]++
			}
			for i, w := range tt.weights {
				if want := w * uint32(tt.round) / total; counts[i] != want {
					t.Errorf("host %d has %d turns in a round, want %d", i, counts[i], want)
				}
			}
		})
	}
	if got := fmt.Sprint(NewRoundRobin(hosts(5, 1, 1)).round); got != "[0 0 1 0 2 0 0]" {
		t.Errorf("the round of {5 1 1} is %s, want it spread out", got)
	}
}

func TestLeastRequestPrefersIdle(t *testing.T) {
	list := hosts(1, 1)
	list[0].Active.Store(3)
	l := NewLeastRequest(list)
	for range 100 {
		if got := l.Pick(Want{}); got != 1 {
			t.Fatalf("Pick = %d, want the idle one of two", got)
		}
	}
	// With weights, what counts is requests per weight: 8/4 against 1/1.
	list = hosts(4, 1)
	list[0].Active.Store(8)
	list[1].Active.Store(1)
	l = NewLeastRequest(list)
	light := 0
	for range 10000 {
		light += l.Pick(Want{})
	}
	// The light one wins whenever it is one of the two: 1 - 0.8² = 36 %.
	if light < 3300 || light > 3900 {
		t.Errorf("the light host got %d of 10000 picks, want about 3600", light)
	}
}

// TestLeastRequestBalances: with requests that never end, all hosts fill up alike.
func TestLeastRequestBalances(t *testing.T) {
	list := hosts(same(10, 1)...)
	l := NewLeastRequest(list)
	for range 10000 {
		list[l.Pick(Want{})].Active.Add(1)
	}
	for i := range list {
		if n := list[i].Active.Load(); n < 990 || n > 1010 {
			t.Errorf("host %d has %d requests in flight, want about 1000", i, n)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	for _, a := range algorithms {
		p := a.make(hosts(3, 2, 1))
		if n := testing.AllocsPerRun(100, func() { p.Pick(anyone()) }); n != 0 {
			t.Errorf("%s: Pick allocates %v times, want 0", a.name, n)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, a := range algorithms {
		for name, weights := range map[string][]uint32{"equal": same(10, 1), "weights": {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}} {
			b.Run(a.name+"/"+name, func(b *testing.B) {
				p := a.make(hosts(weights...))
				b.ReportAllocs()
				for b.Loop() {
					p.Pick(anyone())
				}
			})
		}
	}
}

func BenchmarkPickParallel(b *testing.B) {
	for _, a := range algorithms {
		b.Run(a.name, func(b *testing.B) {
			p := a.make(hosts(same(10, 1)...))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					p.Pick(anyone())
				}
			})
		})
	}
}

func latencies(n int) []*Latency {
	out := make([]*Latency, n)
	for i := range out {
		out[i] = new(Latency)
	}
	return out
}
