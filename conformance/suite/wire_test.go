package suite

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"cairnproxy.dev/cairn/conformance/ca"
	"cairnproxy.dev/cairn/conformance/hbone"
	"cairnproxy.dev/cairn/conformance/proc"
)

// TestWire sends a Cairn waypoint what it must refuse, while a well-behaved
// client uses it all the time: whatever the others do, it notices nothing and
// the process lives.
func TestWire(t *testing.T) {
	c := newChain(t)
	p := c.startCairn(t)
	c.clients(t)
	good := c.neighbour(t)
	t.Run("handshake", func(t *testing.T) { testHandshakes(t, c) })
	t.Run("connect", func(t *testing.T) { testConnects(t, c) })
	t.Run("http2", func(t *testing.T) { testBrokenH2(t, c) })
	t.Run("http1", func(t *testing.T) { testBrokenH1(t, c) })
	t.Run("never-reads", func(t *testing.T) { testNeverReads(t, c, p) })
	r := good()
	if r.Failures != 0 || r.Requests == 0 {
		t.Errorf("the neighbour had %d failures in %d requests: %v", r.Failures, r.Requests, r.Err)
	}
	if err := p.Err(); err != nil {
		t.Error(err)
	}
}

// neighbour starts a client that sends 50 requests a second until the returned
// function is called, which tells how it fared.
func (c *chain) neighbour(t *testing.T) func() hbone.Result {
	load, err := hbone.Dial(t.Context(), hbone.Options{
		Addr: addrPort(c.waypoint, 15008).String(), Authority: addrPort(c.vip, portHTTP).String(),
		TLS: c.leaf(t, "client").Client(principal + "waypoint"), Conns: 2, Streams: 4, Host: hostname,
		Status: 404, // /bytes has no route: the answer is the waypoint's own
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan hbone.Result, 1)
	go func() {
		r, err := load.Open(ctx, 50, 0, time.Hour, func() {})
		if err != nil {
			r.Err, r.Failures = err, r.Failures+1
		}
		result <- r
	}()
	return func() hbone.Result {
		cancel()
		r := <-result
		load.Close()
		return r
	}
}

func testHandshakes(t *testing.T, c *chain) {
	otherRoot, err := ca.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := otherRoot.Issue("bench", "client")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := c.ca.IssueURI("spiffe://elsewhere/ns/bench/sa/client")
	if err != nil {
		t.Fatal(err)
	}
	own := c.leaf(t, "client")
	for _, test := range []struct {
		name   string
		config func() *tls.Config
		ok     bool
	}{
		{"good", func() *tls.Config { return own.Client("") }, true},
		{"no-certificate", func() *tls.Config { cfg := own.Client(""); cfg.Certificates = nil; return cfg }, false},
		{"other-root", func() *tls.Config { cfg := stranger.Client(""); cfg.VerifyConnection = nil; return cfg }, false},
		{"other-trust-domain", func() *tls.Config { return foreign.Client("") }, false},
		{"tls12", func() *tls.Config {
			cfg := own.Client("")
			cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			return cfg
		}, false},
		{"no-h2", func() *tls.Config {
			cfg := own.Client("")
			cfg.NextProtos, cfg.VerifyConnection = []string{"http/1.1"}, nil
			return cfg
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, err := c.connect(test.config(), addrPort(c.vip, portHTTP).String())
			if test.ok && (err != nil || status != "200") {
				t.Errorf("status %q, %v", status, err)
			}
			// TLS 1.3 tells a client that its certificate was refused only
			// after the handshake: what counts is that no CONNECT succeeds.
			if !test.ok && err == nil {
				t.Errorf("CONNECT was answered with %q", status)
			}
		})
	}
}

// connect dials the waypoint, sends one CONNECT and returns its status.
func (c *chain) connect(cfg *tls.Config, authority string) (string, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", addrPort(c.waypoint, 15008).String(), cfg)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	f, err := openH2(conn)
	if err != nil {
		return "", err
	}
	if err := writeHeaders(f, 1, false, ":method", "CONNECT", ":authority", authority); err != nil {
		return "", err
	}
	return readStatus(f, 1)
}

// openH2 sends preface and SETTINGS.
func openH2(conn net.Conn) (*http2.Framer, error) {
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return nil, err
	}
	f := http2.NewFramer(conn, bufio.NewReader(conn))
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	return f, f.WriteSettings()
}

func writeHeaders(f *http2.Framer, id uint32, end bool, fields ...string) error {
	return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block(fields...), EndHeaders: true, EndStream: end})
}

func block(fields ...string) []byte {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	for i := 0; i+1 < len(fields); i += 2 {
		enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}) // a bytes.Buffer never fails
	}
	return b.Bytes()
}

// readStatus reads frames until the stream has a status, is reset, or the
// connection ends.
func readStatus(f *http2.Framer, id uint32) (string, error) {
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return "", err
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if frame.StreamID == id {
				return frame.PseudoValue("status"), nil
			}
		case *http2.RSTStreamFrame:
			if frame.StreamID == id {
				return "", fmt.Errorf("stream reset: %v", frame.ErrCode)
			}
		case *http2.GoAwayFrame:
			if frame.ErrCode != http2.ErrCodeNo {
				return "", fmt.Errorf("connection ended: %v %s", frame.ErrCode, frame.DebugData())
			}
		}
	}
}

func testConnects(t *testing.T, c *chain) {
	own := c.leaf(t, "client")
	for name, authority := range map[string]string{
		"unknown-address": c.at(99, portHTTP).String(),
		"unknown-port":    addrPort(c.vip, 1).String(),
		"port-zero":       c.vip.String() + ":0",
		"no-port":         c.vip.String(),
		"nonsense":        "no such thing",
		"empty":           "",
		"zone":            "[fe80::1%eth0]:80",
		"huge":            strings.Repeat("a", 4000) + ":80",
		"itself":          addrPort(c.waypoint, 15008).String(),
	} {
		t.Run(name, func(t *testing.T) {
			status, err := c.connect(own.Client(""), authority)
			if err == nil && !strings.HasPrefix(status, "4") && !strings.HasPrefix(status, "5") {
				t.Errorf("CONNECT %q was answered with %q", authority, status)
			}
			if timedOut(err) {
				t.Errorf("CONNECT %q was never answered", authority)
			}
		})
	}
}

// testBrokenH2 breaks the outer HTTP/2 in many ways. The waypoint may end the
// stream or the connection, and must do one of them.
func testBrokenH2(t *testing.T, c *chain) {
	own := c.leaf(t, "client")
	for name, attack := range map[string]func(net.Conn, *http2.Framer) error{
		"garbage": func(w net.Conn, _ *http2.Framer) error {
			_, err := w.Write(bytes.Repeat([]byte("GARBAGE!"), 100))
			return err
		},
		"huge-frame": func(_ net.Conn, f *http2.Framer) error {
			return f.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 2<<20))
		},
		"data-on-zero": func(_ net.Conn, f *http2.Framer) error { return f.WriteRawFrame(http2.FrameData, 0, 0, []byte("x")) },
		"data-on-idle": func(_ net.Conn, f *http2.Framer) error { return f.WriteRawFrame(http2.FrameData, 0, 9, []byte("x")) },
		"even-stream": func(_ net.Conn, f *http2.Framer) error {
			return writeHeaders(f, 2, false, ":method", "CONNECT", ":authority", "a:1")
		},
		"bad-hpack": func(_ net.Conn, f *http2.Framer) error {
			return f.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
		},
		"bad-settings": func(_ net.Conn, f *http2.Framer) error {
			return f.WriteRawFrame(http2.FrameSettings, 0, 0, []byte{1, 2, 3})
		},
		"window-overflow": func(_ net.Conn, f *http2.Framer) error {
			f.WriteWindowUpdate(0, 1<<31-1)
			return f.WriteWindowUpdate(0, 1<<31-1)
		},
		"zero-window": func(_ net.Conn, f *http2.Framer) error {
			return f.WriteRawFrame(http2.FrameWindowUpdate, 0, 0, make([]byte, 4))
		},
		"alone-continued": func(_ net.Conn, f *http2.Framer) error { return f.WriteContinuation(1, true, block("a", "b")) },
		"push": func(_ net.Conn, f *http2.Framer) error {
			return f.WriteRawFrame(http2.FramePushPromise, 4, 1, make([]byte, 8))
		},
		"bad-ping": func(_ net.Conn, f *http2.Framer) error {
			return f.WriteRawFrame(http2.FramePing, 0, 0, make([]byte, 7))
		},
		"continuation-flood": func(_ net.Conn, f *http2.Framer) error {
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(":method", "CONNECT")}); err != nil {
				return err
			}
			for range 5000 {
				if err := f.WriteContinuation(1, false, block("x-filler", strings.Repeat("y", 1000))); err != nil {
					return nil // ended, as it should be
				}
			}
			return nil
		},
		"reset-flood": func(_ net.Conn, f *http2.Framer) error {
			for i := range uint32(5000) {
				if writeHeaders(f, 2*i+1, false, ":method", "CONNECT", ":authority", addrPort(c.vip, portHTTP).String()) != nil ||
					f.WriteRSTStream(2*i+1, http2.ErrCodeCancel) != nil {
					return nil // ended, as it may be
				}
			}
			return f.WriteRawFrame(http2.FrameSettings, 0, 0, []byte{1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := tls.Dial("tcp", addrPort(c.waypoint, 15008).String(), own.Client(""))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			f, err := openH2(conn)
			if err != nil {
				t.Fatal(err)
			}
			f.AllowIllegalWrites = true
			if err := attack(conn, f); err != nil {
				return // it was ended while we wrote
			}
			for {
				frame, err := f.ReadFrame()
				if timedOut(err) {
					t.Fatal("the connection lives on as if nothing had been wrong")
				}
				if err != nil {
					return
				}
				if g, ok := frame.(*http2.GoAwayFrame); ok && g.ErrCode != http2.ErrCodeNo {
					return
				}
				if _, ok := frame.(*http2.RSTStreamFrame); ok {
					return
				}
			}
		})
	}
}

// testBrokenH1 breaks the inner HTTP/1.1, which a plain TCP client of the node
// proxy can always do: one answer that blames the client, and the end.
func testBrokenH1(t *testing.T, c *chain) {
	const host = "Host: x\r\n"
	for name, text := range map[string]string{
		"no-host":              "GET /app/x HTTP/1.1\r\n\r\n",
		"two-hosts":            "GET /app/x HTTP/1.1\r\n" + host + "Host: y\r\n\r\n",
		"length-and-chunked":   "POST /app/x HTTP/1.1\r\n" + host + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /app/smuggled HTTP/1.1\r\n" + host + "\r\n",
		"two-lengths":          "POST /app/x HTTP/1.1\r\n" + host + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
		"negative-length":      "POST /app/x HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n",
		"signed-length":        "POST /app/x HTTP/1.1\r\n" + host + "Content-Length: +5\r\n\r\nhello",
		"chunked-not-last":     "POST /app/x HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
		"unknown-coding":       "POST /app/x HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"bad-chunk-size":       "POST /app/x HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
		"huge-chunk-size":      "POST /app/x HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n",
		"space-before-colon":   "GET /app/x HTTP/1.1\r\n" + host + "X-A : b\r\n\r\n",
		"folded":               "GET /app/x HTTP/1.1\r\n" + host + "X-A: b\r\n c\r\n\r\n",
		"nul-in-value":         "GET /app/x HTTP/1.1\r\n" + host + "X-A: b\x00c\r\n\r\n",
		"bare-cr":              "GET /app/x HTTP/1.1\r\n" + host + "X-A: b\rX-B: c\r\n\r\n",
		"control-in-path":      "GET /app/\x01x HTTP/1.1\r\n" + host + "\r\n",
		"space-in-path":        "GET /app/a b HTTP/1.1\r\n" + host + "\r\n",
		"version":              "GET /app/x HTTP/1.2.3\r\n" + host + "\r\n",
		"no-version":           "GET /app/x\r\n" + host + "\r\n",
		"bad-method":           "G@T /app/x HTTP/1.1\r\n" + host + "\r\n",
		"garbage":              strings.Repeat("\xff\x00garbage", 50) + "\r\n\r\n",
		"huge-header":          "GET /app/x HTTP/1.1\r\n" + host + "X-A: " + strings.Repeat("a", 300<<10) + "\r\n\r\n",
		"endless-start":        strings.Repeat("A", 300<<10),
		"many-headers":         "GET /app/x HTTP/1.1\r\n" + host + strings.Repeat("X-A: b\r\n", 20000) + "\r\n",
		"connect-inside":       "CONNECT 10.0.0.1:80 HTTP/1.1\r\nHost: 10.0.0.1:80\r\n\r\n",
		"http2-preface-broken": "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.DialTimeout("tcp", c.at(clientHTTP, 80).String(), 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(15 * time.Second))
			go io.WriteString(conn, text) // the waypoint may stop reading half-way
			answers(t, conn)
		})
	}
}

// answers reads what came back and fails when it is a success, more than one
// answer, none, or silence for ever.
func answers(t *testing.T, conn net.Conn) {
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if timedOut(err) {
		t.Fatal("neither answered nor ended")
	}
	if err != nil {
		t.Fatalf("ended without an answer: %v", err)
	}
	body, _ := io.ReadAll(resp.Body) // its end may be the connection's
	if resp.StatusCode < 400 || resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented && resp.StatusCode != http.StatusHTTPVersionNotSupported {
		t.Errorf("answered %s %q", resp.Status, body)
	}
	if next, err := http.ReadResponse(br, nil); err == nil {
		t.Errorf("a second answer followed: %s", next.Status)
	}
}

// testNeverReads opens twenty downloads of 64 MB and never reads them: what
// the waypoint takes from the servers meanwhile must stay bounded.
func testNeverReads(t *testing.T, c *chain, p *proc.Process) {
	const allowed = 200 << 20
	before, err := p.RSS()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", addrPort(c.waypoint, 15008).String(), c.leaf(t, "client").Client(""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	f, err := openH2(conn)
	if err != nil {
		t.Fatal(err)
	}
	// As much credit as the protocol allows: only the waypoint's own bounds
	// are left.
	if err := f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1}); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteWindowUpdate(0, 1<<31-1-65535); err != nil {
		t.Fatal(err)
	}
	for i := range uint32(20) {
		id := 2*i + 1
		if err := writeHeaders(f, id, false, ":method", "CONNECT", ":authority", addrPort(c.vip, portHTTP).String()); err != nil {
			t.Fatal(err)
		}
		if err := f.WriteData(id, false, []byte("GET /app/bytes/67108864 HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range 30 {
		<-tick.C
		now, err := p.RSS()
		if err != nil {
			t.Fatal(err)
		}
		if now-before > allowed {
			t.Fatalf("resident memory grew by %d MB for a peer that never reads", (now-before)>>20)
		}
	}
}
