package waypoint

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h1"
)

// call is one request of a schedule: what is asked, what the workload does
// about it, and what became of it.
type call struct {
	id     int
	method string
	// The request.
	reqLen   int
	declared bool // its length
	trailer  bool
	expect   bool
	final    bool // the connection's last
	http10   bool
	upgrade  bool
	pad      int // bytes of a large field
	fields   int // and many small ones
	grpc     bool
	lie      int  // by how much the declared length is wrong; only over HTTP/2
	bad      bool // the content is malformed; only over HTTP/1.1
	want     int  // the status of the local reply that must come
	// The response.
	status   int
	respLen  int
	respMode int // of HTTP/1.1: 0 length, 1 chunks, 2 until close
	rtrailer bool
	interim  int
	rpad     int
	epClose  bool
	hello    int   // bytes after an upgrade that the workload sends unasked
	early    bool  // it does not wait for the request
	flaky    int   // tries that are answered with 503
	fault    fault // only in schedules that break things
	faultAt  int

	sniffed bool // the waypoint is not told that it is HTTP
	inner   bool // over HTTP/2, on either side

	// What became of it.
	sent     bool // its first byte
	seen     int  // times that a workload saw it
	tries    []*try
	conf     uint64 // the configuration in force when it was sent
	draining bool   // the waypoint was, then
	halfEnd  bool   // the client ended its half while it waited
	hints    int    // 103s that came back
	got      int    // bytes of the response's content
	head     bool
	busy     bool // it got a 503 of a workload
	local    int  // status of a local reply
	done     bool
	broken   bool
}

// fault is what a workload does wrong.
type fault uint8

const (
	noFault fault = iota
	faultReset
	faultEnd     // the stream ends early
	faultGarbage // bytes that are no response
	faultHang    // no answer
	faultRefuse  // REFUSED_STREAM
	faultExtra   // bytes behind the response
)

// try is one time that a workload saw a call.
type try struct {
	wire    *wire // the waypoint's end
	stream  uint32
	before  int64 // bytes that had come out of the stream
	reused  bool  // the connection had served another request
	refused bool  // with REFUSED_STREAM
	busy    bool  // with 503
}

// triedRightly reports whether all of a call's tries but one left room for
// another. The last one to come is not always the last that was sent.
func (c *call) triedRightly() bool {
	last := 0
	for _, y := range c.tries {
		if !c.mayRetry(y) {
			last++
		}
	}
	return last <= 1
}

func (c *call) story() (s string) {
	for _, y := range c.tries {
		s += fmt.Sprintf("[stream %d, reused %v, refused %v, answered %v] ", y.stream, y.reused, y.refused, y.answered())
	}
	return fmt.Sprintf("%s%+v", s, *c)
}

// answered reports whether the waypoint has got anything of a response.
func (y *try) answered() bool { return y.wire.ledger.data[y.stream] > y.before }

// mayRetry reports whether the call may come again after y: when the workload
// said that it did nothing, or when a connection that had been idle ended
// under it without a byte and doing it twice does no harm.
func (c *call) mayRetry(y *try) bool {
	return y.refused || y.reused && !y.answered() && c.method != "POST" && c.method != "PATCH"
}

// start notes that the call is sent.
func (c *call) start(s *sim) {
	c.sent, c.conf, c.draining = true, s.conf, s.p.draining.Load()
	s.logf("call %d starts: %s %d bytes", c.id, c.method, c.reqLen)
}

func (c *call) over() bool { return c.done || c.broken }

func (c *call) noContent() bool {
	return c.method == "HEAD" || c.status == 204 || c.status == 304
}

// pattern is the content of the message n at offset at.
func pattern(n, at int) byte { return byte(n*31 + at*7 + at>>8) }

func appendPattern(b []byte, id, from, n int) []byte {
	for i := range n {
		b = append(b, pattern(id, from+i))
	}
	return b
}

func checkPattern(b []byte, id, from int) error {
	for i, c := range b {
		if c != pattern(id, from+i) {
			return fmt.Errorf("message %d: content differs at byte %d: %#x, want %#x", id, from+i, c, pattern(id, from+i))
		}
	}
	return nil
}

func (c *call) path() string { return fmt.Sprintf("/r/%d", c.id) }

func (s *sim) newCall() *call {
	c := &call{id: len(s.calls) + 1, status: 200}
	c.method = []string{"GET", "GET", "GET", "POST", "POST", "PUT", "HEAD", "DELETE"}[s.rng.IntN(8)]
	if c.method != "GET" && c.method != "HEAD" {
		c.reqLen = s.size()
	}
	c.declared = s.chance(60)
	c.trailer = !c.declared && s.chance(15)
	c.expect = c.reqLen > 0 && s.chance(8)
	c.final, c.http10 = s.chance(6), s.chance(5)
	if c.http10 {
		c.trailer, c.expect = false, false
	}
	if s.chance(5) {
		c.pad = s.rng.IntN(40_000)
	}
	if s.chance(4) {
		c.fields = 80
	}
	if s.chance(15) {
		c.status = []int{204, 304, 404, 500, 201}[s.rng.IntN(5)]
	}
	if c.status != 204 && c.status != 304 {
		c.respLen = s.size()
	}
	c.respMode = []int{0, 0, 0, 1, 1, 2}[s.rng.IntN(6)]
	c.rtrailer = c.respMode == 1 && s.chance(25)
	if s.chance(8) {
		c.interim = 1 + s.rng.IntN(2)
	}
	if s.chance(5) {
		c.rpad = s.rng.IntN(40_000)
	}
	c.epClose = s.chance(8)
	c.upgrade = c.method == "GET" && s.chance(6)
	if s.chance(50) {
		c.hello = c.respLen / 3
	}
	c.grpc = c.method == "POST" && s.chance(20)
	if !c.upgrade && s.chance(4) {
		c.method, c.want = "PATCH", 403 // see runSchedule's policy
	}
	if s.breaks {
		if s.chance(4) {
			c.lie = 1 - 2*s.rng.IntN(2)
		}
		c.bad = s.chance(3)
		c.early = s.chance(10)
		if s.chance(20) {
			c.fault = fault(1 + s.rng.IntN(6))
			c.faultAt = s.rng.IntN(1 + c.respLen + 100)
			if s.chance(30) {
				c.faultAt = 0
			}
		}
	}
	if !s.breaks && c.reqLen < 2000 && !c.trailer && s.chance(5) {
		c.fault = faultRefuse // once: nobody may notice
	}
	if s.pol.retries && s.chance(25) {
		c.flaky = 1
		if s.breaks {
			c.flaky += s.rng.IntN(simRetries + 1)
		}
	}
	if c.upgrade {
		c.flaky = 0
		c.early, c.declared, c.trailer, c.expect, c.http10, c.status = false, false, false, false, false, 200
	}
	s.calls = append(s.calls, c)
	return c
}

// request appends the head of an HTTP/1.1 request.
func (c *call) request(b []byte) []byte {
	v := "HTTP/1.1"
	if c.http10 {
		v = "HTTP/1.0"
	}
	b = fmt.Appendf(b, "%s %s %s\r\nHost: web\r\nX-Request-Id: call-%d\r\n", c.method, c.path(), v, c.id)
	for i := range c.fields {
		b = fmt.Appendf(b, "X-F%d: v%d\r\n", i, c.id)
	}
	if c.pad > 0 {
		b = fmt.Appendf(b, "X-Pad: %s\r\n", strings.Repeat("p", c.pad))
	}
	switch {
	case c.reqLen == 0 && !c.trailer:
	case c.declared || c.http10:
		b = fmt.Appendf(b, "Content-Length: %d\r\n", c.reqLen)
	default:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	if c.expect {
		b = append(b, "Expect: 100-continue\r\n"...)
	}
	if c.final {
		b = append(b, "Connection: close\r\n"...)
	}
	if c.upgrade {
		b = append(b, "Connection: Upgrade\r\nUpgrade: echo\r\n"...)
	}
	return append(b, "\r\n"...)
}

// content appends the request's content as HTTP/1.1 frames it.
func (c *call) content(b []byte, rng *rand.Rand) []byte {
	if c.reqLen == 0 && !c.trailer {
		return b
	}
	if c.declared || c.http10 {
		return appendPattern(b, -c.id, 0, c.reqLen)
	}
	if c.bad {
		return append(b, "5\r\nhello5\r\n"...)
	}
	for at := 0; at < c.reqLen; {
		n := 1 + rng.IntN(min(c.reqLen-at, 40_000))
		b = h1.AppendChunk(b, appendPattern(nil, -c.id, at, n))
		at += n
	}
	var tr mesh.Fields
	if c.trailer {
		tr = mesh.Fields{{Name: "x-sum", Value: fmt.Sprint("sum-", c.id)}}
	}
	return h1.AppendLastChunk(b, tr)
}
