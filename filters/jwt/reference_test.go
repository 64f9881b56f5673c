package jwt

import (
	"testing"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
)

// TestReference has the attributes of tokens in Istio's reference ("Authorization Policy", "Authorization Policy
// Conditions"), asked of tokens as they come: signed by an issuer and verified here. Each has a value that matches and
// one that does not, and policy's own TestReference has what else there is to patterns.
func TestReference(t *testing.T) {
	c := build(t, registry(t, nil), policyOf(rule()))
	token := es().sign(about(claims{
		"aud": []string{"shop", "bank"}, "azp": "123456789012.example.com", "email": "alice@example.com", "groups": []string{"readers", "editors"},
		"scope": "read write", "realm": map[string]any{"roles": []string{"admin"}, "name": "main"}, "level": 3, "staff": true, "mixed": []any{"text", 4, true}, "gone": nil, "role": "", "a.b": "dotted",
	}))
	r := get(bearer(token))
	if got := answerTo(t, c, r); got != "" || r.Token == nil {
		t.Fatalf("the token is refused: %q", got)
	}
	bare := get()
	if got := answerTo(t, c, bare); got != "" || bare.Token != nil {
		t.Fatalf("a request without a token: %q, %+v", got, bare.Token)
	}
	for _, tt := range []struct{ name, key, yes, no string }{
		{"principal", "request.auth.principal", iss + "/alice", iss + "/bob"},
		{"principal_prefix", "request.auth.principal", iss + "/*", "https://evil.example.com/*"},
		{"audiences", "request.auth.audiences", "shop", "sho"},
		{"audiences_second", "request.auth.audiences", "bank", "ban"},
		{"presenter", "request.auth.presenter", "123456789012.example.com", iss},
		{"claim", "request.auth.claims[email]", "*@example.com", "*@evil.example.com"},
		{"claim_case", "request.auth.claims[Email]", "", "*"},
		{"claim_list", "request.auth.claims[groups]", "editors", "readers,editors"},
		{"claim_scope", "request.auth.claims[scope]", "write", "read write"},
		{"claim_nested", "request.auth.claims[realm][name]", "main", "other"},
		{"claim_nested_list", "request.auth.claims[realm][roles]", "admin", "root"},
		{"claim_object", "request.auth.claims[realm]", "", "*"},
		{"claim_number", "request.auth.claims[level]", "", "3"},
		{"claim_bool", "request.auth.claims[staff]", "", "true"},
		{"claim_mixed", "request.auth.claims[mixed]", "text", "4"},
		{"claim_null", "request.auth.claims[gone]", "", "*"},
		{"claim_absent", "request.auth.claims[none]", "", "*"},
		{"claim_empty", "request.auth.claims[role]", "", "*"}, // "any" is .+ in Istio
		{"claim_dotted", "request.auth.claims[a.b]", "dotted", "x"},
		{"claim_into_list", "request.auth.claims[groups][editors]", "", "*"},
	} {
		for _, yes := range []bool{true, false} {
			value := tt.no
			if yes {
				value = tt.yes
			}
			if value == "" {
				continue
			}
			with, without := mesh.AuthzCondition{Key: tt.key, Values: []string{value}}, mesh.AuthzCondition{Key: tt.key, NotValues: []string{value}}
			for _, c := range []struct {
				form string
				when mesh.AuthzCondition
				r    *mesh.Request
				want bool // whether the condition holds
			}{
				{"values", with, r, yes},
				{"notValues", without, r, !yes},
				{"values, no token", with, bare, false},
				{"notValues, no token", without, bare, true},
			} {
				rules := []mesh.AuthzRule{{When: []mesh.AuthzCondition{c.when}}}
				for _, a := range []mesh.Action{mesh.ActionAllow, mesh.ActionDeny} {
					v := policy.CompileL7([]*mesh.AuthorizationPolicy{{Action: a, Rules: rules}}).Decide(c.r)
					if v.Allowed != (c.want == (a == mesh.ActionAllow)) {
						t.Errorf("%s %s %s %q: %+v", tt.name, a, c.form, value, v)
					}
				}
			}
		}
	}
	// requestPrincipals is the same principal.
	for _, s := range []mesh.AuthzSource{{RequestPrincipals: []string{iss + "/alice"}}, {RequestPrincipals: []string{"*"}}, {NotRequestPrincipals: []string{iss + "/bob"}}} {
		l := policy.CompileL7([]*mesh.AuthorizationPolicy{{Rules: []mesh.AuthzRule{{From: []mesh.AuthzSource{s}}}}})
		if !l.Decide(r).Allowed || l.Decide(bare).Allowed != (s.RequestPrincipals == nil) {
			t.Errorf("%+v: %+v, and without a token %+v", s, l.Decide(r), l.Decide(bare))
		}
	}
}
