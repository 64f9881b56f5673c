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
// # Health
//
// Where a policy asks for it, a cluster has a ClusterState, which the Registry keeps, too, and each
// of its endpoints a Monitor in it. Outlier, Checked and Concurrency are state machines over these
// that are told of outcomes and of the time; none of them does I/O or reads a clock:
//
//	outcome of a try ──► Outlier.Report ──┐                      ┌─► Endpoint.Available
//	answer to a check ─► Cluster.Checked ─┴─► Monitor's flags ───┴─► Cluster.Refresh: picks among those
//	latency ───────────► Concurrency.Release ─► Tick ─► limit ─► Acquire
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
