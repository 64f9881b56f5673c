package waypoint

import (
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h1"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// sendHead implements endpointSide.
func (c *h1Client) sendHead(t *loop.Turn, x *exchange, body []byte, end bool) {
	c.gotHead, c.gotBytes, c.closing, c.scanned = false, false, false, 0
	if x.req.Proto == 2 && x.webSocket() {
		x.askForWebSocket()
	}
	f := x.reqF
	f.Close, f.Expect100 = false, x.reqF.Expect100 && !end
	if f.Length == h1.Chunked && end && len(body) == 0 {
		f.Length = 0
	}
	c.chunked = f.Length == h1.Chunked
	c.buf = h1.AppendRequest(c.buf[:0], &x.req, f)
	if c.chunked {
		c.buf = h1.AppendChunk(c.buf, body)
		if end {
			c.buf = h1.AppendLastChunk(c.buf, nil)
		}
		body = nil
	}
	c.out.Write2(t, c.buf, body, false)
	c.trim()
}

// sendData implements endpointSide.
func (c *h1Client) sendData(t *loop.Turn, b []byte, end bool) {
	if c.raw {
		c.out.Write(t, b, end)
		return
	}
	if c.chunked {
		c.buf = h1.AppendChunk(c.buf[:0], b)
		if end {
			c.buf = h1.AppendLastChunk(c.buf, nil)
		}
		b = c.buf
	}
	if len(b) > 0 {
		c.out.Write(t, b, false)
	}
	c.trim()
}

func (c *h1Client) trim() {
	if cap(c.buf) > 4<<10 {
		c.buf = nil
	}
}

// sendTrailers implements endpointSide.
func (c *h1Client) sendTrailers(t *loop.Turn, trailers mesh.Fields) {
	if c.chunked {
		c.buf = h1.AppendLastChunk(c.buf[:0], trailers)
		c.out.Write(t, c.buf, false)
	}
}

func (c *h1Client) credit(t *loop.Turn, n int) {
	if n > 0 {
		c.out.Consumed(t, n)
	}
}

func (c *h1Client) congested() bool { return c.out != nil && c.out.Congested() }

// release implements endpointSide: the connection waits for the next exchange.
func (c *h1Client) release(t *loop.Turn) {
	// A request that the endpoint answered and has not taken off our hands is
	// one that the next would wait behind.
	unread := c.out.Congested()
	last := c.used()
	c.mu.Lock()
	c.x = nil
	reuse := !c.dead && !c.closing && !c.raw && !unread && !last
	if !reuse {
		c.dead = true
	}
	c.mu.Unlock()
	if c.raw { // both halves have ended; what waits to be sent still is
		c.gone(t)
		return
	}
	if !reuse {
		c.out.Reset(t, h2.NoError)
		c.gone(t)
		return
	}
	c.in, c.arena, c.f = shrink(c.in), shrink(c.arena), h1.Framing{}
	c.d.park(t, c)
}

// abort implements endpointSide.
func (c *h1Client) abort(t *loop.Turn) {
	c.connectTimer.stop()
	c.mu.Lock()
	c.x = nil
	dead := c.dead
	c.dead = true
	c.mu.Unlock()
	if !dead && c.out != nil {
		c.out.Reset(t, h2.Cancel)
	}
	c.gone(t)
}
