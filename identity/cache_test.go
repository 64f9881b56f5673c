package identity

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// flaky is a CA whose calls take a while and can be made to fail.
type flaky struct {
	ca    *CA
	ttl   time.Duration
	takes time.Duration

	calls, running, peak atomic.Int32
	broken               atomic.Bool
}

func (f *flaky) Issue(ctx context.Context, id mesh.Identity) (*Cert, error) {
	f.calls.Add(1)
	f.peak.Store(max(f.peak.Load(), f.running.Add(1)))
	defer f.running.Add(-1)
	if f.takes > 0 {
		timer := time.NewTimer(f.takes)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if f.broken.Load() {
		return nil, errors.New("CA is down")
	}
	return f.ca.Issue(id, f.ttl)
}

// start runs the cache and stops it at the end of the bubble.
func start(t *testing.T, c *Cache) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
}

func TestSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{ca: mustCA(t), takes: time.Second}
		c := NewCache(f, CacheOptions{})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if _, err := c.Get(t.Context(), alice); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := f.calls.Load(); n != 1 {
			t.Errorf("issuer was called %d times; want 1", n)
		}
	})
}

// TestLeaderLeaves: the caller that fetches gives up; another one carries on.
func TestLeaderLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{ca: mustCA(t), takes: 3 * time.Second}
		c := NewCache(f, CacheOptions{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		first := make(chan error)
		go func() {
			_, err := c.Get(ctx, alice)
			first <- err
		}()
		synctest.Wait()
		second := make(chan error)
		go func() {
			_, err := c.Get(t.Context(), alice)
			second <- err
		}()
		if err := <-first; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("first = %v", err)
		}
		if err := <-second; err != nil {
			t.Errorf("second = %v", err)
		}
		if n := f.calls.Load(); n != 2 {
			t.Errorf("issuer was called %d times; want 2", n)
		}
	})
}

func TestIssuerHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{ca: mustCA(t), takes: time.Hour}
		c := NewCache(f, CacheOptions{IssueTimeout: 5 * time.Second})
		began := time.Now()
		_, err := c.Get(t.Context(), alice)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 5*time.Second {
			t.Errorf("Get = %v after %s", err, time.Since(began))
		}
	})
}

func TestConcurrencyBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{ca: mustCA(t), takes: time.Second}
		c := NewCache(f, CacheOptions{MaxConcurrent: 3})
		start(t, c)
		for i := range 10 {
			c.Prefetch(mesh.Identity{TrustDomain: "cluster.local", Namespace: "n", ServiceAccount: fmt.Sprint(i)})
		}
		time.Sleep(time.Minute)
		if n := len(c.Status()); n != 10 || f.peak.Load() != 3 {
			t.Errorf("%d identities with at most %d at once; want 10 with 3", n, f.peak.Load())
		}
		for _, s := range c.Status() {
			if s.Cert == nil || s.Err != nil {
				t.Errorf("%s: %v, %v", s.Identity, s.Cert, s.Err)
			}
		}
	})
}

func TestRenewAtHalfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{ca: mustCA(t), ttl: 24 * time.Hour}
		c := NewCache(f, CacheOptions{})
		start(t, c)
		first, err := c.Get(t.Context(), alice)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		half := first.NotBefore.Add(first.NotAfter.Sub(first.NotBefore) / 2)
		time.Sleep(time.Until(half) - time.Second)
		synctest.Wait()
		if now, _ := c.Get(t.Context(), alice); now != first {
			t.Error("renewed before half of its life")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if now, _ := c.Get(t.Context(), alice); now == first {
			t.Error("not renewed at half of its life")
		}
		// A week later it is still being renewed, and no more often than that.
		time.Sleep(7 * 24 * time.Hour)
		synctest.Wait()
		if n := f.calls.Load(); n < 15 || n > 16 {
			t.Errorf("%d calls in a week; want one per 12 hours", n)
		}
	})
}

// TestRenewalFails: the old certificate serves until it expires, then nothing
// does, and the CA's return ends it.
func TestRenewalFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{ca: mustCA(t), ttl: time.Hour}
		c := NewCache(f, CacheOptions{MaxBackoff: time.Minute})
		start(t, c)
		first, err := c.Get(t.Context(), alice)
		if err != nil {
			t.Fatal(err)
		}
		f.broken.Store(true)
		time.Sleep(time.Until(first.NotAfter) - time.Second)
		if now, err := c.Get(t.Context(), alice); now != first || err != nil {
			t.Errorf("just before its end: %v, %v", now, err)
		}
		if n := f.calls.Load(); n < 30 || n > 60 {
			t.Errorf("%d calls in half an hour of failing; want about one a minute", n)
		}
		if s := c.Status()[0]; s.Err == nil || s.Cert != first {
			t.Errorf("status = %+v", s)
		}
		server, client := c.Server(alice), NewCache(f.ca.Issuer(0), CacheOptions{})
		time.Sleep(time.Second)
		if now, err := c.Get(t.Context(), alice); err == nil {
			t.Errorf("after its end: %v", now)
		}
		var unavailable *UnavailableError
		if _, _, _, err := handshake(client.Client(bob, []string{alice.String()}), server); !errors.As(err, &unavailable) {
			t.Errorf("handshake with an expired certificate: %v", err)
		}
		f.broken.Store(false)
		time.Sleep(2 * time.Minute)
		if _, _, cerr, serr := handshake(client.Client(bob, []string{alice.String()}), server); cerr != nil || serr != nil {
			t.Errorf("after the CA's return: %v, %v", cerr, serr)
		}
	})
}

// TestFirstFetchFails: the pause after a failure spares the issuer.
func TestFirstFetchFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{ca: mustCA(t)}
		f.broken.Store(true)
		c := NewCache(f, CacheOptions{})
		for range 100 {
			if _, err := c.Get(t.Context(), alice); err == nil || !strings.Contains(err.Error(), alice.String()) {
				t.Fatalf("Get = %v", err)
			}
		}
		if n := f.calls.Load(); n != 1 {
			t.Errorf("issuer was called %d times; want 1", n)
		}
		f.broken.Store(false)
		time.Sleep(1200 * time.Millisecond)
		if _, err := c.Get(t.Context(), alice); err != nil {
			t.Error(err)
		}
	})
}

// TestPrefetchRetries: Run keeps trying for an identity that nobody waits for.
func TestPrefetchRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{ca: mustCA(t)}
		f.broken.Store(true)
		c := NewCache(f, CacheOptions{})
		start(t, c)
		c.Prefetch(alice)
		time.Sleep(10 * time.Minute)
		f.broken.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := c.Status(); len(s) != 1 || s[0].Cert == nil {
			t.Errorf("status = %+v", s)
		}
		if n := f.calls.Load(); n > 40 {
			t.Errorf("%d calls in ten minutes of failing", n)
		}
		c.Forget(alice)
		if s := c.Status(); len(s) != 0 {
			t.Errorf("after Forget: %+v", s)
		}
	})
}

// TestRotationUnderHandshakes: configs made once present the newest certificate.
func TestRotationUnderHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := mustCA(t)
		c := NewCache(ca.Issuer(time.Hour), CacheOptions{})
		start(t, c)
		server, client := c.Server(bob), c.Client(alice, []string{bob.String()})
		serials := map[string]bool{}
		for range 20 {
			cs, ss, cerr, serr := handshake(client, server)
			if cerr != nil || serr != nil {
				t.Fatalf("client: %v, server: %v", cerr, serr)
			}
			serials[cs.PeerCertificates[0].SerialNumber.String()] = true
			serials[ss.PeerCertificates[0].SerialNumber.String()] = true
			time.Sleep(15 * time.Minute)
		}
		if len(serials) < 18 { // 5 hours, two identities, half an hour each
			t.Errorf("%d different certificates in five hours; want about 20", len(serials))
		}
	})
}

// TestRootRollover: old and new members talk at every step.
func TestRootRollover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before, after := mustCA(t), mustCA(t)
		var signer atomic.Pointer[CA]
		signer.Store(before)
		issuer := IssuerFunc(func(_ context.Context, id mesh.Identity) (*Cert, error) { return signer.Load().Issue(id, 0) })
		server, client := NewCache(issuer, CacheOptions{}), NewCache(issuer, CacheOptions{})
		start(t, server)
		start(t, client)
		sc, cc := server.Server(bob), client.Client(alice, []string{bob.String()})
		talk := func(when string) {
			t.Helper()
			if _, _, cerr, serr := handshake(cc, sc); cerr != nil || serr != nil {
				t.Fatalf("%s: client: %v, server: %v", when, cerr, serr)
			}
		}
		renew := func(c *Cache) {
			c.RenewAll()
			synctest.Wait()
		}
		talk("at first")
		if err := errors.Join(before.Trust(after.RootPEM()), after.Trust(before.RootPEM())); err != nil {
			t.Fatal(err)
		}
		renew(server)
		talk("server trusts both roots")
		renew(client)
		talk("both trust both roots")
		signer.Store(after)
		renew(server)
		talk("server has a leaf of the new root")
		renew(client)
		talk("all is new")
		if n := bytes.Count(after.RootPEM(), []byte("BEGIN CERTIFICATE")); n != 2 {
			t.Errorf("%d roots; want 2", n)
		}
	})
}

// TestIssuerLies: what an issuer returns is checked before it is used.
func TestIssuerLies(t *testing.T) {
	ca := mustCA(t)
	other, err := ca.Issue(bob, 0)
	if err != nil {
		t.Fatal(err)
	}
	old, future, rootless := *other, *other, *other
	old.Identity, old.NotAfter = alice, time.Now().Add(-time.Second)
	future.Identity, future.NotBefore = alice, time.Now().Add(time.Hour)
	rootless.Identity, rootless.Roots = alice, nil
	for name, c := range map[string]*Cert{"nothing": nil, "other": other, "old": &old, "future": &future, "rootless": &rootless} {
		t.Run(name, func(t *testing.T) {
			if got, err := NewCache(fixed(c), CacheOptions{}).Get(t.Context(), alice); err == nil {
				t.Errorf("accepted %v", got)
			}
		})
	}
}

// TestNoSecrets: no way of printing a certificate shows its key.
func TestNoSecrets(t *testing.T) {
	ca := mustCA(t)
	c, err := ca.Issue(alice, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "%v %+v %#v %s %q %d %x\n", c, c, c, c, c, c, c)
	fmt.Fprintf(&out, "%v %+v %#v\n", *c, Status{Cert: c}, []any{c})
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "cert", c)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "cert", c, "status", Status{Cert: c})
	if err := json.NewEncoder(&out).Encode(map[string]any{"cert": c, "value": *c}); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"PrivateKey", "PRIVATE", "Curve", `"D"`} {
		if strings.Contains(out.String(), bad) {
			t.Errorf("output holds %q:\n%.600s", bad, out.String())
		}
	}
	if !strings.Contains(out.String(), alice.String()) {
		t.Errorf("output does not name the identity:\n%s", out.String())
	}
}

func TestBackoff(t *testing.T) {
	c := NewCache(nil, CacheOptions{})
	for n, seconds := range []int{1, 2, 4, 8, 16, 30, 30} {
		n, want := n+1, time.Duration(seconds)*time.Second
		for range 20 {
			if d := c.backoff(n); d < want*8/10 || d > want*12/10+1 {
				t.Errorf("backoff(%d) = %s; want about %s", n, d, want)
			}
		}
	}
	if d := c.backoff(1_000_000); d > 36*time.Second {
		t.Errorf("backoff(1000000) = %s", d)
	}
}

// TestCacheChaos: callers, renewals, failures and forgetting all at once never
// hand out an expired certificate, nor one of somebody else.
func TestCacheChaos(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{ca: mustCA(t), ttl: 10 * time.Minute, takes: 3 * time.Second}
		c := NewCache(f, CacheOptions{})
		start(t, c)
		var wg sync.WaitGroup
		ids := []mesh.Identity{alice, bob}
		for i := range 8 {
			rnd := rand.New(rand.NewPCG(uint64(i), 1))
			wg.Go(func() {
				for range 300 {
					id := ids[rnd.IntN(2)]
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rnd.IntN(9))*time.Second)
					if got, err := c.Get(ctx, id); err == nil && (got.Identity != id || !time.Now().Before(got.NotAfter)) {
						t.Errorf("Get(%s) = %v at %s", id, got, time.Now())
					}
					cancel()
					switch rnd.IntN(20) {
					case 0:
						c.Forget(id)
					case 1:
						c.RenewAll()
					case 2:
						f.broken.Store(rnd.IntN(2) == 0)
					}
					time.Sleep(time.Duration(rnd.IntN(60)) * time.Second)
				}
			})
		}
		wg.Wait()
	})
}

func TestGetAllocatesNothing(t *testing.T) {
	c := NewCache(mustCA(t).Issuer(0), CacheOptions{})
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		if _, err := c.Get(ctx, alice); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestStatusJSON: the form that istioctl reads.
func TestStatusJSON(t *testing.T) {
	ca := mustCA(t)
	c := NewCache(IssuerFunc(func(_ context.Context, id mesh.Identity) (*Cert, error) {
		if id == bob {
			return nil, errors.New("no such account")
		}
		return ca.Issue(id, 0)
	}), CacheOptions{})
	cert, err := c.Get(t.Context(), alice)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(t.Context(), bob); err == nil {
		t.Fatal("bob got a certificate")
	}
	c.Prefetch(mesh.Identity{TrustDomain: "cluster.local", Namespace: "z", ServiceAccount: "z"})
	text, err := json.Marshal(c.Status())
	if err != nil {
		t.Fatal(err)
	}
	type dumped struct{ PEM, SerialNumber, ValidFrom, ExpirationTime string }
	var got []struct {
		Identity, State      string
		CertChain, RootCerts []dumped
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got[0].Identity != alice.String() || got[0].State != "Available" || got[1].State != "Unavailable: no such account" || got[2].State != "Initializing" {
		t.Fatalf("status = %s", text)
	}
	chain, root := got[0].CertChain, got[0].RootCerts
	if len(chain) != 1 || len(root) != 1 || chain[0].SerialNumber != cert.Leaf.SerialNumber.String() || chain[0].ExpirationTime != cert.NotAfter.Format(time.RFC3339) {
		t.Errorf("status = %s", text)
	}
	if raw, err := base64.StdEncoding.DecodeString(root[0].PEM); err != nil || !bytes.Equal(raw, ca.RootPEM()) {
		t.Errorf("root came back as %q, %v", raw, err)
	}
	if strings.Contains(string(text), "PRIVATE") {
		t.Error("status holds a key")
	}
}
