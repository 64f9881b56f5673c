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

// selectCases returns the cases that are named, all by default, in order.
func selectCases(names string, quick bool) ([]benchCase, error) {
	long := func(d, q time.Duration) time.Duration {
		if quick {
			return q
		}
		return d
	}
	all := []benchCase{
		{
			name: "small-4x16", title: "small GET, closed loop, 4 connections × 16 streams",
			metrics: []metric{
				cost.with("at least 4 × the reference", func(own, ref float64) bool { return own >= 4*ref }),
				perRequest, rate, p50, p99, busy, loadBusy, waited, loadWaited,
			},
			run: closedLoop(4, 16, long(time.Second, 500*time.Millisecond), long(4*time.Second, 2*time.Second)),
		},
		{
			name: "rate-1000", title: "fixed 1,000 requests per second, 4 connections × 25 streams",
			metrics: []metric{
				p50,
				p99.with("not above the reference", func(own, ref float64) bool { return own <= ref }),
				p999, cost, perRequest, busy, loadBusy, waited, loadWaited,
			},
			run: fixedRate(4, 25, 1000, long(time.Second, 500*time.Millisecond), long(10*time.Second, 5*time.Second)),
		},
		{
			name: "memory", title: "resident memory: at start; per tunnel of 1,000 on 10 connections",
			metrics: []metric{
				metric{name: "at start", unit: "MB", format: "%.1f"}.with("less than 25 MB", func(own, _ float64) bool { return own < 25 }),
				metric{name: "per idle tunnel", unit: "KiB", format: "%.1f"}.with("less than 20 KiB", func(own, _ float64) bool { return own < 20 }),
				{name: "per tunnel after one request", unit: "KiB", format: "%.1f"},
			},
			run: idleTunnels(10, 100),
		},
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
