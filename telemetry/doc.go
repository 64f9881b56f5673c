// Package telemetry is what a proxy tells the outside about itself: metrics
// under Istio's names, access logs in Istio's formats, and the HTTP servers for
// administration, metrics and readiness.
//
//	request ends ──► HTTPSeries.Observe ──► atomics ◄── scrape: /stats/prometheus (15020)
//	             └─► Writer.HTTP ──► buffer ──► Run: blocks to stdout or a file
//
// # Cost on the data path
//
// Label sets are resolved once: Metrics.HTTP and Metrics.TCP return a series
// that callers keep next to the route, endpoint or connection it belongs to.
// Observing into a series takes no lock and allocates nothing, and neither
// does formatting a log record.
//
// # Hostile input
//
// Anything that a peer says may stand in a label or a log record. Labels are
// cut to 256 bytes of valid UTF-8, and the number of label sets is bounded:
// what comes beyond is counted in one overflow series per reporter and status.
// Log records escape every byte that could end a line, close a quote or steer
// a terminal. Memory for lines that the sink does not take is bounded; lines
// that do not fit are dropped and counted.
//
// # Concurrency
//
// Everything here may be used by any number of goroutines. There is no
// package-level state: a process that runs several proxies makes one Metrics,
// Writer and Readiness for each.
package telemetry
