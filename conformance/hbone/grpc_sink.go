package hbone

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// grpcSink answers the calls on one tunnel of the sink. The lock of the
// connection below is held whenever it is used. Calls are unary, or server
// streaming: /bytes/N answers with one message of N bytes of Body, and
// /bytes/NxM with M of them.
type grpcSink struct {
	sink   *Sink
	conn   *conn
	head   []*field
	tail   []*field
	bad    []*field   // in place of head and tail, for a request that was not the load's
	answer grpcAnswer // the last one given: mostly the next one, too
	free   []*sinkCall
}

// grpcAnswer is what a path asks for.
type grpcAnswer struct {
	path  string
	size  int // of each message
	count int
	bytes []byte
}

// sinkCall is one call whose request is not complete.
type sinkCall struct {
	answer  grpcAnswer
	request messages
}

func newGRPCSink(s *Sink, c *conn, st *stream) *grpcSink {
	g := &grpcSink{sink: s}
	g.conn = newInner(c, st, g, false)
	g.head = []*field{
		{static: 8}, // :status 200
		{name: "content-type", value: "application/grpc"},
	}
	g.tail = []*field{{name: "grpc-status", value: "0"}, {name: "grpc-message", value: ""}}
	g.bad = []*field{g.head[0], g.head[1], {name: "grpc-status", value: "3"}}
	return g
}

func (g *grpcSink) headers(c *conn, s *stream, fields []hpack.HeaderField, end bool) error {
	if s.owner != nil || end {
		return fmt.Errorf("a call without a message, or with trailers: %v", fields)
	}
	var path, method, kind string
	for _, f := range fields {
		switch f.Name {
		case ":path":
			path = f.Value
		case ":method":
			method = f.Value
		case "content-type":
			kind = f.Value
		}
	}
	if method != "POST" || !strings.HasPrefix(kind, "application/grpc") {
		return fmt.Errorf("not a gRPC call: %v", fields)
	}
	if path != g.answer.path {
		answer, err := g.ask(path)
		if err != nil {
			return err
		}
		g.answer = answer
	}
	var k *sinkCall
	if n := len(g.free); n > 0 {
		k, g.free = g.free[n-1], g.free[:n-1]
		k.request.reset()
	} else {
		k = &sinkCall{request: messages{size: -1}}
	}
	k.answer = g.answer
	s.owner = k
	return nil
}

// ask reads a path.
func (g *grpcSink) ask(path string) (grpcAnswer, error) {
	size, count, many := strings.Cut(strings.TrimPrefix(path, "/bytes/"), "x")
	if !many {
		count = "1"
	}
	a := grpcAnswer{path: path}
	var err error
	if a.size, err = strconv.Atoi(size); err != nil || a.size < 0 || a.size > 1<<20 {
		return a, fmt.Errorf("a call of %q", path)
	}
	if a.count, err = strconv.Atoi(count); err != nil || a.count < 1 || a.count > 1000 {
		return a, fmt.Errorf("a call of %q", path)
	}
	a.bytes = g.sink.stream(a.size, a.count)
	return a, nil
}

func (g *grpcSink) data(c *conn, s *stream, p []byte, end bool) error {
	k := s.owner.(*sinkCall)
	if err := k.request.take(p); err != nil || !end {
		return err
	}
	if k.request.count != 1 || k.request.have != 0 {
		return fmt.Errorf("a call with %d messages, expected 1", k.request.count)
	}
	g.sink.Requests.Add(1)
	g.free = append(g.free, k)
	if sum := g.sink.expected(k.request.length); k.request.crc != sum {
		g.sink.fail(fmt.Errorf("a call's message of %d bytes with checksum %#x, expected %#x", k.request.length, k.request.crc, sum))
		s.trailer = g.bad
		c.finish(s)
		return nil
	}
	c.writeFields(s, g.head, false)
	s.trailer = g.tail
	s.message = grpcHead + k.answer.size // a DATA frame holds one message, as programs send them
	c.sendLast(s, k.answer.bytes)
	return nil
}

func (g *grpcSink) reset(c *conn, s *stream, code http2.ErrCode) error { return nil }

// stream returns count messages of n bytes, made once per shape.
func (s *Sink) stream(n, count int) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	shape := [2]int{n, count}
	b := s.streams[shape]
	if b == nil {
		for range count {
			b = appendMessage(b, n)
		}
		s.streams[shape] = b
	}
	return b
}
