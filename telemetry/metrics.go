package telemetry

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// DefaultMaxSeries bounds the label sets of each kind (HTTP, TCP). One HTTP set
// is about 66 lines of exposition and 2 KiB of memory.
const DefaultMaxSeries = 20_000

// MetricsOptions adjusts Metrics. The zero value is right for production.
type MetricsOptions struct {
	// MaxSeries bounds the label sets of each kind. Zero means DefaultMaxSeries.
	MaxSeries int
	// NoRuntime leaves out the Go runtime's and the process's metrics: for a
	// process that runs several proxies, of which one reports them.
	NoRuntime bool
}

// Metrics is the metrics of one proxy: Istio's standard metrics, and a registry
// for those that other packages own.
type Metrics struct {
	registry    *prometheus.Registry
	http        table[HTTPLabels, HTTPSeries]
	tcp         table[TCPLabels, TCPSeries]
	socketsOpen *prometheus.GaugeVec

	mu   sync.Mutex
	vecs map[string]prometheus.Collector // by name: of Counter, Gauge and Histogram
}

const overflowHelp = "Times that a label set was counted in the overflow series, because there are too many."

// NewMetrics returns the metrics of a proxy, of which istio_build tells the
// component ("proxy" for a waypoint, "ztunnel" for a node proxy) and version.
func NewMetrics(component, version string, opts ...MetricsOptions) *Metrics {
	var o MetricsOptions
	if len(opts) > 0 {
		o = opts[0]
	}
	if o.MaxSeries <= 0 {
		o.MaxSeries = DefaultMaxSeries
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		vecs:     make(map[string]prometheus.Collector),
		socketsOpen: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "istio_tcp_sockets_open",
			Help: "The current number of open TCP sockets.",
		}, []string{"reporter"}),
	}
	m.http.init(o.MaxSeries, newHTTPSeries)
	m.tcp.init(o.MaxSeries, newTCPSeries)
	m.registry.MustRegister(m.socketsOpen)
	m.CounterFunc("cairn_metrics_overflow_total", overflowHelp, m.http.overflowed, Label{"kind", "http"})
	m.CounterFunc("cairn_metrics_overflow_total", overflowHelp, m.tcp.overflowed, Label{"kind", "tcp"})
	m.Gauge("istio_build", "Istio component build info", Label{"component", component}, Label{"tag", version}).Set(1)
	if !o.NoRuntime {
		m.registry.MustRegister(
			collectors.NewGoCollector(),
			collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		)
	}
	return m
}

// HTTP returns the series of a label set, making it at first sight. It costs a
// hash of all labels: callers keep the result. Label strings may be views of
// memory that is reused; HTTP copies what it keeps.
func (m *Metrics) HTTP(labels HTTPLabels) *HTTPSeries { return m.http.get(labels) }

// TCP returns the series of a label set, as HTTP does.
func (m *Metrics) TCP(labels TCPLabels) *TCPSeries { return m.tcp.get(labels) }

// SocketsOpen returns istio_tcp_sockets_open of a reporter; callers keep it, and
// Inc and Dec it.
func (m *Metrics) SocketsOpen(reporter string) Gauge {
	return m.socketsOpen.WithLabelValues(clean(reporter))
}

// Counter, Gauge and Observer are what other packages keep of their metrics.
type (
	Counter  = prometheus.Counter
	Gauge    = prometheus.Gauge
	Observer = prometheus.Observer
)

// Label is a name and a value.
type Label struct{ Name, Value string }

func split(labels []Label) (names, values []string) {
	for _, l := range labels {
		names, values = append(names, l.Name), append(values, clean(l.Value))
	}
	return names, values
}

// Counter returns a counter that another package owns, making it at first
// sight. Callers keep it. All uses of a name must agree on help and label
// names, and values must come from a bounded set; it panics otherwise, as only
// a mistake in the program can cause it.
func (m *Metrics) Counter(name, help string, labels ...Label) Counter {
	names, values := split(labels)
	return vec(m, name, func() *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, names)
	}).WithLabelValues(values...)
}

// Gauge is Counter for a value that also falls.
func (m *Metrics) Gauge(name, help string, labels ...Label) Gauge {
	names, values := split(labels)
	return vec(m, name, func() *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, names)
	}).WithLabelValues(values...)
}

// Histogram is Counter for a distribution over buckets' upper bounds.
func (m *Metrics) Histogram(name, help string, buckets []float64, labels ...Label) Observer {
	names, values := split(labels)
	return vec(m, name, func() *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, names)
	}).WithLabelValues(values...)
}

// CounterFunc exposes a count that is kept elsewhere. f must never decrease.
func (m *Metrics) CounterFunc(name, help string, f func() float64, labels ...Label) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: constant(labels)}, f))
}

// GaugeFunc exposes a value that is kept elsewhere.
func (m *Metrics) GaugeFunc(name, help string, f func() float64, labels ...Label) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: constant(labels)}, f))
}

func constant(labels []Label) prometheus.Labels {
	out := make(prometheus.Labels, len(labels))
	for _, l := range labels {
		out[l.Name] = clean(l.Value)
	}
	return out
}

func vec[V prometheus.Collector](m *Metrics, name string, mk func() V) V {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.vecs[name].(V); ok {
		return v
	}
	v := mk()
	m.registry.MustRegister(v)
	m.vecs[name] = v
	return v
}
