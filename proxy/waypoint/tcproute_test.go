package waypoint

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"cairnproxy.dev/cairn/tunnel/sni"
)

// threeServices are s1, s2 and s3, each with one workload of that number.
func threeServices(proto mesh.AppProtocol) (mesh.Parts, [4]*mesh.Service) {
	var parts mesh.Parts
	var v [4]*mesh.Service
	for i := 1; i <= 3; i++ {
		w := labWorkload(i)
		v[i] = labService(i, proto, w)
		parts.Workloads, parts.Services = append(parts.Workloads, w), append(parts.Services, v[i])
	}
	return parts, v
}

// hosts makes the script note which workload each connection went to.
func (s *script) hosts() *[]string {
	list := &[]string{}
	serve := s.lab.serve
	s.lab.serve = func(t *loop.Turn, host string, st *h2.Stream, h *h2.Head) {
		*list = append(*list, host)
		serve(t, host, st, h)
	}
	return list
}

// firstFlight is what a TLS client sends first.
func firstFlight(t testing.TB, name string) string {
	var b flight
	cfg := &tls.Config{ServerName: name, InsecureSkipVerify: name == ""}
	_ = tls.Client(&b, cfg).HandshakeContext(context.Background())
	if b.Len() == 0 {
		t.Fatal("no ClientHello")
	}
	return b.String()
}

type flight struct{ bytes.Buffer }

func (*flight) Read([]byte) (int, error)         { return 0, errors.New("nobody is there") }
func (*flight) Close() error                     { return nil }
func (*flight) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (*flight) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (*flight) SetDeadline(time.Time) error      { return nil }
func (*flight) SetReadDeadline(time.Time) error  { return nil }
func (*flight) SetWriteDeadline(time.Time) error { return nil }

func tcpRoute(name string, created int, v *mesh.Service, b ...mesh.Backend) mesh.RouteAttachment {
	return route(name, created, v, mesh.Route{Kind: mesh.RouteTCP, Backends: b})
}

func tlsRoute(name string, created int, v *mesh.Service, hosts string, b ...mesh.Backend) mesh.RouteAttachment {
	return route(name, created, v, mesh.Route{Kind: mesh.RouteTLS, Hostnames: strings.Fields(hosts), Backends: b})
}

// Where a connection to s1 goes, or with which flag it is refused.
func TestConnectionRoutes(t *testing.T) {
	web := firstFlight(t, "web.example.com")
	nameless := firstFlight(t, "")
	type routes = []mesh.RouteAttachment
	for _, tc := range []struct {
		name   string
		proto  mesh.AppProtocol
		routes func(v [4]*mesh.Service) routes
		send   string
		want   string // the workload, or a flag with a cause
		log    string // further words of the record
	}{
		{"no-route", mesh.ProtocolTCP, nil, "x", "10.0.0.1", "outbound|80||s1"},
		{"tcp", mesh.ProtocolTCP, func(v [4]*mesh.Service) routes { return routes{tcpRoute("r", 1, v[1], to(v[2], 1))} }, "x", "10.0.0.2", "s2.app.svc.cluster.local"},
		{"tcp-sniffed", mesh.ProtocolSniff, func(v [4]*mesh.Service) routes { return routes{tcpRoute("r", 1, v[1], to(v[2], 1))} }, "\x00\x01", "10.0.0.2", "app/r/0"},
		{"tcp-sniffed-http", mesh.ProtocolSniff, func(v [4]*mesh.Service) routes { return routes{tcpRoute("r", 1, v[1], to(v[2], 1))} }, getRequest, "10.0.0.1", ""},
		{"older-wins", mesh.ProtocolTCP, func(v [4]*mesh.Service) routes {
			return routes{tcpRoute("a", 2, v[1], to(v[3], 1)), tcpRoute("z", 1, v[1], to(v[2], 1))}
		}, "x", "10.0.0.2", "app/z/0"},
		{"name-wins", mesh.ProtocolTCP, func(v [4]*mesh.Service) routes {
			return routes{tcpRoute("z", 1, v[1], to(v[3], 1)), tcpRoute("a", 1, v[1], to(v[2], 1))}
		}, "x", "10.0.0.2", "app/a/0"},
		{"broken-rule", mesh.ProtocolTCP, func(v [4]*mesh.Service) routes {
			a := tcpRoute("r", 1, v[1], to(v[2], 1))
			a.Route.Broken = "no such thing"
			return routes{a}
		}, "x", "NC no such thing", "app/r/0"},
		{"broken-backend", mesh.ProtocolTCP, func(v [4]*mesh.Service) routes {
			return routes{tcpRoute("r", 1, v[1], mesh.Backend{Weight: 1, Broken: "not permitted"})}
		}, "x", "NC not permitted", "app/r/0"},
		{"missing-port", mesh.ProtocolTCP, func(v [4]*mesh.Service) routes {
			return routes{tcpRoute("r", 1, v[1], mesh.Backend{Service: v[2].Key, Port: 9, Weight: 1})}
		}, "x", "NC service app/s2.app.svc.cluster.local has no port 9", ""},
		{"no-weight", mesh.ProtocolTCP, func(v [4]*mesh.Service) routes { return routes{tcpRoute("r", 1, v[1], to(v[2], 0))} }, "x", "NC no backend has a weight", ""},
		{"no-backend", mesh.ProtocolTCP, func(v [4]*mesh.Service) routes { return routes{tcpRoute("r", 1, v[1])} }, "x", "NC no backend has a weight", ""},
		{"consumer", mesh.ProtocolTCP, func(v [4]*mesh.Service) routes {
			a := tcpRoute("own", 2, v[1], to(v[3], 1))
			a.ConsumerNamespace = clientID.Namespace
			return routes{tcpRoute("r", 1, v[1], to(v[2], 1)), a}
		}, "x", "10.0.0.3", "app/own/0"},
		{"other-consumer", mesh.ProtocolTCP, func(v [4]*mesh.Service) routes {
			a := tcpRoute("other", 2, v[1], to(v[3], 1))
			a.ConsumerNamespace = "elsewhere"
			return routes{a}
		}, "x", "10.0.0.1", ""},

		{"tls", mesh.ProtocolTLS, func(v [4]*mesh.Service) routes {
			return routes{tlsRoute("r", 1, v[1], "web.example.com", to(v[2], 1))}
		}, web, "10.0.0.2", "web.example.com app/r/0"},
		{"tls-case", mesh.ProtocolTLS, func(v [4]*mesh.Service) routes {
			return routes{tlsRoute("r", 1, v[1], "WEB.example.com", to(v[2], 1))}
		}, firstFlight(t, "web.Example.COM"), "10.0.0.2", ""},
		{"tls-no-match", mesh.ProtocolTLS, func(v [4]*mesh.Service) routes {
			return routes{tlsRoute("r", 1, v[1], "example.com *.web.example.com *.com.example", to(v[2], 1))}
		}, web, "NR no route", "web.example.com"},
		{"tls-exact-before-wildcard", mesh.ProtocolTLS, func(v [4]*mesh.Service) routes {
			return routes{tlsRoute("w", 1, v[1], "*.example.com", to(v[3], 1)), tlsRoute("e", 2, v[1], "web.example.com", to(v[2], 1))}
		}, web, "10.0.0.2", ""},
		{"tls-longest-wildcard", mesh.ProtocolTLS, func(v [4]*mesh.Service) routes {
			return routes{tlsRoute("s", 1, v[1], "*.com", to(v[3], 1)), tlsRoute("l", 2, v[1], "*.example.com", to(v[2], 1))}
		}, web, "10.0.0.2", ""},
		{"tls-wildcard-of-two-labels", mesh.ProtocolTLS, func(v [4]*mesh.Service) routes { return routes{tlsRoute("s", 1, v[1], "*.com", to(v[3], 1))} }, web, "10.0.0.3", ""},
		{"tls-any", mesh.ProtocolTLS, func(v [4]*mesh.Service) routes {
			return routes{tlsRoute("any", 1, v[1], "", to(v[3], 1)), tlsRoute("w", 2, v[1], "*.example.com", to(v[2], 1))}
		}, nameless, "10.0.0.3", "app/any/0"},
		{"tls-any-is-last", mesh.ProtocolTLS, func(v [4]*mesh.Service) routes {
			return routes{tlsRoute("any", 1, v[1], "", to(v[3], 1)), tlsRoute("w", 2, v[1], "*.example.com", to(v[2], 1))}
		}, web, "10.0.0.2", ""},
		{"tls-nameless", mesh.ProtocolTLS, func(v [4]*mesh.Service) routes { return routes{tlsRoute("w", 2, v[1], "*.com", to(v[2], 1))} }, nameless, "NR no route", ""},
		{"tls-older-wins", mesh.ProtocolTLS, func(v [4]*mesh.Service) routes {
			return routes{tlsRoute("a", 2, v[1], "web.example.com", to(v[3], 1)), tlsRoute("z", 1, v[1], "web.example.com", to(v[2], 1))}
		}, web, "10.0.0.2", ""},
		{"tls-on-tcp-port", mesh.ProtocolTCP, func(v [4]*mesh.Service) routes { return routes{tlsRoute("r", 1, v[1], "*.com", to(v[2], 1))} }, web, "10.0.0.2", ""},
		{"tls-sniffed", mesh.ProtocolSniff, func(v [4]*mesh.Service) routes { return routes{tlsRoute("r", 1, v[1], "*.com", to(v[2], 1))} }, web, "10.0.0.2", ""},
		{"not-tls", mesh.ProtocolTLS, func(v [4]*mesh.Service) routes { return routes{tlsRoute("r", 1, v[1], "", to(v[2], 1))} }, "hello", "NR " + sni.ErrNotTLS.Error(), ""},
		{"malformed", mesh.ProtocolTLS, func(v [4]*mesh.Service) routes {
			return routes{tlsRoute("r", 1, v[1], "", to(v[2], 1)), tcpRoute("t", 1, v[1], to(v[3], 1))}
		}, "\x16\x03\x01\x00\x04\x01\x00\x00\x00", "NR " + sni.ErrMalformed.Error(), ""},
		{"not-tls-has-tcp", mesh.ProtocolTLS, func(v [4]*mesh.Service) routes {
			return routes{tlsRoute("r", 1, v[1], "", to(v[2], 1)), tcpRoute("t", 1, v[1], to(v[3], 1))}
		}, "hello", "10.0.0.3", "app/t/0"},
		{"tls-does-not-fall-to-tcp", mesh.ProtocolTLS, func(v [4]*mesh.Service) routes {
			return routes{tlsRoute("r", 1, v[1], "other.example", to(v[2], 1)), tcpRoute("t", 1, v[1], to(v[3], 1))}
		}, web, "NR no route", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parts, v := threeServices(tc.proto)
			if tc.routes != nil {
				parts.Attachments = tc.routes(v)
			}
			s := newScript(t, parts)
			hosts := s.hosts()
			c := s.tunnel(vip(v[1]), true)
			s.send(c, tc.send, false)
			flag, cause, refused := strings.Cut(tc.want, " ")
			if refused {
				if len(s.works) > 0 {
					t.Fatalf("%v was reached", *hosts)
				}
				if c.err == nil && c.status == 200 {
					t.Error("the client was not told")
				}
			} else {
				if len(*hosts) != 1 || (*hosts)[0] != tc.want {
					t.Fatalf("reached %v, want %s", *hosts, tc.want)
				}
				if got := s.works[0].take(); got != tc.send && !strings.HasPrefix(tc.send, "GET") {
					t.Errorf("the workload got %q, want %q", got, tc.send)
				}
				s.send(s.works[0], "HTTP/1.1 204 No Content\r\n\r\n", true)
				s.send(c, "", true)
			}
			if tc.send == getRequest {
				return
			}
			lines := s.lines()
			if len(lines) != 1 {
				t.Fatalf("access log %q", lines)
			}
			for _, w := range []string{tc.log, cause} {
				if tc.name != "no-route" && !strings.Contains(lines[0], w) {
					t.Errorf("access log %q has no %q", lines[0], w)
				}
			}
			if refused && !strings.Contains(lines[0], " 0 "+flag+" ") {
				t.Errorf("access log %q has no flag %s", lines[0], flag)
			}
		})
	}
}

// A hello that comes in pieces waits, and arrives as it came.
func TestClientHelloInPieces(t *testing.T) {
	parts, v := threeServices(mesh.ProtocolTLS)
	parts.Attachments = []mesh.RouteAttachment{tlsRoute("r", 1, v[1], "web.example.com", to(v[2], 1))}
	s := newScript(t, parts)
	c := s.tunnel(vip(v[1]), true)
	hello := firstFlight(t, "web.example.com")
	for i := range len(hello) {
		if len(s.works) > 0 {
			t.Fatalf("went on after %d of %d bytes", i, len(hello))
		}
		s.send(c, hello[i:i+1], false)
	}
	s.send(c, "more", false)
	if len(s.works) != 1 || s.works[0].take() != hello+"more" {
		t.Fatal("the hello did not arrive")
	}
}

// Clients that do not say what they want.
func TestClientHelloThatDoesNotCome(t *testing.T) {
	for _, tc := range []struct {
		name, send string
		end, tcp   bool
		want       string // of the record; "" is the TCPRoute's workload
	}{
		{"silent", "", false, false, " NR "},
		{"silent-with-tcp", "", false, true, ""},
		{"ends", "", true, false, " NR "},
		{"half", "\x16\x03\x01\x02\x00\x01\x00", false, true, " NR "},
		{"half-ends", "\x16\x03\x01\x02\x00\x01\x00", true, false, " NR "},
		{"far-too-long", "\x16\x03\x01\x40\x00\x01\x00\x40\x00", false, true, " NR "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parts, v := threeServices(mesh.ProtocolTLS)
			parts.Attachments = []mesh.RouteAttachment{tlsRoute("r", 1, v[1], "", to(v[2], 1))}
			if tc.tcp {
				parts.Attachments = append(parts.Attachments, tcpRoute("t", 1, v[1], to(v[3], 1)))
			}
			s := newScript(t, parts)
			hosts := s.hosts()
			c := s.tunnel(vip(v[1]), true)
			s.send(c, tc.send, tc.end)
			s.pass(helloTimeout + time.Second)
			if tc.want == "" {
				if len(*hosts) != 1 || (*hosts)[0] != "10.0.0.3" {
					t.Fatalf("reached %v", *hosts)
				}
				return
			}
			if len(*hosts) > 0 || c.err == nil && !c.ended {
				t.Errorf("reached %v, error %v", *hosts, c.err)
			}
			if lines := s.lines(); len(lines) != 1 || !strings.Contains(lines[0], tc.want) {
				t.Errorf("access log %q", lines)
			}
		})
	}
}

// Connections are split by weight, and what is counted names the backend.
func TestTCPRouteSplits(t *testing.T) {
	parts, v := threeServices(mesh.ProtocolTCP)
	parts.Attachments = []mesh.RouteAttachment{tcpRoute("r", 1, v[1], to(v[2], 3), to(v[3], 1), to(v[1], 0))}
	s := newScript(t, parts)
	hosts := s.hosts()
	const n = 400
	for range n {
		c := s.tunnel(vip(v[1]), true)
		w := s.works[len(s.works)-1]
		s.send(c, "ping", true)
		s.send(w, "pong", true)
		if got := c.take(); got != "pong" {
			t.Fatalf("got %q", got)
		}
	}
	count := map[string]int{}
	for _, h := range *hosts {
		count[h]++
	}
	if a := count["10.0.0.2"]; a < n/2 || a > n*9/10 || count["10.0.0.1"] > 0 || a+count["10.0.0.3"] != n {
		t.Errorf("split %v, want 3 to 1", count)
	}
	var b bytes.Buffer
	if err := s.p.o.Metrics.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, svc := range []string{"s2", "s3"} {
		want := fmt.Sprintf(`destination_service_name="%s"`, svc)
		if !strings.Contains(b.String(), want) {
			t.Errorf("metrics have no %s", want)
		}
	}
	if strings.Contains(b.String(), `destination_service_name="s1"`) {
		t.Error("metrics name the service that was dialled")
	}
}

// L4 policy comes before any route.
func TestPolicyBeforeConnectionRoutes(t *testing.T) {
	parts, v := threeServices(mesh.ProtocolTLS)
	parts.Attachments = []mesh.RouteAttachment{tlsRoute("r", 1, v[1], "", to(v[2], 1))}
	parts.Policies = []*mesh.AuthorizationPolicy{{Name: mesh.Name{Namespace: "app", Name: "p"}, Action: mesh.ActionAllow, TargetRefs: []mesh.TargetRef{{Kind: "Service", Name: "s1"}}}}
	s := newScript(t, parts)
	c := s.tunnel(vip(v[1]), true)
	if c.status != 401 || len(s.works) > 0 {
		t.Errorf("status %d, %d connections", c.status, len(s.works))
	}
}

// A connection that a new policy forbids ends with the next bytes, whichever way they go; any other goes on.
func TestPolicyForLiveConnections(t *testing.T) {
	for _, tc := range []struct {
		name  string
		who   string // whom the new policy refuses
		reply bool   // the workload speaks next, not the client
		cut   bool
	}{
		{"client_speaks", "*", false, true},
		{"workload_speaks", "*", true, true},
		{"of_others", "cluster.local/ns/other/*", false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parts, v := oneService(mesh.ProtocolTCP)
			s := newScript(t, parts)
			c := s.tunnel(vip(v), true)
			s.send(c, "hello", false)
			w := s.works[0]
			if got := w.take(); got != "hello" {
				t.Fatalf("the workload got %q", got)
			}
			s.parts.Policies = []*mesh.AuthorizationPolicy{{
				Name: mesh.Name{Namespace: "app", Name: "p"}, Action: mesh.ActionDeny, TargetRefs: []mesh.TargetRef{{Kind: "Service", Name: v.Name}},
				Rules: []mesh.AuthzRule{{From: []mesh.AuthzSource{{Principals: []string{tc.who}}}}},
			}}
			s.publish()
			from, to := c, w
			if tc.reply {
				from, to = w, c
			}
			s.send(from, "more", false)
			if got := to.take(); (got == "") != tc.cut || (c.err != nil) != tc.cut || (w.err != nil) != tc.cut {
				t.Errorf("%q came through; client %v, workload %v", got, c.err, w.err)
			}
			if got := strings.Contains(s.logged.String(), "rbac_access_denied_matched_policy[ns[app]-policy[p]-rule[0]]"); tc.cut && s.logged.Len() > 0 && !got {
				t.Errorf("the log: %s", s.logged.String())
			}
		})
	}
}

// Real TLS through a waypoint that does not open it.
func TestTLSPassthrough(t *testing.T) {
	cert, roots := selfSigned(t, "web.example.com")
	var v, back *mesh.Service
	r := newRig(t, func(r *rig) mesh.Parts {
		ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() { io.Copy(c, c); c.Close() }()
			}
		}()
		w := r.node("secure", ln.Addr().String())
		v = r.service("front", 443, mesh.ProtocolTLS)
		back = r.service("secure", 443, mesh.ProtocolTLS, w)
		return mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{v, back}, Attachments: []mesh.RouteAttachment{tlsRoute("r", 1, v, "*.example.com", to(back, 1))}}
	})
	c := tls.Client(r.conn(v), &tls.Config{ServerName: "web.example.com", RootCAs: roots})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	go func() { fmt.Fprint(c, "hello"); c.CloseWrite() }()
	if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
		t.Errorf("got %q, %v", b, err)
	}
	if err := tls.Client(r.conn(v), &tls.Config{ServerName: "web.other.com", RootCAs: roots}).Handshake(); err == nil {
		t.Error("a name that no route has was served")
	}
}
