// Package suite proves Cairn against programs that others wrote, from the
// outside: its binary, its ports, its exit codes.
//
//	waypoint_test.go   Envoy ══► cairn waypoint ══► Envoy, and Envoy itself in the waypoint's place
//	wire_test.go       what a waypoint must refuse on the wire
//	ztunnel_test.go    Envoy ══► cairn ztunnel ──► app, and app ──► cairn ztunnel ══► Envoy (root only)
//	up_test.go         curl, nghttp, h2load, grpc-go and h2spec through a mesh that `cairn up` runs
//
// The same test bodies run on Envoy where Envoy can play the part: that shows
// that a failure is Cairn's and not the suite's.
//
// A missing peer or binary fails a test; nothing is skipped but what needs
// root without root, which says so.
package suite
