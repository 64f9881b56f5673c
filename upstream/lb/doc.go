// Package lb holds the balancing algorithms: given hosts with weights, which one
// is next.
//
//	Weighted      random, in proportion to the weights
//	RoundRobin    in turn, in proportion to the weights
//	LeastRequest  of two random hosts, the one with fewer requests in flight
//
// Every algorithm is built once for a list of hosts and then only asked. Pick
// returns an index into that list, or -1 when no host has a weight above 0. It
// takes no lock and does not allocate, and may be called from any number of goroutines:
// random numbers come from math/rand/v2's per-thread generator.
//
// To add an algorithm, write a type with Pick, and add a line to upstream's
// list of policies and to the table of this package's tests.
package lb
