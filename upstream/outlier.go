package upstream

import "sync/atomic"

// OutlierCounts are what outlier detection did in a cluster.
type OutlierCounts struct{ Active atomic.Int64 }
type outlierMonitor struct{}
type healthMonitor struct{}
type concurrency struct{}
