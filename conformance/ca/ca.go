// Package ca issues the certificates of a test mesh: one self-signed P-256
// root and leaves that carry a SPIFFE URI, as files for the programs under
// test and as values for our own clients and servers.
//
// It shares nothing with the product's identity package on purpose: a mistake
// there must not be able to hide here.
package ca

import (
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
	"os"
	"path/filepath"
	"time"
)

// A CA signs leaves for one trust domain. It is safe for concurrent use.
type CA struct {
	trustDomain string
	cert        *x509.Certificate
	key         *ecdsa.PrivateKey
	// RootPEM is the root certificate that every party trusts.
	RootPEM []byte
}

// New makes a root for the trust domain that lives for two days.
func New(trustDomain string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the root key: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{Organization: []string{trustDomain}},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(48 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing the root: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parsing the root: %w", err)
	}
	return &CA{trustDomain: trustDomain, cert: cert, key: key, RootPEM: block("CERTIFICATE", der)}, nil
}

// A Leaf is one workload's certificate and key.
type Leaf struct {
	URI     string // spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT
	CertPEM []byte
	KeyPEM  []byte
	TLS     tls.Certificate
	roots   *x509.CertPool
}

// Issue signs a leaf for the service account, good for one day.
func (c *CA) Issue(namespace, account string) (*Leaf, error) {
	return c.IssueURI(fmt.Sprintf("spiffe://%s/ns/%s/sa/%s", c.trustDomain, namespace, account))
}

// IssueURI signs a leaf for any URI, one of another trust domain included.
func (c *CA) IssueURI(uri string) (*Leaf, error) {
	parsed, err := url.Parse(uri)
	if err != nil {
		return nil, fmt.Errorf("issuing for %s: %w", uri, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("issuing for %s: %w", uri, err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("issuing for %s: %w", uri, err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:         []*url.URL{parsed},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, key.Public(), c.key)
	if err != nil {
		return nil, fmt.Errorf("issuing for %s: %w", uri, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("issuing for %s: %w", uri, err)
	}
	leaf := &Leaf{URI: uri, CertPEM: block("CERTIFICATE", der), KeyPEM: block("PRIVATE KEY", keyDER), roots: x509.NewCertPool()}
	leaf.roots.AddCert(c.cert)
	if leaf.TLS, err = tls.X509KeyPair(leaf.CertPEM, leaf.KeyPEM); err != nil {
		return nil, fmt.Errorf("issuing for %s: %w", uri, err)
	}
	return leaf, nil
}

// CRL is the list of the leaves that the CA takes back, as PEM.
func (c *CA) CRL(revoked ...*Leaf) ([]byte, error) {
	tmpl := &x509.RevocationList{Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(24 * time.Hour)}
	for _, l := range revoked {
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: l.TLS.Leaf.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, tmpl, c.cert, c.key)
	if err != nil {
		return nil, fmt.Errorf("signing the list of revoked certificates: %w", err)
	}
	return block("X509 CRL", der), nil
}

// Files are the paths of one leaf on disk, as programs take them.
type Files struct{ Cert, Key, Root string }

// Write puts the leaf and the root into dir under names that start with name.
func (c *CA) Write(dir, name string, leaf *Leaf) (Files, error) {
	f := Files{
		Cert: filepath.Join(dir, name+"-cert.pem"),
		Key:  filepath.Join(dir, name+"-key.pem"),
		Root: filepath.Join(dir, "root-cert.pem"),
	}
	for path, text := range map[string][]byte{f.Cert: leaf.CertPEM, f.Key: leaf.KeyPEM, f.Root: c.RootPEM} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return Files{}, fmt.Errorf("writing the certificate of %s: %w", leaf.URI, err)
		}
	}
	return f, nil
}

// Client is the TLS configuration of an HBONE client: TLS 1.3, ALPN h2, no
// server name. Any peer of the trust root is accepted; a non-empty expect
// must be the peer's SPIFFE URI.
func (l *Leaf) Client(expect string) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{l.TLS},
		NextProtos:                  []string{"h2"},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		InsecureSkipVerify:          true, // SPIFFE names no host: VerifyConnection checks chain and URI instead.
		VerifyConnection: func(s tls.ConnectionState) error {
			if s.NegotiatedProtocol != "h2" {
				return fmt.Errorf("the peer chose ALPN %q, not h2", s.NegotiatedProtocol)
			}
			return l.verify(s, x509.ExtKeyUsageServerAuth, expect)
		},
	}
}

// Server is the TLS configuration of an HBONE server: it requires a client
// certificate of the trust root.
func (l *Leaf) Server() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{l.TLS},
		NextProtos:                  []string{"h2"},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		ClientAuth:                  tls.RequireAndVerifyClientCert,
		ClientCAs:                   l.roots,
	}
}

func (l *Leaf) verify(s tls.ConnectionState, usage x509.ExtKeyUsage, expect string) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the peer sent no certificate")
	}
	inter := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		inter.AddCert(c)
	}
	_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: l.roots, Intermediates: inter, KeyUsages: []x509.ExtKeyUsage{usage}})
	if err != nil {
		return fmt.Errorf("verifying the peer: %w", err)
	}
	if got := URI(s); expect != "" && got != expect {
		return fmt.Errorf("the peer is %q, expected %q", got, expect)
	}
	return nil
}

// URI returns the first URI name of the peer's certificate, or "".
func URI(s tls.ConnectionState) string {
	if len(s.PeerCertificates) == 0 || len(s.PeerCertificates[0].URIs) == 0 {
		return ""
	}
	return s.PeerCertificates[0].URIs[0].String()
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
