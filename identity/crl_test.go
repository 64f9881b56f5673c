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
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// authority is a CA of tests that signs what it is told to.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(tb testing.TB, name string, parent *authority) *authority {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	serial, err := newSerial()
	if err != nil {
		tb.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	by := &authority{tmpl, key}
	if parent != nil {
		by = parent
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by.cert, key.Public(), by.key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return &authority{cert, key}
}

// leaf issues a certificate for alice that trusts roots, with the chain above it.
func (a *authority) leaf(tb testing.TB, roots []*authority, above ...*authority) *Cert {
	tb.Helper()
	c := sign(tb, mustCA(tb), alice, nil) // for its key and names
	serial, err := newSerial()
	if err != nil {
		tb.Fatal(err)
	}
	tmpl := *c.Leaf
	tmpl.SerialNumber, tmpl.AuthorityKeyId = serial, nil
	der, err := x509.CreateCertificate(rand.Reader, &tmpl, a.cert, &c.PrivateKey.(*ecdsa.PrivateKey).PublicKey, a.key)
	if err != nil {
		tb.Fatal(err)
	}
	chain := certPEM(&x509.Certificate{Raw: der})
	for _, i := range above {
		chain = append(chain, certPEM(i.cert)...)
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		tb.Fatal(err)
	}
	var trusted []byte
	for _, r := range roots {
		trusted = append(trusted, certPEM(r.cert)...)
	}
	cert, err := NewCert(chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), trusted)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

// list is a CRL of a, with a month to go.
func (a *authority) list(tb testing.TB, serials ...*big.Int) []byte {
	tb.Helper()
	return a.listTo(tb, time.Now().Add(30*24*time.Hour), nil, serials...)
}

func (a *authority) listTo(tb testing.TB, next time.Time, ext []pkix.Extension, serials ...*big.Int) []byte {
	tb.Helper()
	tmpl := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: next, ExtraExtensions: ext}
	for _, n := range serials {
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, tmpl, a.cert, a.key)
	if err != nil {
		tb.Fatal(err)
	}
	return crlPEM(der)
}

func write(tb testing.TB, path string, parts ...[]byte) {
	tb.Helper()
	if err := replaceFile(path, bytes.Join(parts, nil), 0o644); err != nil {
		tb.Fatal(err)
	}
}

// TestRevokedPeer: who is revoked is refused, at both ends, and nobody else.
func TestRevokedPeer(t *testing.T) {
	root, second := newAuthority(t, "root", nil), newAuthority(t, "second", nil)
	roots := []*authority{root, second}
	inter := newAuthority(t, "inter", root)
	// It has the root's name and another key.
	impostor := newAuthority(t, "root", nil)
	direct, other := root.leaf(t, roots), second.leaf(t, roots)
	below := inter.leaf(t, roots, inter)
	tests := []struct {
		name    string
		crl     [][]byte
		peer    *Cert
		refused bool
	}{
		{"no_entries", [][]byte{root.list(t)}, direct, false},
		{"leaf", [][]byte{root.list(t, direct.Leaf.SerialNumber)}, direct, true},
		{"another_leaf", [][]byte{root.list(t, big.NewInt(7), below.Leaf.SerialNumber)}, direct, false},
		{"second_of_two_lists", [][]byte{root.list(t), second.list(t, other.Leaf.SerialNumber)}, other, true},
		{"two_lists_of_one_issuer", [][]byte{root.list(t, direct.Leaf.SerialNumber), root.list(t)}, direct, true},
		{"serial_of_other_issuer", [][]byte{second.list(t, direct.Leaf.SerialNumber)}, direct, false},
		{"leaf_of_intermediate", [][]byte{inter.list(t, below.Leaf.SerialNumber)}, below, true},
		{"intermediate", [][]byte{root.list(t, inter.cert.SerialNumber)}, below, true},
		{"intermediate_spares_others", [][]byte{root.list(t, inter.cert.SerialNumber)}, direct, false},
		{"by_name_and_other_key", [][]byte{impostor.list(t, direct.Leaf.SerialNumber)}, direct, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), CRLFile)
			write(t, path, tt.crl...)
			crl := NewCRL(path, nil)
			if err := crl.Load(); err != nil {
				t.Fatal(err)
			}
			ours := NewCache(fixed(root.leaf(t, roots)), CacheOptions{CRL: crl})
			theirs := NewCache(fixed(tt.peer), CacheOptions{})
			check := func(side string, own, peer error) {
				var revoked *RevokedError
				switch got := errors.As(own, &revoked); {
				case got != tt.refused:
					t.Errorf("%s: %v, want revoked %v", side, own, tt.refused)
				case !got && own != nil:
					t.Errorf("%s: %v", side, own)
				case got && (peer == nil || revoked.Serial == "" || revoked.Issuer == ""):
					t.Errorf("%s: %+v, peer: %v", side, revoked, peer)
				}
			}
			_, _, cerr, serr := handshake(theirs.Client(alice, []string{alice.String()}), ours.Server(alice))
			check("server", serr, cerr)
			_, _, cerr, serr = handshake(ours.Client(alice, []string{alice.String()}), theirs.Server(alice))
			check("client", cerr, serr)
		})
	}
}

// TestRevokedAnchor: an intermediate that is trusted itself may be revoked by the root above it.
func TestRevokedAnchor(t *testing.T) {
	root := newAuthority(t, "root", nil)
	inter := newAuthority(t, "inter", root)
	roots := []*authority{inter, root}
	peer := inter.leaf(t, roots)
	path := filepath.Join(t.TempDir(), CRLFile)
	write(t, path, root.list(t, inter.cert.SerialNumber))
	crl := NewCRL(path, nil)
	if err := crl.Load(); err != nil {
		t.Fatal(err)
	}
	ours := NewCache(fixed(root.leaf(t, roots)), CacheOptions{CRL: crl})
	_, _, _, serr := handshake(NewCache(fixed(peer), CacheOptions{}).Client(alice, []string{alice.String()}), ours.Server(alice))
	if e, ok := errors.AsType[*RevokedError](serr); !ok || !e.Identity.IsZero() {
		t.Errorf("server: %v, want the authority revoked", serr)
	}
}

// TestCRLRefused: what is no list is refused by name, and what was in force stays.
func TestCRLRefused(t *testing.T) {
	root := newAuthority(t, "root", nil)
	forged := newAuthority(t, "root", nil)
	forged.cert.SubjectKeyId = root.cert.SubjectKeyId // it claims to be by the root's key
	good := root.list(t, big.NewInt(5))
	critical := func(id ...int) []pkix.Extension {
		return []pkix.Extension{{Id: asn1.ObjectIdentifier(id), Critical: true, Value: []byte{5, 0}}}
	}
	tests := []struct{ name, text, want string }{
		{"empty", "", "without entries"},
		{"text", "nothing here", "without entries"},
		{"certificate", string(certPEM(root.cert)), "not an X509 CRL"},
		{"garbage", string(crlPEM([]byte("x"))), "block 1"},
		{"good_then_garbage", string(good) + string(crlPEM([]byte("x"))), "block 2"},
		{"half", string(good[:len(good)/2]), "without entries"},
		{"delta", string(root.listTo(t, time.Now().Add(time.Hour), critical(2, 5, 29, 27))), "a delta list?"},
		{"forged", string(forged.list(t, big.NewInt(6))), "not signed by the root"},
		{"large", strings.Repeat("#", maxCRL+1), "larger than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), CRLFile)
			write(t, path, good)
			var log bytes.Buffer
			crl := NewCRL(path, slog.New(slog.NewTextHandler(&log, nil)))
			anchors := func() []*x509.Certificate { return []*x509.Certificate{root.cert} }
			if !crl.poll(anchors, time.Now()) {
				t.Fatalf("the good list was not taken: %s", &log)
			}
			set, revision := crl.set.Load(), crl.revision.Load()
			write(t, path, []byte(tt.text))
			for range 3 {
				if crl.poll(anchors, time.Now()) {
					t.Error("the bad list was taken")
				}
			}
			if crl.set.Load() != set || crl.revision.Load() != revision {
				t.Error("the good list is gone")
			}
			if n := strings.Count(log.String(), tt.want); n != 1 {
				t.Errorf("told %d times of %q, want once:\n%s", n, tt.want, &log)
			}
			write(t, path, root.list(t))
			if !crl.poll(anchors, time.Now()) || crl.set.Load().size() != 0 {
				t.Errorf("the next good list was not taken: %s", &log)
			}
		})
	}
}

// TestCRLFile: a list may come later, be DER, name a part, be overdue, and go.
func TestCRLFile(t *testing.T) {
	root := newAuthority(t, "root", nil)
	path := filepath.Join(t.TempDir(), CRLFile)
	var log bytes.Buffer
	crl := NewCRL(path, slog.New(slog.NewTextHandler(&log, nil)))
	if err := crl.Load(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load = %v, want not found", err)
	}
	none := func() []*x509.Certificate { return nil }
	crl.poll(none, time.Now())
	part := []pkix.Extension{{Id: extIssuingPoint, Critical: true, Value: []byte{0x30, 0}}}
	b, _ := pem.Decode(root.listTo(t, time.Now().Add(time.Hour), part, big.NewInt(9)))
	write(t, path, b.Bytes)
	if !crl.poll(none, time.Now()) || crl.set.Load().size() != 1 {
		t.Fatalf("DER was not taken: %s", &log)
	}
	for range 3 {
		crl.poll(none, time.Now().Add(2*time.Hour))
	}
	if n := strings.Count(log.String(), "overdue"); n != 1 || crl.set.Load().size() != 1 {
		t.Errorf("told %d times that it is overdue, holds %d:\n%s", n, crl.set.Load().size(), &log)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if crl.poll(none, time.Now()) || crl.set.Load().size() != 1 {
		t.Error("a list that is gone took its revocations along")
	}
}

// TestCRLRun: Run follows the file, and renews a certificate of our own that was revoked.
func TestCRLRun(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca, err := OpenCA(dir, "cluster.local")
		if err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, nil))
		cache := NewCache(ca.Issuer(0), CacheOptions{CRL: NewCRL(ca.CRLPath(), logger), Log: logger})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = cache.Run(ctx)
		}()
		mine, err := cache.Get(ctx, alice)
		if err != nil {
			t.Fatal(err)
		}
		peer, err := ca.Issue(bob, 0)
		if err != nil {
			t.Fatal(err)
		}
		cs := tls.ConnectionState{PeerCertificates: []*x509.Certificate{peer.Leaf}}
		before := cache.Revision()
		if err := cache.Revoked(&cs); err != nil {
			t.Errorf("Revoked = %v before", err)
		}
		if err := ca.Revoke(peer.Leaf.SerialNumber, mine.Leaf.SerialNumber); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		e, ok := errors.AsType[*RevokedError](cache.Revoked(&cs))
		if !ok || e.Identity != bob || cache.Revision() == before {
			t.Errorf("Revoked = %v, revision %d after %d", e, cache.Revision(), before)
		}
		again, err := cache.Get(ctx, alice)
		if err != nil || again.Leaf.SerialNumber.Cmp(mine.Leaf.SerialNumber) == 0 {
			t.Errorf("our own certificate was not renewed: %v, %v", again, err)
		}
		if !strings.Contains(log.String(), "our own certificate was revoked") {
			t.Errorf("log: %s", &log)
		}
		cancel()
		<-ended
	})
}

// TestCARevoke: lists grow, survive a rotation, and are told apart from others.
func TestCARevoke(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca, err := OpenCA(dir, "cluster.local")
		if err != nil {
			t.Fatal(err)
		}
		first, err := ca.Issue(alice, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		revoke := func(n *big.Int) {
			t.Helper()
			if err := ca.Revoke(n); err != nil {
				t.Fatal(err)
			}
		}
		is := func(c *Cert) bool {
			t.Helper()
			crl := NewCRL(ca.CRLPath(), nil)
			if err := crl.Load(); err != nil {
				t.Fatal(err)
			}
			roots, err := parsePEM(ca.RootPEM())
			if err != nil {
				t.Fatal(err)
			}
			return crl.set.Load().find([]*x509.Certificate{c.Leaf}, func() []*x509.Certificate { return roots }) != nil
		}
		revoke(big.NewInt(77))
		if is(first) {
			t.Error("the first counts as revoked")
		}
		revoke(first.Leaf.SerialNumber)
		if err := ca.Rotate(); err != nil {
			t.Fatal(err)
		}
		late, err := ca.Issue(bob, time.Hour) // by the first root
		if err != nil {
			t.Fatal(err)
		}
		if revoke(big.NewInt(78)); !is(first) || is(late) {
			t.Errorf("after a rotation began: revoked %v, and %v", is(first), is(late))
		}
		time.Sleep(90 * time.Minute) // the second root signs
		if err := ca.Tend(); err != nil {
			t.Fatal(err)
		}
		second, err := ca.Issue(bob, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if revoke(second.Leaf.SerialNumber); !is(second) || !is(first) || is(late) {
			t.Errorf("under the second root: revoked %v, the first still %v, and %v", is(second), is(first), is(late))
		}
		// What the first root signed can be revoked as long as it is trusted.
		if revoke(late.Leaf.SerialNumber); !is(late) {
			t.Error("a certificate of the root that signs no more cannot be revoked")
		}
		for _, n := range []*big.Int{nil, big.NewInt(0), big.NewInt(-3), ca.state.roots[1].cert.SerialNumber} {
			if err := ca.Revoke(n); err == nil {
				t.Errorf("Revoke(%v) went well", n)
			}
		}
		write(t, ca.CRLPath(), []byte("mine"))
		if err := ca.Revoke(big.NewInt(1)); err == nil {
			t.Error("a file that holds something else was overwritten")
		}
	})
}

func FuzzCRL(f *testing.F) {
	root := newAuthority(f, "root", nil)
	list := root.list(f, big.NewInt(5), big.NewInt(6))
	f.Add(list)
	f.Add(append(list, list...))
	b, _ := pem.Decode(list)
	f.Add(b.Bytes)
	peer := root.leaf(f, []*authority{root})
	anchors := func() []*x509.Certificate { return []*x509.Certificate{root.cert} }
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := parseCRL(text)
		if err != nil {
			return
		}
		if len(s.lists) == 0 {
			t.Error("neither lists nor an error")
		}
		_ = s.review(anchors())
		if e := s.find([]*x509.Certificate{peer.Leaf}, anchors); e != nil {
			t.Errorf("found what the root did not revoke: %v", e)
		}
	})
}

// BenchmarkVerifyPeerCRL is BenchmarkVerifyPeer with a long list in force.
func BenchmarkVerifyPeerCRL(b *testing.B) {
	root := newAuthority(b, "root", nil)
	serials := make([]*big.Int, 10_000)
	for i := range serials {
		serials[i] = big.NewInt(int64(i + 1))
	}
	path := filepath.Join(b.TempDir(), CRLFile)
	write(b, path, root.list(b, serials...))
	crl := NewCRL(path, nil)
	if err := crl.Load(); err != nil {
		b.Fatal(err)
	}
	peer := root.leaf(b, []*authority{root})
	cache := NewCache(fixed(peer), CacheOptions{CRL: crl})
	cs := tls.ConnectionState{NegotiatedProtocol: alpn, PeerCertificates: []*x509.Certificate{peer.Leaf}}
	verify := cache.Client(alice, []string{alice.String()}).VerifyConnection
	b.ReportAllocs()
	for b.Loop() {
		if err := verify(cs); err != nil {
			b.Fatal(err)
		}
	}
}
