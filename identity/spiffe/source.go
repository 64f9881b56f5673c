package spiffe

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
)

// Source is an identity.Issuer of what the Workload API gives. It may be used
// by any number of goroutines while Run runs.
type Source struct {
	address string
	log     *slog.Logger
	backoff workloadapi.BackoffStrategy // nil: the library's, 1 to 30 s

	mu    sync.Mutex
	certs map[mesh.Identity]given
	err   error         // why there is nothing, or nothing newer
	first chan struct{} // closed with the first answer
}

// given is one certificate and whether the cache has it.
type given struct {
	cert  *identity.Cert
	taken bool
}

// New returns a source before the Workload API at address, unix:///PATH or
// tcp://IP:PORT. It does not connect yet. log may be nil.
func New(address string, log *slog.Logger) (*Source, error) {
	if err := workloadapi.ValidateAddress(address); err != nil {
		return nil, fmt.Errorf("SPIFFE socket %q: %w (want unix:///PATH)", address, err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Source{address: address, log: log, certs: map[mesh.Identity]given{}, first: make(chan struct{})}, nil
}

// Run follows the Workload API until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	o := []workloadapi.ClientOption{workloadapi.WithAddr(s.address)}
	if s.backoff != nil {
		o = append(o, workloadapi.WithBackoffStrategy(s.backoff))
	}
	c, err := workloadapi.New(ctx, o...)
	if err != nil {
		return fmt.Errorf("connecting to the SPIFFE Workload API at %s: %w", s.address, err)
	}
	defer c.Close()
	again := time.NewTimer(0)
	defer again.Stop()
	for ctx.Err() == nil {
		// It ends by itself only for arguments that the agent calls invalid.
		err := c.WatchX509Context(ctx, watcher{s})
		if ctx.Err() != nil {
			break
		}
		s.fail(err)
		again.Reset(30 * time.Second)
		select {
		case <-ctx.Done():
		case <-again.C:
		}
	}
	return nil
}

// Identities lists what the Workload API has given, sorted by name. It waits
// for the first answer.
func (s *Source) Identities(ctx context.Context) ([]mesh.Identity, error) {
	if err := s.await(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := slices.Collect(maps.Keys(s.certs))
	slices.SortFunc(ids, func(a, b mesh.Identity) int { return strings.Compare(a.String(), b.String()) })
	return ids, nil
}

// Issue returns the newest certificate of id. It waits for the first answer of
// the Workload API; after that it never waits.
func (s *Source) Issue(ctx context.Context, id mesh.Identity) (*identity.Cert, error) {
	if err := s.await(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.certs[id]
	if !ok {
		if s.err != nil {
			return nil, s.err
		}
		return nil, fmt.Errorf("the SPIFFE Workload API at %s gives this process no certificate of %s; it gives %s (is the workload registered?)", s.address, id, s.names())
	}
	s.certs[id] = given{g.cert, true}
	return g.cert, nil
}

// Changed reports whether something was pushed for id that Issue has not
// returned yet.
func (s *Source) Changed(id mesh.Identity) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.certs[id]
	return ok && !g.taken
}

func (s *Source) await(ctx context.Context) error {
	select {
	case <-s.first:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	return fmt.Errorf("waiting for the SPIFFE Workload API at %s: %w", s.address, context.Cause(ctx))
}

func (s *Source) names() string {
	if len(s.certs) == 0 {
		return "none"
	}
	var names []string
	for id := range s.certs {
		names = append(names, id.String())
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func (s *Source) fail(err error) {
	s.mu.Lock()
	s.err = fmt.Errorf("following the SPIFFE Workload API at %s: %w", s.address, err)
	s.mu.Unlock()
	s.log.Warn("following the SPIFFE Workload API", "address", s.address, "error", err)
}

// watcher receives what the Workload API pushes.
type watcher struct{ *Source }

// OnX509ContextWatchError is called when the stream fails; it is opened again.
func (w watcher) OnX509ContextWatchError(err error) {
	if !errors.Is(err, context.Canceled) {
		w.fail(err)
	}
}

// OnX509ContextUpdate takes a new answer, which replaces the one before whole.
func (w watcher) OnX509ContextUpdate(x *workloadapi.X509Context) {
	certs, problems := convert(x)
	for _, err := range problems {
		w.log.Warn("a certificate of the SPIFFE Workload API is left out", "error", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	next := map[mesh.Identity]given{}
	for id, c := range certs {
		next[id] = given{cert: c}
	}
	w.certs, w.err = next, nil
	select {
	case <-w.first:
	default:
		close(w.first)
	}
	w.log.Debug("the SPIFFE Workload API gave certificates", "identities", w.names())
}

// convert makes certificates of an answer. Of several for one identity the
// first counts (Workload API, section 5.2.1).
func convert(x *workloadapi.X509Context) (map[mesh.Identity]*identity.Cert, []error) {
	out := map[mesh.Identity]*identity.Cert{}
	var problems []error
	bundles := map[string][]*x509.Certificate{}
	for _, b := range x.Bundles.Bundles() {
		bundles[b.TrustDomain().Name()] = b.X509Authorities()
	}
	for _, svid := range x.SVIDs {
		id, cert, err := convertOne(svid, bundles)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", printable(svid.ID), err))
			continue
		}
		if _, ok := out[id]; !ok {
			out[id] = cert
		}
	}
	return out, problems
}

func convertOne(svid *x509svid.SVID, bundles map[string][]*x509.Certificate) (mesh.Identity, *identity.Cert, error) {
	id, err := mesh.ParseIdentity(svid.ID.String())
	if err != nil {
		return id, nil, err
	}
	cert, err := identity.NewCertOf(svid.Certificates, svid.PrivateKey, bundles[id.TrustDomain], bundles)
	return id, cert, err
}

func printable(id spiffeid.ID) string {
	if s := id.String(); len(s) <= 256 {
		return s
	}
	return id.String()[:256] + "…"
}
