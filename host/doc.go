// Package host makes machines out of one machine: network namespaces that
// stand for pods and nodes, the links between them, the redirection rules
// inside a pod, and processes that run in one.
//
//	┌ node 1 ───────────────┐   ┌ fabric ┐   ┌ node 2 ─────┐
//	│ pod ─veth─┐           │   │        │   │             │
//	│ pod ─veth─┴ br0 ─ up0 ├───┤ bridge ├───┤ up0 ─ br0 … │
//	└───────────────────────┘   └────────┘   └─────────────┘
//
// Each box and each pod is a network namespace. None of them has a name in the
// file system: a namespace is held by its file descriptor alone, so all of it
// vanishes with the process, however that ends. The machine's own namespace is
// never touched, nor are its files: a process in a pod sees its own
// /etc/resolv.conf through a mount namespace of its own.
//
// A Lab needs Linux and root (CAP_SYS_ADMIN and CAP_NET_ADMIN). Everywhere else
// the package builds, and says so when it is asked.
//
// # Namespaces and threads
//
// The network namespace belongs to the thread, and Go moves goroutines between
// threads. Namespace.Do and the socket methods therefore enter a namespace on
// a locked thread and leave it before they let go; a thread that cannot be
// brought back is given up. A socket belongs for life to the namespace that it
// was made in, so that its user needs no care at all.
//
// All types may be used from several goroutines.
package host
