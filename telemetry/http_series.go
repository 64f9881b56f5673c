package telemetry

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// HTTPSeries counts the requests of one label set: istio_requests_total,
// istio_request_duration_milliseconds, istio_request_bytes and
// istio_response_bytes, and gRPC's messages.
type HTTPSeries struct {
	duration, request, response histogram
	requestMessages             atomic.Uint64
	responseMessages            atomic.Uint64

	// What follows is written once in a while and read on the way.
	_        [64]byte
	siblings atomic.Pointer[[]sibling]
	table    *table[HTTPLabels, HTTPSeries]
	labels   HTTPLabels
	pairs    func() []*dto.LabelPair
}

// sibling is a series that differs in how the requests ended.
type sibling struct {
	code        int
	grpc, flags string
	series      *HTTPSeries
}

func newHTTPSeries(t *table[HTTPLabels, HTTPSeries], l HTTPLabels) *HTTPSeries {
	s := &HTTPSeries{table: t, labels: l}
	s.pairs = sync.OnceValue(func() []*dto.LabelPair { return pairs(s.labels.list()) })
	return s
}

// Observe counts one request that has ended: its duration from the first byte
// of the request to the last of the response in nanoseconds, and the sizes of
// headers and bodies as they were on the wire. It costs six atomic additions.
func (s *HTTPSeries) Observe(durationNanos int64, reqBytes, respBytes uint64) {
	s.duration.observe(durationScale, uint64(max(durationNanos, 0)))
	s.request.observe(byteScale, reqBytes)
	s.response.observe(byteScale, respBytes)
}

// Messages counts gRPC messages, as they pass or at the end.
func (s *HTTPSeries) Messages(request, response uint64) {
	if request > 0 {
		s.requestMessages.Add(request)
	}
	if response > 0 {
		s.responseMessages.Add(response)
	}
}

// With returns the series with the same source and destination and another
// end of the request. It is made to be called for each request on a series that
// the caller keeps: the ends that occurred before are found without a lock.
func (s *HTTPSeries) With(code int, grpcStatus, flags string) *HTTPSeries {
	list := s.siblings.Load()
	if list != nil {
		for i := range *list {
			if e := &(*list)[i]; e.code == code && e.grpc == grpcStatus && e.flags == flags {
				return e.series
			}
		}
	}
	return s.addSibling(list, code, grpcStatus, flags)
}

// maxSiblings bounds the list that With searches.
const maxSiblings = 32

func (s *HTTPSeries) addSibling(old *[]sibling, code int, grpcStatus, flags string) *HTTPSeries {
	l := s.labels
	l.ResponseCode, l.GRPCStatus, l.ResponseFlags = code, grpcStatus, flags
	e := s.table.get(l)
	var list []sibling
	if old != nil {
		list = *old
	}
	// Only a spelling that is the label itself is worth keeping: the strings
	// are the series' own.
	if len(list) < maxSiblings && e.labels.ResponseCode == code && e.labels.GRPCStatus == grpcStatus &&
		(e.labels.ResponseFlags == flags || flags == "") {
		own := e.labels.ResponseFlags
		if flags == "" {
			own = ""
		}
		grown := append(list[:len(list):len(list)], sibling{code, e.labels.GRPCStatus, own, e})
		s.siblings.CompareAndSwap(old, &grown) // lost to another: next time
	}
	return e
}

// Labels returns the label set, as it is exposed.
func (s *HTTPSeries) Labels() HTTPLabels { return s.labels }

// metric is one line, or one histogram's lines, of a scrape.
type metric struct {
	desc  *prometheus.Desc
	pairs []*dto.LabelPair
	count *dto.Counter
	hist  *dto.Histogram
}

// Desc is the family.
func (m *metric) Desc() *prometheus.Desc { return m.desc }

// Write fills in the exposed form.
func (m *metric) Write(out *dto.Metric) error {
	out.Label, out.Counter, out.Histogram = m.pairs, m.count, m.hist
	return nil
}

func counter(d *prometheus.Desc, p []*dto.LabelPair, n uint64) *metric {
	v := float64(n)
	return &metric{desc: d, pairs: p, count: &dto.Counter{Value: &v}}
}

// httpCollector exposes the HTTP series at a scrape.
type httpCollector struct {
	m                                               *Metrics
	requests, duration, reqBytes, respBytes         *prometheus.Desc
	requestMessages, responseMessages, overflowDesc *prometheus.Desc
}

func newHTTPCollector(m *Metrics) *httpCollector {
	var names []string
	for _, p := range pairs(new(HTTPLabels).list()) {
		names = append(names, p.GetName())
	}
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, names, nil) }
	return &httpCollector{
		m:                m,
		requests:         desc("istio_requests_total", "The total number of requests."),
		duration:         desc("istio_request_duration_milliseconds", "The duration of requests, in milliseconds."),
		reqBytes:         desc("istio_request_bytes", "The size of requests, in bytes."),
		respBytes:        desc("istio_response_bytes", "The size of responses, in bytes."),
		requestMessages:  desc("istio_request_messages_total", "The total number of gRPC messages from clients."),
		responseMessages: desc("istio_response_messages_total", "The total number of gRPC messages to clients."),
		overflowDesc:     overflowDesc("http"),
	}
}

// overflowDesc describes the count of label sets that found no room.
func overflowDesc(kind string) *prometheus.Desc {
	return prometheus.NewDesc("cairn_metrics_overflow_total",
		"Times that a label set was counted in the overflow series, because there are too many.",
		nil, prometheus.Labels{"kind": kind})
}

// Describe lists the families.
func (c *httpCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.requests, c.duration, c.reqBytes, c.respBytes, c.requestMessages, c.responseMessages, c.overflowDesc} {
		ch <- d
	}
}

// Collect reads the series. A series without requests is left out: it was made
// for its siblings.
func (c *httpCollector) Collect(ch chan<- prometheus.Metric) {
	series, denied := c.m.http.all()
	for _, s := range series {
		d := s.duration.write(1e6)
		if d.GetSampleCount() == 0 {
			continue
		}
		p := s.pairs()
		ch <- counter(c.requests, p, d.GetSampleCount())
		ch <- &metric{desc: c.duration, pairs: p, hist: d}
		ch <- &metric{desc: c.reqBytes, pairs: p, hist: s.request.write(1)}
		ch <- &metric{desc: c.respBytes, pairs: p, hist: s.response.write(1)}
		if n := s.requestMessages.Load(); n > 0 {
			ch <- counter(c.requestMessages, p, n)
		}
		if n := s.responseMessages.Load(); n > 0 {
			ch <- counter(c.responseMessages, p, n)
		}
	}
	ch <- counter(c.overflowDesc, []*dto.LabelPair{{Name: ptr("kind"), Value: ptr("http")}}, denied)
}

func ptr[T any](v T) *T { return &v }
