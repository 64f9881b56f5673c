package telemetry

import (
	"compress/gzip"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/prometheus/common/expfmt"
)

// Scrapes are written by hand where there are many series: the 66 lines of an
// HTTP label set are 60 KB, and making them by way of protobuf messages costs
// a hundred times more time and memory than copying the labels. What else is in
// the registry is written by Prometheus' own encoder.

// maxScrapes bounds how many scrapes run at once; one scraper is usual.
const maxScrapes = 4

// Handler serves a scrape as Prometheus text or as OpenMetrics, as the client
// asks, compressed if it accepts gzip.
func (m *Metrics) Handler() http.Handler {
	var running atomic.Int32
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		defer running.Add(-1)
		if running.Add(1) > maxScrapes {
			plainText(w)
			w.WriteHeader(http.StatusServiceUnavailable)
			write(w, "too many scrapes at once\n")
			return
		}
		format := expfmt.NegotiateAccept(req.Header,
			expfmt.FmtText, expfmt.FmtOpenMetrics_1_0_0, expfmt.FmtOpenMetrics_0_0_1)
		w.Header().Set("Content-Type", string(format))
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if !acceptsGzip(req.Header) {
			_ = m.expose(w, format) // the scraper has gone
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is valid
		if m.expose(z, format) == nil {
			_ = z.Close()
		}
	})
}

// acceptsGzip looks for gzip among the codings of Accept-Encoding, unless it
// has the weight 0 (RFC 9110 section 12.5.3).
func acceptsGzip(h http.Header) bool {
	for _, v := range h.Values("Accept-Encoding") {
		for coding := range strings.SplitSeq(v, ",") {
			name, weight, _ := strings.Cut(coding, ";")
			if strings.EqualFold(strings.TrimSpace(name), "gzip") {
				q, ok := strings.CutPrefix(strings.ReplaceAll(weight, " ", ""), "q=")
				return !ok || strings.Trim(q, "0.") != ""
			}
		}
	}
	return false
}

// WriteText writes all metrics in Prometheus' text format.
func (m *Metrics) WriteText(w io.Writer) error {
	return m.expose(w, expfmt.NewFormat(expfmt.TypeTextPlain))
}

func (m *Metrics) expose(w io.Writer, format expfmt.Format) error {
	e := &exposition{w: w, open: format.FormatType() == expfmt.TypeOpenMetrics}
	e.http(m.http.all())
	e.tcp(m.tcp.all())
	if e.flush(0); e.err != nil {
		return e.err
	}
	// A metric that cannot be collected must not take the others with it: what
	// could be is in families.
	families, _ := m.registry.Gather()
	enc := expfmt.NewEncoder(w, format)
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			return err
		}
	}
	if c, ok := enc.(expfmt.Closer); ok { // OpenMetrics' end mark
		return c.Close()
	}
	return nil
}

// exposition writes families of series line by line.
type exposition struct {
	w      io.Writer
	open   bool // OpenMetrics
	err    error
	buf    []byte
	labels []byte // of the series at hand
}

// flush writes the buffer if it holds at least that much.
func (e *exposition) flush(least int) {
	if len(e.buf) >= least && e.err == nil {
		_, e.err = e.w.Write(e.buf)
		e.buf = e.buf[:0]
	}
}

// begin writes a family's head, once, before its first series.
func (e *exposition) begin(done *bool, name, kind, help string) {
	if *done {
		return
	}
	*done = true
	if e.open { // the name of a counter's family is without _total there
		name = strings.TrimSuffix(name, "_total")
	}
	e.buf = slices.Concat(e.buf, []byte("# HELP "+name+" "+help+"\n# TYPE "+name+" "+kind+"\n"))
}

// set makes labels the labels of the lines to come.
func (e *exposition) set(labels []Label) {
	e.labels = e.labels[:0]
	for i, l := range labels {
		if i > 0 {
			e.labels = append(e.labels, ',')
		}
		e.labels = append(e.labels, l.Name...)
		e.labels = append(e.labels, '=', '"')
		e.labels = appendLabelValue(e.labels, l.Value)
		e.labels = append(e.labels, '"')
	}
}

// appendLabelValue escapes what the format demands; other controls may stand.
func appendLabelValue(dst []byte, v string) []byte {
	if !strings.ContainsAny(v, "\\\"\n") {
		return append(dst, v...)
	}
	for i := range len(v) {
		switch b := v[i]; b {
		case '\\', '"':
			dst = append(dst, '\\', b)
		case '\n':
			dst = append(dst, '\\', 'n')
		default:
			dst = append(dst, b)
		}
	}
	return dst
}

// line writes one sample; le is "" but for buckets.
func (e *exposition) line(name, suffix, le string) {
	e.buf = append(e.buf, name...)
	e.buf = append(e.buf, suffix...)
	e.buf = append(e.buf, '{')
	e.buf = append(e.buf, e.labels...)
	if le != "" {
		e.buf = append(e.buf, `,le="`...)
		e.buf = append(e.buf, le...)
		e.buf = append(e.buf, '"')
	}
	e.buf = append(e.buf, '}', ' ')
}

func (e *exposition) counter(name string, n uint64) {
	e.line(name, "", "")
	e.buf = strconv.AppendUint(e.buf, n, 10)
	e.buf = append(e.buf, '\n')
	e.flush(32 << 10)
}

// bucketNames are the values of le, for text and for OpenMetrics, which wants
// every number to look like a float: constant tables.
var bucketNames, openBucketNames = func() (text, open [infinity + 1]string) {
	for i, b := range bounds {
		s := strconv.FormatFloat(b, 'g', -1, 64)
		text[i], open[i] = s, s
		if !strings.ContainsAny(s, ".e") {
			open[i] = s + ".0"
		}
	}
	text[infinity], open[infinity] = "+Inf", "+Inf"
	return text, open
}()

// histogram writes a histogram whose sum is in units of 1/unit.
func (e *exposition) histogram(name string, h *histogram, unit float64) {
	names := &bucketNames
	if e.open {
		names = &openBucketNames
	}
	cumulative, sum := h.read()
	for i, n := range cumulative {
		e.line(name, "_bucket", names[i])
		e.buf = strconv.AppendUint(e.buf, n, 10)
		e.buf = append(e.buf, '\n')
	}
	e.line(name, "_sum", "")
	e.buf = strconv.AppendFloat(e.buf, float64(sum)/unit, 'g', -1, 64)
	e.buf = append(e.buf, '\n')
	e.line(name, "_count", "")
	e.buf = strconv.AppendUint(e.buf, cumulative[infinity], 10)
	e.buf = append(e.buf, '\n')
	e.flush(32 << 10)
}

// http writes the HTTP families. A series without requests is left out: it was
// made for its siblings.
func (e *exposition) http(series []*HTTPSeries) {
	counters := []struct {
		name, help string
		value      func(*HTTPSeries) uint64
	}{
		{"istio_requests_total", "The total number of requests.", (*HTTPSeries).requests},
		{"istio_request_messages_total", "The total number of gRPC messages from clients.", func(s *HTTPSeries) uint64 { return s.requestMessages.Load() }},
		{"istio_response_messages_total", "The total number of gRPC messages to clients.", func(s *HTTPSeries) uint64 { return s.responseMessages.Load() }},
	}
	for _, c := range counters {
		begun := false
		for _, s := range series {
			if n := c.value(s); n > 0 {
				e.begin(&begun, c.name, "counter", c.help)
				list := s.labels.list()
				e.set(list[:])
				e.counter(c.name, n)
			}
		}
	}
	histograms := []struct {
		name, help string
		value      func(*HTTPSeries) *histogram
		unit       float64
	}{
		{"istio_request_duration_milliseconds", "The duration of requests, in milliseconds.", func(s *HTTPSeries) *histogram { return &s.duration }, 1e6},
		{"istio_request_bytes", "The size of requests, in bytes.", func(s *HTTPSeries) *histogram { return &s.request }, 1},
		{"istio_response_bytes", "The size of responses, in bytes.", func(s *HTTPSeries) *histogram { return &s.response }, 1},
	}
	for _, h := range histograms {
		begun := false
		for _, s := range series {
			if v := h.value(s); !v.empty() {
				e.begin(&begun, h.name, "histogram", h.help)
				list := s.labels.list()
				e.set(list[:])
				e.histogram(h.name, v, h.unit)
			}
		}
	}
}

// tcp writes the TCP families. Counters of a series that opened connections
// are exposed from zero, so that rates are right from the first byte. Closed
// comes before opened: a scrape never shows more closed than opened.
func (e *exposition) tcp(series []*TCPSeries) {
	for _, c := range []struct {
		name, help string
		value      func(*TCPSeries) *atomic.Uint64
		zero       bool
	}{
		{"istio_tcp_connections_closed_total", "The total number of TCP connections closed.", func(s *TCPSeries) *atomic.Uint64 { return &s.closed }, true},
		{"istio_tcp_connections_failed_total", "The total number of TCP connections that failed to establish.", func(s *TCPSeries) *atomic.Uint64 { return &s.failed }, false},
		{"istio_tcp_connections_opened_total", "The total number of TCP connections opened.", func(s *TCPSeries) *atomic.Uint64 { return &s.opened }, false},
		{"istio_tcp_received_bytes_total", "The size of total bytes received in request, over TCP connections.", func(s *TCPSeries) *atomic.Uint64 { return &s.received }, true},
		{"istio_tcp_sent_bytes_total", "The size of total bytes sent in response, over TCP connections.", func(s *TCPSeries) *atomic.Uint64 { return &s.sent }, true},
	} {
		begun := false
		for _, s := range series {
			n := c.value(s).Load()
			if n == 0 && (!c.zero || s.opened.Load() == 0) {
				continue
			}
			e.begin(&begun, c.name, "counter", c.help)
			list := s.labels.list()
			e.set(list[:])
			e.counter(c.name, n)
		}
	}
}
