package identity

import (
	"bytes"
	"crypto/x509"
	"log/slog"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRevokedHidden: who came with an authority once cannot come back without it, so as to
// hide that it was revoked since.
func TestRevokedHidden(t *testing.T) {
	root := newAuthority(t, "root", nil)
	inter := newAuthority(t, "inter", root)
	roots := []*authority{root}
	whole := inter.leaf(t, roots, inter)
	bare := *whole
	bare.Certificate.Certificate = whole.Certificate.Certificate[:1]
	path := filepath.Join(t.TempDir(), CRLFile)
	write(t, path, root.list(t))
	crl := NewCRL(path, nil)
	if err := crl.Load(); err != nil {
		t.Fatal(err)
	}
	ours := NewCache(fixed(root.leaf(t, roots)), CacheOptions{CRL: crl})
	meet := func(c *Cert) error {
		_, _, _, err := handshake(NewCache(fixed(c), CacheOptions{}).Client(alice, []string{alice.String()}), ours.Server(alice))
		return err
	}
	if err := meet(whole); err != nil {
		t.Fatal(err)
	}
	if err := meet(&bare); err == nil {
		t.Error("a leaf without its authority was let in, and its tunnel would not be cut")
	}
	write(t, path, root.list(t, inter.cert.SerialNumber))
	if err := crl.Load(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*Cert{"whole": whole, "bare": &bare} {
		if err := meet(c); err == nil {
			t.Errorf("%s: let in although its authority was revoked", name)
		}
	}
}

// TestCRLAgain: what stood in the way of a list may go without the file being another.
func TestCRLAgain(t *testing.T) {
	old, root := newAuthority(t, "root", nil), newAuthority(t, "root", nil)
	path := filepath.Join(t.TempDir(), CRLFile)
	list := root.list(t, big.NewInt(5))
	write(t, path, list)
	var log bytes.Buffer
	crl := NewCRL(path, slog.New(slog.NewTextHandler(&log, nil)))
	trusted := []*x509.Certificate{old.cert}
	anchors := func() []*x509.Certificate { return trusted }
	now := time.Now()
	old.cert.SubjectKeyId, root.cert.SubjectKeyId = nil, nil // nothing tells the keys of the two roots apart
	for range 100 {
		now = now.Add(crlPoll)
		if crl.poll(anchors, now) {
			t.Fatal("the list of a root that is not known yet was taken")
		}
	}
	if n := strings.Count(log.String(), "not signed by the root"); n != 1 {
		t.Errorf("told %d times, want once:\n%s", n, &log)
	}
	trusted = append(trusted, root.cert)
	taken := false
	for end := now.Add(crlAgain + crlPoll); !taken && now.Before(end); now = now.Add(crlPoll) {
		taken = crl.poll(anchors, now)
	}
	if !taken || crl.set.Load().size() != 1 {
		t.Errorf("the list was not read again: %s", &log)
	}
}
