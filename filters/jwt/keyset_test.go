package jwt

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/filters/filterstest"
	"cairnproxy.dev/cairn/mesh"
)

const uri = "https://login.example.com/keys"

func remote() *mesh.RequestAuthentication {
	return policyOf(mesh.JWTRule{Issuer: iss, JWKSURI: uri})
}

// page is what a server has; "" refuses connections.
type page struct{ text atomic.Pointer[string] }

func pageOf(text string) *page {
	p := &page{}
	p.set(text)
	return p
}

func (p *page) set(text string) { p.text.Store(&text) }

// served is a network where uri has a page.
func served(p *page) *network {
	return &network{answer: func(string) (int, string) {
		if text := *p.text.Load(); text != "" {
			return 200, text
		}
		return 0, ""
	}}
}

// TestRotation: a new key is looked for when a token names it; an old one is not believed for longer.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text := pageOf(jwks(es()))
		n := served(text)
		r := registry(t, n)
		c := build(t, r, remote())
		synctest.Wait()
		old, next := es().sign(about(claims{"exp": nil})), es2().sign(about(claims{"exp": nil}))
		ask := func(name, token, want string) {
			t.Helper()
			if got := answerTo(t, c, get(bearer(token))); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		ask("old", old, "")
		ask("next_at_once", next, failNoKey.body) // the keys are brand new
		time.Sleep(2 * time.Second)
		text.set(jwks(es2()))
		ask("next", next, "")
		ask("old_after_rotation", old, failNoKey.body)
		if got := n.asked.Load(); got != 2 {
			t.Errorf("%d fetches, want 2: there is no other so soon", got)
		}
		for range 100 {
			ask("unknown", pair{"x", "ES256", ecKey()}.sign(about(nil)), failNoKey.body)
		}
		time.Sleep(unknownEvery)
		ask("unknown_later", pair{"x", "ES256", ecKey()}.sign(about(nil)), failNoKey.body)
		if got := n.asked.Load(); got != 3 {
			t.Errorf("%d fetches, want 3", got)
		}
		// Withdrawn without any token that names a new one.
		text.set(jwks(es()))
		time.Sleep(refreshEvery * 11 / 10)
		ask("withdrawn", next, failNoKey.body)
		runtime.KeepAlive(c)
	})
}

// TestAway: what was fetched last is used while the server is away, and tried again later and later.
func TestAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text := pageOf(jwks(es()))
		n := served(text)
		r := registry(t, n)
		c := build(t, r, remote())
		synctest.Wait()
		text.set("")
		time.Sleep(2 * time.Hour)
		if got := answerTo(t, c, get(bearer(es().sign(about(nil))))); got != "" {
			t.Errorf("with the last keys: %q", got)
		}
		s := r.States()
		if len(s) != 1 || s[0].Error == "" || len(s[0].KeyIDs) != 1 || time.Since(s[0].Fetched) < time.Hour {
			t.Errorf("state %+v", s)
		}
		if got := n.asked.Load(); got < 150 || got > 300 {
			t.Errorf("%d fetches in two hours, want some 200", got)
		}
		text.set(jwks(es2()))
		time.Sleep(2 * retryMost)
		if got := answerTo(t, c, get(bearer(es2().sign(about(nil))))); got != "" {
			t.Errorf("when it is back: %q", got)
		}
		runtime.KeepAlive(c)
	})
}

// TestFirst: requests wait for the first keys, and no longer than the rule says.
func TestFirst(t *testing.T) {
	for _, tt := range []struct {
		name         string
		delay, takes time.Duration
		want         string
	}{
		{"soon", time.Second, time.Second, ""},
		{"too_late", time.Minute, 3 * time.Second, failFetch.body},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				text := pageOf(jwks(es()))
				n := served(text)
				n.delay.Store(int64(tt.delay))
				p := remote()
				p.Rules[0].Timeout = 3 * time.Second
				c := build(t, registry(t, n), p)
				token, begin := es().sign(about(nil)), time.Now()
				if got := answerTo(t, c, get(bearer(token))); got != tt.want || time.Since(begin) != tt.takes {
					t.Errorf("%q after %v, want %q after %v", got, time.Since(begin), tt.want, tt.takes)
				}
				if got := answerTo(t, c, get()); got != "" {
					t.Errorf("without a token: %q", got)
				}
			})
		})
	}
}

// TestAwayFirst: where there never were keys requests do not wait each time.
func TestAwayFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text := pageOf("")
		c := build(t, registry(t, served(text)), remote())
		synctest.Wait()
		begin, token := time.Now(), es().sign(about(nil))
		if got := answerTo(t, c, get(bearer(token))); got != failFetch.body || time.Since(begin) != 0 {
			t.Errorf("%q after %v", got, time.Since(begin))
		}
		text.set(jwks(es()))
		time.Sleep(2 * retryFirst)
		if got := answerTo(t, c, get(bearer(token))); got != "" {
			t.Errorf("later: %q", got)
		}
	})
}

// TestClientGoes: a client that goes away while it waits leaves nothing behind.
func TestClientGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text := pageOf(jwks(es()))
		n := served(text)
		n.delay.Store(int64(time.Second))
		c := build(t, registry(t, n), remote())
		x := filterstest.Exchange(get(bearer(es().sign(about(nil)))))
		if res := filterstest.Start(x, c); res != filters.Park || !filterstest.Cancel(x) {
			t.Fatalf("%v", res)
		}
		time.Sleep(2 * time.Second)
		if x.Req.Token != nil {
			t.Error("the request has a token")
		}
	})
}

// TestCrowd: the requests that wait are bounded.
func TestCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text := pageOf(jwks(es()))
		n := served(text)
		n.delay.Store(int64(time.Second))
		c := build(t, registry(t, n), remote())
		token, parked := es().sign(about(nil)), 0
		for range maxWaiting + 10 {
			if filterstest.Start(filterstest.Exchange(get(bearer(token))), c) == filters.Park {
				parked++
			}
		}
		if parked != maxWaiting {
			t.Errorf("%d requests wait, want %d", parked, maxWaiting)
		}
		time.Sleep(2 * time.Second)
	})
}

// TestLive: keys and what was verified with them survive a change of the configuration, and go with the last that uses them.
func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text := pageOf(jwks(es()))
		n := served(text)
		r := registry(t, n)
		first := build(t, r, remote())
		synctest.Wait()
		token := es().sign(about(nil))
		answerTo(t, first, get(bearer(token)))
		second := build(t, r, remote()) // the same again, another object
		if a, b := verifierOf(first), verifierOf(second); a != b || a.known.Load() == nil {
			t.Error("the verifier is another")
		}
		other := remote()
		other.Rules[0].Audiences = []string{"shop"}
		third := build(t, r, other)
		if a, b := verifierOf(first), verifierOf(third); a == b || a.keys != b.keys {
			t.Error("another rule shares a verifier, or does not share keys")
		}
		if got := n.asked.Load(); got != 1 {
			t.Errorf("%d fetches, want 1", got)
		}
		runtime.KeepAlive(first)
		runtime.KeepAlive(second)
		runtime.KeepAlive(third)
		for range 5 {
			runtime.GC()
		}
		time.Sleep(time.Hour)
		if got := n.asked.Load(); got != 1 || len(r.States()) != 0 {
			t.Errorf("%d fetches, states %v: keys that nobody uses are kept", got, r.States())
		}
	})
}

// TestLater: nothing is fetched before a configuration is in force, unless a request asks; and the next one tries again
// what had failed, once in a while.
func TestLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := served(pageOf(""))
		r := registry(t, n)
		step, err := Spec([]*mesh.RequestAuthentication{remote()}, r).Build(filters.BuildContext{Level: filters.LevelService})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if got, s := n.asked.Load(), r.States(); got != 0 || s[0].Error != "they are being fetched" {
			t.Errorf("%d fetches of a configuration that is not in force; state %+v", got, s)
		}
		r.Fetch()
		synctest.Wait()
		if got := n.asked.Load(); got != 1 {
			t.Errorf("%d fetches, want 1", got)
		}
		time.Sleep(time.Hour) // every 30 s by now
		before := n.asked.Load()
		for range 100 {
			r.Fetch()
			synctest.Wait()
		}
		if got := n.asked.Load() - before; got != 1 {
			t.Errorf("%d fetches with 100 configurations at once, want 1", got)
		}
		before = n.asked.Load()
		time.Sleep(10 * time.Minute)
		if got := n.asked.Load() - before; got < 15 || got > 25 {
			t.Errorf("%d fetches in ten minutes, want some 20: timers add up", got)
		}
		runtime.KeepAlive(step)
	})
}

// counters keeps what is counted.
type counters struct{ m sync.Map }

func (c *counters) of(metric, jwks, result string) Counter {
	v, _ := c.m.LoadOrStore(strings.Trim(metric+" "+jwks, " ")+" "+result, new(counter))
	return v.(*counter)
}

func (c *counters) get(key string) int64 {
	v, ok := c.m.Load(key)
	if !ok {
		return -1
	}
	return v.(*counter).Load()
}

type counter struct{ atomic.Int64 }

func (c *counter) Inc() { c.Add(1) }

// TestMetrics counts requests with tokens, and fetches.
func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text, c := pageOf(jwks(es())), &counters{}
		r := NewRegistry(Options{Transport: served(text), Counters: c.of})
		defer r.Close()
		chain := build(t, r, remote())
		token := es().sign(about(nil))
		for range 3 {
			answerTo(t, chain, get(bearer(token))) // the first waits for keys
		}
		answerTo(t, chain, get())
		answerTo(t, chain, get(bearer("x.y.z")))
		answerTo(t, chain, get(bearer(es().sign(about(claims{"exp": 1})))))
		time.Sleep(refreshEvery * 11 / 10) // the same
		text.set(jwks(es2()))
		time.Sleep(refreshEvery * 11 / 10) // others
		text.set("")
		time.Sleep(refreshEvery * 11 / 10)
		for key, want := range map[string]int64{
			"cairn_jwt_total verified": 1, "cairn_jwt_total cached": 2, "cairn_jwt_total refused": 2,
			"cairn_jwks_fetches_total " + uri + " changed": 2, "cairn_jwks_fetches_total " + uri + " same": 1,
		} {
			if got := c.get(key); got != want {
				t.Errorf("%s: %d, want %d", key, got, want)
			}
		}
		if got := c.get("cairn_jwks_fetches_total " + uri + " failed"); got < 1 {
			t.Errorf("%d fetches failed", got)
		}
		runtime.KeepAlive(chain)
	})
}

func verifierOf(c filters.Chain) *verifier {
	return c[0].OnRequest.(*step).locations[0].forms[0].verifiers[0]
}

// TestDiscovery follows OpenID Connect Discovery.
func TestDiscovery(t *testing.T) {
	const about1 = `{"issuer":"https://login.example.com","jwks_uri":"https://keys.example.com/k"}`
	for _, tt := range []struct {
		name, doc, want string
	}{
		{"found", about1, ""},
		{"slash", strings.Replace(about1, `.com","`, `.com/","`, 1), ""},
		{"other_issuer", strings.Replace(about1, "login", "evil", 1), "the OpenID configuration is another issuer's"},
		{"no_uri", `{"issuer":"https://login.example.com"}`, "the OpenID configuration has no jwks_uri"},
		{"to_http", strings.Replace(about1, "https://keys", "http://keys", 1), "the OpenID configuration leads from https to a jwks_uri that is not"},
		{"to_file", strings.Replace(about1, "https://keys.example.com", "file:///etc", 1), "the OpenID configuration leads from https to a jwks_uri that is not"},
		{"no_json", "x", "the OpenID configuration has no jwks_uri"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := registry(t, &network{answer: func(url string) (int, string) {
					switch url {
					case "https://login.example.com/.well-known/openid-configuration":
						return 200, tt.doc
					case "https://keys.example.com/k":
						return 200, jwks(es())
					}
					return 404, ""
				}})
				c := build(t, r, policyOf(mesh.JWTRule{Issuer: iss}))
				synctest.Wait()
				if got := r.States()[0].Error; got != tt.want {
					t.Errorf("error %q, want %q", got, tt.want)
				}
				if got := answerTo(t, c, get(bearer(es().sign(about(nil))))); (got == "") != (tt.want == "") {
					t.Errorf("answer %q", got)
				}
			})
		})
	}
}

// TestServer asks a real server.
func TestServer(t *testing.T) {
	for _, tt := range []struct {
		name, text, want string
	}{
		{"good", jwks(es()), ""},
		{"not_json", "<html>", "it is not a JSON Web Key Set: an object with a list of keys"},
		{"no_keys", `{"keys":[]}`, "it has no keys"},
		{"hmac_key", `{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`, "none of its keys can be used; the last: it is not a public key"},
		{"too_long", `{"keys":[` + strings.Repeat(" ", maxText), "it is longer than 1 MiB"},
		{"away", "", "answered 503"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newKeyServer(t, tt.text)
			if tt.text == "" {
				s.text.Store(nil)
			}
			r := registry(t, nil)
			c := build(t, r, policyOf(mesh.JWTRule{Issuer: iss, JWKSURI: s.URL + "/keys?secret=x"}))
			ready(t, r)
			if got := r.States()[0]; !strings.HasSuffix(got.Error, tt.want) || strings.Contains(got.Error+got.Keys, "secret") {
				t.Errorf("error %q, want %q", got.Error, tt.want)
			}
			if got := answerTo(t, c, get(bearer(es().sign(about(nil))))); (got == "") != (tt.want == "") {
				t.Errorf("answer %q", got)
			}
		})
	}
}

func TestFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "keys.json")
		write := func(s string) {
			if err := os.WriteFile(name, []byte(s), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(jwks(es()))
		r := registry(t, nil)
		c := build(t, r, policyOf(mesh.JWTRule{Issuer: iss, JWKSURI: "file://" + name}))
		if got := answerTo(t, c, get(bearer(es().sign(about(nil))))); got != "" {
			t.Error(got)
		}
		write(jwks(es2()))
		time.Sleep(2 * rereadEvery)
		if got := answerTo(t, c, get(bearer(es().sign(about(nil))))); got != failNoKey.body {
			t.Errorf("the old key: %q", got)
		}
		write("{")
		time.Sleep(2 * rereadEvery)
		if got := answerTo(t, c, get(bearer(es2().sign(about(nil))))); got != "" {
			t.Errorf("the last good key: %q", got)
		}
		if err := r.States()[0].Error; err == "" {
			t.Error("no error is told")
		}
	})
	r := registry(t, nil)
	c := build(t, r, policyOf(mesh.JWTRule{Issuer: iss, JWKSURI: "file:///dev/zero"}))
	ready(t, r)
	if got := r.States()[0].Error; got != "/dev/zero is not a file" {
		t.Errorf("/dev/zero: %q", got)
	}
	runtime.KeepAlive(c)
}

func TestKeys(t *testing.T) {
	many := make([]pair, maxTried+1)
	for i := range many {
		many[i] = pair{"", "ES256", ec2Key()}
	}
	many[maxTried] = pair{"", "ES256", ecKey()}
	ks, err := parseKeys([]byte(jwks(many...)))
	if err != nil {
		t.Fatal(err)
	}
	if n, ok := ks.find("", "ES256", func(public any) bool { return ecKey().PublicKey.Equal(public) }); ok || n != maxTried {
		t.Errorf("%d keys tried, found %v; want %d", n, ok, maxTried)
	}
	mixed := `{"keys":[{"kty":"XX","kid":"a"},{"kty":"oct","k":"AA","kid":"b"},{"kty":"OKP","crv":"Ed25519","x":"` +
		"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" + `","use":"enc"},` + string(must(es().jwk().MarshalJSON())) + `]}`
	if ks, err = parseKeys([]byte(mixed)); err != nil || len(ks.list) != 1 || ks.list[0].id != "es" {
		t.Errorf("%+v, %v", ks, err)
	}
	if _, err := parseKeys([]byte(`{"keys":[` + strings.Repeat(`{},`, maxKeys) + `{}]}`)); err == nil {
		t.Error("too many keys are taken")
	}
}
