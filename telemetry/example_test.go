package telemetry_test

import (
	"os"
	"time"

	"cairnproxy.dev/cairn/telemetry"
)

// A proxy resolves its labels when a connection begins, keeps the series, and
// counts each request on it as it ends.
func ExampleMetrics() {
	m := telemetry.NewMetrics("proxy", "1.0.0", telemetry.MetricsOptions{NoRuntime: true})
	series := m.HTTP(telemetry.HTTPLabels{
		Reporter:     telemetry.ReporterWaypoint,
		Service:      telemetry.ServiceLabels{Host: "reviews.default.svc.cluster.local", Name: "reviews", Namespace: "default"},
		Protocol:     "http",
		ResponseCode: 200,
	})
	series.Observe(3*time.Millisecond.Nanoseconds(), 120, 1024)
	series.With(503, "", "UH").Observe(time.Millisecond.Nanoseconds(), 120, 19)
}

func ExampleWriter() {
	w := telemetry.NewWriter(os.Stdout, telemetry.WriterOptions{}) // go w.Run(ctx) writes it in blocks
	w.HTTP(&telemetry.Record{
		Start:        time.Date(2026, 3, 1, 10, 39, 0, 0, time.UTC),
		Method:       "GET",
		Path:         "/productpage",
		Protocol:     "HTTP/1.1",
		ResponseCode: 403, ResponseFlags: "-", ResponseCodeDetails: "rbac_access_denied",
		BytesSent: 19,
		Authority: "productpage:9080",
	})
	if err := w.Close(); err != nil {
		return
	}
	// Output:
	// [2026-03-01T10:39:00.000Z] "GET /productpage HTTP/1.1" 403 - rbac_access_denied - "-" 0 19 0 - "-" "-" "-" "productpage:9080" "-" - - - - - -
}
