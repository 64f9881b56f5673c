package tcpload

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/conformance/hbone"
)

// patience is how long an answer may take: what is later has failed.
const patience = 10 * time.Second

// Load runs clients against an App in the same process.
type Load struct {
	// Dial opens a connection that leads to App.
	Dial func() (*Conn, error)
	App  *App
}

// Result is what a run came to between its two marks.
type Result struct {
	Done     uint64 // round trips or connections
	Bytes    int64  // of bulk streams, as the App received them
	Latency  *hbone.Histogram
	Failures uint64
	Err      error // the first failure
}

// client is one of a run's clients. step does its work once; the run counts it
// and its duration.
type client interface {
	step() error
	finish() error
}

// Window is when a run measures: for D after Warm. Mark is called at its
// beginning and its end.
type Window struct {
	Warm, D time.Duration
	Mark    func()
}

// Bulk sends data on n connections as fast as it goes.
func (l *Load) Bulk(ctx context.Context, n int, w Window) Result {
	return l.run(ctx, n, w, func() (client, error) { return newBulk(l) })
}

// PingPong sends messages of the size on n connections; on each the next
// message leaves when the echo of the last one is there.
func (l *Load) PingPong(ctx context.Context, n, size int, w Window) Result {
	return l.run(ctx, n, w, func() (client, error) { return newPing(l, size) })
}

// Connect opens connections, n at a time: one byte there, the same byte back,
// the end.
func (l *Load) Connect(ctx context.Context, n int, w Window) Result {
	return l.run(ctx, n, w, func() (client, error) { return &connector{l: l}, nil })
}

// Idle opens n connections, each used for one byte in both directions.
func (l *Load) Idle(ctx context.Context, n int) (conns []*Conn, err error) {
	for range n {
		if ctx.Err() != nil {
			return conns, ctx.Err()
		}
		conn, err := greeted(l)
		if err != nil {
			return conns, fmt.Errorf("opening idle connection %d: %w", len(conns), err)
		}
		conns = append(conns, conn)
	}
	return conns, nil
}

// run is one run under way.
type run struct {
	stop atomic.Bool
	mu   sync.Mutex
	r    Result
}

func (l *Load) run(ctx context.Context, n int, w Window, make func() (client, error)) Result {
	r := &run{r: Result{Latency: &hbone.Histogram{}}}
	var wg sync.WaitGroup
	for range n {
		c, err := make()
		if err != nil {
			r.fail(err)
			break
		}
		wg.Go(func() { r.drive(c) })
	}
	wait(ctx, w.Warm)
	r.mu.Lock()
	r.r.Done, *r.r.Latency = 0, hbone.Histogram{}
	r.mu.Unlock()
	w.Mark()
	before := l.App.received.Load()
	wait(ctx, w.D)
	out := r.snapshot()
	out.Bytes = l.App.received.Load() - before
	w.Mark()
	r.stop.Store(true)
	wg.Wait()
	r.fail(l.App.Err())
	end := r.snapshot()
	out.Failures, out.Err = end.Failures, end.Err
	return out
}

// drive runs one client until the run stops or the client fails.
func (r *run) drive(c client) {
	for !r.stop.Load() {
		begin := time.Now()
		if err := c.step(); err != nil {
			r.fail(err)
			return
		}
		took := time.Since(begin)
		r.mu.Lock()
		r.r.Done++
		r.r.Latency.Add(took)
		r.mu.Unlock()
	}
	r.fail(c.finish())
}

func (r *run) fail(err error) {
	if err == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.r.Failures++
	if r.r.Err == nil {
		r.r.Err = err
	}
}

func (r *run) snapshot() Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.r
	out.Latency = &hbone.Histogram{}
	out.Latency.Merge(r.r.Latency)
	return out
}

// bulkClient writes one block per step; a goroutine reads what the App says to it.
type bulkClient struct {
	conn *Conn
	sent uint64
	acks chan error // closed after the App's last word
	last uint64     // the last block acknowledged; readable after acks
}

func newBulk(l *Load) (*bulkClient, error) {
	conn, err := l.Dial()
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write([]byte{bulk}); err != nil {
		conn.Close()
		return nil, fmt.Errorf("beginning a bulk stream: %w", err)
	}
	c := &bulkClient{conn: conn, acks: make(chan error, 1)}
	go c.listen()
	return c, nil
}

func (c *bulkClient) listen() {
	var b [8]byte
	for {
		if _, err := io.ReadFull(c.conn, b[:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			c.acks <- err
			return
		}
		c.last++
		if got := binary.BigEndian.Uint64(b[:]); got != c.last {
			c.acks <- fmt.Errorf("block %d was acknowledged as %d", c.last, got)
			return
		}
	}
}

func (c *bulkClient) step() error {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("setting a deadline: %w", err)
	}
	for b := block; len(b) > 0; {
		n := min(len(b), 256<<10)
		if _, err := c.conn.Write(b[:n]); err != nil {
			_ = c.conn.Close()
			return errors.Join(fmt.Errorf("sending block %d: %w", c.sent, err), <-c.acks)
		}
		b = b[n:]
	}
	c.sent++
	return nil
}

func (c *bulkClient) finish() error {
	defer c.conn.Close()
	if err := c.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("ending a bulk stream: %w", err)
	}
	if err := c.conn.CloseWrite(); err != nil {
		return err
	}
	if err := <-c.acks; err != nil {
		return fmt.Errorf("waiting for the end of a bulk stream: %w", err)
	}
	if c.last != c.sent {
		return fmt.Errorf("%d blocks were acknowledged of %d", c.last, c.sent)
	}
	return nil
}

// pingClient exchanges one message per step. Each carries its number, so that
// an old echo does not pass for a new one.
type pingClient struct {
	conn      *Conn
	n         uint64
	msg, echo []byte
}

func newPing(l *Load, size int) (*pingClient, error) {
	conn, err := l.Dial()
	if err != nil {
		return nil, err
	}
	c := &pingClient{conn: conn, msg: make([]byte, size), echo: make([]byte, size)}
	_, _ = rand.NewChaCha8([32]byte{}).Read(c.msg) // it cannot fail
	c.msg[0] = 'e'
	return c, nil
}

func (c *pingClient) step() error {
	c.n++
	binary.BigEndian.PutUint64(c.msg[1:], c.n)
	err := exchange(c.conn, c.msg, c.echo)
	if err != nil {
		c.conn.Close()
	}
	return err
}

func (c *pingClient) finish() error { return c.conn.Close() }

// connector makes one connection per step.
type connector struct{ l *Load }

func (c *connector) step() error {
	conn, err := greeted(c.l)
	if err != nil {
		return err
	}
	return conn.Close()
}

func (c *connector) finish() error { return nil }

// greeted opens a connection and exchanges one byte.
func greeted(l *Load) (*Conn, error) {
	conn, err := l.Dial()
	if err != nil {
		return nil, err
	}
	if err := Exchange(conn); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// Exchange sends one byte and waits for its echo.
func Exchange(conn *Conn) error { return exchange(conn, []byte{'e'}, make([]byte, 1)) }

// exchange sends msg and reads its echo into the memory of that name.
func exchange(conn *Conn, msg, echo []byte) error {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("setting a deadline: %w", err)
	}
	if _, err := conn.Write(msg); err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	if _, err := io.ReadFull(conn, echo); err != nil {
		return fmt.Errorf("reading the echo: %w", err)
	}
	if !bytes.Equal(msg, echo) {
		return errors.New("the echo differs from what was sent")
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
