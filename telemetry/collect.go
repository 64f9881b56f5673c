package telemetry

import "github.com/prometheus/client_golang/prometheus"

// Emit hands one value to a scrape. total says that it is a count that never falls,
// otherwise it is a gauge. Of one name and label values there must be one; all uses of a name
// must agree on the label names.
type Emit func(name, help string, total bool, value float64, labels ...Label)

// Collect makes f part of every scrape: for values that are kept elsewhere and come and
// go with configuration, so that none is left of what is gone. f is called by
// the goroutine of a scrape, perhaps of several at once.
func (m *Metrics) Collect(f func(Emit)) { m.registry.MustRegister(collector(f)) }

// collector is a prometheus.Collector that does not know beforehand what it will say.
type collector func(Emit)

// Describe implements prometheus.Collector.
func (c collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	c(func(name, help string, total bool, value float64, labels ...Label) {
		kind := prometheus.GaugeValue
		if total {
			kind = prometheus.CounterValue
		}
		names, values := split(labels)
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, names, nil), kind, value, values...)
	})
}
