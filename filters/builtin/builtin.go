// Package builtin is the list of the filters that are built in.
package builtin

import (
	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/filters/authz"
	"cairnproxy.dev/cairn/filters/cors"
	"cairnproxy.dev/cairn/filters/headers"
	"cairnproxy.dev/cairn/filters/redirect"
	"cairnproxy.dev/cairn/filters/rewrite"
)

// Deps is what filters need beside the rule that they are built for.
type Deps struct {
	// Policies are the authorization policies of the service; nil refuses everything.
	Policies *authz.Policies
}

// Specs returns the filters in the order in which requests meet them. Responses meet them
// in reverse.
//
// The same list serves services, rules and backends: compile it once for each
// filters.Level.
func Specs(d Deps) []filters.Spec {
	return []filters.Spec{
		// First: policies judge the request as the client sent it, and nobody learns
		// of a redirect, or that a path is not there, without being allowed to ask.
		authz.Spec(d.Policies),
		// Before what answers by itself: a page of another origin may read that, too.
		cors.Spec,
		// Answers without a backend: whatever follows would be in vain.
		redirect.Spec,
		// Before rewrite, as in Envoy: both are done by its router, headers first.
		headers.Spec,
		// Last: it changes what the request is, so that nothing may look at host and path after it.
		rewrite.Spec,
	}
}
