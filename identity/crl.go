package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

const (
	// CRLFile is the name of the list beside the roots, as istiod's ConfigMap
	// istio-ca-crl has it.
	CRLFile = "ca-crl.pem"
	// maxCRL bounds what is read of a file: some 200,000 revoked certificates.
	maxCRL = 8 << 20
	// crlPoll is how often the file is looked at.
	crlPoll = 500 * time.Millisecond
	// crlAgain is when a file that was of no use is read again though it is the same: what
	// stood in the way may be gone (permissions, open files, a root that came later).
	crlAgain = 10 * time.Second
)

// CRL follows a file of certificate revocation lists (RFC 5280 section 5): PEM
// blocks of type "X509 CRL", of as many issuers as there are, or one list as DER.
//
// A list counts for certificates whose issuer signed it, be they workloads' or
// intermediate authorities'. One whose next update is overdue goes on counting
// and is told of. A file that cannot be read, that is empty or gone, or that has
// a list which claims one of our roots and is not signed by it, changes nothing:
// the last good one stays in force and the log says why. To take every revocation
// back, publish lists without entries.
//
// Any number of goroutines may use a CRL; handshakes take no lock.
type CRL struct {
	path string
	log  *slog.Logger
	set  atomic.Pointer[revocations]
	// revision counts the sets.
	revision atomic.Uint64

	mu      sync.Mutex
	read    fileStamp // of the last attempt, good or bad
	tried   bool
	overdue bool // of the set in force: it has been told
	failed  error
	again   time.Time // when to read anew what failed
}

// NewCRL returns a CRL that has read nothing yet. log may be nil.
func NewCRL(path string, log *slog.Logger) *CRL {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &CRL{path: path, log: log}
}

// Path is the file that is followed.
func (c *CRL) Path() string { return c.path }

// RevokedError says that a certificate was revoked by its issuer.
type RevokedError struct {
	// Identity is that of a workload's certificate; zero for an authority's.
	Identity mesh.Identity
	// Serial is the revoked certificate's serial number in hexadecimal digits after "0x".
	Serial string
	// Issuer is who revoked it, as RFC 2253 writes names, and At when.
	Issuer string
	At     time.Time
}

// Error names the certificate and who revoked it.
func (e *RevokedError) Error() string {
	what := "certificate"
	if e.Identity.IsZero() {
		what = "an authority in the certificate's chain"
	}
	return fmt.Sprintf("%s was revoked: serial %s, by %q on %s", what, e.Serial, e.Issuer, e.At.UTC().Format(time.RFC3339))
}

// Load reads the file now. A file that does not exist is an error that
// errors.Is calls fs.ErrNotExist. With any error, what was in force stays.
func (c *CRL) Load() error { return c.load(nil) }

// load is Load, given the roots that are trusted.
func (c *CRL) load(anchors []*x509.Certificate) error {
	// The stamp is taken first: a change between it and the reading is noticed
	// the next time.
	stamp, _ := stampFile(c.path)
	set, err := readCRL(c.path)
	if err == nil {
		err = set.review(anchors)
	}
	if err != nil {
		err = fmt.Errorf("reading revoked certificates from %s: %w", c.path, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read, c.tried, c.failed = stamp, true, err
	if err != nil {
		return err
	}
	c.overdue = false
	c.set.Store(set)
	c.revision.Add(1)
	return nil
}

func readCRL(path string) (*revocations, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxCRL+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxCRL:
		return nil, fmt.Errorf("it is larger than %d MiB; leave out what has expired", maxCRL>>20)
	}
	return parseCRL(text)
}

// follow looks at the file until ctx ends. anchors are the roots that are
// trusted at the moment, and changed is called after each new set.
func (c *CRL) follow(ctx context.Context, anchors func() []*x509.Certificate, changed func()) {
	t := time.NewTicker(crlPoll)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			if c.poll(anchors, now) {
				changed()
			}
		}
	}
}

// poll reads the file if it has changed, and reports whether there is a new set.
func (c *CRL) poll(anchors func() []*x509.Certificate, now time.Time) bool {
	stamp, err := stampFile(c.path)
	c.mu.Lock()
	same, before := c.tried && stamp == c.read, c.failed
	rest := same && (before == nil || now.Before(c.again))
	if !rest {
		c.again = now.Add(crlAgain)
	}
	c.mu.Unlock()
	if rest {
		c.tellOverdue(now)
		return false
	}
	if err == nil {
		err = c.load(anchors())
	} else {
		c.mu.Lock()
		c.read, c.tried, c.failed = stamp, true, err
		c.mu.Unlock()
	}
	if err != nil {
		if !same || before == nil || before.Error() != err.Error() {
			c.tell(err)
		}
		return false
	}
	set := c.set.Load()
	c.log.Info("the list of revoked certificates is in force", "file", c.path, "issuers", len(set.lists), "certificates", set.size())
	c.tellOverdue(now)
	return true
}

// tell says that the file is of no use.
func (c *CRL) tell(err error) {
	stays := "no certificate counts as revoked until it can be read"
	if c.set.Load() != nil {
		stays = "what it said before stays in force"
	}
	if errors.Is(err, fs.ErrNotExist) {
		c.log.Warn("there is no list of revoked certificates; "+stays, "file", c.path)
		return
	}
	c.log.Error("the list of revoked certificates cannot be used; "+stays, "file", c.path, "error", err)
}

// tellOverdue says once of a set that a newer one should have come.
func (c *CRL) tellOverdue(now time.Time) {
	set := c.set.Load()
	if set == nil {
		return
	}
	l := set.overdue(now)
	if l == nil {
		return
	}
	c.mu.Lock()
	told := c.overdue
	c.overdue = true
	c.mu.Unlock()
	if !told {
		c.log.Warn("a list of revoked certificates is overdue; it stays in force, but newer revocations are not known",
			"file", c.path, "issuer", l.issuer, "next_update", l.crl.NextUpdate.UTC().Format(time.RFC3339))
	}
}

// stampFile is the file's stamp, and why there is none.
func stampFile(path string) (fileStamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fileStamp{}, err
	}
	return stampOf(info), nil
}
