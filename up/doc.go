// Package up runs a whole mesh on one machine: what `cairn up` does.
//
//	manifests ──► source/file ──► source.Store ──► *mesh.Snapshot
//	                 ▲                                  │
//	             Allocator                     reconciler
//	                                  ┌─────────────────┼────────────────┐
//	                                  ▼                 ▼                ▼
//	                            node proxies        waypoints       pods (Runner)
//	                                  └──── identity.CA ┘
//
// It composes packages that each do one thing and has no knowledge of the wire
// itself. Every object that needs an address gets one from the Allocator,
// which gives the same name the same address in every run. Pods become child
// processes of this one: built-in samples, programs of this machine, or
// "external" when the user runs them.
//
// Run starts everything, reports it (a ready event or a table), follows the
// manifests, and takes it all down again in order when its context ends:
// proxies drain first, then pods are stopped.
//
// One goroutine, the reconciler, owns the set of running proxies and pods;
// nobody else starts or stops one.
package up
