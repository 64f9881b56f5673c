package traffic

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/yaml"

	"cairnproxy.dev/cairn/conformance/envoy"
)

// issuer makes tokens, by hand: neither peer's library is asked what is right.
type issuer struct {
	name string
	kid  string
	key  *ecdsa.PrivateKey
}

func newIssuer(name, kid string) *issuer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return &issuer{name, kid, key}
}

const issuerName = "https://login.example.com"

// The issuers of all cases. next is login after its key was replaced; stranger has login's name and key id, and
// another key.
var (
	login    = newIssuer(issuerName, "k1")
	next     = newIssuer(issuerName, "k2")
	other    = newIssuer("https://other.example.com", "o1")
	stranger = newIssuer(issuerName, "k1")
)

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwks is the issuers' keys.
func jwks(list ...*issuer) string {
	var keys []obj
	for _, i := range list {
		point, err := i.key.PublicKey.Bytes() // 4, x, y
		if err != nil {
			panic(err)
		}
		keys = append(keys, obj{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": i.kid, "x": b64(point[1:33]), "y": b64(point[33:])})
	}
	text, _ := json.Marshal(obj{"keys": keys})
	return string(text)
}

// claims are what a good token says now, with more over it; nil takes a claim away.
func (i *issuer) claims(more obj) obj {
	now := time.Now().Unix()
	c := obj{"iss": i.name, "sub": "alice", "aud": "shop", "iat": now, "exp": now + 3600, "groups": []string{"editors", "staff"}, "scope": "read write", "num": 7, "admin": true}
	for k, v := range more {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return c
}

// token is a token with an ES256 signature.
func (i *issuer) token(more obj) string {
	text := i.unsigned(obj{"alg": "ES256", "typ": "JWT", "kid": i.kid}, more)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, sum[:])
	if err != nil {
		panic(err)
	}
	return text + "." + b64(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

func (i *issuer) unsigned(head, more obj) string {
	h, _ := json.Marshal(head)
	c, _ := json.Marshal(i.claims(more))
	return b64(h) + "." + b64(c)
}

// confused is a token with an HMAC whose secret is the public key, which everybody knows.
func (i *issuer) confused() string {
	text := i.unsigned(obj{"alg": "HS256", "kid": i.kid}, nil)
	m := hmac.New(sha256.New, []byte(jwks(i)))
	m.Write([]byte(text))
	return text + "." + b64(m.Sum(nil))
}

func bearer(token string) []string { return []string{"authorization", "Bearer " + token} }

// keyServer serves keys at /NAMESPACE/PEER, and how often it was asked.
type keyServer struct {
	url string

	mu    sync.Mutex
	texts map[string]string
	asked map[string]int
}

var keyServers = sync.OnceValue(func() *keyServer {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	s := &keyServer{url: "http://" + ln.Addr().String(), texts: map[string]string{}, asked: map[string]int{}}
	go http.Serve(ln, s)
	return s
})

func (s *keyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path, found := strings.CutSuffix(r.URL.Path, "/.well-known/openid-configuration")
	s.asked[path]++
	text, ok := s.texts[path]
	if found {
		text = fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, s.url+path, s.url+path)
	}
	if !ok && !found {
		http.Error(w, "away", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprint(w, text)
}

func (s *keyServer) set(path, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if text == "" {
		delete(s.texts, path)
	} else {
		s.texts[path] = text
	}
}

func (x *trial) keyPath() string { return "/" + x.ns + "/" + x.peer }

// serveKeys says what the server has for the trial; "" for nothing.
func (x *trial) serveKeys(text string) { keyServers().set(x.keyPath(), text) }

// tokens puts Envoy's filter in front of those of each HTTP service, where the manifests have RequestAuthentications.
func (x *trial) tokens(services []envoy.Service) error {
	var rules []envoy.JWTRule
	for part := range strings.SplitSeq("\n"+x.text, "\n---\n") {
		var doc struct {
			Kind string
			Spec struct{ JWTRules []envoy.JWTRule }
		}
		if err := yaml.Unmarshal([]byte(part), &doc); err != nil {
			return err
		}
		if doc.Kind == "RequestAuthentication" {
			rules = append(rules, doc.Spec.JWTRules...)
		}
	}
	if rules == nil {
		return nil
	}
	named := map[string]bool{}
	filter := envoy.JWT(rules, func(uri string) string {
		name, cluster := envoy.KeyCluster(uri)
		if !named[name] && !slices.ContainsFunc(x.lab.trials, func(o *trial) bool {
			return o != x && slices.ContainsFunc(o.clusters, func(c any) bool { return c.(envoy.Object)["name"] == name })
		}) {
			x.clusters = append(x.clusters, cluster)
		}
		named[name] = true
		return name
	})
	for i := range services {
		if s := &services[i]; !s.TCP {
			s.Filters = append(envoy.List{filter}, s.Filters...)
		}
	}
	return nil
}
