// Package upstream knows where a service's requests can go, and picks.
//
//	Snapshot ──ForService / ForWorkload──► *Cluster ──Pick──► *Endpoint
//	                                          │                   │ Acquire / Release
//	rule's backends ──NewSplit──► *Split      └──── Registry ─────┘ counters that
//	                              (Pick: which backend)             outlive snapshots
//
// A Cluster is compiled from a snapshot for one service port, or for one
// workload, and never changes; an Endpoint in it is one workload's port with
// everything that a request needs already computed: address, CONNECT authority,
// the identities that its certificate may carry. What changes while requests
// run, the number in flight, lives in the Registry, which all clusters of all
// snapshots share: a workload keeps its counters for as long as anything refers to
// them.
//
// # Concurrency
//
// Clusters, Splits and Endpoints may be used by any number of goroutines; Pick
// takes no lock and does not allocate. Clusters are built by one goroutine, or
// several: the Registry locks.
//
//	var tried upstream.Hint
//	e := cluster.Pick(&tried)
//	if e == nil { /* 503, flag UH */ }
//	e.Acquire()
//	defer e.Release()
//	// it could not be reached:
//	tried.Exclude(e)
//	e = cluster.Pick(&tried)
package upstream
