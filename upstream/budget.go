package upstream

import (
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// BudgetState is what a retry budget counts of a cluster: the live part of a
// mesh.RetryBudget. The policy is passed in with each question, so that an edit of it
// holds at once and finds the counts. Time is passed in, too. The zero BudgetState is ready;
// it is safe for concurrent use and takes no lock.
//
// Without an interval it is Envoy's budget: retries under way may be so many percent of all
// requests under way. With one it is that of GEP-3388: the retries of the interval may be so
// many percent of the requests of the interval, themselves not counted. MinConcurrency and
// MinRate pass in either case.
type BudgetState struct {
	active   atomic.Int64 // tries under way, retries among them
	retries  atomic.Int64 // retries and hedges under way
	requests sliding      // first tries
	retried  sliding      // retries and hedges, within Interval
	minimum  sliding      // likewise, within MinRateInterval
	refused  atomic.Uint64
}

// Begin counts the first try of a request. End must follow.
func (b *BudgetState) Begin(p *mesh.RetryBudget, now time.Time) {
	b.active.Add(1)
	if p.Interval > 0 {
		b.requests.add(now, p.Interval, 1)
	}
}

// End ends what Begin began.
func (b *BudgetState) End() { b.active.Add(-1) }

// Retry asks whether one more retry may go out, and counts it if so: EndRetry
// must follow.
func (b *BudgetState) Retry(p *mesh.RetryBudget, now time.Time) bool {
	inFlight := b.retries.Add(1)
	if b.within(p, now, inFlight) {
		b.active.Add(1)
		return true
	}
	b.retries.Add(-1)
	b.refused.Add(1)
	return false
}

// within decides about the retry that is number inFlight of those under way, and counts it.
func (b *BudgetState) within(p *mesh.RetryBudget, now time.Time, inFlight int64) bool {
	every := p.Interval > 0
	minRate := p.MinRate > 0 && p.MinRateInterval > 0
	// Counted first and taken back if it is one too many: of two that ask at once not
	// both get the last place.
	if every {
		b.retried.add(now, p.Interval, 1)
	}
	if minRate {
		b.minimum.add(now, p.MinRateInterval, 1)
	}
	switch {
	case inFlight <= int64(p.MinConcurrency):
		return true
	case minRate && b.minimum.sum(now, p.MinRateInterval) <= int64(p.MinRate):
		return true
	case every && float64(b.retried.sum(now, p.Interval)) <= p.Percent/100*float64(b.requests.sum(now, p.Interval)):
		return true
	case !every && float64(inFlight) <= p.Percent/100*float64(b.active.Load()):
		return true
	}
	if every {
		b.retried.add(now, p.Interval, -1)
	}
	if minRate {
		b.minimum.add(now, p.MinRateInterval, -1)
	}
	return false
}

// EndRetry ends what Retry began.
func (b *BudgetState) EndRetry() {
	b.retries.Add(-1)
	b.active.Add(-1)
}

// Active, Retries and Refused are the requests under way, the retries among them,
// and how many retries were refused so far.
func (b *BudgetState) Active() int64   { return b.active.Load() }
func (b *BudgetState) Retries() int64  { return b.retries.Load() }
func (b *BudgetState) Refused() uint64 { return b.refused.Load() }

// sliding counts what happened in the last interval, in steps of a tenth of it. A slot is
// one step: which one in its upper half, how many in its lower. A slot of long ago
// counts as empty, and so does what was counted by another interval.
type sliding struct{ slots [slidingSlots]atomic.Uint64 }

const slidingSlots = 10

func step(now time.Time, interval time.Duration) uint32 {
	return uint32(now.UnixNano() / max(1, int64(interval)/slidingSlots))
}

func (w *sliding) add(now time.Time, interval time.Duration, n int32) {
	at := step(now, interval)
	s := &w.slots[at%slidingSlots]
	for {
		old := s.Load()
		count := int32(0)
		if uint32(old>>32) == at {
			count = int32(uint32(old))
		}
		if s.CompareAndSwap(old, uint64(at)<<32|uint64(uint32(max(0, count+n)))) {
			return
		}
	}
}

func (w *sliding) sum(now time.Time, interval time.Duration) (n int64) {
	at := step(now, interval)
	for i := range w.slots {
		if v := w.slots[i].Load(); at-uint32(v>>32) < slidingSlots {
			n += int64(int32(uint32(v)))
		}
	}
	return n
}
