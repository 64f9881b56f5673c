package identity

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
)

// Bundle is the roots of another trust domain that is federated with our own:
// its members are believed by these roots, and by no others.
type Bundle struct {
	TrustDomain string
	Roots       *x509.CertPool
	RootPEM     []byte
}

// NewCertOf makes a Cert, as NewCert does, of what is parsed already: a chain
// (leaf first) with its key, the roots of its own trust domain, and those of
// federated ones by their names.
func NewCertOf(chain []*x509.Certificate, key any, roots []*x509.Certificate, federated map[string][]*x509.Certificate) (*Cert, error) {
	if len(chain) == 0 || len(roots) == 0 {
		return nil, fmt.Errorf("there are %d certificates and %d roots", len(chain), len(roots))
	}
	pair := tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	c, err := newCert(pair, roots, pemOf(roots))
	if err != nil {
		return nil, err
	}
	for _, domain := range slices.Sorted(maps.Keys(federated)) {
		if domain == c.Identity.TrustDomain || len(federated[domain]) == 0 {
			continue
		}
		b := Bundle{TrustDomain: domain, Roots: x509.NewCertPool(), RootPEM: pemOf(federated[domain])}
		for _, r := range federated[domain] {
			b.Roots.AddCert(r)
		}
		c.Federated = append(c.Federated, b)
	}
	return c, nil
}

// federated is where a trust domain stands among those federated, else -1.
func (c *Cert) federated(trustDomain string) int {
	for i := range c.Federated {
		if c.Federated[i].TrustDomain == trustDomain {
			return i
		}
	}
	return -1
}

func pemOf(certs []*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, certPEM(c)...)
	}
	return out
}
