// Package h2 is an HTTP/2 endpoint (RFC 9113) that runs to completion: bytes
// are pushed in with Conn.Data, handlers are called at once on the same
// goroutine, and what they write is appended to the carrier's output queue.
// There is no goroutine per connection or stream, and nothing blocks.
//
// The same endpoint speaks HBONE on a TLS socket (package tunnel) and the
// HTTP/2 inside a CONNECT stream (proxy/waypoint): only the Carrier differs.
//
//	carrier bytes ─► Conn.Data ─► frame ─► Handler.Open / StreamHandler.Headers, Data, Reset
//	                                             │
//	carrier output ◄── Queue ◄── Stream.Write, WriteHeaders, Consumed, Reset
//
// # Flow control and memory
//
// Received bytes are credited back to the peer only when their consumer says
// so (Stream.Consumed), so a slow consumer stops its own producer. Stream
// windows start small and grow while the consumer keeps up. Bytes that may not
// be sent yet wait in the stream; Stream.Congested tells the producer to
// withhold its credit, and StreamHandler.Writable to go on. A Budget shared by
// all connections bounds the sum of what waits.
//
// # Concurrency
//
// The state of a connection is guarded by its carrier's Queue mutex. Handlers
// are called without it: first the exchange's lock, then the connection's,
// never the reverse. Data, Closed and the handlers' Headers and Data come from
// the carrier's reader only; Writable and Reset may come from any goroutine.
package h2
