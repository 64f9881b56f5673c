// Package acceptance proves what a user is promised, from outside: it starts
// the program with its command line, looks at its ports, its files and its
// exit codes, and knows nothing of its insides.
//
//	bookinfo_test.go   the book shop on one machine: the page, the split, the policies
//	wire_test.go       what is on the wire between the proxies, captured and probed
//	bypass_test.go     a waypoint that is down is not passed around
//	binding_test.go    nor is one that a client knows a way around
//	layers_test.go     policies at node proxies and at waypoints, together
//	authz_test.go      the commands of examples/authz
//	rotation_test.go   certificates and their root change under load; the CA's service
//	spire_test.go      the same with SPIRE's certificates
//	istio_test.go      manifests that others published, as they are
//	reload_test.go     edits under load, good and broken; scaling; services come and go
//	netns_test.go      a network namespace per pod, and nothing left behind
//	badinput_test.go   manifests and command lines that are wrong
//	hostile_test.go    clients that misbehave beside one that does not
//	alone_test.go      a waypoint, a node proxy and the samples by themselves
//	build_test.go      a fresh clone: build, help, the commands of the README, the image
//
// Every mesh has a part of 127.0.0.0/8 of its own (192 to 223), so that the
// tests meet neither each other nor what else runs here. What needs root says
// so and is skipped without it.
package acceptance
