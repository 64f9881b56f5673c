package object

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// RequestAuthentication is security.istio.io RequestAuthentication, every field of it.
type RequestAuthentication struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              RequestAuthenticationSpec `json:"spec"`
	Status            any                       `json:"status,omitempty"`
}

// RequestAuthenticationSpec says whose tokens are believed.
type RequestAuthenticationSpec struct {
	Selector   *Selector      `json:"selector,omitempty"`
	TargetRef  *PolicyTarget  `json:"targetRef,omitempty"`
	TargetRefs []PolicyTarget `json:"targetRefs,omitempty"`
	JWTRules   []JWTRule      `json:"jwtRules,omitempty"`
}

// JWTRule is one issuer.
type JWTRule struct {
	Issuer                string           `json:"issuer,omitempty"`
	Audiences             []string         `json:"audiences,omitempty"`
	JWKSURI               string           `json:"jwksUri,omitempty"`
	JWKSURIOld            string           `json:"jwks_uri,omitempty"` // the same, as it was called once
	JWKS                  string           `json:"jwks,omitempty"`
	FromHeaders           []JWTHeader      `json:"fromHeaders,omitempty"`
	FromParams            []string         `json:"fromParams,omitempty"`
	FromCookies           []string         `json:"fromCookies,omitempty"`
	OutputPayloadToHeader string           `json:"outputPayloadToHeader,omitempty"`
	ForwardOriginalToken  bool             `json:"forwardOriginalToken,omitempty"`
	OutputClaimToHeaders  []JWTClaimHeader `json:"outputClaimToHeaders,omitempty"`
	Timeout               string           `json:"timeout,omitempty"`
	SpaceDelimitedClaims  []string         `json:"spaceDelimitedClaims,omitempty"`
}

// JWTHeader is a header where tokens are looked for.
type JWTHeader struct {
	Name   string `json:"name"`
	Prefix string `json:"prefix,omitempty"`
}

// JWTClaimHeader puts a claim into a header.
type JWTClaimHeader struct {
	Header string `json:"header"`
	Claim  string `json:"claim"`
}
