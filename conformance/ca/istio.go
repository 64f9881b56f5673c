package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"
	"istio.io/api/security/v1alpha1"
)

// Service is a CA that serves Istio's API, and what a caller shows it.
type Service struct {
	Address   string // host:port
	RootFile  string // the roots that its certificate is trusted by
	TokenFile string
	// Impersonate, if not empty, is the SPIFFE URI that a node proxy asks for.
	Impersonate string
}

// Request asks the service for a certificate that lives ttl.
func (s Service) Request(ctx context.Context, ttl time.Duration) (*Leaf, error) {
	root, err := os.ReadFile(s.RootFile)
	if err != nil {
		return nil, fmt.Errorf("reading the roots: %w", err)
	}
	token, err := os.ReadFile(s.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("reading the token: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	conn, err := grpc.NewClient("passthrough:///"+s.Address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool})))
	if err != nil {
		return nil, fmt.Errorf("connecting to the CA: %w", err)
	}
	defer conn.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("making a request: %w", err)
	}
	req := &v1alpha1.IstioCertificateRequest{Csr: string(block("CERTIFICATE REQUEST", csr)), ValidityDuration: int64(ttl / time.Second)}
	if s.Impersonate != "" {
		req.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{"ImpersonatedIdentity": structpb.NewStringValue(s.Impersonate)}}
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+strings.TrimSpace(string(token)), "clusterid", "conformance")
	res, err := v1alpha1.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("CreateCertificate: %w", err)
	}
	chain := res.GetCertChain()
	if len(chain) < 2 {
		return nil, fmt.Errorf("the answer is a chain of %d", len(chain))
	}
	l := &Leaf{TLS: tls.Certificate{PrivateKey: key}, roots: x509.NewCertPool()}
	for _, text := range chain[:len(chain)-1] {
		b, _ := pem.Decode([]byte(text))
		if b == nil {
			return nil, errors.New("the answer is not PEM")
		}
		l.TLS.Certificate = append(l.TLS.Certificate, b.Bytes)
	}
	if l.TLS.Leaf, err = x509.ParseCertificate(l.TLS.Certificate[0]); err != nil {
		return nil, fmt.Errorf("the answer's leaf: %w", err)
	}
	if !l.roots.AppendCertsFromPEM([]byte(chain[len(chain)-1])) {
		return nil, errors.New("the answer's last element holds no root")
	}
	return l, nil
}
