// Package hbone is the load generator and the sink of the benchmark: a client
// and a server that speak HBONE (HTTP/2 CONNECT streams over mutual TLS 1.3)
// with HTTP/1.1 inside, as cheaply as they can, so that what is measured is
// the proxy between them.
//
//	Load ══HBONE══► proxy under test ══HBONE══► Sink
//
// What makes it cheap: crypto/tls runs over memory and not over the socket,
// so one read of up to 128 KiB feeds many records and one write carries all
// answers of a batch; frames are made and parsed in place; nothing is
// allocated per request; there is one goroutine per connection and none per
// stream.
//
// It is not a client for strangers. Peers are proxies under test on the same
// machine: a frame out of order, a wrong status, length or checksum ends the
// connection and is counted as a failure. Windows are 4 MiB per stream and
// 16 MiB per connection, like the node proxy that a waypoint meets in a mesh.
package hbone
