// Package lb holds the balancing algorithms: given hosts with weights, which one
// is next.
//
//	Weighted      random, in proportion to the weights
//	RoundRobin    in turn, in proportion to the weights
//	LeastRequest  of two random hosts, the one with fewer requests in flight
//	PeakEWMA      of two random hosts, the one that answers sooner
//	RingHash      the same host for the same key: a ring of points
//	Maglev        the same: a table that the hosts fill in turn
//	Rendezvous    the same: the host with the highest score for the key
//
// Every algorithm is built once for a list of hosts and then only asked. Pick
// returns an index into that list, or -1 when no host has a weight above 0. It
// takes no lock and does not allocate, and may be called from any number of goroutines:
// random numbers come from math/rand/v2's per-thread generator.
//
// The last three go by Want.Key. When a host comes or goes, only keys that it
// has or had change their host: all of them with RingHash and Rendezvous, nearly all
// with Maglev, which in return spreads keys most evenly. They are the same in
// every process: nothing in them is random.
//
// To add an algorithm, write a file with a type that has Pick, and add a line to upstream's
// list of policies and to the table of this package's tests.
package lb
