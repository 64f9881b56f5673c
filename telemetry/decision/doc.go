// Package decision keeps what a proxy decided about its last requests, so that it can be asked
// for its reasons afterwards.
//
//	exchange ends ──► Ring.Begin ──► 12,288 slots of 320 bytes ◄── Ring.Find, Ring.Last ◄── admin server
//
// A Record is what a request was, who sent it, what was answered, by which rule, and where it went: what
// is needed to put the same question to the policies and routes again. It is no log: the oldest record gives way to the
// newest, texts are cut to what a slot holds, and header fields, tokens and bodies are not in it, so that no
// secret is but what a client writes into a path.
//
// # Memory, cost and concurrency
//
// Slots are made as they are needed, 64 at a time, and used again in turn: a quiet proxy has a few kilobytes,
// none has more than 3.75 MiB. Begin takes no lock, does not
// allocate and never waits: a slot is taken with one compare-and-swap, and a slot that somebody reads just then is
// passed over. Names of the configuration are not copied; they live as long as a record that tells of them. Connections are spread over 16 rings, so that they seldom meet at one counter.
package decision
