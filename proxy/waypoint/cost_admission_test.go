package waypoint

import (
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

// guarded is a service with everything that bounds and watches a cluster, under
// which nothing fires.
func guarded(_ *mesh.Parts, v *mesh.Service) {
	v.Ports[0].Backend = &mesh.BackendPolicy{
		Breaker:     &mesh.CircuitBreaker{MaxConnections: 100, MaxPending: 100, MaxRequests: 100, MaxRetries: 3},
		Outlier:     &mesh.OutlierDetection{Consecutive5xx: 5, ConsecutiveGateway: 5, ConsecutiveLocal: 5, SplitLocal: true, SuccessRateStdev: 1900, FailurePercent: 85},
		Concurrency: &mesh.AdaptiveConcurrency{},
		Health:      &mesh.HealthCheck{},
	}
}

// What guards a cluster allocates nothing for a request that passes.
func TestAllocationsOfAGuardedRequest(t *testing.T) {
	if raceDetector {
		t.Skip("pools forget under the race detector")
	}
	b := newBench(t, benchRequest, benchResponse+strings.Repeat("x", 1024), guarded)
	for range 100 {
		b.round()
	}
	if n := testing.AllocsPerRun(2000, func() { b.round() }); n > 0 {
		t.Errorf("%v allocations per request", n)
	}
	if got := b.gauges(); got != "1 0 0 0" {
		t.Errorf("what is counted in the end: %s", got)
	}
}

func BenchmarkGuardedRequest(b *testing.B) {
	body := strings.Repeat("x", 1024)
	for _, tc := range []struct {
		name   string
		change func(*mesh.Parts, *mesh.Service)
	}{{"plain", nil}, {"guarded", guarded}} {
		b.Run(tc.name, func(b *testing.B) {
			x := newBench(b, benchRequest, benchResponse+body, tc.change)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				x.round()
				if i%4096 == 4095 { // windows
					x.open()
				}
			}
		})
	}
}
