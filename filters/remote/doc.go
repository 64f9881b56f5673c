// Package remote reaches the services that filters ask about requests: rate limit
// services, external authorization.
//
//	filter ──► Pool.GRPC / Pool.HTTP ──► Service ──Admit──► question ──► Done
//	                                        │
//	                                        └── Dialer: an endpoint of the mesh, over HBONE
//
// A Service is one connection, or pool of connections, which all that ask there share over all
// configurations of a proxy; it goes with the last that holds it. It bounds the questions under way, and
// lets one that does not answer be asked only now and then.
//
// # Concurrency
//
// All methods may be called from any goroutine. Nothing here takes a lock per question that
// connections of clients would share, but for counting what Close waits for.
package remote
