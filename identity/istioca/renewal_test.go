package istioca

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"istio.io/api/security/v1alpha1"

	"cairnproxy.dev/cairn/identity"
)

// TestRenewalEnds: a connection that was opened with a certificate renews nothing once that
// certificate is over, or was revoked. Otherwise a thief would have a new one, of a serial
// number that is on no list.
func TestRenewalEnds(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca, err := identity.OpenCA(dir, "cluster.local")
		if err != nil {
			t.Fatal(err)
		}
		s := NewServer(ServerOptions{CA: ca, Tokens: NewTokens(ca.TokenKey(), "cluster.local")})
		open := func() context.Context {
			t.Helper()
			own, err := ca.Issue(web, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			chain := []*x509.Certificate{own.Leaf}
			return peer.NewContext(t.Context(), &peer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{
				PeerCertificates: chain, VerifiedChains: [][]*x509.Certificate{chain},
			}}})
		}
		leafOf := func(ctx context.Context) *x509.Certificate {
			p, _ := peer.FromContext(ctx)
			return p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0]
		}
		first, second := open(), open()
		for _, ctx := range []context.Context{first, second} {
			if c, err := s.caller(ctx); err != nil || c.Identity != web {
				t.Fatalf("caller = %v, %v", c, err)
			}
		}
		if err := ca.Revoke(leafOf(first).SerialNumber); err != nil {
			t.Fatal(err)
		}
		var revoked *identity.RevokedError
		if _, err := s.caller(first); !errors.As(err, &revoked) {
			t.Errorf("who was revoked: %v", err)
		}
		if _, err := s.caller(second); err != nil {
			t.Errorf("who was not: %v", err)
		}
		time.Sleep(time.Hour)
		if _, err := s.caller(second); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("who is over: %v", err)
		}
		if err := os.WriteFile(ca.CRLPath(), []byte("nothing"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.caller(open()); err == nil || !strings.Contains(err.Error(), ca.CRLPath()) {
			t.Errorf("with a list that cannot be read: %v", err)
		}
	})
}

// TestKnown: whom the mesh does not have any more gets nothing, and nobody is told about the
// CA's inside.
func TestKnown(t *testing.T) {
	dir := t.TempDir()
	ca, err := identity.OpenCA(dir, "cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	tokens, gone := NewTokens(ca.TokenKey(), "cluster.local"), false
	s := NewServer(ServerOptions{CA: ca, Tokens: tokens, Known: func(c Caller) error {
		if gone || c.Identity != web {
			return errors.New("there is no such account")
		}
		return nil
	}})
	token, err := tokens.Make(Caller{Identity: web}, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	csr, _, err := newRequest(web)
	if err != nil {
		t.Fatal(err)
	}
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+token))
	ask := func() (*v1alpha1.IstioCertificateResponse, error) {
		return s.CreateCertificate(ctx, &v1alpha1.IstioCertificateRequest{Csr: csr})
	}
	if _, err := ask(); err != nil {
		t.Fatal(err)
	}
	gone = true
	if _, err := ask(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("an account that is gone: %v", err)
	}
	gone = false
	if err := os.Remove(filepath.Join(dir, "ca.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(); status.Code(err) != codes.Internal || strings.Contains(err.Error(), dir) {
		t.Errorf("a CA that cannot sign: %v", err)
	}
}

// TestLargeKey: a key whose signature would take seconds to check is refused by its size.
func TestLargeKey(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseCSR(csrPEM(der)); err != nil {
		t.Fatal(err)
	}
	// The parts of a request are put together again around a key of 100,000 bits.
	var req struct {
		TBS struct {
			Raw        asn1.RawContent
			Version    int
			Subject    asn1.RawValue
			Key        struct{ Algorithm, Bits asn1.RawValue }
			Attributes asn1.RawValue `asn1:"tag:0"`
		}
		Algorithm, Signature asn1.RawValue
	}
	if _, err := asn1.Unmarshal(der, &req); err != nil {
		t.Fatal(err)
	}
	n := new(big.Int).SetBit(big.NewInt(1), 100_000, 1)
	pub, err := asn1.Marshal(rsa.PublicKey{N: n, E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	bits, err := asn1.Marshal(asn1.BitString{Bytes: pub, BitLength: 8 * len(pub)})
	if err != nil {
		t.Fatal(err)
	}
	req.TBS.Raw, req.TBS.Key.Bits = nil, asn1.RawValue{FullBytes: bits}
	if der, err = asn1.Marshal(req); err != nil {
		t.Fatal(err)
	}
	if _, err := parseCSR(csrPEM(der)); err == nil || !strings.Contains(err.Error(), "2048 to 8192 bits") {
		t.Errorf("parseCSR = %v", err)
	}
}

func csrPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}
