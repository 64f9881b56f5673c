// Package ztunnel is the node proxy: it carries the TCP connections of a
// node's pods through the mesh, encrypted and with both ends identified, and
// enforces the policies that can be decided without looking at the bytes.
//
//	app ──► outbound ──HBONE──► waypoint or the other node's proxy
//	        other nodes ──HBONE──► inbound ──policy──► app
//
// # Decisions and plumbing
//
// What to do with a connection is decided by pure functions over a
// *mesh.Snapshot: DecideOutbound chooses the next hop, DecideInbound says
// where a CONNECT may go. They know no sockets and are tested as tables. The
// rest of the package moves bytes as they say: it accepts, dials, copies,
// counts and closes.
//
// # Modes
//
//   - ModeLoopback: no privileges. Every workload and every service has an
//     address in 127.0.0.0/8. The proxy listens on the services' addresses and
//     tells its clients apart by their source address.
//   - ModeInPod: one process serves many pods. It holds a file descriptor of
//     each pod's network namespace and creates its sockets there, behind
//     redirection rules that the pod's namespace carries.
//   - ModeDedicated: one process serves the network namespace that it was
//     started in.
//
// # Rules that do not bend
//
// A destination that is bound to a waypoint is reached through the waypoint or
// not at all. A CONNECT goes to the pod it was addressed to or is refused. A
// connection is registered before it is first checked, and every change of the
// mesh checks it again: what a new policy forbids is closed, however old.
//
// # Concurrency
//
// There is one goroutine per accept loop, per connection that is not quiet
// (loop.Lot) and, for plain TCP, per second copy direction. Snapshots are immutable and read without locks.
package ztunnel
