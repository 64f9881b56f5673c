package waypoint

import (
	"io"

	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// pipe is one byte stream, to a client or to an endpoint: a CONNECT stream, or
// a plain TCP connection. *h2.Stream is one.
type pipe interface {
	Write(t *loop.Turn, b []byte, end bool)
	Write2(t *loop.Turn, a, b []byte, end bool)
	// Congested reports whether the producer should stop; if so, the
	// handler's Writable follows.
	Congested() bool
	// Consumed returns credit for received bytes.
	Consumed(t *loop.Turn, n int)
	Reset(t *loop.Turn, code h2.ErrCode)
}

// plainPipe is a pipe over a TCP connection of its own, for endpoints outside
// the mesh. Its events go to an h2.StreamHandler with a nil stream.
type plainPipe struct {
	sock *loop.Socket
	h    h2.StreamHandler
	dead bool // reader only
}

// serve is the connection's reader.
func (p *plainPipe) serve() { _ = p.sock.Serve(p, true); p.sock.WaitFlushed(); p.sock.Close() }

// Data implements loop.Handler.
func (p *plainPipe) Data(t *loop.Turn, b []byte) (int, error) {
	p.h.Data(t, nil, b, false)
	return len(b), nil
}

// Closed implements loop.Handler.
func (p *plainPipe) Closed(t *loop.Turn, err error) {
	if err == io.EOF {
		p.h.Data(t, nil, nil, true)
		return
	}
	p.h.Reset(t, nil, err)
}

// Drained implements loop.Handler.
func (p *plainPipe) Drained(t *loop.Turn) { p.h.Writable(t, nil) }

func (p *plainPipe) Write(t *loop.Turn, b []byte, end bool) {
	p.sock.Write(t, b)
	if end {
		p.sock.CloseWrite(t)
	}
}

func (p *plainPipe) Write2(t *loop.Turn, a, b []byte, end bool) {
	p.sock.Write(t, a)
	p.Write(t, b, end)
}

func (p *plainPipe) Congested() bool {
	q := p.sock.Queue()
	q.Lock()
	defer q.Unlock()
	if q.Size() < loop.LowWater {
		return false
	}
	q.WantDrained = true
	return true
}

// Consumed does nothing: the kernel's receive buffer is bounded, and the
// reader takes only what the other side's congestion lets it (see exchange).
func (p *plainPipe) Consumed(*loop.Turn, int) {}

func (p *plainPipe) Reset(*loop.Turn, h2.ErrCode) { p.sock.Reset() }

// innerConn carries an HTTP/2 connection inside a pipe.
type innerConn struct {
	q    loop.Queue
	out  pipe
	conn *h2.Conn
	rest []byte // an incomplete frame; touched by the pipe's reader only
	dead bool   // reader only
}

// Queue implements h2.Carrier.
func (c *innerConn) Queue() *loop.Queue { return &c.q }

// Abort implements h2.Carrier.
func (c *innerConn) Abort() { loop.Run(func(t *loop.Turn) { c.out.Reset(t, h2.Cancel) }) }

// Flush implements loop.Flusher: it moves what is queued into the pipe while
// that takes it. The lock is held throughout, so that frames stay in order.
func (c *innerConn) Flush(t *loop.Turn) {
	c.q.Lock()
	c.q.Flushed()
	for c.q.Size() > 0 && !c.out.Congested() {
		b := c.q.Take()
		c.out.Write(t, b, false)
		c.q.Release(b)
	}
	if c.q.Size() == 0 && c.q.Ended() {
		c.out.Write(t, nil, true)
	}
	drained := c.q.WantDrained && c.q.Size() <= loop.LowWater
	if drained {
		c.q.WantDrained = false
	}
	c.q.Unlock()
	if drained {
		c.conn.Drained(t)
	}
}

// feed gives received bytes to the connection. It reports false once the
// connection is over.
func (c *innerConn) feed(t *loop.Turn, b []byte, end bool) bool {
	if c.dead {
		return false
	}
	n := len(b)
	if len(c.rest) > 0 {
		c.rest = append(c.rest, b...)
		b = c.rest
	}
	used, err := c.conn.Data(t, b)
	if used < len(b) {
		if len(c.rest) > 0 {
			c.rest = c.rest[:copy(c.rest, b[used:])]
		} else {
			c.rest = append(c.rest, b[used:]...)
		}
	} else {
		c.rest = nil
	}
	// The inner connection has windows of its own: the carrier's credit goes
	// back at once.
	c.out.Consumed(t, n)
	if err == nil && end {
		err = io.EOF
	}
	if err != nil {
		c.close(t, err)
		return false
	}
	return true
}

// close ends the connection's streams and, after what is queued, its output.
func (c *innerConn) close(t *loop.Turn, err error) {
	if c.dead {
		return
	}
	c.dead = true
	c.rest = nil
	c.conn.Closed(t, err)
	c.q.Lock()
	c.q.End(t)
	c.q.Unlock()
}

// writable goes on flushing after congestion.
func (c *innerConn) writable(t *loop.Turn) {
	c.q.Lock()
	c.q.Mark(t)
	c.q.Unlock()
}
