package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

const (
	// LeafTTL is how long a workload's certificate lives unless told otherwise;
	// istiod's default too.
	LeafTTL = 24 * time.Hour
	rootTTL = 10 * 365 * 24 * time.Hour
	// backdate allows for peers whose clock is a little behind ours.
	backdate = time.Minute
)

// CA is an embedded certificate authority for one trust domain: an ECDSA P-256
// root that signs workloads' certificates directly (path length 0). Its root
// can be replaced while it works (Rotate). It may be used by any number of
// goroutines, and one that OpenCA made by several processes.
type CA struct {
	trustDomain string
	dir         string // "" in memory only
	crl         *CRL   // of the folder, for Revoked; nil in memory only

	mu    sync.RWMutex
	state *caState            // immutable, replaced
	stamp fileStamp           // of the state's file when it was read
	more  []*x509.Certificate // Trust's
}

// NewCA makes a CA with a new root that exists in memory only and lives ten years.
func NewCA(trustDomain string) (*CA, error) {
	s, err := newCAState(trustDomain, time.Now())
	if err != nil {
		return nil, err
	}
	return &CA{trustDomain: trustDomain, state: s}, nil
}

// TrustDomain is the only trust domain that the CA signs for.
func (ca *CA) TrustDomain() string { return ca.trustDomain }

// RootPEM returns the roots that are trusted now as PEM: the CA's own, then
// those of Trust.
func (ca *CA) RootPEM() []byte {
	_ = ca.follow() // the last state that could be read
	_, pemText := ca.trusted(time.Now())
	return pemText
}

// TokenKey is a secret of the CA's state that others may authenticate its
// clients' tokens with. It is as old as the state and never changes.
func (ca *CA) TokenKey() mesh.Secret {
	ca.mu.RLock()
	defer ca.mu.RUnlock()
	return slices.Clone(ca.state.tokenKey)
}

// trusted is the roots that a certificate issued now trusts.
func (ca *CA) trusted(now time.Time) ([]*x509.Certificate, []byte) {
	ca.mu.RLock()
	defer ca.mu.RUnlock()
	roots := append(ca.state.trusted(now), ca.more...)
	var text []byte
	for _, r := range roots {
		text = append(text, certPEM(r)...)
	}
	return roots, text
}

// Trust adds other roots to what certificates issued from now on trust: those
// of another CA whose workloads are to be let in. To replace the CA's own root
// there is Rotate.
func (ca *CA) Trust(rootPEM []byte) error {
	more, err := parsePEM(rootPEM)
	if err != nil {
		return fmt.Errorf("reading root certificates to trust: %w", err)
	}
	ca.mu.Lock()
	defer ca.mu.Unlock()
	for _, c := range more {
		if !slices.ContainsFunc(ca.more, c.Equal) && !slices.ContainsFunc(ca.state.trusted(time.Now()), c.Equal) {
			ca.more = append(slices.Clip(ca.more), c)
		}
	}
	return nil
}

// Issue makes a new key and signs a certificate for id that is valid from a
// minute ago for ttl (0: LeafTTL), but never longer than the root. The
// certificate carries nothing but the SPIFFE URI: subject empty, SAN critical
// (RFC 5280 section 4.1.2.6), usable as TLS client and server.
func (ca *CA) Issue(id mesh.Identity, ttl time.Duration) (*Cert, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key for %s: %w", id, err)
	}
	der, roots, rootPEM, err := ca.sign(key.Public(), id, ttl)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading back the certificate of %s: %w", id, err)
	}
	return newCert(tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, roots, rootPEM)
}

// Sign signs a certificate like Issue's for a key that its holder keeps, who
// has proved to have it. It returns the leaf and the trusted roots as PEM.
func (ca *CA) Sign(key crypto.PublicKey, id mesh.Identity, ttl time.Duration) (leafPEM, rootPEM []byte, err error) {
	if err := CheckKey(key); err != nil {
		return nil, nil, err
	}
	der, _, rootPEM, err := ca.sign(key, id, ttl)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), rootPEM, nil
}

// CheckKey refuses public keys that TLS 1.3 peers would, or that are weak. To check a
// signature of one that it lets pass takes no more than some milliseconds.
func CheckKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n >= 2048 && n <= 8192 {
			return nil
		}
	}
	return errors.New("key is none of ECDSA P-256, ECDSA P-384 and RSA with 2048 to 8192 bits")
}

func (ca *CA) sign(key crypto.PublicKey, id mesh.Identity, ttl time.Duration) (der []byte, roots []*x509.Certificate, rootPEM []byte, err error) {
	if id.TrustDomain != ca.trustDomain {
		return nil, nil, nil, fmt.Errorf("issuing for %q: this CA signs for trust domain %q only", id.String(), ca.trustDomain)
	}
	if !plain(id.Namespace) || !plain(id.ServiceAccount) {
		return nil, nil, nil, fmt.Errorf("issuing for %q: namespace and service account must be plain names", id.String())
	}
	tmpl := &x509.Certificate{
		URIs:        []*url.URL{{Scheme: "spiffe", Host: id.TrustDomain, Path: "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err = ca.signLeaf(tmpl, key, ttl)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("signing for %s: %w", id, err)
	}
	roots, rootPEM = ca.trusted(time.Now())
	return der, roots, rootPEM, nil
}

// IssueServer makes a certificate for a server that is reached by host names
// and IP addresses, not by an identity: the CA's own service.
func (ca *CA) IssueServer(hosts []string, ttl time.Duration) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key for %v: %w", hosts, err)
	}
	tmpl := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, h := range hosts {
		if ip, err := netip.ParseAddr(h); err == nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip.AsSlice())
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	der, err := ca.signLeaf(tmpl, key.Public(), ttl)
	if err != nil {
		return nil, fmt.Errorf("signing for %v: %w", hosts, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading back the certificate of %v: %w", hosts, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// signLeaf completes and signs a leaf's template with the root that signs now.
func (ca *CA) signLeaf(tmpl *x509.Certificate, key crypto.PublicKey, ttl time.Duration) ([]byte, error) {
	if ttl < 0 {
		return nil, fmt.Errorf("life of %s is negative", ttl)
	}
	if ttl == 0 {
		ttl = LeafTTL
	}
	if err := ca.follow(); err != nil {
		return nil, err
	}
	if err := ca.noteLife(ttl); err != nil {
		return nil, err
	}
	now := time.Now()
	ca.mu.RLock()
	root := ca.state.signer(now)
	ca.mu.RUnlock()
	if root == nil {
		return nil, errors.New("no root of the CA signs now (is the clock right?)")
	}
	var err error
	if tmpl.SerialNumber, err = newSerial(); err != nil {
		return nil, err
	}
	tmpl.NotBefore, tmpl.NotAfter = now.Add(-backdate), now.Add(ttl)
	for _, end := range []time.Time{root.cert.NotAfter, root.retires} {
		if !end.IsZero() && tmpl.NotAfter.After(end) {
			tmpl.NotAfter = end
		}
	}
	tmpl.KeyUsage, tmpl.BasicConstraintsValid = x509.KeyUsageDigitalSignature, true
	return x509.CreateCertificate(rand.Reader, tmpl, root.cert, key, root.key)
}

// Issuer adapts the CA to a Cache: every certificate lives ttl (0: LeafTTL).
func (ca *CA) Issuer(ttl time.Duration) Issuer {
	return IssuerFunc(func(ctx context.Context, id mesh.Identity) (*Cert, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return ca.Issue(id, ttl)
	})
}

// newSerial returns 128 random bits, the most that RFC 5280's 20 octets and
// every peer's parser take without question; never zero.
func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, fmt.Errorf("drawing a serial number: %w", err)
	}
	if n.Sign() == 0 {
		n.SetInt64(1)
	}
	return n, nil
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
