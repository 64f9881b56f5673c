// Package jwt is the filter that verifies the tokens of requests: Istio's RequestAuthentication.
//
//	request ──► where tokens may stand ──► whose is it? ──► verified before? ──yes──► Request.Token, headers
//	              header, parameter,          issuer             │no                      ▲
//	              cookie                                         ▼                        │
//	                 │none: on, without                       keys ──► signature ─────────┤
//	                                                           │none yet: wait            │no: 401
//	                              fetched, and again ──────────┘
//
// A request without a token passes; that one is needed, and whose, is for policies to say, which
// come next. A request with a token that is not valid is refused, with Envoy's words.
//
// # What is believed
//
// A verifier is one rule: an issuer with its keys. Only signatures with public keys count (RS, PS,
// ES, EdDSA), each with a key of its own kind, so that neither "none" nor an HMAC made with a public
// key is ever looked at. Keys that a token brings along are not.
// What stands in a token is not believed before its signature is: issuer, times and audiences
// only choose whether it is worth to look at that.
//
// # What it costs
//
// A token that was verified is known by its SHA-256, in a table without locks, for as long as the keys
// stay and until it expires: a request with it costs one hash.
//
// # Keys
//
// They are in the rule, in a file, or at a URL, from where a goroutine fetches them: when
// the rule is new, every so often, and when a token names a key that is not among them. What was fetched last
// is used for as long as nothing better comes. Requests wait, parked, where there are no keys yet or an
// unknown one is asked for, at most for the timeout of the rule.
//
// A Registry holds verifiers and keys over all configurations of a proxy.
package jwt
