package waypoint

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
	"cairnproxy.dev/cairn/telemetry/decision"
)

// tokenIssuer makes tokens and serves its key, when it is let.
type tokenIssuer struct {
	*httptest.Server
	key   ed25519.PrivateKey
	ready chan struct{} // closed when the server may answer
	asked atomic.Int64
}

func newTokenIssuer(t *testing.T) *tokenIssuer {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &tokenIssuer{key: private, ready: make(chan struct{})}
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.asked.Add(1)
		select {
		case <-i.ready:
			fmt.Fprintf(w, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":%q}]}`, base64.RawURLEncoding.EncodeToString(public))
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(i.Close)
	return i
}

// token is a token of that subject.
func (i *tokenIssuer) token(sub string) string {
	b64 := base64.RawURLEncoding.EncodeToString
	claims, _ := json.Marshal(map[string]any{"iss": i.URL, "sub": sub, "exp": time.Now().Add(time.Hour).Unix(), "groups": []string{"editors"}})
	text := b64([]byte(`{"alg":"EdDSA","kid":"k"}`)) + "." + b64(claims)
	return text + "." + b64(ed25519.Sign(i.key, []byte(text)))
}

// TestTokens: requests wait for the first keys, tokens are verified, policies ask about them, claims become headers, and
// none of a token gets into the log.
func TestTokens(t *testing.T) {
	i := newTokenIssuer(t)
	var v *mesh.Service
	show := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s|%s|%s|%s", r.Header.Get("x-sub"), r.Header.Get("authorization"), r.URL.RawQuery, r.Header.Get("x_sub"))
	})
	ref := []mesh.TargetRef{{Kind: "Service", Name: "web"}}
	tokens := func(aud ...string) []*mesh.RequestAuthentication {
		return []*mesh.RequestAuthentication{{Name: mesh.Name{Namespace: "app", Name: "t"}, TargetRefs: ref, Rules: []mesh.JWTRule{{
			Issuer: i.URL, JWKSURI: i.URL + "/keys", Audiences: aud, OutputClaims: []mesh.JWTClaimHeader{{Header: "x-sub", Claim: "sub"}},
		}}}}
	}
	r := newRig(t, func(r *rig) mesh.Parts {
		w := r.endpoint("web", show, true)
		v = r.service("web", 80, mesh.ProtocolHTTP, w)
		return mesh.Parts{
			Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{v}, RequestAuth: tokens(),
			Access: []*mesh.AccessPolicy{{
				Name: mesh.Name{Namespace: "app", Name: "editors"}, TargetRefs: ref,
				Rules: []mesh.AccessRule{{Effect: mesh.AccessRequire, When: "'editors' in jwt.claims.groups && jwt.claims.sub != 'mallory'"}},
			}},
		}
	})
	ask := func(c *http.Client, query, token string) string {
		t.Helper()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://web/a"+query, nil)
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		req.Header.Set("x-sub", "root")
		req.Header.Set("x_sub", "root")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return fmt.Sprintf("%d %s", resp.StatusCode, body)
	}
	first := make(chan string, 2)
	for _, http2 := range []bool{false, true} {
		c := r.client(v, http2)
		go func() { first <- ask(c, "", i.token("alice")) }()
	}
	for i.asked.Load() == 0 {
		time.Sleep(time.Millisecond) // the proxy's fetch, over a socket
	}
	close(i.ready)
	for range 2 {
		if got := <-first; got != "200 alice|||" {
			t.Errorf("a request that waited: %s", got)
		}
	}
	for _, http2 := range []bool{false, true} {
		c := r.client(v, http2)
		for range 3 {
			for _, tt := range []struct{ query, token, want string }{
				{"", i.token("bob"), "200 bob|||"},
				{"?x=1&access_token=" + i.token("carol") + "&y=2", "", "200 carol||x=1&y=2|"},
				{"", "", "403 RBAC: access denied"},
				{"", i.token("mallory"), "403 RBAC: access denied"},
				{"", i.token("bob") + "x", "401 Jwt signature is an invalid Base64url encoded"},
				{"?access_token=secret.secret.secret", "", "401 Jwt header is an invalid JSON"},
			} {
				got := ask(c, tt.query, tt.token)
				if tt.want[0] == '4' && !strings.HasPrefix(got, tt.want[:3]) || tt.want[0] == '2' && got != tt.want {
					t.Errorf("%.20s… HTTP/2 %v: %s, want %s", tt.query, http2, got, tt.want)
				}
			}
		}
	}
	d := r.proxy.ConfigDump().(Config)
	if len(d.Tokens) != 1 || d.Tokens[0].Issuer != i.URL || len(d.Tokens[0].KeyIDs) != 1 || d.Tokens[0].Error != "" {
		t.Errorf("dump: %+v", d.Tokens)
	}
	// Another policy, the same keys.
	parts := r.snapshots.Current().Given()
	parts.RequestAuth = tokens("shop")
	r.proxy.apply(mesh.NewSnapshot(2, parts))
	if got := ask(r.client(v, false), "", i.token("bob")); got != "403 Audiences in Jwt are not allowed" {
		t.Errorf("after the change: %s", got)
	}
	parts.RequestAuth = nil
	r.proxy.apply(mesh.NewSnapshot(3, parts))
	if got := ask(r.client(v, false), "", i.token("bob")); got != "403 RBAC: access denied" {
		t.Errorf("without RequestAuthentication: %s", got)
	}
	if n := i.asked.Load(); n != 1 {
		t.Errorf("keys were fetched %d times, want once", n)
	}
	r.stop()
	var records strings.Builder
	if err := decision.Write(&records, r.proxy.decisions.Last(0, nil)); err != nil {
		t.Fatal(err)
	}
	log := r.log.String() + records.String()
	for _, want := range []string{"jwt_authn_access_denied{Audiences_in_Jwt_are_not_allowed}", "jwt_authn_access_denied{Jwt_header_is_an_invalid_"} {
		if !strings.Contains(log, want) {
			t.Errorf("access log lacks %s:\n%s", want, log)
		}
	}
	if strings.Contains(log, "access_token") || strings.Contains(log, "secret") || strings.Contains(log, "eyJ") {
		t.Errorf("access log or decision records have a token:\n%s", log)
	}
}

// TestTokensUntold: records tell no header fields where tokens stand, even if a policy looks there.
func TestTokensUntold(t *testing.T) {
	sp := &servicePort{
		authz: policy.CompileL7([]*mesh.AuthorizationPolicy{{Rules: []mesh.AuthzRule{{When: []mesh.AuthzCondition{
			{Key: "request.headers[X-Assertion]", Values: []string{"*"}}, {Key: "request.headers[x-payload]", Values: []string{"*"}}, {Key: "request.headers[x-tenant]", Values: []string{"a"}},
		}}}}}),
		policies: policy.Attached{Tokens: []*mesh.RequestAuthentication{{Rules: []mesh.JWTRule{{
			FromHeaders: []mesh.JWTHeader{{Name: "X-Assertion"}}, OutputPayloadToHeader: "x-payload",
		}}}}},
	}
	if got, want := *fieldsToTell(sp), (decision.Fields{"x-tenant"}); got != want {
		t.Errorf("records tell of %q, want %q", got, want)
	}
}

// TestTokensFromTheMesh: an issuer that is a Service is asked for its keys over HBONE, as is one that a later
// configuration brings.
func TestTokensFromTheMesh(t *testing.T) {
	i := newTokenIssuer(t)
	close(i.ready)
	var v, keys *mesh.Service
	r := newRig(t, func(r *rig) mesh.Parts {
		w, k := r.endpoint("web", named("web"), true), r.endpoint("keys", i.Config.Handler, false)
		v, keys = r.service("web", 80, mesh.ProtocolHTTP, w), r.service("keys", 8000, mesh.ProtocolHTTP, k)
		return mesh.Parts{
			Workloads: []*mesh.Workload{w, k}, Services: []*mesh.Service{v},
			RequestAuth: []*mesh.RequestAuthentication{{
				Name: mesh.Name{Namespace: "app", Name: "t"}, TargetRefs: []mesh.TargetRef{{Kind: "Service", Name: "web"}},
				Rules: []mesh.JWTRule{{Issuer: i.URL, JWKSURI: "http://keys.app.svc.cluster.local:8000/keys"}},
			}},
		}
	})
	ask := func(token string) int {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://web/", nil)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := r.client(v, false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := ask(i.token("alice")); got != 401 || i.asked.Load() != 0 {
		t.Errorf("without the service: %d, %d questions", got, i.asked.Load())
	}
	parts := r.snapshots.Current().Given()
	parts.Services = append(parts.Services, keys)
	r.snapshots.publish(parts)
	deadline := time.Now().Add(20 * time.Second)
	for ask(i.token("alice")) != 200 {
		if time.Now().After(deadline) {
			t.Fatalf("the keys do not come: %+v", r.proxy.deps.Tokens.States())
		}
		time.Sleep(10 * time.Millisecond) // the next try, and its way over sockets
	}
	if got := ask(i.token("bob")); got != 200 || i.asked.Load() != 1 {
		t.Errorf("%d; %d questions, want 1", got, i.asked.Load())
	}
	var text strings.Builder
	if err := r.metrics.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`cairn_jwt_total{result="verified"} `, `cairn_jwks_fetches_total{jwks="http://keys.app.svc.cluster.local:8000/keys",result="changed"} 1`,
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	for _, tt := range []struct {
		host string
		want string
	}{
		{"keys.app.svc.cluster.local", keys.Key.Hostname},
		{"Keys.App.svc.cluster.local.", keys.Key.Hostname},
		{"keys.app.svc", keys.Key.Hostname},
		{"keys.app", keys.Key.Hostname},
		{"keys", keys.Key.Hostname},
		{"keys.other", ""},
		{"keys.app.svc.cluster", ""},
		{"keys.app.example.com", ""},
		{"", ""},
		{"127.0.0.1", ""},
		{"none", ""},
	} {
		got, ok := r.proxy.ServiceOf(tt.host)
		if ok != (tt.want != "") || ok && got.Hostname != tt.want {
			t.Errorf("%q means %v, %v; want %q", tt.host, got, ok, tt.want)
		}
	}
}
