package waypoint

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"slices"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// named labs: workloads that answer every HTTP/1.1 request with their address.
type nameTap struct {
	st   *h2.Stream
	name string
	got  []byte
}

func (p *nameTap) Headers(*loop.Turn, *h2.Stream, *h2.Head) {}
func (p *nameTap) Data(t *loop.Turn, st *h2.Stream, b []byte, _ bool) {
	st.Consumed(t, len(b))
	p.got = append(p.got, b...)
	for {
		i := strings.Index(string(p.got), "\r\n\r\n")
		if i < 0 {
			return
		}
		p.got = p.got[i+4:]
		st.Write(t, fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(p.name), p.name), false)
	}
}
func (p *nameTap) Reset(*loop.Turn, *h2.Stream, error) {}
func (p *nameTap) Writable(*loop.Turn, *h2.Stream)     {}

// sticky lab: asks requests, each in a tunnel of its own, and reads the answers.
type stickyLab struct{ *script }

func newStickyLab(t *testing.T, parts mesh.Parts) *stickyLab {
	s := newScript(t, parts)
	s.lab.serve = func(t *loop.Turn, host string, st *h2.Stream, _ *h2.Head) {
		st.Handle(&nameTap{st: st, name: host})
		st.WriteHeaders(t, []hpack.HeaderField{{Name: ":status", Value: "200"}}, false)
	}
	return &stickyLab{s}
}

// ask sends a GET with header lines, and returns who answered and the response.
func (s *stickyLab) ask(v *mesh.Service, path string, lines ...string) (string, *http.Response) {
	s.t.Helper()
	c := s.tunnel(vip(v), true)
	s.send(c, "GET "+path+" HTTP/1.1\r\nHost: a\r\n"+strings.Join(append(lines, "", ""), "\r\n"), false)
	text := c.take()
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(text)), nil)
	if err != nil {
		s.t.Fatalf("reading %q: %v", text, err)
	}
	body := make([]byte, max(0, resp.ContentLength))
	_, _ = resp.Body.Read(body)
	s.send(c, "", true)
	return string(body), resp
}

// cookie returns the one cookie that a response sets, or nil.
func cookie(resp *http.Response) *http.Cookie {
	if c := resp.Cookies(); len(c) > 0 {
		return c[len(c)-1]
	}
	return nil
}

func bring(c *http.Cookie) string { return "Cookie: other=1; " + c.Name + "=" + c.Value }

func sessionOf(s mesh.Session) *mesh.RequestPolicy { return &mesh.RequestPolicy{Session: &s} }

// several are a service with n endpoints.
func several(n int) (mesh.Parts, *mesh.Service) {
	var works []*mesh.Workload
	for i := range n {
		works = append(works, labWorkload(i+1))
	}
	v := labService(1, mesh.ProtocolHTTP, works...)
	return mesh.Parts{Workloads: works, Services: []*mesh.Service{v}}, v
}

func TestSessionCookie(t *testing.T) {
	for _, kind := range []mesh.BalancerPolicy{mesh.BalanceDefault, mesh.BalanceRoundRobin, mesh.BalanceMaglev, mesh.BalancePeakEWMA} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			parts, v := several(5)
			v.Ports[0].Backend = &mesh.BackendPolicy{Balancer: &mesh.Balancer{Kind: kind}}
			v.Ports[0].Requests = sessionOf(mesh.Session{Name: "sid"})
			s := newStickyLab(t, parts)
			first := map[string]bool{}
			for range 10 {
				who, resp := s.ask(v, "/")
				c := cookie(resp)
				if c == nil || c.Name != "sid" || !c.HttpOnly || c.MaxAge != 0 || c.Path != "" {
					t.Fatalf("cookie %v", c)
				}
				first[who] = true
				for range 5 {
					again, resp := s.ask(v, "/x", bring(c))
					if again != who {
						t.Fatalf("a session moves from %s to %s", who, again)
					}
					if cookie(resp) != nil {
						t.Fatalf("the cookie is set again: %v", cookie(resp))
					}
				}
			}
			if len(first) < 2 {
				t.Errorf("ten clients went to %v", first)
			}
		})
	}
}

// TestSessionSurvives: a scale-up, another instance, and an endpoint that has gone.
func TestSessionSurvives(t *testing.T) {
	parts, v := several(6)
	v.Ports[0].Requests = sessionOf(mesh.Session{Name: "sid"})
	all := parts.Workloads
	parts.Workloads = all[:2]
	s := newStickyLab(t, parts)
	who, resp := s.ask(v, "/")
	c := cookie(resp)
	s.parts.Workloads = all
	s.publish()
	other := newStickyLab(t, mesh.Parts{Workloads: all, Services: parts.Services})
	for range 10 {
		for _, l := range []*stickyLab{s, other} {
			if again, _ := l.ask(v, "/", bring(c)); again != who {
				t.Fatalf("after a scale-up, or at another instance, %s answers, not %s", again, who)
			}
		}
	}
	s.parts.Workloads = slices.DeleteFunc(slices.Clone(all), func(w *mesh.Workload) bool {
		return w.Addresses[0].String()+":8080" == who || w.Addresses[0].String() == who
	})
	if len(s.parts.Workloads) != 5 {
		t.Fatalf("no workload is %s", who)
	}
	s.publish()
	next, resp := s.ask(v, "/", bring(c))
	c2 := cookie(resp)
	if next == who || c2 == nil || c2.Value == c.Value {
		t.Fatalf("when %s had gone, %s answered and set %v", who, next, c2)
	}
	for range 5 {
		if again, _ := s.ask(v, "/", bring(c2)); again != next {
			t.Fatalf("the second session moves from %s to %s", next, again)
		}
	}
}

// TestSessionForged: what is no token of ours is as good as none.
func TestSessionForged(t *testing.T) {
	parts, v := several(3)
	v.Ports[0].Requests = sessionOf(mesh.Session{Name: "sid"})
	s := newStickyLab(t, parts)
	_, resp := s.ask(v, "/")
	good := cookie(resp).Value
	for _, bad := range []string{
		"", "10.0.0.1:8080", strings.Repeat("A", tokenLen), good[:tokenLen-1], good + "A", "B" + good[1:], strings.Repeat("=", tokenLen), strings.Repeat("é", tokenLen/2),
	} {
		who, resp := s.ask(v, "/", "Cookie: sid="+bad)
		if who == "" || cookie(resp) == nil {
			t.Errorf("token %q: answered by %q, cookie %v; want a new session", bad, who, cookie(resp))
		}
	}
}

func TestSessionHeader(t *testing.T) {
	parts, v := several(5)
	v.Ports[0].Requests = sessionOf(mesh.Session{Name: "X-Session", Header: true})
	s := newStickyLab(t, parts)
	who, resp := s.ask(v, "/")
	token := resp.Header.Get("x-session")
	if len(token) != tokenLen || cookie(resp) != nil {
		t.Fatalf("header %q, cookie %v", token, cookie(resp))
	}
	for range 10 {
		again, resp := s.ask(v, "/", "X-Session: "+token)
		if again != who || resp.Header.Get("x-session") == "" {
			t.Fatalf("%s answers after %s, header %q", again, who, resp.Header.Get("x-session"))
		}
		token = resp.Header.Get("x-session")
	}
}

// TestSessionTimes: absolute and idle timeouts, and the cookie's lifetime.
func TestSessionTimes(t *testing.T) {
	session := func(p mesh.Session) (*stickyLab, *mesh.Service) {
		parts, v := several(40)
		p.Name = "sid"
		v.Ports[0].Requests = sessionOf(p)
		return newStickyLab(t, parts), v
	}
	t.Run("permanent", func(t *testing.T) {
		s, v := session(mesh.Session{Permanent: true, AbsoluteTimeout: time.Hour})
		_, resp := s.ask(v, "/")
		c := cookie(resp)
		if c.MaxAge != 3600 {
			t.Errorf("Max-Age %d, want 3600", c.MaxAge)
		}
		s.now = s.now.Add(59 * time.Minute)
		if _, resp := s.ask(v, "/", bring(c)); cookie(resp) != nil {
			t.Error("set again before its time")
		}
		s.now = s.now.Add(time.Minute)
		if _, resp := s.ask(v, "/", bring(c)); cookie(resp) == nil || cookie(resp).MaxAge != 3600 {
			t.Errorf("after its time: %v, want a new session", cookie(resp))
		}
	})
	t.Run("absolute", func(t *testing.T) {
		s, v := session(mesh.Session{AbsoluteTimeout: time.Hour})
		_, resp := s.ask(v, "/")
		c := cookie(resp)
		if c.MaxAge != 0 {
			t.Errorf("Max-Age %d for a session's cookie", c.MaxAge)
		}
		s.now = s.now.Add(time.Hour)
		if _, resp := s.ask(v, "/", bring(c)); cookie(resp) == nil {
			t.Error("the session goes on after its absolute timeout")
		}
	})
	t.Run("idle", func(t *testing.T) {
		s, v := session(mesh.Session{IdleTimeout: 80 * time.Second, AbsoluteTimeout: time.Hour, Permanent: true})
		who, resp := s.ask(v, "/")
		c := cookie(resp)
		for range 10 { // used each minute it goes on for ten
			s.now = s.now.Add(time.Minute)
			again, resp := s.ask(v, "/", bring(c))
			if again != who {
				t.Fatalf("%s answers, not %s", again, who)
			}
			if c = cookie(resp); c == nil {
				t.Fatal("the time of use was not told")
			}
		}
		if c.MaxAge != 3000 {
			t.Errorf("Max-Age %d, want 3000: ten minutes less", c.MaxAge)
		}
		s.now = s.now.Add(5 * time.Second)
		if _, resp := s.ask(v, "/", bring(c)); cookie(resp) != nil {
			t.Error("it is told with every request")
		}
		s.now = s.now.Add(80 * time.Second)
		moved := 0
		for range 20 {
			if again, _ := s.ask(v, "/", bring(c)); again != who {
				moved++
			}
		}
		if moved == 0 {
			t.Error("the session goes on after its idle timeout")
		}
	})
	t.Run("future", func(t *testing.T) {
		s, v := session(mesh.Session{})
		_, resp := s.ask(v, "/")
		c := cookie(resp)
		s.now = s.now.Add(-30 * time.Second) // another instance's clock
		if _, resp := s.ask(v, "/", bring(c)); cookie(resp) != nil {
			t.Error("a clock that is 30 s behind ends sessions")
		}
		s.now = s.now.Add(-time.Hour)
		if _, resp := s.ask(v, "/", bring(c)); cookie(resp) == nil {
			t.Error("a token of the future counts")
		}
	})
}

// TestSessionOverSplit: a session stays with its backend whatever the weights are now.
func TestSessionOverSplit(t *testing.T) {
	var works []*mesh.Workload
	for i := range 6 {
		works = append(works, labWorkload(i+1))
	}
	v1, v2 := labService(1, mesh.ProtocolHTTP, works[:3]...), labService(2, mesh.ProtocolHTTP, works[3:]...)
	v := labService(3, mesh.ProtocolHTTP)
	split := func(w1, w2 uint32) []mesh.RouteAttachment {
		return []mesh.RouteAttachment{route("split", 1, v, mesh.Route{
			Matches: []mesh.RouteMatch{pathMatch(mesh.MatchPrefix, "/shop")}, Backends: []mesh.Backend{to(v1, w1), to(v2, w2)},
			Requests: sessionOf(mesh.Session{Name: "sid"}),
		})}
	}
	s := newStickyLab(t, mesh.Parts{Workloads: works, Services: []*mesh.Service{v1, v2, v}, Attachments: split(1, 1)})
	version := func(who string) string {
		if strings.Contains("10.0.0.1 10.0.0.2 10.0.0.3", strings.TrimSuffix(who, ":8080")) {
			return "v1"
		}
		return "v2"
	}
	sessions := map[string]*http.Cookie{}
	at := map[string]string{}
	for range 100 {
		who, resp := s.ask(v, "/shop/cart?x=1")
		if c := cookie(resp); c.Path != "/shop" {
			t.Fatalf("Path %q, want /shop", c.Path)
		}
		sessions[version(who)], at[version(who)] = cookie(resp), who
	}
	if len(sessions) != 2 {
		t.Fatalf("100 requests over 1:1 went to %v", at)
	}
	for _, weights := range [][2]uint32{{99, 1}, {1, 0}, {0, 1}} {
		s.parts.Attachments = split(weights[0], weights[1])
		s.publish()
		for ver, c := range sessions {
			for range 10 {
				if who, _ := s.ask(v, "/shop", bring(c)); who != at[ver] {
					t.Fatalf("at %v the session of %s goes to %s, not %s", weights, ver, who, at[ver])
				}
			}
		}
	}
	// Its endpoint has gone: another of the same backend takes over, though its weight is 0.
	s.parts.Workloads = slices.DeleteFunc(slices.Clone(works), func(w *mesh.Workload) bool { return strings.TrimSuffix(at["v1"], ":8080") == w.Addresses[0].String() })
	s.publish()
	for range 10 {
		if who, _ := s.ask(v, "/shop", bring(sessions["v1"])); version(who) != "v1" || who == at["v1"] {
			t.Fatalf("the session of v1 goes to %s", who)
		}
	}
	// The whole backend has gone: so is the session.
	s.parts.Workloads = works[3:]
	s.publish()
	if who, resp := s.ask(v, "/shop", bring(sessions["v1"])); version(who) != "v2" || cookie(resp) == nil {
		t.Errorf("without v1 %s answers and sets %v", who, cookie(resp))
	}
}

// TestSessionOfSubsets: two backends of one service are two backends.
func TestSessionOfSubsets(t *testing.T) {
	parts, v := several(6)
	for i, w := range parts.Workloads {
		w.Labels = map[string]string{"version": []string{"v1", "v2"}[i%2]}
	}
	subset := func(version string, weight uint32) mesh.Backend {
		b := to(v, weight)
		b.Policy = &mesh.BackendPolicy{Subset: map[string]string{"version": version}}
		return b
	}
	rule := mesh.Route{Backends: []mesh.Backend{subset("v1", 1), subset("v2", 1)}, Requests: sessionOf(mesh.Session{Name: "sid"})}
	parts.Attachments = []mesh.RouteAttachment{route("r", 1, v, rule)}
	s := newStickyLab(t, parts)
	for range 20 {
		who, resp := s.ask(v, "/")
		c := cookie(resp)
		if c.Path != "/" {
			t.Fatalf("Path %q, want /", c.Path)
		}
		for range 5 {
			if again, _ := s.ask(v, "/", bring(c)); again != who {
				t.Fatalf("a session moves from %s to %s", who, again)
			}
		}
	}
}

func TestCookiePaths(t *testing.T) {
	m := func(kind mesh.MatchKind, path string) mesh.RouteMatch { return pathMatch(kind, path) }
	tests := []struct {
		matches []mesh.RouteMatch
		path    string
		want    string
	}{
		{nil, "/x", "/"},
		{[]mesh.RouteMatch{{Method: "GET"}}, "/x", "/"},
		{[]mesh.RouteMatch{m(mesh.MatchPrefix, "/a/")}, "/a/b", "/a"},
		{[]mesh.RouteMatch{m(mesh.MatchPrefix, "/")}, "/a/b", "/"},
		{[]mesh.RouteMatch{m(mesh.MatchExact, "/a/b")}, "/a/b?q", "/a/b"},
		{[]mesh.RouteMatch{m(mesh.MatchRegex, "/p1/p2/[^/]+/p3")}, "/p1/p2/foo/p3", "/p1/p2"},
		{[]mesh.RouteMatch{m(mesh.MatchRegex, "/plain")}, "/plain", "/plain"},
		{[]mesh.RouteMatch{m(mesh.MatchRegex, ".*")}, "/x", "/"},
		{[]mesh.RouteMatch{m(mesh.MatchPrefix, "/a"), m(mesh.MatchPrefix, "/b")}, "/b/c", "/b"},
		{[]mesh.RouteMatch{m(mesh.MatchPrefix, "/a"), m(mesh.MatchPrefix, "/a/b")}, "/a/b/c", "/a/b"},
		{[]mesh.RouteMatch{m(mesh.MatchPrefix, "/a"), m(mesh.MatchPrefix, "/b")}, "/bc", "/"},
		{[]mesh.RouteMatch{m(mesh.MatchPrefix, "/a; Domain=x")}, "/a/b", "/a"},
	}
	for _, tt := range tests {
		s := &sessionRule{Session: &mesh.Session{}, paths: cookiePaths(&mesh.Route{Matches: tt.matches})}
		if got := s.cookiePath(tt.path); got != tt.want {
			t.Errorf("%v for %s: Path %q, want %q", tt.matches, tt.path, got, tt.want)
		}
	}
}

func FuzzToken(f *testing.F) {
	good := (&token{backend: 7, created: 1, used: 2}).append(nil, "sid")
	f.Add(string(good))
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		var k token
		if k.parse(s, "sid") {
			if back := string(k.append(nil, "sid")); back != s {
				t.Errorf("%q is read as %q", s, back)
			}
			if k.parse(s, "other") {
				t.Errorf("%q is a token of two sessions", s)
			}
		}
	})
}

func BenchmarkToken(b *testing.B) {
	k := token{backend: 7, created: 1_800_000_000, used: 1_800_000_000}
	s := string(k.append(nil, "sid"))
	buf := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		if !k.parse(s, "sid") {
			b.Fatal("not read")
		}
		buf = k.append(buf[:0], "sid")
	}
}

// TestSessionOverTLS: real clients in both protocols, whose cookies a jar keeps, before and after a scale-up.
func TestSessionOverTLS(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%v", http2), func(t *testing.T) {
			var v *mesh.Service
			var parts mesh.Parts
			var works []*mesh.Workload
			r := newRig(t, func(r *rig) mesh.Parts {
				for i := range 5 {
					works = append(works, r.endpoint(fmt.Sprint("e", i), named(fmt.Sprint("e", i)), true))
				}
				v = r.service("web", 80, mesh.ProtocolSniff, works...)
				v.Ports[0].Requests = sessionOf(mesh.Session{Name: "sid", IdleTimeout: time.Hour})
				parts = mesh.Parts{Services: []*mesh.Service{v}, Workloads: works[:2]}
				return parts
			})
			jar, _ := cookiejar.New(nil)
			c := r.client(v, http2)
			c.Jar = jar
			_, who, _ := get(t, c, "http://web/")
			ask := func(n int) {
				t.Helper()
				for range n {
					if _, again, h := get(t, c, "http://web/"); again != who || h.Get("Set-Cookie") != "" {
						t.Fatalf("%q answers, not %q, and sets %q", again, who, h.Get("Set-Cookie"))
					}
				}
			}
			ask(10)
			parts.Workloads = works
			parts.Waypoints = r.snapshots.Current().Waypoints
			before := r.proxy.runtime.Load()
			r.snapshots.publish(parts)
			for r.proxy.runtime.Load() == before {
				time.Sleep(time.Millisecond)
			}
			ask(30)
		})
	}
}
