package jwt

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/filters/filterstest"
	"cairnproxy.dev/cairn/mesh"
	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

func rule() mesh.JWTRule {
	return mesh.JWTRule{Issuer: iss, Audiences: []string{"shop", "https://api.example.com/"}, JWKS: jwks(rs(), es(), ed())}
}

func TestTokens(t *testing.T) {
	now := time.Now().Unix()
	good := es().sign(about(nil))
	parts := strings.Split(good, ".")
	hmac := func(secret []byte) string {
		return pair{"rs", jose.HS256, secret}.sign(about(nil))
	}
	public := must(rs().jwk().MarshalJSON())
	embedded := func() string { // a key that the token brings along
		o := (&jose.SignerOptions{EmbedJWK: true}).WithHeader("kid", "es")
		s := must(jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: ec2Key(), KeyID: "es"}}, o))
		return must(must(s.Sign(must(json.Marshal(about(nil))))).CompactSerialize())
	}
	tests := []struct {
		name, token, want string
	}{
		{"es256", good, ""},
		{"rs256", rs().sign(about(nil)), ""},
		{"eddsa", ed().sign(about(nil)), ""},
		{"no_kid", pair{"", jose.ES256, ecKey()}.sign(about(nil)), ""},
		{"ps256_for_rs256_key", pair{"rs", jose.PS256, rsaKey()}.sign(about(nil)), failNoKey.body},
		{"audience_in_list", es().sign(about(claims{"aud": []string{"x", "shop"}})), ""},
		{"audience_without_scheme", es().sign(about(claims{"aud": "api.example.com"})), ""},
		{"no_expiry", es().sign(about(claims{"exp": nil})), ""},
		{"expired_within_skew", es().sign(about(claims{"exp": now - 30})), ""},
		{"early_within_skew", es().sign(about(claims{"nbf": now + 30})), ""},

		{"expired", es().sign(about(claims{"exp": now - 90})), failExpired.body},
		{"expired_at_0", es().sign(about(claims{"exp": 0})), failExpired.body},
		{"early", es().sign(about(claims{"nbf": now + 90})), failEarly.body},
		{"issued_in_future", es().sign(about(claims{"iat": now + 90})), failEarly.body},
		{"audience", es().sign(about(claims{"aud": "other"})), failAudience.body},
		{"no_audience", es().sign(about(claims{"aud": nil})), failAudience.body},
		{"issuer", es().sign(about(claims{"iss": "https://evil.example.com"})), failIssuer.body},
		{"no_issuer", es().sign(about(claims{"iss": nil})), failIssuer.body},
		{"issuer_in_upper_case", es().sign(about(claims{"iss": strings.ToUpper(iss)})), failIssuer.body},
		{"other_key", pair{"es", jose.ES256, ec2Key()}.sign(about(nil)), failSignature.body},
		{"unknown_kid", es2().sign(about(nil)), failNoKey.body},
		{"embedded_key", embedded(), failSignature.body},
		{"payload_changed", parts[0] + "." + b64(string(must(json.Marshal(about(claims{"sub": "root"}))))) + "." + parts[2], failSignature.body},
		{"signature_cut", good[:len(good)-2], failSignature.body},
		{"none", b64(`{"alg":"none"}`) + "." + parts[1] + ".", failForm.body},
		{"none_with_signature", b64(`{"alg":"none"}`) + "." + parts[1] + ".AAAA", failAlg.body},
		{"none_capitals", b64(`{"alg":"NoNe"}`) + "." + parts[1] + ".AAAA", failAlg.body},
		{"hmac_of_public_key", hmac(public), failAlg.body},
		{"hmac_of_modulus", hmac(rsaKey().N.Bytes()), failAlg.body},
		{"ecdsa_kid_rsa_alg", pair{"es", jose.RS256, rsaKey()}.sign(about(nil)), failNoKey.body},
		{"no_alg", b64(`{"typ":"JWT"}`) + "." + parts[1] + "." + parts[2], failNoAlg.body},
		{"alg_twice", b64(`{"alg":"ES256","alg":"none"}`) + "." + parts[1] + "." + parts[2], failHeaderJSON.body},
		{"kid_no_text", b64(`{"alg":"ES256","kid":1}`) + "." + parts[1] + "." + parts[2], failKid.body},
		{"critical", b64(`{"alg":"ES256","crit":["b64"],"b64":false}`) + "." + parts[1] + "." + parts[2], failCritical.body},
		{"two_parts", parts[0] + "." + parts[1], failForm.body},
		{"four_parts", good + ".x", failForm.body},
		{"five_parts_encrypted", "a.b.c.d.e", failForm.body},
		{"empty", "", failForm.body},
		{"json_form", `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, failForm.body},
		{"header_base64", "?." + parts[1] + "." + parts[2], failHeader64.body},
		{"header_json", b64("[]") + "." + parts[1] + "." + parts[2], failHeaderJSON.body},
		{"payload_base64", parts[0] + ".?." + parts[2], failPayload64.body},
		{"payload_json", es().signText("[1]"), failPayloadJSON.body},
		{"payload_null", es().signText("null"), failPayloadJSON.body},
		{"claim_twice", es().signText(`{"iss":"` + iss + `","aud":"other","aud":"shop"}`), failPayloadJSON.body},
		{"signature_base64", parts[0] + "." + parts[1] + ".?", failSignature64.body},
		{"padding", good + "=", failSignature64.body},
		{"iss_no_text", es().sign(about(claims{"iss": 1})), failIss.body},
		{"sub_no_text", es().sign(about(claims{"sub": []string{"a"}})), failSub.body},
		{"exp_text", es().sign(about(claims{"exp": "9999999999"})), failExp.body},
		{"exp_negative", es().sign(about(claims{"exp": -1})), failExp.body},
		{"exp_huge", es().signText(`{"iss":"` + iss + `","aud":"shop","exp":1e300}`), failExp.body},
		{"nbf_null", es().signText(`{"iss":"` + iss + `","aud":"shop","nbf":null}`), failNbf.body},
		{"iat_text", es().sign(about(claims{"iat": "1"})), failIat.body},
		{"aud_number", es().sign(about(claims{"aud": 1})), failAud.body},
		{"aud_mixed", es().sign(about(claims{"aud": []any{"shop", 1}})), failAud.body},
		{"huge", es().sign(about(claims{"x": strings.Repeat("x", maxToken)})), failLarge.body},
		{"large", es().sign(about(claims{"x": strings.Repeat("x", maxKept)})), ""},
	}
	c := build(t, registry(t, nil), policyOf(rule()))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 { // the second time from the table
				if got := answerTo(t, c, get(bearer(tt.token))); got != tt.want {
					t.Errorf("answer %q, want %q", got, tt.want)
				}
			}
		})
	}
}

func TestPlaces(t *testing.T) {
	tok, other := es().sign(about(nil)), es().sign(about(claims{"sub": "bob"}))
	bad := pair{"es", jose.ES256, ec2Key()}.sign(about(nil))
	places := rule()
	places.FromHeaders = []mesh.JWTHeader{{Name: "X-Token"}, {Name: "x-auth", Prefix: "JWT "}, {Name: "x-auth", Prefix: "JWT v2 "}}
	places.FromParams, places.FromCookies = []string{"tok en", "t"}, []string{"session"}
	forward := places
	forward.Forward = true
	field := func(n, v string) mesh.Field { return mesh.Field{Name: n, Value: v} }
	tests := []struct {
		name   string
		rule   mesh.JWTRule
		query  string
		fields mesh.Fields
		want   string // the subject, or the answer in brackets
		left   string // of query and fields
	}{
		{"none", rule(), "a=1", mesh.Fields{field("x", "y")}, "", "?a=1 x=y"},
		{"bearer", rule(), "", mesh.Fields{field("a", "1"), bearer(tok), field("b", "2")}, "alice", "a=1 b=2"},
		{"bearer_lower_case", rule(), "", mesh.Fields{field("authorization", "bearer  "+tok)}, "alice", ""},
		{"bearer_tab", rule(), "", mesh.Fields{field("authorization", "Bearer\t"+tok)}, "alice", ""},
		{"bearer_tab_bad", rule(), "", mesh.Fields{field("authorization", "bearer\t"+bad)}, "[" + failSignature.body + "]", ""},
		{"basic", rule(), "", mesh.Fields{field("authorization", "Basic eDp5")}, "", "authorization=Basic eDp5"},
		{"basic_and_bearer", rule(), "", mesh.Fields{field("authorization", "Basic eDp5"), bearer(tok)}, "alice", ""},
		{"bearer_twice", rule(), "", mesh.Fields{bearer(tok), bearer(tok)}, "[" + failSeveral.body + "]", ""},
		{"good_and_bad", rule(), "", mesh.Fields{bearer(tok), bearer(bad)}, "[" + failSeveral.body + "]", ""},
		{"bearer_nothing", rule(), "", mesh.Fields{field("authorization", "Bearer ")}, "[" + failForm.body + "]", ""},
		{"several_in_one", rule(), "", mesh.Fields{bearer(tok + ", Bearer " + other)}, "[" + failForm.body + "]", ""},
		{"param", rule(), "a=1&access_token=" + tok + "&b=2", nil, "alice", "?a=1&b=2"},
		{"param_alone", rule(), "access_token=" + tok, nil, "alice", ""},
		{"param_encoded", rule(), "access%5Ftoken=" + strings.ReplaceAll(tok, ".", "%2E"), nil, "alice", ""},
		{"param_twice", rule(), "access_token=" + tok + "&access%5Ftoken=" + tok, nil, "[" + failSeveral.body + "]", ""},
		{"param_bad_beside_good_header", rule(), "access_token=" + bad, mesh.Fields{bearer(tok)}, "[" + failSignature.body + "]", ""},
		{"both_good_first_counts", rule(), "access_token=" + other, mesh.Fields{bearer(tok)}, "alice", ""},
		{"not_a_place", places, "access_token=" + bad, mesh.Fields{bearer(bad)}, "", "?access_token=" + bad + " authorization=Bearer " + bad},
		{"header_bare", places, "", mesh.Fields{field("x-token", tok)}, "alice", ""},
		{"header_prefix", places, "", mesh.Fields{field("x-auth", "JWT "+tok)}, "alice", ""},
		{"header_longer_prefix", places, "", mesh.Fields{field("x-auth", "JWT v2 "+tok)}, "alice", ""},
		{"header_other_prefix", places, "", mesh.Fields{field("x-auth", tok)}, "", "x-auth=" + tok},
		// What CGI and its like take for a header where tokens stand is not verified, and does not go on.
		{"header_alike", places, "", mesh.Fields{field("x_token", bad), field("x_auth", "JWT "+bad), field("x-tokens", "1")}, "", "x-tokens=1"},
		{"header_alike_beside", forward, "", mesh.Fields{field("x_token", bad), field("x-token", tok)}, "alice", "x-token=" + tok},
		{"param_space", places, "tok+en=" + tok, nil, "alice", ""},
		{"cookie", places, "", mesh.Fields{field("cookie", "a=1; session="+tok+"; b=2")}, "alice", "cookie=a=1; b=2"},
		{"cookie_quoted_alone", places, "", mesh.Fields{field("cookie", `session="`+tok+`"`)}, "alice", ""},
		{"cookie_second_field", places, "", mesh.Fields{field("cookie", "a=1"), field("cookie", "session="+tok)}, "alice", "cookie=a=1"},
		{"cookie_twice", places, "", mesh.Fields{field("cookie", "session="+tok), field("cookie", "session="+other)}, "[" + failSeveral.body + "]", ""},
		{"forward", forward, "t=" + tok, mesh.Fields{field("x-token", tok), field("cookie", "session="+tok)}, "alice", "?t=" + tok + " x-token=" + tok + " cookie=session=" + tok},
	}
	r := registry(t, nil)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := get(slices.Clone(tt.fields)...)
			req.Query, req.HasQuery = tt.query, tt.query != ""
			got := answerTo(t, build(t, r, policyOf(tt.rule)), req)
			switch {
			case got != "":
				got = "[" + got + "]"
			case req.Token != nil:
				got = req.Token.Subject
			}
			if got != tt.want {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			if strings.HasPrefix(got, "[") {
				return
			}
			var left []string
			if req.HasQuery {
				left = append(left, "?"+req.Query)
			}
			for _, f := range req.Fields {
				left = append(left, f.Name+"="+f.Value)
			}
			if got := strings.Join(left, " "); got != tt.left {
				t.Errorf("what goes on is %q, want %q", got, tt.left)
			}
		})
	}
}

func TestOutputs(t *testing.T) {
	ru := rule()
	ru.OutputPayloadToHeader, ru.SpaceDelimited = "X-Payload", []string{"roles"}
	for h, c := range map[string]string{
		"X-Sub": "sub", "x-id": "id", "x-admin": "admin", "x-rate": "rate", "x-tenant": "realm.id", "x-dotted": "https://a.b/c",
		"x-none": "none", "x-list": "list", "x-evil": "evil", "x-scope": "scope", "x-deep": "sub.x",
	} {
		ru.OutputClaims = append(ru.OutputClaims, mesh.JWTClaimHeader{Header: h, Claim: c})
	}
	body := `{"iss":"` + iss + `","sub":"alice","aud":"shop","azp":"app","id":1234567890123456789,"admin":true,"rate":0.5,"realm":{"id":"t1"},` +
		`"https://a.b/c":"d","list":["a","b"],"evil":"x\r\nx-admin: true","scope":"read write","roles":"a  b","permission":["p"]}`
	c := build(t, registry(t, nil), policyOf(ru))
	claimed := mesh.Fields{{Name: "x-sub", Value: "root"}, {Name: "x_sub", Value: "root"}, {Name: "x-evil", Value: "1"}, {Name: "x-payload", Value: "1"}, {Name: "x-other", Value: "1"}}

	req := get(append(slices.Clone(claimed), bearer(es().signText(body)))...)
	if got := answerTo(t, c, req); got != "" {
		t.Fatal(got)
	}
	got := map[string]string{}
	for _, f := range req.Fields {
		if _, dup := got[f.Name]; dup {
			t.Errorf("%s stands there twice", f.Name)
		}
		got[f.Name] = f.Value
	}
	want := map[string]string{
		"x-other": "1", "x-payload": b64(body), "x-sub": "alice", "x-id": "1234567890123456789", "x-admin": "true", "x-rate": "0.5",
		"x-tenant": "t1", "x-dotted": "d", "x-list": b64(`["a","b"]`), "x-scope": "read write",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	tok := *req.Token
	tok.Claims = maps.Clone(tok.Claims)
	maps.DeleteFunc(tok.Claims, func(k string, _ any) bool { return !slices.Contains([]string{"scope", "roles", "permission"}, k) })
	if diff := cmp.Diff(mesh.Token{
		Principal: iss + "/alice", Issuer: iss, Subject: "alice", Presenter: "app", Audiences: []string{"shop"},
		Claims: map[string]any{"scope": []any{"read", "write"}, "roles": []any{"a", "b"}, "permission": []any{"p"}},
	}, tok); diff != "" {
		t.Errorf("token: -want +got:\n%s", diff)
	}

	// Without a token nobody may write these headers, and a preflight may not either.
	for _, method := range []string{"GET", "OPTIONS"} {
		req = get(append(slices.Clone(claimed), mesh.Field{Name: "origin", Value: "http://a"}, mesh.Field{Name: "access-control-request-method", Value: "GET"})...)
		req.Method = method
		if got := answerTo(t, c, req); got != "" || req.Token != nil {
			t.Errorf("%s: %q, token %v", method, got, req.Token)
		}
		for _, f := range req.Fields {
			if want[f.Name] != "" && f.Name != "x-other" || f.Name == "x_sub" || f.Name == "x-evil" {
				t.Errorf("%s: the client's %s goes on", method, f.Name)
			}
		}
	}
}

func TestPrincipal(t *testing.T) {
	c := build(t, registry(t, nil), policyOf(mesh.JWTRule{JWKS: jwks(es())})) // any issuer
	for _, tt := range []struct {
		name string
		c    claims
		want string
	}{
		{"both", about(nil), iss + "/alice"},
		{"no_subject", about(claims{"sub": nil}), ""},
		{"no_issuer", about(claims{"iss": nil}), ""},
	} {
		r := get(bearer(es().sign(tt.c)))
		if got := answerTo(t, c, r); got != "" || r.Token.Principal != tt.want {
			t.Errorf("%s: %q, %+v", tt.name, got, r.Token)
		}
	}
}

// TestSeveral: rules of several policies count together.
func TestSeveral(t *testing.T) {
	a, b := rule(), rule()
	b.Issuer, b.JWKS = "https://other.example.com", jwks(es2())
	same := rule()
	same.Audiences = []string{"bank"}
	c := build(t, registry(t, nil), policyOf(a), policyOf(b, same))
	for _, tt := range []struct {
		name  string
		token string
		want  string
	}{
		{"first", es().sign(about(nil)), ""},
		{"second", es2().sign(about(claims{"iss": b.Issuer})), ""},
		{"same_issuer_other_audience", es().sign(about(claims{"aud": "bank"})), ""},
		{"neither_audience", es().sign(about(claims{"aud": "x"})), failAudience.body},
		{"issuer_with_key_of_other", es().sign(about(claims{"iss": b.Issuer})), failNoKey.body},
		{"no_issuer_of_ours", es().sign(about(claims{"iss": "x"})), failIssuer.body},
	} {
		if got := answerTo(t, c, get(bearer(tt.token))); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestInvalid(t *testing.T) {
	p := policyOf(mesh.JWTRule{Issuer: iss, FromHeaders: []mesh.JWTHeader{{Name: "x-token"}}})
	p.Invalid = "spec.jwtRules[0].jwks: it is not a JSON Web Key Set"
	c := build(t, registry(t, nil), p, policyOf(rule()))
	tok := es().sign(about(nil))
	for _, f := range []mesh.Field{bearer(tok), {Name: "x-token", Value: tok}} {
		x := filterstest.Exchange(get(f))
		if res := filterstest.Run(x, c); res != filters.Replied || x.Reply.Status != 401 || x.Reply.Details != "jwt_authn_invalid_policy" {
			t.Errorf("%s: %v, %+v", f.Name, res, x.Reply)
		}
	}
	if got := answerTo(t, c, get()); got != "" {
		t.Errorf("without a token: %q", got)
	}
}

func TestReply(t *testing.T) {
	c := build(t, registry(t, nil), policyOf(rule()))
	r := get(bearer("x"), mesh.Field{Name: "x-forwarded-proto", Value: "https"})
	r.Path, r.Query, r.HasQuery = `/a"b`, "access_token=secret", true
	x := filterstest.Exchange(r)
	filterstest.Run(x, c)
	if v, _ := x.Reply.Fields.Get("www-authenticate"); v != `Bearer realm="https://shop/a\"b", error="invalid_token"` {
		t.Errorf("www-authenticate: %s", v)
	}
	if x.Reply.Details != "jwt_authn_access_denied{Jwt_is_not_in_the_form_of_Header.Payload.Signature_with_two_dots_and_3_sections}" {
		t.Errorf("details %s", x.Reply.Details)
	}
	r.Path = strings.Repeat("/a", 500)
	filterstest.Run(x, c)
	if v, _ := x.Reply.Fields.Get("www-authenticate"); len(v) > maxRealm+100 {
		t.Errorf("%d bytes", len(v))
	}
}

func TestSteps(t *testing.T) {
	r := registry(t, nil)
	for _, tt := range []struct {
		name  string
		level filters.Level
		list  []*mesh.RequestAuthentication
		want  int
	}{
		{"service", filters.LevelService, []*mesh.RequestAuthentication{policyOf(rule())}, 1},
		{"rule", filters.LevelRule, []*mesh.RequestAuthentication{policyOf(rule())}, 0},
		{"backend", filters.LevelBackend, []*mesh.RequestAuthentication{policyOf(rule())}, 0},
		{"nothing", filters.LevelService, nil, 0},
		{"no_rules", filters.LevelService, []*mesh.RequestAuthentication{policyOf()}, 0},
		{"invalid", filters.LevelService, []*mesh.RequestAuthentication{{Invalid: "x"}}, 1},
	} {
		c, err := filters.Compile([]filters.Spec{Spec(tt.list, r)}, filters.BuildContext{Level: tt.level})
		if err != nil || len(c) != tt.want {
			t.Errorf("%s: %d steps, %v; want %d", tt.name, len(c), err, tt.want)
		}
	}
}

// TestSecretQuery: a token in a query is kept out of logs, whatever else is wrong with the request.
func TestSecretQuery(t *testing.T) {
	good := es().sign(about(nil))
	preflight := get(mesh.Field{Name: "origin", Value: "https://a"}, mesh.Field{Name: "access-control-request-method", Value: "GET"})
	preflight.Method = "OPTIONS"
	for _, tt := range []struct {
		name   string
		r      *mesh.Request
		query  string
		secret bool
	}{
		{"good", get(), "a=1&access_token=" + good, true},
		{"bad", get(), "access_token=x", true},
		{"twice", get(), "access_token=" + good + "&access_token=" + good, true},
		{"name_encoded", get(), "access%5Ftoken=" + good, true},
		{"beside_bad_header", get(bearer("x")), "access_token=" + good, true},
		{"preflight", preflight, "access_token=" + good, true},
		{"no_token", get(), "access_tokens=1", false},
		{"no_query", get(bearer(good)), "", false},
	} {
		c := build(t, registry(t, nil), policyOf(rule()))
		tt.r.Query, tt.r.HasQuery = tt.query, tt.query != ""
		x := filterstest.Exchange(tt.r)
		filterstest.Run(x, c)
		if n := x.Noted(); (n != nil) != tt.secret || n != nil && !n.SecretQuery {
			t.Errorf("%s: notes %+v, want a secret query %v", tt.name, n, tt.secret)
		}
	}
}
