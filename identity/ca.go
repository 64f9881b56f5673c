package identity

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
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
// root that signs workloads' certificates directly (path length 0). It may be
// used by any number of goroutines.
type CA struct {
	trustDomain string
	key         *ecdsa.PrivateKey
	cert        *x509.Certificate

	mu      sync.RWMutex
	roots   []*x509.Certificate // own root first, then Trust's
	rootPEM []byte
}

// NewCA makes a CA with a new root that exists in memory only and lives ten years.
func NewCA(trustDomain string) (*CA, error) {
	if !plain(trustDomain) {
		return nil, fmt.Errorf("trust domain %q is not a SPIFFE trust domain (letters, digits, '.', '-', '_')", trustDomain)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the root's key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{trustDomain}, CommonName: "Cairn mesh root"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootTTL),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing the root: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading back the root: %w", err)
	}
	return newCA(trustDomain, key, cert), nil
}

func newCA(trustDomain string, key *ecdsa.PrivateKey, cert *x509.Certificate) *CA {
	return &CA{
		trustDomain: trustDomain,
		key:         key,
		cert:        cert,
		roots:       []*x509.Certificate{cert},
		rootPEM:     certPEM(cert),
	}
}

// TrustDomain is the only trust domain that the CA signs for.
func (ca *CA) TrustDomain() string { return ca.trustDomain }

// RootPEM returns the trusted roots as PEM: the CA's own, then those of Trust.
func (ca *CA) RootPEM() []byte {
	ca.mu.RLock()
	defer ca.mu.RUnlock()
	return slices.Clone(ca.rootPEM)
}

// Trust adds other roots to what certificates issued from now on trust. To
// replace a root without refusing anyone: every mesh member first trusts the
// new root, and only then is anything signed by it.
func (ca *CA) Trust(rootPEM []byte) error {
	more, err := parsePEM(rootPEM)
	if err != nil {
		return fmt.Errorf("reading root certificates to trust: %w", err)
	}
	ca.mu.Lock()
	defer ca.mu.Unlock()
	for _, c := range more {
		if slices.ContainsFunc(ca.roots, c.Equal) {
			continue
		}
		ca.roots = append(slices.Clip(ca.roots), c)
		ca.rootPEM = slices.Concat(ca.rootPEM, certPEM(c))
	}
	return nil
}

// Issue makes a new key and signs a certificate for id that is valid from a
// minute ago for ttl (0: LeafTTL), but never longer than the root. The
// certificate carries nothing but the SPIFFE URI: subject empty, SAN critical
// (RFC 5280 section 4.1.2.6), usable as TLS client and server.
func (ca *CA) Issue(id mesh.Identity, ttl time.Duration) (*Cert, error) {
	if id.TrustDomain != ca.trustDomain {
		return nil, fmt.Errorf("issuing for %q: this CA signs for trust domain %q only", id.String(), ca.trustDomain)
	}
	if !plain(id.Namespace) || !plain(id.ServiceAccount) {
		return nil, fmt.Errorf("issuing for %q: namespace and service account must be plain names", id.String())
	}
	if ttl < 0 {
		return nil, fmt.Errorf("issuing for %s: life of %s is negative", id, ttl)
	}
	if ttl == 0 {
		ttl = LeafTTL
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key for %s: %w", id, err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	notAfter := now.Add(ttl)
	if notAfter.After(ca.cert.NotAfter) {
		notAfter = ca.cert.NotAfter
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: id.TrustDomain, Path: "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("signing for %s: %w", id, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading back the certificate of %s: %w", id, err)
	}
	ca.mu.RLock()
	roots, rootPEM := ca.roots, ca.rootPEM
	ca.mu.RUnlock()
	return newCert(tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, roots, rootPEM)
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

// encode is the CA's key and root in one PEM text, for the key file.
func (ca *CA) encode() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		return nil, errors.New("encoding the root's key")
	}
	return slices.Concat(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), certPEM(ca.cert)), nil
}

// decodeCA is encode's inverse. Its errors never quote the text.
func decodeCA(text []byte, trustDomain string, now time.Time) (*CA, error) {
	kb, rest := pem.Decode(text)
	if kb == nil || kb.Type != "PRIVATE KEY" {
		return nil, errors.New("file does not begin with a PEM block of type PRIVATE KEY")
	}
	k, err := x509.ParsePKCS8PrivateKey(kb.Bytes)
	if err != nil {
		return nil, errors.New("private key is not PKCS #8")
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("private key is not ECDSA P-256")
	}
	certs, err := parsePEM(bytes.TrimSpace(rest))
	if err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	root := certs[0]
	switch {
	case !key.PublicKey.Equal(root.PublicKey):
		return nil, errors.New("root certificate does not belong to the private key")
	case !root.IsCA:
		return nil, errors.New("root certificate is not a CA's")
	case !slices.Equal(root.Subject.Organization, []string{trustDomain}):
		return nil, fmt.Errorf("root certificate is for trust domain %q, not %q", root.Subject.Organization, trustDomain)
	case now.After(root.NotAfter):
		return nil, fmt.Errorf("root certificate expired on %s; remove the file to make a new root", root.NotAfter.UTC().Format(time.RFC3339))
	}
	return newCA(trustDomain, key, root), nil
}
