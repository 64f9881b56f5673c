package identity

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

var (
	alice = mesh.Identity{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "alice"}
	bob   = mesh.Identity{TrustDomain: "cluster.local", Namespace: "prod", ServiceAccount: "bob"}
	eve   = mesh.Identity{TrustDomain: "evil.example", Namespace: "prod", ServiceAccount: "bob"}
)

func mustCA(tb testing.TB) *CA {
	tb.Helper()
	ca, err := NewCA("cluster.local")
	if err != nil {
		tb.Fatal(err)
	}
	return ca
}

// sign makes a certificate of ca for id that edit may spoil, unchecked.
func sign(tb testing.TB, ca *CA, id mesh.Identity, edit func(*x509.Certificate)) *Cert {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	u, err := url.Parse(id.String())
	if err != nil {
		tb.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		URIs:         []*url.URL{u},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if edit != nil {
		edit(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, rootOf(ca), key.Public(), ca.state.roots[0].key)
	if err != nil {
		tb.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(rootOf(ca))
	return &Cert{
		Certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf},
		Roots:       roots, RootPEM: ca.RootPEM(), Identity: id, NotBefore: tmpl.NotBefore, NotAfter: tmpl.NotAfter,
	}
}

// fixed is an issuer of one certificate, whatever it is.
func fixed(c *Cert) Issuer {
	return IssuerFunc(func(context.Context, mesh.Identity) (*Cert, error) { return c, nil })
}

// handshake connects the two in memory and lets each send a byte, which under
// TLS 1.3 is when a client learns that it was refused.
func handshake(client, server *tls.Config) (cs, ss tls.ConnectionState, cerr, serr error) {
	a, b := net.Pipe()
	// Who refuses may write its alert while the other still writes: a pipe has no
	// buffer that would take it, and the two would wait for each other.
	stuck := time.AfterFunc(5*time.Second, func() { a.Close(); b.Close() })
	defer stuck.Stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		ss, serr = talk(tls.Server(b, server), b)
	}()
	cs, cerr = talk(tls.Client(a, client), a)
	<-done
	return cs, ss, cerr, serr
}

func talk(c *tls.Conn, raw net.Conn) (tls.ConnectionState, error) {
	defer raw.Close()
	if err := c.Handshake(); err != nil {
		return tls.ConnectionState{}, err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write([]byte("x"))
		sent <- err
	}()
	_, err := c.Read(make([]byte, 1))
	if err != nil {
		raw.Close() // lets the write end
	}
	return c.ConnectionState(), cmp.Or(err, <-sent)
}

func TestHandshake(t *testing.T) {
	ca := mustCA(t)
	cache := NewCache(ca.Issuer(0), CacheOptions{})
	cs, ss, cerr, serr := handshake(cache.Client(alice, []string{alice.String(), bob.String()}), cache.Server(bob))
	if cerr != nil || serr != nil {
		t.Fatalf("client: %v, server: %v", cerr, serr)
	}
	if id, err := PeerOf(cs); err != nil || id != bob {
		t.Errorf("client's peer = %v, %v; want %v", id, err, bob)
	}
	if id, err := PeerOf(ss); err != nil || id != alice {
		t.Errorf("server's peer = %v, %v; want %v", id, err, alice)
	}
	if cs.Version != tls.VersionTLS13 || cs.NegotiatedProtocol != "h2" || cs.CurveID != tls.X25519MLKEM768 || ss.ServerName != "" || cs.DidResume {
		t.Errorf("state = version %x, alpn %q, curve %v, sni %q, resumed %v", cs.Version, cs.NegotiatedProtocol, cs.CurveID, ss.ServerName, cs.DidResume)
	}
}

// TestCurves: each of the three groups works when the peer knows only it.
func TestCurves(t *testing.T) {
	cache := NewCache(mustCA(t).Issuer(0), CacheOptions{})
	for _, curve := range []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256} {
		t.Run(curve.String(), func(t *testing.T) {
			client := cache.Client(alice, []string{bob.String()})
			client.CurvePreferences = []tls.CurveID{curve}
			cs, _, cerr, serr := handshake(client, cache.Server(bob))
			if cerr != nil || serr != nil || cs.CurveID != curve {
				t.Errorf("curve %v, client: %v, server: %v", cs.CurveID, cerr, serr)
			}
		})
	}
}

func TestServerRefuses(t *testing.T) {
	ca, other := mustCA(t), mustCA(t)
	server := NewCache(ca.Issuer(0), CacheOptions{})
	good := sign(t, ca, alice, nil)
	present := func(c *Cert) func(*tls.Config) {
		return func(cfg *tls.Config) {
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.Certificate, nil }
		}
	}
	edited := func(edit func(*x509.Certificate)) func(*tls.Config) { return present(sign(t, ca, alice, edit)) }
	second := mustURL(t, bob.String())
	tests := []struct {
		name string
		edit func(*tls.Config)
		want string // in the server's error
	}{
		{"good", present(good), ""},
		{"no-cert", func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
		}, "client didn't provide a certificate"},
		{"other-domain", present(sign(t, ca, eve, nil)), `another trust domain (expected any identity of trust domain cluster.local, presented "spiffe://evil.example/ns/prod/sa/bob")`},
		{"other-root", present(sign(t, other, alice, nil)), "not signed by one of our roots"},
		{"expired", edited(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "certificate is valid from"},
		{"not-yet", edited(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), "certificate is valid from"},
		{"server-only", edited(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), "not for TLS clients"},
		{"code-signing", edited(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }), "not for TLS clients"},
		{"no-eku", edited(func(c *x509.Certificate) { c.ExtKeyUsage = nil }), ""},
		{"no-uri", edited(func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"bob"} }), "0 URI names"},
		{"common-name", edited(func(c *x509.Certificate) { c.URIs, c.Subject.CommonName = nil, alice.String() }), "0 URI names"},
		{"dns-of-another", edited(func(c *x509.Certificate) { c.DNSNames = []string{bob.String(), "bob.prod.svc"} }), ""},
		{"two-uris", edited(func(c *x509.Certificate) { c.URIs = append(c.URIs, second) }), "2 URI names"},
		{"two-equal-uris", edited(func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }), "2 URI names"},
		{"not-spiffe", edited(func(c *x509.Certificate) { c.URIs = []*url.URL{mustURL(t, "https://cluster.local/ns/a/sa/b")} }), "is not spiffe://"},
		{"long-path", edited(func(c *x509.Certificate) { c.URIs[0].Path += "/x" }), "is not spiffe://"},
		{"query", edited(func(c *x509.Certificate) { c.URIs[0].RawQuery = "a=b" }), "is not spiffe://"},
		{"port", edited(func(c *x509.Certificate) { c.URIs[0].Host += ":80" }), "is not spiffe://"},
		{"escaped", edited(func(c *x509.Certificate) { c.URIs[0] = mustURL(t, "spiffe://cluster.local/ns/default/sa/%61lice") }), "is not spiffe://"},
		{"ca-as-leaf", edited(func(c *x509.Certificate) {
			c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
		}), "CA's certificate"},
		{"tls12", func(c *tls.Config) { present(good)(c); c.MinVersion, c.MaxVersion = 0, tls.VersionTLS12 }, "unsupported versions"},
		{"no-alpn", func(c *tls.Config) { present(good)(c); c.NextProtos = nil }, "does not speak h2"},
		{"http1-alpn", func(c *tls.Config) { present(good)(c); c.NextProtos = []string{"http/1.1"} }, "does not speak h2"},
		{"grpc-alpn", func(c *tls.Config) { present(good)(c); c.NextProtos = []string{"istio"} }, "unsupported application protocols"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := baseConfig()
			cfg.InsecureSkipVerify = true
			tt.edit(cfg)
			_, _, cerr, serr := handshake(cfg, server.Server(bob))
			checkRefusal(t, serr, cerr, tt.want)
		})
	}
}

func TestClientRefuses(t *testing.T) {
	ca, other := mustCA(t), mustCA(t)
	cache := NewCache(ca.Issuer(0), CacheOptions{})
	edited := func(edit func(*x509.Certificate)) *Cert { return sign(t, ca, bob, edit) }
	tests := []struct {
		name   string
		cert   *Cert
		expect []string
		edit   func(*tls.Config)
		want   string // in the client's error
	}{
		{"good", edited(nil), []string{bob.String()}, nil, ""},
		{"second-of-two", edited(nil), []string{alice.String(), bob.String()}, nil, ""},
		{"dns-san", edited(func(c *x509.Certificate) {
			c.URIs[0], c.DNSNames = mustURL(t, alice.String()), []string{"bob.prod.svc"}
		}), []string{bob.String()}, nil, "another identity"},
		{"common-name", edited(func(c *x509.Certificate) { c.URIs[0], c.Subject.CommonName = mustURL(t, alice.String()), bob.String() }), []string{bob.String()}, nil, "another identity"},
		{"other-domain", edited(func(c *x509.Certificate) { c.URIs[0] = mustURL(t, eve.String()) }), []string{bob.String()}, nil, "another identity"},
		{"not-yet", edited(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), []string{bob.String()}, nil, "certificate is valid from"},
		{"wrong-san", edited(nil), []string{alice.String()}, nil, `another identity (expected spiffe://cluster.local/ns/default/sa/alice, presented "spiffe://cluster.local/ns/prod/sa/bob")`},
		{"longer-expected", edited(nil), []string{bob.String() + "x"}, nil, "another identity"},
		{"shorter-expected", edited(nil), []string{strings.TrimSuffix(bob.String(), "b")}, nil, "another identity"},
		{"other-case", edited(nil), []string{strings.ToUpper(bob.String())}, nil, "another identity"},
		{"nobody", edited(nil), nil, nil, "expected nobody"},
		{"other-root", sign(t, other, bob, nil), []string{bob.String()}, nil, "not signed by one of our roots"},
		{"expired", edited(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), []string{bob.String()}, nil, "certificate is valid from"},
		{"client-only", edited(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), []string{bob.String()}, nil, "not for TLS servers"},
		{"two-uris", edited(func(c *x509.Certificate) { c.URIs = append(c.URIs, mustURL(t, alice.String())) }), []string{bob.String()}, nil, "2 URI names"},
		{"tls12", edited(nil), []string{bob.String()}, func(c *tls.Config) { c.MinVersion, c.MaxVersion = 0, tls.VersionTLS12 }, "protocol version not supported"},
		{"no-alpn", edited(nil), []string{bob.String()}, func(c *tls.Config) { c.NextProtos = nil }, "does not speak h2"},
		{"grpc-alpn", edited(nil), []string{bob.String()}, func(c *tls.Config) { c.NextProtos = []string{"istio"} }, "no application protocol"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := baseConfig()
			cfg.ClientAuth = tls.RequireAnyClientCert
			cfg.Certificates = []tls.Certificate{tt.cert.Certificate}
			if tt.edit != nil {
				tt.edit(cfg)
			}
			_, _, cerr, serr := handshake(cache.Client(alice, tt.expect), cfg)
			checkRefusal(t, cerr, serr, tt.want)
		})
	}
}

// checkRefusal: the side that refuses says want, and the other side notices.
// With an empty want both must be content.
func checkRefusal(t *testing.T, refuser, other error, want string) {
	t.Helper()
	if want == "" {
		if refuser != nil || other != nil {
			t.Fatalf("refused: %v; other side: %v", refuser, other)
		}
		return
	}
	if refuser == nil || !strings.Contains(refuser.Error(), want) {
		t.Errorf("error = %v; want one with %q", refuser, want)
	}
	if refuser != nil && strings.ContainsAny(refuser.Error(), "\n\r") {
		t.Errorf("error has several lines: %q", refuser)
	}
	if other == nil {
		t.Error("the other side noticed nothing")
	}
}

// TestOffer: the post-quantum group comes first, with its key share ready so that
// no round trip is lost, and the classical ones after it.
func TestOffer(t *testing.T) {
	cache := NewCache(mustCA(t).Issuer(0), CacheOptions{})
	server := cache.Server(bob)
	get := server.GetCertificate
	var hello tls.ClientHelloInfo
	server.GetCertificate = func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		hello = *h
		return get(h)
	}
	cs, _, cerr, serr := handshake(cache.Client(alice, []string{bob.String()}), server)
	if cerr != nil || serr != nil {
		t.Fatal(cerr, serr)
	}
	if c := hello.SupportedCurves; len(c) < 3 || c[0] != tls.X25519MLKEM768 {
		t.Errorf("groups offered: %v", c)
	}
	if hello.ServerName != "" || len(hello.SupportedVersions) != 1 || hello.SupportedVersions[0] != tls.VersionTLS13 {
		t.Errorf("offered: name %q, versions %x", hello.ServerName, hello.SupportedVersions)
	}
	if cs.HelloRetryRequest {
		t.Error("the first flight had to be sent twice")
	}
	// A peer without it, as older ones are, gets X25519.
	old := cache.Client(alice, []string{bob.String()})
	old.CurvePreferences = []tls.CurveID{tls.CurveP256, tls.X25519}
	if cs, _, cerr, serr := handshake(old, cache.Server(bob)); cerr != nil || serr != nil || cs.CurveID != tls.X25519 {
		t.Errorf("with an old client: %v, %v, %v", cs.CurveID, cerr, serr)
	}
}

// TestNoTickets: nothing is resumed, so each connection proves its peer anew.
func TestNoTickets(t *testing.T) {
	cache := NewCache(mustCA(t).Issuer(0), CacheOptions{})
	server := cache.Server(bob)
	client := cache.Client(alice, []string{bob.String()})
	client.SessionTicketsDisabled = false
	client.ServerName = "bob" // a key for the sessions
	client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	for range 3 {
		cs, _, cerr, serr := handshake(client, server)
		if cerr != nil || serr != nil || cs.DidResume {
			t.Errorf("resumed %v, %v, %v", cs.DidResume, cerr, serr)
		}
	}
	if s, ok := client.ClientSessionCache.Get("bob"); ok {
		t.Errorf("the server gave a ticket: %v", s)
	}
}

// TestAliases: members of an alias of the trust domain are let in and may stand for ours, by
// certificates of roots that we trust; and nobody else.
func TestAliases(t *testing.T) {
	ca, stranger := mustCA(t), mustCA(t)
	former := mesh.Identity{TrustDomain: "former", Namespace: bob.Namespace, ServiceAccount: bob.ServiceAccount}
	uri := func(ca *CA, id mesh.Identity) *Cert { return sign(t, ca, id, nil) }
	tests := []struct {
		name    string
		aliases []string
		peer    *Cert
		expect  string // by a client
		server  bool   // a server lets the peer in
		client  bool   // a client does
	}{
		{"alias", []string{"x", "former"}, uri(ca, former), bob.String(), true, true},
		{"alias_expected_and_presented", []string{"former"}, uri(ca, former), former.String(), true, true},
		{"alias_expected_ours_presented", []string{"former"}, uri(ca, bob), former.String(), true, true},
		{"none", nil, uri(ca, former), bob.String(), false, false},
		{"another", []string{"formerly"}, uri(ca, former), bob.String(), false, false},
		{"other_account", []string{"former"}, uri(ca, former), alice.String(), true, false},
		{"foreign_expected", []string{"former"}, uri(ca, former), eve.String(), true, false},
		{"foreign_presented", []string{"former"}, uri(ca, eve), bob.String(), false, false},
		{"other_root", []string{"former"}, uri(stranger, former), bob.String(), false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cache := NewCache(ca.Issuer(0), CacheOptions{})
			cache.Alias(tt.aliases)
			cfg := baseConfig()
			cfg.InsecureSkipVerify, cfg.ClientAuth, cfg.Certificates = true, tls.RequireAnyClientCert, []tls.Certificate{tt.peer.Certificate}
			if _, _, _, serr := handshake(cfg, cache.Server(alice)); (serr == nil) != tt.server {
				t.Errorf("server: %v, want %v", serr, tt.server)
			}
			if _, _, cerr, _ := handshake(cache.Client(alice, []string{tt.expect}), cfg); (cerr == nil) != tt.client {
				t.Errorf("client: %v, want %v", cerr, tt.client)
			}
		})
	}
}

// TestVerdictPerRole: a leaf remembered as a good client is no good server.
func TestVerdictPerRole(t *testing.T) {
	ca := mustCA(t)
	cache := NewCache(ca.Issuer(0), CacheOptions{})
	c := sign(t, ca, bob, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	cfg := baseConfig()
	cfg.InsecureSkipVerify = true
	cfg.Certificates = []tls.Certificate{c.Certificate}
	for range 2 {
		if _, _, cerr, serr := handshake(cfg, cache.Server(alice)); cerr != nil || serr != nil {
			t.Fatalf("as a client: %v, %v", cerr, serr)
		}
	}
	cfg.ClientAuth = tls.RequireAnyClientCert
	if _, _, cerr, _ := handshake(cache.Client(alice, []string{bob.String()}), cfg); cerr == nil {
		t.Error("as a server: accepted")
	}
}

// TestVerdictsBounded: many peers do not grow the memory without end.
func TestVerdictsBounded(t *testing.T) {
	v := newVerifier(x509.NewCertPool())
	for i := range maxVerdicts + 100 {
		v.remember(&x509.Certificate{Raw: big.NewInt(int64(i + 1)).Bytes()}, verdict{})
	}
	if n := len(v.seen); n != maxVerdicts {
		t.Errorf("remembers %d; want %d", n, maxVerdicts)
	}
}

func TestUnavailable(t *testing.T) {
	cause := errors.New("the CA is on holiday")
	cache := NewCache(IssuerFunc(func(context.Context, mesh.Identity) (*Cert, error) { return nil, cause }), CacheOptions{})
	ok := NewCache(mustCA(t).Issuer(0), CacheOptions{})
	var want *UnavailableError
	if _, _, _, serr := handshake(ok.Client(alice, []string{bob.String()}), cache.Server(bob)); !errors.As(serr, &want) || !errors.Is(serr, cause) {
		t.Errorf("server: %v", serr)
	}
	if _, _, cerr, _ := handshake(cache.Client(alice, []string{bob.String()}), ok.Server(bob)); !errors.As(cerr, &want) || want.Identity != alice {
		t.Errorf("client: %v", cerr)
	}
}

func TestPeerOfNobody(t *testing.T) {
	if id, err := PeerOf(tls.ConnectionState{}); err == nil {
		t.Errorf("peer of nothing = %v", id)
	}
}

func mustURL(tb testing.TB, s string) *url.URL {
	tb.Helper()
	u, err := url.Parse(s)
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

// FuzzParseURI: whatever parseURI lets pass is what mesh.ParseIdentity makes
// of the same text, and prints as that text.
func FuzzParseURI(f *testing.F) {
	for _, s := range []string{"spiffe://a/ns/b/sa/c", "spiffe://a/ns/b/sa/c/", "spiffe://a:1/ns/b/sa/c?x", "spiffe://u@a/ns//sa/", "spiffe:a/ns/b/sa/c", "SPIFFE://a/ns/%62/sa/c#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.Parse(s)
		if err != nil {
			return
		}
		id, ok := parseURI(u)
		if !ok {
			return
		}
		if got, err := mesh.ParseIdentity(u.String()); err != nil || got != id {
			t.Errorf("%q: %v, mesh says %v, %v", s, id, got, err)
		}
		if !isURI(id.String(), id) || isURI(id.String()+"x", id) {
			t.Errorf("isURI(%q) is wrong", id)
		}
	})
}

func BenchmarkHandshake(b *testing.B) {
	ca := mustCA(b)
	server, client := NewCache(ca.Issuer(0), CacheOptions{}), NewCache(ca.Issuer(0), CacheOptions{})
	sc, expect := server.Server(bob), []string{bob.String()}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, cerr, serr := handshake(client.Client(alice, expect), sc); cerr != nil || serr != nil {
			b.Fatal(cerr, serr)
		}
	}
}

// BenchmarkVerifyPeer is our part of a handshake with a peer seen before.
func BenchmarkVerifyPeer(b *testing.B) {
	ca := mustCA(b)
	cache := NewCache(ca.Issuer(0), CacheOptions{})
	peer, err := cache.Get(b.Context(), bob)
	if err != nil {
		b.Fatal(err)
	}
	cs := tls.ConnectionState{NegotiatedProtocol: alpn, PeerCertificates: []*x509.Certificate{peer.Leaf}}
	verify := cache.Client(alice, []string{bob.String()}).VerifyConnection
	b.ReportAllocs()
	for b.Loop() {
		if err := verify(cs); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkClientConfig(b *testing.B) {
	cache := NewCache(mustCA(b).Issuer(0), CacheOptions{})
	expect := []string{bob.String()}
	b.ReportAllocs()
	for b.Loop() {
		cache.Client(alice, expect)
	}
}
