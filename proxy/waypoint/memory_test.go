package waypoint

import (
	"runtime"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

// A service that nobody uses costs a waypoint its addresses, its policies, its
// rules and its endpoints, and no connections.
func TestMemoryPerService(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector's own memory is counted too")
	}
	parts := manyParts()
	services := parts.Services[:2000]
	parts = mesh.Parts{Waypoints: parts.Waypoints, Services: services, Workloads: parts.Workloads[:len(services)*podsEach], Attachments: parts.Attachments[:len(services)]}
	l := newLab(t, mesh.Parts{})
	snap := mesh.NewSnapshot(1, parts)
	heap := func() float64 {
		for range 2 { // what has a cleanup goes with the second
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	before := heap()
	l.p.apply(snap)
	each := (heap() - before) / float64(len(services))
	t.Logf("%.0f bytes a service with a route and %d endpoints", each, podsEach)
	if each > 12_000 {
		t.Errorf("a service with a route and %d endpoints takes %.0f bytes; at most 12000 are expected", podsEach, each)
	}
	if n := len(l.p.destinations); n != 0 {
		t.Errorf("%d destinations without a request", n)
	}
	runtime.KeepAlive(parts)
}
