// Package policy decides who may do what: Istio's AuthorizationPolicy and
// PeerAuthentication, compiled into matchers.
//
//	node proxy   CompileL4(snapshot, workload) ─► *L4 ── Decide(L4Facts) ─────► Verdict
//	waypoint     AttachedTo(snapshot, service, waypoint)
//	                        └─► CompileL7 ─► *L7 ──┬─ Decide(*mesh.Request) ──► Verdict
//	                                               └─ DecideL4(L4Facts) ──────► Verdict
//
// The L4 form is for a connection: who the peer is, and which address and port it
// wants. The L7 form also sees the request. A waypoint that passes a TCP service
// through asks the L7 policies with DecideL4, which knows no request.
//
// # Order
//
// A DENY policy that matches refuses. Otherwise, when there are ALLOW policies, one
// of them must match. Otherwise the request is allowed. Policies in dry run decide
// nothing: what they would have done is in Verdict.DryRun.
//
// A policy is a disjunction of rules; a rule is a conjunction of clauses (from, to,
// each condition of when); a clause is a disjunction of alternatives (the sources,
// the operations); an alternative is a conjunction of checks of one attribute each.
//
// # What cannot be evaluated
//
// An attribute may be missing at this layer (a path, at L4), not supported (JWT
// claims) or malformed. Then the policy fails closed: an ALLOW rule that uses it
// never matches, and in a DENY rule it counts as matching, so that the rule
// refuses more. This holds for the not-forms too. A policy that was not understood at all
// (AuthorizationPolicy.Invalid) refuses everything that it is bound to, and so does
// a workload that names a policy nobody knows.
//
// # Cost and concurrency
//
// A compiled set never changes: any number of goroutines may ask it. Decisions
// do not allocate, provided that the caller gives the peer's principal along with its identity.
package policy
