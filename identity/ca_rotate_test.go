package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// TestRotate: at every moment of a rotation any two members whose certificates
// are valid accept each other, whenever in their lives they were issued.
func TestRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := mustCA(t)
		const life = 10 * time.Hour
		var members []*Cert
		issue := func() {
			c, err := ca.Issue(alice, life)
			if err != nil {
				t.Fatal(err)
			}
			members = append(members, c)
		}
		meet := func(at time.Duration) {
			now := time.Now()
			for _, a := range members {
				for _, b := range members {
					if !now.Before(a.NotAfter) || !now.Before(b.NotAfter) {
						continue
					}
					if err := newVerifier(a.Roots).chain([]*x509.Certificate{b.Leaf}, x509.ExtKeyUsageClientAuth, now); err != nil {
						t.Fatalf("after %s: issued %s refuses issued %s: %v", at, a.NotBefore, b.NotBefore, err)
					}
				}
			}
		}
		issue()
		first := rootOf(ca)
		begin := time.Now()
		time.Sleep(time.Hour)
		if err := ca.Rotate(); err != nil {
			t.Fatal(err)
		}
		if err := ca.Rotate(); err == nil || !strings.Contains(err.Error(), "under way") {
			t.Errorf("second rotation at once: %v", err)
		}
		signers := map[string]bool{}
		for time.Since(begin) < 40*time.Hour {
			issue()
			if len(members)%4 == 0 {
				meet(time.Since(begin))
			}
			signers[members[len(members)-1].Leaf.Issuer.CommonName] = true
			time.Sleep(41 * time.Minute)
			if err := ca.Tend(); err != nil {
				t.Fatal(err)
			}
		}
		if len(signers) != 2 {
			t.Errorf("signers = %v, want the old root and the new", signers)
		}
		last := members[len(members)-1]
		if bytes.Contains(last.RootPEM, certPEM(first)) || bytes.Contains(ca.RootPEM(), certPEM(first)) {
			t.Error("the old root is still trusted")
		}
		if roots, err := ca.Roots(); err != nil || len(roots) != 1 || !roots[0].Signs || len(ca.state.roots) != 1 {
			t.Errorf("roots = %+v, %v", roots, err)
		}
		if err := ca.Rotate(); err != nil {
			t.Errorf("next rotation: %v", err)
		}
	})
}

// TestRotateForgetsKeys: a root that is trusted no more is in no file any more, nor is its key.
func TestRotateForgetsKeys(t *testing.T) {
	dir := t.TempDir()
	ca, err := OpenCA(dir, "cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Issue(alice, time.Second+500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	other, err := OpenCA(dir, "cluster.local") // `cairn ca rotate` beside the mesh
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Rotate(); err != nil {
		t.Fatal(err)
	}
	c, err := ca.Issue(alice, time.Second+500*time.Millisecond)
	if err != nil || len(mustParse(t, c.RootPEM)) != 2 {
		t.Fatalf("the first does not follow: %v, %v", c, err)
	}
	if text, err := os.ReadFile(ca.RootFile()); err != nil || len(mustParse(t, text)) != 2 {
		t.Errorf("root file: %v", err)
	}
	keys := func() (n int) {
		text, err := os.ReadFile(filepath.Join(dir, caStateFile))
		if err != nil {
			t.Fatal(err)
		}
		var f stateFile
		if err := json.Unmarshal(text, &f); err != nil {
			t.Fatal(err)
		}
		for _, r := range f.Roots {
			if r.Key != "" {
				n++
			}
		}
		return n
	}
	if n := keys(); n != 2 {
		t.Errorf("%d keys in the first phase", n)
	}
	waitFor(t, func() bool {
		if err := ca.Tend(); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(ca.RootFile())
		return err == nil && len(mustParse(t, text)) == 1 && keys() == 1
	})
}

// TestLeafWithinRetirement: a life longer than ever before, asked for during a
// rotation, does not outlive the root that signs it.
func TestLeafWithinRetirement(t *testing.T) {
	ca := mustCA(t)
	if _, err := ca.Issue(alice, time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := ca.Rotate(); err != nil {
		t.Fatal(err)
	}
	c, err := ca.Issue(alice, 100*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if end := ca.state.roots[0].retires; c.NotAfter.After(end) {
		t.Errorf("leaf until %s, its root is trusted until %s", c.NotAfter, end)
	}
}

func TestTrust(t *testing.T) {
	ca, other := mustCA(t), mustCA(t)
	for range 2 {
		if err := ca.Trust(other.RootPEM()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(mustParse(t, ca.RootPEM())); n != 2 {
		t.Errorf("%d roots", n)
	}
	if err := ca.Trust([]byte("nothing")); err == nil {
		t.Error("trusts nothing")
	}
}

func TestSign(t *testing.T) {
	ca := mustCA(t)
	c, err := ca.Issue(alice, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	leaf, roots, err := ca.Sign(c.Leaf.PublicKey, alice, time.Hour)
	if err != nil || !bytes.Equal(roots, ca.RootPEM()) {
		t.Fatal(err)
	}
	if got := mustParse(t, leaf)[0]; len(got.URIs) != 1 || got.URIs[0].String() != alice.String() {
		t.Errorf("names = %v", got.URIs)
	}
	if _, _, err := ca.Sign("no key", alice, time.Hour); err == nil {
		t.Error("signed no key")
	}
	if _, _, err := ca.Sign(c.Leaf.PublicKey, mesh.Identity{TrustDomain: "elsewhere", Namespace: "a", ServiceAccount: "b"}, 0); err == nil {
		t.Error("signed for another trust domain")
	}
}

func TestIssueServer(t *testing.T) {
	ca := mustCA(t)
	c, err := ca.IssueServer([]string{"ca.example", "127.0.0.1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca.example", "127.0.0.1"} {
		if _, err := c.Leaf.Verify(x509.VerifyOptions{Roots: poolOf(ca), DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := leafIdentity(c.Leaf); err == nil {
		t.Error("it passes for a workload")
	}
}

func mustParse(t *testing.T, text []byte) []*x509.Certificate {
	t.Helper()
	certs, err := parsePEM(text)
	if err != nil {
		t.Fatal(err)
	}
	return certs
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
	}
}
