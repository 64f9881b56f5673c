package waypoint

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"cairnproxy.dev/cairn/tunnel"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// streamConn is a CONNECT stream as a net.Conn, for what is not on the path of
// requests: health checks. What comes waits here, within the stream's window, until it is read.
type streamConn struct {
	mu      sync.Mutex
	change  sync.Cond // on mu: any of the following
	st      *h2.Stream
	ready   bool // CONNECT was answered with 200
	buf     []byte
	end     bool
	err     error
	closed  bool
	expired bool // the read deadline
	timer   *time.Timer
}

// dialStream opens a CONNECT stream and waits for its answer.
func dialStream(ctx context.Context, pe peer, authority string) (net.Conn, error) {
	c := &streamConn{}
	c.change.L = &c.mu
	loop.Run(func(t *loop.Turn) {
		req := tunnel.Request{Authority: authority}
		if st := pe.TryOpen(t, req, c); st != nil {
			c.Opened(t, st, nil)
		} else {
			pe.Open(t, req, c)
		}
	})
	defer context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })()
	c.mu.Lock()
	for !c.ready && c.err == nil {
		c.change.Wait()
	}
	err := c.err
	c.mu.Unlock()
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// fail ends the connection with an error, the first one counts.
func (c *streamConn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	c.change.Broadcast()
}

// Opened implements tunnel.Opener.
func (c *streamConn) Opened(t *loop.Turn, st *h2.Stream, err error) {
	if err != nil {
		c.fail(err)
		return
	}
	c.mu.Lock()
	c.st = st
	closed := c.closed
	c.mu.Unlock()
	if closed {
		st.Reset(t, h2.Cancel)
	}
}

// Headers implements h2.StreamHandler.
func (c *streamConn) Headers(t *loop.Turn, st *h2.Stream, h *h2.Head) {
	status := tunnel.Status(h)
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.change.Broadcast()
	c.st = st // the answer may come before Opened
	switch {
	case c.ready || status/100 == 1:
	case status == 200:
		c.ready = true
	case c.err == nil:
		c.err = &tunnel.StatusError{Code: status}
	}
	c.end = c.end || h.End
}

// Data implements h2.StreamHandler.
func (c *streamConn) Data(t *loop.Turn, st *h2.Stream, b []byte, end bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.buf = append(c.buf, b...)
	}
	c.end = c.end || end
	c.change.Broadcast()
}

// Reset implements h2.StreamHandler.
func (c *streamConn) Reset(_ *loop.Turn, _ *h2.Stream, err error) { c.fail(err) }

// Writable implements h2.StreamHandler.
func (c *streamConn) Writable(*loop.Turn, *h2.Stream) { c.change.Broadcast() }

// Read implements net.Conn.
func (c *streamConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	for len(c.buf) == 0 && !c.end && c.err == nil && !c.closed && !c.expired {
		c.change.Wait()
	}
	n := copy(b, c.buf)
	c.buf = c.buf[n:]
	st, end, err, closed, expired := c.st, c.end, c.err, c.closed, c.expired
	c.mu.Unlock()
	switch {
	case n > 0:
		loop.Run(func(t *loop.Turn) { st.Consumed(t, n) })
		return n, nil
	case closed:
		return 0, net.ErrClosed
	case err != nil:
		return 0, err
	case end:
		return 0, io.EOF
	case expired:
		return 0, os.ErrDeadlineExceeded
	}
	return 0, nil
}

// Write implements net.Conn. It does not wait for the peer: checks send little.
func (c *streamConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	st, err := c.st, c.err
	if c.closed {
		err = net.ErrClosed
	}
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	loop.Run(func(t *loop.Turn) { st.Write(t, b, false) })
	return len(b), nil
}

// Close implements net.Conn: it resets the stream.
func (c *streamConn) Close() error {
	c.mu.Lock()
	st, was := c.st, c.closed
	c.closed, c.buf = true, nil
	if c.timer != nil {
		c.timer.Stop()
	}
	c.change.Broadcast()
	c.mu.Unlock()
	if st != nil && !was {
		loop.Run(func(t *loop.Turn) { st.Reset(t, h2.Cancel) })
	}
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *streamConn) SetReadDeadline(at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.expired = false
	if !at.IsZero() {
		c.timer = time.AfterFunc(time.Until(at), func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.expired = true
			c.change.Broadcast()
		})
	}
	return nil
}

// SetWriteDeadline implements net.Conn; a Write does not wait.
func (c *streamConn) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline implements net.Conn.
func (c *streamConn) SetDeadline(at time.Time) error { return c.SetReadDeadline(at) }

// streamAddr is what a stream has for an address.
type streamAddr struct{}

func (streamAddr) Network() string { return "hbone" }
func (streamAddr) String() string  { return "stream" }

// LocalAddr implements net.Conn.
func (c *streamConn) LocalAddr() net.Addr { return streamAddr{} }

// RemoteAddr implements net.Conn.
func (c *streamConn) RemoteAddr() net.Addr { return streamAddr{} }
