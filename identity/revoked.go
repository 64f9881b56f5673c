package identity

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// maxRoots bounds how many roots are remembered, those of the past included: a
// list of revoked certificates may be by an authority whose root has been replaced.
const maxRoots = 64

// Alias makes other trust domains stand for our own: their members are let in, as
// long as their chains lead to our roots, and where a peer of our trust domain is
// expected one of theirs with the same namespace and service account will do.
// It holds from the next handshake on, and replaces what was set before.
func (c *Cache) Alias(domains []string) {
	if old := c.aliases.Load(); old != nil && slices.Equal(*old, domains) {
		return
	}
	list := make([]string, len(domains))
	for i, d := range domains {
		list[i] = strings.Clone(d)
	}
	c.aliases.Store(&list)
}

func (c *Cache) isAlias(domain string) bool {
	p := c.aliases.Load()
	return p != nil && slices.Contains(*p, domain)
}

// domains are own's trust domain and its aliases.
func (c *Cache) domains(own mesh.Identity) []string {
	p := c.aliases.Load()
	if p == nil {
		return []string{own.TrustDomain}
	}
	return append([]string{own.TrustDomain}, *p...)
}

// Revision changes whenever the answers of Revoked may have changed. It is
// cheap, and constant without a CRL.
func (c *Cache) Revision() uint64 {
	if c.opts.CRL == nil {
		return 0
	}
	return c.opts.CRL.revision.Load()
}

// Revoked returns a *RevokedError if the certificate that a peer presented in a
// handshake, or an authority above it, has been revoked since; otherwise nil.
func (c *Cache) Revoked(cs *tls.ConnectionState) error {
	if e := c.revoked(cs.PeerCertificates); e != nil {
		return e
	}
	return nil
}

func (c *Cache) revoked(certs []*x509.Certificate) *RevokedError {
	if c.opts.CRL == nil {
		return nil
	}
	return c.opts.CRL.set.Load().find(certs, c.anchors)
}

// anchors are the roots that certificates of ours trust, or trusted.
func (c *Cache) anchors() []*x509.Certificate {
	if p := c.roots.Load(); p != nil {
		return *p
	}
	return nil
}

// noteRoots remembers roots of ours or of a federated trust domain. c.mu is held.
func (c *Cache) noteRoots(rootPEM []byte) {
	if c.opts.CRL == nil {
		return
	}
	more, _ := parsePEM(rootPEM) // it was parsed before
	list := slices.Clone(c.anchors())
	for _, r := range more {
		if !slices.ContainsFunc(list, r.Equal) {
			list = append(list, r)
		}
	}
	list = list[max(0, len(list)-maxRoots):]
	c.roots.Store(&list)
}

// revokedChanged follows a new list: certificates of our own that are on it are
// renewed, which an issuer that made the list will do with another serial number.
func (c *Cache) revokedChanged() {
	for _, e := range c.list() {
		if h := e.held.Load(); h != nil && c.tellOwn(h.cert) {
			e.mu.Lock()
			e.due = true
			e.mu.Unlock()
		}
	}
	c.poke()
}

// tellOwn says if a certificate of our own was revoked: peers that know of it
// refuse us, and say so to nobody here.
func (c *Cache) tellOwn(cert *Cert) bool {
	if c.opts.CRL == nil {
		return false
	}
	chain := make([]*x509.Certificate, 0, len(cert.Certificate.Certificate))
	for _, der := range cert.Certificate.Certificate {
		if x, err := x509.ParseCertificate(der); err == nil {
			chain = append(chain, x)
		}
	}
	e := c.revoked(chain)
	if e == nil {
		return false
	}
	c.log.Warn("our own certificate was revoked: peers refuse it", "identity", cert.Identity.String(), "serial", e.Serial, "issuer", e.Issuer)
	return true
}
