package main

import (
	"context"
	"fmt"
	"time"
)

// benchCase is one kind of work. run fills the trial's values under the names
// that metrics list; a *rejected error says that the run does not count.
type benchCase struct {
	name    string
	title   string
	metrics []metric
	shape   shape
	run     func(context.Context, *trial) error
}

// shape is the mesh that a case runs in, and what the proxies do for it. The
// zero value is one service with one route, one rule of authorization and the
// access log on.
type shape struct {
	grpc     bool // the service's port speaks HTTP/2, as for gRPC
	routes   int  // rules of the service's route, of which the last one matches; 0 means 1
	services int  // services behind the waypoint, of which one is used; 0 means 1
}

// metric is one figure of a case.
type metric struct {
	name   string
	unit   string
	format string // of fmt
	goal   *goal
}

// goal is what the figure must reach: against the reference's median (ratio)
// or as it stands.
type goal struct {
	text string
	met  func(own, reference float64) bool
}

// The metrics that every case of load has beside its own.
var (
	cost       = metric{name: "req/CPU-s", unit: "", format: "%.0f"}
	perRequest = metric{name: "CPU per request", unit: "µs", format: "%.1f"}
	rate       = metric{name: "requests per second", unit: "", format: "%.0f"}
	p50        = metric{name: "p50", unit: "µs", format: "%.0f"}
	p99        = metric{name: "p99", unit: "µs", format: "%.0f"}
	p999       = metric{name: "p99.9", unit: "µs", format: "%.0f"}
	busy       = metric{name: "proxy's core busy", unit: "%", format: "%.0f"}
	loadBusy   = metric{name: "load's core busy", unit: "%", format: "%.0f"}
	// What others on the machine did to a run: latency means little where
	// these are not near zero.
	waited     = metric{name: "proxy waited for its core", unit: "%", format: "%.1f"}
	loadWaited = metric{name: "load waited for its core", unit: "%", format: "%.1f"}
)

func (m metric) with(text string, met func(own, reference float64) bool) metric {
	m.goal = &goal{text, met}
	return m
}

// atLeast sets the goal of being k times the reference or more.
func (m metric) atLeast(k float64) metric {
	return m.with(fmt.Sprintf("at least %g × the reference", k), func(own, ref float64) bool { return own >= k*ref })
}

// atMost sets the goal of being k times the reference or less.
func (m metric) atMost(k float64) metric {
	text := fmt.Sprintf("at most %g × the reference", k)
	if k == 1 {
		text = "not above the reference"
	}
	return m.with(text, func(own, ref float64) bool { return own <= k*ref })
}

// span chooses how long a step of a case lasts: d, or q in a quick run.
type span func(d, q time.Duration) time.Duration

// selectCases returns the cases that are named, all by default, in order.
func selectCases(names string, quick bool) ([]benchCase, error) {
	long := func(d, q time.Duration) time.Duration {
		if quick {
			return q
		}
		return d
	}
	all := []benchCase{
		smallCase("small-1x1", 1, 1, long),
		smallCase("small-4x16", 4, 16, long),
		smallCase("small-64x1", 64, 1, long),
		rateCase("rate-1000", 1000, long),
		rateCase("rate-2500", 2500, long),
		downCase(long),
		upCase(long),
		connectCase(long),
		handshakeCase(long),
		unaryCase(long),
		streamingCase(long),
		fairCase("fair-same", true, long),
		fairCase("fair-other", false, long),
		slowCase(long),
		memoryCase(),
	}
	var chosen []benchCase
	for _, c := range all {
		if names == "" || listed(names, c.name) {
			chosen = append(chosen, c)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no case is named %q", names)
	}
	return chosen, nil
}
