package echo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// dial connects grpc-go's client to the server at addr.
func dial(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// stream opens one of the streaming methods.
func stream(t *testing.T, ctx context.Context, cc *grpc.ClientConn, method string) grpc.ClientStream {
	t.Helper()
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/cairn.sample.v1.Echo/"+method)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func send(t *testing.T, s grpc.ClientStream, text string) {
	t.Helper()
	if err := s.SendMsg(wrapperspb.String(text)); err != nil {
		t.Fatal(err)
	}
}

func closeSend(t *testing.T, s grpc.ClientStream) {
	t.Helper()
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
}

// collect receives until the stream ends and returns what came, and the end.
func collect(s grpc.ClientStream) (texts []string, err error) {
	for {
		var m wrapperspb.StringValue
		if err := s.RecvMsg(&m); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return texts, err
		}
		texts = append(texts, m.Value)
	}
}

func TestGRPCUnary(t *testing.T) {
	addr, _ := start(t)
	cc := dial(t, addr)
	for _, method := range []string{"/cairn.sample.v1.Echo/Unary", "/grpc.examples.echo.Echo/UnaryEcho"} {
		for _, text := range []string{"", "hello", strings.Repeat("x", 1<<20)} {
			var got wrapperspb.StringValue
			var header, trailer metadata.MD
			err := cc.Invoke(t.Context(), method, wrapperspb.String(text), &got, grpc.Header(&header), grpc.Trailer(&trailer))
			if err != nil || got.Value != text {
				t.Errorf("%s: %d bytes came back, %v; want %d", method, len(got.Value), err, len(text))
			}
			for k, want := range map[string]string{"x-pod": "echo-1", "x-namespace": "shop", "x-version": "v9", "x-authority": addr} {
				if diff := cmp.Diff([]string{want}, header.Get(k)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", k, diff)
				}
			}
			if diff := cmp.Diff([]string{"1"}, trailer.Get("x-messages")); diff != "" {
				t.Errorf("x-messages (-want +got):\n%s", diff)
			}
		}
	}
}

func TestGRPCStatus(t *testing.T) {
	addr, _ := start(t)
	cc := dial(t, addr)
	tests := []struct {
		name, method string
		md           []string
		timeout      time.Duration
		size         int
		opts         []grpc.CallOption
		want         codes.Code
		message      string
	}{
		{name: "asked", md: []string{"x-grpc-code", "14"}, want: codes.Unavailable, message: "as x-grpc-code asks"},
		{name: "asked-none", md: []string{"x-grpc-code", "0"}, want: codes.OK},
		{name: "asked-unknown", md: []string{"x-grpc-code", "17"}, want: codes.InvalidArgument, message: "x-grpc-code is not"},
		{name: "delay-bad", md: []string{"x-delay", "soon"}, want: codes.InvalidArgument, message: "x-delay"},
		{name: "deadline", md: []string{"x-delay", "10m"}, timeout: 20 * time.Millisecond, want: codes.DeadlineExceeded},
		{name: "unknown-method", method: "/cairn.sample.v1.Echo/Nothing", want: codes.Unimplemented, message: "unknown method /cairn.sample.v1.Echo/Nothing"},
		{name: "unknown-service", method: "/x.Y/Zü", want: codes.Unimplemented, message: "unknown method /x.Y/Zü"},
		{name: "too-large", size: maxMessage + 1, want: codes.ResourceExhausted, message: "more than"},
		{name: "compressed", size: 10, opts: []grpc.CallOption{grpc.UseCompressor(gzip.Name)}, want: codes.Unimplemented, message: "compressed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := metadata.AppendToOutgoingContext(t.Context(), tt.md...)
			if tt.timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tt.timeout)
				defer cancel()
			}
			if tt.method == "" {
				tt.method = "/cairn.sample.v1.Echo/Unary"
			}
			err := cc.Invoke(ctx, tt.method, wrapperspb.String(strings.Repeat("x", tt.size)), &wrapperspb.StringValue{}, tt.opts...)
			if status.Code(err) != tt.want || !strings.Contains(status.Convert(err).Message(), tt.message) {
				t.Errorf("call ended with %v, want %v and %q", err, tt.want, tt.message)
			}
		})
	}
}

func TestGRPCServerStream(t *testing.T) {
	addr, _ := start(t)
	cc := dial(t, addr)
	for count, want := range map[string]int{"": 3, "0": 0, "500": 500} {
		ctx := t.Context()
		if count != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "x-count", count, "x-interval", "1us")
		}
		s := stream(t, ctx, cc, "ServerStream")
		send(t, s, "hello")
		closeSend(t, s)
		if got, err := collect(s); len(got) != want || err != nil {
			t.Errorf("x-count %q: %d messages, %v; want %d", count, len(got), err, want)
		}
	}
}

func TestGRPCClientStream(t *testing.T) {
	addr, _ := start(t)
	cc := dial(t, addr)
	s := stream(t, t.Context(), cc, "ClientStream")
	for i := range 100 {
		send(t, s, fmt.Sprint(i))
	}
	closeSend(t, s)
	got, err := collect(s)
	if diff := cmp.Diff([]string{"99"}, got); diff != "" || err != nil {
		t.Errorf("%v; messages (-want +got):\n%s", err, diff)
	}
	if diff := cmp.Diff([]string{"100"}, s.Trailer().Get("x-messages")); diff != "" {
		t.Errorf("x-messages (-want +got):\n%s", diff)
	}
}

// TestGRPCBidi sends a message only once the one before has come back.
func TestGRPCBidi(t *testing.T) {
	addr, _ := start(t)
	cc := dial(t, addr)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-grpc-code", "10")
	s := stream(t, ctx, cc, "Bidi")
	if md, err := s.Header(); err != nil || len(md.Get("x-pod")) != 1 {
		t.Fatalf("metadata before the first message: %v, %v", md, err)
	}
	for i := range 50 {
		send(t, s, fmt.Sprint(i))
		var m wrapperspb.StringValue
		if err := s.RecvMsg(&m); err != nil || m.Value != fmt.Sprint(i) {
			t.Fatalf("message %d came back as %q, %v", i, m.Value, err)
		}
	}
	closeSend(t, s)
	if got, err := collect(s); len(got) != 0 || status.Code(err) != codes.Aborted {
		t.Errorf("the end: %v, %v; want the status that x-grpc-code asks for", got, err)
	}
}

// TestGRPCSilentDeadline ends a call whose client says nothing.
func TestGRPCSilentDeadline(t *testing.T) {
	addr, _ := start(t)
	cc := dial(t, addr)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	s := stream(t, ctx, cc, "Bidi")
	if _, err := collect(s); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("the call ended with %v, want DeadlineExceeded", err)
	}
}

func TestGRPCHealth(t *testing.T) {
	addr, stop := start(t)
	h := healthpb.NewHealthClient(dial(t, addr))
	for _, service := range []string{"", "cairn.sample.v1.Echo"} {
		got, err := h.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		if err != nil || got.Status != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("Check(%q) = %v, %v", service, got, err)
		}
	}
	if _, err := h.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "x"}); status.Code(err) != codes.NotFound {
		t.Errorf("Check of an unknown service: %v, want NotFound", err)
	}
	if _, err := h.List(t.Context(), &healthpb.HealthListRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("List: %v, want Unimplemented", err)
	}
	unknown, err := h.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: "x"})
	if err != nil {
		t.Fatal(err)
	}
	watch, err := h.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(w grpc.ServerStreamingClient[healthpb.HealthCheckResponse], want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if got, err := w.Recv(); err != nil || got.Status != want {
			t.Errorf("watched %v, %v; want %v", got, err, want)
		}
	}
	expect(unknown, healthpb.HealthCheckResponse_SERVICE_UNKNOWN)
	expect(watch, healthpb.HealthCheckResponse_SERVING)
	stop()
	expect(watch, healthpb.HealthCheckResponse_NOT_SERVING)
	if _, err := watch.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the watch ended with %v, want Unavailable", err)
	}
}

func TestReadMessage(t *testing.T) {
	tests := []struct {
		name, in, want string
		code           int // -1: io.EOF
	}{
		{"empty", "\x00\x00\x00\x00\x00", "", codeOK},
		{"text", "\x00\x00\x00\x00\x02hi!", "hi", codeOK},
		{"end", "", "", -1},
		{"cut-prefix", "\x00\x00", "", codeInternal},
		{"cut-message", "\x00\x00\x00\x00\x05hi", "", codeInternal},
		{"compressed", "\x01\x00\x00\x00\x00", "", codeUnimplemented},
		{"flag", "\x02\x00\x00\x00\x00", "", codeInternal},
		{"large", "\x00\xff\xff\xff\xff", "", codeResourceExhausted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readMessage(strings.NewReader(tt.in), nil)
			if tt.code < 0 {
				if !errors.Is(err, io.EOF) {
					t.Errorf("error %v, want io.EOF", err)
				}
				return
			}
			if code, _ := grpcStatus(err); code != tt.code || string(got) != tt.want {
				t.Errorf("readMessage = %q, %v; want %q and code %d", got, err, tt.want, tt.code)
			}
		})
	}
}

func TestParseGRPCTimeout(t *testing.T) {
	tests := []struct {
		in   string
		want time.Duration // 0: refused
	}{
		{"1S", time.Second},
		{"250m", 250 * time.Millisecond},
		{"7u", 7 * time.Microsecond},
		{"9n", 9},
		{"2M", 2 * time.Minute},
		{"1H", time.Hour},
		{"99999999H", 365 * 24 * time.Hour},
		{"99999999n", 99999999},
		{"", 0},
		{"S", 0},
		{"1", 0},
		{"1s", 0},
		{"-1S", 0},
		{"999999999S", 0},
		{"1 S", 0},
	}
	for _, tt := range tests {
		got, err := parseGRPCTimeout(tt.in)
		if got != tt.want || (err != nil) != (tt.want == 0) {
			t.Errorf("parseGRPCTimeout(%q) = %s, %v; want %s", tt.in, got, err, tt.want)
		}
	}
}

func TestGRPCStatusOf(t *testing.T) {
	tests := []struct {
		err  error
		want int
	}{
		{nil, codeOK},
		{fmt.Errorf("x: %w", &grpcError{code: 7}), 7},
		{context.DeadlineExceeded, codeDeadlineExceeded},
		{context.Canceled, codeCanceled},
		{errors.New("the connection broke"), codeUnavailable},
	}
	for _, tt := range tests {
		if got, _ := grpcStatus(tt.err); got != tt.want {
			t.Errorf("grpcStatus(%v) = %d, want %d", tt.err, got, tt.want)
		}
	}
	if got, want := percentEncode("a%b\nü~"), "a%25b%0A%C3%BC~"; got != want {
		t.Errorf("percentEncode = %q, want %q", got, want)
	}
}

func FuzzReadMessage(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x02hi"))
	f.Add([]byte("\x00\x00\x40\x00\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for {
			m, err := readMessage(r, nil)
			if err != nil {
				return
			}
			if len(m) > len(b) {
				t.Fatalf("a message of %d bytes out of %d", len(m), len(b))
			}
		}
	})
}

func FuzzParseHealthRequest(f *testing.F) {
	f.Add([]byte("\x0a\x01x"))
	f.Add([]byte("\x10\x05\x0a\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseHealthRequest(b); len(s) > len(b) || (err != nil && s != "") {
			t.Errorf("service %q, %v", s, err)
		}
	})
}

func FuzzParseGRPCTimeout(f *testing.F) {
	f.Add("99999999H")
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := parseGRPCTimeout(s); d < 0 || d > 365*24*time.Hour || (err != nil && d != 0) {
			t.Errorf("parseGRPCTimeout(%q) = %d, %v", s, d, err)
		}
	})
}
