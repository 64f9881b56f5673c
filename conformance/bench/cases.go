package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// benchCase is one kind of work. run fills the trial's values under the names
// that metrics list; a *rejected error says that the run does not count.
type benchCase struct {
	name    string
	title   string
	group   string   // empty: waypoint
	on      []string // contenders: the one under test, the one it is measured against, others; empty: those of the group
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
	apart    bool // group node: the application is a process of its own, which has its own limit of open files
	services int  // services behind the waypoint, of which one is used; 0 means 1
}

// groups are the places in a mesh, and who stands there in most cases.
var groups = map[string][]string{
	"waypoint": {"cairn", "envoy"},
	"node":     {"cairn-pair", "envoy-pair"},
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

// allCases lists every case, in the order in which they run.
func allCases(quick bool) []benchCase {
	return slices.Concat(
		smallCases(quick),
		rateCases(quick),
		memoryCases(),
		nodeCases(quick),
	)
}

// selectCases returns the cases that the command line names, all by default,
// in order, each with the contenders that it is to run on.
func selectCases(o options) ([]benchCase, error) {
	var chosen []benchCase
	for _, c := range allCases(o.quick) {
		if c.group == "" {
			c.group = "waypoint"
		}
		if len(c.on) == 0 {
			c.on = groups[c.group]
		}
		c.on = slices.DeleteFunc(slices.Clone(c.on), func(name string) bool { return !listed(o.contenders, name) })
		if len(c.on) > 0 && listed(o.only, c.name) && listed(o.group, c.group) {
			chosen = append(chosen, c)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no case is named %q in group %q with contenders %q", o.only, o.group, o.contenders)
	}
	return chosen, nil
}

// listed reports whether the comma-separated names have the name; no names
// are all names.
func listed(names, name string) bool {
	return names == "" || slices.Contains(strings.Split(names, ","), name)
}

// either is a length of time for the full run and one for -quick.
func either(quick bool, full, short time.Duration) time.Duration {
	if quick {
		return short
	}
	return full
}
