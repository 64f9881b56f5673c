// Package builtin is the list of the filters that are built in.
package builtin

import (
	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/filters/authz"
	"cairnproxy.dev/cairn/filters/cors"
	"cairnproxy.dev/cairn/filters/extauthz"
	"cairnproxy.dev/cairn/filters/fault"
	"cairnproxy.dev/cairn/filters/headers"
	"cairnproxy.dev/cairn/filters/jwt"
	"cairnproxy.dev/cairn/filters/ratelimit"
	"cairnproxy.dev/cairn/filters/redirect"
	"cairnproxy.dev/cairn/filters/rewrite"
	"cairnproxy.dev/cairn/mesh"
)

// Deps is what filters need beside the rule that they are built for.
type Deps struct {
	// Policies are the authorization policies of the service; nil refuses everything.
	Policies *authz.Policies
	// Watched counts what policies in dry run and audit say; nil does not.
	Watched *authz.Registry
	// Auth asks services whether requests may pass; nil asks nobody, for chains that are only looked at.
	Auth *extauthz.Registry
	// RequestAuth says whose tokens the service believes, and Tokens holds their keys.
	RequestAuth []*mesh.RequestAuthentication
	Tokens      *jwt.Registry
	// Limits is what rate limits have counted so far; nil limits nothing.
	Limits *ratelimit.Registry
	// Delays counts what faults delay; nil for a count of the chain's own.
	Delays *fault.Active
}

// NewDeps returns what the filters of one proxy share; policies are added for each service.
func NewDeps(limits *ratelimit.Registry, watched *authz.Registry, tokens *jwt.Registry) Deps {
	return Deps{Limits: limits, Watched: watched, Tokens: tokens, Delays: new(fault.Active)}
}

// Specs returns the filters in the order in which requests meet them. Responses meet them
// in reverse.
//
//	service's chain   jwt, extauthz, authz
//	rule's chain      authz, cors, externalauth, ratelimit, fault, redirect, headers, rewrite
//	backend's chain   externalauth, headers, rewrite
//
// The same list serves services, rules and backends: compile it once for each
// filters.Level.
func Specs(d Deps) []filters.Spec {
	return []filters.Spec{
		// Before policies, which ask whose token it is.
		jwt.Spec(d.RequestAuth, d.Tokens),
		// CUSTOM comes before DENY and ALLOW, as Istio has it: these judge the request as providers have left it.
		extauthz.Custom(d.Policies, d.Auth),
		// Before all else: policies judge the request as the client sent it, and nobody learns
		// of a redirect, or that a path is not there, without being allowed to ask.
		authz.Spec(d.Policies, d.Watched),
		// Before what answers by itself: a page of another origin may read that, too.
		cors.Spec,
		// After cors: a preflight carries no credentials, and a page may read why it is refused.
		extauthz.Route(d.Auth),
		// After cors: a preflight is not counted, and a page may read that it asks too often. Before
		// all that takes time or answers: what is over the limit gets no further.
		ratelimit.Spec(d.Limits),
		// A fault stands for a failing endpoint: it meets what would have gone on to one, after the limits
		// that protect it, and before the request is changed, so that it is chosen by what the client sent.
		fault.Spec(d.Delays),
		// Answers without a backend: whatever follows would be in vain.
		redirect.Spec,
		// Before rewrite, as in Envoy: both are done by its router, headers first.
		headers.Spec,
		// Last: it changes what the request is, so that nothing may look at host and path after it.
		rewrite.Spec,
	}
}
