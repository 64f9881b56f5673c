// Package loop moves bytes between sockets by running to completion: the
// goroutine that reads a socket carries what it read as far as it can go, and
// no other goroutine is woken on the way.
//
//	readable ─► Socket.Serve ─► Handler.Data ─► … other sockets' Queues …
//	                                  │
//	                             end of Turn ─► Flush each dirty Queue: seal, write once
//
// # Turn
//
// A Turn is one such run. It remembers which outputs it has written to, and
// its End flushes each of them once: many small frames leave in one TLS write
// and one system call. Everything called within a Turn stays on its goroutine.
//
// # Never block a reader
//
// A write that the kernel would not take (EAGAIN) is handed to a temporary
// writer goroutine, which ends when the backlog is gone. Until then the Queue
// grows, and whoever fills it looks at Queue.Size and stops the source by
// withholding its flow-control credit; Handler.Drained says when to go on.
//
// # Ends
//
// The two directions end separately: CloseWrite sends a FIN behind what is
// queued, and Serve may return with the output still open (keepWriting). Then
// AwaitReset tells a peer that closed its output from one that is gone.
//
// # TLS
//
// crypto/tls runs over an in-memory connection, decoupled from the socket: one
// read of up to 128 KiB feeds many records, and one write carries many. The
// handshake alone runs on the socket itself, blocking, under a deadline.
//
// # Quiet sockets
//
// A socket that nothing comes for may wait in a Lot, without a reader: the
// goroutine's stack is most of what an idle connection costs.
//
// # Concurrency
//
// A Queue is guarded by its own mutex, which protocol layers above also use
// for their connection state, so that a frame costs one lock. A Queue's mutex
// is a leaf, except that a layered connection's comes before its carrier's. So
// is a Lot's.
package loop
