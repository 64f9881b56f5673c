package tunnel

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Peers that the handshake must keep out.
func TestHandshakeRefuses(t *testing.T) {
	refused := make(chan error, 1)
	r := newRig(t, func(c *Connect) { c.Reject(503) }, func(o *ServerOptions) {
		o.HandshakeFailed = func(_ netip.AddrPort, err error) { refused <- err }
	})
	own := func() *tls.Config { return r.cache.Client(clientID, []string{serverID.String()}) }
	otherCA, err := identity.NewCA("elsewhere.local")
	if err != nil {
		t.Fatal(err)
	}
	other := identity.NewCache(otherCA.Issuer(time.Hour), identity.CacheOptions{})
	for _, tt := range []struct {
		name string
		cfg  func() *tls.Config
	}{
		{"no-certificate", func() *tls.Config {
			return &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13}
		}},
		{"other-trust-domain", func() *tls.Config {
			cfg := other.Client(mesh.Identity{TrustDomain: "elsewhere.local", Namespace: "ns", ServiceAccount: "client"}, []string{serverID.String()})
			cfg.InsecureSkipVerify, cfg.VerifyConnection, cfg.VerifyPeerCertificate = true, nil, nil
			return cfg
		}},
		{"tls12", func() *tls.Config {
			cfg := own()
			cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			return cfg
		}},
		{"no-alpn", func() *tls.Config {
			cfg := own()
			cfg.NextProtos, cfg.VerifyConnection = nil, nil
			return cfg
		}},
		{"alpn-http11", func() *tls.Config {
			cfg := own()
			cfg.NextProtos, cfg.VerifyConnection = []string{"http/1.1"}, nil
			return cfg
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", r.addr.String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			tc := tls.Client(conn, tt.cfg())
			// In TLS 1.3 the client has finished before the server judges it:
			// the refusal comes instead of the first byte.
			_, err = io.ReadFull(tc, make([]byte, 1))
			if err == nil {
				t.Error("the server spoke HTTP/2 to a peer that it must refuse")
			}
			within(t, "the report", func() { err = <-refused })
			t.Logf("client: server refused with: %v", err)
		})
	}
	if n := r.server.Conns(); n != 0 {
		t.Errorf("%d connections are open", n)
	}
}

func TestPlaintextAndSilenceOnTheTLSPort(t *testing.T) {
	refused := make(chan error, 1)
	r := newRig(t, func(c *Connect) { c.Reject(503) }, func(o *ServerOptions) {
		o.HandshakeFailed = func(_ netip.AddrPort, err error) { refused <- err }
		o.HandshakeTimeout = 50 * time.Millisecond
	})
	for name, text := range map[string]string{
		"http1": "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "preface": http2.ClientPreface, "silent": "", "half-a-record": "\x16\x03\x01\x02\x00\x01",
		"zeroes": strings.Repeat("\x00", 1000),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", r.addr.String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			if _, err := io.WriteString(conn, text); err != nil {
				t.Fatal(err)
			}
			_, err = io.Copy(io.Discard, conn)
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				t.Error("the server does not end the connection")
			}
			within(t, "the report", func() { <-refused })
		})
	}
}

// framed is an HTTP/2 client by hand on an authenticated connection.
type framed struct {
	*testing.T
	conn *tls.Conn
	fr   *http2.Framer
	buf  bytes.Buffer
	enc  *hpack.Encoder
	id   uint32
}

func (r *rig) framed(t *testing.T) *framed {
	t.Helper()
	conn, err := tls.Dial("tcp", r.addr.String(), r.cache.Client(clientID, []string{serverID.String()}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	f := &framed{T: t, conn: conn, fr: http2.NewFramer(conn, conn), id: 1}
	f.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.enc = hpack.NewEncoder(&f.buf)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := f.fr.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return f
}

// request sends a header section in as many frames as it takes, and returns
// the status of the answer, or the error code of the reset or GOAWAY.
func (f *framed) request(end bool, kv ...string) (status string, code http2.ErrCode) {
	f.Helper()
	f.buf.Reset()
	for i := 0; i < len(kv); i += 2 {
		if err := f.enc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]}); err != nil {
			f.Fatal(err)
		}
	}
	b := f.buf.Bytes()
	n := min(len(b), 16384)
	id := f.id
	f.id += 2
	_ = f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b[:n], EndStream: end, EndHeaders: n == len(b)})
	for b = b[n:]; len(b) > 0; b = b[n:] {
		n = min(len(b), 16384)
		_ = f.fr.WriteContinuation(id, n == len(b), b[:n])
	}
	for {
		fr, err := f.fr.ReadFrame()
		if err != nil {
			f.Fatalf("reading the answer: %v", err)
		}
		switch fr := fr.(type) {
		case *http2.MetaHeadersFrame:
			return fr.PseudoValue("status"), 0
		case *http2.GoAwayFrame:
			return "", fr.ErrCode
		case *http2.RSTStreamFrame:
			if fr.StreamID == id {
				return "", fr.ErrCode
			}
		}
	}
}

func TestStatusOfBadRequests(t *testing.T) {
	var seen sync.Map
	r := newRig(t, func(c *Connect) {
		seen.Store(c.Authority, c)
		c.Reject(503)
	})
	long := strings.Repeat("v", 1000)
	var many, baggage []string
	for range 70 {
		many = append(many, "name", long)
	}
	for range 1400 {
		baggage = append(baggage, "baggage", "k=v")
	}
	ok := []string{":method", "CONNECT", ":authority", "10.0.0.1:80"}
	for _, tt := range []struct {
		name   string
		fields []string
		status string
		code   http2.ErrCode
	}{
		{"good", ok, "503", 0},
		{"get", []string{":method", "GET", ":scheme", "https", ":path", "/", ":authority", "10.0.0.1:80"}, "400", 0},
		{"path", append([]string{":path", "/"}, ok...), "400", 0},
		{"scheme", append([]string{":scheme", "https"}, ok...), "400", 0},
		{"extended-connect", append([]string{":protocol", "websocket"}, ok...), "400", 0},
		{"two-methods", append([]string{":method", "CONNECT"}, ok...), "400", 0},
		{"two-authorities", append([]string{":authority", "10.0.0.2:80"}, ok...), "400", 0},
		{"no-authority", ok[:2], "400", 0},
		{"no-method", ok[2:], "400", 0},
		{"pseudo-after-regular", append([]string{"a", "b"}, ok...), "400", 0},
		{"empty", nil, "400", 0},
		{"too-many-fields", append(append([]string{}, ok...), many...), "431", 0},
		{"one-large-field", append([]string{"name", strings.Repeat("v", 70<<10)}, ok...), "431", 0},
		{"much-baggage", append(append([]string{}, ok...), baggage...), "503", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := r.framed(t)
			for _, end := range []bool{false, true} {
				status, code := f.request(end, tt.fields...)
				if status != tt.status || code != tt.code {
					t.Errorf("got status %q, code %v; want %q, %v", status, code, tt.status, tt.code)
				}
			}
			// The connection is as good as before.
			if status, code := f.request(false, ok...); status != "503" {
				t.Errorf("the next request got status %q, code %v", status, code)
			}
		})
	}
	// A header block without end is no request.
	t.Run("endless", func(t *testing.T) {
		f := r.framed(t)
		if _, code := f.request(false, append([]string{"name", strings.Repeat("\xff", 200<<10)}, ok...)...); code != http2.ErrCodeEnhanceYourCalm {
			t.Errorf("got %v, want ENHANCE_YOUR_CALM", code)
		}
	})
}

// Baggage comes in one line or several, and more than is looked at is cut.
func TestBaggageLines(t *testing.T) {
	field := func(v string) hpack.HeaderField { return hpack.HeaderField{Name: "baggage", Value: v} }
	head := []hpack.HeaderField{{Name: ":method", Value: "CONNECT"}, {Name: ":authority", Value: "a:1"}}
	var c Connect
	if !c.parse(append(head[:2:2], field("a=1"), field("b=2"), field("c=3"))) || c.Baggage != "a=1,b=2,c=3" {
		t.Errorf("baggage %q", c.Baggage)
	}
	c = Connect{}
	fields := head[:2:2]
	for range 1500 {
		fields = append(fields, field(strings.Repeat("v", 40)))
	}
	if !c.parse(fields) || len(c.Baggage) > maxBaggage+100 {
		t.Errorf("%d bytes of baggage were kept", len(c.Baggage))
	}
}

// A peer that opens and resets streams does not pile up handlers.
func TestResetStreamsDoNotPileUpHandlers(t *testing.T) {
	var mu sync.Mutex
	running, most := 0, 0
	release := make(chan struct{})
	r := newRig(t, func(*Connect) {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		<-release
		mu.Lock()
		running--
		mu.Unlock()
	})
	defer close(release)
	f := r.framed(t)
	var b []byte
	f.buf.Reset()
	for _, h := range []hpack.HeaderField{{Name: ":method", Value: "CONNECT"}, {Name: ":authority", Value: "10.0.0.1:80"}} {
		_ = f.enc.WriteField(h)
	}
	b = bytes.Clone(f.buf.Bytes())
	for range 1000 {
		_ = f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: f.id, BlockFragment: b, EndHeaders: true})
		_ = f.fr.WriteRSTStream(f.id, http2.ErrCodeCancel)
		f.id += 2
		b = []byte{0xbf, 0xbe} // both are in the table now
	}
	_ = f.fr.WritePing(false, [8]byte{1})
	for {
		fr, err := f.fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := fr.(*http2.PingFrame); ok && p.IsAck() {
			break
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if most > 400 {
		t.Errorf("%d handlers ran at once for one connection, want at most 400", most)
	}
}

func TestServeAfterClose(t *testing.T) {
	r := newRig(t, func(c *Connect) { c.Reject(503) })
	r.server.Close()
	ln := listen(t)
	if err := r.server.Serve(ln); err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is not closed: %v", err)
	}
	if err := r.server.Shutdown(t.Context()); err != nil {
		t.Errorf("second Shutdown: %v", err)
	}
}

// A handshake that is under way does not hold up the end.
func TestCloseDuringHandshake(t *testing.T) {
	r := newRig(t, func(c *Connect) { c.Reject(503) })
	conn, err := net.Dial("tcp", r.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write([]byte{0x16})
	within(t, "Shutdown", func() {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_ = r.server.Shutdown(ctx)
	})
}
