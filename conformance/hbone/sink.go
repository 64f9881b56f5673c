package hbone

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"cairnproxy.dev/cairn/conformance/ca"
)

// A Sink is an HBONE server in the place of a destination's node proxy and
// its application: it accepts every CONNECT and answers each HTTP/1.1 request
// or gRPC call inside. GET /bytes/N gives N bytes of Body, any other path
// DefaultSize; calls are those of grpcSink.
type Sink struct {
	TLS         *tls.Config
	DefaultSize int         // bytes of a response; 0 means 1024
	Stamped     atomic.Bool // connections from now on take the kernel's receive times, for Options.ProxyTime

	Requests atomic.Uint64 // inner requests answered
	Tunnels  atomic.Uint64 // CONNECT streams accepted
	Bytes    atomic.Uint64 // request body bytes received

	mu          sync.Mutex
	conns       map[*conn]struct{}
	responses   map[int][]byte
	sums        map[int]uint32
	streams     map[[2]int][]byte
	authorities map[string]int
	peers       map[string]int
	failure     error
}

// Serve accepts connections until the listener is closed; it returns when
// every connection's goroutine has ended.
func (s *Sink) Serve(ln net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.closeAll()
	for {
		sock, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accepting: %w", err)
		}
		wg.Go(func() { s.carry(sock) })
	}
}

// Seen returns how many tunnels named each CONNECT authority and how many
// connections came from each SPIFFE URI, and the first failure, if any.
func (s *Sink) Seen() (authorities, peers map[string]int, failure error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.authorities), maps.Clone(s.peers), s.failure
}

func (s *Sink) carry(sock net.Conn) {
	defer sock.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t, err := handshake(ctx, sock, func(c net.Conn) *tls.Conn { return tls.Server(c, s.TLS) })
	cancel()
	if err == nil && s.Stamped.Load() {
		err = t.stamp()
	}
	if err != nil {
		s.fail(err)
		return
	}
	c := newConn(t, s, false, streamWindow)
	s.mu.Lock()
	if s.conns == nil {
		s.conns, s.peers = map[*conn]struct{}{}, map[string]int{}
		s.authorities, s.responses = map[string]int{}, map[int][]byte{}
		s.sums, s.streams = map[int]uint32{}, map[[2]int][]byte{}
	}
	s.conns[c] = struct{}{}
	s.peers[ca.URI(t.tls.ConnectionState())]++
	s.mu.Unlock()
	err = c.run(t)
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		s.fail(err)
	}
}

func (s *Sink) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil {
		s.failure = err
	}
}

func (s *Sink) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.carrier.close()
	}
}

// sinkTunnel is the state of one CONNECT stream.
type sinkTunnel struct {
	known   bool
	begun   []byte    // the first bytes, until they tell what runs inside
	grpc    *grpcSink // HTTP/2, if that is inside
	request message
	size    int
	timed   bool // the answer says how long it took
	scratch []byte
}

func (s *Sink) headers(c *conn, st *stream, fields []hpack.HeaderField, end bool) error {
	if st.owner != nil {
		if end {
			c.finish(st)
		}
		return nil // trailers
	}
	var method, authority string
	for _, f := range fields {
		switch f.Name {
		case ":method":
			method = f.Value
		case ":authority":
			authority = f.Value
		}
	}
	if method != "CONNECT" {
		c.respond(st, 400, true)
		return nil
	}
	s.Tunnels.Add(1)
	s.mu.Lock()
	s.authorities[authority]++
	s.mu.Unlock()
	st.owner = &sinkTunnel{}
	c.respond(st, 200, false)
	return nil
}

func (s *Sink) data(c *conn, st *stream, p []byte, end bool) error {
	t, ok := st.owner.(*sinkTunnel)
	if !ok {
		return errors.New("DATA before HEADERS")
	}
	if p = t.sniff(s, c, st, p); len(p) > 0 {
		var err error
		if t.grpc != nil {
			err = t.grpc.conn.arrived(p, c.now)
		} else {
			err = s.http1(c, st, t, p)
		}
		if err != nil {
			s.fail(fmt.Errorf("inside a tunnel: %w", err))
			c.resetStream(st, http2.ErrCodeProtocol)
			return nil
		}
	}
	if end {
		c.finish(st)
	}
	return nil
}

// sniff looks at the first bytes of a tunnel. It returns what can be handled.
func (t *sinkTunnel) sniff(s *Sink, c *conn, st *stream, p []byte) []byte {
	if t.known {
		return p
	}
	if len(t.begun) > 0 {
		t.begun = append(t.begun, p...)
		p = t.begun
	}
	n := min(len(p), len(http2.ClientPreface))
	if http2.ClientPreface[:n] == string(p[:n]) {
		if n < len(http2.ClientPreface) {
			t.begun = append(t.begun[:0], p...)
			return nil
		}
		t.grpc = newGRPCSink(s, c, st)
	}
	t.known, t.begun = true, nil
	return p
}

// http1 takes the bytes of HTTP/1.1 requests.
func (s *Sink) http1(c *conn, st *stream, t *sinkTunnel, p []byte) error {
	for len(p) > 0 {
		starting := !t.request.inBody
		rest, done, err := t.request.next(p)
		if err != nil {
			return err
		}
		// The start line is valid only while its head is being read.
		if starting && (done || t.request.inBody) {
			t.size, t.timed = s.sizeOf(t.request.first)
		}
		if done {
			s.Bytes.Add(uint64(t.request.length))
			s.Requests.Add(1)
			if answer := s.answer(t); t.timed {
				t.scratch = appendTimed(t.scratch[:0], answer, c.now)
				c.sendCopy(st, t.scratch)
			} else {
				c.send(st, answer)
			}
		}
		p = rest
	}
	return nil
}

func (s *Sink) reset(*conn, *stream, http2.ErrCode) error { return nil }

// answer is the response to a request that is complete: to a body other than
// the load's it is 400.
func (s *Sink) answer(t *sinkTunnel) []byte {
	if n := int(t.request.length); n > 0 && t.request.sum != s.expected(n) {
		s.fail(fmt.Errorf("a request's body of %d bytes with checksum %#x, expected %#x", n, t.request.sum, s.expected(n)))
		return badRequest
	}
	return s.response(t.size)
}

// expected returns the checksum of a body of n bytes, made once per size.
func (s *Sink) expected(n int) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum, ok := s.sums[n]
	if !ok {
		sum = Checksum(Body(n))
		s.sums[n] = sum
	}
	return sum
}

var badRequest = []byte("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

// sizeOf reads the wanted size from a request line, and whether the answer is
// to be timed.
func (s *Sink) sizeOf(line []byte) (size int, timed bool) {
	_, after, ok := bytes.Cut(line, []byte(" /bytes/"))
	if ok {
		target, _, _ := bytes.Cut(after, []byte(" "))
		digits, timed := bytes.CutSuffix(target, []byte(timedQuery))
		if n, err := strconv.Atoi(string(digits)); err == nil && n >= 0 && n <= 16<<20 {
			return n, timed
		}
	}
	if s.DefaultSize > 0 {
		return s.DefaultSize, false
	}
	return 1024, false
}

// response returns the whole answer of n bytes, made once per size.
func (s *Sink) response(n int) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.responses[n]
	if r == nil {
		r = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ndate: Sat, 21 Nov 2026 04:31:29 GMT\r\nserver: sink\r\ncontent-length: %d\r\n\r\n", n)
		r = append(r, Body(n)...)
		s.responses[n] = r
	}
	return r
}
