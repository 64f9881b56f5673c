package identity

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// Cert is a workload's proof of identity: its key and certificate chain, and
// the roots that it trusts its peers by. It is immutable.
type Cert struct {
	// Certificate is the chain, leaf first, with the private key; Leaf is set.
	tls.Certificate
	// Roots are the trusted roots as a pool, RootPEM the same as text.
	Roots   *x509.CertPool
	RootPEM []byte
	// Identity is the one SPIFFE URI of the leaf.
	Identity mesh.Identity
	// Federated are the other trust domains whose members are let in; mostly none.
	Federated []Bundle
	// NotBefore and NotAfter are the leaf's.
	NotBefore, NotAfter time.Time
}

// NewCert makes a Cert of PEM texts: the chain (leaf first), the leaf's
// private key (PKCS #8, SEC 1 or PKCS #1) and the trusted roots, of which there
// may be several. It refuses a pair that no peer with these roots would accept
// at this time: a key that does not belong to the leaf, a leaf without exactly
// one SPIFFE identity, a chain that does not lead to a root, wrong dates. No
// error contains key material.
func NewCert(chainPEM, keyPEM, rootPEM []byte) (*Cert, error) {
	pair, err := tls.X509KeyPair(chainPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("pairing certificate and key: %w", err)
	}
	roots, err := parsePEM(rootPEM)
	if err != nil {
		return nil, fmt.Errorf("reading root certificates: %w", err)
	}
	return newCert(pair, roots, rootPEM)
}

func newCert(pair tls.Certificate, roots []*x509.Certificate, rootPEM []byte) (*Cert, error) {
	if pair.Leaf == nil {
		return nil, errors.New("certificate pair holds no leaf")
	}
	id, err := leafIdentity(pair.Leaf)
	if err != nil {
		return nil, err
	}
	c := &Cert{
		Certificate: pair,
		Roots:       x509.NewCertPool(),
		RootPEM:     slices.Clone(rootPEM),
		Identity:    id,
		NotBefore:   pair.Leaf.NotBefore,
		NotAfter:    pair.Leaf.NotAfter,
	}
	for _, r := range roots {
		c.Roots.AddCert(r)
	}
	chain := []*x509.Certificate{pair.Leaf}
	for _, der := range pair.Certificate[1:] {
		ic, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("parsing an intermediate certificate of %s: %w", id, err)
		}
		chain = append(chain, ic)
	}
	if err := newVerifier(c.Roots).chain(chain, x509.ExtKeyUsageAny, time.Now()); err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", id, err)
	}
	return c, nil
}

// parsePEM reads one or more certificates; anything else in the text is an error.
func parsePEM(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := text; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("block %d is %q, not a CERTIFICATE", len(out)+1, b.Type)
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("block %d: %w", len(out)+1, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("found no PEM block of type CERTIFICATE")
	}
	return out, nil
}

// String describes the certificate without its secrets.
func (c Cert) String() string {
	return fmt.Sprintf("certificate of %s, valid %s to %s", c.Identity,
		c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
}

// Format prints String for every verb, so that no %+v shows the private key.
func (c Cert) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// MarshalText is String too: log/slog and encoding/json use it.
func (c Cert) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// renewAt is when half of the remaining life has passed: of the whole life for
// a new certificate (issuers backdate NotBefore only a little), less for one
// that was old when it came. ztunnel renews at NotBefore + life/2 likewise.
func (c *Cert) renewAt(now time.Time) time.Time {
	half := c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2)
	if half.After(now) {
		return half
	}
	return now.Add(max(c.NotAfter.Sub(now)/2, time.Second))
}

// PeerOf returns the identity that the peer proved in a handshake under one of
// this package's configs. It does not verify anything again. The error says
// what the certificate holds instead.
func PeerOf(cs tls.ConnectionState) (mesh.Identity, error) {
	if len(cs.PeerCertificates) == 0 {
		return mesh.Identity{}, errors.New("peer presented no certificate")
	}
	return leafIdentity(cs.PeerCertificates[0])
}

// leafIdentity is the identity in the only URI name of a leaf.
func leafIdentity(leaf *x509.Certificate) (mesh.Identity, error) {
	if n := len(leaf.URIs); n != 1 {
		return mesh.Identity{}, fmt.Errorf("certificate holds %d URI names where a SPIFFE identity is exactly one%s", n, presented(leaf))
	}
	id, ok := parseURI(leaf.URIs[0])
	if !ok {
		return mesh.Identity{}, fmt.Errorf("certificate's name %s is not spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT", quoteURI(leaf.URIs[0]))
	}
	return id, nil
}

// parseURI is mesh.ParseIdentity on a parsed URI, without allocating: the
// parts are views of u. It refuses everything that SPIFFE ID section 2 leaves
// out of a URI (user, port, query, fragment, percent-encoding), so that two
// different texts never mean one identity.
func parseURI(u *url.URL) (mesh.Identity, bool) {
	var none mesh.Identity
	if u.Scheme != "spiffe" || u.Opaque != "" || u.User != nil || u.RawPath != "" ||
		u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || !plain(u.Host) {
		return none, false
	}
	rest, ok := strings.CutPrefix(u.Path, "/ns/")
	if !ok {
		return none, false
	}
	ns, rest, ok := strings.Cut(rest, "/")
	if !ok || !plain(ns) {
		return none, false
	}
	sa, ok := strings.CutPrefix(rest, "sa/")
	if !ok || !plain(sa) {
		return none, false
	}
	return mesh.Identity{TrustDomain: u.Host, Namespace: ns, ServiceAccount: sa}, true
}

// plain reports whether s is a non-empty part of SPIFFE's letters.
func plain(s string) bool {
	for i := range len(s) {
		switch b := s[i]; {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', b == '.', b == '-', b == '_':
		default:
			return false
		}
	}
	return s != ""
}

// presented lists a certificate's URI names for an error text. They are the
// peer's words: quoted, and cut short.
func presented(leaf *x509.Certificate) string {
	if len(leaf.URIs) == 0 {
		return ""
	}
	var names []string
	for i, u := range leaf.URIs {
		if i == 4 {
			names = append(names, "…")
			break
		}
		names = append(names, quoteURI(u))
	}
	return ": " + strings.Join(names, ", ")
}

func quoteURI(u *url.URL) string {
	s := u.String()
	if len(s) > 256 {
		s = s[:256] + "…"
	}
	return fmt.Sprintf("%q", s)
}
