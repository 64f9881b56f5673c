// Package router decides which rule of a service's routes serves a request.
//
//	[]Rule ──New──► *Table ──Match(request)──► the rule's value, and how it matched
//
// A Table is built for one service port from all rules of all routes attached
// to it, and answers with the first rule, in Gateway API's order of precedence,
// that has a match for the request:
//
//  0. where rules have host names: an exact one; then the longest with a "*."; then none
//  1. the path: an exact path; then the longest prefix; then the longest
//     regular expression; then the prefix "/" and matches without a path
//  2. a method, before none
//  3. more header conditions before fewer
//  4. more query conditions before fewer
//  5. the older route
//  6. the route's "namespace/name", alphabetically
//  7. the rule's position in its route, then the match's position in its rule
//
// Gateway API leaves the place of regular expressions open. Istio puts them
// behind prefixes and in front of the catch-all, and so do we: a regular
// expression beside a default rule works, and users who move from Istio see no
// change.
//
// A GRPCRoute's order is the characters of the service, then of the method, then header
// conditions. Its matches are for paths /SERVICE/METHOD: exact ones, prefixes for a
// service alone, and expressions, whose place among each other is RouteMatch.Precedence.
//
// # Cost
//
// The path picks a short list of candidates: exact paths by a map, prefixes by a
// tree of path elements that is walked once. Where many candidates are left, those
// that demand an exact header field are found by its value, and regular
// expressions by the plain text that they begin with. What nothing helps with is
// tried one after another: conditions on methods and query parameters alone,
// expressions for header fields, and expressions for paths that begin with a wildcard.
//
// Match does not allocate, with one exception: a regular expression that is tried
// against a query parameter with escapes in it, or against a header field that came
// in several lines.
//
// # Concurrency
//
// A Table never changes after New: any number of goroutines may use it.
package router
