package telemetry

import (
	"math/bits"
	"sync/atomic"
)

// bounds are the upper bounds of all of Istio's HTTP histograms, be it
// milliseconds or bytes: Envoy's defaults.
var bounds = [...]float64{0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000}

// infinity is the index of the bucket above all bounds.
const infinity = len(bounds)

// scale finds the bucket of an integer: the bounds in integer units, and for
// each length in bits the first bucket that can hold such a value.
type scale struct {
	bounds [infinity]uint64
	first  [65]uint8
}

// durationScale is for nanoseconds, byteScale for bytes. They are constants.
var (
	durationScale = newScale(1e6)
	byteScale     = newScale(1)
)

func newScale(unit float64) *scale {
	s := new(scale)
	for i, b := range bounds {
		s.bounds[i] = uint64(b * unit) // half a byte is none
	}
	for n := range s.first {
		var least uint64 // with n bits
		if n > 0 {
			least = 1 << (n - 1)
		}
		i := 0
		for i < infinity && s.bounds[i] < least {
			i++
		}
		s.first[n] = uint8(i)
	}
	return s
}

// bucket is the index of the first bound that is at least v.
func (s *scale) bucket(v uint64) int {
	i := int(s.first[bits.Len64(v)])
	for i < infinity && v > s.bounds[i] {
		i++
	}
	return i
}

// histogram counts integers. Its count is the sum of its buckets, so that one
// observation is two additions.
type histogram struct {
	buckets [infinity + 1]atomic.Uint64
	sum     atomic.Uint64
}

func (h *histogram) observe(s *scale, v uint64) {
	h.buckets[s.bucket(v)].Add(1)
	h.sum.Add(v)
}

// read returns the cumulative counts, of which the last is the count of all,
// and the sum. They agree with each other even while observations go on, but
// for the sum, which may be ahead.
func (h *histogram) read() (cumulative [infinity + 1]uint64, sum uint64) {
	var n uint64
	for i := range h.buckets {
		n += h.buckets[i].Load()
		cumulative[i] = n
	}
	return cumulative, h.sum.Load()
}

// empty reports whether nothing was observed.
func (h *histogram) empty() bool {
	for i := range h.buckets {
		if h.buckets[i].Load() != 0 {
			return false
		}
	}
	return true
}
