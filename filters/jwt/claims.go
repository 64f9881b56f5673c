package jwt

import (
	"encoding/base64"
	"strconv"
	"strings"

	"github.com/go-jose/go-jose/v4/json"

	"cairnproxy.dev/cairn/mesh"
)

// spaceDelimited are the claims that are lists in one text wherever they stand, as in Istio.
var spaceDelimited = []string{"scope", "permission"}

// accept makes of a token whose signature is good what requests with it get.
func (v *verifier) accept(p *parsed, d digest, ks *keys) *verified {
	out := &verified{digest: d, keys: ks, begins: p.begins, expires: p.expires, out: v.fields(p)}
	t := &out.token
	t.Issuer, t.Subject, t.Audiences, t.Claims = p.issuer, p.subject, p.audience, p.claims
	t.Presenter, _ = p.claims["azp"].(string)
	if p.issuer != "" && p.subject != "" {
		t.Principal = p.issuer + "/" + p.subject
	}
	for _, list := range [...][]string{spaceDelimited, v.rule.SpaceDelimited} {
		for _, name := range list {
			if s, ok := t.Claims[name].(string); ok {
				t.Claims[name] = split(s)
			}
		}
	}
	return out
}

func split(s string) []any {
	words := strings.Fields(s)
	out := make([]any, len(words))
	for i, w := range words {
		out[i] = w
	}
	return out
}

// fields are the header fields that the rule asks for. A claim that is not there, or cannot be the value
// of a field, gives none.
func (v *verifier) fields(p *parsed) mesh.Fields {
	var out mesh.Fields
	if h := v.rule.OutputPayloadToHeader; h != "" {
		out.Add(strings.ToLower(h), strings.Clone(p.payload)) // a view of the request
	}
	if len(v.rule.OutputClaims) == 0 {
		return out
	}
	claims := exact(p.payload)
	for _, c := range v.rule.OutputClaims {
		if s, ok := claimText(claimAt(claims, c.Claim)); ok {
			out.Add(strings.ToLower(c.Header), s)
		}
	}
	return out
}

// exact reads claims with numbers as they are written: an id of 19 digits is no float.
func exact(payload string) map[string]any {
	text, err := decode64(payload)
	if err != nil {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.SetNumberType(json.UnmarshalJSONNumber)
	var out map[string]any
	if d.Decode(&out) != nil {
		return nil
	}
	return out
}

// claimAt returns the claim of that name, or, as in Envoy, the one inside others to which it is the way: "realm.id".
func claimAt(claims map[string]any, name string) any {
	if v, ok := claims[name]; ok {
		return v
	}
	var v any = claims
	for part := range strings.SplitSeq(name, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[part]
	}
	return v
}

// claimText is a claim as a field's value: texts, numbers and bools as they are, lists and objects as the base64url of
// their JSON, as in Envoy.
func claimText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, isFieldValue(v)
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	case map[string]any, []any:
		text, err := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(text), err == nil
	}
	return "", false
}

// isFieldValue reports whether s may be the value of a field (RFC 9110, 5.5): a claim is not to
// end the header, nor to begin another.
func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return strings.Trim(s, " \t") == s
}
