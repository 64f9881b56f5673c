package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

func TestLeaf(t *testing.T) {
	c, err := mustCA(t).Issue(alice, 0)
	if err != nil {
		t.Fatal(err)
	}
	l := c.Leaf
	if k, ok := l.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		t.Errorf("key is %T", l.PublicKey)
	}
	if len(l.URIs) != 1 || l.URIs[0].String() != alice.String() || len(l.DNSNames)+len(l.IPAddresses)+len(l.EmailAddresses) != 0 {
		t.Errorf("names = %v %v %v %v", l.URIs, l.DNSNames, l.IPAddresses, l.EmailAddresses)
	}
	if l.Subject.String() != "" || l.IsCA || l.KeyUsage != x509.KeyUsageDigitalSignature || len(l.ExtKeyUsage) != 2 {
		t.Errorf("subject %q, CA %v, usage %v %v", l.Subject, l.IsCA, l.KeyUsage, l.ExtKeyUsage)
	}
	for _, e := range l.Extensions {
		if e.Id.String() == "2.5.29.17" && !e.Critical {
			t.Error("the names are not critical although the subject is empty")
		}
	}
	if life := l.NotAfter.Sub(l.NotBefore); life != LeafTTL+time.Minute || time.Since(l.NotBefore) < time.Minute {
		t.Errorf("valid %s to %s", l.NotBefore, l.NotAfter)
	}
	if bits := l.SerialNumber.BitLen(); bits < 64 || bits > 128 {
		t.Errorf("serial number has %d bits", bits)
	}
}

func TestRoot(t *testing.T) {
	ca := mustCA(t)
	c := rootOf(ca)
	if !c.IsCA || c.MaxPathLen != 0 || !c.MaxPathLenZero || c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
		t.Errorf("CA %v, path %d %v, usage %v", c.IsCA, c.MaxPathLen, c.MaxPathLenZero, c.KeyUsage)
	}
	if _, err := NewCA("a b"); err == nil {
		t.Error("made a CA for a bad trust domain")
	}
}

func TestIssueRefuses(t *testing.T) {
	ca := mustCA(t)
	for name, id := range map[string]mesh.Identity{
		"zero":         {},
		"other-domain": eve,
		"no-account":   {TrustDomain: "cluster.local", Namespace: "a"},
		"slash":        {TrustDomain: "cluster.local", Namespace: "a/sa/b", ServiceAccount: "c"},
		"space":        {TrustDomain: "cluster.local", Namespace: "a", ServiceAccount: "c d"},
	} {
		t.Run(name, func(t *testing.T) {
			if c, err := ca.Issue(id, 0); err == nil {
				t.Errorf("issued %v", c)
			}
		})
	}
	if c, err := ca.Issue(alice, -time.Hour); err == nil {
		t.Errorf("issued %v", c)
	}
	c, err := ca.Issue(alice, 20*365*24*time.Hour)
	if err != nil || c.NotAfter.After(rootOf(ca).NotAfter) {
		t.Errorf("leaf outlives its root: %v, %v", c, err)
	}
}

func TestOpenCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "ca")
	first, err := OpenCA(dir, "cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenCA(dir, "cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	c, err := again.Issue(alice, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := newVerifier(poolOf(first)).chain([]*x509.Certificate{c.Leaf}, x509.ExtKeyUsageClientAuth, time.Now()); err != nil {
		t.Errorf("a certificate of the reopened CA: %v", err)
	}
	key := filepath.Join(dir, caStateFile)
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info, err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, caRootFile)); err != nil || !bytes.Equal(text, first.RootPEM()) {
		t.Errorf("root file: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".new-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := OpenCA(dir, "other.example"); err == nil || !strings.Contains(err.Error(), "other.example") {
		t.Errorf("opened for another trust domain: %v", err)
	}
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCA(dir, "cluster.local"); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("opened a key that others may read: %v", err)
	}
}

func poolOf(ca *CA) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(rootOf(ca))
	return p
}

// rootOf is the first root of a CA.
func rootOf(ca *CA) *x509.Certificate { return ca.state.roots[0].cert }

// TestOpenCATogether: whoever comes first makes the root, all get the same.
func TestOpenCATogether(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	roots := make([][]byte, 8)
	for i := range roots {
		wg.Go(func() {
			ca, err := OpenCA(dir, "cluster.local")
			if err != nil {
				t.Error(err)
				return
			}
			roots[i] = ca.RootPEM()
		})
	}
	wg.Wait()
	for _, r := range roots[1:] {
		if !bytes.Equal(r, roots[0]) {
			t.Fatal("two of them have different roots")
		}
	}
}

func TestOpenCABroken(t *testing.T) {
	encoded := func(change func(*stateFile)) []byte {
		text, err := mustCA(t).state.encode()
		if err != nil {
			t.Fatal(err)
		}
		var f stateFile
		if err := json.Unmarshal(text, &f); err != nil {
			t.Fatal(err)
		}
		change(&f)
		text, err = json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	good := encoded(func(*stateFile) {})
	if _, err := decodeCA(good, "cluster.local", time.Now()); err != nil {
		t.Fatal(err)
	}
	var other stateFile
	if err := json.Unmarshal(encoded(func(*stateFile) {}), &other); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"empty":     nil,
		"half":      good[:len(good)/2],
		"no-key":    encoded(func(f *stateFile) { f.Roots[0].Key = "" }),
		"no-root":   encoded(func(f *stateFile) { f.Roots[0].Certificate = "" }),
		"no-roots":  encoded(func(f *stateFile) { f.Roots = nil }),
		"other-key": encoded(func(f *stateFile) { f.Roots[0].Key = other.Roots[0].Key }),
		"not-yet":   encoded(func(f *stateFile) { f.Roots[0].SignsFrom = time.Now().Add(time.Hour) }),
		"life":      encoded(func(f *stateFile) { f.LongestLeaf = "secret" }),
		"token":     encoded(func(f *stateFile) { f.TokenKey = []byte("secret") }),
		"garbage": encoded(func(f *stateFile) {
			f.Roots[0].Key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret words")}))
		}),
		"unknown": append([]byte(`{"secret":1,`), good[1:]...),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, caStateFile), text, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := OpenCA(dir, "cluster.local")
			if err == nil || !strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), "secret") {
				t.Errorf("OpenCA = %v", err)
			}
		})
	}
}

// FuzzDecodeCA: no text makes the reader panic, and what it takes it writes.
func FuzzDecodeCA(f *testing.F) {
	ca, err := NewCA("cluster.local")
	if err != nil {
		f.Fatal(err)
	}
	text, err := ca.state.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"trustDomain":"cluster.local","longestLeaf":"1h","roots":[{"retires":"2026-01-01T00:00:00Z"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := decodeCA(text, "cluster.local", time.Now())
		if err != nil {
			return
		}
		again, err := s.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeCA(again, "cluster.local", time.Now()); err != nil {
			t.Errorf("does not read what it wrote: %v", err)
		}
	})
}

// TestOpenSSL: another implementation accepts what the CA makes.
func TestOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	ca := mustCA(t)
	c, err := ca.Issue(alice, 0)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	leaf, root := filepath.Join(dir, "leaf.pem"), filepath.Join(dir, "root.pem")
	for name, text := range map[string][]byte{leaf: certPEM(c.Leaf), root: ca.RootPEM()} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, purpose := range []string{"sslclient", "sslserver"} {
		out, err := exec.CommandContext(t.Context(), openssl, "verify", "-x509_strict", "-purpose", purpose, "-CAfile", root, leaf).CombinedOutput()
		if err != nil {
			t.Errorf("openssl verify -purpose %s: %v\n%s", purpose, err, out)
		}
	}
	out, err := exec.CommandContext(t.Context(), openssl, "x509", "-in", leaf, "-noout", "-text").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "URI:"+alice.String()) {
		t.Errorf("openssl x509: %v\n%s", err, out)
	}
}
