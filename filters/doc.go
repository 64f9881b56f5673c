// Package filters defines what may change or answer a request between the
// choice of its rule and its way to an endpoint.
//
//	specs ──Compile(level, what is asked for)──► Chain of steps
//
//	            service's chain      rule's chain      backend's chain
//	request ──► authorization ──► redirect, edits ──► edits ──────────► endpoint
//	response ◄─────────────────── edits ◄──────────── edits ◄───────────┘
//
// A filter is a directory of its own with a small type that is built once per
// service, rule or backend. It has a step for the request, for the response, or both. A step says
// Continue, Replied when it has written an answer into Exchange.Reply, or Park when it
// waits: see Exchange.Await and Exchange.After. A filter with nothing to
// do for a rule compiles to no step at all, so a rule without filters costs
// nothing.
//
// Package builtin holds the list of filters, in order. To add one: write its directory
// with a Spec, add a line to that list.
//
// # Concurrency and memory
//
// Chains never change and are shared. An Exchange belongs to one goroutine at a time.
// Strings that steps put into the request or the reply may be views of the
// Exchange's own memory: they end with the exchange.
package filters
