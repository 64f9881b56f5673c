package jwt

import (
	"encoding/base64"
	"math"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

// maxToken bounds a token, in bytes.
const maxToken = 16 << 10

// parsed is a token that has been read, and not verified.
type parsed struct {
	alg      jose.SignatureAlgorithm
	kid      string
	issuer   string
	subject  string
	audience []string
	// begins and expires are seconds since 1970; 0 for a token that does not say.
	begins, expires int64
	payload         string // as it stands in the token
	claims          map[string]any
}

// parse reads a token in compact form (RFC 7515, 7.1). Names that occur twice in an object are refused, as
// two readers could take different ones.
func parse(token string) (*parsed, *failure) {
	if len(token) > maxToken {
		return nil, failLarge
	}
	head, rest, ok := strings.Cut(token, ".")
	payload, signature, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || head == "" || payload == "" || signature == "" || strings.Contains(signature, ".") {
		return nil, failForm
	}
	p := &parsed{payload: payload}
	if f := p.header(head); f != nil {
		return nil, f
	}
	text, err := decode64(payload)
	if err != nil {
		return nil, failPayload64
	}
	if err := json.Unmarshal(text, &p.claims); err != nil || p.claims == nil {
		return nil, failPayloadJSON
	}
	if f := p.registered(); f != nil {
		return nil, f
	}
	if _, err := decode64(signature); err != nil {
		return nil, failSignature64
	}
	return p, nil
}

var encoding = base64.RawURLEncoding.Strict()

func decode64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") { // which Go's decoder passes over
		return nil, base64.CorruptInputError(0)
	}
	return encoding.DecodeString(s)
}

func (p *parsed) header(s string) *failure {
	text, err := decode64(s)
	if err != nil {
		return failHeader64
	}
	var h map[string]any
	if err := json.Unmarshal(text, &h); err != nil || h == nil {
		return failHeaderJSON
	}
	alg, ok := h["alg"].(string)
	if !ok || alg == "" {
		return failNoAlg
	}
	p.alg = jose.SignatureAlgorithm(alg)
	if !slices.Contains(algorithms, p.alg) {
		return failAlg
	}
	if _, ok := h["crit"]; ok { // no extension is understood (RFC 7515, 4.1.11)
		return failCritical
	}
	if v, there := h["kid"]; there {
		if p.kid, ok = v.(string); !ok {
			return failKid
		}
	}
	return nil
}

// registered reads the claims of RFC 7519 (4.1).
func (p *parsed) registered() *failure {
	c := p.claims
	var ok bool
	if p.issuer, ok = textClaim(c, "iss"); !ok {
		return failIss
	}
	if p.subject, ok = textClaim(c, "sub"); !ok {
		return failSub
	}
	issued, ok := timeClaim(c, "iat")
	if !ok {
		return failIat
	}
	if p.begins, ok = timeClaim(c, "nbf"); !ok {
		return failNbf
	}
	p.begins = max(p.begins, issued)
	if p.expires, ok = timeClaim(c, "exp"); !ok {
		return failExp
	}
	switch v := c["aud"].(type) {
	case nil:
	case string:
		p.audience = []string{v}
	case []any:
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return failAud
			}
			p.audience = append(p.audience, s)
		}
	default:
		return failAud
	}
	return nil
}

// textClaim reports false for one that is there and is no text.
func textClaim(c map[string]any, name string) (string, bool) {
	v, there := c[name]
	if !there {
		return "", true
	}
	s, ok := v.(string)
	return s, ok
}

// timeClaim returns a time in seconds; parts of a second are cut. It reports false for what is no
// time, and for times that are no use to anybody.
func timeClaim(c map[string]any, name string) (int64, bool) {
	v, there := c[name]
	if !there {
		return 0, true
	}
	f, ok := v.(float64)
	if !ok || f < 0 || f > 1<<53 || math.IsNaN(f) {
		return 0, false
	}
	return max(int64(f), 1), true // 0 is a time, too
}
