package istioca

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"istio.io/api/security/v1alpha1"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/internal/logbuf"
	"cairnproxy.dev/cairn/mesh"
)

var (
	web     = mesh.Identity{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web"}
	db      = mesh.Identity{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "db"}
	ztunnel = mesh.Identity{TrustDomain: "cluster.local", Namespace: "istio-system", ServiceAccount: "ztunnel"}
)

// rig is a served CA, and files for its clients.
type rig struct {
	t      *testing.T
	ca     *identity.CA
	tokens *Tokens
	addr   string
	dir    string
	log    *logbuf.Buffer
}

func serve(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	ca, err := identity.OpenCA(filepath.Join(dir, "ca"), "cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, ca: ca, tokens: NewTokens(ca.TokenKey(), "cluster.local"), dir: dir, log: &logbuf.Buffer{}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = ln.Addr().String()
	s := NewServer(ServerOptions{
		CA: ca, Tokens: r.tokens, TTL: time.Hour, Hosts: []string{"127.0.0.1"}, Log: slog.New(slog.NewTextHandler(r.log, nil)),
		MayImpersonate: func(c Caller, id mesh.Identity) error {
			if c.Identity != ztunnel || c.Node != "node-1" || id != web {
				return errors.New("no such workload on its node")
			}
			return nil
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

// token writes a token file and returns its path.
func (r *rig) token(c Caller, ttl time.Duration) string {
	r.t.Helper()
	text, err := r.tokens.Make(c, time.Now(), ttl)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.file("token", text+"\n")
}

func (r *rig) file(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

func (r *rig) client(o ClientOptions) *Client {
	r.t.Helper()
	if o.Address == "" {
		o.Address = r.addr
	}
	if o.RootFile == "" {
		o.RootFile = r.ca.RootFile()
	}
	c, err := NewClient(o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

func TestIssue(t *testing.T) {
	r := serve(t)
	node := Caller{Identity: ztunnel, Node: "node-1"}
	for name, tt := range map[string]struct {
		caller  Caller
		o       ClientOptions
		ask     mesh.Identity
		refused string // a part of the error; "" for issued
		life    time.Duration
	}{
		"own":            {caller: Caller{Identity: web}, ask: web, life: time.Hour},
		"own-as-other":   {caller: Caller{Identity: web}, ask: db, refused: "is a certificate of spiffe://cluster.local/ns/shop/sa/web"},
		"shorter":        {caller: Caller{Identity: web}, ask: web, o: ClientOptions{TTL: 10 * time.Minute}, life: 10 * time.Minute},
		"longer":         {caller: Caller{Identity: web}, ask: web, o: ClientOptions{TTL: 100 * time.Hour}, life: time.Hour},
		"https":          {caller: Caller{Identity: web}, ask: web, o: ClientOptions{Address: "https://" + r.addr, ClusterID: "c1"}, life: time.Hour},
		"node":           {caller: node, o: ClientOptions{Impersonate: true}, ask: web, life: time.Hour},
		"node-elsewhere": {caller: node, o: ClientOptions{Impersonate: true}, ask: db, refused: "no such workload on its node"},
		"other-node":     {caller: Caller{Identity: ztunnel, Node: "node-2"}, o: ClientOptions{Impersonate: true}, ask: web, refused: "trusted node account"},
		"not-a-node":     {caller: Caller{Identity: db, Node: "node-1"}, o: ClientOptions{Impersonate: true}, ask: web, refused: "PermissionDenied"},
		"other-domain": {
			caller: node, o: ClientOptions{Impersonate: true},
			ask: mesh.Identity{TrustDomain: "x", Namespace: "shop", ServiceAccount: "web"}, refused: "PermissionDenied",
		},
	} {
		t.Run(name, func(t *testing.T) {
			tt.o.TokenFile = r.token(tt.caller, time.Minute)
			c, err := r.client(tt.o).Issue(t.Context(), tt.ask)
			if tt.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tt.refused) {
					t.Fatalf("got %v, %v; want an error with %q", c, err, tt.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.Identity != tt.ask || !bytes.Equal(c.RootPEM, r.ca.RootPEM()) {
				t.Errorf("got %v", c)
			}
			if life := c.NotAfter.Sub(c.NotBefore) - time.Minute; life < tt.life-2*time.Second || life > tt.life+time.Second {
				t.Errorf("it lives %s, want %s", life, tt.life)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	r := serve(t)
	good := func(t *testing.T) string {
		text, err := os.ReadFile(r.token(Caller{Identity: web}, time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	otherCA, err := identity.NewCA("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := NewTokens(otherCA.TokenKey(), "cluster.local").Make(Caller{Identity: web}, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for name, tt := range map[string]struct {
		o    func(t *testing.T) ClientOptions
		want string
	}{
		"expired": {func(*testing.T) ClientOptions {
			return ClientOptions{TokenFile: r.token(Caller{Identity: web}, -time.Second)}
		}, "token expired on"},
		"foreign": {func(*testing.T) ClientOptions { return ClientOptions{TokenFile: r.file("f", foreign)} }, "was not made by this CA"},
		"cut": {func(t *testing.T) ClientOptions {
			s := good(t)
			return ClientOptions{TokenFile: r.file("c", s[:len(s)-2])}
		}, "Unauthenticated"},
		"none":       {func(*testing.T) ClientOptions { return ClientOptions{} }, "neither a token nor a certificate"},
		"empty-file": {func(*testing.T) ClientOptions { return ClientOptions{TokenFile: r.file("e", " \n")} }, "holds no token"},
		"no-file":    {func(*testing.T) ClientOptions { return ClientOptions{TokenFile: filepath.Join(r.dir, "none")} }, "reading the token"},
		"bad-root": {func(t *testing.T) ClientOptions {
			return ClientOptions{TokenFile: r.file("t", good(t)), RootFile: r.file("r", string(otherCA.RootPEM()))}
		}, "is not trusted by"},
		"no-root": {func(t *testing.T) ClientOptions {
			return ClientOptions{TokenFile: r.file("t", good(t)), RootFile: r.file("n", "nothing")}
		}, "holds no certificate"},
		"other-name": {func(t *testing.T) ClientOptions {
			return ClientOptions{TokenFile: r.file("t", good(t)), ServerName: "ca.example"}
		}, "is not trusted by"},
		"down": {func(t *testing.T) ClientOptions {
			return ClientOptions{TokenFile: r.file("t", good(t)), Address: closed.Addr().String()}
		}, "the CA is not reached"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := r.client(tt.o(t)).Issue(t.Context(), web)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, %v; want an error with %q", c, err, tt.want)
			}
		})
	}
	if text := r.log.String(); strings.Contains(text, header) || strings.Contains(text, "PRIVATE") {
		t.Error("a secret is in the log:\n" + text)
	}
}

func TestNewClientRefuses(t *testing.T) {
	for _, address := range []string{"", "istiod", "http://istiod:15010", ":15012", "istiod:", "grpc://istiod:15012"} {
		if _, err := NewClient(ClientOptions{Address: address}); err == nil {
			t.Errorf("%q: no error", address)
		}
	}
}

// TestTokenReadAgain: the token in force is that of the file, not of the start.
func TestTokenReadAgain(t *testing.T) {
	r := serve(t)
	c := r.client(ClientOptions{TokenFile: r.token(Caller{Identity: web}, -time.Hour)})
	if _, err := c.Issue(t.Context(), web); err == nil {
		t.Fatal("the token has expired")
	}
	r.token(Caller{Identity: web}, time.Hour)
	if _, err := c.Issue(t.Context(), web); err != nil {
		t.Error(err)
	}
}

// TestRootRotation: a client follows the roots in its file, and gets new ones
// with its certificate.
func TestRootRotation(t *testing.T) {
	r := serve(t)
	c := r.client(ClientOptions{TokenFile: r.token(Caller{Identity: web}, time.Hour), RootFile: r.file("root", string(r.ca.RootPEM()))})
	if _, err := c.Issue(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	if err := r.ca.Rotate(); err != nil {
		t.Fatal(err)
	}
	r.file("root", string(r.ca.RootPEM()))
	got, err := c.Issue(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(got.RootPEM), "BEGIN CERTIFICATE"); n != 2 {
		t.Errorf("%d roots came with the certificate, want both", n)
	}
}

// TestMutualTLS: a workload renews its certificate with the one that it has.
func TestMutualTLS(t *testing.T) {
	r := serve(t)
	stranger, err := identity.NewCA("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.ca.RootPEM())
	for name, tt := range map[string]struct {
		ca   *identity.CA
		want codes.Code
	}{"ours": {r.ca, codes.OK}, "stranger": {stranger, codes.Unauthenticated}} {
		t.Run(name, func(t *testing.T) {
			own, err := tt.ca.Issue(web, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			conn, err := grpc.NewClient("passthrough:///"+r.addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
				MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: "127.0.0.1", Certificates: []tls.Certificate{own.Certificate},
			})))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			csr, _, err := newRequest(db) // names in the request mean nothing
			if err != nil {
				t.Fatal(err)
			}
			res, err := v1alpha1.NewIstioCertificateServiceClient(conn).CreateCertificate(t.Context(), &v1alpha1.IstioCertificateRequest{Csr: csr})
			if status.Code(err) != tt.want {
				t.Fatalf("got %v, want %s", err, tt.want)
			}
			if err == nil && len(res.GetCertChain()) != 2 {
				t.Errorf("chain of %d", len(res.GetCertChain()))
			}
		})
	}
}

func TestBadRequests(t *testing.T) {
	csr, _, err := newRequest(web)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseCSR(csr); err != nil {
		t.Fatal(err)
	}
	other, _, err := newRequest(web)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty": "", "two": csr + other, "certificate": strings.ReplaceAll(csr, "CERTIFICATE REQUEST", "CERTIFICATE"),
		"cut": csr[:len(csr)/2], "flipped": flip(t, csr),
	} {
		if _, err := parseCSR(text); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// flip changes the last byte of a PEM block, in the signature.
func flip(t *testing.T, text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	der, err := base64.StdEncoding.DecodeString(strings.Join(lines[1:len(lines)-1], ""))
	if err != nil {
		t.Fatal(err)
	}
	der[len(der)-1] ^= 1
	return fmt.Sprintf("%s\n%s\n%s\n", lines[0], base64.StdEncoding.EncodeToString(der), lines[len(lines)-1])
}

// TestAnswers: what a CA may answer wrongly.
func TestAnswers(t *testing.T) {
	ca, err := identity.NewCA("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	csr, key, err := newRequest(web)
	if err != nil {
		t.Fatal(err)
	}
	req, err := parseCSR(csr)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(id mesh.Identity) string {
		leaf, _, err := ca.Sign(req.PublicKey, id, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return string(leaf)
	}
	otherKey, err := ca.Issue(web, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	stolen, _, err := ca.Sign(otherKey.Leaf.PublicKey, web, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	other, err := identity.NewCA("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	root := string(ca.RootPEM())
	for name, tt := range map[string]struct {
		chain []string
		ok    bool
	}{
		"good":       {[]string{sign(web), root}, true},
		"two-roots":  {[]string{sign(web), root + string(other.RootPEM())}, true},
		"no-newline": {[]string{strings.TrimSpace(sign(web)), strings.TrimSpace(root)}, true},
		"alone":      {[]string{sign(web)}, false},
		"nothing":    {nil, false},
		"other-id":   {[]string{sign(db), root}, false},
		"other-key":  {[]string{string(stolen), root}, false},
		"other-root": {[]string{sign(web), string(other.RootPEM())}, false},
		"garbage":    {[]string{"x", root}, false},
	} {
		if c, err := answered(tt.chain, key, web); (err == nil) != tt.ok {
			t.Errorf("%s: %v, %v", name, c, err)
		} else if err != nil && strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%s: a key is in the error", name)
		}
	}
}

func TestTokens(t *testing.T) {
	tokens := NewTokens(bytes.Repeat([]byte{7}, 32), "cluster.local")
	now := time.Unix(1_800_000_000, 0)
	want := Caller{Identity: ztunnel, Node: "n1"}
	token, err := tokens.Make(want, now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tokens.Check(token, now.Add(59*time.Minute)); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := tokens.Check(token, now.Add(time.Hour)); err == nil {
		t.Error("an expired token passes")
	}
	parts := strings.Split(token, ".")
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var cl map[string]any
	if err := json.Unmarshal(text, &cl); err != nil || cl["sub"] != "system:serviceaccount:istio-system:ztunnel" {
		t.Errorf("claims = %v, %v", cl, err)
	}
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`))
	for name, bad := range map[string]string{
		"empty": "", "dots": "..", "none": none + "." + parts[1] + ".", "none-signed": none + "." + parts[1] + "." + parts[2],
		"no-signature": parts[0] + "." + parts[1] + ".", "two": parts[0] + "." + parts[1], "long": token + strings.Repeat("A", maxToken),
	} {
		if _, err := tokens.Check(bad, now); err == nil {
			t.Errorf("%s passes", name)
		} else if len(bad) > 8 && strings.Contains(err.Error(), parts[1]) {
			t.Errorf("%s: the error holds the token", name)
		}
	}
}

func FuzzCheck(f *testing.F) {
	tokens := NewTokens(bytes.Repeat([]byte{7}, 32), "cluster.local")
	other := NewTokens(bytes.Repeat([]byte{8}, 32), "cluster.local")
	token, err := other.Make(Caller{Identity: web}, time.Now(), time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add(header + "..")
	f.Fuzz(func(t *testing.T, token string) {
		if c, err := tokens.Check(token, time.Now()); err == nil {
			t.Errorf("a made-up token speaks for %v", c)
		}
	})
}

func FuzzParseCSR(f *testing.F) {
	csr, _, err := newRequest(web)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(csr)
	f.Fuzz(func(_ *testing.T, text string) { _, _ = parseCSR(text) })
}
