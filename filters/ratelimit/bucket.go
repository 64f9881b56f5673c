package ratelimit

import (
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// shape is what a bucket looks like: how fast it fills, and how much it holds.
//
// Buckets are kept as the generic cell rate algorithm does (GCRA, ITU-T I.371): one
// number, the time at which the bucket will be full again. A token moves it by step; it may lie
// at most span ahead of now. That is a token bucket without its two numbers that had to
// change together, so that one compare-and-swap takes a token and no lock is needed.
//
// Times are since the registry's epoch, in units of 1/64 ns, so that even steps of some nanoseconds are
// kept with precision; in ns or in about a millisecond where the span would have no room otherwise.
type shape struct {
	requests, burst uint64
	per             time.Duration
	shift           int8 // units per nanosecond, as a power of two
	step, span      int64
	// quota is the value of RateLimit-Limit.
	quota string
}

// maxSpan leaves room for the time of the proxy: in 1/64 ns that is four years.
const maxSpan = 1 << 60

// newShape is for a limit whose numbers are sound; what is out of range is brought into it.
func newShape(l *mesh.LocalLimit) *shape {
	s := &shape{requests: max(l.Requests, 1), burst: l.Burst, per: l.Per}
	if s.burst == 0 {
		s.burst = s.requests
	}
	if s.per <= 0 {
		s.per = time.Second
	}
	each := 0.0
	for _, s.shift = range [...]int8{6, 0, -20} {
		each = math.Ldexp(float64(s.per)/float64(s.requests), int(s.shift))
		if each*float64(s.burst) < maxSpan {
			break
		}
	}
	s.step = max(int64(math.Round(each)), 1)
	s.burst = min(s.burst, uint64(maxSpan/s.step))
	s.span = s.step * int64(s.burst)
	s.quota = s.describe()
	return s
}

// describe is RateLimit-Limit as section 3.1 of draft-ietf-httpapi-ratelimit-headers-03 has
// it: what one may hope for at most, then the policy.
func (s *shape) describe() string {
	b := strconv.AppendUint(nil, s.burst, 10)
	b = append(b, ", "...)
	b = strconv.AppendUint(b, s.requests, 10)
	b = append(b, ";w="...)
	b = strconv.AppendUint(b, seconds(s.per), 10)
	if s.burst != s.requests {
		b = append(b, ";burst="...)
		b = strconv.AppendUint(b, s.burst, 10)
	}
	return string(b)
}

// seconds is d in whole seconds, rounded up.
func seconds(d time.Duration) uint64 {
	if d <= 0 {
		return 0
	}
	return uint64((d + time.Second - 1) / time.Second)
}

func (s *shape) at(now time.Duration) int64 {
	if s.shift < 0 {
		return int64(now) >> -s.shift
	}
	return int64(now) << s.shift
}

func (s *shape) duration(n int64) time.Duration {
	if s.shift < 0 {
		return time.Duration(min(n, math.MaxInt64>>-s.shift) << -s.shift)
	}
	return time.Duration(n >> s.shift)
}

// taken is what became of a request for tokens.
type taken struct {
	ok bool
	// left tokens, and reset until the bucket is full.
	left  uint64
	reset time.Duration
	// retry is, where not ok, after how long there would be enough; -1 for never.
	retry time.Duration
}

// next is where full moves when n tokens are taken at now, if that is allowed.
func (s *shape) next(full, now int64, n uint64) (int64, bool) {
	full = max(full, now)
	if n > s.burst {
		return full, false
	}
	next := full + int64(n)*s.step
	if next-now > s.span {
		return full, false
	}
	return next, true
}

// tell describes the bucket after next has said ok for n tokens.
func (s *shape) tell(full, now int64, n uint64, ok bool) taken {
	t := taken{ok: ok, reset: s.duration(full - now)}
	if room := s.span - (full - now); room > 0 {
		t.left = uint64(room / s.step)
	}
	switch {
	case ok:
	case n > s.burst:
		t.retry = -1
	default:
		t.retry = max(s.duration(full+int64(n)*s.step-s.span-now), 1)
	}
	return t
}

// bucket is one bucket. The zero bucket is full. Its methods may be called from any goroutine.
type bucket struct{ full atomic.Int64 }

func (b *bucket) take(s *shape, now time.Duration, n uint64) taken {
	at := s.at(now)
	for {
		old := b.full.Load()
		next, ok := s.next(old, at, n)
		if !ok || n == 0 || b.full.CompareAndSwap(old, next) {
			return s.tell(next, at, n, ok)
		}
	}
}

// giveBack undoes a take.
func (b *bucket) giveBack(s *shape, n uint64) { b.full.Add(-int64(n) * s.step) }

// reshape makes of a bucket of shape old one of shape s from which as many tokens are missing.
func (s *shape) reshape(old *shape, full int64, now time.Duration) int64 {
	missing := float64(full-old.at(now)) / float64(old.step)
	if missing <= 0 {
		return s.at(now)
	}
	return s.at(now) + int64(min(missing*float64(s.step), float64(s.span)))
}
