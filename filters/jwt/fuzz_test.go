package jwt

import (
	"testing"

	"cairnproxy.dev/cairn/mesh"
	"github.com/go-jose/go-jose/v4"
)

// FuzzParse: what parse takes, the library that verifies signatures reads in the same way.
func FuzzParse(f *testing.F) {
	f.Add(es().sign(about(nil)))
	f.Add(rs().sign(about(nil)))
	f.Add("a.b.c")
	f.Add(b64(`{"alg":"ES256"}`) + "." + b64(`{"iss":"a","exp":1}`) + ".AAAA")
	f.Fuzz(func(t *testing.T, token string) {
		p, fail := parse(token)
		if fail != nil {
			return
		}
		sig, err := jose.ParseSignedCompact(token, algorithms)
		if err != nil {
			return // which refuses it, too
		}
		h := sig.Signatures[0].Protected
		if h.Algorithm != string(p.alg) || h.KeyID != p.kid {
			t.Errorf("alg %q, kid %q; the library has %q, %q", p.alg, p.kid, h.Algorithm, h.KeyID)
		}
		if text, _ := decode64(p.payload); string(text) != string(sig.UnsafePayloadWithoutVerification()) {
			t.Error("the payload is another")
		}
	})
}

// FuzzPlaces: a token is never found where it is not, what is taken away is gone, and no request without a key's signature gets a token.
func FuzzPlaces(f *testing.F) {
	r := NewRegistry(Options{})
	defer r.Close()
	ru := rule()
	ru.FromHeaders = []mesh.JWTHeader{{Name: "authorization", Prefix: "Bearer "}, {Name: "x-t"}}
	ru.FromParams, ru.FromCookies = []string{"t"}, []string{"t"}
	c := build(f, r, policyOf(ru))
	tok := es().sign(about(nil))
	f.Add("authorization", "Bearer "+tok, "t="+tok)
	f.Add("cookie", "a=b; t="+tok+";", "%74=x&t")
	f.Add("x-t", tok, "")
	f.Fuzz(func(t *testing.T, name, value, query string) {
		req := get(mesh.Field{Name: name, Value: value})
		req.Query, req.HasQuery = query, query != ""
		if answerTo(t, c, req) != "" {
			return
		}
		for i := range c[0].OnRequest.(*step).locations {
			if _, as, _ := c[0].OnRequest.(*step).locations[i].find(req); as != nil {
				t.Errorf("a token is left: %+v", req)
			}
		}
	})
}

func FuzzKeys(f *testing.F) {
	f.Add(jwks(rs(), es(), ed()))
	f.Add(`{"keys":[{"kty":"oct","k":"AA"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		ks, err := parseKeys([]byte(text))
		if (err == nil) != (ks != nil && len(ks.list) > 0) {
			t.Errorf("%v, %v", ks, err)
		}
	})
}
