package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// Issuer obtains a certificate for an identity: from a CA, or from files.
// Calls may be concurrent, for different identities. The certificate's
// Identity must be id, and it must be valid now.
type Issuer interface {
	Issue(ctx context.Context, id mesh.Identity) (*Cert, error)
}

// IssuerFunc lets a function be an Issuer.
type IssuerFunc func(ctx context.Context, id mesh.Identity) (*Cert, error)

// Issue calls f.
func (f IssuerFunc) Issue(ctx context.Context, id mesh.Identity) (*Cert, error) { return f(ctx, id) }

// Watched is what an Issuer also implements whose certificates change when
// somebody else decides, not when half their life is over. The cache asks it
// every few seconds, and before handshakes at most once a second.
type Watched interface {
	// Changed reports whether Issue would give something new for id. It is cheap.
	Changed(id mesh.Identity) bool
}

// CacheOptions adjusts a Cache. The zero value is right for production.
type CacheOptions struct {
	// Log receives renewals that fail (warn) and succeed (debug). Nil discards.
	Log *slog.Logger
	// IssueTimeout bounds one call of the issuer. Zero means 10 s.
	IssueTimeout time.Duration
	// MinBackoff and MaxBackoff bound the pause after a failure; it doubles each
	// time, give or take 20 %. Zero means 1 s and 30 s.
	MinBackoff, MaxBackoff time.Duration
	// MaxConcurrent bounds how many calls of the issuer run at once. Zero means 8.
	MaxConcurrent int
	// PollInterval is how often Run asks whether certificate files changed. Zero
	// means 2 s. Handshakes ask too, at most once a second.
	PollInterval time.Duration
	// CRL, if set, says whose certificates were revoked. Run follows its file.
	CRL *CRL
}

// Cache holds one certificate per identity and keeps it fresh. It may be used
// by any number of goroutines, with or without Run: without it a certificate
// is replaced only after it has expired.
type Cache struct {
	issuer Issuer
	watch  Watched // the issuer, if it is one
	opts   CacheOptions
	log    *slog.Logger
	slots  chan struct{} // one token per call of the issuer
	wake   chan struct{} // tells Run that something is due sooner

	// roots are those that verifiers were made for, the latest last.
	roots atomic.Pointer[[]*x509.Certificate]
	// aliases are trust domains that stand for our own.
	aliases atomic.Pointer[[]string]

	mu        sync.RWMutex
	entries   map[mesh.Identity]*entry
	verifiers map[string]*verifier // by root PEM, shared by the identities that trust it
}

// entry is one identity's place in the cache.
//
//	empty ──issue──► held ──half life──► renewing ──► held (new)
//	  ▲ │ fails                            │ fails: held (old), later again
//	  └─┘ not before retryAt               └─ expired: refused, still retried
type entry struct {
	id   mesh.Identity
	held atomic.Pointer[held]

	mu       sync.Mutex
	call     chan struct{} // not nil while an issue is under way; closed at its end
	err      error         // why the last issue failed
	failures int
	retryAt  time.Time // no issue before
	renewAt  time.Time // due for renewal, if held
	asked    time.Time // last time a watched issuer was asked
	wanted   bool      // Run fetches it although nobody waits
	due      bool      // RenewAll: Run renews it now
}

// held is what handshakes use.
type held struct {
	cert  *Cert
	peers *verifier
	// federated are the verifiers of other trust domains, in the order of cert.Federated.
	federated []*verifier
}

// of returns who verifies members of a trust domain: its own bundle and no
// other where it is federated, else our own roots.
func (h *held) of(trustDomain string) *verifier {
	if i := h.cert.federated(trustDomain); i >= 0 {
		return h.federated[i]
	}
	return h.peers
}

// maxVerifiers bounds how many sets of roots are remembered.
const maxVerifiers = 32

// NewCache returns an empty cache before issuer.
func NewCache(issuer Issuer, opts CacheOptions) *Cache {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&opts.IssueTimeout, 10*time.Second)
	def(&opts.MinBackoff, time.Second)
	def(&opts.MaxBackoff, 30*time.Second)
	def(&opts.PollInterval, 2*time.Second)
	if opts.MaxConcurrent <= 0 {
		opts.MaxConcurrent = 8
	}
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	w, _ := issuer.(Watched)
	return &Cache{
		issuer:    issuer,
		watch:     w,
		opts:      opts,
		log:       log,
		slots:     make(chan struct{}, opts.MaxConcurrent),
		wake:      make(chan struct{}, 1),
		entries:   make(map[mesh.Identity]*entry),
		verifiers: make(map[string]*verifier),
	}
}

// UnavailableError says that we ourselves have no valid certificate: the peer
// is not to blame.
type UnavailableError struct {
	Identity mesh.Identity
	Err      error
}

// Error names the identity and the cause.
func (e *UnavailableError) Error() string {
	return fmt.Sprintf("no certificate for %s: %v", e.Identity, e.Err)
}

// Unwrap returns the issuer's error.
func (e *UnavailableError) Unwrap() error { return e.Err }

// Get returns the valid certificate of id, fetching it if there is none. Many
// callers share one fetch; a caller whose ctx ends leaves, and another one
// carries on. After a failed fetch, callers get its error at once until the
// pause is over. Every error is an *UnavailableError.
func (c *Cache) Get(ctx context.Context, id mesh.Identity) (*Cert, error) {
	h, err := c.get(ctx, c.entry(id))
	if err != nil {
		return nil, err
	}
	return h.cert, nil
}

// Prefetch asks Run to fetch the certificate of id, and to keep trying.
func (c *Cache) Prefetch(id mesh.Identity) {
	e := c.entry(id)
	e.mu.Lock()
	e.wanted = true
	e.mu.Unlock()
	c.poke()
}

// Forget drops the certificate of id: no workload here has that identity any
// more. Configs made for it fetch it anew if they are still used.
func (c *Cache) Forget(id mesh.Identity) {
	c.mu.Lock()
	e := c.entries[id]
	delete(c.entries, id)
	c.mu.Unlock()
	if e != nil {
		e.held.Store(nil)
	}
}

// RenewAll makes Run renew every certificate now: the trusted roots changed.
func (c *Cache) RenewAll() {
	for _, e := range c.list() {
		e.mu.Lock()
		e.due = true
		e.mu.Unlock()
	}
	c.poke()
}

func (c *Cache) list() []*entry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]*entry, 0, len(c.entries))
	for _, e := range c.entries {
		out = append(out, e)
	}
	return out
}

func (c *Cache) entry(id mesh.Identity) *entry {
	c.mu.RLock()
	e := c.entries[id]
	c.mu.RUnlock()
	if e != nil {
		return e
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e = c.entries[id]; e == nil {
		id = mesh.Identity{
			TrustDomain:    strings.Clone(id.TrustDomain),
			Namespace:      strings.Clone(id.Namespace),
			ServiceAccount: strings.Clone(id.ServiceAccount),
		}
		e = &entry{id: id}
		c.entries[id] = e
	}
	return e
}

// get returns what e holds while it is valid, else fetches it. With nothing to
// do it takes no lock and allocates nothing.
func (c *Cache) get(ctx context.Context, e *entry) (*held, error) {
	now := time.Now()
	h := e.held.Load()
	changed := c.stale(e, now)
	if h != nil && now.Before(h.cert.NotAfter) && !changed {
		return h, nil
	}
	h, err := c.refresh(ctx, e, h, changed)
	if err != nil {
		return nil, &UnavailableError{Identity: e.id, Err: err}
	}
	return h, nil
}

// stale asks a watched issuer, at most once a second per identity.
func (c *Cache) stale(e *entry, now time.Time) bool {
	if c.watch == nil {
		return false
	}
	e.mu.Lock()
	ask := now.Sub(e.asked) >= time.Second
	if ask {
		e.asked = now
	}
	e.mu.Unlock()
	return ask && c.watch.Changed(e.id)
}

// refresh replaces old, unless somebody else already has: one caller issues,
// the others wait for it. It returns what is held afterwards if that is valid,
// be it old or new, and else the reason. With always, the pause after a
// failure does not count.
func (c *Cache) refresh(ctx context.Context, e *entry, old *held, always bool) (*held, error) {
	for {
		e.mu.Lock()
		now := time.Now()
		h := e.held.Load()
		valid := h != nil && now.Before(h.cert.NotAfter)
		if valid && h != old {
			e.mu.Unlock()
			return h, nil
		}
		if wait := e.call; wait != nil {
			e.mu.Unlock()
			if valid {
				return h, nil // somebody is renewing it: the old one will do
			}
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		if now.Before(e.retryAt) && !always {
			err := e.err
			e.mu.Unlock()
			if valid {
				return h, nil
			}
			return nil, err
		}
		done := make(chan struct{})
		e.call, e.due = done, false
		e.mu.Unlock()
		return c.issue(ctx, e, done)
	}
}

// issue calls the issuer as the one caller that does, and settles e.
func (c *Cache) issue(ctx context.Context, e *entry, done chan struct{}) (*held, error) {
	cert, err := c.callIssuer(ctx, e.id)
	defer c.poke() // Run plans anew
	defer close(done)
	if err != nil {
		return c.settleFailure(ctx, e, err)
	}
	h := &held{cert: cert, peers: c.verifier(cert.RootPEM, cert.Roots)}
	for _, b := range cert.Federated {
		h.federated = append(h.federated, c.verifier(b.RootPEM, b.Roots))
	}
	e.mu.Lock()
	e.call = nil
	e.err, e.failures, e.retryAt = nil, 0, time.Time{}
	e.renewAt = cert.renewAt(time.Now())
	e.held.Store(h)
	e.mu.Unlock()
	c.tellOwn(h.cert)
	c.log.Debug("obtained a certificate", "identity", e.id.String(), "not_after", cert.NotAfter)
	return h, nil
}

// settleFailure plans the next attempt, and returns what is held if that is
// still valid.
func (c *Cache) settleFailure(ctx context.Context, e *entry, err error) (*held, error) {
	now := time.Now()
	pause := time.Duration(0)
	e.mu.Lock()
	e.call = nil
	if ctx.Err() == nil { // a caller that gave up says nothing about the issuer
		e.failures++
		pause = c.backoff(e.failures)
		e.err, e.retryAt, e.renewAt = err, now.Add(pause), now.Add(pause)
	}
	h := e.held.Load()
	e.mu.Unlock()
	if pause > 0 {
		c.log.Warn("obtaining a certificate", "identity", e.id.String(), "error", err, "retry_in", pause.Round(time.Millisecond))
	}
	if h != nil && now.Before(h.cert.NotAfter) {
		return h, nil
	}
	return nil, err
}

// callIssuer waits for a slot and holds the issuer to its contract.
func (c *Cache) callIssuer(ctx context.Context, id mesh.Identity) (*Cert, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.IssueTimeout)
	defer cancel()
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the issuer: %w", context.Cause(ctx))
	}
	cert, err := c.issuer.Issue(ctx, id)
	switch now := time.Now(); {
	case err != nil:
		return nil, err
	case cert == nil || cert.Leaf == nil || cert.Roots == nil:
		return nil, errors.New("issuer returned no certificate") // nil roots would mean the machine's
	case cert.Identity != id:
		return nil, fmt.Errorf("issuer returned a certificate of %s", cert.Identity)
	case !now.Before(cert.NotAfter):
		return nil, fmt.Errorf("issuer returned a certificate that expired on %s", cert.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(cert.NotBefore):
		return nil, fmt.Errorf("issuer returned a certificate that is valid only from %s", cert.NotBefore.UTC().Format(time.RFC3339))
	}
	return cert, nil
}

// backoff is the pause after the n-th failure in a row, n from 1.
func (c *Cache) backoff(n int) time.Duration {
	d := c.opts.MinBackoff
	for ; n > 1 && d < c.opts.MaxBackoff; n-- {
		d *= 2
	}
	d = min(d, c.opts.MaxBackoff)
	return d - d/5 + rand.N(2*d/5+1)
}

// verifier returns the one for these roots, shared by all identities that
// trust the same, so that a peer is verified once.
func (c *Cache) verifier(rootPEM []byte, roots *x509.CertPool) *verifier {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.verifiers[string(rootPEM)]
	if v == nil || !v.roots.Equal(roots) {
		if len(c.verifiers) >= maxVerifiers { // roots of the past
			clear(c.verifiers)
		}
		v = newVerifier(roots)
		c.verifiers[string(rootPEM)] = v
		c.noteRoots(rootPEM)
	}
	return v
}

func (c *Cache) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
