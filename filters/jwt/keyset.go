package jwt

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"cairnproxy.dev/cairn/filters"
)

const (
	// refreshEvery is how old fetched keys get, and rereadEvery those of a file.
	refreshEvery, rereadEvery = 20 * time.Minute, 10 * time.Second
	// unknownEvery bounds how often tokens with unknown keys have keys fetched: anybody can make such tokens.
	unknownEvery, unknownEveryFile = 5 * time.Second, time.Second
	// youngest is how old keys must be for others to be looked for.
	youngest = time.Second
	// What failed is tried again after retryFirst, then after twice as long each time up to retryMost.
	retryFirst, retryMost = time.Second, 30 * time.Second
	// defaultTimeout is Istio's.
	defaultTimeout = 5 * time.Second
	// maxWaiting bounds the requests that wait for one key set.
	maxWaiting = 1024
)

// keySet is the keys of an issuer: those that are in force, and how to get others. All rules that
// get them from the same place share it.
type keySet struct {
	r       *Registry
	from    origin
	timeout time.Duration
	counts  *fetchTotals         // nil for keys in the rule
	current atomic.Pointer[keys] // nil: there are none

	mu       sync.Mutex
	fetching bool
	waiting  []func() // what goes on when the fetch has ended
	fetched  time.Time
	changed  time.Time // when the keys in force came
	asked    time.Time // when an unknown key was looked for last
	err      error     // of the last fetch
	failures int       // in a row
	next     *time.Timer
}

// newKeySet returns the keys from there. Those that are not in the rule are fetched when the first request asks
// for them, or by start.
func newKeySet(r *Registry, from origin, timeout time.Duration) *keySet {
	k := &keySet{r: r, from: from, timeout: timeout}
	if from.inline != "" {
		k.take([]byte(from.inline), nil, time.Now())
		return k
	}
	k.counts = r.fetchCounts(from)
	return k
}

// start begins the first fetch, in a goroutine. One that failed is tried once more: it may
// have been the configuration of before that knew no way.
func (k *keySet) start(now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.from.inline != "":
	case k.err == nil && k.fetched.IsZero():
		k.fetch()
	case k.err != nil && now.Sub(k.asked) >= unknownEvery:
		k.asked = now
		k.fetch()
	}
}

// join makes the exchange wait for a fetch that is under way, or for one that begins now because
// a token names an unknown key; it reports false when there is nothing to wait for. then is what the exchange
// goes on with.
func (k *keySet) join(x *filters.Exchange, then func(*filters.Exchange) filters.Result) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.fetching && !k.ask(x.Now) || len(k.waiting) >= maxWaiting {
		return false
	}
	resume := x.Await(nil)
	k.waiting = append(k.waiting, func() { resume(then) })
	return true
}

// ask begins a fetch for an unknown key, unless one was looked for just now, or the last fetch failed: then the
// timer has it. k is locked.
func (k *keySet) ask(now time.Time) bool {
	every := unknownEvery
	if k.from.isFile() {
		every = unknownEveryFile
	}
	if k.from.inline != "" || k.err != nil || now.Sub(k.asked) < every || now.Sub(k.fetched) < youngest {
		return false
	}
	k.asked = now
	return k.fetch()
}

// fetch begins a fetch, unless the registry is closed. k is locked, and no other is under way.
func (k *keySet) fetch() bool {
	if k.fetching || !k.r.begin() {
		return false
	}
	k.fetching = true
	go func() {
		defer k.r.fetches.Done()
		ctx, cancel := context.WithTimeout(k.r.ctx, k.timeout)
		defer cancel()
		text, err := k.from.get(ctx, k.r.client)
		for _, goOn := range k.take(text, err, time.Now()) {
			goOn()
		}
	}()
	return true
}

// take ends a fetch, and returns what waits for it.
func (k *keySet) take(text []byte, err error, now time.Time) (waiting []func()) {
	var next *keys
	if err == nil {
		next, err = parseKeys(text)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	waiting, k.waiting, k.fetching = k.waiting, nil, false
	k.r.told(k, err)
	k.err = err
	if err != nil {
		k.count(err, false)
		k.failures++
		k.later(min(retryFirst<<min(k.failures-1, 10), retryMost))
		return waiting
	}
	k.failures, k.fetched = 0, now
	old := k.current.Load()
	changed := old == nil || old.sum != next.sum
	if changed { // the same text keeps what was verified
		k.current.Store(next)
		k.changed = now
	}
	k.count(nil, changed)
	every := refreshEvery
	if k.from.isFile() {
		every = rereadEvery
	}
	k.later(every)
	return waiting
}

func (k *keySet) count(err error, changed bool) {
	switch c := k.counts; {
	case c == nil:
	case err != nil:
		c.failed.Inc()
	case changed:
		c.changed.Inc()
	default:
		c.same.Inc()
	}
}

// later fetches again in about d, if the keys are still in use then.
func (k *keySet) later(d time.Duration) {
	if k.from.inline != "" {
		return
	}
	if k.next != nil {
		k.next.Stop() // a fetch came in between: one timer is enough
	}
	w := weak.Make(k)
	k.next = time.AfterFunc(d-d/20+rand.N(d/10), func() {
		if k := w.Value(); k != nil {
			k.mu.Lock()
			defer k.mu.Unlock()
			if k.fetching || k.err == nil && time.Since(k.fetched) < d/2 { // one for an unknown key came in between
				return
			}
			k.fetch()
		}
	})
}

// State is what is known of an issuer's keys, for dumps.
type State struct {
	Issuer string `json:"issuer"`
	// Keys is where they come from, KeyIDs what they are called.
	Keys   string   `json:"keys"`
	KeyIDs []string `json:"keyIds,omitempty"`
	// Fetched is when they were read last, Changed when they were not what they had been before.
	Fetched time.Time `json:"fetched,omitzero"`
	Changed time.Time `json:"changed,omitzero"`
	// Age is the time since Fetched, in words.
	Age string `json:"age,omitempty"`
	// Error is why the last attempt to read them failed; the keys of before are used on.
	Error string `json:"error,omitempty"`
}

func (k *keySet) state(issuer string) State {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := State{Issuer: issuer, Keys: k.from.String(), Fetched: k.fetched, Changed: k.changed}
	if ks := k.current.Load(); ks != nil {
		s.KeyIDs = ks.ids()
	}
	if !k.fetched.IsZero() {
		s.Age = time.Since(k.fetched).Round(time.Second).String()
	}
	switch {
	case k.err != nil:
		s.Error = k.err.Error()
	case len(s.KeyIDs) == 0:
		s.Error = "they are being fetched"
	}
	return s
}
