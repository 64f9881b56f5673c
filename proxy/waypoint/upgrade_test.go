package waypoint

import (
	"crypto/fips140"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h1"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

const (
	wsKey    = "dGhlIHNhbXBsZSBub25jZQ==" // RFC 6455's own, with the answer
	wsAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

const wsRequest = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: " + wsKey + "\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: p\r\n\r\n"

// connects opens an extended CONNECT.
func (s *script) connects(p *h2tap, more ...string) *tap {
	r := &tap{read: true}
	s.do(func(t *loop.Turn) {
		r.st = p.inner.conn.Open(t, r, fieldsOf(append([]string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "a", ":path", "/chat"}, more...)...), false)
	})
	s.flow()
	return r
}

// acceptOf is the answer to the key in an HTTP/1.1 request.
func acceptOf(t *testing.T, request string) string {
	t.Helper()
	_, rest, ok := strings.Cut(request, "sec-websocket-key: ")
	if !ok {
		t.Fatalf("no key in %q", request)
	}
	key, _, _ := strings.Cut(rest, "\r\n")
	var sum [sha1.Size]byte
	fips140.WithoutEnforcement(func() { sum = sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) })
	return base64.StdEncoding.EncodeToString(sum[:])
}

// wsWorkload makes workloads speak HTTP/2, and take extended CONNECT if connects.
func (s *script) wsWorkload(connects bool, f func(t *loop.Turn, st *h2.Stream, h *h2.Head)) {
	http1 := s.lab.serve
	s.lab.serve = func(t *loop.Turn, host string, st *h2.Stream, h *h2.Head) {
		st.Handle(&eitherVersion{s: s, host: host, head: h, http1: http1, http2: func(t *loop.Turn) h2.StreamHandler {
			w := &h2work{f: f}
			w.inner.out = st
			w.inner.q.Init(&w.inner)
			w.inner.conn = h2.New(t, &w.inner, w, h2.Options{ExtendedConnect: connects})
			return &feeding{&w.inner}
		}})
		st.WriteHeaders(t, []hpack.HeaderField{{Name: ":status", Value: "200"}}, false)
	}
}

// eitherVersion speaks HTTP/2 to those who begin with its preface.
type eitherVersion struct {
	s     *script
	host  string
	head  *h2.Head
	http1 func(t *loop.Turn, host string, st *h2.Stream, h *h2.Head)
	http2 func(t *loop.Turn) h2.StreamHandler
}

func (e *eitherVersion) Headers(*loop.Turn, *h2.Stream, *h2.Head) {}
func (e *eitherVersion) Reset(*loop.Turn, *h2.Stream, error)      {}
func (e *eitherVersion) Writable(*loop.Turn, *h2.Stream)          {}
func (e *eitherVersion) Data(t *loop.Turn, st *h2.Stream, b []byte, end bool) {
	var h h2.StreamHandler
	if strings.HasPrefix(string(b), "PRI") {
		h = e.http2(t)
	} else {
		p := &tap{st: st, read: true}
		e.s.works = append(e.s.works, p)
		h = p
	}
	st.Handle(h)
	h.Data(t, st, b, end)
}

func TestExtendedConnectToHTTP1(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP)
	s := newScript(t, parts)
	p := s.h2tunnel(vip(v))
	c := s.connects(p, "sec-websocket-protocol", "p", "origin", "o", "sec-websocket-key", "mine")
	s.do(func(t *loop.Turn) { c.st.Write(t, []byte("early"), false) })
	s.flow()
	w := s.works[0]
	in := w.take()
	s.want(in, "GET /chat HTTP/1.1\r\nhost: a\r\nsec-websocket-protocol: p\r\norigin: o\r\n")
	for _, want := range []string{"upgrade: websocket\r\n", "connection: upgrade\r\n", "sec-websocket-version: 13\r\n"} {
		if !strings.Contains(in, want) {
			t.Errorf("the workload saw %q, no %q", in, want)
		}
	}
	if strings.Contains(in, "mine") || strings.Contains(in, "content-length") || strings.Contains(in, "early") {
		t.Errorf("the workload saw %q", in)
	}
	s.send(w, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+acceptOf(t, in)+"\r\nSec-WebSocket-Protocol: p\r\n\r\nhello", false)
	if c.status != 200 || fieldOf(c.fields, "sec-websocket-protocol") != "p" || fieldOf(c.fields, "sec-websocket-accept") != "" || fieldOf(c.fields, "content-length") != "" {
		t.Fatalf("answer %d %v", c.status, c.fields)
	}
	if got := c.take(); got != "hello" {
		t.Errorf("client got %q", got)
	}
	if got := w.take(); got != "early" {
		t.Errorf("workload got %q", got)
	}
	s.send(c, "ping", false)
	s.send(w, "pong", false)
	if a, b := w.take(), c.take(); a != "ping" || b != "pong" {
		t.Errorf("got %q and %q", a, b)
	}
	s.send(w, "bye", true)
	if got := c.take(); got != "bye" || !c.ended {
		t.Errorf("client got %q, ended %v", got, c.ended)
	}
	s.send(c, "last", true) // half-closed: it still arrives
	if got := w.take(); got != "last" || !w.ended {
		t.Errorf("workload got %q, ended %v", got, w.ended)
	}
	if n := p.inner.conn.Streams(); n != 0 {
		t.Errorf("%d streams left", n)
	}
	if n := s.budget.Used(); n != 0 {
		t.Errorf("%d bytes still counted", n)
	}
	if lines := s.lines(); len(lines) != 1 || !strings.Contains(lines[0], `"GET /chat HTTP/2" 200 - via_upstream`) {
		t.Errorf("access log %q", lines)
	}
}

// Answers of HTTP/1.1 endpoints that are not what a WebSocket server says.
func TestExtendedConnectRefused(t *testing.T) {
	for _, tc := range []struct {
		name, answer string
		status       int
		body         string
	}{
		{"forbidden", "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403, "no"},
		{"redirect", "HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", 302, ""},
		{"not-switched", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 502, ""},
		{"wrong-accept", "HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + wsAccept + "\r\n\r\n", 502, ""},
		{"no-accept", "HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 502, ""},
		{"other", "HTTP/1.1 101 Go\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n", 502, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parts, v := oneService(mesh.ProtocolHTTP)
			s := newScript(t, parts)
			p := s.h2tunnel(vip(v))
			c := s.connects(p)
			s.send(c, "early", false)
			s.send(s.works[0], tc.answer, false)
			if c.status != tc.status {
				t.Fatalf("answer %d %v", c.status, c.fields)
			}
			if got := c.take(); tc.body != "" && got != tc.body {
				t.Errorf("body %q", got)
			}
			if strings.Contains(s.works[0].got.String(), "early") {
				t.Error("the workload got what was for the tunnel")
			}
			if n := p.inner.conn.Streams(); n != 0 {
				t.Errorf("%d streams left", n)
			}
			if n := s.budget.Used(); n != 0 {
				t.Errorf("%d bytes still counted", n)
			}
		})
	}
}

// WebSockets to endpoints of HTTP/2, from clients of both versions.
func TestWebSocketToHTTP2(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprint("client-h2=", http2), func(t *testing.T) {
			parts, v := oneService(mesh.ProtocolHTTP2)
			s := newScript(t, parts)
			w := &tap{read: true}
			s.wsWorkload(true, func(t *loop.Turn, st *h2.Stream, h *h2.Head) {
				w.fields = append(w.fields[:0], h.Fields...)
				w.st = st
				st.Handle(w)
				if w.ended = h.End; !h.End {
					st.WriteHeaders(t, fieldsOf(":status", "200", "sec-websocket-protocol", "p"), false)
				}
			})
			var c *tap
			if http2 {
				c = s.connects(s.h2tunnel(vip(v)), "sec-websocket-protocol", "p")
				if c.status != 200 || fieldOf(c.fields, "sec-websocket-protocol") != "p" {
					t.Fatalf("answer %d %v %v", c.status, c.fields, c.err)
				}
			} else {
				c = s.tunnel(vip(v), true)
				s.send(c, wsRequest, false)
				got := c.take()
				s.want(got, "HTTP/1.1 101 Switching Protocols\r\n")
				for _, want := range []string{"upgrade: websocket\r\n", "connection: upgrade\r\n", "sec-websocket-accept: " + wsAccept + "\r\n", "sec-websocket-protocol: p\r\n"} {
					if !strings.Contains(got, want) {
						t.Errorf("answer %q has no %q", got, want)
					}
				}
			}
			for name, want := range map[string]string{":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":path": "/chat", ":authority": "a", "sec-websocket-protocol": "p", "sec-websocket-key": "", "upgrade": "", "connection": ""} {
				if got := fieldOf(w.fields, name); got != want {
					t.Errorf("the workload saw %s %q, want %q", name, got, want)
				}
			}
			s.send(c, "ping", false)
			s.send(w, "pong", false)
			if a, b := w.take(), c.take(); a != "ping" || b != "pong" {
				t.Errorf("got %q and %q", a, b)
			}
			s.send(c, "last", true)
			if got := w.take(); got != "last" || !w.ended {
				t.Errorf("workload got %q, ended %v", got, w.ended)
			}
			s.send(w, "bye", true)
			if got := c.take(); got != "bye" || !c.ended {
				t.Errorf("client got %q, ended %v", got, c.ended)
			}
		})
	}
}

// An endpoint of HTTP/2 that does not take extended CONNECT is asked by HTTP/1.1.
func TestWebSocketWithoutExtendedConnect(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP2)
	s := newScript(t, parts)
	s.wsWorkload(false, func(t *loop.Turn, st *h2.Stream, h *h2.Head) { st.Reset(t, h2.ProtocolError) })
	c := s.tunnel(vip(v), true)
	s.send(c, wsRequest, false)
	if len(s.works) != 1 {
		t.Fatalf("no HTTP/1.1 connection: %q", c.take())
	}
	s.want(s.works[0].take(), "GET /chat HTTP/1.1\r\n")
	s.send(s.works[0], "HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+wsAccept+"\r\n\r\n", false)
	s.want(c.take(), "HTTP/1.1 101 ")
	s.send(c, "ping", false)
	if got := s.works[0].take(); got != "ping" {
		t.Errorf("workload got %q", got)
	}
}

// An endpoint that never says that it speaks HTTP/2 does not hold requests for ever.
func TestEndpointWithoutSettings(t *testing.T) {
	for _, request := range []string{wsRequest, getRequest} {
		parts, v := oneService(mesh.ProtocolHTTP2)
		s := newScript(t, parts) // its workloads take bytes and say nothing
		c := s.tunnel(vip(v), true)
		s.send(c, request, false)
		waitFor(t, func() bool {
			s.pass(connectTimeout / 4)
			return strings.HasPrefix(c.got.String(), "HTTP/1.1 503")
		})
	}
}

// waitFor gives goroutines that the code under test starts time to run.
func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for range 2000 {
		if done() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("it did not come to pass")
}

// What is no good extended CONNECT.
func TestHostileExtendedConnect(t *testing.T) {
	base := []string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "a", ":path", "/chat"}
	without := func(name string) (out []string) {
		for i := 0; i < len(base); i += 2 {
			if base[i] != name {
				out = append(out, base[i], base[i+1])
			}
		}
		return out
	}
	with := func(kv ...string) []string { return append(base[:len(base):len(base)], kv...) }
	swap := func(name, value string) []string { return append([]string{name, value}, without(name)...) }
	for _, tc := range []struct {
		name   string
		fields []string
		end    bool
		status int // 0: reset
	}{
		{"plain-connect", []string{":method", "CONNECT", ":authority", "a:80"}, false, 0},
		{"connect-with-path", without(":protocol"), false, 0},
		{"no-authority", without(":authority"), false, 0},
		{"empty-authority", swap(":authority", ""), false, 0},
		{"no-scheme", without(":scheme"), false, 0},
		{"no-path", without(":path"), false, 0},
		{"get-with-protocol", swap(":method", "GET"), false, 0},
		{"post-with-protocol", swap(":method", "POST"), false, 0},
		{"twice", with(":protocol", "websocket"), false, 0},
		{"late-protocol", append(append(without(":protocol"), "x", "y"), ":protocol", "websocket"), false, 0},
		{"empty-protocol", swap(":protocol", ""), false, 501},
		{"connect-udp", swap(":protocol", "connect-udp"), false, 501},
		{"h2c", swap(":protocol", "h2c"), false, 501},
		{"smuggled-protocol", swap(":protocol", "websocket\r\nx: y"), false, 501},
		{"ends", base, true, 0},
		{"length", with("content-length", "5"), false, 0},
		{"length-0", with("content-length", "0"), false, 0},
		{"upgrade-field", with("upgrade", "websocket"), false, 0},
		{"userinfo", swap(":authority", "u@a"), false, 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parts, v := oneService(mesh.ProtocolHTTP)
			s := newScript(t, parts)
			p := s.h2tunnel(vip(v))
			r := &tap{}
			s.do(func(t *loop.Turn) { r.st = p.inner.conn.Open(t, r, fieldsOf(tc.fields...), tc.end) })
			s.flow()
			if len(s.works) > 0 {
				t.Errorf("the workload saw %q", s.works[0].got.String())
			}
			if r.status != tc.status || tc.status == 0 && r.err == nil {
				t.Errorf("status %d, error %v; want %d", r.status, r.err, tc.status)
			}
			again := s.call(p, "/again")
			s.send(s.works[len(s.works)-1], "HTTP/1.1 204 No Content\r\n\r\n", false)
			if again.status != 204 {
				t.Errorf("afterwards: %d, %v", again.status, again.err)
			}
		})
	}
}

// Clients that go away, and endpoints that do, at each stage of a tunnel.
func TestExtendedConnectThatBreaks(t *testing.T) {
	for _, stage := range []string{"waiting", "open"} {
		for _, who := range []string{"client", "endpoint"} {
			t.Run(who+"-"+stage, func(t *testing.T) {
				parts, v := oneService(mesh.ProtocolHTTP)
				s := newScript(t, parts)
				p := s.h2tunnel(vip(v))
				c := s.connects(p)
				s.send(c, "early", false)
				w := s.works[0]
				if stage == "open" {
					in := w.take()
					s.send(w, "HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+acceptOf(t, in)+"\r\n\r\n", false)
				}
				broken, told := c, w
				if who == "endpoint" {
					broken, told = w, c
				}
				s.do(func(t *loop.Turn) { broken.st.Reset(t, h2.Cancel) })
				s.flow()
				if stage == "waiting" && who == "endpoint" {
					if c.status != 503 {
						t.Errorf("status %d, %v", c.status, c.err)
					}
				} else if told.err == nil {
					t.Error("the other side was not told")
				}
				if n := s.budget.Used(); n != 0 {
					t.Errorf("%d bytes still counted", n)
				}
				if n := p.inner.conn.Streams(); n != 0 {
					t.Errorf("%d streams left", n)
				}
				if lines := s.lines(); len(lines) != 1 {
					t.Errorf("access log %q", lines)
				}
			})
		}
	}
}

func FuzzConnectFromH2(f *testing.F) {
	f.Add("websocket", "CONNECT", "/chat", "a", "sec-websocket-key", "x")
	f.Fuzz(func(t *testing.T, protocol, method, path, authority, name, value string) {
		head := &h2.Head{Fields: fieldsOf(":method", method, ":protocol", protocol, ":scheme", "http", ":authority", authority, ":path", path, name, value)}
		var req mesh.Request
		var fr h1.Framing
		if _, err := requestFromH2(head, nil, nil, &req, &fr); err != nil {
			return
		}
		if req.Method != "GET" || fr.Upgrade != "websocket" || fr.Length != 0 || req.Authority == "" {
			t.Fatalf("%+v %+v", req, fr)
		}
		// What goes on is one request of HTTP/1.1 that asks for one thing.
		b := h1.AppendRequest(nil, &req, fr)
		var again mesh.Request
		var fa h1.Framing
		if n := h1.FindHeadEnd(b, 0); n != len(b) {
			t.Fatalf("%q ends at %d", b, n)
		}
		if err := h1.ParseRequest(b, nil, &again, &fa); err == nil && (fa.Upgrade != "websocket" || again.Method != "GET") {
			t.Fatalf("%q is read as %+v %+v", b, again, fa)
		}
	})
}
