// Package mesh is the model that every other package speaks: what a mesh
// consists of, without saying where the description came from or how traffic
// is carried.
//
//	source/* ──► *mesh.Snapshot ──► proxy/waypoint, proxy/ztunnel (compile it)
//
// A Snapshot is one complete, immutable state of the mesh: workloads,
// services, waypoints, routes and policies. Everything reachable from a
// published Snapshot is read-only and may be shared between any number of
// goroutines without locks. An update builds a new Snapshot that shares the
// parts that did not change, so that a reader can tell "unchanged" from
// "changed" by comparing pointers.
//
// The package imports nothing but the standard library: Kubernetes, Gateway
// API and Envoy types stop at the source that read them.
//
// Request and Response, the facts of one HTTP message, live here too, because
// the router, the policies and the filters all look at them.
package mesh
