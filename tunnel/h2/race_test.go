//go:build race

package h2

// raceEnabled: everything is slower and larger under the race detector.
const raceEnabled = true
