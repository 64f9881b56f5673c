package object_test

import (
	"crypto/rsa"
	"encoding/json"
	"math/big"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source/object"
	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

const (
	tokensHead = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: p}\nspec:\n"
	tokensTo   = "  targetRefs: [{kind: Service, name: web}]\n"
	// A public key of Ed25519, of RFC 8037 (appendix A).
	edKey   = `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`
	edKeys  = `{"keys":[` + edKey + `]}`
	edOwner = `{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`
)

func TestRequestAuthentication(t *testing.T) {
	res, _ := translate(t, "dir/f.yaml", strings.Replace(tokensHead, "{name: p}", "{name: p, annotations: {policy.cairnproxy.dev/clock-skew: 5s}}", 1)+tokensTo+`  jwtRules:
  - issuer: https://login.example.com
    audiences: [shop, bank]
    jwksUri: https://login.example.com/keys
    fromHeaders: [{name: X-Token, prefix: "JWT "}, {name: authorization, prefix: "Bearer "}]
    fromParams: [t]
    fromCookies: [session]
    outputPayloadToHeader: X-Payload
    forwardOriginalToken: true
    outputClaimToHeaders: [{header: X-Sub, claim: sub}]
    timeout: 2s
    spaceDelimitedClaims: [roles]
  - {issuer: https://a.example.com}
  - {issuer: b, jwks: '`+edKeys+`'}
  - {issuer: c, jwks_uri: "http://keys.shop/k"}
  - {issuer: d, jwksUri: "file:keys/d.json"}
  - {issuer: e, jwksUri: "file:///etc/keys.json"}
  - {jwksUri: "http://keys.shop/any"}
`+strings.Replace(svc, "name: web}", "name: web, labels: {istio.io/use-waypoint: wp}}", 1)+waypoint, object.Options{})
	if len(res.Problems) > 0 || len(res.Parts.RequestAuth) != 1 {
		t.Fatalf("%d; %v", len(res.Parts.RequestAuth), res.Problems)
	}
	file, err := filepath.Abs("dir/keys/d.json")
	if err != nil {
		t.Fatal(err)
	}
	got := *res.Parts.RequestAuth[0]
	got.Origin = mesh.Origin{}
	skew := 5 * time.Second
	want := mesh.RequestAuthentication{
		Name: mesh.Name{Namespace: "default", Name: "p"}, TargetRefs: []mesh.TargetRef{{Kind: "Service", Name: "web"}},
		Rules: []mesh.JWTRule{
			{
				Issuer: "https://login.example.com", Audiences: []string{"shop", "bank"}, JWKSURI: "https://login.example.com/keys",
				FromHeaders: []mesh.JWTHeader{{Name: "x-token", Prefix: "JWT "}, {Name: "authorization", Prefix: "Bearer "}},
				FromParams:  []string{"t"}, FromCookies: []string{"session"}, Forward: true, OutputPayloadToHeader: "x-payload",
				OutputClaims: []mesh.JWTClaimHeader{{Header: "x-sub", Claim: "sub"}}, Timeout: 2 * time.Second, ClockSkew: skew, SpaceDelimited: []string{"roles"},
			},
			{Issuer: "https://a.example.com", ClockSkew: skew},
			{Issuer: "b", JWKS: edKeys, ClockSkew: skew},
			{Issuer: "c", JWKSURI: "http://keys.shop/k", ClockSkew: skew},
			{Issuer: "d", JWKSURI: "file://" + file, ClockSkew: skew},
			{Issuer: "e", JWKSURI: "file:///etc/keys.json", ClockSkew: skew},
			{JWKSURI: "http://keys.shop/any", ClockSkew: skew},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if s := statusOf(t, &res, "RequestAuthentication", "p"); len(s.Parents) != 1 || !s.Good() {
		t.Errorf("status %+v", s)
	}
}

// TestRequestAuthenticationProblems: what is wrong is told with its field, and tokens are refused.
func TestRequestAuthenticationProblems(t *testing.T) {
	rule := func(fields string) string {
		return tokensTo + "  jwtRules:\n  - issuer: https://a.example.com\n" + strings.ReplaceAll("    "+strings.TrimSpace(fields), "; ", "\n    ") + "\n"
	}
	keys := func(list string) string { return rule("jwks: " + strconv.Quote(`{"keys":[`+list+`]}`) + " " + mark) }
	short, _ := json.Marshal(jose.JSONWebKey{Key: shortRSA})
	tests := []struct{ name, spec, field, message string }{
		{"unknown_field", rule("jwksURI: https://a " + mark), "spec.jwtRules[0].jwksURI", "unknown field"},
		{"both_keys", rule("jwksUri: https://a.example.com/k; jwks: '" + edKeys + "' " + mark), "spec.jwtRules[0].jwks", "exclude each other"},
		{"jwks_text", rule("jwks: nothing " + mark), "spec.jwtRules[0].jwks", "is not a JSON Web Key Set"},
		{"jwks_empty", keys(""), "spec.jwtRules[0].jwks", "has no keys"},
		{"jwks_unknown", keys(edKey + `,{"kty":"X"}`), "spec.jwtRules[0].jwks", "keys[1] is not a JSON Web Key"},
		{"jwks_private", keys(edOwner), "spec.jwtRules[0].jwks", "keys[0] is a private key"},
		{"jwks_secret", keys(`{"kty":"oct","k":"c2VjcmV0"}`), "spec.jwtRules[0].jwks", "keys[0] is a shared secret"},
		{"jwks_short", keys(string(short)), "spec.jwtRules[0].jwks", "less than 2048 bits"},
		{"uri", rule("jwksUri: keys.json " + mark), "spec.jwtRules[0].jwksUri", "use an http, https or file URL"},
		{"uri_scheme", rule("jwksUri: ftp://a/b " + mark), "spec.jwtRules[0].jwksUri", "use an http, https or file URL"},
		{"uri_old", rule("jwks_uri: ftp://a/b " + mark), "spec.jwtRules[0].jwks_uri", "use an http, https or file URL"},
		{"uri_password", rule("jwksUri: https://u:p@a/b " + mark), "spec.jwtRules[0].jwksUri", "has a user or a password"},
		{"no_issuer", tokensTo + "  jwtRules:\n  - audiences: [a] " + mark + "\n", "spec.jwtRules[0].issuer", "nowhere to get keys from"},
		{"issuer_no_url", tokensTo + "  jwtRules:\n  - issuer: me@example.com " + mark + "\n", "spec.jwtRules[0].jwksUri", "add jwksUri or jwks"},
		{"audience", rule("audiences: ['']" + mark), "spec.jwtRules[0].audiences[0]", "names nothing"},
		{"param", rule("fromParams: ['']" + mark), "spec.jwtRules[0].fromParams[0]", "names nothing"},
		{"cookie", rule("fromCookies: ['a b'] " + mark), "spec.jwtRules[0].fromCookies[0]", "not the name of a cookie"},
		{"header", rule("fromHeaders: [{name: 'a b'}] " + mark), "spec.jwtRules[0].fromHeaders[0].name", "not a valid header name"},
		{"header_cookie", rule("fromHeaders: [{name: Cookie}] " + mark), "spec.jwtRules[0].fromHeaders[0].name", "use fromCookies"},
		{"header_prefix", rule(`fromHeaders: [{name: a, prefix: "x\n"}] ` + mark), "spec.jwtRules[0].fromHeaders[0].prefix", "cannot stand in a header"},
		{"header_twice", rule("fromHeaders: [{name: a}, {name: A}] " + mark), "spec.jwtRules[0].fromHeaders[1]", "named twice"},
		{"output", rule("outputPayloadToHeader: ':path' " + mark), "spec.jwtRules[0].outputPayloadToHeader", "not a valid header name"},
		{"output_host", rule("outputClaimToHeaders: [{header: Host, claim: sub}] " + mark), "spec.jwtRules[0].outputClaimToHeaders[0].header", "meaning of its own"},
		{"output_cert", rule("outputPayloadToHeader: X-Forwarded-Client-Cert " + mark), "spec.jwtRules[0].outputPayloadToHeader", "meaning of its own"},
		{"output_place", rule("outputPayloadToHeader: Authorization " + mark), "spec.jwtRules[0].outputPayloadToHeader", "where tokens are looked for"},
		{"output_twice", rule("outputPayloadToHeader: a; outputClaimToHeaders: [{header: A, claim: sub}] " + mark), "spec.jwtRules[0].outputClaimToHeaders[0].header", "written twice"},
		{"output_no_claim", rule("outputClaimToHeaders: [{header: a, claim: ''}] " + mark), "spec.jwtRules[0].outputClaimToHeaders[0].claim", "names no claim"},
		{"claim", rule("spaceDelimitedClaims: [''] " + mark), "spec.jwtRules[0].spaceDelimitedClaims[0]", "names nothing"},
		{"timeout", rule("timeout: soon " + mark), "spec.jwtRules[0].timeout", "not a duration"},
		{"many_names", rule("audiences: [" + strings.Repeat("a, ", 64) + "a] " + mark), "spec.jwtRules[0].audiences", "at most 64"},
		{"many_rules", tokensTo + "  jwtRules: [" + strings.Repeat("{issuer: 'https://a'}, ", 256) + "{issuer: 'https://a'}] " + mark + "\n", "spec.jwtRules", "at most 256"},
		{"target_gone", "  targetRefs:\n  - {kind: Service, name: gone} " + mark + "\n  jwtRules: [{issuer: 'https://a'}]\n", "spec.targetRefs[0].name", "does not exist"},
		{"selector_and_target", tokensTo + "  selector: {matchLabels: {a: b}} " + mark + "\n", "spec.selector", "exclude each other"},
	}
	var list []wrong
	for _, tt := range tests {
		text := tokensHead + tt.spec + "---\n" + strings.TrimPrefix(svc, "---\n")
		list = append(list, wrong{tt.name, text, "RequestAuthentication default/p", tt.field, tt.message})
		res, _ := translate(t, "f.yaml", text, object.Options{})
		if len(res.Parts.RequestAuth) != 1 || len(res.Parts.RequestAuth[0].TargetRefs) != 1 {
			t.Errorf("%s: %+v, want one with a target", tt.name, res.Parts.RequestAuth)
			continue
		}
		// One whose target is not there says nothing wrong of tokens: its status tells.
		if invalid := res.Parts.RequestAuth[0].Invalid; (invalid != "") != (tt.name != "target_gone") {
			t.Errorf("%s: invalid %q", tt.name, invalid)
		}
		if s := statusOf(t, &res, "RequestAuthentication", "p"); s.Good() {
			t.Errorf("%s: status %+v is good", tt.name, s)
		}
	}
	checkWrong(t, list)
}

// TestRequestAuthenticationTooMuch: what is too much refuses tokens, and clients may write none of its headers all the same.
func TestRequestAuthenticationTooMuch(t *testing.T) {
	outputs := func(n int) string {
		return "{issuer: 'https://a', outputClaimToHeaders: [" + strings.Repeat("{header: x-n, claim: a}, ", n) + "{header: x-last, claim: a}]}"
	}
	for _, tt := range []struct{ name, rules string }{
		{"rules", "[" + strings.Repeat("{issuer: 'https://a'}, ", 256) + outputs(0) + "]"},
		{"outputs", "[" + outputs(64) + "]"},
	} {
		res, _ := translate(t, "f.yaml", tokensHead+tokensTo+"  jwtRules: "+tt.rules+"\n"+svc, object.Options{})
		p := res.Parts.RequestAuth[0]
		last := p.Rules[len(p.Rules)-1].OutputClaims
		if p.Invalid == "" || len(last) == 0 || last[len(last)-1].Header != "x-last" {
			t.Errorf("%s: invalid %q, the last rule's headers %v", tt.name, p.Invalid, last)
		}
	}
}

func TestRequestAuthenticationNotices(t *testing.T) {
	for _, tt := range []struct{ name, spec, want, reason string }{
		{"no_target", "  jwtRules: [{issuer: 'https://a'}]\n", "only waypoints verify tokens; add targetRefs for one to do so", ""},
		{"no_rules", tokensTo, "without jwtRules has no effect", "AncestorNotBound"},
		{"no_waypoint", tokensTo + "  jwtRules: [{issuer: 'https://a'}]\n", "has no waypoint", "AncestorNotBound"},
	} {
		res, _ := translate(t, "f.yaml", tokensHead+tt.spec+svc, object.Options{})
		found := false
		for _, n := range res.Notices {
			found = found || strings.Contains(n.Message, tt.want)
		}
		if !found || len(res.Problems) > 0 {
			t.Errorf("%s: notices %v, problems %v", tt.name, res.Notices, res.Problems)
		}
		if tt.reason == "" {
			continue
		}
		// The service is none of a waypoint: nobody is to think that its tokens are verified.
		if s := statusOf(t, &res, "RequestAuthentication", "p"); len(s.Parents) != 1 || s.Good() || s.Parents[0].Conditions[0].Reason != tt.reason {
			t.Errorf("%s: status %+v, want %s", tt.name, s, tt.reason)
		}
	}
}

// shortRSA has 1024 bits.
var shortRSA = &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 1023, 1), E: 65537}
