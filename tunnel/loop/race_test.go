//go:build race

package loop

// raceEnabled: the race detector makes sync.Pool forget on purpose.
const raceEnabled = true
