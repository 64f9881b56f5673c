package hbone

import (
	"math/bits"
	"time"
)

// subBits is the precision of a Histogram: 2^subBits cells per power of two,
// so a value is known to better than 1%.
const subBits = 7

// A Histogram counts durations in log-linear cells, in the manner of HDR
// histograms: constant memory, better than 1% precision, no allocation.
// The zero value is empty and ready. It is not safe for concurrent use.
type Histogram struct {
	cells [64 << subBits]uint64
	n     uint64
	max   time.Duration
}

// Add counts one duration; a negative one counts as zero.
func (h *Histogram) Add(d time.Duration) {
	d = max(d, 0)
	h.cells[cell(uint64(d))]++
	h.n++
	h.max = max(h.max, d)
}

// Merge adds what o holds.
func (h *Histogram) Merge(o *Histogram) {
	for i, n := range o.cells {
		h.cells[i] += n
	}
	h.n += o.n
	h.max = max(h.max, o.max)
}

// N returns how many durations were counted.
func (h *Histogram) N() uint64 { return h.n }

// Max returns the largest duration counted, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Quantile returns the duration that the fraction q (0 to 1) of all values do
// not exceed, to the histogram's precision; 0 when it is empty.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := min(uint64(q*float64(h.n)), h.n-1)
	var seen uint64
	for i, n := range h.cells {
		if seen += n; seen > rank {
			return min(time.Duration(upper(i)), h.max)
		}
	}
	return h.max
}

// cell maps a value to its index: the values below 2^subBits one by one, then
// 2^subBits cells for each further power of two.
func cell(v uint64) int {
	shift := bits.Len64(v) - subBits - 1
	if shift <= 0 {
		return int(v)
	}
	return shift<<subBits + int(v>>shift)
}

// upper returns the largest value of the cell.
func upper(i int) uint64 {
	shift := i>>subBits - 1
	if shift <= 0 {
		return uint64(i)
	}
	return (uint64(i)-uint64(shift)<<subBits+1)<<shift - 1
}
