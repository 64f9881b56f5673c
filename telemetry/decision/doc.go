// Package decision keeps what a proxy decided about its last requests, so that it can be asked
// for its reasons afterwards.
//
//	exchange ends ──► Ring.Begin ──► 10,240 slots of 384 bytes ◄── Ring.Find, Ring.Last ◄── admin server
//
// A Record is what a request was, who sent it, what was answered, by which rule, and where it went: what
// is needed to put the same question to the policies and routes again. It is no log: the oldest record gives way to the
// newest, and texts are cut to what a slot holds. Of the header fields it has the few that policies or routes look at, but for
// those whose names say that they are secret; tokens and bodies are not in it.
//
// # Memory, cost and concurrency
//
// Slots are made as they are needed, 64 at a time, and used again in turn: a quiet proxy has a few kilobytes,
// none has more than 3.75 MiB. Begin takes no lock, does not
// allocate and never waits: a slot is taken with one compare-and-swap, and a slot that somebody reads just then is
// passed over. Names of the configuration are not copied; they live as long as a record that tells of them. Connections are spread over 16 rings, so that they seldom meet at one counter.
package decision
