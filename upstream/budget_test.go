package upstream

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

func TestBudgetOfActive(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, tc := range []struct {
		name   string
		p      mesh.RetryBudget
		active int
		want   int // retries that pass, of 100 at once
	}{
		{"minimum", mesh.RetryBudget{Percent: 20, MinConcurrency: 3}, 0, 3},
		{"percent", mesh.RetryBudget{Percent: 20, MinConcurrency: 3}, 100, 24}, // of 124, or 25 of 125: the 25th asks with 124
		{"nothing", mesh.RetryBudget{}, 100, 0},
		{"all", mesh.RetryBudget{Percent: 100}, 100, 100},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var b BudgetState
			for range tc.active {
				b.Begin(&tc.p, now)
			}
			got := 0
			for range 100 {
				if b.Retry(&tc.p, now) {
					got++
				}
			}
			if got != tc.want {
				t.Errorf("%d retries passed, want %d", got, tc.want)
			}
			if n := b.Refused(); n != uint64(100-got) {
				t.Errorf("%d refusals are counted, want %d", n, 100-got)
			}
			for range got {
				b.EndRetry()
			}
			for range tc.active {
				b.End()
			}
			if b.Active() != 0 || b.Retries() != 0 {
				t.Errorf("in the end %d are active and %d retries", b.Active(), b.Retries())
			}
		})
	}
}

// GEP-3388: 20% of the last 10 s, and ten retries a second whatever the load.
func TestBudgetOfAnInterval(t *testing.T) {
	p := &mesh.RetryBudget{Percent: 20, Interval: 10 * time.Second, MinRate: 10, MinRateInterval: time.Second}
	var b BudgetState
	now := time.Unix(1000, 0)
	ask := func(n int) (got int) {
		for range n {
			if b.Retry(p, now) {
				got++
				b.EndRetry()
			}
		}
		return got
	}
	if got := ask(50); got != 10 {
		t.Errorf("without load %d retries passed, want 10", got)
	}
	now = now.Add(2 * time.Second)
	if got := ask(50); got != 10 {
		t.Errorf("two seconds later %d retries passed, want 10", got)
	}
	now = now.Add(20 * time.Second)
	for range 1000 {
		b.Begin(p, now)
		b.End()
	}
	if got := ask(500); got != 200 {
		t.Errorf("after 1000 requests %d retries passed, want 200", got)
	}
	now = now.Add(5 * time.Second)
	if got := ask(500); got != 10 {
		t.Errorf("later in the interval %d retries passed, want 10", got)
	}
	now = now.Add(11 * time.Second)
	if got := ask(500); got != 10 {
		t.Errorf("after the interval %d retries passed, want 10", got)
	}
	// The policy is edited: what is under way stays counted, and the new bound holds at once.
	p = &mesh.RetryBudget{MinConcurrency: 2}
	if got := ask(5); got != 5 { // one at a time
		t.Errorf("%d retries passed, want 5", got)
	}
}

// However many ask at once, no more than the budget pass.
func TestBudgetIsStrict(t *testing.T) {
	p := &mesh.RetryBudget{Percent: 10, MinConcurrency: 5}
	var b BudgetState
	now := time.Unix(1000, 0)
	for range 100 {
		b.Begin(p, now)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, 2))
			held := 0
			for range 5000 {
				switch {
				case held > 0 && rng.IntN(2) == 0:
					held--
					b.EndRetry()
				case b.Retry(p, now):
					held++
					if n := b.Retries(); n > 12+8 { // 10% of 112, and those that are about to be refused
						t.Errorf("%d retries are under way", n)
					}
				}
			}
			for range held {
				b.EndRetry()
			}
		})
	}
	wg.Wait()
	if b.Retries() != 0 || b.Active() != 100 {
		t.Errorf("in the end %d retries and %d active", b.Retries(), b.Active())
	}
}

func BenchmarkBudget(b *testing.B) {
	now := time.Unix(1000, 0)
	for name, p := range map[string]*mesh.RetryBudget{
		"active":   {Percent: 20, MinConcurrency: 3},
		"interval": {Percent: 20, Interval: 10 * time.Second, MinRate: 10, MinRateInterval: time.Second},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var s BudgetState
			for b.Loop() {
				s.Begin(p, now)
				if s.Retry(p, now) {
					s.EndRetry()
				}
				s.End()
			}
		})
	}
}
