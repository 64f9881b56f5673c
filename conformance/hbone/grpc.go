package hbone

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// grpcHead is the length of what stands before each message: a byte that says
// whether it is compressed, and its length.
const grpcHead = 5

// appendMessage adds a message of n bytes of Body.
func appendMessage(b []byte, n int) []byte {
	b = append(b, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	return append(b, Body(n)...)
}

// messages is the reader of one direction of a call: messages of one size.
type messages struct {
	size int    // of every message; negative: any, and the checksum is not looked at
	sum  uint32 // the checksum of every message

	count  int // messages that were complete
	length int // of the last message
	head   [grpcHead]byte
	have   int // bytes of head
	left   int // bytes of the message that are missing
	crc    uint32
}

// take reads what a DATA frame, or a part of one, brought.
func (m *messages) take(p []byte) error {
	for len(p) > 0 {
		if m.have < grpcHead {
			n := copy(m.head[m.have:], p)
			p = p[n:]
			if m.have += n; m.have < grpcHead {
				return nil
			}
			m.length, m.crc = int(binary.BigEndian.Uint32(m.head[1:])), 0
			m.left = m.length
			if m.head[0] != 0 || m.size >= 0 && m.length != m.size {
				return fmt.Errorf("a message of %d bytes (compressed: %d), expected %d", m.length, m.head[0], m.size)
			}
		}
		n := min(len(p), m.left)
		m.crc = crc32.Update(m.crc, castagnoli, p[:n])
		p = p[n:]
		if m.left -= n; m.left > 0 {
			return nil
		}
		if m.size >= 0 && m.crc != m.sum {
			return fmt.Errorf("a message with checksum %#x, expected %#x", m.crc, m.sum)
		}
		m.count++
		m.have = 0
	}
	return nil
}

// reset makes it ready for another call.
func (m *messages) reset() { *m = messages{size: m.size, sum: m.sum} }

// grpcTunnel is gRPC over one tunnel of the client: an HTTP/2 connection that
// travels on the tunnel, and the calls on it. The lock of the connection below
// is held whenever it is used.
type grpcTunnel struct {
	lc    *loadConn
	t     *tunnel
	conn  *conn
	ready bool // the peer's SETTINGS are there
	calls int  // in flight
	head  []*field
	free  []*call
}

// call is one call in flight.
type call struct {
	started time.Time
	answer  messages
	status  string // grpc-status
}

// inside is the carrier of a conn that travels on a tunnel of another conn.
type inside struct {
	c *conn
	s *stream
}

func (i inside) write(p []byte) (kept bool, err error) {
	i.c.sendCopy(i.s, p)
	return false, nil
}

func (inside) wait() error { return nil }
func (inside) close()      {}

// newInner makes the conn that travels on stream s of c. Its bytes wait in the
// stream when they have to, so it has no need for turns of its own.
func newInner(c *conn, s *stream, h handler, client bool) *conn {
	inner := newConn(inside{c, s}, h, client, streamWindow)
	inner.chunk = connWindow
	return inner
}

// arrived handles what the tunnel below brought.
func (c *conn) arrived(p []byte, at time.Time) error {
	if err := c.feed(p, at); err != nil {
		return err
	}
	return c.flushBatch()
}

// newGRPCTunnel begins HTTP/2 on a tunnel that was accepted.
func newGRPCTunnel(lc *loadConn, t *tunnel) *grpcTunnel {
	g := &grpcTunnel{lc: lc, t: t}
	g.conn = newInner(lc.conn, t.s, g, true)
	g.head = []*field{
		{static: 3}, // :method POST
		{static: 6}, // :scheme http
		{name: ":path", value: lc.load.opts.path()},
		{name: ":authority", value: lc.load.opts.Host},
		{name: "content-type", value: "application/grpc"},
		{name: "user-agent", value: "grpc-go/1.76.0"},
		{name: "te", value: "trailers"},
	}
	return g
}

// start begins n calls. The caller holds the lock of the conn below, not this one's.
func (g *grpcTunnel) start(n int, at time.Time) error {
	g.conn.mu.Lock()
	defer g.conn.mu.Unlock()
	for range n {
		g.begin(at)
	}
	return g.conn.flush()
}

// begin sends one call's request. The caller holds both locks.
func (g *grpcTunnel) begin(at time.Time) {
	var k *call
	if n := len(g.free); n > 0 {
		k, g.free = g.free[n-1], g.free[:n-1]
		k.status = ""
		k.answer.reset()
	} else {
		k = &call{answer: messages{size: g.t.job.size, sum: g.t.job.sum}}
	}
	k.started = at
	g.calls++
	g.lc.inFlight++
	s := g.conn.newStream(g.conn.nextID, k)
	g.conn.nextID += 2
	g.conn.writeFields(s, g.head, false)
	g.conn.sendLast(s, g.t.job.request)
}

// arrived handles bytes of the tunnel.
func (g *grpcTunnel) arrived(p []byte) {
	if err := g.conn.arrived(p, g.lc.conn.now); err != nil && !g.t.broken {
		g.lc.fail(g.t, fmt.Errorf("inside the tunnel: %w", err))
	}
	if g.ready {
		return
	}
	select {
	case <-g.conn.settled:
		g.ready = true
		g.lc.accepted(1)
	default:
	}
}

// headers, data and reset are called with both locks held.
func (g *grpcTunnel) headers(c *conn, s *stream, fields []hpack.HeaderField, end bool) error {
	k := s.owner.(*call)
	for _, f := range fields {
		switch f.Name {
		case ":status":
			if f.Value != "200" {
				return fmt.Errorf("a call was answered with status %q", f.Value)
			}
		case "grpc-status":
			k.status = f.Value
		}
	}
	if !end {
		return nil
	}
	return g.complete(k)
}

func (g *grpcTunnel) data(c *conn, s *stream, p []byte, end bool) error {
	if end {
		return errors.New("a call ended without trailers")
	}
	return s.owner.(*call).answer.take(p)
}

func (g *grpcTunnel) reset(c *conn, s *stream, code http2.ErrCode) error {
	return fmt.Errorf("a call was reset: %v", code)
}

// complete checks a call that ended, counts it and begins the next.
func (g *grpcTunnel) complete(k *call) error {
	want := g.lc.load.opts.messages()
	if k.status != "0" || k.answer.count != want || k.answer.have != 0 {
		return fmt.Errorf("a call ended with grpc-status %q after %d messages of %d", k.status, k.answer.count, want)
	}
	now := g.lc.conn.now
	g.lc.counted(now.Sub(k.started))
	g.calls--
	g.free = append(g.free, k)
	if g.lc.closed {
		g.begin(now)
	}
	return nil
}
