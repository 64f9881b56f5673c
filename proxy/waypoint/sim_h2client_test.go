package waypoint

import (
	"fmt"
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel"
	"cairnproxy.dev/cairn/tunnel/h1"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// h2Cli is a client of HTTP/2 in a tunnel.
type h2Cli struct {
	s    *sim
	w    *wire
	to   string
	todo []*call
	most int

	st      *h2.Stream
	inner   *innerConn
	live    int
	faultIn int
	over    bool
}

func (c *h2Cli) ready() bool {
	switch {
	case c.over:
		return false
	case c.st == nil:
		return (!c.s.breaks || !c.w.closed) && !c.s.ending
	case c.inner == nil:
		return false
	case len(c.todo) > 0 && !c.s.ending:
		ok, _ := c.inner.conn.CanOpen(c.most)
		return ok || !c.inner.conn.Usable() && c.live == 0
	}
	return len(c.todo) == 0 && c.live == 0
}

func (c *h2Cli) act(t *loop.Turn) {
	s := c.s
	if c.st == nil {
		if s.breaks && s.chance(12) {
			c.faultIn = 1 + s.rng.IntN(6)
		}
		c.w = s.connection(c.w)
		if c.st = c.w.connect(t, c.to, c); c.st == nil {
			c.gone("no tunnel")
		}
		return
	}
	if c.faultIn > 0 {
		if c.faultIn--; c.faultIn == 0 {
			s.logf("client resets its tunnel")
			c.st.Reset(t, h2.Cancel)
			c.inner.close(t, loop.ErrAborted)
			return
		}
	}
	if !c.inner.conn.Usable() {
		c.again()
		return
	}
	if len(c.todo) == 0 {
		c.over = true
		c.st.Write(t, nil, true)
		return
	}
	x := c.todo[0]
	c.todo = c.todo[1:]
	r := &h2CliCall{c: c, x: x, lazy: s.chance(20)}
	x.start(s)
	f := []hpack.HeaderField{{Name: ":method", Value: x.method}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "web"}, {Name: ":path", Value: x.path()}, {Name: "x-request-id", Value: fmt.Sprint("call-", x.id)}}
	for i := range x.fields {
		f = append(f, hpack.HeaderField{Name: "x-f" + strconv.Itoa(i), Value: fmt.Sprint("v", x.id)})
	}
	if x.pad > 0 {
		f = append(f, hpack.HeaderField{Name: "x-pad", Value: strings.Repeat("p", x.pad)})
	}
	if x.declared {
		f = append(f, hpack.HeaderField{Name: "content-length", Value: strconv.Itoa(x.reqLen + x.lie)})
	}
	if x.grpc {
		f = append(f, hpack.HeaderField{Name: "content-type", Value: "application/grpc"}, hpack.HeaderField{Name: "te", Value: "trailers"})
	}
	if x.expect {
		f = append(f, hpack.HeaderField{Name: "expect", Value: "100-continue"})
	}
	r.ended = x.reqLen == 0 && !x.trailer
	if r.st = c.inner.conn.Open(t, r, f, r.ended); r.st == nil {
		s.broke(x, "no stream")
		return
	}
	if s.breaks && s.chance(8) {
		r.faultIn = 1 + s.rng.IntN(10)
	}
	c.live++
	s.actors = append(s.actors, r)
}

func (c *h2Cli) gone(why string) {
	c.over = true
	for _, x := range c.todo {
		c.s.broke(x, why)
	}
	c.todo = nil
}

func (c *h2Cli) Headers(t *loop.Turn, st *h2.Stream, h *h2.Head) {
	if c.inner == nil {
		if status := tunnel.Status(h); status != 200 {
			c.gone("refused")
			return
		}
		c.inner = &innerConn{out: st}
		c.inner.q.Init(c.inner)
		c.inner.conn = h2.New(t, c.inner, c, h2.Options{Client: true, Window: c.s.window, MaxWindow: c.s.window})
	}
	if h.End {
		c.Data(t, st, nil, true)
	}
}

func (c *h2Cli) Data(t *loop.Turn, _ *h2.Stream, b []byte, end bool) { c.inner.feed(t, b, end) }
func (c *h2Cli) Reset(t *loop.Turn, _ *h2.Stream, err error) {
	if c.inner != nil {
		c.inner.close(t, err)
	} else {
		c.gone("tunnel reset")
	}
}

func (c *h2Cli) Writable(t *loop.Turn, _ *h2.Stream) {
	if c.inner != nil {
		c.inner.writable(t)
	}
}
func (c *h2Cli) Open(t *loop.Turn, s *h2.Stream, _ *h2.Head) { s.Reset(t, h2.ProtocolError) }
func (c *h2Cli) Closed(*loop.Turn, error)                    { c.again() }

// again goes on in another tunnel with what was not begun.
func (c *h2Cli) again() {
	c.over = true
	if len(c.todo) > 0 {
		c.s.actors = append(c.s.actors, &h2Cli{s: c.s, w: c.w, to: c.to, todo: c.todo, most: c.most})
		c.todo = nil
	}
}

// h2CliCall is one request of an h2Cli.
type h2CliCall struct {
	c       *h2Cli
	x       *call
	st      *h2.Stream
	sent    int
	ended   bool // we have sent all
	owed    int
	over    bool
	faultIn int
	lazy    bool // it takes its time to read
}

func (r *h2CliCall) isLazy() bool { return r.lazy }

func (r *h2CliCall) ready() bool {
	return !r.over && (r.owed > 0 || !r.ended && !r.st.Congested() || r.c.s.mayBreak(r.faultIn))
}

func (r *h2CliCall) act(t *loop.Turn) {
	s, x := r.c.s, r.x
	if r.faultIn > 0 {
		if r.faultIn--; r.faultIn == 0 {
			s.logf("client resets call %d", x.id)
			r.st.Reset(t, h2.Cancel)
			r.stop("client reset")
			return
		}
	}
	if r.owed > 0 && (r.ended || s.chance(30)) {
		n := s.piece(r.owed)
		r.owed -= n
		r.st.Consumed(t, n)
		return
	}
	if r.ended {
		return
	}
	n := s.piece(x.reqLen - r.sent)
	b := appendPattern(nil, -x.id, r.sent, n)
	r.sent += n
	last := r.sent == x.reqLen
	r.st.Write(t, b, last && !x.trailer)
	if last && x.trailer {
		r.st.WriteTrailers(t, []hpack.HeaderField{{Name: "x-sum", Value: fmt.Sprint("sum-", x.id)}})
	}
	r.ended = last
}

func (r *h2CliCall) stop(why string) {
	if !r.over {
		r.over = true
		r.c.live--
		r.c.s.broke(r.x, why)
	}
}

func (r *h2CliCall) Headers(t *loop.Turn, st *h2.Stream, h *h2.Head) {
	if h.Trailer {
		tr, err := trailersFromH2(h, nil)
		if err != nil {
			r.c.s.fail("call %d: trailers: %v", r.x.id, err)
		}
		r.finish(tr)
		return
	}
	var resp mesh.Response
	var f h1.Framing
	if err := responseFromH2(h, r.x.method, &resp, &f); err != nil {
		r.c.s.fail("call %d: response head: %v", r.x.id, err)
		return
	}
	if resp.Status == 103 {
		r.x.hints++
	}
	if resp.Status < 200 {
		return
	}
	r.c.s.judge(r.x, &resp)
	if h.End {
		r.finish(nil)
	}
}

func (r *h2CliCall) finish(tr mesh.Fields) {
	if r.over {
		return
	}
	r.c.s.finished(r.x, tr)
	r.over = true
	r.c.live--
}

func (r *h2CliCall) Data(_ *loop.Turn, _ *h2.Stream, b []byte, end bool) {
	r.owed += len(b)
	r.c.s.took(r.x, b)
	if end {
		r.finish(nil)
	}
}

func (r *h2CliCall) Reset(_ *loop.Turn, _ *h2.Stream, err error) { r.stop(err.Error()) }
func (r *h2CliCall) Writable(*loop.Turn, *h2.Stream)             {}

// tcpStart is the first byte of what is not HTTP.
const tcpStart = 'x'

// tcpCli sends bytes through a tunnel to a workload that echoes them.
type tcpCli struct {
	s       *sim
	w       *wire
	to      string
	n       int // bytes to send
	st      *h2.Stream
	sent    int
	got     int
	owed    int
	open    bool
	ended   bool
	over    bool
	faultIn int
}

func (c *tcpCli) ready() bool {
	return !c.over && (c.st == nil || c.open && (c.owed > 0 || !c.ended && !c.st.Congested() || c.s.mayBreak(c.faultIn)))
}

func (c *tcpCli) act(t *loop.Turn) {
	s := c.s
	if c.st == nil {
		c.w = s.connection(c.w)
		if c.st = c.w.connect(t, c.to, c); c.st == nil {
			c.over = true
		}
		return
	}
	if c.faultIn > 0 {
		if c.faultIn--; c.faultIn == 0 {
			c.over = true
			c.st.Reset(t, h2.Cancel)
			return
		}
	}
	if c.owed > 0 && (c.ended || s.chance(30)) {
		n := s.piece(c.owed)
		c.owed -= n
		c.st.Consumed(t, n)
		return
	}
	if c.ended {
		return
	}
	n := s.piece(c.n - c.sent)
	c.st.Write(t, c.bytes(c.sent, n), c.sent+n == c.n)
	c.sent += n
	c.ended = c.sent == c.n
}

func (c *tcpCli) bytes(from, n int) []byte {
	b := appendPattern(nil, c.n, from, n)
	if from == 0 && n > 0 {
		b[0] = tcpStart
	}
	return b
}

func (c *tcpCli) Headers(t *loop.Turn, st *h2.Stream, h *h2.Head) {
	if !c.open {
		status := tunnel.Status(h)
		if c.open = status == 200; !c.open {
			c.end(fmt.Sprint("status ", status))
		}
	}
	if h.End {
		c.Data(t, st, nil, true)
	}
}

func (c *tcpCli) Data(_ *loop.Turn, _ *h2.Stream, b []byte, end bool) {
	if string(b) != string(c.bytes(c.got, len(b))) {
		c.s.fail("%d bytes from %d on came back as others", len(b), c.got)
	}
	c.got += len(b)
	c.owed += len(b)
	if end {
		c.end("end")
	}
}

func (c *tcpCli) end(why string) {
	if c.over = true; c.got != c.n && !c.s.breaks {
		c.s.fail("%d of %d bytes came back: %s", c.got, c.n, why)
	}
}

func (c *tcpCli) Reset(_ *loop.Turn, _ *h2.Stream, err error) { c.end(err.Error()) }
func (c *tcpCli) Writable(*loop.Turn, *h2.Stream)             {}
