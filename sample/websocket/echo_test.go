package websocket

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	xws "golang.org/x/net/websocket"
)

// newServer echoes until the returned cancel; what Echo returned goes to ended.
func newServer(t *testing.T) (srv *httptest.Server, goAway context.CancelFunc, ended chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended = make(chan error, 1)
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { ended <- Echo(ctx, w, r) }))
	t.Cleanup(func() { cancel(); srv.Close() })
	return srv, cancel, ended
}

// TestEcho talks to the server with somebody else's client.
func TestEcho(t *testing.T) {
	srv, _, ended := newServer(t)
	c, err := xws.Dial("ws"+strings.TrimPrefix(srv.URL, "http"), "", "http://origin.test/")
	if err != nil {
		t.Fatal(err)
	}
	c.MaxPayloadBytes = 1 << 24
	for _, want := range []string{"", "hello", "κόσμε 🪨", strings.Repeat("é", 100_000), strings.Repeat("x", 125), strings.Repeat("x", 126)} {
		var got string
		if err := xws.Message.Send(c, want); err != nil {
			t.Fatal(err)
		}
		if err := receive(c, &got, len(want)); err != nil || got != want {
			t.Errorf("%d bytes of text came back as %d bytes, %v", len(want), len(got), err)
		}
	}
	blob := make([]byte, 1_000_000)
	for i := range blob {
		blob[i] = byte(rand.Uint32())
	}
	if err := xws.Message.Send(c, blob); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := receive(c, &got, len(blob)); err != nil || got != string(blob) {
		t.Errorf("%d bytes came back as %d bytes, %v", len(blob), len(got), err)
	}
	c.Close()
	if err := <-ended; err != nil {
		t.Errorf("Echo returned %v after the client closed", err)
	}
}

// receive reads fragments until there are n bytes: the client shows each
// fragment as a message of its own.
func receive(c *xws.Conn, to *string, n int) error {
	var all []byte
	for {
		var part []byte
		if err := xws.Message.Receive(c, &part); err != nil {
			return err
		}
		if all = append(all, part...); len(all) >= n {
			*to = string(all)
			return nil
		}
	}
}

// raw is a client that sends what it is told and shows what comes.
type raw struct {
	t  *testing.T
	nc net.Conn
	r  *bufio.Reader
}

func dialRaw(t *testing.T, srv *httptest.Server) *raw {
	t.Helper()
	nc, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(nc, "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	r := bufio.NewReader(nc)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	// The key and its answer are the example of section 1.3.
	if got := resp.Header.Get("Sec-WebSocket-Accept"); resp.StatusCode != http.StatusSwitchingProtocols || got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("handshake answered %s with %q", resp.Status, got)
	}
	return &raw{t, nc, r}
}

// frame returns a client's frame.
func frame(first byte, payload string) string {
	h := []byte{first}
	switch n := len(payload); {
	case n < 126:
		h = append(h, 0x80|byte(n))
	default:
		h = binary.BigEndian.AppendUint16(append(h, 0xfe), uint16(n))
	}
	p := []byte(payload)
	mask := [4]byte{9, 8, 7, 6}
	unmask(mask, 0, p)
	return string(h) + string(mask[:]) + string(p)
}

func (c *raw) send(frames ...string) {
	c.t.Helper()
	if _, err := io.WriteString(c.nc, strings.Join(frames, "")); err != nil {
		c.t.Fatal(err)
	}
}

// expect reads one unmasked frame.
func (c *raw) expect(first byte, payload string) {
	c.t.Helper()
	var h [2]byte
	if _, err := io.ReadFull(c.r, h[:]); err != nil {
		c.t.Fatalf("reading a frame, want %#x %q: %v", first, payload, err)
	}
	n := int(h[1])
	if n == 126 {
		var l [2]byte
		if _, err := io.ReadFull(c.r, l[:]); err != nil {
			c.t.Fatal(err)
		}
		n = int(binary.BigEndian.Uint16(l[:]))
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(c.r, p); err != nil {
		c.t.Fatal(err)
	}
	if h[0] != first || string(p) != payload {
		c.t.Fatalf("got frame %#x %q, want %#x %q", h[0], p, first, payload)
	}
}

// expectClose reads a close frame with code, and the end.
func (c *raw) expectClose(code uint16) {
	c.t.Helper()
	var h [4]byte
	if _, err := io.ReadFull(c.r, h[:]); err != nil || h[0] != 0x88 {
		c.t.Fatalf("got % x, %v; want a close frame", h, err)
	}
	if got := binary.BigEndian.Uint16(h[2:]); got != code {
		c.t.Errorf("closed with %d, want %d", got, code)
	}
	if _, err := io.CopyN(io.Discard, c.r, int64(h[1])-2); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.r.ReadByte(); !errors.Is(err, io.EOF) {
		c.t.Errorf("after the close frame: %v, want EOF", err)
	}
}

// TestFragments sends messages in fragments, with a ping between them.
func TestFragments(t *testing.T) {
	srv, _, ended := newServer(t)
	c := dialRaw(t, srv)
	c.send(frame(0x01, "one "), frame(0x89, "ping"), frame(0x00, ""), frame(0x8a, "a pong nobody wants"), frame(0x80, "two"))
	c.expect(0x01, "one ")
	c.expect(0x8a, "ping")
	c.expect(0x00, "")
	c.expect(0x80, "two")
	// A rune cut in two by a fragment is still a rune.
	c.send(frame(0x01, "\xf0\x9f"), frame(0x80, "\xaa\xa8"))
	c.expect(0x01, "\xf0\x9f")
	c.expect(0x80, "\xaa\xa8")
	// A frame of more than our fragments comes back in several.
	c.send(frame(0x82, strings.Repeat("x", fragment+1)))
	c.expect(0x02, strings.Repeat("x", fragment))
	c.expect(0x80, "x")
	c.send(frame(0x88, "\x03\xe9")) // 1001
	c.expectClose(1001)
	if err := <-ended; err != nil {
		t.Errorf("Echo returned %v", err)
	}
}

func TestViolations(t *testing.T) {
	tests := []struct {
		name, frames string
		want         uint16
	}{
		{"continuation", frame(0x80, "x"), codeProtocol},
		{"unmasked", "\x81\x01x", codeProtocol},
		{"close-half", frame(0x88, "x"), codeProtocol},
		{"not-utf8", frame(0x81, "\xff"), codeBadData},
		{"cut-rune", frame(0x81, "\xf0\x9f"), codeBadData},
		{"cut-rune-later", frame(0x01, "") + frame(0x80, "\xf0\x9f"), codeBadData},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv, _, ended := newServer(t)
			c := dialRaw(t, srv)
			c.send(tt.frames)
			if tt.name == "cut-rune-later" {
				c.expect(0x01, "")
			}
			c.expectClose(tt.want)
			c.nc.Close()
			if err := <-ended; err == nil {
				t.Error("Echo returned nil")
			}
		})
	}
	t.Run("nested", func(t *testing.T) {
		srv, _, _ := newServer(t)
		c := dialRaw(t, srv)
		c.send(frame(0x01, "x"), frame(0x81, "y"))
		c.expect(0x01, "x")
		c.expectClose(codeProtocol)
	})
	t.Run("vanished", func(t *testing.T) {
		srv, _, ended := newServer(t)
		dialRaw(t, srv).nc.Close()
		if err := <-ended; err == nil {
			t.Error("Echo returned nil for a client that vanished")
		}
	})
}

func TestCloseEmpty(t *testing.T) {
	srv, _, ended := newServer(t)
	c := dialRaw(t, srv)
	c.send(frame(0x88, ""))
	c.expect(0x88, "")
	c.nc.Close()
	if err := <-ended; err != nil {
		t.Errorf("Echo returned %v", err)
	}
}

// TestGoAway tells clients that the server ends, in a silent connection and in
// one that is in the middle of a message.
func TestGoAway(t *testing.T) {
	for name, first := range map[string]string{"silent": "", "talking": frame(0x01, "x")} {
		t.Run(name, func(t *testing.T) {
			srv, goAway, ended := newServer(t)
			c := dialRaw(t, srv)
			if first != "" {
				c.send(first)
				c.expect(0x01, "x")
			}
			goAway()
			c.expectClose(codeGoingAway)
			c.nc.Close()
			if err := <-ended; err != nil {
				t.Errorf("Echo returned %v", err)
			}
		})
	}
}

func TestHandshakeRefused(t *testing.T) {
	good := http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
	}
	tests := []struct {
		name, method, header, value string
		want                        int
	}{
		{"plain", "GET", "Upgrade", "", http.StatusUpgradeRequired},
		{"connection", "GET", "Connection", "close", http.StatusUpgradeRequired},
		{"version", "GET", "Sec-Websocket-Version", "8", http.StatusUpgradeRequired},
		{"method", "POST", "", "", http.StatusMethodNotAllowed},
		{"key-missing", "GET", "Sec-Websocket-Key", "", http.StatusBadRequest},
		{"key-short", "GET", "Sec-Websocket-Key", "c2hvcnQ=", http.StatusBadRequest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(tt.method, "/", nil)
			r.Header = good.Clone()
			if tt.header != "" {
				r.Header.Set(tt.header, tt.value)
			}
			w := httptest.NewRecorder()
			if err := Echo(t.Context(), w, r); err == nil {
				t.Error("Echo returned nil")
			}
			if w.Code != tt.want || w.Header().Get("Sec-WebSocket-Version") != "13" {
				t.Errorf("answered %d, version %q; want %d", w.Code, w.Header().Get("Sec-WebSocket-Version"), tt.want)
			}
		})
	}
	t.Run("http2", func(t *testing.T) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header, r.ProtoMajor, r.ProtoMinor = good.Clone(), 2, 0
		w := httptest.NewRecorder()
		if err := Echo(t.Context(), w, r); err == nil || w.Code != http.StatusBadRequest {
			t.Errorf("answered %d, %v; want 400", w.Code, err)
		}
	})
}

func BenchmarkEcho(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _ = Echo(b.Context(), w, r) }))
	defer srv.Close()
	c, err := xws.Dial("ws"+strings.TrimPrefix(srv.URL, "http"), "", "http://origin.test/")
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	msg := bytes.Repeat([]byte("x"), 1024)
	b.SetBytes(1024)
	b.ReportAllocs()
	var got []byte
	for b.Loop() {
		if err := xws.Message.Send(c, msg); err != nil {
			b.Fatal(err)
		}
		if err := xws.Message.Receive(c, &got); err != nil {
			b.Fatal(err)
		}
	}
}
