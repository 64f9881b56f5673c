// Package expr evaluates CEL expressions over requests: what a rate limit counts by,
// whom a fault is for, who may do what.
//
//	text ──Compile──► parse, check types, estimate the cost ──► Program
//	                                                              │
//	                         Input (a request, who sent it) ──────┴──► a bool, a string, a number
//
// The language is CEL (https://github.com/google/cel-spec) with its standard library and optional
// values. The names are Envoy's attributes (its documentation, "Attributes"):
// request.path, request.headers['x'], source.principal and so on; Attributes lists them. Where
// Envoy has no name there are Istio's words: source.namespace, source.service_account.
//
// # What a hostile expression can do
//
// Nothing but fail to compile. A text is at most MaxText bytes long; its cost is
// estimated for large requests, and one that may cost more than MaxCost is refused
// with its estimate; an expensive one is also watched while it runs. Patterns of
// matches() must be literals: those of a request would be the client's to choose.
//
// # How it is fast
//
// Most expressions compare an attribute with something, or several with && and ||.
// Those compile to a small tree of our own that allocates nothing (native.go); the fuzz test holds it to
// what cel-go says. The others run in cel-go, over attributes that are made when they are asked
// for: the headers are never copied.
//
// # Errors
//
// As CEL has it, request.headers['x'] is an error where there is no x. Ask with
// 'x' in request.headers, or for a default: request.headers[?'x'].orValue('none'). Evaluation returns the
// error, and who evaluates decides: always for the safe side.
//
// Programs are immutable and may be used by any number of goroutines at once.
package expr
