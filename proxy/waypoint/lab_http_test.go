package waypoint

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// What a client sends, what reaches the workload, what that answers, and what
// comes back; "…" stands for anything.
func TestHTTP1Exchanges(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	head := func(n int) string {
		return "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", n-len("GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n")) + "\r\n\r\n"
	}
	fields := func(n int) string { return strings.Repeat("X: y\r\n", n) }
	for _, tc := range []struct {
		name                      string
		send, sees, answers, gets string
		ends                      bool // the waypoint ends the connection
		more                      bool // a second request is served
	}{
		{"options-star", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.1\r\nhost: a\r\n", ok, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", false, true},
		{"absolute", "GET http://b:80/x?y HTTP/1.1\r\nHost: a\r\n\r\n", "GET /x?y HTTP/1.1\r\nhost: b:80\r\n", ok, "HTTP/1.1 200", false, true},
		{"head-60k", head(60 << 10), "GET / HTTP/1.1", ok, "HTTP/1.1 200", false, true},
		{"head-larger", head(60<<10 + 1), "", "", "HTTP/1.1 431", true, false},
		{"100-fields", "GET / HTTP/1.1\r\nHost: a\r\n" + fields(99) + "\r\n", "GET / HTTP/1.1", ok, "HTTP/1.1 200", false, true},
		{"101-fields", "GET / HTTP/1.1\r\nHost: a\r\n" + fields(100) + "\r\n", "", "", "HTTP/1.1 431", true, false},
		{"response-60k", getRequest, "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: " + strings.Repeat("x", 59<<10) + "\r\n\r\n", "HTTP/1.1 200", false, true},
		{"response-larger", getRequest, "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: " + strings.Repeat("x", 60<<10) + "\r\n\r\n", "HTTP/1.1 502", false, true},
		{"response-endless", getRequest, "GET", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 100<<10), "HTTP/1.1 502", false, true},
		{"head", "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD /", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", false, true},
		{"304", getRequest, "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", false, true},
		{"204", getRequest, "GET", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n", false, true},
		{"204-with-content", getRequest, "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 502", false, true},
		{"interim", getRequest, "GET", "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + ok, "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200", false, true},
		{"interim-for-1.0", "GET / HTTP/1.0\r\nHost: a\r\n\r\n", "GET / HTTP/1.1", "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + ok, "HTTP/1.1 200", true, false},
		{"keep-alive-1.0", "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", "GET / HTTP/1.1", ok, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok", false, true},
		{"chunks-for-1.0", "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", "GET / HTTP/1.1", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok", true, false},
		{"client-closes", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "GET", ok, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok", true, false},
		{"workload-closes", getRequest, "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", false, true},
		{"answered-early", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nfour", "POST", ok, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok", true, false},
		{"grpc-unserved", "POST /none HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc+proto\r\nContent-Length: 0\r\n\r\n", "", "", "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 12\r\n", false, true},
		{"twice-length", getRequest, "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 502", false, true},
		{"length-and-chunks", getRequest, "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "HTTP/1.1 502", false, true},
		{"unasked-101", getRequest, "GET", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "HTTP/1.1 502", false, true},
		{"nonsense", getRequest, "GET", "SSH-2.0-OpenSSH\r\n\r\n\r\n", "HTTP/1.1 502", false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parts, v := oneService(mesh.ProtocolHTTP)
			parts.Attachments = []mesh.RouteAttachment{
				route("all", 1, v, mesh.Route{Matches: []mesh.RouteMatch{pathMatch(mesh.MatchPrefix, "/")}, Backends: []mesh.Backend{to(v, 1)}}),
				route("none", 2, v, mesh.Route{Matches: []mesh.RouteMatch{pathMatch(mesh.MatchExact, "/none")}, Filters: mesh.RouteFilters{}, Backends: []mesh.Backend{{Service: v.Key, Port: 81, Weight: 1}}}),
			}
			if strings.Contains(tc.send, "/none") {
				parts.Attachments = parts.Attachments[1:]
				parts.Attachments[0].Route.Matches[0].Path.Value = "/other"
			}
			s := newScript(t, parts)
			c := s.tunnel(vip(v), true)
			s.send(c, tc.send, false)
			if tc.sees == "" {
				if len(s.works) > 0 {
					t.Fatalf("the workload saw %.200q", s.works[0].got.String())
				}
			} else {
				if len(s.works) == 0 {
					t.Fatalf("the workload saw nothing; the client got %.200q", c.got.String())
				}
				s.want(s.works[0].take(), tc.sees)
				s.send(s.works[0], tc.answers, false)
			}
			got := c.take()
			s.want(got, tc.gets)
			if c.ended != tc.ends {
				t.Errorf("the connection ended: %v, want %v (%.200q)", c.ended, tc.ends, got)
			}
			if tc.more {
				s.send(c, getRequest, false)
				if tc.sees == "" {
					return
				}
				w := s.works[len(s.works)-1]
				s.want(w.take(), "GET / ")
				s.send(w, ok, false)
				s.want(c.take(), "HTTP/1.1 200")
			}
			if lines := s.lines(); len(lines) != 1 && !tc.more || len(lines) != 2 && tc.more {
				t.Errorf("access log: %q", lines)
			}
		})
	}
}

// h2work makes the first workload's connection one of HTTP/2, and gives its
// requests to f.
type h2work struct {
	inner innerConn
	f     func(t *loop.Turn, st *h2.Stream, h *h2.Head)
}

func (w *h2work) Open(t *loop.Turn, st *h2.Stream, h *h2.Head) { w.f(t, st, h) }
func (w *h2work) Closed(*loop.Turn, error)                     {}

func (s *script) h2workload(f func(t *loop.Turn, st *h2.Stream, h *h2.Head)) {
	s.lab.serve = func(t *loop.Turn, _ string, st *h2.Stream, _ *h2.Head) {
		w := &h2work{f: f}
		w.inner.out = st
		w.inner.q.Init(&w.inner)
		w.inner.conn = h2.New(t, &w.inner, w, h2.Options{})
		st.Handle(&feeding{&w.inner})
		st.WriteHeaders(t, []hpack.HeaderField{{Name: ":status", Value: "200"}}, false)
	}
}

func fieldsOf(kv ...string) (f []hpack.HeaderField) {
	for i := 0; i < len(kv); i += 2 {
		f = append(f, hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
	}
	return f
}

// Responses of HTTP/2 workloads that are not as they should be.
func TestHTTP2Workloads(t *testing.T) {
	large := strings.Repeat("x", 30<<10)
	for _, tc := range []struct {
		name string
		f    func(t *loop.Turn, st *h2.Stream, h *h2.Head)
		want string // of an HTTP/1.1 client
		cut  bool   // the response is broken off
	}{
		{"whole", func(t *loop.Turn, st *h2.Stream, _ *h2.Head) {
			st.WriteHeaders(t, fieldsOf(":status", "200", "content-length", "2"), false)
			st.Write(t, []byte("ok"), true)
		}, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", false},
		{"no-length", func(t *loop.Turn, st *h2.Stream, _ *h2.Head) {
			st.WriteHeaders(t, fieldsOf(":status", "200"), false)
			st.Write(t, []byte("ok"), true)
		}, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", false},
		{"less-than-declared", func(t *loop.Turn, st *h2.Stream, _ *h2.Head) {
			st.WriteHeaders(t, fieldsOf(":status", "200", "content-length", "5"), false)
			st.Write(t, []byte("ok"), true)
		}, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", true},
		{"more-than-declared", func(t *loop.Turn, st *h2.Stream, _ *h2.Head) {
			st.WriteHeaders(t, fieldsOf(":status", "200", "content-length", "1"), false)
			st.Write(t, []byte("ok"), true)
		}, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n", true},
		{"declared-and-nothing", func(t *loop.Turn, st *h2.Stream, _ *h2.Head) {
			st.WriteHeaders(t, fieldsOf(":status", "200", "content-length", "1"), true)
		}, "HTTP/1.1 502", false},
		{"too-large", func(t *loop.Turn, st *h2.Stream, _ *h2.Head) {
			st.WriteHeaders(t, fieldsOf(":status", "200", "x-a", large, "x-b", large, "x-c", large), true)
		}, "HTTP/1.1 502", false},
		{"connection-field", func(t *loop.Turn, st *h2.Stream, _ *h2.Head) {
			st.WriteHeaders(t, fieldsOf(":status", "200", "connection", "close"), true)
		}, "HTTP/1.1 502", false},
		{"upper-case", func(t *loop.Turn, st *h2.Stream, _ *h2.Head) {
			st.WriteHeaders(t, fieldsOf(":status", "200", "X-A", "b"), true)
		}, "HTTP/1.1 502", false},
		{"line-feed", func(t *loop.Turn, st *h2.Stream, _ *h2.Head) {
			st.WriteHeaders(t, fieldsOf(":status", "200", "x-a", "b\r\nset-cookie: c"), true)
		}, "HTTP/1.1 502", false},
		{"101", func(t *loop.Turn, st *h2.Stream, _ *h2.Head) {
			st.WriteHeaders(t, fieldsOf(":status", "101"), false)
		}, "HTTP/1.1 502", false},
		{"only-interim", func(t *loop.Turn, st *h2.Stream, _ *h2.Head) {
			st.WriteHeaders(t, fieldsOf(":status", "103"), true)
		}, "HTTP/1.1 502", false},
		{"no-status", func(t *loop.Turn, st *h2.Stream, _ *h2.Head) {
			st.WriteHeaders(t, fieldsOf("x", "y"), true)
		}, "HTTP/1.1 502", false},
		{"reset", func(t *loop.Turn, st *h2.Stream, _ *h2.Head) { st.Reset(t, h2.InternalError) }, "HTTP/1.1 503", false},
		{"reset-later", func(t *loop.Turn, st *h2.Stream, _ *h2.Head) {
			st.WriteHeaders(t, fieldsOf(":status", "200"), false)
			st.Write(t, []byte("ok"), false)
			t.Defer(func(t *loop.Turn) { st.Reset(t, h2.InternalError) })
		}, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parts, v := oneService(mesh.ProtocolHTTP2)
			s := newScript(t, parts)
			s.h2workload(tc.f)
			c := s.tunnel(vip(v), true)
			s.send(c, getRequest, false)
			got := c.take()
			s.want(got, tc.want)
			if cut := c.err != nil; cut != tc.cut {
				t.Errorf("broken off: %v, want %v (%q)", c.err, tc.cut, got)
			}
			if strings.Contains(got, "set-cookie") {
				t.Errorf("a field was smuggled: %q", got)
			}
			if n := len(s.lines()); n != 1 {
				t.Errorf("%d records", n)
			}
		})
	}
}

// A workload that goes away with a word (GOAWAY) loses no request.
func TestHTTP2WorkloadThatDrains(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP2)
	s := newScript(t, parts)
	n := 0
	s.h2workload(func(t *loop.Turn, st *h2.Stream, _ *h2.Head) {
		if n++; n%3 == 0 {
			st.Conn().Drain(t)
		}
		if n%5 == 0 {
			st.Reset(t, h2.RefusedStream)
			return
		}
		st.WriteHeaders(t, fieldsOf(":status", "204"), true)
	})
	c := s.tunnel(vip(v), true)
	for i := range 100 {
		s.send(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", false)
		if got := c.take(); !strings.HasPrefix(got, "HTTP/1.1 204") {
			t.Fatalf("request %d: %q", i, got)
		}
	}
}

// Requests that arrive by HTTP/2 and are malformed.
func TestHTTP2Clients(t *testing.T) {
	base := []string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/"}
	with := func(kv ...string) []string { return append(base[:len(base):len(base)], kv...) }
	many := base[:len(base):len(base)]
	for i := range 300 {
		many = append(many, fmt.Sprint("x-", i), "y")
	}
	large := strings.Repeat("x", 30<<10)
	for _, tc := range []struct {
		name   string
		fields []string
		status int // 0: reset
	}{
		{"good", base, 204},
		{"300-fields", many, 204},
		{"too-large", with("x-a", large, "x-b", large, "x-c", large), 431},
		{"connection", with("connection", "close"), 0},
		{"te", with("te", "gzip"), 0},
		{"upper-case", with("X-A", "b"), 0},
		{"line-feed", with("x-a", "b\nc"), 0},
		{"no-path", base[:6], 0},
		{"twice-path", with(":path", "/"), 0},
		{"pseudo-late", with("x", "y", ":extra", "z"), 0},
		{"other-host", with("host", "b"), 0},
		{"same-host", with("host", "a"), 204},
		{"bad-length", with("content-length", "+1"), 0},
		{"length-and-end", with("content-length", "1"), 0},
		{"bad-path", append([]string{":path", "x"}, base[:6]...), 400},
		{"userinfo", append([]string{":authority", "u@b", ":path", "/"}, base[:4]...), 400},
		{"two-cookies", with("cookie", "a=1", "cookie", "b=2"), 204},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parts, v := oneService(mesh.ProtocolHTTP)
			s := newScript(t, parts)
			p := s.h2tunnel(vip(v))
			r := &tap{}
			s.do(func(t *loop.Turn) { r.st = p.inner.conn.Open(t, r, fieldsOf(tc.fields...), true) })
			s.flow()
			if tc.status == 204 {
				if len(s.works) == 0 {
					t.Fatalf("the workload saw nothing: status %d, %v", r.status, r.err)
				}
				in := s.works[0].take()
				if tc.name == "two-cookies" && !strings.Contains(in, "cookie: a=1; b=2\r\n") {
					t.Errorf("the workload saw %q", in)
				}
				s.send(s.works[0], "HTTP/1.1 204 No Content\r\n\r\n", false)
			} else if len(s.works) > 0 {
				t.Errorf("the workload saw %q", s.works[0].got.String())
			}
			if r.status != tc.status || (r.err != nil) != (tc.status == 0) {
				t.Errorf("status %d, error %v; want %d", r.status, r.err, tc.status)
			}
			// The connection goes on.
			again := s.call(p, "/again")
			s.send(s.works[len(s.works)-1], "HTTP/1.1 204 No Content\r\n\r\n", false)
			if again.status != 204 {
				t.Errorf("afterwards: %d, %v", again.status, again.err)
			}
		})
	}
}

// Idle connections to workloads are closed after a while, of both kinds.
func TestIdleConnectionsAreClosed(t *testing.T) {
	for _, proto := range []mesh.AppProtocol{mesh.ProtocolHTTP, mesh.ProtocolHTTP2} {
		parts, v := oneService(proto)
		s := newScript(t, parts)
		c := s.tunnel(vip(v), true)
		var work *tap
		if proto == mesh.ProtocolHTTP2 {
			s.h2workload(func(t *loop.Turn, st *h2.Stream, _ *h2.Head) {
				st.WriteHeaders(t, fieldsOf(":status", "204"), true)
			})
			s.send(c, getRequest, false)
		} else {
			s.send(c, getRequest, false)
			work = s.works[0]
			s.send(work, "HTTP/1.1 204 No Content\r\n\r\n", false)
		}
		s.want(c.take(), "HTTP/1.1 204")
		conn := s.peers[dialOf(parts.Workloads[0])].conns[0].conn
		if conn.Streams() != 1 {
			t.Fatalf("%s: %d connections to the workload, want 1", proto, conn.Streams())
		}
		for i := range 3 {
			now := s.now.Add(time.Duration(i) * (idleTimeout/2 + time.Second))
			for _, d := range s.p.destinations {
				s.turn.Now = now
				d.closeIdle(&s.turn, now.Add(-idleTimeout))
				d.closeIdleH2(&s.turn, now.Add(-idleTimeout))
				s.turn.End()
			}
			s.flow()
		}
		if conn.Streams() != 0 {
			t.Errorf("%s: the idle connection is still there", proto)
		}
	}
}
