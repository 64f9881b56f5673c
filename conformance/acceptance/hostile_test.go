package acceptance

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"cairnproxy.dev/cairn/conformance/ca"
)

const hostileMesh = demoWaypoint + `---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: demo}
spec: {selector: {app: echo}, ports: [{name: http, port: 8000, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: sniffed, namespace: demo}
spec: {selector: {app: echo}, ports: [{port: 8000, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: echo, namespace: demo, labels: {app: echo}}
spec:
  containers: [{name: echo, image: cairn/echo, ports: [{containerPort: 8080}]}]
`

const (
	// memoryGrowth is how much the program may grow while it is under attack.
	memoryGrowth = 192 << 20
	// headTime is within what a request's head must have come, and some slack.
	headTime = 45 * time.Second
)

// TestHostile lets clients misbehave in many ways while one does not: that one
// notices nothing, the process lives, and its memory stays bounded.
func TestHostile(t *testing.T) {
	m := up(t, write(t, t.TempDir(), "mesh.yaml", hostileMesh), "--access-log", "none")
	addr := m.addr(t, "demo", "echo")
	good := startLoad(t, 4, "", "http://"+addr+"/bytes/100", func(string) string { return "" })
	before, err := m.Process.RSS()
	if err != nil {
		t.Fatal(err)
	}
	peak := watchMemory(m)

	// Those that do nothing are begun first, and looked at in the end.
	idle := startIdlers(t, m, addr)
	t.Run("handshake", func(t *testing.T) { testForeignTLS(t, m) })
	for _, service := range []string{"echo", "sniffed"} {
		at := m.addr(t, "demo", service)
		t.Run("http1-"+service, func(t *testing.T) { testMalformedH1(t, at) })
		t.Run("http2-"+service, func(t *testing.T) { testMalformedH2(t, at) })
	}
	t.Run("never-reads", func(t *testing.T) { testNeverReads(t, addr) })
	t.Run("never-sends", func(t *testing.T) { testNeverSends(t, addr) })
	t.Run("holds-on", func(t *testing.T) { testHoldsOn(t, addr) })
	t.Run("vanishes", func(t *testing.T) { testVanishes(t, addr) })
	for name, check := range idle {
		t.Run(name, check)
	}
	noneFailed(t, good.stop())
	if err := m.Process.Err(); err != nil {
		t.Fatal(err)
	}
	if top := peak(); top-before > memoryGrowth {
		t.Errorf("resident memory grew from %d to %d MB", before>>20, top>>20)
	} else {
		t.Logf("resident memory grew from %d to %d MB at most", before>>20, top>>20)
	}
	// Everything was let go: as many descriptors as a mesh at rest has.
	good.stop()
	eventually(t, 20*time.Second, func() error {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.Process.Pid))
		if err != nil || len(fds) > 200 {
			return fmt.Errorf("%d descriptors are open: %v", len(fds), err)
		}
		return nil
	})
	must(t, client(t, "", false), 200, "GET", "http://"+addr+"/x")
}

// watchMemory samples the resident memory until the returned function is
// called, which tells the most that was seen.
func watchMemory(m *mesh) func() int64 {
	done, top := make(chan struct{}), make(chan int64)
	go func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		most := int64(0)
		for {
			if now, err := m.Process.RSS(); err == nil {
				most = max(most, now)
			}
			select {
			case <-tick.C:
			case <-done:
				top <- most
				return
			}
		}
	}()
	return func() int64 { close(done); return <-top }
}

// startIdlers opens connections that stay in the middle of something. The
// returned checks want them ended in time.
func startIdlers(t *testing.T, m *mesh, addr string) map[string]func(*testing.T) {
	began := time.Now()
	waypoint := net.JoinHostPort(m.Waypoints[0].Address, "15008")
	pod := net.JoinHostPort(m.pod(t, "echo").Address, "15008")
	checks := map[string]func(*testing.T){}
	for _, idler := range []struct {
		name, addr, first, drip string
		within                  time.Duration
		http1                   bool
	}{
		{"silent-tls-waypoint", waypoint, "", "", 20 * time.Second, false},
		{"silent-tls-pod", pod, "", "", 20 * time.Second, false},
		{"half-hello", waypoint, "\x16\x03\x01\x02\x00\x01\x00", "", 20 * time.Second, false},
		{"slow-hello", waypoint, "\x16\x03\x01\x40\x00\x01\x00\x3f\xfc", "x", 20 * time.Second, false},
		{"slow-header", addr, "GET /x HTTP/1.1\r\nHost: x\r\nX-A: ", "a", headTime, true},
		{"half-header", addr, "GET /x HTTP/1.1\r\nHos", "", headTime, true},
		{"slow-header-http2", addr, http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82", "", 2 * headTime, false},
	} {
		ends := make(chan ending, 20)
		for range cap(ends) {
			conn, err := net.DialTimeout("tcp", idler.addr, 5*time.Second)
			if err != nil {
				t.Fatalf("%s: %v", idler.name, err)
			}
			t.Cleanup(func() { conn.Close() })
			if _, err := io.WriteString(conn, idler.first); err != nil {
				t.Fatalf("%s: %v", idler.name, err)
			}
			if idler.drip != "" {
				go drip(conn, idler.drip)
			}
			conn.SetReadDeadline(began.Add(idler.within))
			go func() {
				text, err := io.ReadAll(conn)
				ends <- ending{string(text), err, time.Since(began)}
			}()
		}
		checks[idler.name] = func(t *testing.T) {
			last := time.Duration(0)
			for range cap(ends) {
				end := <-ends
				if err, ok := end.err.(net.Error); ok && err.Timeout() {
					t.Fatalf("still open %v later", idler.within)
				}
				last = max(last, end.after)
				if idler.http1 && end.text != "" && !strings.HasPrefix(end.text, "HTTP/1.1 408 ") {
					t.Errorf("ended with %q, want 408 or nothing", end.text)
				}
			}
			t.Logf("ended after %v", last.Round(time.Second))
		}
	}
	return checks
}

// ending is how and when a connection ended.
type ending struct {
	text  string
	err   error
	after time.Duration
}

// drip sends a little now and then, until it cannot.
func drip(conn net.Conn, text string) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := io.WriteString(conn, text); err != nil {
			return
		}
		<-tick.C
	}
}

// testForeignTLS comes with certificates that are not the mesh's.
func testForeignTLS(t *testing.T, m *mesh) {
	for _, end := range []string{m.Waypoints[0].Address, m.pod(t, "echo").Address} {
		for name, uri := range map[string]string{
			"own-root": "spiffe://cluster.local/ns/demo/sa/default", "other-domain": "spiffe://elsewhere/ns/demo/sa/default",
			"as-waypoint": "spiffe://cluster.local/ns/demo/sa/waypoint",
		} {
			t.Run(name, func(t *testing.T) {
				authority, err := ca.New("cluster.local")
				if err != nil {
					t.Fatal(err)
				}
				leaf, err := authority.IssueURI(uri)
				if err != nil {
					t.Fatal(err)
				}
				cfg := leaf.Client("")
				cfg.VerifyConnection = nil
				conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", net.JoinHostPort(end, "15008"), cfg)
				if err != nil {
					return // refused in the handshake
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(10 * time.Second))
				io.WriteString(conn, http2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
				got, err := io.ReadAll(conn)
				if err == nil || !strings.Contains(err.Error(), "tls: ") {
					t.Errorf("read %q and %v, want a TLS alert", got, err)
				}
			})
		}
		t.Run("garbage", func(t *testing.T) {
			for _, text := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", http2.ClientPreface, strings.Repeat("\x00", 100), "\x16\x03\x01\xff\xff" + strings.Repeat("\xff", 70000)} {
				conn, err := net.DialTimeout("tcp", net.JoinHostPort(end, "15008"), 5*time.Second)
				if err != nil {
					t.Fatal(err)
				}
				conn.SetDeadline(time.Now().Add(12 * time.Second))
				io.WriteString(conn, text)
				got, err := io.ReadAll(conn)
				if err, ok := err.(net.Error); ok && err.Timeout() {
					t.Errorf("%.20q is neither refused nor ended", text)
				}
				if bytes.Contains(got, []byte("HTTP/")) {
					t.Errorf("%.20q is answered with %q", text, got)
				}
				conn.Close()
			}
		})
	}
}

// testMalformedH1 sends what no HTTP/1.1 client may. The answer blames the
// client, there is one only, and the connection ends.
func testMalformedH1(t *testing.T, addr string) {
	const host = "Host: x\r\n"
	for _, test := range []struct {
		name, text string
		codes      string // that may be answered, separated by spaces
	}{
		{"no-host", "GET /x HTTP/1.1\r\n\r\n", "400"},
		{"two-hosts", "GET /x HTTP/1.1\r\n" + host + "Host: y\r\n\r\n", "400"},
		{"length-and-chunked", "POST /x HTTP/1.1\r\n" + host + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n" + host + "\r\n", "400"},
		{"two-lengths", "POST /x HTTP/1.1\r\n" + host + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", "400"},
		{"bad-length", "POST /x HTTP/1.1\r\n" + host + "Content-Length: 0x5\r\n\r\nhello", "400"},
		{"unknown-coding", "POST /x HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "400 501"},
		{"bad-chunk", "POST /x HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n", "400"},
		{"huge-chunk", "POST /x HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n", "400"},
		{"space-before-colon", "GET /x HTTP/1.1\r\n" + host + "X-A : b\r\n\r\n", "400"},
		{"folded", "GET /x HTTP/1.1\r\n" + host + "X-A: b\r\n c\r\n\r\n", "400"},
		{"nul", "GET /x HTTP/1.1\r\n" + host + "X-A: b\x00c\r\n\r\n", "400"},
		{"bad-version", "GET /x HTTP/3.7\r\n" + host + "\r\n", "400 505"},
		{"no-version", "GET /x\r\n" + host + "\r\n", "400 505"},
		{"bad-method", "G(T /x HTTP/1.1\r\n" + host + "\r\n", "400"},
		{"control-in-path", "GET /\x01x HTTP/1.1\r\n" + host + "\r\n", "400"},
		{"oversized-header", "GET /x HTTP/1.1\r\n" + host + "X-A: " + strings.Repeat("a", 400<<10) + "\r\n\r\n", "431"},
		{"oversized-headers", "GET /x HTTP/1.1\r\n" + host + strings.Repeat("X-A: "+strings.Repeat("b", 1000)+"\r\n", 400) + "\r\n", "431"},
		{"many-headers", "GET /x HTTP/1.1\r\n" + host + strings.Repeat("X-A: b\r\n", 30000) + "\r\n", "431 400"},
		{"oversized-path", "GET /" + strings.Repeat("a", 400<<10) + " HTTP/1.1\r\n" + host + "\r\n", "414 431"},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(15 * time.Second))
			go io.WriteString(conn, test.text) // it may be refused half-way
			br := bufio.NewReader(conn)
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatalf("no answer: %v", err)
			}
			if code := fmt.Sprint(resp.StatusCode); !strings.Contains(test.codes, code) {
				t.Errorf("status %s, want one of %s", code, test.codes)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Errorf("the answer is cut short: %v", err)
			}
			if next, err := http.ReadResponse(br, nil); err == nil {
				t.Errorf("a second answer followed: %s", next.Status)
			} else if err, ok := err.(net.Error); ok && err.Timeout() {
				t.Error("the connection stays open")
			}
		})
	}
}

// fields encodes a header section.
func fields(f ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for i := 0; i+1 < len(f); i += 2 {
		e.WriteField(hpack.HeaderField{Name: f[i], Value: f[i+1]}) // a bytes.Buffer never fails
	}
	return b.Bytes()
}

// testMalformedH2 breaks HTTP/2 inside a tunnel: the stream or the connection ends.
func testMalformedH2(t *testing.T, addr string) {
	get := func(more ...string) []byte {
		return fields(append([]string{":method", "GET", ":scheme", "http", ":authority", "x", ":path", "/x"}, more...)...)
	}
	open := func(f *http2.Framer, id uint32, block []byte) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: true})
	}
	for name, attack := range map[string]func(net.Conn, *http2.Framer) error{
		"even-stream": func(_ net.Conn, f *http2.Framer) error { return open(f, 2, get()) },
		"stream-zero": func(_ net.Conn, f *http2.Framer) error { return f.WriteRawFrame(http2.FrameData, 0, 0, []byte("x")) },
		"bad-hpack":   func(_ net.Conn, f *http2.Framer) error { return open(f, 1, bytes.Repeat([]byte{0xff}, 9)) },
		"upper-case":  func(_ net.Conn, f *http2.Framer) error { return open(f, 1, get("X-Upper", "a")) },
		"connection":  func(_ net.Conn, f *http2.Framer) error { return open(f, 1, get("connection", "close")) },
		"no-path": func(_ net.Conn, f *http2.Framer) error {
			return open(f, 1, fields(":method", "GET", ":scheme", "http"))
		},
		"crlf-in-value": func(_ net.Conn, f *http2.Framer) error { return open(f, 1, get("x-a", "b\r\nx-c: d")) },
		"late-pseudo":   func(_ net.Conn, f *http2.Framer) error { return open(f, 1, get("x-a", "b", ":path", "/y")) },
		"window-overflow": func(_ net.Conn, f *http2.Framer) error {
			f.WriteWindowUpdate(0, 1<<31-1)
			return f.WriteWindowUpdate(0, 1<<31-1)
		},
		"huge-frame": func(_ net.Conn, f *http2.Framer) error {
			return f.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 2<<20))
		},
		"garbage": func(c net.Conn, _ *http2.Framer) error {
			_, err := c.Write(bytes.Repeat([]byte("\xa5"), 1<<16))
			return err
		},
		"oversized": func(_ net.Conn, f *http2.Framer) error {
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: get(), EndStream: true}); err != nil {
				return err
			}
			for range 2000 {
				if err := f.WriteContinuation(1, false, fields("x-filler", strings.Repeat("y", 4000))); err != nil {
					return nil // ended, as it should be
				}
			}
			return nil
		},
		"rapid-reset": func(_ net.Conn, f *http2.Framer) error {
			for i := range uint32(20000) {
				if open(f, 2*i+1, get()) != nil || f.WriteRSTStream(2*i+1, http2.ErrCodeCancel) != nil {
					return nil
				}
			}
			return f.WriteRawFrame(http2.FrameSettings, 0, 0, []byte{1}) // ends it, if nothing has
		},
		"ping-flood": func(_ net.Conn, f *http2.Framer) error {
			for range 50000 { // none of the answers is read meanwhile
				if f.WritePing(false, [8]byte{}) != nil {
					return nil
				}
			}
			return f.WriteRawFrame(http2.FrameSettings, 0, 0, []byte{1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			f := http2.NewFramer(conn, bufio.NewReader(conn))
			f.AllowIllegalWrites = true
			f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
			if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
				t.Fatal(err)
			}
			if err := f.WriteSettings(); err != nil {
				t.Fatal(err)
			}
			end := make(chan error, 1)
			go func() { end <- readEnd(f) }()
			attack(conn, f) // it may be ended while we write
			if err := <-end; err != nil {
				t.Error(err)
			}
		})
	}
}

// readEnd reads until the stream or the connection ends with an error, and
// returns an error if that does not come. Requests before may have been
// answered, or refused.
func readEnd(f *http2.Framer) error {
	for {
		frame, err := f.ReadFrame()
		if err, ok := err.(net.Error); ok && err.Timeout() {
			return errors.New("it lives on as if nothing had been wrong")
		}
		if err != nil {
			return nil
		}
		switch frame := frame.(type) {
		case *http2.GoAwayFrame:
			if frame.ErrCode != http2.ErrCodeNo {
				return nil
			}
		case *http2.RSTStreamFrame:
			return nil
		case *http2.MetaHeadersFrame:
			if strings.HasPrefix(frame.PseudoValue("status"), "4") {
				return nil
			}
		}
	}
}

// testNeverReads asks for much over many connections and reads none of it.
func testNeverReads(t *testing.T, addr string) {
	var conns []net.Conn
	for range 30 {
		conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /bytes/50000000 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	// One connection, many streams, all the credit there is.
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, http2.ClientPreface)
	f := http2.NewFramer(conn, conn)
	f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	f.WriteWindowUpdate(0, 1<<31-1-65535)
	block := fields(":method", "GET", ":scheme", "http", ":authority", "x", ":path", "/bytes/50000000")
	for i := range uint32(30) {
		if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: block[:0:0], EndHeaders: false}); err != nil {
			t.Fatal(err)
		}
		if err := f.WriteContinuation(2*i+1, true, block); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			// The encoder's table grew with the first block; the others refer to it.
			block = fields(":method", "GET", ":scheme", "http", ":authority", "x", ":path", "/bytes/50000000")
		}
	}
	time.Sleep(3 * time.Second) // what would grow without bound has the time to
	// What is read at last is right.
	conns[0].SetDeadline(time.Now().Add(30 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(conns[0]), nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != 50000000 || err != nil {
		t.Errorf("%d bytes came to a client that read late, %v", n, err)
	}
}

// testNeverSends announces bodies that never come.
func testNeverSends(t *testing.T, addr string) {
	for range 50 {
		conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc"); err != nil {
			t.Fatal(err)
		}
	}
	// While they hold on, others are served.
	must(t, client(t, "", false), 200, "GET", "http://"+addr+"/x")
}

// testHoldsOn makes mistakes and keeps its side of the connection open: it is
// ended all the same, and soon.
func testHoldsOn(t *testing.T, addr string) {
	for name, text := range map[string]string{
		"http1": "GET /x HTTP/1.1\r\n\r\n",
		"http2": http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x01\x00\x00\x00\x00\x00\x00x",
		"close": "GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetReadDeadline(time.Now().Add(15 * time.Second))
			if _, err := io.WriteString(conn, text); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(conn); err != nil || len(got) == 0 {
				t.Fatalf("read %q, %v, want an answer and the end", got, err)
			}
			// The other half: a write fails once the peer has closed it.
			eventually(t, 15*time.Second, func() error {
				if _, err := io.WriteString(conn, "x"); err == nil {
					return errors.New("the connection still takes what is written")
				}
				return nil
			})
		})
	}
}

// testVanishes breaks off in the middle of things, with a reset.
func testVanishes(t *testing.T, addr string) {
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			text := []string{"GET /stream/1000/1ms HTTP/1.1\r\nHost: x\r\n\r\n", "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc", "GET /delay/2s HTTP/1.1\r\nHost: x\r\n\r\n", "GET /bytes/10000000 HTTP/1.1\r\nHost: x\r\n\r\n"}[i%4]
			io.WriteString(conn, text)
			conn.SetReadDeadline(time.Now().Add(time.Duration(i) * time.Millisecond))
			conn.Read(make([]byte, 100))
			if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
