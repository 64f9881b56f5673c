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
	f       h1.Framing
	body    h1.Body
}

func (c *h1Cli) ready() bool {
	if c.st == nil {
		return len(c.todo) > 0 && !c.w.closed && !c.s.ending
	}
	return c.accepted && (c.owed > 0 || len(c.out) > 0 && !c.st.Congested() || c.mayStart() || c.mayEnd())
}

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
		*c = h1Cli{s: s, w: c.w, to: c.to, todo: c.todo, depth: c.depth}
		if s.breaks && s.chance(12) {
			c.faultIn = 1 + s.rng.IntN(30)
		}
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
			s.logf("client ends its tunnel early")
			c.out, c.held, c.ended = nil, nil, true
			c.st.Write(t, nil, true)
			return
		}
	}
	switch {
	case c.owed > 0 && s.chance(30) || c.owed > 0 && len(c.out) == 0 && !c.mayStart() && !c.mayEnd():
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
		x.sent = true
		s.logf("call %d starts: %s %d bytes", x.id, x.method, x.reqLen)
		c.out = x.request(c.out)
		if x.expect {
			c.held = x.content(nil, s.rng)
		} else {
			c.out = x.content(c.out, s.rng)
		}
		if c.eager = x.upgrade && s.chance(30); c.eager {
			c.out = appendPattern(c.out, x.id, 0, x.respLen)
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
			if resp.Status < 200 && resp.Status != 101 {
				continue
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
					c.out = appendPattern(nil, x.id, 0, x.respLen)
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
		return !c.w.closed && !c.s.ending
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
	r := &h2CliCall{c: c, x: x}
	x.sent = true
	s.logf("call %d starts: %s %d bytes", x.id, x.method, x.reqLen)
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
}

func (r *h2CliCall) ready() bool {
	return !r.over && (r.owed > 0 || !r.ended && !r.st.Congested())
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
	return !c.over && (c.st == nil || c.open && (c.owed > 0 || !c.ended && !c.st.Congested()))
}

func (c *tcpCli) act(t *loop.Turn) {
	s := c.s
	if c.st == nil {
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
