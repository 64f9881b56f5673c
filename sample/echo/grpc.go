package echo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// gRPC over HTTP/2, as far as an echo needs it. There are no generated types:
// a message is sent back as the bytes that it came as. So the messages of
// cairn.sample.v1.Echo are whatever the client says; google.protobuf.StringValue
// is what a description would name:
//
//	package cairn.sample.v1;
//	service Echo {
//	  rpc Unary(google.protobuf.StringValue) returns (google.protobuf.StringValue);
//	  rpc ServerStream(google.protobuf.StringValue) returns (stream google.protobuf.StringValue);
//	  rpc ClientStream(stream google.protobuf.StringValue) returns (google.protobuf.StringValue);
//	  rpc Bidi(stream google.protobuf.StringValue) returns (stream google.protobuf.StringValue);
//	}
//
// Unary and Bidi send each message back. ServerStream sends the one message
// x-count times (3 where nothing is said), x-interval apart. ClientStream sends
// the last message back. Request metadata x-delay waits before the first
// message, x-grpc-code: N ends the call with that code. Replies carry x-pod,
// x-namespace, x-version and x-authority, and the trailer x-messages: how many came.
//
// A message on the wire is
//
//	+------------+----------------+---------+
//	| compressed | length, 4 byte | message |
//	+------------+----------------+---------+

// maxMessage bounds a message, as gRPC's libraries do.
const maxMessage = 4 << 20

// maxCount bounds x-count.
const maxCount = 1 << 20

// The codes of gRPC that are sent from here.
const (
	codeOK                = 0
	codeCanceled          = 1
	codeInvalidArgument   = 3
	codeDeadlineExceeded  = 4
	codeNotFound          = 5
	codeResourceExhausted = 8
	codeUnimplemented     = 12
	codeInternal          = 13
	codeUnavailable       = 14
	codeUnauthenticated   = 16 // the highest
)

// grpcError is the status that a call ends with.
type grpcError struct {
	code    int
	message string
}

func (e *grpcError) Error() string { return fmt.Sprintf("grpc status %d: %s", e.code, e.message) }

// isGRPC reports whether r is a gRPC call.
func isGRPC(r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.Header.Get("Content-Type"), "application/grpc")
	return ok && r.ProtoMajor == 2 && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// call is one gRPC call. One goroutine owns it.
type call struct {
	ctx      context.Context
	w        http.ResponseWriter
	rc       *http.ResponseController
	r        *http.Request
	buf      []byte
	received int
}

// grpcMethods is every method by its path. The methods of grpc-go's example
// service are the same calls with other names, so its clients work too.
func (s *Server) grpcMethod(path string) func(*call) error {
	switch path {
	case "/cairn.sample.v1.Echo/Unary", "/grpc.examples.echo.Echo/UnaryEcho":
		return (*call).unary
	case "/cairn.sample.v1.Echo/ServerStream", "/grpc.examples.echo.Echo/ServerStreamingEcho":
		return (*call).serverStream
	case "/cairn.sample.v1.Echo/ClientStream", "/grpc.examples.echo.Echo/ClientStreamingEcho":
		return (*call).clientStream
	case "/cairn.sample.v1.Echo/Bidi", "/grpc.examples.echo.Echo/BidirectionalStreamingEcho":
		return (*call).bidi
	case "/grpc.health.v1.Health/Check":
		return (*call).healthCheck
	case "/grpc.health.v1.Health/Watch":
		return s.healthWatch
	}
	return nil
}

// serveGRPC answers one call.
func (s *Server) serveGRPC(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("X-Pod", s.pod.Name())
	h.Set("X-Namespace", s.pod.Namespace())
	h.Set("X-Version", s.pod.Version())
	h.Set("X-Authority", r.Host)
	c := &call{ctx: r.Context(), w: w, rc: http.NewResponseController(w), r: r}
	err := c.run(s.grpcMethod(r.URL.Path))
	code, message := grpcStatus(err)
	// The status is a trailer even where nothing was sent before it.
	h.Set(http.TrailerPrefix+"Grpc-Status", strconv.Itoa(code))
	if message != "" {
		h.Set(http.TrailerPrefix+"Grpc-Message", percentEncode(message))
	}
	h.Set(http.TrailerPrefix+"X-Messages", strconv.Itoa(c.received))
}

// run applies what the metadata asks for and runs method.
func (c *call) run(method func(*call) error) error {
	if method == nil {
		return &grpcError{codeUnimplemented, "unknown method " + c.r.URL.Path}
	}
	if t := c.r.Header.Get("Grpc-Timeout"); t != "" {
		d, err := parseGRPCTimeout(t)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(c.ctx, d)
		defer cancel()
		c.ctx = ctx
		if err := c.rc.SetReadDeadline(time.Now().Add(d)); err != nil {
			return err
		}
	}
	delay, err := c.metaDuration("X-Delay")
	if err != nil {
		return err
	}
	code, err := c.metaUint("X-Grpc-Code", codeOK, codeUnauthenticated)
	if err != nil {
		return err
	}
	if err := pause(c.ctx, delay); err != nil {
		return err
	}
	if err := method(c); err != nil {
		return err
	}
	if code != codeOK {
		return &grpcError{code, "as x-grpc-code asks"}
	}
	return nil
}

func (c *call) unary() error {
	m, err := c.only()
	if err != nil {
		return err
	}
	return c.send(m)
}

func (c *call) serverStream() error {
	count, err := c.metaUint("X-Count", 3, maxCount)
	if err != nil {
		return err
	}
	interval, err := c.metaDuration("X-Interval")
	if err != nil {
		return err
	}
	m, err := c.only()
	if err != nil {
		return err
	}
	for i := range count {
		if i > 0 {
			if err := pause(c.ctx, interval); err != nil {
				return err
			}
		}
		if err := c.send(m); err != nil {
			return err
		}
	}
	return nil
}

func (c *call) clientStream() error {
	var last []byte
	for {
		m, err := c.receive()
		if errors.Is(err, io.EOF) {
			return c.send(last)
		}
		if err != nil {
			return err
		}
		last = append(last[:0], m...)
	}
}

func (c *call) bidi() error {
	if err := c.rc.Flush(); err != nil { // the metadata, before the first message
		return err
	}
	for {
		m, err := c.receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := c.send(m); err != nil {
			return err
		}
	}
}

// only returns the message of a call that has exactly one.
func (c *call) only() ([]byte, error) {
	m, err := c.receive()
	if errors.Is(err, io.EOF) {
		return nil, &grpcError{codeInternal, "the call ended without a message"}
	}
	if err != nil {
		return nil, err
	}
	switch n, err := c.r.Body.Read(make([]byte, 1)); {
	case n > 0:
		return nil, &grpcError{codeInternal, "a second message in a call that takes one"}
	case !errors.Is(err, io.EOF):
		return nil, err
	}
	return m, nil
}

// receive returns the next message, which is good until the next call, or
// io.EOF after the last.
func (c *call) receive() ([]byte, error) {
	m, err := readMessage(c.r.Body, c.buf)
	if err != nil {
		return nil, err
	}
	c.buf = m
	c.received++
	return m, nil
}

// send sends one message at once.
func (c *call) send(m []byte) error {
	var prefix [5]byte
	binary.BigEndian.PutUint32(prefix[1:], uint32(len(m)))
	if _, err := c.w.Write(prefix[:]); err != nil {
		return err
	}
	if _, err := c.w.Write(m); err != nil {
		return err
	}
	return c.rc.Flush()
}

// readMessage reads one message from r into buf, which it grows as the bytes
// arrive and not as the prefix promises. It returns io.EOF if r ends before one begins.
func readMessage(r io.Reader, buf []byte) ([]byte, error) {
	var prefix [5]byte
	if _, err := io.ReadFull(r, prefix[:1]); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(r, prefix[1:]); err != nil {
		return nil, cut(err)
	}
	switch n := binary.BigEndian.Uint32(prefix[1:]); {
	case prefix[0] == 1:
		return nil, &grpcError{codeUnimplemented, "compressed messages are not read here"}
	case prefix[0] != 0:
		return nil, &grpcError{codeInternal, "a message's compressed flag is neither 0 nor 1"}
	case n > maxMessage:
		return nil, &grpcError{codeResourceExhausted, fmt.Sprintf("a message of %d bytes, more than %d", n, maxMessage)}
	default:
		return readN(r, buf[:0], int(n))
	}
}

// readN appends n bytes of r to buf.
func readN(r io.Reader, buf []byte, n int) ([]byte, error) {
	const step = 64 << 10
	for len(buf) < n {
		have := len(buf)
		k := min(step, n-have)
		if cap(buf)-have < k {
			buf = append(buf, make([]byte, k)...)[:have]
		}
		if _, err := io.ReadFull(r, buf[have:have+k]); err != nil {
			return nil, cut(err)
		}
		buf = buf[:have+k]
	}
	return buf, nil
}

// cut names the end of a stream inside a message.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &grpcError{codeInternal, "the stream ended inside a message"}
	}
	return err
}

// grpcStatus returns the status that err ends a call with.
func grpcStatus(err error) (code int, message string) {
	var status *grpcError
	switch {
	case err == nil:
		return codeOK, ""
	case errors.As(err, &status):
		return status.code, status.message
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return codeDeadlineExceeded, "the call's time is over"
	case errors.Is(err, context.Canceled):
		return codeCanceled, "the call was cancelled"
	}
	return codeUnavailable, err.Error()
}

func (c *call) metaUint(name string, otherwise, highest int) (int, error) {
	v := c.r.Header.Get(name)
	if v == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(v, 10, 31)
	if err != nil || int(n) > highest {
		return 0, &grpcError{codeInvalidArgument, fmt.Sprintf("%s is not a number from 0 to %d", strings.ToLower(name), highest)}
	}
	return int(n), nil
}

func (c *call) metaDuration(name string) (time.Duration, error) {
	v := c.r.Header.Get(name)
	if v == "" {
		return 0, nil
	}
	d, err := parseDelay(v)
	if err != nil {
		return 0, &grpcError{codeInvalidArgument, strings.ToLower(name) + ": " + err.Error()}
	}
	return d, nil
}

// parseGRPCTimeout reads the grpc-timeout header: at most eight digits and a unit.
func parseGRPCTimeout(s string) (time.Duration, error) {
	bad := &grpcError{codeInternal, "grpc-timeout is not one to eight digits and one of H M S m u n"}
	if len(s) < 2 || len(s) > 9 {
		return 0, bad
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
	if err != nil {
		return 0, bad
	}
	var unit time.Duration
	switch s[len(s)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, bad
	}
	// 99,999,999 hours are more than a Duration holds, and as good as for ever.
	const forever = 365 * 24 * time.Hour
	if n > uint64(forever/unit) {
		return forever, nil
	}
	return time.Duration(n) * unit, nil
}

// percentEncode makes s fit for the grpc-message header: printable ASCII but
// for the percent sign stands for itself.
func percentEncode(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
