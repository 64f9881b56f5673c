// Package dns is the node proxy's name server for captured pods. It answers
// for the services of the mesh from the snapshot and passes every other query
// on, byte for byte, to the nameservers that it was given.
//
//	query ──► Lookup(snapshot, client, name) ──► answer, TTL 30 s
//	             └── not a name of the mesh ──► upstream nameserver, raw
//
// Names are found as a Kubernetes pod would find them: "reviews",
// "reviews.default", "reviews.default.svc" and the full name all mean the same,
// whether the client's resolver appended its search domains or not. A name of
// the mesh that has no address of the family asked for is an empty answer, not
// an error: an NXDOMAIN for AAAA would make resolvers give up on A as well.
//
// A Server runs one goroutine per listener, one per query over UDP (bounded) and
// one per TCP connection (bounded).
package dns
