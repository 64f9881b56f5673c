//go:build race

package waypoint

// raceDetector says that tests run under the race detector, which makes them
// slow and lets pools forget.
const raceDetector = true
