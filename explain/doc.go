// Package explain says why a request was let pass or refused, and where it went.
//
//	a Record of the past (telemetry/decision) ─┐
//	a request that was made up ────────────────┴► Question ──► waypoint.Proxy.Explain ──► Explanation ──► text, JSON
//	                                                           (or explain/offline, from manifests)
//
// There is one evaluator: the matchers, tables and policies that a waypoint has compiled for its traffic are what
// answers here, too, of a running proxy or of one that was made from manifests for this alone. This package has the words:
// what is asked, what is answered, how that is written for people, and what changes between two answers.
//
// What a record does not have, header fields and tokens, cannot be asked about. Where a rule looks at them, the
// explanation says that it cannot be sure.
package explain
