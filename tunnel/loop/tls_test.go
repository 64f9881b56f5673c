package loop

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairnproxy.dev/cairn/internal/logbuf"
)

func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func serverConfig(t testing.TB) *tls.Config {
	t.Helper()
	return &tls.Config{Certificates: []tls.Certificate{certificate(t)}, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true}
}

// tlsPair is a TLS socket, as the server, and its peer by crypto/tls.
func tlsPair(t testing.TB) (*Socket, *tls.Conn) {
	t.Helper()
	s, peer, _ := tlsPairTCP(t)
	return s, peer
}

func tlsPairTCP(t testing.TB) (*Socket, *tls.Conn, *net.TCPConn) {
	t.Helper()
	nc, pc := tcpPair(t)
	type result struct {
		s   *Socket
		err error
	}
	done := make(chan result, 1)
	cfg := serverConfig(t)
	go func() {
		s, err := NewTLS(t.Context(), nc, cfg, false, 10*time.Second)
		done <- result{s, err}
	}()
	peer := tls.Client(pc, &tls.Config{InsecureSkipVerify: true})
	if err := peer.Handshake(); err != nil {
		t.Fatal(err)
	}
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.s, peer, pc
}

func TestTLSEcho(t *testing.T) {
	for seed := range uint64(10) {
		s, peer := tlsPair(t)
		if seed%2 == 0 {
			_ = s.nc.SetWriteBuffer(32 << 10)
		}
		h := echoTo(s, seed)
		h.drained = func(*Turn) { s.Resume() }
		serve(t, s, h, true)
		exchange(t, peer, random(seed, 1<<20))
		if err := <-h.closed; err != io.EOF {
			t.Errorf("closed with %v, want EOF", err)
		}
	}
}

// As the client, and with the server's first bytes right behind its handshake.
func TestTLSClient(t *testing.T) {
	nc, pc := tcpPair(t)
	cfg := serverConfig(t)
	go func() {
		c := tls.Server(pc, cfg)
		io.WriteString(c, "hello")
		c.CloseWrite()
		io.Copy(io.Discard, c)
	}()
	s, err := NewTLS(t.Context(), nc, &tls.Config{InsecureSkipVerify: true}, true, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if cs, ok := s.TLS(); !ok || cs.Version != tls.VersionTLS13 {
		t.Errorf("TLS() = version %x, %v", cs.Version, ok)
	}
	var got bytes.Buffer
	h := newHandler(func(_ *Turn, b []byte) (int, error) { return got.Write(b) })
	within(t, "the greeting", func() {
		if err := s.Serve(h, false); err != io.EOF {
			t.Errorf("Serve: %v", err)
		}
	})
	if got.String() != "hello" {
		t.Errorf("got %q", got.String())
	}
}

func TestCloseNotify(t *testing.T) {
	s, peer, pc := tlsPairTCP(t)
	h := newHandler(nil)
	serve(t, s, h, true)
	data := random(1, 8<<20)
	Run(func(t *Turn) {
		s.Write(t, data)
		s.CloseWrite(t)
	})
	within(t, "the answer", func() {
		got, err := io.ReadAll(peer)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("got %d bytes, %v; want %d and close_notify", len(got), err, len(data))
		}
		// FIN follows: nothing more comes at all.
		if n, err := pc.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after close_notify: %d bytes, %v; want FIN", n, err)
		}
	})
	// The other direction is still open. What we say after our end is dropped.
	Run(func(t *Turn) { s.Write(t, []byte("too late")) })
	peer.CloseWrite()
	within(t, "the peer's end", func() {
		if err := <-h.closed; err != io.EOF {
			t.Errorf("closed: %v", err)
		}
	})
}

// A close_notify that the kernel takes in part is completed before the FIN.
func TestCloseNotifyInPieces(t *testing.T) {
	s, peer := tlsPair(t)
	var wrote []byte
	partial := func(b []byte) ([]byte, error) {
		wrote = append(wrote, b[:3]...)
		return b[3:], nil
	}
	rest, err := s.finish(partial)
	if err != nil || len(rest) == 0 || s.over || !s.ending {
		t.Fatalf("rest %d, %v; over %v", len(rest), err, s.over)
	}
	if _, err := s.nc.Write(append(wrote, rest...)); err != nil {
		t.Fatal(err)
	}
	Run(s.Flush)
	within(t, "the end", func() {
		if n, err := peer.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the peer read %d, %v; want close_notify", n, err)
		}
	})
	if !s.over {
		t.Error("no FIN was sent")
	}
	s.Close()
}

func TestTLSPeerVanishes(t *testing.T) {
	t.Run("fin", func(t *testing.T) {
		s, peer, pc := tlsPairTCP(t)
		h := newHandler(nil)
		serve(t, s, h, false)
		peer.Write([]byte("x")) // and the FIN at once, in the same event
		pc.Close()
		within(t, "the end", func() {
			if err := <-h.closed; err == nil {
				t.Error("closed without an error")
			}
		})
	})
	t.Run("reset", func(t *testing.T) {
		s, peer, pc := tlsPairTCP(t)
		h := newHandler(nil)
		serve(t, s, h, false)
		peer.Write([]byte("x"))
		pc.SetLinger(0)
		pc.Close()
		within(t, "the end", func() { <-h.closed })
	})
	t.Run("garbage", func(t *testing.T) {
		s, _, pc := tlsPairTCP(t)
		h := newHandler(nil)
		serve(t, s, h, false)
		pc.Write([]byte("\x17\x03\x03\x00\x20 this is no record of this key.."))
		within(t, "the end", func() {
			if err := <-h.closed; err == nil || err == io.EOF {
				t.Errorf("closed: %v, want a TLS error", err)
			}
		})
	})
	t.Run("oversized-record", func(t *testing.T) {
		s, _, pc := tlsPairTCP(t)
		h := newHandler(nil)
		serve(t, s, h, false)
		pc.Write([]byte("\x17\x03\x03\xff\xff"))
		within(t, "the end", func() {
			if err := <-h.closed; err == nil || err == io.EOF {
				t.Errorf("closed: %v, want a TLS error", err)
			}
		})
	})
}

func TestHandshakeTimeout(t *testing.T) {
	for name, feed := range map[string]func(c net.Conn, stop <-chan struct{}){
		"silent": func(net.Conn, <-chan struct{}) {},
		"slow": func(c net.Conn, stop <-chan struct{}) { // a byte at a time, forever
			hello := append([]byte{22, 3, 1, 0x40, 0}, make([]byte, 1<<14)...)
			for i := range hello {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := c.Write(hello[i : i+1]); err != nil {
					return
				}
				runtime.Gosched()
			}
			<-stop
		},
	} {
		t.Run(name, func(t *testing.T) {
			nc, peer := tcpPair(t)
			stop := make(chan struct{})
			go feed(peer, stop)
			within(t, "the timeout", func() {
				if _, err := NewTLS(t.Context(), nc, serverConfig(t), false, 30*time.Millisecond); err == nil {
					t.Error("the handshake succeeded")
				}
			})
			close(stop)
			if _, err := nc.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("the connection is not closed: %v", err)
			}
		})
	}
}

// TestKeyUpdate uses a real client that can be told to update its keys, with
// the suites of both layers.
func TestKeyUpdate(t *testing.T) {
	suites := []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"}
	if !fips140.Enabled() { // there it is not approved
		suites = append(suites, "TLS_CHACHA20_POLY1305_SHA256")
	}
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) { testKeyUpdate(t, suite) })
	}
}

func testKeyUpdate(t *testing.T, suite string) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed: crypto/tls cannot be told to update its keys")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cmd := exec.Command(openssl, "s_client", "-connect", ln.Addr().String(), "-tls1_3", "-ciphersuites", suite, "-msg")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out logbuf.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewTLS(t.Context(), c.(*net.TCPConn), serverConfig(t), false, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	cs, _ := s.TLS()
	if got := tls.CipherSuiteName(cs.CipherSuite); got != suite {
		t.Fatalf("the suite is %s, want %s", got, suite)
	}
	var got atomic.Pointer[string]
	got.Store(new(string))
	h := newHandler(func(t *Turn, b []byte) (int, error) {
		all := *got.Load() + string(b)
		got.Store(&all)
		s.Write(t, b)
		return len(b), nil
	})
	serve(t, s, h, false)
	want := ""
	for i := range 5 {
		line := fmt.Sprintf("line %d\n", i)
		want += line
		say(t, in, line)
		within(t, "the line", func() {
			for *got.Load() != want {
				runtime.Gosched()
			}
		})
		say(t, in, "K\n") // update, and ask for the same
	}
	within(t, "the echo", func() {
		for !strings.Contains(out.String(), "line 4") {
			runtime.Gosched()
		}
	})
	say(t, in, "Q\n")
	within(t, "openssl's end", func() { _ = cmd.Wait() })
	if *got.Load() != want {
		t.Errorf("got %q, want %q", *got.Load(), want)
	}
	text := out.String()
	sent, answered := strings.Count(text, ">>> TLS 1.3, Handshake [length 0005], KeyUpdate"), strings.Count(text, "<<< TLS 1.3, Handshake [length 0005], KeyUpdate")
	if sent == 0 {
		t.Skipf("this openssl does not update keys on demand:\n%s", text)
	}
	if answered == 0 || !strings.Contains(text, "line 4") {
		t.Errorf("%d key updates were asked for and %d answered", sent, answered)
	}
}

// say writes a line and waits until the other end of the pipe has taken it:
// openssl looks for commands at the beginning of each read.
func say(t *testing.T, w io.Writer, line string) {
	t.Helper()
	if _, err := io.WriteString(w, line); err != nil {
		t.Fatal(err)
	}
	f, ok := w.(interface{ Fd() uintptr })
	if !ok {
		t.Fatal("not a pipe")
	}
	fd := int(f.Fd())
	within(t, "openssl's reading", func() {
		for {
			if n, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err != nil || n == 0 {
				return
			}
			runtime.Gosched()
		}
	})
}

// TLS may have to answer key updates of a peer that does not read: bounded.
func TestTLSAnswersAreBounded(t *testing.T) {
	s, peer := tlsPair(t)
	std, ok := s.tls.(*stdTLS)
	if !ok {
		r := s.tls.(*records)
		r.in.Asked = true
		r.note(nil)
		one := r.pending()
		for range 100 {
			r.in.Asked = true
			r.note(nil)
		}
		if n := r.pending(); n == 0 || n != one {
			t.Errorf("%d bytes wait for 101 answers, %d for one", n, one)
		}
		s.Close()
		return
	}
	bad := make(chan error, 1)
	h := newHandler(func(_ *Turn, b []byte) (int, error) {
		// What crypto/tls would write while a flush is stuck.
		s.q.Lock()
		s.flushing = true
		s.q.Unlock()
		std.mem.Write(make([]byte, maxTLSAnswers+1))
		return len(b), nil
	})
	go func() { bad <- s.Serve(h, false) }()
	within(t, "the end", func() {
		peer.Write([]byte("x"))
		if err := <-bad; err != errTLSAnswers {
			t.Errorf("Serve: %v, want %v", err, errTLSAnswers)
		}
	})
}

// In FIPS 140-3 mode the records stay with crypto/tls: the same tests hold.
func TestStandardLayer(t *testing.T) {
	if fips140.Enabled() {
		return // we are the other process
	}
	s, _ := tlsPair(t)
	if _, ok := s.tls.(*records); !ok {
		t.Errorf("without FIPS mode the layer is %T", s.tls)
	}
	s.Close()
	cmd := exec.Command(os.Args[0], "-test.run", "TLS|CloseNotify|KeyUpdate|Handshake", "-test.v")
	cmd.Env = append(os.Environ(), "GODEBUG=fips140=on")
	out, err := cmd.CombinedOutput()
	if err != nil || bytes.Count(out, []byte("--- PASS: Test")) < 8 {
		t.Errorf("with crypto/tls: %v\n%s", err, out)
	}
}
