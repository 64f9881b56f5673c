// Package ratelimit is the filter that limits the rate of requests.
//
//	request ──► local limits: all must have tokens, or none gives any
//	                │ yes                    no ──► 429, RL, local_rate_limited
//	                ▼
//	            global limit: ask the rate limit service, parked
//	                │ OK            OVER_LIMIT ──► 429, RL, request_rate_limited
//	                ▼            no answer: pass, or 500, RLSE, as the policy says
//	            the rest of the chain
//
// Local limits are token buckets (bucket.go), one for each or one for each value of a key
// (keyed.go); each instance of a waypoint has its own. The global limit is counted by a
// service that speaks envoy.service.ratelimit.v3 (global.go, package remote). Which requests, which
// bucket and how many tokens are CEL expressions (package expr).
//
// # What outlives a configuration
//
// Registry keeps buckets and connections by the names of policy and limit. A policy that
// changes its numbers goes on with the tokens that are missing; a limit that counts
// by another key begins anew.
//
// # When something cannot be told
//
// A limit whose condition cannot be evaluated applies; a cost that cannot be, is 1; a part of a local
// key that has no value is empty, so that all requests without it share a bucket. A descriptor
// of which an entry has no value is left out, as in Envoy.
//
// # Concurrency
//
// A bucket without key is one atomic number. Buckets by key stand in shards with a lock of their
// own each. Questions to the service are goroutines, of a bounded number.
package ratelimit
