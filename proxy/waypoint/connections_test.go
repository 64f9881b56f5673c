package waypoint

import (
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

func connected(c mesh.ConnectionSettings) *mesh.BackendPolicy {
	return &mesh.BackendPolicy{Connection: &c}
}

// A connection that does not come is given up in the policy's time.
func TestConnectTimeout(t *testing.T) {
	for _, proto := range []mesh.AppProtocol{mesh.ProtocolHTTP, mesh.ProtocolHTTP2} {
		s, v := policied(t, 1, proto, retryPolicyOf(mesh.Retry{}), connected(mesh.ConnectionSettings{ConnectTimeout: 2 * time.Second}))
		s.accept = 0
		c := s.tunnel(vip(v), true)
		s.send(c, getRequest, false)
		s.pass(1900 * time.Millisecond)
		if c.got.Len() > 0 {
			t.Errorf("%s: given up too early", proto)
		}
		s.pass(200 * time.Millisecond)
		s.want(c.take(), "HTTP/1.1 503")
		s.wantRecord(" UF ", "no answer to CONNECT in time")
	}
}

// Connections are closed after the policy's idle time, and a live edit of it holds for those that are there.
func TestIdleTimeoutOfConnections(t *testing.T) {
	s, v := policied(t, 1, mesh.ProtocolHTTP, nil, connected(mesh.ConnectionSettings{IdleTimeout: mesh.Never}))
	c := s.tunnel(vip(v), true)
	s.send(c, getRequest, false)
	s.send(s.last(), okResponse, false)
	expire := func(after time.Duration) bool {
		s.now = s.now.Add(after)
		s.do(func(t *loop.Turn) {
			for _, d := range s.p.destinations {
				d.expire(t)
			}
		})
		s.flow()
		return s.last().err != nil
	}
	if expire(time.Hour) {
		t.Error("it was closed though it may stay")
	}
	edited := *v
	edited.Ports = append([]mesh.ServicePort(nil), v.Ports...)
	edited.Ports[0].Backend = connected(mesh.ConnectionSettings{IdleTimeout: 2 * time.Hour})
	s.parts.Services = []*mesh.Service{&edited}
	s.publish()
	if expire(30 * time.Minute) {
		t.Error("it was closed too early")
	}
	if !expire(time.Hour) {
		t.Error("it was not closed")
	}
}

// A connection is closed after so many requests.
func TestMaxRequestsOfConnections(t *testing.T) {
	s, v := policied(t, 1, mesh.ProtocolHTTP, nil, connected(mesh.ConnectionSettings{MaxRequests: 2}))
	c := s.tunnel(vip(v), true)
	for i := range 6 {
		s.send(c, getRequest, false)
		if want := i/2 + 1; len(s.works) != want {
			t.Fatalf("request %d: %d connections, want %d", i, len(s.works), want)
		}
		s.send(s.last(), okResponse, false)
		s.want(c.take(), "HTTP/1.1 200")
	}
	if s.works[0].err == nil {
		t.Error("the first connection was not closed")
	}

	s, v = policied(t, 1, mesh.ProtocolHTTP2, nil, connected(mesh.ConnectionSettings{MaxRequests: 2}))
	conns := map[*h2.Conn]int{}
	s.h2workload(func(t *loop.Turn, st *h2.Stream, h *h2.Head) {
		conns[st.Conn()]++
		st.WriteHeaders(t, fieldsOf(":status", "204"), true)
	})
	p := s.h2tunnel(vip(v))
	for range 6 {
		if r := s.call(p, "/"); r.status != 204 {
			t.Fatalf("status %d", r.status)
		}
	}
	if len(conns) != 3 {
		t.Errorf("6 requests went over %d connections, want 3", len(conns))
	}
}

// HTTP/1.1 becomes HTTP/2 on the way to the endpoint where the policy says so.
func TestHTTP2ByPolicy(t *testing.T) {
	s, v := policied(t, 1, mesh.ProtocolHTTP, nil, connected(mesh.ConnectionSettings{HTTP2: true}))
	n := 0
	s.h2workload(func(t *loop.Turn, st *h2.Stream, h *h2.Head) {
		n++
		st.WriteHeaders(t, fieldsOf(":status", "204"), true)
	})
	c := s.tunnel(vip(v), true)
	s.send(c, getRequest, false)
	if got := c.take(); !strings.HasPrefix(got, "HTTP/1.1 204") || n != 1 {
		t.Errorf("got %q; %d requests over HTTP/2", got, n)
	}
}
