// Package pod is the place that a sample server runs in: its name, its
// address, and how it reaches the rest of the mesh.
//
// In a cluster, or in a network namespace with a resolv.conf of its own, a
// sample is an ordinary program: it listens on every address and asks DNS.
// Where one machine plays a whole mesh on loopback addresses, two things must
// be different, and this package holds both:
//
//   - A pod is told apart by its address, so the sample binds its listener to
//     that address and uses it as the source of every connection it opens.
//   - There is no DNS that knows the services, so names come from a hosts file,
//     and ports that could not be bound (below 1024, without the right) come
//     from a table of substitutes.
//
// Both tables are files that whoever runs the mesh may rewrite at any time; a
// change is seen by the next connection. The hosts file has the form of
// hosts(5), the port table has lines "ADDRESS PORT BOUNDPORT":
//
//	# hosts                                            # ports
//	127.64.0.2 details.default.svc.cluster.local       127.64.0.2 80 10080
//	127.64.0.2 details
//
// Names are searched as a pod's resolv.conf would: "details" is tried as
// details.NAMESPACE.svc.cluster.local, details.svc.cluster.local,
// details.cluster.local and details itself, and DNS is asked when none is known.
//
// A *Pod may be used by any number of goroutines.
package pod
