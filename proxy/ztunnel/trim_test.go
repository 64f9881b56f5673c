package ztunnel

import (
	"testing"
	"time"
)

func TestTrimmer(t *testing.T) {
	for _, test := range []struct {
		name    string
		conns   []int
		readers []int
		want    int // the look at which it trims; -1: never
	}{
		{"steady", []int{900, 900, 900, 900}, []int{900, 900, 900, 900}, -1},
		{"few", []int{200, 0, 0, 0}, []int{200, 0, 0, 0}, -1},
		{"closed", []int{0, 10000, 10, 0, 0}, []int{0, 0, 0, 0, 0}, 3},
		{"parked", []int{0, 1000, 1000, 1000}, []int{0, 1000, 0, 0}, 3},
		{"back-again", []int{1000, 100, 1000, 100, 1000}, []int{0, 0, 0, 0, 0}, -1},
		{"a-little-less", []int{10000, 6000, 6000, 6000}, []int{0, 0, 0, 0}, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			var tr trimmer
			got := -1
			for i := range test.conns {
				if tr.look(time.Unix(int64(i), 0), test.conns[i], test.readers[i]) {
					got = i
					break
				}
			}
			if got != test.want {
				t.Errorf("trims at look %d, want %d", got, test.want)
			}
		})
	}
}

// What is freed once is not freed again, and not before its cost is earned.
func TestTrimmerRests(t *testing.T) {
	tr := trimmer{not: time.Unix(10, 0)}
	for i, want := range []bool{false, false, false, true, false, false} {
		conns := 10
		if i == 0 {
			conns = 5000
		}
		if got := tr.look(time.Unix(int64(4*i), 0), conns, 0); got != want {
			t.Errorf("look %d: %v, want %v", i, got, want)
		}
	}
}
