// Package hbone is the load generator and the sink of the benchmark: a client
// and a server that speak HBONE (HTTP/2 CONNECT streams over mutual TLS 1.3)
// with HTTP/1.1 or gRPC inside, as cheaply as they can, so that what is
// measured is the proxy between them.
//
//	Load ══HBONE══► proxy under test ══HBONE══► Sink
//
// What makes it cheap: crypto/tls runs over memory and not over the socket,
// so one read of up to 128 KiB feeds many records and one write carries all
// answers of a batch; frames are made and parsed in place; bodies are lent and
// not copied into queues; nothing is allocated per request; there is one
// goroutine per connection and none per stream. A connection that has more to
// send than 64 KiB, or a socket that is full, gets a writer until that is
// over; frames of its streams take turns, and the reader never waits for it.
//
// The same frame code (conn) is used twice: over TLS (transport), and for the
// HTTP/2 of gRPC over a tunnel (inside), which has the lock of the conn that
// it travels on. Locks are taken outside in.
//
// What a load can do: closed loops and fixed rates over tunnels (Load.Closed,
// Load.Open), a CONNECT stream per request (Options.Fresh), downloads beside
// the rest (Load.Bulk), readers that are slow (Load.Grant), and connections
// made for one request each (Churn).
//
// It is not a client for strangers. Peers are proxies under test on the same
// machine: a frame out of order, a wrong status, length or checksum ends the
// connection or the tunnel and is counted as a failure. Windows are 4 MiB per
// stream and 16 MiB per connection, like the node proxy that a waypoint meets
// in a mesh.
package hbone
