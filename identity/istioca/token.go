package istioca

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

const (
	// Audience is what a token must be for; Istio's word.
	Audience = "istio-ca"
	// TokenTTL is how long a token is good for: as long as the token that Kubernetes
	// projects into Istio's pods.
	TokenTTL = 12 * time.Hour
	maxToken = 4096
)

// Caller is who a token speaks for.
type Caller struct {
	Identity mesh.Identity
	// Node is where the caller runs; "" if that is not known.
	Node string
}

// Tokens makes and checks tokens: JWTs in the form of Kubernetes' service
// account tokens, signed with HMAC SHA-256 and a secret that only the CA has.
type Tokens struct {
	key         mesh.Secret
	trustDomain string
}

// NewTokens returns the tokens of one secret (identity.CA.TokenKey) and trust domain.
func NewTokens(key mesh.Secret, trustDomain string) *Tokens {
	return &Tokens{key: key, trustDomain: trustDomain}
}

// claims are what Kubernetes puts into a token, as far as we use it.
type claims struct {
	Issuer     string   `json:"iss"`
	Subject    string   `json:"sub"`
	Audience   []string `json:"aud"`
	Issued     int64    `json:"iat"`
	Expires    int64    `json:"exp"`
	Kubernetes kubeInfo `json:"kubernetes.io"`
}

type kubeInfo struct {
	Namespace      string `json:"namespace"`
	ServiceAccount struct {
		Name string `json:"name"`
	} `json:"serviceaccount"`
	Node struct {
		Name string `json:"name,omitempty"`
	} `json:"node,omitzero"`
}

const (
	issuer       = "cairn-up"
	subjectStart = "system:serviceaccount:"
)

// header is the only one that is accepted: with it there is no choice of algorithm.
var header = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`))

// Make returns a token for c that is good from now for ttl.
func (t *Tokens) Make(c Caller, now time.Time, ttl time.Duration) (string, error) {
	cl := claims{
		Issuer: issuer, Subject: subjectStart + c.Identity.Namespace + ":" + c.Identity.ServiceAccount,
		Audience: []string{Audience}, Issued: now.Unix(), Expires: now.Add(ttl).Unix(),
	}
	cl.Kubernetes.Namespace, cl.Kubernetes.ServiceAccount.Name = c.Identity.Namespace, c.Identity.ServiceAccount
	cl.Kubernetes.Node.Name = c.Node
	text, err := json.Marshal(cl)
	if err != nil {
		return "", fmt.Errorf("making a token for %s: %w", c.Identity, err)
	}
	signed := header + "." + base64.RawURLEncoding.EncodeToString(text)
	return signed + "." + base64.RawURLEncoding.EncodeToString(t.sum(signed)), nil
}

func (t *Tokens) sum(signed string) []byte {
	h := hmac.New(sha256.New, t.key)
	h.Write([]byte(signed))
	return h.Sum(nil)
}

// Check returns who a token speaks for. Its errors do not contain the token.
func (t *Tokens) Check(token string, now time.Time) (Caller, error) {
	if len(token) > maxToken {
		return Caller{}, fmt.Errorf("token is longer than %d bytes", maxToken)
	}
	i := strings.LastIndexByte(token, '.')
	if i < 0 || !strings.HasPrefix(token, header+".") || i <= len(header) {
		return Caller{}, errors.New("token was not made by this CA")
	}
	mac, err := base64.RawURLEncoding.Strict().DecodeString(token[i+1:])
	if err != nil || !hmac.Equal(mac, t.sum(token[:i])) {
		return Caller{}, errors.New("token was not made by this CA, or the CA has another secret now")
	}
	text, err := base64.RawURLEncoding.DecodeString(token[len(header)+1 : i])
	if err != nil {
		return Caller{}, errors.New("token's claims are not base64")
	}
	var cl claims
	if json.Unmarshal(text, &cl) != nil {
		return Caller{}, errors.New("token's claims are not JSON")
	}
	sub, ok := strings.CutPrefix(cl.Subject, subjectStart)
	ns, sa, ok2 := strings.Cut(sub, ":")
	switch {
	case !ok || !ok2 || cl.Issuer != issuer || len(cl.Audience) != 1 || cl.Audience[0] != Audience:
		return Caller{}, errors.New("token is not for this service")
	case now.Unix() >= cl.Expires:
		return Caller{}, fmt.Errorf("token expired on %s; its file has a newer one while the mesh runs", time.Unix(cl.Expires, 0).UTC().Format(time.RFC3339))
	}
	return Caller{
		Identity: mesh.Identity{TrustDomain: t.trustDomain, Namespace: ns, ServiceAccount: sa},
		Node:     cl.Kubernetes.Node.Name,
	}, nil
}
