// Package policy decides who may do what: Istio's AuthorizationPolicy and
// PeerAuthentication, and AccessPolicies, whose rules are expressions. All are compiled into one program of matchers.
//
//	node proxy   CompileL4(snapshot, workload) ─► *L4 ── Decide(L4Facts) ───────► Verdict
//	waypoint     Attachments.Of(service) ─► Compile ─► *L7 ──┬─ Custom(Input) ──► whom to ask first
//	                                                         ├─ DecideAnd(Input) ► Verdict, and what others would say
//	                                                         ├─ DecideL4(L4Facts) ► Verdict
//	             Attachments.OfRoute(route) ─► (likewise)    └─ Explain(Input) ──► Verdict and every step to it
//
// The L4 form is for a connection: who the peer is, and which address and port it
// wants. The L7 form also sees the request. A waypoint that passes a TCP service
// through asks the L7 policies with DecideL4, which knows no request.
//
// # Order
//
// What CUSTOM policies match is for their providers to say, before all else. A DENY policy, a deny rule that matches, or a
// requirement that does not hold refuses. Otherwise, when there are ALLOW policies or allow rules, one
// of them must match. Otherwise the request is allowed. Policies in dry run, and those that audit, decide
// nothing: what they say is told beside the verdict.
//
// A policy is a disjunction of rules; a rule is a conjunction of clauses (from, to,
// each condition of when); a clause is a disjunction of alternatives (the sources,
// the operations); an alternative is a conjunction of checks of one attribute each. A rule of an
// AccessPolicy is one expression of package expr. Many rules are filed by what they demand of
// a request (index.go), and only those are evaluated that it can match.
//
// # What cannot be evaluated
//
// An attribute may be missing at this layer (a path, at L4), not supported
// or malformed. Then the policy fails closed: an ALLOW rule that uses it
// never matches, and in a DENY rule it counts as matching, so that the rule
// refuses more. This holds for the not-forms too, and for expressions that fail. A policy that was not understood at all
// (AuthorizationPolicy.Invalid) refuses everything that it is bound to, and so does
// a workload that names a policy nobody knows. A token is no attribute of this kind: without one, what asks for it does
// not match, and the not-form does, as Istio documents it.
//
// # Cost and concurrency
//
// A compiled set never changes: any number of goroutines may ask it. Decisions
// do not allocate, provided that the caller gives the peer's principal along with its identity, and that expressions
// are of what package expr evaluates itself.
package policy
