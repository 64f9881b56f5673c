package mesh

import "time"

// AccessMode says what an AccessPolicy's decision leads to.
type AccessMode uint8

const (
	// ModeEnforce refuses what the policy refuses.
	ModeEnforce AccessMode = iota
	// ModeDryRun refuses nothing; what it would refuse is logged and counted, also where that
	// differs from what was done.
	ModeDryRun
	// ModeAudit refuses nothing and logs each request that a rule matches.
	ModeAudit
)

var accessModes = [...]string{"enforce", "dryRun", "audit"}

// String returns the manifest's word.
func (m AccessMode) String() string { return accessModes[m] }

// AccessEffect is what an AccessRule does.
type AccessEffect uint8

const (
	// AccessAllow admits what it matches and, by existing, refuses what no rule of a policy in
	// force allows.
	AccessAllow AccessEffect = iota
	// AccessDeny refuses what it matches, whoever else allows it.
	AccessDeny
	// AccessRequire refuses what it does not match.
	AccessRequire
)

var accessEffects = [...]string{"allow", "deny", "require"}

// String returns the manifest's word.
func (e AccessEffect) String() string { return accessEffects[e] }

// AccessPolicy is policy.cairnproxy.dev AccessPolicy: rules in CEL over a request, who
// sends it and the claims of its token. An error while one is evaluated refuses.
type AccessPolicy struct {
	Name       Name
	Mode       AccessMode
	TargetRefs []TargetRef
	Rules      []AccessRule
	// Invalid, when not empty, says why the policy could not be understood. It
	// is then enforced fail-closed: it refuses everything that it is bound to, in mode enforce.
	Invalid string
	Origin  Origin
}

// AccessRule is one expression (package expr, kind bool).
type AccessRule struct {
	Name   string
	Effect AccessEffect
	When   string
}

// RequestAuthentication is Istio's security.istio.io RequestAuthentication: whose tokens are
// believed. A request without a token passes; one with a token that is not valid is refused with 401.
type RequestAuthentication struct {
	Name       Name
	Selector   map[string]string
	TargetRefs []TargetRef
	Rules      []JWTRule
	// Invalid, when not empty, says why it could not be understood: requests that
	// carry a token are refused.
	Invalid string
	Origin  Origin
}

// JWTRule is one issuer.
type JWTRule struct {
	Issuer    string
	Audiences []string
	// JWKS is the keys as JSON; JWKSURI is where to get them otherwise.
	JWKS, JWKSURI string
	// FromHeaders, FromParams and FromCookies are where tokens are looked for; all empty means the
	// header "Authorization: Bearer " and the parameter access_token.
	FromHeaders             []JWTHeader
	FromParams, FromCookies []string
	Forward                 bool   // leave the token in the request
	OutputPayloadToHeader   string // base64url of the payload; "" for none
	OutputClaims            []JWTClaimHeader
	Timeout                 time.Duration // of fetching keys; 0: 5 s
	ClockSkew               time.Duration // 0: 60 s, as Istio has it
	SpaceDelimited          []string      // claims that are lists in one string
}

// JWTHeader is a header with what stands before the token in it.
type JWTHeader struct{ Name, Prefix string }

// JWTClaimHeader puts a claim into a request header.
type JWTClaimHeader struct{ Header, Claim string }

// Token is a token that has been verified.
type Token struct {
	// Principal is "ISSUER/SUBJECT".
	Principal, Issuer, Subject, Presenter string
	Audiences                             []string
	// Claims are the payload, as encoding/json decodes it.
	Claims map[string]any
}

// ExtAuthz is a service that is asked whether a request may pass: a provider of action
// CUSTOM (MeshConfig's extensionProviders), or Gateway API's ExternalAuth filter.
type ExtAuthz struct {
	Name    string
	Service ServiceKey
	Port    uint16
	// GRPC asks envoy.service.auth.v3; otherwise the request is sent again by HTTP, without body or with a
	// part of it, to PathPrefix and the path.
	GRPC       bool
	PathPrefix string
	// Timeout of one question; 0 means 10 s.
	Timeout time.Duration
	// FailOpen lets requests pass when there is no answer; otherwise StatusOnError (0: 403) is answered.
	FailOpen      bool
	StatusOnError int
	// Header names, in lower case; a name may begin or end with "*". RequestHeaders are all that gRPC is told, or
	// empty for all there are; by HTTP they are sent beside those that always are. DownstreamOnDeny empty means all.
	RequestHeaders                                       []string
	AddHeaders                                           []Field // to the question, HTTP only
	UpstreamOnAllow, DownstreamOnDeny, DownstreamOnAllow []string
	// Body is how many bytes of the request's body are sent along; 0 for none. A longer body is refused with
	// 413, or cut with PartialBody.
	Body        int
	PartialBody bool
	PackAsBytes bool
	// Broken, when not empty, says why nobody can be asked: requests are refused.
	Broken string
}
