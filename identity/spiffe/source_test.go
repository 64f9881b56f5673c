package spiffe

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
)

var (
	web = mesh.Identity{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web"}
	db  = mesh.Identity{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "db"}
	far = mesh.Identity{TrustDomain: "other.example", Namespace: "shop", ServiceAccount: "far"}
)

// agent is a Workload API that answers what the test says.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	t      *testing.T
	socket string
	server *grpc.Server

	mu      sync.Mutex
	current *workload.X509SVIDResponse // nil: no identity issued
	changed chan struct{}
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	a := &agent{t: t, socket: filepath.Join(t.TempDir(), "agent.sock"), changed: make(chan struct{})}
	a.start()
	t.Cleanup(func() { a.server.Stop() })
	return a
}

func (a *agent) start() {
	a.t.Helper()
	ln, err := net.Listen("unix", a.socket)
	if err != nil {
		a.t.Fatal(err)
	}
	a.server = grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(a.server, a)
	go a.server.Serve(ln)
}

// push makes res what every stream gets now.
func (a *agent) push(res *workload.X509SVIDResponse) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.current = res
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, s grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	if md, _ := metadata.FromIncomingContext(s.Context()); len(md.Get("workload.spiffe.io")) != 1 {
		return status.Error(codes.InvalidArgument, "security header missing")
	}
	for {
		a.mu.Lock()
		res, changed := a.current, a.changed
		a.mu.Unlock()
		if res == nil {
			return status.Error(codes.PermissionDenied, "no identity issued")
		}
		if err := s.Send(res); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-s.Context().Done():
			return nil
		}
	}
}

// answer is a response with certificates of ca for ids.
func answer(t *testing.T, ca *identity.CA, federated map[string]*identity.CA, ids ...mesh.Identity) *workload.X509SVIDResponse {
	t.Helper()
	res := &workload.X509SVIDResponse{FederatedBundles: map[string][]byte{}}
	for _, id := range ids {
		c, err := ca.Issue(id, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		res.Svids = append(res.Svids, &workload.X509SVID{SpiffeId: id.String(), X509Svid: c.Leaf.Raw, X509SvidKey: key, Bundle: der(ca)})
	}
	for domain, other := range federated {
		res.FederatedBundles["spiffe://"+domain] = der(other)
	}
	return res
}

func der(ca *identity.CA) (out []byte) {
	for rest := ca.RootPEM(); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return out
		}
		out = append(out, b.Bytes...)
	}
}

func newCA(t *testing.T, domain string) *identity.CA {
	t.Helper()
	ca, err := identity.NewCA(domain)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// quick is a backoff for tests.
type quick struct{}

func (quick) NewBackoff() workloadapi.Backoff { return quick{} }
func (quick) Next() time.Duration             { return 5 * time.Millisecond }
func (quick) Reset()                          {}

// run starts a source and ends it with the test.
func run(t *testing.T, a *agent, log *slog.Logger) *Source {
	t.Helper()
	s, err := New("unix://"+a.socket, log)
	if err != nil {
		t.Fatal(err)
	}
	s.backoff = quick{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
	}
}

func TestIssue(t *testing.T) {
	a, ca, other := newAgent(t), newCA(t, "cluster.local"), newCA(t, "other.example")
	a.push(answer(t, ca, map[string]*identity.CA{"other.example": other}, web, db, web))
	s := run(t, a, nil)
	c, err := s.Issue(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	if c.Identity != web || !bytes.Equal(c.RootPEM, ca.RootPEM()) {
		t.Errorf("got %v", c)
	}
	if len(c.Federated) != 1 || c.Federated[0].TrustDomain != "other.example" || !bytes.Equal(c.Federated[0].RootPEM, other.RootPEM()) {
		t.Errorf("federated = %v", c.Federated)
	}
	if ids, err := s.Identities(t.Context()); err != nil || len(ids) != 2 || ids[0] != db || ids[1] != web {
		t.Errorf("identities = %v, %v", ids, err)
	}
	_, err = s.Issue(t.Context(), far)
	if err == nil || !strings.Contains(err.Error(), web.String()) || !strings.Contains(err.Error(), "registered?") {
		t.Errorf("an identity that was not given: %v", err)
	}
}

// TestPush: a new certificate with new roots reaches a cache without a call.
func TestPush(t *testing.T) {
	a, old, next := newAgent(t), newCA(t, "cluster.local"), newCA(t, "cluster.local")
	a.push(answer(t, old, nil, web))
	s := run(t, a, nil)
	cache := identity.NewCache(s, identity.CacheOptions{PollInterval: 20 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- cache.Run(ctx) }()
	defer func() { cancel(); <-done }()
	first, err := cache.Get(ctx, web)
	if err != nil {
		t.Fatal(err)
	}
	if s.Changed(web) || s.Changed(db) {
		t.Error("changed without a push")
	}
	if err := old.Trust(next.RootPEM()); err != nil {
		t.Fatal(err)
	}
	a.push(answer(t, old, nil, web))
	eventually(t, func() bool {
		c, err := cache.Get(ctx, web)
		return err == nil && !c.Leaf.Equal(first.Leaf) && bytes.Equal(c.RootPEM, old.RootPEM())
	})
}

// TestAgentAway: what was given serves on, and a new agent is followed.
func TestAgentAway(t *testing.T) {
	a, ca := newAgent(t), newCA(t, "cluster.local")
	a.push(answer(t, ca, nil, web))
	s := run(t, a, nil)
	first, err := s.Issue(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	a.server.Stop()
	eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.err != nil })
	if c, err := s.Issue(t.Context(), web); err != nil || c != first {
		t.Errorf("without the agent: %v, %v", c, err)
	}
	a.push(answer(t, ca, nil, web))
	a.start()
	eventually(t, func() bool { return s.Changed(web) })
}

// TestNotRegistered: the agent's refusal is the error, until it gives something.
func TestNotRegistered(t *testing.T) {
	a, ca := newAgent(t), newCA(t, "cluster.local")
	s := run(t, a, nil)
	eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.err != nil })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if c, err := s.Issue(ctx, web); err == nil || !strings.Contains(err.Error(), "no identity issued") {
		t.Errorf("got %v, %v", c, err)
	}
	a.push(answer(t, ca, nil, web))
	if _, err := s.Issue(t.Context(), web); err != nil {
		t.Error(err)
	}
}

// TestLeftOut: an ID that is not of the mesh's form is named in the log, and its
// neighbours are served.
func TestLeftOut(t *testing.T) {
	ca := newCA(t, "cluster.local")
	res := answer(t, ca, nil, web)
	other := plain(t, "spiffe://cluster.local/web")
	other.Bundle = res.Svids[0].Bundle // there is one for each trust domain
	res.Svids = append(res.Svids, other)
	var log bytes.Buffer
	a := newAgent(t)
	a.push(res)
	s := run(t, a, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if _, err := s.Issue(t.Context(), web); err != nil {
		t.Error(err)
	}
	if ids, err := s.Identities(t.Context()); err != nil || len(ids) != 1 {
		t.Errorf("identities = %v, %v", ids, err)
	}
	s.mu.Lock() // the log was written before the answer counted
	defer s.mu.Unlock()
	if text := log.String(); !strings.Contains(text, "spiffe://cluster.local/web") || strings.Contains(text, "PRIVATE") {
		t.Errorf("log = %s", text)
	}
}

// plain is a certificate with its own root and any SPIFFE ID.
func plain(t *testing.T, id string) *workload.X509SVID {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uri, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: root.NotBefore, NotAfter: root.NotAfter, URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &workload.X509SVID{SpiffeId: id, X509Svid: leafDER, X509SvidKey: keyDER, Bundle: rootDER}
}

func TestNewRefuses(t *testing.T) {
	for _, address := range []string{"", "/run/agent.sock", "http://x", "unix:relative"} {
		if _, err := New(address, nil); err == nil {
			t.Errorf("%q: no error", address)
		}
	}
}
