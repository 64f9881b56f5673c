package waypoint

import (
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

func TestGRPCStatusOf(t *testing.T) {
	for _, tc := range []struct {
		status int
		flag   string
		want   string
	}{
		{400, "", "13"},
		{401, "", "16"},
		{403, "", "7"},
		{404, flagNoRoute, "12"},
		{429, "RL", "14"},
		{500, "", "2"},
		{502, flagProtocolError, "14"},
		{503, flagNoHealthy, "14"},
		{504, "", "14"},
		{504, flagTimeout, "4"},
		{504, flagIdleTimeout, "4"},
		{408, flagMaxDuration, "4"},
		{418, "", "2"},
		{301, "", "2"},
	} {
		if got := grpcStatusOf(tc.status, tc.flag); got != tc.want {
			t.Errorf("grpcStatusOf(%d, %q) = %s, want %s", tc.status, tc.flag, got, tc.want)
		}
	}
}

func TestGRPCMessage(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "no healthy upstream": "no healthy upstream", "100%": "100%25", "a\nb": "a%0Ab", "ü~\x7f": "%C3%BC~%7F",
	} {
		if got := grpcMessage(in); got != want {
			t.Errorf("grpcMessage(%q) = %q, want %q", in, got, want)
		}
	}
}

// grpcCall sends the head of a gRPC call.
func (s *script) grpcCall(p *h2tap, path string) *tap {
	r := &tap{read: true}
	s.do(func(t *loop.Turn) {
		r.st = p.inner.conn.Open(t, r, fieldsOf(":method", "POST", ":scheme", "http", ":authority", "a", ":path", path, "content-type", "application/grpc", "te", "trailers"), false)
	})
	s.flow()
	return r
}

func fieldOf(f []hpack.HeaderField, name string) string {
	for _, x := range f {
		if x.Name == name {
			return x.Value
		}
	}
	return ""
}

// Whatever we answer a gRPC call ourselves is a head with HTTP's 200 that ends the
// stream and has a gRPC status, by HTTP/2 and by HTTP/1.1.
func TestLocalRepliesToGRPC(t *testing.T) {
	deny := func(p *mesh.Parts) {
		p.Policies = []*mesh.AuthorizationPolicy{{
			Name: mesh.Name{Namespace: "app", Name: "p"}, Action: mesh.ActionAllow,
			TargetRefs: []mesh.TargetRef{{Kind: "Service", Name: "s1"}},
		}}
	}
	for _, tc := range []struct {
		name    string
		change  func(*mesh.Parts, *mesh.Service)
		status  string
		message string
		record  string // in the access log
		wait    time.Duration
	}{
		{"denied", func(p *mesh.Parts, _ *mesh.Service) { deny(p) }, "7", "RBAC: access denied", " 200 - rbac_access_denied", 0},
		{"no-rule", func(p *mesh.Parts, v *mesh.Service) {
			a := route("r", 1, v, mesh.Route{Kind: mesh.RouteGRPC, Matches: []mesh.RouteMatch{pathMatch(mesh.MatchExact, "/other.S/M")}, Backends: []mesh.Backend{to(v, 1)}})
			p.Attachments = []mesh.RouteAttachment{a}
		}, "12", "", " 200 NR route_not_found ", 0},
		{"broken-rule", func(p *mesh.Parts, v *mesh.Service) {
			p.Attachments = []mesh.RouteAttachment{route("r", 1, v, mesh.Route{Kind: mesh.RouteGRPC, Broken: "no"})}
		}, "14", "", " 200 - invalid_route ", 0},
		{"broken-backend", func(p *mesh.Parts, v *mesh.Service) {
			p.Attachments = []mesh.RouteAttachment{route("r", 1, v, mesh.Route{Kind: mesh.RouteGRPC, Backends: []mesh.Backend{{Weight: 1, Broken: "no"}}})}
		}, "14", "", " 200 - invalid_backend ", 0},
		{"no-endpoint", func(p *mesh.Parts, v *mesh.Service) { p.Workloads = nil }, "14", "no healthy upstream", " 200 UH no_healthy_upstream ", 0},
		{"timeout", func(p *mesh.Parts, v *mesh.Service) {
			p.Attachments = []mesh.RouteAttachment{route("r", 1, v, mesh.Route{Kind: mesh.RouteGRPC, Requests: timeoutPolicy(time.Second, 0), Backends: []mesh.Backend{to(v, 1)}})}
		}, "4", "upstream request timeout", " 200 UT ", 2 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parts, v := oneService(mesh.ProtocolGRPC)
			tc.change(&parts, v)
			s := newScript(t, parts)
			s.h2workload(func(*loop.Turn, *h2.Stream, *h2.Head) {})
			r := s.grpcCall(s.h2tunnel(vip(v)), "/pkg.Svc/Call")
			c := s.tunnel(vip(v), true)
			s.send(c, "POST /pkg.Svc/Call HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc+proto\r\nX-Request-Id: the-id\r\nContent-Length: 0\r\n\r\n", false)
			if tc.wait > 0 {
				s.pass(tc.wait)
			}
			if r.status != 200 || !r.ended && r.err == nil || r.got.Len() > 0 || len(r.trail) > 0 {
				t.Fatalf("status %d, ended %v, error %v, %d bytes, trailers %v", r.status, r.ended, r.err, r.got.Len(), r.trail)
			}
			if got := fieldOf(r.fields, "content-type"); got != "application/grpc" {
				t.Errorf("content-type %q", got)
			}
			if got := fieldOf(r.fields, "grpc-status"); got != tc.status {
				t.Errorf("grpc-status %q, want %s (%v)", got, tc.status, r.fields)
			}
			if got := fieldOf(r.fields, "grpc-message"); got != tc.message {
				t.Errorf("grpc-message %q, want %q", got, tc.message)
			}
			got := c.take()
			id := ""
			if tc.name == "denied" {
				id = "x-request-id: the-id\r\n"
			}
			want := "HTTP/1.1 200 OK\r\n" + id + "content-type: application/grpc\r\ngrpc-status: " + tc.status + "\r\n"
			s.want(got, want)
			if !strings.HasSuffix(got, "content-length: 0\r\n\r\n") {
				t.Errorf("HTTP/1.1 got %q", got)
			}
			for _, line := range s.lines() {
				if !strings.Contains(line, tc.record) {
					t.Errorf("access log has %q, want %q in it", line, tc.record)
				}
			}
		})
	}
}

// A filter may choose the status of a gRPC call.
func TestFilterChoosesGRPCStatus(t *testing.T) {
	parts, v := oneService(mesh.ProtocolGRPC)
	s := newScript(t, parts)
	for _, sp := range s.p.runtime.Load().services.All() {
		sp.chain = filters.Chain{{OnRequest: limiter{}}}
	}
	r := s.grpcCall(s.h2tunnel(vip(v)), "/pkg.Svc/Call")
	if r.status != 200 || fieldOf(r.fields, "grpc-status") != "8" || fieldOf(r.fields, "grpc-message") != "over 100%25" {
		t.Errorf("%d %v", r.status, r.fields)
	}
	c := s.tunnel(vip(v), true)
	s.send(c, getRequest, false)
	s.want(c.take(), "HTTP/1.1 429 Too Many Requests\r\n")
}

type limiter struct{}

func (limiter) Request(x *filters.Exchange) filters.Result {
	r := x.Answer(429, "RL", "limited", "over 100%")
	x.Reply.GRPCStatus = "8"
	return r
}
