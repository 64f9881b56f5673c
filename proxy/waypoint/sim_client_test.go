package waypoint

import (
	"fmt"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel"
	"cairnproxy.dev/cairn/tunnel/h1"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// h1Cli is a client of HTTP/1.1 in one tunnel after another.
type h1Cli struct {
	s     *sim
	w     *wire
	to    string
	todo  []*call
	depth int // requests that may be under way

	st       *h2.Stream
	accepted bool
	flight   []*call
	out      []byte
	held     []byte // content that waits for 100 (Continue)
	ended    bool   // we ended our half
	owed     int
	faultIn  int // steps until this client misbehaves; 0: never

	in      []byte
	gotHead bool
	raw     bool
	eager   bool // what follows the upgrade was sent without waiting for it
	lazy    bool // it takes its time to read
	f       h1.Framing
	body    h1.Body
}

func (c *h1Cli) ready() bool {
	if c.st == nil {
		return len(c.todo) > 0 && (!c.s.breaks || !c.w.closed) && !c.s.ending
	}
	return c.accepted && (c.owed > 0 || len(c.out) > 0 && !c.st.Congested() || c.mayStart() || c.mayEnd() || c.s.mayBreak(c.faultIn) || c.losesPatience() && c.s.chance(10))
}

// losesPatience reports whether the client waits for what never comes, and may
// give up by ending its half.
func (c *h1Cli) losesPatience() bool {
	return c.s.breaks && !c.s.ending && !c.ended && len(c.flight) > 0 && c.flight[0].fault == faultHang && c.flight[0].seen > 0
}

// endEarly ends the client's half though it waits for responses.
func (c *h1Cli) endEarly(t *loop.Turn) {
	c.s.logf("client ends its tunnel early")
	c.out, c.held, c.ended = nil, nil, true
	for _, x := range c.flight {
		x.halfEnd = !x.upgrade
	}
	c.st.Write(t, nil, true)
}

func (c *h1Cli) isLazy() bool { return c.lazy }

func (c *h1Cli) mayStart() bool {
	if len(c.todo) == 0 || len(c.flight) >= c.depth || c.held != nil || c.ended || c.s.ending {
		return false
	}
	for _, x := range c.flight {
		if x.final || x.http10 || x.upgrade || x.early || x.fault != noFault || x.expect || x.want != 0 || x.bad {
			return false
		}
	}
	return len(c.flight) == 0 || !c.todo[0].upgrade
}

func (c *h1Cli) mayEnd() bool {
	if c.ended || len(c.out) > 0 || c.held != nil {
		return false
	}
	if c.raw {
		return true
	}
	return len(c.todo) == 0 && len(c.flight) == 0
}

func (c *h1Cli) act(t *loop.Turn) {
	s := c.s
	if c.st == nil {
		*c = h1Cli{s: s, w: c.w, to: c.to, todo: c.todo, depth: c.depth, lazy: s.chance(20)}
		if s.breaks && s.chance(12) {
			c.faultIn = 1 + s.rng.IntN(30)
		}
		c.w = s.connection(c.w)
		if c.st = c.w.connect(t, c.to, c); c.st == nil {
			for _, x := range c.todo {
				s.broke(x, "no tunnel")
			}
			c.todo = nil
		}
		return
	}
	if c.faultIn > 0 {
		if c.faultIn--; c.faultIn == 0 {
			if s.chance(60) {
				s.logf("client resets its tunnel")
				c.st.Reset(t, h2.Cancel)
				c.over("client reset")
				return
			}
			c.endEarly(t)
			return
		}
	}
	if c.losesPatience() && s.chance(20) {
		c.endEarly(t)
		return
	}
	switch {
	case c.owed > 0 && (s.chance(30) || len(c.out) == 0 && !c.mayStart() && !c.mayEnd()):
		n := s.piece(c.owed)
		c.owed -= n
		c.st.Consumed(t, n)
	case len(c.out) > 0:
		if c.st.Congested() {
			return
		}
		n := s.piece(len(c.out))
		c.st.Write(t, c.out[:n], false)
		c.out = c.out[n:]
	case c.mayStart():
		x := c.todo[0]
		c.todo = c.todo[1:]
		c.flight = append(c.flight, x)
		x.start(s)
		c.out = x.request(c.out)
		if x.expect {
			c.held = x.content(nil, s.rng)
		} else {
			c.out = x.content(c.out, s.rng)
		}
		if c.eager = x.upgrade && s.chance(30); c.eager {
			c.out = appendPattern(c.out, x.id, x.hello, x.respLen-x.hello)
		}
	case c.mayEnd():
		c.ended = true
		c.st.Write(t, nil, true)
	}
}

func (c *h1Cli) Headers(t *loop.Turn, st *h2.Stream, h *h2.Head) {
	if st != c.st { // a tunnel of before
		return
	}
	if !c.accepted {
		if status := tunnel.Status(h); status != 200 {
			for _, x := range c.todo {
				c.s.broke(x, fmt.Sprint("CONNECT refused with ", status))
			}
			c.todo = nil
			c.over("refused")
			return
		}
		c.accepted = true
	}
	if h.End {
		c.Data(t, st, nil, true)
	}
}

func (c *h1Cli) Data(t *loop.Turn, st *h2.Stream, b []byte, end bool) {
	if st != c.st {
		st.Consumed(t, len(b))
		return
	}
	c.owed += len(b)
	c.in = append(c.in, b...)
	c.parse(t)
	if end && c.st != nil {
		if len(c.flight) > 0 && c.gotHead && (c.f.Length == h1.UntilClose || c.raw) {
			c.finish(t, nil)
		}
		if !c.ended {
			c.ended = true
			st.Write(t, nil, true)
		}
		c.over("the waypoint ended the tunnel")
	}
}

func (c *h1Cli) parse(t *loop.Turn) {
	for len(c.flight) > 0 && c.st != nil {
		x := c.flight[0]
		if !c.gotHead {
			n := h1.FindHeadEnd(c.in, 0)
			if n < 0 {
				return
			}
			head := append([]byte(nil), c.in[:n]...)
			c.in = c.in[n:]
			var resp mesh.Response
			if err := h1.ParseResponse(head, &h1.Limits{MaxHead: 1 << 20}, x.method, &resp, &c.f); err != nil {
				if x.sniffed && c.s.breaks { // it was late, and taken for something else
					c.over("garbage")
					return
				}
				c.s.fail("call %d: response head: %v: %q", x.id, err, head)
				return
			}
			if resp.Status == 100 && x.expect && c.held != nil {
				c.out = append(c.out, c.held...)
				c.held = nil
			}
			if resp.Status == 103 {
				x.hints++
			}
			if resp.Status < 200 && resp.Status != 101 {
				continue
			}
			late := x.sniffed && c.s.breaks // it may have been taken for something else
			if x.draining && !c.f.Close && resp.Status != 101 && !late {
				c.s.fail("call %d: a response of a waypoint that drains does not end the connection", x.id)
			}
			if x.expect {
				c.held = nil
			}
			c.s.judge(x, &resp)
			c.gotHead = true
			c.body.Reset(c.f, nil)
			if resp.Status == 101 {
				c.raw = true
				if !c.eager && !c.ended {
					c.out = appendPattern(nil, x.id, x.hello, x.respLen-x.hello)
				}
			}
		}
		if c.raw {
			c.s.took(x, c.in)
			c.in = nil
			return
		}
		for {
			data, n, done, err := c.body.Next(c.in)
			if err != nil {
				c.s.fail("call %d: response content: %v", x.id, err)
				return
			}
			c.s.took(x, data)
			c.in = c.in[n:]
			if done {
				c.finish(t, c.body.Trailers())
				break
			}
			if len(c.in) == 0 {
				return
			}
		}
	}
	if len(c.flight) == 0 && len(c.in) > 0 && c.st != nil && !c.eager {
		if !strings.HasPrefix(string(c.in), "HTTP/1.1 408") && len(c.in) > 12 {
			c.s.fail("bytes that belong to no request: %q", c.in[:min(len(c.in), 100)])
		}
	}
}

func (c *h1Cli) finish(t *loop.Turn, trailers mesh.Fields) {
	x := c.flight[0]
	c.flight = c.flight[1:]
	c.gotHead = false
	if c.raw && x.got != x.respLen && !c.s.breaks {
		c.s.fail("call %d echoed %d bytes, want %d", x.id, x.got, x.respLen)
	}
	c.s.finished(x, trailers)
	if c.f.Close || c.raw { // the rest goes on another tunnel
		if !c.ended {
			c.ended = true
			c.st.Write(t, nil, true)
		}
		c.over("connection: close")
	}
}

// over forgets the tunnel.
func (c *h1Cli) over(why string) {
	for _, x := range c.flight {
		c.s.broke(x, why)
	}
	c.flight = nil
	if c.st != nil && c.owed > 0 {
		st, n := c.st, c.owed
		c.s.do(func(t *loop.Turn) { st.Consumed(t, n) })
	}
	c.st = nil
}

func (c *h1Cli) Reset(_ *loop.Turn, st *h2.Stream, err error) {
	if c.st == st || c.st == nil {
		c.over("tunnel reset: " + err.Error())
	}
}

func (c *h1Cli) Writable(*loop.Turn, *h2.Stream) {}
