package hbone

import (
	"context"
	"crypto/tls"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"cairnproxy.dev/cairn/conformance/ca"
)

// pair starts a sink and returns options for a load that reaches it directly.
func pair(t testing.TB) (*Sink, Options) {
	t.Helper()
	authority, err := ca.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	server, err := authority.Issue("bench", "server")
	if err != nil {
		t.Fatal(err)
	}
	client, err := authority.Issue("bench", "client")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sink := &Sink{TLS: server.Server()}
	done := make(chan error, 1)
	go func() { done <- sink.Serve(ln) }()
	t.Cleanup(func() {
		ln.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return sink, Options{
		Addr: ln.Addr().String(), Authority: "127.96.0.1:8080", TLS: client.Client(server.URI),
		Conns: 2, Streams: 8, Host: "server.bench:8080", Size: 1024,
	}
}

func open(t testing.TB, opts Options) *Load {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	load, err := Dial(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(load.Close)
	return load
}

func TestClosedLoop(t *testing.T) {
	for _, test := range []struct {
		name   string
		window time.Duration
		change func(*Options)
	}{
		{"small", 100 * time.Millisecond, func(o *Options) {}},
		{"empty", 100 * time.Millisecond, func(o *Options) { o.Size = 0 }},
		{"large", time.Second, func(o *Options) { o.Size = 3 << 20; o.Streams = 2 }},
		{"fresh", 200 * time.Millisecond, func(o *Options) { o.Fresh = true }},
		{"unary", 200 * time.Millisecond, func(o *Options) { unary(o) }},
		{"streaming", 500 * time.Millisecond, func(o *Options) { unary(o); o.Streams, o.Size, o.Messages = 2, 1024, 100 }},
		{"upload", time.Second, func(o *Options) { o.Upload = 3 << 20; o.Streams = 2 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			sink, opts := pair(t)
			test.change(&opts)
			r := open(t, opts).Closed(t.Context(), 0, test.window, func() {})
			if r.Failures != 0 || r.Err != nil || r.Requests == 0 {
				t.Errorf("%d requests, %d failures: %v", r.Requests, r.Failures, r.Err)
			}
			if r.Latency.N() != r.Requests {
				t.Errorf("%d latencies of %d requests", r.Latency.N(), r.Requests)
			}
			if got := sink.Requests.Load(); got < r.Requests {
				t.Errorf("the sink answered %d requests of %d", got, r.Requests)
			}
			authorities, peers, err := sink.Seen()
			if err != nil || authorities[opts.Authority] < opts.Conns*opts.Streams || peers["spiffe://cluster.local/ns/bench/sa/client"] != opts.Conns {
				t.Errorf("the sink saw %v from %v: %v", authorities, peers, err)
			}
		})
	}
}

func unary(o *Options) { o.GRPC, o.Calls, o.Upload, o.Size = true, 4, 128, 128 }

func TestOpenLoop(t *testing.T) {
	_, opts := pair(t)
	r, err := open(t, opts).Open(t.Context(), 2000, 50*time.Millisecond, 500*time.Millisecond, func() {})
	if err != nil || r.Failures != 0 {
		t.Fatalf("%d failures: %v %v", r.Failures, r.Err, err)
	}
	if r.Requests < 900 || r.Requests > 1100 {
		t.Errorf("%d requests in half a second at 2,000 per second", r.Requests)
	}
}

// TestBulk runs paced requests beside downloads on the same connections.
func TestBulk(t *testing.T) {
	sink, opts := pair(t)
	opts.Bulk, opts.BulkSize = 1, 1<<20
	load := open(t, opts)
	if n := load.Bulk(true); n != 0 {
		t.Errorf("%d downloads before the start", n)
	}
	r, err := load.Open(t.Context(), 1000, 0, 300*time.Millisecond, func() {})
	n := load.Bulk(false)
	if err != nil || r.Failures != 0 || r.Requests == 0 || n == 0 {
		t.Errorf("%d requests and %d downloads, %d failures: %v %v", r.Requests, n, r.Failures, r.Err, err)
	}
	if got := sink.Requests.Load(); got < r.Requests+n {
		t.Errorf("the sink answered %d requests, counted are %d and %d", got, r.Requests, n)
	}
}

// TestBulkFails proves that a download that is wrong is a failure of the run.
func TestBulkFails(t *testing.T) {
	_, opts := pair(t)
	opts.Bulk, opts.BulkSize = 1, 1<<20
	load := open(t, opts)
	load.bulk.sum++
	load.Bulk(true)
	for range 100 { // until a download was complete
		r, err := load.Open(t.Context(), 1000, 0, 100*time.Millisecond, func() {})
		if err != nil {
			t.Fatal(err)
		}
		if r.Failures > 0 && r.Err != nil {
			return
		}
	}
	t.Error("no failure was seen")
}

// TestProxyTime proves that what the sink took is left out.
func TestProxyTime(t *testing.T) {
	sink, opts := pair(t)
	sink.Stamped.Store(true)
	opts.ProxyTime = true
	load := open(t, opts)
	r, err := load.Open(t.Context(), 500, 0, 300*time.Millisecond, func() {})
	if err != nil || r.Failures != 0 || r.Requests == 0 {
		t.Fatalf("%d requests, %d failures: %v %v", r.Requests, r.Failures, r.Err, err)
	}
	m := &load.conns[0].tunnels[0].response
	if m.took <= 0 {
		t.Errorf("the sink says that it took %v", m.took)
	}
	lc, tun := load.conns[0], load.conns[0].tunnels[0]
	lc.conn.mu.Lock()
	defer lc.conn.mu.Unlock()
	if lc.conn.now != lc.conn.now.Round(0) { // the kernel's times have no monotonic part
		t.Errorf("%v is not a receive time of the kernel", lc.conn.now)
	}
	*lc.latencies = Histogram{}
	lc.conn.now = time.Now()
	tun.busy, tun.started, tun.response.took = true, lc.conn.now.Add(-time.Second), 900*time.Millisecond
	lc.inFlight++
	lc.next(tun)
	if got := lc.latencies.Max(); got != 100*time.Millisecond {
		t.Errorf("a second of which the sink took 0.9 counts as %v", got)
	}
}

// TestSlow reads bodies in steps, and proves that no more than that arrives.
func TestSlow(t *testing.T) {
	const window, step = 64 << 10, 32 << 10
	_, opts := pair(t)
	opts.Size, opts.Window, opts.Slow = 200<<10, window, true
	load := open(t, opts)
	load.Begin()
	tunnels := uint64(opts.Conns * opts.Streams)
	granted, deadline := tunnels*window, time.Now().Add(20*time.Second)
	for {
		p := load.Progress()
		if p.Failures != 0 || p.Received > granted {
			t.Fatalf("%+v with %d bytes granted", p, granted)
		}
		if p.Done == tunnels {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v with %d bytes granted", p, granted)
		}
		if p.Received == granted {
			granted += tunnels * step
			load.Grant(step)
		}
		runtime.Gosched()
	}
	if granted < tunnels*200<<10 {
		t.Errorf("the bodies came with %d bytes granted", granted)
	}
}

func TestOnce(t *testing.T) {
	sink, opts := pair(t)
	r := open(t, opts).Once()
	if want := uint64(opts.Conns * opts.Streams); r.Requests != want || r.Failures != 0 || sink.Requests.Load() != want {
		t.Errorf("%d requests, %d at the sink, %d failures (%v), want %d", r.Requests, sink.Requests.Load(), r.Failures, r.Err, want)
	}
}

// TestFailuresCount proves that the load notices what it exists to notice.
func TestFailuresCount(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Load)
	}{
		{"status", func(l *Load) { l.job.prefix = []byte("HTTP/1.1 403") }},
		{"checksum", func(l *Load) { l.job.sum++ }},
		{"length", func(l *Load) { l.job.size++ }},
		{"message checksum", func(l *Load) { l.job.sum++ }},
		{"message length", func(l *Load) { l.job.size++ }},
		{"message count", func(l *Load) { l.opts.Messages = 3 }},
		{"message upload", func(l *Load) { l.job.request[len(l.job.request)-1]++ }},
		{"upload", func(l *Load) { l.job.request[len(l.job.request)-1]++ }},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, opts := pair(t)
			if opts.Upload = 1 << 20; strings.HasPrefix(test.name, "message") {
				unary(&opts)
			}
			load := open(t, opts)
			test.change(load)
			if r := load.Once(); r.Failures == 0 || r.Err == nil {
				t.Errorf("%d failures, error %v", r.Failures, r.Err)
			}
		})
	}
}

func TestChurn(t *testing.T) {
	sink, opts := pair(t)
	r := Churn(t.Context(), opts, 0, 300*time.Millisecond, func() {})
	_, peers, err := sink.Seen()
	if r.Failures != 0 || err != nil || r.Requests == 0 || r.Latency.N() != r.Requests {
		t.Errorf("%d connections, %d latencies, %d failures: %v; the sink: %v", r.Requests, r.Latency.N(), r.Failures, r.Err, err)
	}
	if got := peers["spiffe://cluster.local/ns/bench/sa/client"]; uint64(got) < r.Requests || uint64(got) != sink.Requests.Load() {
		t.Errorf("the sink saw %d connections and %d requests, counted are %d", got, sink.Requests.Load(), r.Requests)
	}
	for _, test := range []struct {
		name   string
		change func(*Options)
	}{
		{"status", func(o *Options) { o.Status = 403 }},
		{"refused", func(o *Options) { o.Addr = "127.0.0.1:1" }},
		{"closed", func(o *Options) { o.Addr = slam(t) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			opts := opts
			test.change(&opts)
			if r := Churn(t.Context(), opts, 0, 50*time.Millisecond, func() {}); r.Failures == 0 || r.Err == nil || r.Requests != 0 {
				t.Errorf("%d connections, %d failures: %v", r.Requests, r.Failures, r.Err)
			}
		})
	}
}

// slam starts a server that closes every connection, and returns its address.
func slam(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

// TestPeerLeaves proves that a proxy that goes away is a failure, and that
// nobody waits for it.
func TestPeerLeaves(t *testing.T) {
	for _, change := range []func(*Options){
		func(o *Options) {},
		func(o *Options) { o.Fresh = true },
		func(o *Options) { unary(o) },
	} {
		sink, opts := pair(t)
		change(&opts)
		load := open(t, opts)
		r := load.Closed(t.Context(), 0, 10*time.Millisecond, sink.closeAll)
		if r.Failures == 0 || r.Err == nil || r.Elapsed > drainTime {
			t.Errorf("%d failures after %v: %v", r.Failures, r.Elapsed, r.Err)
		}
	}
	if l, err := Dial(t.Context(), Options{Addr: slam(t), TLS: &tls.Config{MinVersion: tls.VersionTLS13}, Conns: 1, Streams: 1}); err == nil {
		l.Close()
		t.Error("a server that closes at once was dialed")
	}
}

// TestRefusal expects a proxy's own answer, and then does not look at its body.
func TestRefusal(t *testing.T) {
	_, opts := pair(t)
	opts.Status, opts.Upload = 400, 100
	load := open(t, opts)
	load.job.request[len(load.job.request)-1]++
	if r := load.Once(); r.Failures != 0 || r.Requests != uint64(opts.Conns*opts.Streams) {
		t.Errorf("%d requests, %d failures: %v", r.Requests, r.Failures, r.Err)
	}
}

func TestWrongPeer(t *testing.T) {
	_, opts := pair(t)
	other, err := ca.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := other.Issue("bench", "client")
	if err != nil {
		t.Fatal(err)
	}
	opts.TLS = stranger.Client("")
	if l, err := Dial(t.Context(), opts); err == nil {
		l.Close()
		t.Error("a peer of another root was accepted")
	}
}

// BenchmarkDirect is the cost of the load and the sink together.
func BenchmarkDirect(b *testing.B) {
	for _, test := range []struct {
		name   string
		change func(*Options)
	}{
		{"small", func(o *Options) { o.Conns, o.Streams = 4, 16 }},
		{"unary", func(o *Options) { unary(o); o.Conns, o.Streams = 4, 4 }},
		{"streaming", func(o *Options) { unary(o); o.Conns, o.Streams, o.Size, o.Messages = 4, 4, 1024, 100 }},
		{"fresh", func(o *Options) { o.Conns, o.Streams, o.Fresh = 4, 16, true }},
		{"down", func(o *Options) { o.Streams, o.Size = 2, 1<<20 }},
		{"up", func(o *Options) { o.Streams, o.Size, o.Upload = 2, 0, 1<<20 }},
	} {
		b.Run(test.name, func(b *testing.B) {
			_, opts := pair(b)
			test.change(&opts)
			load := open(b, opts)
			var before, after syscall.Rusage
			b.ReportAllocs()
			b.ResetTimer()
			r := load.Closed(b.Context(), 200*time.Millisecond, 2*time.Second, func() {
				before = after
				if err := syscall.Getrusage(syscall.RUSAGE_SELF, &after); err != nil {
					b.Fatal(err)
				}
			})
			if r.Failures != 0 {
				b.Fatal(r.Err)
			}
			cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
			b.ReportMetric(float64(cpu)/1000/float64(r.Requests), "µs-cpu/req")
			b.ReportMetric(float64(r.Requests)/r.Elapsed.Seconds(), "req/s")
		})
	}
}

// BenchmarkFair is what the load and the sink by themselves add to the latency
// of small requests when a download runs beside them on the same connection.
func BenchmarkFair(b *testing.B) {
	_, opts := pair(b)
	opts.Conns, opts.Streams, opts.Bulk, opts.BulkSize = 1, 8, 1, 1<<20
	load := open(b, opts)
	for _, name := range []string{"quiet", "bulk"} {
		load.Bulk(name == "bulk")
		r, err := load.Open(b.Context(), 1000, 200*time.Millisecond, 2*time.Second, func() {})
		if err != nil || r.Failures != 0 {
			b.Fatal(r.Err, err)
		}
		b.ReportMetric(float64(r.Latency.Quantile(0.5).Microseconds()), name+"-p50-µs")
		b.ReportMetric(float64(r.Latency.Quantile(0.99).Microseconds()), name+"-p99-µs")
	}
	b.ReportMetric(float64(load.Bulk(false))/2.2, "MB/s")
}
