package suite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// answer is what the test application says of a request.
type answer struct {
	Method, Path, Host, Proto, Remote string
	Headers                           http.Header
	Trailers                          http.Header
	Body                              int64
}

// application is an HTTP server that describes each request, with a few
// paths that do more: /app/bytes/N sends N bytes, /app/trailers ends with
// trailers, /app/switch changes protocol and echoes bytes.
func application(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/app")
	switch {
	case strings.HasPrefix(path, "/bytes/"):
		n, err := strconv.ParseInt(path[len("/bytes/"):], 10, 32)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		io.CopyN(w, &pattern{}, n) // a client that went away is not ours to report
	case path == "/trailers":
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "body")
		w.Header().Set("X-Sum", "4")
	case path == "/switch":
		echoUpgrade(w, r)
	default:
		describe(w, r)
	}
}

func describe(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer{
		Method: r.Method, Path: r.RequestURI, Host: r.Host, Proto: r.Proto, Remote: r.RemoteAddr,
		Headers: r.Header, Trailers: r.Trailer, Body: n,
	})
}

// echoUpgrade answers 101 and sends back what comes until the end.
func echoUpgrade(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "websocket" {
		http.Error(w, "no upgrade asked for", http.StatusBadRequest)
		return
	}
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	io.Copy(conn, buf)
}

// pattern reads as the bytes 0, 1, … 250, 0, 1 … for ever: bytes lost, doubled
// or moved show.
type pattern struct{ next int }

func (r *pattern) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.next)
		r.next = (r.next + 1) % 251
	}
	return len(p), nil
}

// patternBytes returns the first n bytes of a pattern.
func patternBytes(n int) []byte {
	b := make([]byte, n)
	(&pattern{}).Read(b)
	return b
}

// listen opens a listener that the test closes.
func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// serveHTTP runs the application, over HTTP/1.1 and HTTP/2 without TLS.
func serveHTTP(t *testing.T, ln net.Listener) {
	t.Helper()
	srv := &http.Server{Handler: http.HandlerFunc(application), Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
}

// serveTCP runs an echo that sends everything back, then the number of bytes,
// after the client has closed its side: a half-close that is lost shows.
func serveTCP(t *testing.T, ln net.Listener) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				n, err := io.Copy(c, c)
				fmt.Fprintf(c, "|%d %v", n, err)
			}()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
}

// raw is a gRPC codec whose messages are byte slices: no generated code.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)   { return *v.(*[]byte), nil }
func (raw) Unmarshal(b []byte, v any) error { *v.(*[]byte) = append([]byte(nil), b...); return nil }
func (raw) Name() string                    { return "proto" }

// serveGRPC runs grpc-go's server with health checking and an Echo service
// that sends messages back.
func serveGRPC(t *testing.T, ln net.Listener) {
	t.Helper()
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, health.NewServer())
	echo := grpc.NewServer(grpc.ForceServerCodec(raw{}))
	echo.RegisterService(&grpc.ServiceDesc{
		ServiceName: "cairn.sample.v1.Echo",
		Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var b []byte
			err := dec(&b)
			return &b, err
		}}},
		Streams: []grpc.StreamDesc{{StreamName: "Bidi", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			for {
				var b []byte
				if err := s.RecvMsg(&b); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				if err := s.SendMsg(&b); err != nil {
					return err
				}
			}
		}}},
	}, nil)
	// The forced codec knows no protobuf, so health and echo are two servers
	// behind one listener, told apart by the path.
	front := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/grpc.health.") {
			srv.ServeHTTP(w, r)
			return
		}
		echo.ServeHTTP(w, r)
	})}
	front.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan error, 1)
	go func() { done <- front.Serve(ln) }()
	t.Cleanup(func() {
		front.Close()
		<-done
	})
}

func addrPort(addr netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(addr, port) }
