package waypoint

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// streamConn is a CONNECT stream as a net.Conn, for clients of other libraries that the
// waypoint runs itself: gRPC to a rate limit service. It is not for what
// passes through the waypoint.
//
// The stream's reader puts what comes into in, bounded by the stream's window: credit goes back when it is
// read. Write waits while the stream is congested.
type streamConn struct {
	remote   netip.AddrPort
	answer   chan error // of the dial: one, nil for a stream that was accepted
	accepted bool       // by the connection's reader

	mu            sync.Mutex
	changed       sync.Cond
	out           pipe
	in            []byte
	eof           bool
	err           error // the stream was reset
	closed        bool
	blocked       bool // a writer waits for Writable
	rdead, wdead  time.Time
	rtimer, wtime *time.Timer
}

func newStreamConn(remote netip.AddrPort) *streamConn {
	c := &streamConn{remote: remote, answer: make(chan error, 1)}
	c.changed.L = &c.mu
	return c
}

// Data implements h2.StreamHandler.
func (c *streamConn) Data(t *loop.Turn, _ *h2.Stream, b []byte, end bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.in = append(c.in, b...)
	}
	c.eof = c.eof || end
	c.changed.Broadcast()
}

// Reset implements h2.StreamHandler.
func (c *streamConn) Reset(_ *loop.Turn, _ *h2.Stream, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	c.changed.Broadcast()
	c.tell(err)
}

// Writable implements h2.StreamHandler.
func (c *streamConn) Writable(*loop.Turn, *h2.Stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.blocked = false
	c.changed.Broadcast()
}

// Read implements net.Conn.
func (c *streamConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	for len(c.in) == 0 && len(b) > 0 {
		if err := c.readError(); err != nil {
			c.mu.Unlock()
			return 0, err
		}
		c.changed.Wait()
	}
	n := copy(b, c.in)
	c.in = c.in[n:]
	if len(c.in) == 0 {
		c.in = nil
	}
	out := c.out
	c.mu.Unlock()
	if n > 0 {
		loop.Run(func(t *loop.Turn) { out.Consumed(t, n) })
	}
	return n, nil
}

func (c *streamConn) readError() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.eof:
		return io.EOF
	case c.err != nil:
		return c.err
	case expired(c.rdead):
		return os.ErrDeadlineExceeded
	}
	return nil
}

func expired(at time.Time) bool { return !at.IsZero() && !time.Now().Before(at) }

// Write implements net.Conn.
func (c *streamConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	for {
		err := c.err
		switch {
		case c.closed:
			err = net.ErrClosed
		case expired(c.wdead):
			err = os.ErrDeadlineExceeded
		}
		if err != nil {
			c.mu.Unlock()
			return 0, err
		}
		if !c.blocked && !c.out.Congested() {
			break
		}
		c.blocked = true
		c.changed.Wait()
	}
	out := c.out
	c.mu.Unlock()
	loop.Run(func(t *loop.Turn) { out.Write(t, b, false) })
	return len(b), nil
}

// Close implements net.Conn. It resets the stream: gRPC has said its goodbye before.
func (c *streamConn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed, c.in = true, nil
	for _, t := range []*time.Timer{c.rtimer, c.wtime} {
		if t != nil {
			t.Stop()
		}
	}
	out := c.out
	c.changed.Broadcast()
	c.mu.Unlock()
	if out != nil {
		loop.Run(func(t *loop.Turn) { out.Reset(t, h2.Cancel) })
	}
	return nil
}

// SetDeadline implements net.Conn.
func (c *streamConn) SetDeadline(at time.Time) error {
	_ = c.SetReadDeadline(at)
	return c.SetWriteDeadline(at)
}

// SetReadDeadline implements net.Conn.
func (c *streamConn) SetReadDeadline(at time.Time) error { return c.deadline(&c.rdead, &c.rtimer, at) }

// SetWriteDeadline implements net.Conn.
func (c *streamConn) SetWriteDeadline(at time.Time) error { return c.deadline(&c.wdead, &c.wtime, at) }

// deadline wakes those who wait when the time has come.
func (c *streamConn) deadline(dead *time.Time, timer **time.Timer, at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	*dead = at
	if *timer != nil {
		(*timer).Stop()
		*timer = nil
	}
	if !at.IsZero() && !c.closed {
		*timer = time.AfterFunc(time.Until(at), func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.changed.Broadcast()
		})
	}
	c.changed.Broadcast()
	return nil
}

// LocalAddr implements net.Conn; a stream has none of its own.
func (c *streamConn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(netip.AddrPort{}) }

// RemoteAddr implements net.Conn: the endpoint's address.
func (c *streamConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }
