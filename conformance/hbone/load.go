package hbone

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Options say what a Load opens and asks for.
type Options struct {
	Addr      string      // where the proxy under test accepts HBONE
	Authority string      // :authority of each CONNECT: the service's address and port
	TLS       *tls.Config // client configuration with certificate
	Conns     int         // connections
	Streams   int         // tunnels on each connection
	Host      string      // Host of the inner requests
	Size      int         // bytes of each response; the path asks the sink for them
	Upload    int         // bytes of each request's body; 0 means GET
	Method    string      // inner method; empty means GET, or POST with Upload
	Headers   string      // further header lines, each ended with CRLF
	Status    int         // the expected status; 0 means 200
}

// A Load holds open tunnels through a proxy and sends requests on them. One
// of its runs happens at a time.
type Load struct {
	opts    Options
	request []byte
	prefix  []byte // "HTTP/1.1 200"
	sum     uint32
	conns   []*loadConn
	wg      sync.WaitGroup

	mu      sync.Mutex
	failure error
}

// loadConn is one connection and its share of the counts, which its conn.mu
// guards.
type loadConn struct {
	load    *Load
	conn    *conn
	tunnels []*tunnel
	waiting int           // tunnels that the peer has not accepted yet
	ready   chan struct{} // closed when none waits
	dead    bool

	closed    bool // closed loop: an answer is followed by the next request
	done      uint64
	failed    uint64
	inFlight  int
	latencies *Histogram
}

// tunnel is one CONNECT stream of the client.
type tunnel struct {
	s        *stream
	accepted bool
	broken   bool
	response message
	busy     bool
	started  time.Time   // when the request was sent, or should have been
	queue    []time.Time // due times of requests that wait for their turn
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
	l := &Load{opts: opts, request: buildRequest(opts), sum: Checksum(Body(opts.Size))}
	status := opts.Status
	if status == 0 {
		status = 200
	}
	l.prefix = fmt.Appendf(nil, "HTTP/1.1 %d", status)
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
	method := o.Method
	if method == "" {
		method = "GET"
		if o.Upload > 0 {
			method = "POST"
		}
	}
	r := fmt.Appendf(nil, "%s /bytes/%d HTTP/1.1\r\nhost: %s\r\nuser-agent: hbone-load\r\naccept: */*\r\n%s", method, o.Size, o.Host, o.Headers)
	if o.Upload > 0 {
		r = fmt.Appendf(r, "content-length: %d\r\n", o.Upload)
	}
	r = append(r, "\r\n"...)
	return append(r, Body(o.Upload)...)
}

func (l *Load) dialOne(ctx context.Context) error {
	t, err := dial(ctx, l.opts.Addr, l.opts.TLS)
	if err != nil {
		return err
	}
	lc := &loadConn{load: l, ready: make(chan struct{}), latencies: &Histogram{}}
	lc.conn = newConn(t, lc, true, streamWindow)
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
	if uint32(l.opts.Streams) > lc.conn.peerMax {
		return fmt.Errorf("%s allows %d streams on a connection, %d are wanted", l.opts.Addr, lc.conn.peerMax, l.opts.Streams)
	}
	lc.waiting = l.opts.Streams
	for range l.opts.Streams {
		tun := &tunnel{}
		tun.s = lc.conn.open(l.opts.Authority, tun)
		lc.tunnels = append(lc.tunnels, tun)
	}
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
	for _, t := range lc.tunnels {
		lc.abandon(t)
	}
	lc.failed++
	lc.waiting = 0
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

// headers, data and reset are called by the connection's reader with conn.mu
// held.
func (lc *loadConn) headers(c *conn, s *stream, fields []hpack.HeaderField, end bool) error {
	t := s.owner.(*tunnel)
	if t.accepted {
		if end {
			lc.fail(t, errors.New("the proxy ended the tunnel"))
		}
		return nil
	}
	status := ""
	for _, f := range fields {
		if f.Name == ":status" {
			status = f.Value
		}
	}
	if status != "200" || end {
		lc.fail(t, fmt.Errorf("CONNECT %s was answered with %q", lc.load.opts.Authority, status))
	}
	t.accepted = true
	if lc.waiting--; lc.waiting == 0 {
		close(lc.ready)
	}
	return nil
}

func (lc *loadConn) data(c *conn, s *stream, p []byte, end bool) error {
	t := s.owner.(*tunnel)
	if t.broken {
		return nil
	}
	for len(p) > 0 {
		if !t.busy {
			lc.fail(t, errors.New("bytes without a request"))
			return nil
		}
		starting := !t.response.inBody
		rest, done, err := t.response.next(p)
		if err != nil {
			lc.fail(t, err)
			return nil
		}
		if starting && (done || t.response.inBody) && !bytes.HasPrefix(t.response.first, lc.load.prefix) {
			lc.fail(t, fmt.Errorf("answered %q", t.response.first))
			return nil
		}
		if done {
			lc.complete(t)
		}
		p = rest
	}
	if end && !t.broken {
		lc.fail(t, errors.New("the proxy ended the tunnel"))
	}
	return nil
}

func (lc *loadConn) reset(c *conn, s *stream, code http2.ErrCode) {
	t := s.owner.(*tunnel)
	if !t.accepted {
		t.accepted = true
		lc.waiting--
		if lc.waiting == 0 {
			close(lc.ready)
		}
	}
	lc.fail(t, fmt.Errorf("the tunnel was reset: %v", code))
}

// complete checks an answer and sends what comes next.
func (lc *loadConn) complete(t *tunnel) {
	opts := &lc.load.opts
	if opts.Status == 0 || opts.Status == 200 {
		if t.response.length != int64(opts.Size) || t.response.sum != lc.load.sum {
			lc.fail(t, fmt.Errorf("a body of %d bytes and checksum %#x, expected %d and %#x", t.response.length, t.response.sum, opts.Size, lc.load.sum))
			return
		}
	}
	now := lc.conn.now
	lc.latencies.Add(now.Sub(t.started))
	lc.done++
	lc.inFlight--
	t.busy = false
	switch {
	case lc.closed:
		lc.send(t, now)
	case len(t.queue) > 0:
		due := t.queue[0]
		t.queue = t.queue[:copy(t.queue, t.queue[1:])]
		lc.inFlight-- // it was counted when it was queued
		lc.send(t, due)
	}
}

// send puts a request on an idle tunnel. The caller holds conn.mu and flushes.
func (lc *loadConn) send(t *tunnel, start time.Time) {
	t.busy, t.started = true, start
	lc.inFlight++
	lc.conn.send(t.s, lc.load.request)
}

// fail counts a failure and gives the tunnel up.
func (lc *loadConn) fail(t *tunnel, err error) {
	lc.load.note(err)
	lc.failed++
	lc.abandon(t)
}

// abandon takes a tunnel out of use.
func (lc *loadConn) abandon(t *tunnel) {
	if t.broken {
		return
	}
	t.broken = true
	if t.busy {
		lc.inFlight--
	}
	lc.inFlight -= len(t.queue)
	lc.failed += uint64(len(t.queue))
	t.busy, t.queue = false, nil
}
