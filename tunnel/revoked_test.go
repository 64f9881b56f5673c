package tunnel

import (
	"log/slog"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/internal/logbuf"
	"cairnproxy.dev/cairn/mesh"
)

// revoking is a CA with a folder, and a cache that follows its list.
func revoking(t *testing.T, log *slog.Logger) (*identity.CA, *identity.Cache) {
	t.Helper()
	ca, err := identity.OpenCA(t.TempDir(), "cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	cache := identity.NewCache(ca.Issuer(time.Hour), identity.CacheOptions{CRL: identity.NewCRL(ca.CRLPath(), log)})
	var wg sync.WaitGroup
	wg.Go(func() { _ = cache.Run(t.Context()) })
	t.Cleanup(wg.Wait) // the context ends before
	return ca, cache
}

func (r *rig) dialAs(t *testing.T, pool *Pool, own mesh.Identity) (*Stream, error) {
	t.Helper()
	return pool.Dial(t.Context(), Target{Addr: r.addr, Own: own, Expect: []string{serverID.String()}}, Request{Authority: "10.0.0.1:80"})
}

// TestServerCutsRevoked: the open tunnel of a revoked client ends within two
// seconds, a new one is refused, and another identity's goes on.
func TestServerCutsRevoked(t *testing.T) {
	log := &logbuf.Buffer{}
	ca, cache := revoking(t, nil)
	// The clients do not know of the list, and so keep their certificates.
	clients := identity.NewCache(ca.Issuer(time.Hour), identity.CacheOptions{})
	handler, streams := hold(t)
	r := newRig(t, handler, func(o *ServerOptions) {
		o.TLS, o.Revocations, o.Log = cache.Server(serverID), cache, slog.New(slog.NewTextHandler(log, nil))
	})
	pool := NewPool(PoolOptions{Dial: dialTCP, TLS: clients.Client})
	defer pool.Close()
	otherID := mesh.Identity{TrustDomain: "cluster.local", Namespace: "ns", ServiceAccount: "other"}
	bad, err := r.dialAs(t, pool, clientID)
	if err != nil {
		t.Fatal(err)
	}
	<-streams
	good, err := r.dialAs(t, pool, otherID)
	if err != nil {
		t.Fatal(err)
	}
	theirs := <-streams
	cert, err := clients.Get(t.Context(), clientID)
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.Revoke(cert.Leaf.SerialNumber); err != nil {
		t.Fatal(err)
	}
	revoked := time.Now()
	within(t, "cutting the tunnel of a revoked peer", func() { <-bad.reset })
	t.Logf("cut after %s", time.Since(revoked).Round(time.Millisecond))
	if _, err := r.dialAs(t, pool, clientID); err == nil {
		t.Error("a revoked peer came in again")
	}
	if isClosed(good.reset) || isClosed(theirs.reset) {
		t.Error("another identity's stream was cut")
	}
	if _, err := r.dialAs(t, pool, otherID); err != nil {
		t.Errorf("another identity: %v", err)
	}
	serial := "serial=0x" + cert.Leaf.SerialNumber.Text(16)
	if s := log.String(); !strings.Contains(s, serial) || !strings.Contains(s, "identity="+clientID.String()) {
		t.Errorf("the log does not name identity and %s:\n%s", serial, s)
	}
}

// TestPoolCutsRevoked: so does a client with a revoked server's.
func TestPoolCutsRevoked(t *testing.T) {
	ca, cache := revoking(t, nil)
	servers := identity.NewCache(ca.Issuer(time.Hour), identity.CacheOptions{})
	handler, streams := hold(t)
	r := newRig(t, handler, func(o *ServerOptions) { o.TLS = servers.Server(serverID) })
	pool := NewPool(PoolOptions{Dial: dialTCP, TLS: cache.Client, Revocations: cache})
	defer pool.Close()
	s, err := r.dialAs(t, pool, clientID)
	if err != nil {
		t.Fatal(err)
	}
	<-streams
	// Another serial number than the server's changes nothing.
	if err := ca.Revoke(big.NewInt(1)); err != nil {
		t.Fatal(err)
	}
	first := cache.Revision()
	settled(t, "the list is read", func() bool { return cache.Revision() != first })
	cert, err := servers.Get(t.Context(), serverID)
	if err != nil {
		t.Fatal(err)
	}
	pool.Peer(Target{Addr: r.addr, Own: clientID, Expect: []string{serverID.String()}}).cutRevoked()
	if isClosed(s.reset) {
		t.Error("cut before the revocation")
	}
	if err := ca.Revoke(cert.Leaf.SerialNumber); err != nil {
		t.Fatal(err)
	}
	within(t, "cutting the tunnel to a revoked server", func() { <-s.reset })
	if _, err := r.dialAs(t, pool, clientID); err == nil {
		t.Error("a revoked server was dialled")
	}
}
