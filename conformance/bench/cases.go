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
	lasts   time.Duration // about, for the estimate; 0: as most
	run     func(context.Context, *trial) error

	// derive computes further values from those of another case, from, that the
	// same contender had in the same round.
	from   string
	derive func(values, from map[string]float64)

	own, reference string // the first two of on, also where they do not run
}

// shape is the mesh that a case runs in, and what the proxies do for it. The
// zero value is one service with one route, one rule of authorization and the
// access log on.
type shape struct {
	grpc     bool // the service's port speaks HTTP/2, as for gRPC
	routes   int  // rules of the service's routes, of which the last one matches; 0 means 1
	services int  // services behind the waypoint, of which one is used; 0 means 1
	pods     int  // pods of each of the services that are not used; 0 means 1

	noPolicy bool // nobody has to be allowed in
	noLog    bool // no access log
	stats    bool // Envoy counts in Istio's metrics too, as Cairn always does
	tracing  bool // Envoy traces one request in a hundred

	idle bool // ten features of the rule that no request makes act

	apart bool // group node: the application is a process of its own, which has its own limit of open files
}

// groups are the places in a mesh, and who stands there in most cases.
var groups = map[string][]string{
	"waypoint": {"cairn", "envoy"},
	"node":     {"cairn-pair", "envoy-pair"},
}

// allCases lists every case, in the order in which they run.
func allCases(quick bool) []benchCase {
	long := func(full, short time.Duration) time.Duration { return either(quick, full, short) }
	return slices.Concat([]benchCase{
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
		idleCase("idle-1000", 10, long),
		idleCase("idle-10000", 100, long),
		routesCase(10, long),
		routesCase(100, long),
		routesCase(1000, long),
		routesCase(10000, long),
		servicesCase(1, long),
		servicesCase(1000, long),
		servicesCase(10000, long),
		largeHeapCase("large-heap", false, long),
		largeHeapCase("large-heap-gc", true, long),
	}, featureCases(long), nodeCases(quick))
}

// quickCases are what -quick runs: one of each kind of work.
const quickCases = "small-1x1,small-4x16,rate-1000,down-1mb,handshake,grpc-unary,idle-1000"

// span chooses how long a step of a case lasts: full, or short in a quick run.
type span func(full, short time.Duration) time.Duration

// selectCases returns the cases that the command line names, all by default,
// in order, each with the contenders that it is to run on; and those that they
// are measured against.
func selectCases(o options) ([]benchCase, error) {
	if o.quick && o.only == "" && o.group == "" {
		o.only = quickCases
		if o.contenders == "" {
			o.contenders = "cairn,envoy,base" // the baseline is for the full run
		}
	}
	var all, chosen []benchCase
	wanted := map[string]bool{}
	for _, c := range allCases(o.quick) {
		c = c.complete(o)
		all = append(all, c)
		if len(c.on) > 0 && listed(o.only, c.name) && listed(o.group, c.group) {
			wanted[c.name] = true
			for _, name := range c.needs() {
				wanted[name] = true
			}
		}
	}
	for _, c := range all {
		if wanted[c.name] {
			chosen = append(chosen, c)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no case is named %q in group %q with contenders %q", o.only, o.group, o.contenders)
	}
	return chosen, nil
}

// complete fills in what a case leaves to its group, and takes out the
// contenders that are not to run.
func (c benchCase) complete(o options) benchCase {
	if c.group == "" {
		c.group = "waypoint"
	}
	if len(c.on) == 0 {
		c.on = groups[c.group]
	}
	if c.lasts == 0 {
		c.lasts = either(o.quick, 6*time.Second, 3*time.Second)
	}
	if o.base != "" {
		c = c.comparing()
	}
	if len(c.on) > 0 {
		c.own = c.on[0]
	}
	if len(c.on) > 1 {
		c.reference = c.on[1]
	}
	c.on = slices.DeleteFunc(slices.Clone(c.on), func(name string) bool { return !listed(o.contenders, name) })
	return c
}

// comparing is the case for two builds of Cairn, beside nobody else: goals say
// nothing about those.
func (c benchCase) comparing() benchCase {
	if !slices.Contains(c.on, "cairn") {
		c.on = nil
		return c
	}
	c.on, c.metrics = []string{"cairn", "base"}, slices.Clone(c.metrics)
	for i := range c.metrics {
		c.metrics[i].goal = nil
	}
	return c
}

// needs are the cases without which this one says less.
func (c benchCase) needs() []string {
	var names []string
	if c.from != "" {
		names = append(names, c.from)
	}
	for _, m := range c.metrics {
		if m.goal != nil && m.goal.Against == anotherCase {
			names = append(names, m.goal.Of)
		}
	}
	return names
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
