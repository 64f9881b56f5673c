// Package tunnel carries connections through HBONE: HTTP/2 CONNECT streams
// over mutual TLS 1.3, SPIFFE identities on both ends, port 15008.
//
//	TCP ─► Pool.Dial ─► CONNECT 10.0.0.7:8080 ─► TLS ═══► Server ─► Connect ─► TCP
//	            └────────────── Relay copies, both ways ──────────────┘
//
// Wire facts, as ztunnel and istiod's waypoints have them:
//
//	:method CONNECT, :authority IP:port or host:port; no :scheme, no :path
//	baggage      who the client workload is, for telemetry
//	forwarded    for="IP:port" of the first client; host= the service asked for
//	traceparent  W3C trace context
//	200          after the destination's connection exists
//	400 bad method, authority or address; 401 refused by policy; 503 no way on
//
// There are two ways to use it. The node proxy moves bytes and thinks in
// connections: Server calls a handler on a goroutine of its own, Pool.Dial
// blocks until the peer answers, and Relay joins a TCP connection and a Stream
// and keeps its goroutine as the reader; RelayIn lets it go while the
// connection is quiet. The waypoint looks into the bytes and
// runs to completion: ServerOptions.Inline and Target.Open give it the HTTP/2
// streams themselves, on the reader that got them.
//
// Either way there is at most one reader goroutine per TCP connection and none per
// stream that has nothing to read; see packages loop and h2 beneath.
package tunnel
