package traffic

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestTokens(t *testing.T) { runGroup(t, "tokens", append(tokenCases(), keysInMesh...)) }

// requestAuth is a RequestAuthentication for the service with these rules, in YAML's flow style.
func requestAuth(rules ...string) string {
	return "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: tokens, namespace: $NS}\nspec:\n" +
		"  targetRefs: [{group: \"\", kind: Service, name: echo}]\n  jwtRules: [" + strings.Join(rules, ", ") + "]\n---\n"
}

// believes is a rule with inline keys.
func believes(i *issuer, more string) string {
	return "{issuer: " + strconv.Quote(i.name) + ", jwks: " + strconv.Quote(jwks(i)) + more + "}"
}

const remoteKeys = `{issuer: "` + issuerName + `", jwksUri: "$KEYS"}`

// allowing is an ALLOW policy with one rule.
func allowing(rule string) string {
	return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: allow, namespace: $NS}\nspec:\n" +
		"  targetRefs: [{group: \"\", kind: Service, name: echo}]\n  rules: [" + rule + "]\n---\n"
}

// refused is a case whose token is not accepted; its twin verifies nothing, and lets it pass.
func refusedToken(name, of string, token func() string, status int, body string) testCase {
	return testCase{name: "jwt-" + name, of: of, yaml: requestAuth(believes(login, `, audiences: [shop]`)), prove: func(x *trial) error {
		if _, err := x.check(ask{headers: bearer(login.token(nil))}); err != nil {
			return fmt.Errorf("the good one: %w", err)
		}
		want := []string{`www-authenticate: Bearer realm="http://echo/", error="invalid_token"`}
		_, err := x.check(ask{headers: bearer(token()), status: status, text: body, want: want})
		return err
	}}
}

func tokenCases() []testCase {
	soon := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	cut := func(s string) string { return s[:strings.LastIndexByte(s, '.')+1] }
	cutOff := func(s string) string { return s[strings.LastIndexByte(s, '.')+1:] }
	return append([]testCase{
		{
			name: "jwt-good", of: "a token with a good signature is believed and taken off; requests without one pass, too",
			yaml: requestAuth(believes(login, "")), twin: requestAuth(believes(stranger, "")),
			prove: asks(ask{}, ask{headers: bearer(login.token(nil)), seen: []string{"-authorization"}}),
		},
		{
			name: "jwt-forward", of: "forwardOriginalToken leaves the token in the request",
			yaml: requestAuth(believes(login, ", forwardOriginalToken: true")), twin: requestAuth(believes(login, "")),
			prove: asks(ask{headers: bearer(login.token(nil)), seen: []string{"authorization: *"}}),
		},
		{
			name: "jwt-required", of: "an ALLOW policy with requestPrincipals refuses requests without a token",
			keep: requestAuth(believes(login, "")), yaml: allowing(`{from: [{source: {requestPrincipals: ["` + issuerName + `/*"]}}]}`),
			prove: asks(ask{status: 403, text: "RBAC: access denied"}, ask{headers: bearer(login.token(nil))}),
		},
		{
			name: "jwt-claim", of: "when: request.auth.claims[groups] asks about a list in the token",
			keep: requestAuth(believes(login, "")), yaml: allowing(`{when: [{key: "request.auth.claims[groups]", values: [editors]}]}`),
			prove: asks(ask{status: 403}, ask{headers: bearer(login.token(nil))}, ask{headers: bearer(login.token(obj{"groups": []string{"readers"}})), status: 403}),
		},
		{
			name: "jwt-claim-scope", of: "a scope is a list of words, for policies",
			keep: requestAuth(believes(login, "")), yaml: allowing(`{when: [{key: "request.auth.claims[scope]", values: [write]}]}`),
			prove: asks(ask{headers: bearer(login.token(nil))}, ask{headers: bearer(login.token(obj{"scope": "read writes"})), status: 403}),
		},
		{
			name: "jwt-cel", of: "an AccessPolicy asks about jwt.claims", alone: "AccessPolicy is Cairn's",
			keep: requestAuth(believes(login, "")),
			yaml: "apiVersion: policy.cairnproxy.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: cel, namespace: $NS}\nspec:\n" +
				"  targetRefs: [{group: \"\", kind: Service, name: echo}]\n  rules: [{effect: require, when: \"'editors' in jwt.claims.groups && jwt.claims.num > 5.0\"}]\n---\n",
			prove: asks(ask{status: 403}, ask{headers: bearer(login.token(nil))}, ask{headers: bearer(login.token(obj{"num": 5})), status: 403}),
		},
		{
			name: "jwt-claim-headers", of: "claims and payload become headers, and what a client says in these is removed",
			yaml: requestAuth(believes(login, ", outputPayloadToHeader: x-payload, outputClaimToHeaders: [{header: x-sub, claim: sub}, {header: x-num, claim: num}, {header: x-admin, claim: admin}, {header: x-none, claim: none}]")),
			twin: requestAuth(believes(login, "")),
			prove: func(x *trial) error {
				forged := []string{"x-sub", "root", "x-admin", "false"}
				r, err := x.check(ask{headers: append(bearer(login.token(nil)), forged...), seen: []string{"x-sub: alice", "x-num: 7", "x-admin: true", "-x-none", "x-payload: *"}})
				if err != nil {
					return err
				}
				var said struct{ Sub string }
				if text, err := base64.RawURLEncoding.DecodeString(r.seen.Headers.Get("x-payload")); err != nil || json.Unmarshal(text, &said) != nil || said.Sub != "alice" {
					return wrongf("x-payload %q", r.seen.Headers.Get("x-payload"))
				}
				return nil
			},
		},
		{
			name: "jwt-claim-headers-forged", of: "without a token nobody writes the header of a claim",
			yaml:  requestAuth(believes(login, ", outputClaimToHeaders: [{header: x-sub, claim: sub}]")),
			prove: asks(ask{headers: []string{"x-sub", "root"}, seen: []string{"-x-sub"}}),
		},
		{
			name: "jwt-claim-headers-underscore", of: "nor writes it with an underscore, which CGI and its like take for the same", alone: "it lets x_sub pass",
			yaml:  requestAuth(believes(login, ", outputClaimToHeaders: [{header: x-sub, claim: sub}]")),
			prove: asks(ask{headers: []string{"x_sub", "root"}, seen: []string{"-x_sub"}}),
		},
		{
			name: "jwt-places", of: "tokens in a header of its own, a parameter and a cookie",
			yaml: requestAuth(believes(login, `, fromHeaders: [{name: x-token, prefix: "JWT "}], fromParams: [tok], fromCookies: [sess]`)),
			prove: func(x *trial) error {
				bad, good := stranger.token(nil), login.token(nil)
				for _, f := range []func(string) ask{
					func(t string) ask { return ask{headers: []string{"x-token", "JWT " + t}} },
					func(t string) ask { return ask{path: "/?a=1&tok=" + t} },
					func(t string) ask { return ask{headers: []string{"cookie", "a=1; sess=" + t}} },
				} {
					if _, err := x.check(f(good)); err != nil {
						return err
					}
					a := f(bad)
					a.status = 401
					if _, err := x.check(a); err != nil {
						return err
					}
				}
				_, err := x.check(ask{headers: bearer(bad)}) // not a place here
				return err
			},
		},
		{
			name: "jwt-issuers", of: "several issuers, each with its own keys",
			yaml: requestAuth(believes(login, ""), believes(other, "")),
			prove: asks(ask{headers: bearer(login.token(nil))}, ask{headers: bearer(other.token(nil))},
				ask{headers: bearer(other.token(obj{"iss": issuerName})), status: 401}, ask{headers: bearer(login.token(obj{"iss": other.name})), status: 401}),
		},
		{
			name: "jwt-rotated", of: "a new key of a remote key set is found when a token names it, and the old one is believed no more", keep: requestAuth(remoteKeys), untold: true,
			prove: func(x *trial) error {
				x.serveKeys(jwks(login))
				if err := eventually(10*time.Second, x.each(ask{headers: bearer(login.token(nil))})); err != nil {
					return err
				}
				if _, err := x.check(ask{headers: bearer(next.token(nil)), status: 401}); err != nil {
					return err
				}
				time.Sleep(2 * time.Second)
				x.serveKeys(jwks(next))
				return rotated(x)
			},
			wrong: func(x *trial) error {
				x.serveKeys(jwks(login))
				return rotated(x)
			},
		},
		{
			name: "jwt-keys-away", of: "keys that were there go on being used while their server is away", keep: requestAuth(remoteKeys), untold: true,
			alone: "its keys are thrown away when they are old",
			prove: func(x *trial) error {
				x.serveKeys(jwks(login))
				good := asks(ask{headers: bearer(login.token(nil))})
				if err := eventually(10*time.Second, func() error { return good(x) }); err != nil {
					return err
				}
				x.serveKeys("")
				time.Sleep(2 * time.Second)
				for range 3 { // which look for an unknown key
					if _, err := x.check(ask{headers: bearer(next.token(nil)), status: 401}); err != nil {
						return err
					}
				}
				return good(x)
			},
			wrong: func(x *trial) error {
				x.serveKeys("")
				return asks(ask{headers: bearer(login.token(nil))})(x)
			},
		},
		{
			name: "jwt-keys-never", of: "without keys a token is refused, and requests without one pass", yaml: requestAuth(remoteKeys),
			prove: func(x *trial) error {
				x.serveKeys("")
				return asks(ask{}, ask{headers: bearer(login.token(nil)), status: 401, text: "Jwks remote fetch is failed"})(x)
			},
		},
		{
			name: "jwt-discovery", of: "without jwksUri the issuer's OpenID configuration says where its keys are", alone: "istiod reads it for Envoy",
			yaml: requestAuth(`{issuer: "$KEYS"}`),
			prove: func(x *trial) error {
				x.serveKeys(jwks(login))
				name := keyServers().url + x.keyPath()
				if err := eventually(40*time.Second, x.each(ask{headers: bearer(login.token(obj{"iss": name}))})); err != nil {
					return err
				}
				_, err := x.check(ask{headers: bearer(stranger.token(obj{"iss": name})), status: 401})
				return err
			},
		},
	},
		refusedToken("expired", "a token that has expired is refused with 401", func() string { return login.token(obj{"exp": soon(-2 * time.Minute)}) }, 401, "Jwt is expired"),
		refusedToken("early", "a token whose time has not come is refused with 401", func() string { return login.token(obj{"nbf": soon(2 * time.Minute)}) }, 401, "Jwt not yet valid"),
		refusedToken("audience", "a token for another audience is refused with 403", func() string { return login.token(obj{"aud": "bank"}) }, 403, "Audiences in Jwt are not allowed"),
		refusedToken("issuer", "a token of an unknown issuer is refused with 401", func() string { return login.token(obj{"iss": "https://evil.example.com"}) }, 401, "Jwt issuer is not configured"),
		refusedToken("signature", "a token that another key has signed is refused with 401", func() string { return stranger.token(nil) }, 401, "Jwt verification fails"),
		refusedToken("kid", "a token whose key is unknown is refused with 401", func() string { return next.token(nil) }, 401, "Jwks doesn't have key to match kid or alg from Jwt"),
		refusedToken("cut", "a token whose signature is another's is refused with 401", func() string { return cut(login.token(nil)) + cutOff(next.token(nil)) }, 401, "Jwt verification fails"),
		refusedToken("none", "algorithm none is refused", func() string { return login.unsigned(obj{"alg": "none", "kid": login.kid}, nil) + "." }, 401, ""),
		refusedToken("none-signed", "algorithm none is refused with any signature", func() string { return login.unsigned(obj{"alg": "none", "kid": login.kid}, nil) + ".AAAA" }, 401, "Jwt header [alg] is not supported"),
		refusedToken("confused", "an HMAC that is made with the public key is refused", login.confused, 401, ""),
		refusedToken("form", "what is no token is refused with 401", func() string { return "abc" }, 401, "Jwt is not in the form of Header.Payload.Signature"),
	)
}

// each is asks for one trial.
func (x *trial) each(list ...ask) func() error { return func() error { return asks(list...)(x) } }

// rotated proves that the new key is believed, and the old one is not any more.
func rotated(x *trial) error {
	return eventually(8*time.Second, func() error {
		return asks(ask{headers: bearer(next.token(nil))}, ask{headers: bearer(login.token(nil)), status: 401})(x)
	})
}
