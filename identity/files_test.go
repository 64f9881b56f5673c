package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// onDisk is a set of certificate files.
type onDisk struct{ cert, key, root string }

func newOnDisk(t *testing.T) onDisk {
	t.Helper()
	dir := t.TempDir()
	return onDisk{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "root.pem")}
}

func keyPEM(tb testing.TB, c *Cert) []byte {
	tb.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func put(tb testing.TB, name string, text []byte) {
	tb.Helper()
	// As tools do it: write aside, rename over.
	if err := os.WriteFile(name+".new", text, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		tb.Fatal(err)
	}
}

func (d onDisk) put(tb testing.TB, c *Cert) {
	tb.Helper()
	put(tb, d.cert, certPEM(c.Leaf))
	put(tb, d.key, keyPEM(tb, c))
	put(tb, d.root, c.RootPEM)
}

func TestFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, d := mustCA(t), newOnDisk(t)
		issue := func() *Cert {
			c, err := ca.Issue(alice, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		first, second := issue(), issue()
		d.put(t, first)
		c := NewCache(NewFiles(d.cert, d.key, d.root), CacheOptions{})
		start(t, c)
		using := func(want *Cert, when string) {
			t.Helper()
			got, err := c.Get(t.Context(), alice)
			if err != nil || !got.Leaf.Equal(want.Leaf) {
				t.Fatalf("%s: %v, %v; want %v", when, got, err, want)
			}
		}
		using(first, "at first")
		time.Sleep(40 * time.Minute)
		using(first, "past half of its life, files unchanged")

		put(t, d.cert, certPEM(second.Leaf))
		time.Sleep(5 * time.Second)
		using(first, "certificate replaced, key not yet")
		put(t, d.key, keyPEM(t, second)[:60])
		time.Sleep(5 * time.Second)
		using(first, "half a key")
		put(t, d.key, keyPEM(t, second))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		using(second, "both replaced")

		third := issue()
		d.put(t, third)
		time.Sleep(time.Second)
		using(third, "at the next handshake")

		time.Sleep(2 * time.Hour)
		if got, err := c.Get(t.Context(), alice); err == nil {
			t.Errorf("expired: %v", got)
		}
		fourth := issue()
		d.put(t, fourth)
		time.Sleep(3 * time.Second)
		using(fourth, "renewed after it had expired")
	})
}

func TestFilesRefuse(t *testing.T) {
	ca, other := mustCA(t), mustCA(t)
	good, err := ca.Issue(alice, 0)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := other.Issue(alice, 0)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name            string
		cert, key, root []byte
		id              mesh.Identity
		want            string
	}{
		{"good", certPEM(good.Leaf), keyPEM(t, good), ca.RootPEM(), alice, ""},
		{"several-roots", certPEM(good.Leaf), keyPEM(t, good), slices.Concat(other.RootPEM(), ca.RootPEM()), alice, ""},
		{"other-identity", certPEM(good.Leaf), keyPEM(t, good), ca.RootPEM(), bob, "not for spiffe://cluster.local/ns/prod/sa/bob"},
		{"other-key", certPEM(good.Leaf), keyPEM(t, stranger), ca.RootPEM(), alice, "does not match"},
		{"other-root", certPEM(good.Leaf), keyPEM(t, good), other.RootPEM(), alice, "not signed by one of our roots"},
		{"no-root", certPEM(good.Leaf), keyPEM(t, good), []byte("\n"), alice, "no PEM block"},
		{"key-as-root", certPEM(good.Leaf), keyPEM(t, good), keyPEM(t, good), alice, "not a CERTIFICATE"},
		{"swapped", keyPEM(t, good), certPEM(good.Leaf), ca.RootPEM(), alice, "pairing"},
		{"expired", certPEM(expired(t, ca).Leaf), keyPEM(t, expired(t, ca)), ca.RootPEM(), alice, ""},
	}
	// One certificate for both files of the last case.
	old := expired(t, ca)
	tests[len(tests)-1].cert, tests[len(tests)-1].key, tests[len(tests)-1].want = certPEM(old.Leaf), keyPEM(t, old), "valid from"
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := newOnDisk(t)
			put(t, d.cert, tt.cert)
			put(t, d.key, tt.key)
			put(t, d.root, tt.root)
			c, err := NewFiles(d.cert, d.key, d.root).Issue(t.Context(), tt.id)
			switch {
			case tt.want == "" && (err != nil || c.Identity != tt.id):
				t.Errorf("Issue = %v, %v", c, err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("Issue = %v, %v; want an error with %q", c, err, tt.want)
			case err != nil && strings.Contains(err.Error(), strings.Split(string(keyPEM(t, good)), "\n")[1]):
				t.Errorf("the error quotes the key: %v", err)
			}
		})
	}
	d := newOnDisk(t)
	if _, err := NewFiles(d.cert, d.key, d.root).Load(); err == nil || !strings.Contains(err.Error(), d.cert) {
		t.Errorf("missing files: %v", err)
	}
}

func expired(tb testing.TB, ca *CA) *Cert {
	tb.Helper()
	return sign(tb, ca, alice, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })
}

// FuzzNewCert: no text crashes it, and what it accepts has an identity and roots.
func FuzzNewCert(f *testing.F) {
	ca := mustCA(f)
	good, err := ca.Issue(alice, 0)
	if err != nil {
		f.Fatal(err)
	}
	key := keyPEM(f, good)
	f.Add(certPEM(good.Leaf), key, ca.RootPEM())
	f.Add(key, certPEM(good.Leaf), []byte{})
	f.Add(slices.Concat(certPEM(good.Leaf), ca.RootPEM()), key, slices.Concat(ca.RootPEM(), ca.RootPEM()))
	f.Fuzz(func(t *testing.T, cert, key, root []byte) {
		c, err := NewCert(cert, key, root)
		if err == nil && (c.Identity.IsZero() || c.Roots == nil || c.Leaf == nil) {
			t.Errorf("accepted %v", c)
		}
		if err != nil && bytes.Contains([]byte(err.Error()), []byte("PRIVATE KEY-----")) {
			t.Errorf("error quotes its input: %v", err)
		}
	})
}
