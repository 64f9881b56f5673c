package suite

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// caller is an HTTP client of one address, over one protocol.
type caller struct {
	base   string
	client *http.Client
}

func newCaller(t *testing.T, addr string, h2 bool) *caller {
	tr := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
	if h2 {
		tr.Protocols.SetUnencryptedHTTP2(true)
	} else {
		tr.Protocols.SetHTTP1(true)
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &caller{base: "http://" + addr, client: &http.Client{
		Transport: tr, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// do sends a request and returns the response with its body read.
func (c *caller) do(method, path string, body io.Reader, headers ...string) (*http.Response, []byte, error) {
	req, err := http.NewRequest(method, c.base+path, body)
	if err != nil {
		return nil, nil, err
	}
	req.Host = "service.example"
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp, text, err
}

// ask sends a request that the application describes.
func (c *caller) ask(t *testing.T, method, path string, body io.Reader, headers ...string) answer {
	t.Helper()
	resp, text, err := c.do(method, path, body, headers...)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s %q", method, path, resp.Status, text)
	}
	var a answer
	if err := json.Unmarshal(text, &a); err != nil {
		t.Fatalf("%s %s: %q: %v", method, path, text, err)
	}
	return a
}

// testHTTP is what HTTP through any chain of proxies must do. Envoy as istiod
// configures it drops the trailers of HTTP/1.1, which it speaks to the
// application: with trailers false they need not arrive.
func testHTTP(t *testing.T, addr string, h2, trailers bool) {
	c := newCaller(t, addr, h2)
	t.Run("get", func(t *testing.T) {
		a := c.ask(t, "GET", "/app/x?q=1&q=2", nil, "X-Custom", "a b", "X-Empty", "")
		if a.Method != "GET" || a.Path != "/app/x?q=1&q=2" || a.Host != "service.example" || a.Headers.Get("X-Custom") != "a b" {
			t.Errorf("arrived as %+v", a)
		}
		if _, ok := a.Headers["X-Empty"]; !ok {
			t.Errorf("an empty header was lost: %v", a.Headers)
		}
	})
	t.Run("many-on-one-connection", func(t *testing.T) {
		for i := range 200 {
			want := fmt.Sprintf("/app/%d", i)
			if a := c.ask(t, "GET", want, nil); a.Path != want {
				t.Fatalf("path %q, want %q", a.Path, want)
			}
		}
	})
	t.Run("head", func(t *testing.T) {
		resp, text, err := c.do("HEAD", "/app/bytes/1000", nil)
		if err != nil || resp.StatusCode != 200 || resp.ContentLength != 1000 || len(text) != 0 {
			t.Fatalf("%v %q %v", resp, text, err)
		}
	})
	t.Run("upload", func(t *testing.T) {
		for _, n := range []int64{0, 1, 16 << 10, 8 << 20} {
			body := &io.LimitedReader{R: &pattern{}, N: n}
			if a := c.ask(t, "POST", "/app/up", body); a.Body != n {
				t.Errorf("%d bytes arrived of %d", a.Body, n)
			}
		}
	})
	t.Run("download", func(t *testing.T) {
		for _, n := range []int{0, 1, 16 << 10, 8 << 20} {
			resp, text, err := c.do("GET", fmt.Sprintf("/app/bytes/%d", n), nil)
			if err != nil || resp.StatusCode != 200 || len(text) != n {
				t.Fatalf("%d bytes of %d: %v", len(text), n, err)
			}
			if !bytes.Equal(text, patternBytes(n)) {
				t.Errorf("some of the %d bytes changed", n)
			}
		}
	})
	t.Run("request-trailers", func(t *testing.T) {
		req, err := http.NewRequest("POST", c.base+"/app/x", struct{ io.Reader }{strings.NewReader("hello")})
		if err != nil {
			t.Fatal(err)
		}
		req.Trailer = http.Header{"X-Client-Sum": {"5"}}
		resp, err := c.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var a answer
		if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || a.Body != 5 {
			t.Fatalf("%s %+v %v", resp.Status, a, err)
		}
		if got := a.Trailers.Get("X-Client-Sum"); trailers && got != "5" {
			t.Errorf("trailers %v, want X-Client-Sum: 5", a.Trailers)
		}
	})
	t.Run("response-trailers", func(t *testing.T) {
		resp, text, err := c.do("GET", "/app/trailers", nil)
		if err != nil || string(text) != "body" {
			t.Fatalf("%q %v", text, err)
		}
		if got := resp.Trailer.Get("X-Sum"); trailers && got != "4" {
			t.Errorf("trailers %v, want X-Sum: 4", resp.Trailer)
		}
	})
}

// testUpgrade asks for a protocol change and talks over it.
func testUpgrade(t *testing.T, addr string) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(conn, "GET /app/switch HTTP/1.1\r\nHost: service.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") {
		t.Fatalf("answered %s %v", resp.Status, resp.Header)
	}
	for i := range 50 {
		want := strings.Repeat(string(rune('a'+i%26)), i*100+1)
		fmt.Fprint(conn, want)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(br, got); err != nil || string(got) != want {
			t.Fatalf("message %d: %q (%v), want %q", i, got, err, want)
		}
	}
}

// testTCP sends bytes, closes its side and expects them all back.
func testTCP(t *testing.T, addr string) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	const n = 3 << 20
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(patternBytes(n))
		if err == nil {
			err = conn.(*net.TCPConn).CloseWrite()
		}
		sent <- err
	}()
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("after %d bytes: %v", len(got), err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("|%d <nil>", n)
	if len(got) != n+len(want) || string(got[n:]) != want {
		t.Fatalf("%d bytes came back, ending in %q; want %d and %q", len(got), got[min(n, len(got)):], n, want)
	}
	if !bytes.Equal(got[:n], patternBytes(n)) {
		t.Error("some bytes changed")
	}
}

// testGRPC calls health and echo with grpc-go.
func testGRPC(t *testing.T, addr string) {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("service.example"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	t.Run("health", func(t *testing.T) {
		r, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
		if err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
			t.Fatalf("%v %v", r, err)
		}
	})
	t.Run("unary", func(t *testing.T) {
		for _, n := range []int{0, 1, 128, 1 << 20} {
			in, out := bytes.Repeat([]byte{7}, n), []byte(nil)
			if err := conn.Invoke(ctx, "/cairn.sample.v1.Echo/Unary", &in, &out, grpc.ForceCodec(raw{})); err != nil || !bytes.Equal(in, out) {
				t.Fatalf("%d bytes came back as %d: %v", n, len(out), err)
			}
		}
	})
	t.Run("stream", func(t *testing.T) {
		s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/cairn.sample.v1.Echo/Bidi", grpc.ForceCodec(raw{}))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 200 {
			in, out := bytes.Repeat([]byte{byte(i)}, i*37), []byte(nil)
			if err := s.SendMsg(&in); err != nil {
				t.Fatal(err)
			}
			if err := s.RecvMsg(&out); err != nil || !bytes.Equal(in, out) {
				t.Fatalf("message %d: %d bytes came back as %d: %v", i, len(in), len(out), err)
			}
		}
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		var out []byte
		if err := s.RecvMsg(&out); !errors.Is(err, io.EOF) {
			t.Fatalf("after the end: %v", err)
		}
	})
	t.Run("unknown-method", func(t *testing.T) {
		var in, out []byte
		err := conn.Invoke(ctx, "/cairn.sample.v1.Echo/None", &in, &out, grpc.ForceCodec(raw{}))
		if status.Code(err) != codes.Unimplemented {
			t.Fatalf("%v, want Unimplemented", err)
		}
	})
}
