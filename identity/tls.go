package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// alpn is the only protocol that a tunnel speaks.
const alpn = "h2"

// baseConfig is what both ends have in common.
func baseConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		MaxVersion: tls.VersionTLS13,
		NextProtos: []string{alpn},
		// Offered and accepted; crypto/tls prefers them in this order.
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256},
		// A resumed session would keep a peer that no longer passes.
		SessionTicketsDisabled: true,
		// The frame loop writes whole records; small first ones would only cost.
		DynamicRecordSizingDisabled: true,
	}
}

// Server returns the config for accepting tunnels as id: every client must
// present a certificate of id's own trust domain, of one of its aliases, or of one
// that is federated. The config fetches the
// certificate during the first handshake if it is not in the cache yet, and
// follows renewals; make one per listener, or per connection, as is easier.
// Handshakes fail with an *UnavailableError while there is no valid
// certificate for id, and with a *PeerError when the client is refused.
func (c *Cache) Server(id mesh.Identity) *tls.Config {
	s := &serverEnd{cache: c, entry: c.entry(id)}
	cfg := baseConfig()
	cfg.ClientAuth = tls.RequireAnyClientCert // VerifyConnection verifies it
	cfg.GetCertificate = s.certificate
	cfg.VerifyConnection = s.verify
	return cfg
}

// Client returns the config for one tunnel that own opens to a peer whose SPIFFE
// URI is exactly one of expect, an alias counting as the trust domain that it
// stands for; with none, every peer is refused. It is cheap
// enough to be made for each connection. No server name is sent. The cache
// should hold own's certificate before the handshake (see Get); otherwise the
// handshake waits for it without regard to its context, for at most the
// issuer's time limit. Errors are those of Server.
func (c *Cache) Client(own mesh.Identity, expect []string) *tls.Config {
	e := &clientEnd{cache: c, entry: c.entry(own), expect: slices.Clone(expect)}
	cfg := baseConfig()
	// crypto/tls would verify a host name; VerifyConnection verifies the chain
	// and the identity instead.
	cfg.InsecureSkipVerify = true
	cfg.GetClientCertificate = e.certificate
	cfg.VerifyConnection = e.verify
	return cfg
}

// PeerError says why a peer was refused.
type PeerError struct {
	// Own is the identity under which we met the peer.
	Own mesh.Identity
	// Expected says in words or URIs who would have been let in.
	Expected string
	// Presented is the quoted URI names of the peer's certificate, or "no certificate".
	Presented string
	Err       error
}

// Error names all of it, in one line.
func (e *PeerError) Error() string {
	return fmt.Sprintf("refusing peer of %s: %v (expected %s, presented %s)", e.Own, e.Err, e.Expected, e.Presented)
}

// Unwrap returns the reason.
func (e *PeerError) Unwrap() error { return e.Err }

func peerError(own mesh.Identity, expected string, cs *tls.ConnectionState, err error) error {
	e := &PeerError{Own: own, Expected: expected, Presented: "no certificate", Err: err}
	if len(cs.PeerCertificates) > 0 {
		e.Presented = strings.TrimPrefix(presented(cs.PeerCertificates[0]), ": ")
		if e.Presented == "" {
			e.Presented = "a certificate without URI names"
		}
	}
	return e
}

var (
	errALPN     = errors.New("peer does not speak " + alpn + " (ALPN)")
	errStranger = errors.New("peer has another identity")
	errDomain   = errors.New("peer is of another trust domain")
)

// serverEnd is the accepting side's part in handshakes.
type serverEnd struct {
	cache *Cache
	entry *entry
}

func (s *serverEnd) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	// crypto/tls lets a client without ALPN pass: refuse it before signing.
	if !slices.Contains(hello.SupportedProtos, alpn) {
		return nil, &PeerError{Own: s.entry.id, Expected: s.expected(), Presented: "no certificate yet", Err: errALPN}
	}
	h, err := s.cache.get(hello.Context(), s.entry)
	if err != nil {
		return nil, err
	}
	return &h.cert.Certificate, nil
}

func (s *serverEnd) expected() string {
	return "any identity of trust domain " + strings.Join(s.cache.domains(s.entry.id), " or ")
}

func (s *serverEnd) verify(cs tls.ConnectionState) error {
	if err := s.check(&cs); err != nil {
		return peerError(s.entry.id, s.expected(), &cs, err)
	}
	return nil
}

func (s *serverEnd) check(cs *tls.ConnectionState) error {
	h := s.entry.held.Load()
	now := time.Now()
	if h == nil || !now.Before(h.cert.NotAfter) {
		return errors.New("our own certificate has gone during the handshake")
	}
	id, err := checkPeer(h, cs, x509.ExtKeyUsageClientAuth, now)
	if err != nil {
		return err
	}
	if id.TrustDomain != s.entry.id.TrustDomain && !s.cache.isAlias(id.TrustDomain) && h.cert.federated(id.TrustDomain) < 0 {
		return errDomain
	}
	return s.cache.Revoked(cs)
}

// clientEnd is the dialling side's part in one handshake.
type clientEnd struct {
	cache  *Cache
	entry  *entry
	expect []string
}

func (c *clientEnd) certificate(cri *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	h, err := c.cache.get(cri.Context(), c.entry)
	if err != nil {
		return nil, err
	}
	return &h.cert.Certificate, nil
}

func (c *clientEnd) expected() string {
	if len(c.expect) == 0 {
		return "nobody (no identity is known for this address)"
	}
	return strings.Join(c.expect[:min(len(c.expect), 4)], " or ")
}

func (c *clientEnd) verify(cs tls.ConnectionState) error {
	h, err := c.cache.get(context.Background(), c.entry) // bounded by IssueTimeout
	if err != nil {
		return err
	}
	if err := c.check(h, &cs); err != nil {
		return peerError(c.entry.id, c.expected(), &cs, err)
	}
	return nil
}

func (c *clientEnd) check(h *held, cs *tls.ConnectionState) error {
	id, err := checkPeer(h, cs, x509.ExtKeyUsageServerAuth, time.Now())
	if err != nil {
		return err
	}
	if !c.expects(id) {
		return errStranger
	}
	return c.cache.Revoked(cs)
}

// expects reports whether id is one of those expected: exactly, or under an
// alias of our trust domain where one of that is expected.
func (c *clientEnd) expects(id mesh.Identity) bool {
	for _, want := range c.expect {
		if isURI(want, id) {
			return true
		}
	}
	if id.TrustDomain != c.entry.id.TrustDomain && !c.cache.isAlias(id.TrustDomain) {
		return false
	}
	for _, domain := range c.cache.domains(c.entry.id) {
		id.TrustDomain = domain
		for _, want := range c.expect {
			if isURI(want, id) {
				return true
			}
		}
	}
	return false
}

// isURI reports whether uri is id.String(), without building it.
func isURI(uri string, id mesh.Identity) bool {
	for _, part := range [...]string{"spiffe://", id.TrustDomain, "/ns/", id.Namespace, "/sa/", id.ServiceAccount} {
		var ok bool
		if uri, ok = strings.CutPrefix(uri, part); !ok {
			return false
		}
	}
	return uri == ""
}

// checkPeer checks what both ends demand, and returns who the peer is.
func checkPeer(h *held, cs *tls.ConnectionState, eku x509.ExtKeyUsage, now time.Time) (mesh.Identity, error) {
	if cs.NegotiatedProtocol != alpn {
		return mesh.Identity{}, errALPN
	}
	if len(cs.PeerCertificates) == 0 {
		return mesh.Identity{}, errors.New("peer presented no certificate")
	}
	id, err := leafIdentity(cs.PeerCertificates[0])
	if err != nil {
		return mesh.Identity{}, err
	}
	if err := h.of(id.TrustDomain).chain(cs.PeerCertificates, eku, now); err != nil {
		return mesh.Identity{}, err
	}
	return id, nil
}
