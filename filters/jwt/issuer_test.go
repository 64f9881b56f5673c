package jwt

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/filters/filterstest"
	"cairnproxy.dev/cairn/mesh"
	"github.com/go-jose/go-jose/v4"
)

const iss = "https://login.example.com"

// pair is a key of an issuer.
type pair struct {
	kid     string
	alg     jose.SignatureAlgorithm
	private any
}

func (p pair) jwk() jose.JSONWebKey {
	k := jose.JSONWebKey{Key: p.private, KeyID: p.kid, Algorithm: string(p.alg), Use: "sig"}
	return k.Public()
}

// The keys of the tests, made once: RSA takes its time.
var (
	rsaKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	ecKey  = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	ec2Key = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	edKey  = sync.OnceValue(func() ed25519.PrivateKey { _, k, _ := ed25519.GenerateKey(rand.Reader); return k })
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func rs() pair  { return pair{"rs", jose.RS256, rsaKey()} }
func es() pair  { return pair{"es", jose.ES256, ecKey()} }
func es2() pair { return pair{"es2", jose.ES256, ec2Key()} }
func ed() pair  { return pair{"ed", jose.EdDSA, edKey()} }

func jwks(pairs ...pair) string {
	set := jose.JSONWebKeySet{}
	for _, p := range pairs {
		set.Keys = append(set.Keys, p.jwk())
	}
	return string(must(json.Marshal(set)))
}

type claims map[string]any

// about are claims that are good now, with those of more over them; nil removes one.
func about(more claims) claims {
	now := time.Now().Unix()
	c := claims{"iss": iss, "sub": "alice", "aud": "shop", "iat": now, "exp": now + 3600}
	for k, v := range more {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return c
}

// sign makes a token.
func (p pair) sign(c claims) string { return p.signText(string(must(json.Marshal(c)))) }

func (p pair) signText(payload string) string {
	o := (&jose.SignerOptions{}).WithType("JWT")
	if p.kid != "" {
		o = o.WithHeader("kid", p.kid)
	}
	s := must(jose.NewSigner(jose.SigningKey{Algorithm: p.alg, Key: p.private}, o))
	return must(must(s.Sign([]byte(payload))).CompactSerialize())
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// keyServer is an issuer's server that does what it is told.
type keyServer struct {
	*httptest.Server
	text   atomic.Pointer[string] // nil: 503
	asked  atomic.Int64
	waitOn chan struct{} // if not nil, answers wait until it is closed
}

func newKeyServer(t *testing.T, text string) *keyServer {
	s := &keyServer{}
	s.text.Store(&text)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		if s.waitOn != nil {
			select {
			case <-s.waitOn:
			case <-r.Context().Done():
			}
		}
		text := s.text.Load()
		if text == nil {
			http.Error(w, "no", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, *text)
	}))
	t.Cleanup(s.Close)
	return s
}

// network is a transport for tests under synctest: what answer says, at once or after delay.
type network struct {
	answer func(url string) (int, string)
	delay  atomic.Int64
	asked  atomic.Int64
}

func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	n.asked.Add(1)
	timer := time.NewTimer(time.Duration(n.delay.Load()))
	defer timer.Stop()
	select {
	case <-r.Context().Done():
		return nil, r.Context().Err()
	case <-timer.C:
	}
	status, body := n.answer(r.URL.String())
	if status == 0 {
		return nil, errors.New("connection refused")
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body)), Header: http.Header{}, Request: r}, nil
}

func registry(t *testing.T, transport http.RoundTripper) *Registry {
	t.Helper()
	r := NewRegistry(Options{Transport: transport})
	t.Cleanup(r.Close)
	return r
}

func policyOf(rules ...mesh.JWTRule) *mesh.RequestAuthentication {
	return &mesh.RequestAuthentication{Name: mesh.Name{Namespace: "ns", Name: "p"}, Rules: rules}
}

func build(t testing.TB, r *Registry, list ...*mesh.RequestAuthentication) filters.Chain {
	t.Helper()
	c, err := filters.Compile([]filters.Spec{Spec(list, r)}, filters.BuildContext{Level: filters.LevelService})
	if err != nil {
		t.Fatal(err)
	}
	if r != nil {
		r.Fetch()
	}
	return c
}

func get(fields ...mesh.Field) *mesh.Request {
	return &mesh.Request{Method: "GET", Scheme: "http", Authority: "shop", Host: "shop", Path: "/", Fields: fields}
}

func bearer(token string) mesh.Field {
	return mesh.Field{Name: "authorization", Value: "Bearer " + token}
}

// answerTo runs a request, and returns "" when it passes and the body of the answer else.
func answerTo(t testing.TB, c filters.Chain, r *mesh.Request) string {
	t.Helper()
	x := filterstest.Exchange(r)
	switch res := filterstest.Run(x, c); res {
	case filters.Continue:
		return ""
	case filters.Replied:
		if _, ok := x.Reply.Fields.Get("www-authenticate"); !ok || x.Reply.Status != 401 && x.Reply.Body != failAudience.body {
			t.Errorf("reply %+v", x.Reply)
		}
		if r.Token != nil {
			t.Error("a refused request has a token")
		}
		return x.Reply.Body
	default:
		t.Fatalf("the chain ended with %v", res)
		return ""
	}
}

// ready waits until the keys of c's rules have been fetched once.
func ready(t *testing.T, r *Registry) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		done := true
		for _, s := range r.States() {
			done = done && s.Error != "they are being fetched"
		}
		if done {
			return
		}
		time.Sleep(time.Millisecond) // a real server's answer
	}
	t.Fatal("the keys do not come")
}
