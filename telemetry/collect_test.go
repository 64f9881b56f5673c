package telemetry

import (
	"strings"
	"testing"
)

func TestCollect(t *testing.T) {
	m := NewMetrics("proxy", "test", MetricsOptions{NoRuntime: true})
	names := []string{"a", "b\n\""}
	m.Collect(func(emit Emit) {
		for i, n := range names {
			emit("x_open", "Open.", false, float64(i), Label{"cluster_name", n})
			emit("x_total", "All.", true, 7, Label{"cluster_name", n})
		}
	})
	got, _ := scrape(t, m, "")
	f := parse(t, got)
	if n := len(f["x_open"].GetMetric()); n != 2 || f["x_total"].GetMetric()[0].GetCounter().GetValue() != 7 {
		t.Errorf("%d series, and %v", n, f["x_total"])
	}
	names = nil
	if got, _ := scrape(t, m, ""); strings.Contains(got, "x_") {
		t.Error("what is gone is still in a scrape")
	}
}
