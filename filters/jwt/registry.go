package jwt

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"
	"weak"

	"cairnproxy.dev/cairn/mesh"
)

// Registry holds keys and verified tokens over all configurations of one proxy: a policy that
// changes goes on with the keys of the one before. What no configuration uses any more is let go with
// it. Its methods may be called from any goroutine.
type Registry struct {
	client   *http.Client
	log      *slog.Logger
	counters Counters
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc

	mu        sync.Mutex
	sets      map[origin]weak.Pointer[keySet]
	verifiers map[string]weak.Pointer[verifier] // by their rule
	totals    *totals                           // made with the first verifier
	counted   map[string]*fetchTotals
	closed    bool
	fetches   sync.WaitGroup
}

// Options configures a Registry. All of it may be left out.
type Options struct {
	// Mesh is the way to keys at a Service of the mesh; nil for a proxy that knows none.
	Mesh Mesh
	// Transport is the way to all others; nil for net/http's without a proxy.
	Transport http.RoundTripper
	// Counters makes series; nil counts nothing.
	Counters Counters
	// Log is told of keys that cannot be fetched.
	Log *slog.Logger
}

// NewRegistry returns an empty registry.
func NewRegistry(o Options) *Registry {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Registry{
		client: newClient(o.Mesh, o.Transport), log: o.Log, counters: o.Counters, counted: map[string]*fetchTotals{},
		sets: map[origin]weak.Pointer[keySet]{}, verifiers: map[string]weak.Pointer[verifier]{},
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Fetch begins to fetch the keys of rules that are new, and those that could not be: call it when a
// configuration is in force, through which the way to them may lead.
func (r *Registry) Fetch() {
	r.mu.Lock()
	var list []*keySet
	for _, p := range r.sets {
		if k := p.Value(); k != nil {
			list = append(list, k)
		}
	}
	r.mu.Unlock()
	now := time.Now()
	for _, k := range list { // not with r locked
		k.start(now)
	}
}

// verifier returns the live verifier of a rule.
func (r *Registry) verifier(rule *mesh.JWTRule) (*verifier, error) {
	id, err := json.Marshal(rule)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	v := r.verifiers[string(id)].Value()
	r.mu.Unlock()
	if v != nil {
		return v, nil
	}
	v = newVerifier(rule, r.keySet(rule))
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.verifiers[string(id)].Value(); old != nil {
		return old, nil
	}
	sweep(r.verifiers)
	r.verifiers[string(id)] = weak.Make(v)
	return v, nil
}

// keySet returns the live keys of a rule.
func (r *Registry) keySet(rule *mesh.JWTRule) *keySet {
	from := originOf(rule)
	r.mu.Lock()
	k := r.sets[from].Value()
	r.mu.Unlock()
	if k != nil {
		return k
	}
	k = newKeySet(r, from, cmp.Or(rule.Timeout, defaultTimeout)) // not with r locked
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.sets[from].Value(); old != nil {
		return old
	}
	sweep(r.sets)
	r.sets[from] = weak.Make(k)
	return k
}

// sweep forgets what is gone. There are few.
func sweep[K comparable, V any](m map[K]weak.Pointer[V]) {
	for k, p := range m {
		if p.Value() == nil {
			delete(m, k)
		}
	}
}

// begin notes a fetch, unless the registry is closed.
func (r *Registry) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.fetches.Add(1)
	return true
}

// told logs when keys begin or cease to fail. k is locked.
func (r *Registry) told(k *keySet, err error) {
	switch {
	case err != nil && k.err == nil && r.ctx.Err() == nil:
		r.log.Warn("the keys of an issuer cannot be read; those of before are used on", "keys", k.from.String(), "error", err, "any", k.current.Load() != nil)
	case err == nil && k.err != nil:
		r.log.Info("the keys of an issuer are there again", "keys", k.from.String())
	}
}

// States tells of the keys of all rules in use, in the order of issuers.
func (r *Registry) States() []State {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	var list []*verifier
	for _, p := range r.verifiers {
		if v := p.Value(); v != nil {
			list = append(list, v)
		}
	}
	r.mu.Unlock()
	var out []State
	for _, v := range list {
		out = append(out, v.keys.state(v.rule.Issuer))
	}
	slices.SortFunc(out, func(a, b State) int { return cmp.Or(cmp.Compare(a.Issuer, b.Issuer), cmp.Compare(a.Keys, b.Keys)) })
	return slices.CompactFunc(out, func(a, b State) bool { return a.Issuer == b.Issuer && a.Keys == b.Keys })
}

// Close ends fetches under way, and returns when they have ended. Requests that wait for them go on.
func (r *Registry) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.fetches.Wait()
	r.client.CloseIdleConnections()
}
