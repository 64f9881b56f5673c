// Package waypoint is the L7 program: it terminates HBONE, applies the routes
// and policies of the services that it is bound to, and tunnels on to the
// destination's node proxy.
//
// # The life of a request
//
//	tunnel.Server ─► Proxy.connect         which service port is this CONNECT for?
//	                   └► sniffer          HTTP/1.1, HTTP/2 or bytes?
//	     h1Server / h2Server ─► exchange.begin
//	                              ├─ route        Runtime: table, then filters in order
//	                              ├─ connect      cluster: pick an endpoint; destination: a connection to it
//	                              └─ h1Client / h2Call ─► tunnel.Peer ─► CONNECT podIP:port
//	     response: h1Client / h2Call ─► exchange.responseHead, Data, Trailers ─► h1Server / h2Request
//	                              └─ finish       telemetry: one log record, one series
//
// Read exchange.go first: the state machine. Then pipeline.go: what happens to
// a request, in order. compile.go makes the Runtime that pipeline.go reads.
//
// # Run to completion
//
// The reader of the client's HBONE connection carries a request up to the
// endpoint's connection; that connection's reader carries the response back.
// There is no goroutine per request, stream or tunnel. What must wait, a dial or
// a filter (park.go), parks the exchange, and whoever was waited for goes on with it.
//
// # What waits, and for how long
//
// Credit goes back to whoever sends only as the other side takes what it sent,
// so nobody fills our memory: see exchange, innerConn and plainPipe. What has
// no credit of its own is held back instead: a client that does not read its
// responses gets its next request served when it does. What does wait is
// counted in the Budget that all connections share. A CONNECT to an endpoint
// is given up after connectTimeout, a request head after headTimeout; an
// answer may take as long as the route says.
//
// # Configuration
//
// Run compiles each snapshot into a Runtime and swaps it atomically. An
// exchange keeps the Runtime that it began with; connections, counters and
// balancing state live in destinations and in upstream.Registry, and survive.
package waypoint
