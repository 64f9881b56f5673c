package upstream

import (
	"math/rand/v2"
	"time"

	"cairnproxy.dev/cairn/upstream/lb"
)

// Hint is what a request knows about which endpoint it wants. The zero Hint
// wants any.
type Hint struct {
	excluded [4]*Endpoint // the last one first
	// Wish is what few requests have; nil for none. Whoever wants no allocation
	// brings memory for it.
	Wish *Wish
}

// Wish is what a session or a policy makes a request ask for.
type Wish struct {
	wanted *Endpoint
	key    uint64
	now    int64
	keyed  bool
}

// Exclude asks for endpoints other than e, which did not work. The last four count.
func (h *Hint) Exclude(e *Endpoint) {
	copy(h.excluded[1:], h.excluded[:])
	h.excluded[0] = e
}

func (h *Hint) excludes(e *Endpoint) bool {
	for _, x := range h.excluded {
		if x == nil {
			return false
		}
		if x.Same(e) {
			return true
		}
	}
	return false
}

func (h *Hint) wish() *Wish {
	if h.Wish == nil {
		h.Wish = &Wish{}
	}
	return h.Wish
}

// Want asks for e, if it is healthy and works: the endpoint of a session.
func (h *Hint) Want(e *Endpoint) { h.wish().wanted = e }

// Wanted returns what Want was told, nil for nothing.
func (h *Hint) Wanted() *Endpoint {
	if h.Wish == nil {
		return nil
	}
	return h.Wish.wanted
}

// SetKey asks for the endpoint that key leads to, where the policy goes by keys.
func (h *Hint) SetKey(key uint64) { w := h.wish(); w.key, w.keyed = key, true }

// SetNow tells the time, where the policy goes by latencies.
func (h *Hint) SetNow(now time.Time) { h.wish().now = now.UnixNano() }

// Pick returns an endpoint, or nil when there is none to be had: the caller
// answers 503 with the flag UH. hint may be nil. When all endpoints are excluded, one of
// them is returned all the same.
func (c *Cluster) Pick(hint *Hint) *Endpoint {
	picker := *c.picker.Load()
	var w lb.Want
	keyed := false
	if hint != nil && hint.Wish != nil {
		wish := hint.Wish
		if e := wish.wanted; e != nil && c.has(e) && e.Healthy() && !hint.excludes(e) {
			return e
		}
		w, keyed = lb.Want{Key: wish.key, Now: wish.now}, wish.keyed
	}
	if c.asks&asksKey != 0 && !keyed {
		w.Key = rand.Uint64()
	}
	i := picker.Pick(w)
	if i < 0 {
		return nil
	}
	if hint == nil || !hint.excludes(c.endpoints[i]) {
		return c.endpoints[i]
	}
	return c.another(picker, w, hint, i)
}

// another returns an endpoint that hint does not exclude, if there is one. Which is
// the second for a key follows from the key, too.
func (c *Cluster) another(picker lb.Picker, w lb.Want, hint *Hint, i int) *Endpoint {
	for n := range uint64(3) {
		w.Key = lb.Mix(w.Key, n)
		if j := picker.Pick(w); !hint.excludes(c.endpoints[j]) {
			return c.endpoints[j]
		}
	}
	var second *Endpoint // of a level that takes nothing now
	level := c.levelOf(c.endpoints[i])
	for k := range c.endpoints {
		e := c.endpoints[(i+k)%len(c.endpoints)]
		if c.capacity(e) == 0 || !e.Available() || hint.excludes(e) {
			continue
		}
		if c.levelOf(e) == level {
			return e
		}
		if second == nil || c.levelOf(e) < c.levelOf(second) {
			second = e
		}
	}
	if second != nil {
		return second
	}
	return c.endpoints[i]
}

// Usable reports whether the cluster has any endpoint to pick now.
func (c *Cluster) Usable() bool { return (*c.picker.Load()).Pick(lb.Want{Key: rand.Uint64()}) >= 0 }

// has reports whether e is c's own.
func (c *Cluster) has(e *Endpoint) bool {
	return e.position < len(c.endpoints) && c.endpoints[e.position] == e
}

// Timed reports whether the cluster goes by latencies: then Observe is to be called,
// and Hint.SetNow before Pick.
func (c *Cluster) Timed() bool { return c.asks&asksTime != 0 }

// Observe tells how long e took to begin a response that came at now. It does
// nothing where the cluster does not go by that.
func (c *Cluster) Observe(e *Endpoint, took time.Duration, now time.Time) {
	if c.Timed() {
		e.live.latency.Observe(took, now.UnixNano())
	}
}

// failedTry is what a try without a response counts for: an endpoint that
// refuses at once must not look like the fastest.
const failedTry = time.Second

// ObserveFailure tells that e did not answer.
func (c *Cluster) ObserveFailure(e *Endpoint, took time.Duration, now time.Time) {
	c.Observe(e, max(took, failedTry), now)
}

// Split chooses among the backends of a rule by their weights.
type Split struct{ random *lb.Weighted }

// NewSplit makes a Split of backends with these weights.
func NewSplit(weights []uint32) *Split {
	hosts := make([]lb.Host, len(weights))
	for i, w := range weights {
		hosts[i].Weight = w
	}
	return &Split{lb.NewWeighted(hosts)}
}

// Pick returns the index of a backend, at random by weight; -1 when there is
// none, or when all weights are 0: the caller answers 500, as Gateway API asks.
func (s *Split) Pick() int { return s.random.Pick(lb.Want{}) }
