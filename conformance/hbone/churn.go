package hbone

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Churn opens connection after connection, opts.Conns of them at a time: TCP,
// mutual TLS, CONNECT, one request, and the end of it all. A latency is that
// of the whole. Like Load.Closed it warms up, calls mark, measures for d, and
// calls mark again.
func Churn(ctx context.Context, opts Options, warm, d time.Duration, mark func()) Result {
	ch := &churn{opts: opts, job: newJob(opts), result: Result{Latency: &Histogram{}}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var workers sync.WaitGroup
	for range opts.Conns {
		workers.Go(func() { ch.work(ctx) })
	}
	wait(ctx, warm)
	ch.count(true)
	mark()
	begin := time.Now()
	wait(ctx, d)
	ch.count(false)
	mark()
	ch.result.Elapsed = time.Since(begin)
	cancel()
	workers.Wait()
	return ch.result
}

// churn is what the workers of one Churn share.
type churn struct {
	opts Options
	job  *job

	mu       sync.Mutex // guards what follows
	counting bool
	result   Result
}

// count begins or ends the window in which connections count.
func (ch *churn) count(on bool) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.counting = on
}

// work is the goroutine that has one connection at a time. It stops at the
// first failure: one is enough to reject the run.
func (ch *churn) work(ctx context.Context) {
	for ctx.Err() == nil {
		begin := time.Now()
		// A connection that was begun is carried to its end: only its start depends on ctx.
		err := ch.once(context.WithoutCancel(ctx))
		ch.mu.Lock()
		switch {
		case err != nil:
			ch.result.Failures++
			if ch.result.Err == nil {
				ch.result.Err = err
			}
		case ch.counting:
			ch.result.Requests++
			ch.result.Latency.Add(time.Since(begin))
		}
		ch.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// once makes a connection, asks, checks the answer and closes.
func (ch *churn) once(ctx context.Context) error {
	t, err := dial(ctx, ch.opts.Addr, ch.opts.TLS)
	if err != nil {
		return err
	}
	if err := t.mem.SetDeadline(time.Now().Add(drainTime)); err != nil {
		t.mem.Close()
		return fmt.Errorf("setting a deadline: %w", err)
	}
	v := &visit{t: t, job: ch.job}
	c := newConn(t, v, true, streamWindow)
	c.open(ch.opts.Authority, nil)
	err = c.run(t)
	switch {
	case errors.Is(err, errVisited):
		return nil
	case err == nil:
		return errors.New("the proxy closed the connection")
	default:
		return err
	}
}

// errVisited ends the reader of a connection that has served.
var errVisited = errors.New("the answer is there")

// visit is the handler of a connection with one request.
type visit struct {
	t        *transport
	job      *job
	response message
}

func (v *visit) headers(c *conn, s *stream, fields []hpack.HeaderField, end bool) error {
	for _, f := range fields {
		if f.Name == ":status" && f.Value == "200" && !end {
			c.send(s, v.job.request)
			return nil
		}
	}
	return fmt.Errorf("CONNECT was answered with %v", fields)
}

func (v *visit) data(_ *conn, _ *stream, p []byte, end bool) error {
	rest, done, err := v.job.take(&v.response, p)
	switch {
	case err != nil:
		return err
	case done && len(rest) > 0:
		return errors.New("bytes without a request")
	case done:
		return v.leave()
	case end:
		return errors.New("the proxy ended the tunnel")
	}
	return nil
}

// leave tells the peer that nothing follows, as TLS wants it told.
func (v *visit) leave() error {
	if err := v.t.tls.CloseWrite(); err != nil {
		return fmt.Errorf("ending tls: %w", err)
	}
	if err := v.t.transmit(v.t.try); err != nil {
		return err
	}
	return errVisited
}

func (v *visit) reset(_ *conn, _ *stream, code http2.ErrCode) error {
	return fmt.Errorf("the tunnel was reset: %v", code)
}
