package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// identity is the proxy's certificate and whom it trusts.
type identity struct {
	cert  tls.Certificate
	roots *x509.CertPool
}

func loadIdentity(c config) (*identity, error) {
	cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, fmt.Errorf("loading the certificate: %w", err)
	}
	root, err := os.ReadFile(c.Root)
	if err != nil {
		return nil, fmt.Errorf("loading the root: %w", err)
	}
	id := &identity{cert, x509.NewCertPool()}
	if !id.roots.AppendCertsFromPEM(root) {
		return nil, fmt.Errorf("loading the root: no certificate in %s", c.Root)
	}
	return id, nil
}

func (id *identity) server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{id.cert},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: id.roots, NextProtos: []string{"h2"},
	}
}

// client accepts the peer of that URI alone. Certificates of a mesh name no
// host, which is what crypto/tls would look for.
func (id *identity) client(uri string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{id.cert}, NextProtos: []string{"h2"},
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("the endpoint sent no certificate")
			}
			leaf := s.PeerCertificates[0]
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: id.roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
				return fmt.Errorf("verifying the endpoint: %w", err)
			}
			if got := principal(s.PeerCertificates); got != uri {
				return fmt.Errorf("the endpoint is %q, expected %q", got, uri)
			}
			return nil
		},
	}
}

// principal is the first URI of the peer's certificate.
func principal(chain []*x509.Certificate) string {
	if len(chain) == 0 || len(chain[0].URIs) == 0 {
		return ""
	}
	return chain[0].URIs[0].String()
}
