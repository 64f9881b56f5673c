//go:build race

package tunnel

// raceEnabled: everything is slower and larger under the race detector.
const raceEnabled = true
