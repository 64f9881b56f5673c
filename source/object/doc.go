// Package object turns Kubernetes objects into the mesh's model.
//
//	text ─Decode─► []*Object ─┐
//	                          ├─Translate─► mesh.Parts + pods to run + notices + problems
//	Kubernetes API ───New─────┘
//
// Decode reads manifests strictly: each object becomes the Go type that
// publishes it (k8s.io/api, sigs.k8s.io/gateway-api, or this package's own
// structs for Istio's kinds), and whatever its text holds beyond that type is a
// problem. Translate looks at all objects together: it resolves what they name,
// enrols workloads, binds waypoints as Istio's ambient mode does, and writes
// down everything that cannot be meant. A problem has a file, a line and a
// field; for objects that came without text it has neither file nor line.
//
// Translate always gives the parts as far as they can be told, with broken
// routes, backends and policies marked as such (they fail closed), so that a
// source over a live API can serve what is good. A source that owns its text,
// as source/file does, refuses the update instead.
//
// Policies of traffic (TrafficPolicy, DestinationRule, XBackendTrafficPolicy,
// BackendTLSPolicy) are laid over each other in a fixed order, field by field, and what comes
// of it stands at the ports of services and at routes: traffic.go begins the story.
//
// An Object is immutable once made. Translate only reads its input and may run
// in several goroutines at once, as far as the callbacks in Options allow it.
package object
