package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"
)

// maxVerdicts bounds what one verifier remembers. A node's peers are its
// mesh's service accounts times nodes; beyond the bound old ones are verified anew.
const maxVerdicts = 4096

// verifier checks peers' chains against one set of roots. Walking a chain
// costs two signature checks (some 150 µs on a small core) and many
// allocations, and peers come back with the same certificate for hours: so a
// leaf that was verified is remembered by its exact bytes, until any
// certificate of its chain expires, and for whoever sends the same authorities with it:
// one who leaves them out would hide from the list of revoked certificates
// that one of them is on it. Only success is remembered, which takes a
// certificate of our own CA, so a stranger cannot fill the memory.
type verifier struct {
	roots *x509.CertPool

	mu   sync.RWMutex
	seen map[string]verdict // by the leaf's DER bytes
}

// verdict is what was found about a leaf that chains to the roots.
type verdict struct {
	notBefore, notAfter time.Time // the intersection over its chain
	client, server      bool      // which roles its chain permits
	above               above     // the authorities that came with it
}

// above stands for the certificates that a peer sends after its leaf.
type above [sha256.Size]byte

func aboveOf(certs []*x509.Certificate) (sum above) {
	if len(certs) == 0 {
		return sum
	}
	h := sha256.New()
	for _, c := range certs { // DER says where it ends: no two lists read alike
		h.Write(c.Raw)
	}
	h.Sum(sum[:0])
	return sum
}

func newVerifier(roots *x509.CertPool) *verifier {
	return &verifier{roots: roots, seen: make(map[string]verdict)}
}

// chain verifies certs, leaf first, for the role eku (ClientAuth, ServerAuth,
// or Any when only the chain matters). certs must not be empty.
func (v *verifier) chain(certs []*x509.Certificate, eku x509.ExtKeyUsage, now time.Time) error {
	leaf, sent := certs[0], aboveOf(certs[1:])
	v.mu.RLock()
	d, ok := v.seen[string(leaf.Raw)]
	v.mu.RUnlock()
	if !ok || d.above != sent || now.Before(d.notBefore) || now.After(d.notAfter) {
		var err error
		if d, err = v.walk(certs, now); err != nil {
			return err
		}
		d.above = sent
		v.remember(leaf, d)
	}
	switch {
	case eku == x509.ExtKeyUsageClientAuth && !d.client:
		return errors.New("certificate is not for TLS clients (extended key usage)")
	case eku == x509.ExtKeyUsageServerAuth && !d.server:
		return errors.New("certificate is not for TLS servers (extended key usage)")
	}
	return nil
}

// walk builds and checks the chains of a leaf.
func (v *verifier) walk(certs []*x509.Certificate, now time.Time) (verdict, error) {
	leaf := certs[0]
	if leaf.IsCA {
		return verdict{}, errors.New("a CA's certificate stands where a workload's belongs")
	}
	opts := x509.VerifyOptions{
		Roots:         v.roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	chains, err := leaf.Verify(opts)
	if err != nil {
		return verdict{}, verifyError(leaf, now, err)
	}
	// Any of the chains is proof enough; the first decides the dates.
	d := verdict{notBefore: leaf.NotBefore, notAfter: leaf.NotAfter, client: true, server: true}
	for _, c := range chains[0] {
		if c.NotBefore.After(d.notBefore) {
			d.notBefore = c.NotBefore
		}
		if c.NotAfter.Before(d.notAfter) {
			d.notAfter = c.NotAfter
		}
		d.client = d.client && permits(c, x509.ExtKeyUsageClientAuth)
		d.server = d.server && permits(c, x509.ExtKeyUsageServerAuth)
	}
	return d, nil
}

func (v *verifier) remember(leaf *x509.Certificate, d verdict) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.seen) >= maxVerdicts {
		for k := range v.seen { // any one: map order is as good as random
			delete(v.seen, k)
			break
		}
	}
	v.seen[string(leaf.Raw)] = d
}

// permits follows RFC 5280 section 4.2.1.12: no extension means any use. Go
// nests the usages along the chain, as every TLS library does in practice.
func permits(c *x509.Certificate, eku x509.ExtKeyUsage) bool {
	if len(c.ExtKeyUsage) == 0 && len(c.UnknownExtKeyUsage) == 0 {
		return true
	}
	for _, u := range c.ExtKeyUsage {
		if u == eku || u == x509.ExtKeyUsageAny {
			return true
		}
	}
	return false
}

// verifyError makes x509's error say what an operator needs: which dates, and
// that an unknown authority usually is another mesh or a replaced CA.
func verifyError(leaf *x509.Certificate, now time.Time, err error) error {
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return fmt.Errorf("certificate is valid from %s to %s, and it is %s (are the clocks right?): %w",
			leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339), err)
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("certificate is not signed by one of our roots (another mesh, or a CA that was replaced?): %w", err)
	}
	return err
}
