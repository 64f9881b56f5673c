package waypoint

import (
	"io"
	"sync"
	"time"

	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// innerConn carries an HTTP/2 connection inside a pipe.
type innerConn struct {
	out  pipe
	conn *h2.Conn

	q    loop.Queue
	owed int // guarded by q: received bytes that the pipe was not credited for

	// mu is held while the connection is fed or closed: the pipe's reader does
	// both, and abandon closes.
	mu   sync.Mutex
	rest []byte // an incomplete frame
	dead bool
}

// The inner connections leave it to the outer ones to find out that a peer is
// gone. They do bound how long a frame may take to arrive.
const (
	innerKeepalive = 100 * 365 * 24 * time.Hour
	innerTimeout   = time.Minute
)

// Queue implements h2.Carrier.
func (c *innerConn) Queue() *loop.Queue { return &c.q }

// Abort implements h2.Carrier. Its caller may hold locks.
func (c *innerConn) Abort() { go c.abandon() }

func (c *innerConn) abandon() {
	loop.Run(func(t *loop.Turn) {
		c.out.Reset(t, h2.Cancel)
		c.close(t, loop.ErrAborted)
	})
}

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
	c.credit(t)
	c.q.Unlock()
	if drained {
		c.conn.Drained(t)
	}
}

// credit returns the pipe's window: the streams have windows of their own. Only
// a peer that does not read what we have to say gets none, because headers and
// answers to its frames have no windows. q is held.
func (c *innerConn) credit(t *loop.Turn) {
	if c.owed > 0 && c.q.Size() < loop.HighWater {
		n := c.owed
		c.owed = 0
		c.out.Consumed(t, n)
	}
}

// feed gives received bytes to the connection.
func (c *innerConn) feed(t *loop.Turn, b []byte, end bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		c.out.Consumed(t, len(b)) // discarded: see h2Server.Closed
		return
	}
	n := len(b)
	if len(c.rest) > 0 {
		c.rest = append(c.rest, b...)
		b = c.rest
	}
	used, err := c.conn.Data(t, b)
	switch {
	case used == len(b):
		c.rest = nil
	case len(c.rest) > 0:
		c.rest = c.rest[:copy(c.rest, b[used:])]
	default:
		c.rest = append(c.rest, b[used:]...)
	}
	c.q.Lock()
	c.owed += n
	c.credit(t)
	c.q.Unlock()
	if err == nil && end {
		err = io.EOF
	}
	if err != nil {
		c.closeLocked(t, err)
	}
}

// close ends the connection's streams and, after what is queued, its output.
func (c *innerConn) close(t *loop.Turn, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeLocked(t, err)
}

func (c *innerConn) closeLocked(t *loop.Turn, err error) {
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
