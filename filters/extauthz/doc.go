// Package extauthz is the filter that asks a service of the mesh whether a request may pass:
// policies of action CUSTOM, and Gateway API's filter ExternalAuth.
//
//	request ──► does a CUSTOM policy of this provider match?   no ──► next provider
//	                │ yes
//	                ▼
//	            body, as much as is wanted (parked)      more, and no part will do ──► 413
//	                ▼
//	            ask, parked:   gRPC: envoy.service.auth.v3 (check.go, answer.go)
//	                │          HTTP: the same request, to another service (http.go)
//	                ├─ allowed ──► headers and query are edited, and on
//	                ├─ denied ───► the answer's status, headers, body; UAEX, ext_authz_denied
//	                └─ no answer ─► on, or 403; UAEX, ext_authz_error
//
// Questions, answers and what they lead to follow Envoy's ext_authz filter, with these differences: an answer that
// cannot be heeded as a whole (a name that is no header's, a line break in a value, too many fields) refuses the
// request with 500 and ext_authz_invalid, and what belongs to the message, not to its content (host,
// pseudo-headers, content-length and the like), stays as it is. Dynamic metadata is not looked at.
//
// Policies of action CUSTOM are asked in the service's chain, before the others decide and before a rule is
// chosen: the rule is chosen by the request that the provider has left. ExternalAuth is in the rule's chain.
//
// # Concurrency
//
// Steps never change. A question is a goroutine of its own, of a bounded number (package remote), which
// uses nothing of the request's memory.
package extauthz
