package hbone

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Options say what a Load opens and asks for.
type Options struct {
	Addr      string      // where the proxy under test accepts HBONE
	Authority string      // :authority of each CONNECT: the service's address and port
	TLS       *tls.Config // client configuration with certificate
	Conns     int         // connections
	Streams   int         // tunnels on each connection
	Fresh     bool        // every request has a CONNECT stream of its own
	Host      string      // Host of the inner requests
	Size      int         // bytes of each response; the path asks the sink for them
	Upload    int         // bytes of each request's body; 0 means GET
	Method    string      // inner method; empty means GET, or POST with Upload
	Headers   string      // further header lines, each ended with CRLF
	Status    int         // the expected status; 0 means 200

	GRPC     bool // gRPC calls over HTTP/2 inside the tunnels, with messages of Upload and Size bytes
	Calls    int  // in flight on each tunnel; 0 means 1
	Messages int  // of a call's answer, which is a stream when they are many; 0 means 1

	// ProxyTime leaves out of the latencies of HTTP/1.1 what the load and the sink took: a request counts from when it
	// is sent (or was due, if its tunnel was not free) to when the kernel has the answer, less the sink's time.
	ProxyTime bool

	Bulk     int // further tunnels on each connection, which download between Load.Bulk(true) and Load.Bulk(false)
	BulkSize int // bytes of each of their bodies

	Window int  // what a tunnel may be sent before the load gives credit; 0 means 4 MiB
	Slow   bool // tunnels get more credit from Load.Grant alone
}

func (o *Options) window() int64 {
	if o.Window > 0 {
		return int64(o.Window)
	}
	return streamWindow
}

// path asks the sink for what is wanted.
func (o *Options) path() string {
	if o.messages() > 1 {
		return fmt.Sprintf("/bytes/%dx%d", o.Size, o.messages())
	}
	if o.ProxyTime {
		return fmt.Sprintf("/bytes/%d%s", o.Size, timedQuery)
	}
	return fmt.Sprintf("/bytes/%d", o.Size)
}

func (o *Options) messages() int { return max(1, o.Messages) }

// job is a request and what its answer has to be.
type job struct {
	request []byte
	prefix  []byte // "HTTP/1.1 200"
	size    int
	sum     uint32
	refusal bool // another status than 200 is expected: the body is the proxy's own
}

func newJob(o Options) *job {
	status := o.Status
	if status == 0 {
		status = 200
	}
	return &job{
		request: buildRequest(o), prefix: fmt.Appendf(nil, "HTTP/1.1 %d", status),
		size: o.Size, sum: Checksum(Body(o.Size)), refusal: status != 200,
	}
}

// take reads an answer from p into m and checks it. It returns what follows
// the answer, and whether that is complete; when it is not, nothing is left.
func (j *job) take(m *message, p []byte) (rest []byte, done bool, err error) {
	starting := !m.inBody
	rest, done, err = m.next(p)
	switch {
	case err != nil:
		return nil, false, err
	case starting && (done || m.inBody) && !bytes.HasPrefix(m.first, j.prefix):
		return nil, false, fmt.Errorf("answered %q", m.first)
	case done && !j.refusal && (m.length != int64(j.size) || m.sum != j.sum):
		return nil, false, fmt.Errorf("a body of %d bytes and checksum %#x, expected %d and %#x", m.length, m.sum, j.size, j.sum)
	}
	return rest, done, nil
}

// A Load holds open tunnels through a proxy and sends requests on them. One
// of its runs happens at a time.
type Load struct {
	opts  Options
	job   *job
	bulk  *job
	conns []*loadConn
	wg    sync.WaitGroup

	mu      sync.Mutex
	failure error
}

// loadConn is one connection and its share of the counts, which its conn.mu
// guards.
type loadConn struct {
	load    *Load
	conn    *conn
	tunnels []*tunnel
	bulk    []*tunnel
	waiting int           // tunnels that the peer has not accepted yet
	ready   chan struct{} // closed when none waits
	dead    bool

	closed    bool // closed loop: an answer is followed by the next request
	done      uint64
	failed    uint64
	inFlight  int
	latencies *Histogram
	received  uint64 // bytes inside the tunnels

	bulking    bool // bulk tunnels go on
	bulkDone   uint64
	bulkFlight int
}

// Result is what one run measured.
type Result struct {
	Requests uint64 // answered within the window
	Failures uint64 // wrong, missing or broken answers, at any time of the run
	Elapsed  time.Duration
	Latency  *Histogram
	Err      error // the first failure
}

// Dial opens all connections and tunnels, and returns when the proxy has
// accepted every one of them.
func Dial(ctx context.Context, opts Options) (*Load, error) {
	if (opts.GRPC || opts.Bulk > 0) && opts.Fresh {
		return nil, errors.New("gRPC calls and bulk keep their tunnels")
	}
	l := &Load{opts: opts, job: newJob(opts)}
	if opts.Bulk > 0 {
		l.bulk = newJob(Options{Host: opts.Host, Size: opts.BulkSize, Headers: opts.Headers})
	}
	for range opts.Conns {
		if err := l.dialOne(ctx); err != nil {
			l.Close()
			return nil, err
		}
	}
	for _, lc := range l.conns {
		if err := lc.await(ctx); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l, nil
}

func buildRequest(o Options) []byte {
	if o.GRPC {
		return appendMessage(nil, o.Upload)
	}
	method := o.Method
	if method == "" {
		method = "GET"
		if o.Upload > 0 {
			method = "POST"
		}
	}
	r := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nhost: %s\r\nuser-agent: hbone-load\r\naccept: */*\r\n%s", method, o.path(), o.Host, o.Headers)
	if o.Upload > 0 {
		r = fmt.Appendf(r, "content-length: %d\r\n", o.Upload)
	}
	r = append(r, "\r\n"...)
	return append(r, Body(o.Upload)...)
}

func (l *Load) dialOne(ctx context.Context) error {
	t, err := dial(ctx, l.opts.Addr, l.opts.TLS)
	if err == nil && l.opts.ProxyTime {
		err = t.stamp()
	}
	if err != nil {
		return err
	}
	lc := &loadConn{load: l, ready: make(chan struct{}), latencies: &Histogram{}}
	lc.conn = newConn(t, lc, true, l.opts.window())
	lc.conn.slow = l.opts.Slow
	l.conns = append(l.conns, lc)
	l.wg.Go(func() { lc.run(t) })
	// The peer's limit on streams comes with its first SETTINGS.
	select {
	case <-lc.conn.settled:
	case <-ctx.Done():
		return fmt.Errorf("waiting for the SETTINGS of %s: %w", l.opts.Addr, ctx.Err())
	case <-lc.ready: // only a connection that ended is ready this early
		return fmt.Errorf("opening tunnels at %s: %w", l.opts.Addr, l.firstFailure())
	}
	lc.conn.mu.Lock()
	defer lc.conn.mu.Unlock()
	if n := l.opts.Streams + l.opts.Bulk; uint32(n) > lc.conn.peerMax {
		return fmt.Errorf("%s allows %d streams on a connection, %d are wanted", l.opts.Addr, lc.conn.peerMax, n)
	}
	for range l.opts.Streams {
		lc.tunnels = append(lc.tunnels, lc.newTunnel(l.job))
	}
	for range l.opts.Bulk {
		lc.bulk = append(lc.bulk, lc.newTunnel(l.bulk))
	}
	lc.accepted(0)
	return lc.conn.flush()
}

// run carries the connection; when it ends early every tunnel is broken.
func (lc *loadConn) run(t *transport) {
	err := lc.conn.run(t)
	if err == nil {
		err = errors.New("the proxy closed the connection")
	}
	lc.conn.mu.Lock()
	defer lc.conn.mu.Unlock()
	if lc.dead {
		return // we closed it
	}
	lc.dead = true
	lc.load.note(err)
	for _, t := range slices.Concat(lc.tunnels, lc.bulk) {
		lc.abandon(t)
	}
	lc.failed++
	lc.accepted(lc.waiting)
}

// accepted notes that n tunnels wait no longer. The caller holds conn.mu.
func (lc *loadConn) accepted(n int) {
	lc.waiting -= n
	if lc.waiting > 0 {
		return
	}
	select {
	case <-lc.ready:
	default:
		close(lc.ready)
	}
}

func (lc *loadConn) await(ctx context.Context) error {
	select {
	case <-lc.ready:
	case <-ctx.Done():
		return fmt.Errorf("waiting for %s to accept the tunnels: %w", lc.load.opts.Addr, ctx.Err())
	}
	lc.conn.mu.Lock()
	defer lc.conn.mu.Unlock()
	if lc.failed > 0 {
		return fmt.Errorf("opening tunnels at %s: %w", lc.load.opts.Addr, lc.load.firstFailure())
	}
	return nil
}

func (l *Load) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure == nil {
		l.failure = err
	}
}

func (l *Load) firstFailure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure
}

// Close ends the connections and waits for their goroutines.
func (l *Load) Close() {
	for _, lc := range l.conns {
		lc.conn.mu.Lock()
		lc.dead = true
		lc.conn.mu.Unlock()
		lc.conn.carrier.close()
	}
	l.wg.Wait()
}
