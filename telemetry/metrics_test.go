package telemetry

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"cairnproxy.dev/cairn/mesh"
)

func exampleHTTP() HTTPLabels {
	return HTTPLabels{
		Reporter: ReporterWaypoint,
		Source: WorkloadLabels{
			Name: "productpage-v1", CanonicalService: "productpage", CanonicalRevision: "v1", Namespace: "default",
			Principal: "spiffe://cluster.local/ns/default/sa/bookinfo-productpage", App: "productpage", Version: "v1", Cluster: "Kubernetes",
		},
		Destination: WorkloadLabels{
			Name: "reviews-v2", CanonicalService: "reviews", CanonicalRevision: "v2", Namespace: "default",
			Principal: "spiffe://cluster.local/ns/default/sa/bookinfo-reviews", App: "reviews", Version: "v2", Cluster: "Kubernetes",
		},
		Service:      ServiceLabels{Host: "reviews.default.svc.cluster.local", Name: "reviews", Namespace: "default"},
		Protocol:     "http",
		ResponseCode: 200,
		Security:     SecurityMutualTLS,
	}
}

func exampleTCP() TCPLabels {
	h := exampleHTTP()
	h.Source.Region, h.Source.Zone = "r1", "z1"
	return TCPLabels{Reporter: ReporterSource, Source: h.Source, Destination: h.Destination, Service: h.Service, Security: SecurityMutualTLS}
}

// scrape asks the handler as Prometheus does.
func scrape(tb testing.TB, m *Metrics, accept string) (string, http.Header) {
	tb.Helper()
	req := httptest.NewRequestWithContext(tb.Context(), http.MethodGet, "/stats/prometheus", nil)
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, req)
	if w.Code != http.StatusOK {
		tb.Fatalf("scrape: %d\n%s", w.Code, w.Body)
	}
	return w.Body.String(), w.Header()
}

// parse is the parser that Prometheus' own tools use.
func parse(tb testing.TB, text string) map[string]*dto.MetricFamily {
	tb.Helper()
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		tb.Fatalf("parsing the exposition: %v\n%s", err, text)
	}
	return families
}

// TestExposition compares the text with testdata/exposition.txt, byte for byte.
func TestExposition(t *testing.T) {
	m := NewMetrics("proxy", "1.2.3", MetricsOptions{NoRuntime: true})
	ok := m.HTTP(exampleHTTP())
	ok.Observe(400_000, 0, 1)           // 0.4 ms, no bytes
	ok.Observe(500_000, 1, 10)          // on a bound
	ok.Observe(12_345_678, 600, 70_000) // in the middle
	ok.Observe(int64(2*3_600_000*1e6), 1, 5_000_000)
	ok.With(503, "", "UH").Observe(1_000_000, 100, 200)
	grpc := exampleHTTP()
	grpc.Protocol, grpc.GRPCStatus = "grpc", "14"
	m.HTTP(grpc).Observe(3_000_000, 128, 64)
	m.HTTP(grpc).Messages(2, 1)
	m.HTTP(HTTPLabels{Reporter: ReporterWaypoint}).Observe(0, 0, 0)
	conn := m.TCP(exampleTCP())
	conn.Opened()
	conn.Opened()
	conn.Received(1000)
	conn.Sent(2000)
	conn.Closed()
	conn.With("CONNECT").Closed()
	conn.With("CONNECT").Failed()
	m.SocketsOpen(ReporterSource).Inc()
	m.Counter("istio_xds_message_total", "Messages.", Label{"url", "a"}).Inc()
	m.GaugeFunc("cairn_buffer_bytes", "Bytes.", func() float64 { return 7 })
	got, _ := scrape(t, m, "")
	parse(t, got)
	golden(t, "exposition.txt", abbreviate(got))
}

// abbreviate replaces the long label sets by numbers, which are explained at
// the end: the text stays readable, and nothing of it is lost.
func abbreviate(text string) string {
	sets := regexp.MustCompile(`connection_security_policy="[^}]*?source_workload_namespace="[^"]*"(,source_zone="[^"]*")?`)
	var legend []string
	text = sets.ReplaceAllStringFunc(text, func(set string) string {
		i := slices.Index(legend, set)
		if i < 0 {
			i = len(legend)
			legend = append(legend, set)
		}
		return fmt.Sprint("<", i, ">")
	})
	for i, set := range legend {
		text += fmt.Sprintf("<%d>\n  %s\n", i, strings.ReplaceAll(set, `",`, "\"\n  "))
	}
	return text
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got; UPDATE_GOLDEN=1 rewrites it):\n%s", file, diff)
	}
}

// TestLabelNames: exactly Istio's label names, no more and no less.
func TestLabelNames(t *testing.T) {
	both := strings.Fields(`reporter source_workload source_canonical_service source_canonical_revision source_workload_namespace
		source_principal source_app source_version source_cluster destination_workload destination_workload_namespace
		destination_principal destination_app destination_version destination_service destination_canonical_service
		destination_canonical_revision destination_service_name destination_service_namespace destination_cluster
		request_protocol response_flags connection_security_policy`)
	names := func(l []Label) (out []string) {
		if !slices.IsSortedFunc(l, func(a, b Label) int { return strings.Compare(a.Name, b.Name) }) {
			t.Errorf("labels are not sorted: %v", l)
		}
		for _, l := range l {
			out = append(out, l.Name)
		}
		slices.Sort(out)
		return out
	}
	sorted := func(l ...string) []string { slices.Sort(l); return l }
	h, c := new(HTTPLabels).list(), new(TCPLabels).list()
	if diff := cmp.Diff(sorted(append(slices.Clone(both), "response_code", "grpc_response_status")...), names(h[:])); diff != "" {
		t.Errorf("http:\n%s", diff)
	}
	if diff := cmp.Diff(sorted(append(slices.Clone(both), "source_region", "source_zone", "destination_region", "destination_zone")...), names(c[:])); diff != "" {
		t.Errorf("tcp:\n%s", diff)
	}
}

// TestSpellings: labels that are exposed alike are one series.
func TestSpellings(t *testing.T) {
	m := NewMetrics("proxy", "dev")
	a, b := exampleHTTP(), exampleHTTP()
	a.Destination.Version, b.Destination.Version = "", "unknown"
	a.ResponseFlags, b.ResponseFlags = "", "-"
	a.Source.Region = "ignored"
	if m.HTTP(a) != m.HTTP(b) {
		t.Error("two series for one exposed label set")
	}
	a.Destination.Version = strings.Repeat("é", 400)
	b.Destination.Version = strings.Repeat("é", 500)
	if m.HTTP(a) != m.HTTP(b) {
		t.Error("two series for one cut label")
	}
	base := m.HTTP(exampleHTTP())
	for range 3 {
		if base.With(200, "", "") != base || base.With(200, "", "-") != base {
			t.Error("With of its own labels is another series")
		}
		if got := base.With(404, "", "NR").Labels(); got.ResponseCode != 404 || got.ResponseFlags != "NR" || got.Source != base.Labels().Source {
			t.Errorf("With(404, NR) = %+v", got)
		}
	}
	c := m.TCP(exampleTCP())
	if c.With("") != c || c.With("-") != c || c.With("DENY") == c {
		t.Error("TCP With leads to the wrong series")
	}
}

// TestHostileLabels: what a peer puts into a label never spoils a scrape.
func TestHostileLabels(t *testing.T) {
	m := NewMetrics("proxy", "dev", MetricsOptions{NoRuntime: true})
	for i, v := range []string{"\xff\xfe", "a\nb", `a"b\c`, strings.Repeat("\xff", 1000), strings.Repeat("世", 300), "\x00", "\xff" + strings.Repeat("x", 255), "?"} {
		l := exampleHTTP()
		l.Source.App, l.ResponseCode = v, 200+i
		m.HTTP(l).Observe(1, 1, 1)
		c := exampleTCP()
		c.Source.App = v
		m.TCP(c).Opened()
	}
	l := exampleHTTP()
	l.ResponseCode = 123456
	m.HTTP(l).Observe(1, 1, 1)
	text, _ := scrape(t, m, "")
	families := parse(t, text)
	if n := len(families["istio_requests_total"].GetMetric()); n != 9 {
		t.Errorf("%d request series; want 9", n)
	}
	apps := map[string]bool{}
	for _, mt := range families["istio_tcp_connections_opened_total"].GetMetric() {
		for _, p := range mt.GetLabel() {
			if p.GetName() == "source_app" {
				apps[p.GetValue()] = true
			}
		}
	}
	for _, want := range []string{"a\nb", `a"b\c`, "\x00", "?"} {
		if !apps[want] {
			t.Errorf("%q did not come through the exposition: %v", want, apps)
		}
	}
	for _, f := range families {
		for _, mt := range f.GetMetric() {
			for _, p := range mt.GetLabel() {
				if len(p.GetValue()) > maxLabel {
					t.Errorf("label %s has %d bytes", p.GetName(), len(p.GetValue()))
				}
			}
		}
	}
}

// TestLabelsAreCopied: the caller may reuse the memory of its strings.
func TestLabelsAreCopied(t *testing.T) {
	m := NewMetrics("proxy", "dev")
	buf := []byte("reviews")
	l := exampleHTTP()
	l.Destination.App = aliasString(buf)
	s := m.HTTP(l)
	copy(buf, "XXXXXXX")
	if got := s.Labels().Destination.App; got != "reviews" {
		t.Errorf("label became %q", got)
	}
	flags := []byte("UF")
	e := s.With(503, aliasString(flags[:0]), aliasString(flags))
	copy(flags, "ZZ")
	if s.With(503, "", "UF") != e {
		t.Error("With kept the caller's memory")
	}
}

func TestOverflow(t *testing.T) {
	m := NewMetrics("proxy", "dev", MetricsOptions{MaxSeries: 10, NoRuntime: true})
	for i := range 100 {
		l := exampleHTTP()
		l.Source.App = fmt.Sprint("attacker-", i)
		l.ResponseCode = 200 + i%2
		m.HTTP(l).Observe(1, 1, 1)
		c := exampleTCP()
		c.Source.App = l.Source.App
		m.TCP(c).Opened()
	}
	text, _ := scrape(t, m, "")
	families := parse(t, text)
	total := 0.0
	for _, mt := range families["istio_requests_total"].GetMetric() {
		total += mt.GetCounter().GetValue()
	}
	if n := len(families["istio_requests_total"].GetMetric()); n != 12 || total != 100 {
		t.Errorf("%d series count %v requests; want 12 (two of them overflow) and 100", n, total)
	}
	if n := len(families["istio_tcp_connections_opened_total"].GetMetric()); n != 11 {
		t.Errorf("%d TCP series; want 11", n)
	}
	for _, mt := range families["cairn_metrics_overflow_total"].GetMetric() {
		if v := mt.GetCounter().GetValue(); v != 90 {
			t.Errorf("overflow %v = %v; want 90", mt.GetLabel(), v)
		}
	}
}

// TestExactUnderLoad: concurrent observations are all counted, and every scrape
// is consistent in itself.
func TestExactUnderLoad(t *testing.T) {
	m := NewMetrics("proxy", "dev", MetricsOptions{NoRuntime: true})
	const workers, each = 8, 20_000
	base := m.HTTP(exampleHTTP())
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range each {
				base.With(200+i%5, "", "").Observe(int64(i)*1000, uint64(i), 1)
			}
		})
	}
	for range 20 {
		text, _ := scrape(t, m, "")
		for _, mt := range parse(t, text)["istio_request_duration_milliseconds"].GetMetric() {
			h := mt.GetHistogram()
			if last := h.GetBucket()[len(h.GetBucket())-1]; !math.IsInf(last.GetUpperBound(), 1) || last.GetCumulativeCount() != h.GetSampleCount() {
				t.Fatalf("inconsistent histogram: %v", h)
			}
		}
	}
	wg.Wait()
	text, _ := scrape(t, m, "")
	families := parse(t, text)
	var requests, sum float64
	for _, mt := range families["istio_requests_total"].GetMetric() {
		requests += mt.GetCounter().GetValue()
	}
	for _, mt := range families["istio_request_duration_milliseconds"].GetMetric() {
		sum += mt.GetHistogram().GetSampleSum()
	}
	if want := float64(workers * each * (each - 1) / 2 * 1000 / 1e6); requests != workers*each || math.Abs(sum-want) > 1e-6*want {
		t.Errorf("%v requests, %v ms; want %v, %v", requests, sum, workers*each, want)
	}
}

// TestBuckets compares with the plain definition around every bound.
func TestBuckets(t *testing.T) {
	for name, s := range map[string]struct {
		scale *scale
		unit  float64
	}{"duration": {durationScale, 1e6}, "bytes": {byteScale, 1}} {
		values := []uint64{0, 1, 2, math.MaxUint64, math.MaxInt64}
		for _, b := range bounds {
			v := uint64(b * s.unit)
			values = append(values, v, v+1, max(v, 1)-1)
		}
		for n := range 64 {
			values = append(values, 1<<n)
		}
		for _, v := range values {
			want := 0
			for want < infinity && float64(v) > bounds[want]*s.unit {
				want++
			}
			if got := s.scale.bucket(v); got != want {
				t.Errorf("%s bucket(%d) = %d; want %d", name, v, got, want)
			}
		}
	}
	var h histogram
	h.observe(durationScale, 1)
	if counts, sum := h.read(); counts[0] != 1 || counts[infinity] != 1 || sum != 1 || h.empty() {
		t.Errorf("counts = %v, sum = %d", counts, sum)
	}
}

func TestOpenMetrics(t *testing.T) {
	m := NewMetrics("ztunnel", "dev")
	m.HTTP(exampleHTTP()).Observe(1, 2, 3)
	text, header := scrape(t, m, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
	if !strings.HasPrefix(header.Get("Content-Type"), "application/openmetrics-text") || !strings.HasSuffix(text, "# EOF\n") ||
		!strings.Contains(text, "# TYPE istio_requests counter\n") || !strings.Contains(text, "\nistio_requests_total{") || !strings.Contains(text, `,le="1.0"} 1`) {
		t.Errorf("content type %q, text:\n%.2000s", header.Get("Content-Type"), text)
	}
	text, header = scrape(t, m, "")
	if !strings.HasPrefix(header.Get("Content-Type"), "text/plain") || !strings.Contains(text, "go_goroutines") || !strings.Contains(text, "process_start_time_seconds") {
		t.Errorf("content type %q, text:\n%.2000s", header.Get("Content-Type"), text)
	}
}

func TestLabelsOfTheMesh(t *testing.T) {
	w := &mesh.Workload{Name: "reviews-v2-abc", WorkloadName: "reviews-v2", Namespace: "default", CanonicalName: "reviews", CanonicalRevision: "v2", ClusterID: "c", Region: "r", Zone: "z"}
	want := WorkloadLabels{Name: "reviews-v2", CanonicalService: "reviews", CanonicalRevision: "v2", Namespace: "default", App: "reviews", Version: "v2", Cluster: "c", Region: "r", Zone: "z"}
	if got := WorkloadLabelsOf(w); got != want {
		t.Errorf("got %+v; want %+v", got, want)
	}
	s := &mesh.Service{Name: "reviews", Key: mesh.ServiceKey{Namespace: "default", Hostname: "reviews.default.svc.cluster.local"}}
	if got := ServiceLabelsOf(s); got != exampleHTTP().Service {
		t.Errorf("got %+v", got)
	}
	if WorkloadLabelsOf(nil) != (WorkloadLabels{}) || ServiceLabelsOf(nil) != (ServiceLabels{}) {
		t.Error("nil has labels")
	}
}

func TestObserveAllocatesNothing(t *testing.T) {
	m := NewMetrics("proxy", "dev")
	l := exampleHTTP()
	s := m.HTTP(l)
	s.With(404, "", "NR")
	if n := testing.AllocsPerRun(100, func() {
		m.HTTP(l).Observe(1000, 10, 20)
		s.With(404, "", "NR").Observe(1000, 10, 20)
		s.Messages(1, 1)
		m.TCP(TCPLabels{}).Sent(1)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzClean: the result is short, valid, and clean already.
func FuzzClean(f *testing.F) {
	f.Add("a")
	f.Add("\xff")
	f.Add(strings.Repeat("世", 100))
	f.Add(strings.Repeat("x", 255) + "\xe4\xb8\x96")
	f.Fuzz(func(t *testing.T, s string) {
		c := clean(s)
		if len(c) > maxLabel || clean(c) != c || !bytes.Equal([]byte(c), bytes.ToValidUTF8([]byte(c), nil)) {
			t.Errorf("clean(%q) = %q", s, c)
		}
	})
}

func BenchmarkObserve(b *testing.B) {
	s := NewMetrics("proxy", "dev").HTTP(exampleHTTP())
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			s.Observe(int64(i&0xfff)*1000, uint64(i&0xff), 1024)
		}
	})
	b.Run("contended", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				s.Observe(int64(i&0xfff)*1000, uint64(i&0xff), 1024)
			}
		})
	})
}

func BenchmarkResolve(b *testing.B) {
	m := NewMetrics("proxy", "dev")
	l := exampleHTTP()
	s := m.HTTP(l)
	b.Run("labels", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.HTTP(l)
		}
	})
	for i := range 5 {
		s.With(200+i, "", "")
	}
	b.Run("with", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s.With(204, "", "-")
		}
	})
}

func BenchmarkScrape(b *testing.B) {
	m := NewMetrics("proxy", "dev")
	for i := range 1000 {
		l := exampleHTTP()
		l.Source.App = fmt.Sprint("app-", i)
		m.HTTP(l).Observe(1, 1, 1)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := m.WriteText(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

// TestGzip: compressed for who accepts it, and for nobody else.
func TestGzip(t *testing.T) {
	m := NewMetrics("proxy", "dev", MetricsOptions{NoRuntime: true})
	m.HTTP(exampleHTTP()).Observe(1, 1, 1)
	plain, _ := scrape(t, m, "")
	for accept, want := range map[string]bool{"gzip": true, "br, GZIP;q=0.5": true, "": false, "br": false, "gzip;q=0": false, "gzip; q=0.0, br": false, "xgzip": false} {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
		req.Header.Set("Accept-Encoding", accept)
		w := httptest.NewRecorder()
		m.Handler().ServeHTTP(w, req)
		if got := w.Header().Get("Content-Encoding") == "gzip"; got != want {
			t.Errorf("Accept-Encoding %q: compressed %v", accept, got)
		}
		if !want {
			continue
		}
		z, err := gzip.NewReader(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(z); err != nil || string(text) != plain {
			t.Errorf("decompressed: %v, %d bytes; want %d", err, len(text), len(plain))
		}
	}
}
