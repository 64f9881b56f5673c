package telemetry

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// TCPSeries counts the connections of one label set. ztunnel's way of using
// it: opened and bytes are counted, live, on the series with response flags
// "-"; closed and failed on the one with the final flags (see With).
type TCPSeries struct {
	opened, closed, failed atomic.Uint64
	sent, received         atomic.Uint64

	_      [64]byte
	table  *table[TCPLabels, TCPSeries]
	labels TCPLabels
	pairs  func() []*dto.LabelPair
}

func newTCPSeries(t *table[TCPLabels, TCPSeries], l TCPLabels) *TCPSeries {
	s := &TCPSeries{table: t, labels: l}
	s.pairs = sync.OnceValue(func() []*dto.LabelPair { return pairs(s.labels.list()) })
	return s
}

// Opened counts a connection that was accepted, even if its destination then
// cannot be reached.
func (s *TCPSeries) Opened() { s.opened.Add(1) }

// Closed counts a connection that has ended.
func (s *TCPSeries) Closed() { s.closed.Add(1) }

// Failed counts a connection that could not be served.
func (s *TCPSeries) Failed() { s.failed.Add(1) }

// Sent counts bytes from the server to the client ("response" bytes), for
// every reporter alike.
func (s *TCPSeries) Sent(n uint64) { s.sent.Add(n) }

// Received counts bytes from the client to the server ("request" bytes).
func (s *TCPSeries) Received(n uint64) { s.received.Add(n) }

// With returns the series with other response flags.
func (s *TCPSeries) With(flags string) *TCPSeries {
	if flags == s.labels.ResponseFlags || flags == "" && s.labels.ResponseFlags == NoFlags {
		return s
	}
	l := s.labels
	l.ResponseFlags = flags
	return s.table.get(l)
}

// Labels returns the label set, as it is exposed.
func (s *TCPSeries) Labels() TCPLabels { return s.labels }

// tcpCollector exposes the TCP series at a scrape.
type tcpCollector struct {
	m                                              *Metrics
	opened, closed, failed, sent, received, denied *prometheus.Desc
}

func newTCPCollector(m *Metrics) *tcpCollector {
	var names []string
	for _, p := range pairs(new(TCPLabels).list()) {
		names = append(names, p.GetName())
	}
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, names, nil) }
	return &tcpCollector{
		m:        m,
		opened:   desc("istio_tcp_connections_opened_total", "The total number of TCP connections opened."),
		closed:   desc("istio_tcp_connections_closed_total", "The total number of TCP connections closed."),
		failed:   desc("istio_tcp_connections_failed_total", "The total number of TCP connections that failed to establish."),
		sent:     desc("istio_tcp_sent_bytes_total", "The size of total bytes sent in response, over TCP connections."),
		received: desc("istio_tcp_received_bytes_total", "The size of total bytes received in request, over TCP connections."),
		denied:   overflowDesc("tcp"),
	}
}

// Describe lists the families.
func (c *tcpCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.opened, c.closed, c.failed, c.sent, c.received, c.denied} {
		ch <- d
	}
}

// Collect reads the series. Counters of a series that opened connections are
// exposed from zero, so that rates are right from the first byte.
func (c *tcpCollector) Collect(ch chan<- prometheus.Metric) {
	series, denied := c.m.tcp.all()
	for _, s := range series {
		p := s.pairs()
		// Closed is read first: a scrape never shows more closed than opened.
		closed, failed, opened := s.closed.Load(), s.failed.Load(), s.opened.Load()
		for _, f := range []struct {
			desc *prometheus.Desc
			n    uint64
			zero bool
		}{
			{c.opened, opened, false},
			{c.closed, closed, opened > 0},
			{c.failed, failed, false},
			{c.sent, s.sent.Load(), opened > 0},
			{c.received, s.received.Load(), opened > 0},
		} {
			if f.n > 0 || f.zero {
				ch <- counter(f.desc, p, f.n)
			}
		}
	}
	ch <- counter(c.denied, []*dto.LabelPair{{Name: ptr("kind"), Value: ptr("tcp")}}, denied)
}
