package main

import "fmt"

// metric is one figure of a case.
type metric struct {
	name   string
	unit   string
	format string // of fmt
	better direction
	goal   *goal
}

// direction says which figures are good ones.
type direction int

const (
	neither direction = iota // it says how a run went
	more
	less
)

// The metrics that every case of load has beside its own.
var (
	cost       = metric{name: "req/CPU-s", format: "%.0f", better: more}
	perRequest = metric{name: "CPU per request", unit: "µs", format: "%.1f"} // cost again, told as a time
	rate       = metric{name: "requests per second", format: "%.0f"}
	p50        = metric{name: "p50", unit: "µs", format: "%.0f", better: less}
	p99        = metric{name: "p99", unit: "µs", format: "%.0f", better: less}
	p999       = metric{name: "p99.9", unit: "µs", format: "%.0f", better: less}
	// allocations only Go programs tell, and only of cases that have this metric.
	allocations = metric{name: "allocations per request", format: "%.2f", better: less}
	busy        = metric{name: "proxy's core busy", unit: "%", format: "%.0f"}
	loadBusy    = metric{name: "load's core busy", unit: "%", format: "%.0f"}
	// What others on the machine did to a run: latency means little where
	// these are not near zero.
	waited     = metric{name: "proxy waited for its core", unit: "%", format: "%.1f"}
	loadWaited = metric{name: "load waited for its core", unit: "%", format: "%.1f"}
)

// goal is what the median of the contender under test must reach.
type goal struct {
	Better  direction
	Bound   float64
	Against base
	Of      string // the case, for anotherCase
}

// base is what a goal's bound is a multiple of.
type base int

const (
	theReference base = iota // the reference's median of the same metric
	nothing                  // the bound stands by itself
	anotherCase              // the contender's own figures in another case, round by round
)

// atLeast sets the goal of being k times the reference or more.
func (m metric) atLeast(k float64) metric { return m.with(goal{Better: more, Bound: k}) }

// atMost sets the goal of being k times the reference or less.
func (m metric) atMost(k float64) metric { return m.with(goal{Better: less, Bound: k}) }

// above sets the goal of a value that does not depend on anybody else's.
func (m metric) above(v float64) metric {
	return m.with(goal{Better: more, Bound: v, Against: nothing})
}

// below sets the goal of a value that does not depend on anybody else's.
func (m metric) below(v float64) metric {
	return m.with(goal{Better: less, Bound: v, Against: nothing})
}

// atLeastOf sets the goal of k times what the same contender has in another
// case, or more.
func (m metric) atLeastOf(name string, k float64) metric {
	return m.with(goal{Better: more, Bound: k, Against: anotherCase, Of: name})
}

// atMostOf sets the goal of k times what the same contender has in another
// case, or less.
func (m metric) atMostOf(name string, k float64) metric {
	return m.with(goal{Better: less, Bound: k, Against: anotherCase, Of: name})
}

func (m metric) with(g goal) metric {
	m.better, m.goal = g.Better, &g
	return m
}

// text is the goal in words.
func (g goal) text(reference, unit string) string {
	amount := fmt.Sprintf("%g", g.Bound)
	switch g.Against {
	case theReference:
		amount += " × " + reference
	case anotherCase:
		amount += " × its own in " + g.Of
	case nothing:
		if unit != "" {
			amount += " " + unit
		}
	}
	if g.Better == less {
		return "at most " + amount
	}
	return "at least " + amount
}

// met reports whether a value, or for the other bases a ratio, is good enough.
func (g goal) met(value float64) bool {
	if g.Better == less {
		return value <= g.Bound
	}
	return value >= g.Bound
}
