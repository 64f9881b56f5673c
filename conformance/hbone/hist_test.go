package hbone

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestHistogramCells(t *testing.T) {
	last := -1
	for _, v := range []uint64{0, 1, 127, 128, 255, 256, 257, 511, 512, 1 << 20, 1<<20 + 1<<14, 1 << 40, 1<<62 + 5} {
		i := cell(v)
		if i < last || i >= len(Histogram{}.cells) {
			t.Fatalf("cell(%d) = %d after %d: out of order or range", v, i, last)
		}
		last = i
		if up := upper(i); up < v || float64(up-v) > 0.01*float64(v)+1 {
			t.Errorf("upper(cell(%d)) = %d: not within 1%% above", v, up)
		}
	}
}

func TestHistogramQuantile(t *testing.T) {
	var a, b Histogram
	rnd := rand.New(rand.NewPCG(1, 2))
	var all []time.Duration
	for i := range 20000 {
		d := time.Duration(rnd.ExpFloat64() * float64(time.Millisecond))
		all = append(all, d)
		if i%2 == 0 {
			a.Add(d)
		} else {
			b.Add(d)
		}
	}
	a.Merge(&b)
	slices.Sort(all)
	for _, q := range []float64{0, 0.5, 0.99, 0.999, 1} {
		want := all[min(int(q*float64(len(all))), len(all)-1)]
		got := a.Quantile(q)
		if got < want || float64(got-want) > 0.01*float64(want)+1 {
			t.Errorf("Quantile(%v) = %v, want %v", q, got, want)
		}
	}
	if a.N() != 20000 || a.Max() != all[len(all)-1] {
		t.Errorf("N, Max = %d, %v, want 20000, %v", a.N(), a.Max(), all[len(all)-1])
	}
	if got := new(Histogram).Quantile(0.5); got != 0 {
		t.Errorf("empty Quantile = %v, want 0", got)
	}
}
