package waypoint

import (
	"cairnproxy.dev/cairn/tunnel/h1"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// maxDiscard is how many bytes of a response that nobody wants are read so that
// the connection can be used again.
const maxDiscard = 64 << 10

// discard implements discarder. It is called by the connection's reader, from parse:
// from then on the reader alone has the connection, until the response is over.
func (c *h1Client) discard(t *loop.Turn) {
	if c.closing || c.f.Length > maxDiscard {
		c.abort(t)
		return
	}
	c.left = maxDiscard
	c.mu.Lock()
	defer c.mu.Unlock()
	c.x = nil
	c.d.p.timers.start(&c.connectTimer, 0, t.Now, lingerTimeout, c.discardTimedOut)
}

// skip reads on in a response that nobody wants.
func (c *h1Client) skip(t *loop.Turn, b []byte, end bool) {
	for len(b) > 0 {
		data, n, done, err := c.body.Next(b)
		c.credit(t, n)
		b = b[n:]
		c.left -= len(data)
		switch {
		case done && err == nil:
			c.skipped(t, len(b) == 0 && !end)
			return
		case err != nil || c.left <= 0:
			c.skipped(t, false)
			return
		}
	}
	if end {
		c.skipped(t, false)
	}
}

// skipped ends what discard began: the connection waits for the next exchange, or ends.
func (c *h1Client) skipped(t *loop.Turn, reuse bool) {
	c.left = 0
	reuse = !c.used() && reuse && !c.out.Congested()
	c.mu.Lock()
	c.connectTimer.stop()
	dead := c.dead
	c.dead = c.dead || !reuse
	c.mu.Unlock()
	switch {
	case dead:
	case !reuse:
		c.out.Reset(t, h2.Cancel)
		c.gone(t)
	default:
		c.in, c.arena, c.f = shrink(c.in), shrink(c.arena), h1.Framing{}
		c.d.park(t, c)
	}
}

// discardTimedOut gives up a response that takes too long to come to its end.
func (c *h1Client) discardTimedOut(t *loop.Turn) {
	c.mu.Lock()
	late := c.connectTimer.expired() && !c.dead
	c.dead = c.dead || late
	c.mu.Unlock()
	if late {
		c.out.Reset(t, h2.Cancel)
		c.gone(t)
	}
}
