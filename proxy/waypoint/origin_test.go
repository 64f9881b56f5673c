package waypoint

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// tlsServer serves HTTPS with a certificate for ext.example.com; protos is its ALPN.
type tlsServer struct {
	cert    tls.Certificate
	roots   []byte
	config  *tls.Config
	conns   atomic.Int64
	plain   atomic.Int64 // connections that did not begin as TLS does
	handler http.Handler
}

func newTLSServer(t *testing.T, protos ...string) *tlsServer {
	cert, _ := selfSigned(t, "ext.example.com")
	s := &tlsServer{cert: cert, handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		client := ""
		if len(r.TLS.PeerCertificates) > 0 {
			client = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		fmt.Fprintf(w, "%s sni=%s client=%s body=%d", r.Proto, r.TLS.ServerName, client, len(b))
	})}
	s.roots, _ = pemOf(t, cert)
	s.config = &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: protos}
	return s
}

func (s *tlsServer) serve(ln net.Listener) {
	srv := &http.Server{Handler: s.handler, TLSConfig: s.config, Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(true)
	if len(s.config.NextProtos) == 1 && s.config.NextProtos[0] == "http/1.1" {
		srv.Protocols.SetHTTP2(false)
	}
	srv.Serve(tls.NewListener(&watching{ln, s}, s.config))
}

type watching struct {
	net.Listener
	s *tlsServer
}

func (w *watching) Accept() (net.Conn, error) {
	c, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	w.s.conns.Add(1)
	br := bufio.NewReader(c)
	return &peeked{c, br, w.s}, nil
}

type peeked struct {
	net.Conn
	br *bufio.Reader
	s  *tlsServer
}

func (p *peeked) Read(b []byte) (int, error) {
	if p.s != nil {
		if first, err := p.br.Peek(1); err == nil && first[0] != 22 {
			p.s.plain.Add(1)
		}
		p.s = nil
	}
	return p.br.Read(b)
}

// oneTLS is a service of one endpoint outside, with TLS on the way there.
func oneTLS(t *testing.T, proto mesh.AppProtocol, b *mesh.BackendTLS, serve func(net.Listener)) (*rig, *mesh.Service) {
	var v *mesh.Service
	r := newRig(t, func(r *rig) mesh.Parts {
		w := r.outside("ext", 8080, serve)
		v = r.service("ext", 443, proto, w)
		v.Key.Hostname = "ext.example.com"
		w.Services = map[mesh.ServiceKey]map[uint16]uint16{v.Key: {443: 8080}}
		v.Ports[0].Backend = &mesh.BackendPolicy{TLS: b}
		return mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{v}}
	})
	return r, v
}

func TestTLSOrigination(t *testing.T) {
	for _, tc := range []struct {
		proto  mesh.AppProtocol
		alpn   []string
		http2  bool // the client
		spoken string
	}{
		{mesh.ProtocolHTTP, []string{"h2", "http/1.1"}, false, "HTTP/1.1"},
		{mesh.ProtocolHTTP, []string{"h2", "http/1.1"}, true, "HTTP/1.1"},
		{mesh.ProtocolHTTP2, []string{"h2", "http/1.1"}, false, "HTTP/2.0"},
		{mesh.ProtocolGRPC, []string{"h2"}, true, "HTTP/2.0"},
		{mesh.ProtocolSniff, []string{"h2", "http/1.1"}, false, "HTTP/2.0"},
		{mesh.ProtocolSniff, []string{"h2", "http/1.1"}, true, "HTTP/2.0"},
		{mesh.ProtocolSniff, []string{"http/1.1"}, true, "HTTP/1.1"},
		{mesh.ProtocolSniff, []string{"http/1.1"}, false, "HTTP/1.1"},
	} {
		for _, max := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(fmt.Sprintf("%s-%s-h2=%v-%s", tc.proto, tc.alpn[0], tc.http2, tls.VersionName(max)), func(t *testing.T) {
				srv := newTLSServer(t, tc.alpn...)
				srv.config.MaxVersion = max
				r, v := oneTLS(t, tc.proto, &mesh.BackendTLS{Hostname: "ext.example.com", Roots: srv.roots}, srv.serve)
				c := r.client(v, tc.http2)
				for i := range 5 {
					body := strings.Repeat("x", i*100_000)
					resp, err := c.Post("http://ext.example.com/", "text/plain", strings.NewReader(body))
					if err != nil {
						t.Fatal(err)
					}
					b, _ := io.ReadAll(resp.Body)
					resp.Body.Close()
					if want := fmt.Sprintf("%s sni=ext.example.com client= body=%d", tc.spoken, len(body)); string(b) != want {
						t.Fatalf("got %d %q, want %q", resp.StatusCode, b, want)
					}
				}
				if n := srv.conns.Load(); n > 3 {
					t.Errorf("%d connections for 5 requests", n)
				}
			})
		}
	}
}

// What cannot be verified, or set up, gets nothing.
func TestTLSOriginationFailsClosed(t *testing.T) {
	srv := newTLSServer(t, "http/1.1")
	other, _ := selfSigned(t, "ext.example.com")
	otherRoots, _ := pemOf(t, other)
	for _, tc := range []struct {
		name   string
		tls    mesh.BackendTLS
		status int
		log    string
	}{
		{"good", mesh.BackendTLS{Hostname: "ext.example.com", Roots: srv.roots}, 200, " via_upstream "},
		{"service-name", mesh.BackendTLS{Roots: srv.roots}, 200, " via_upstream "},
		{"san", mesh.BackendTLS{Hostname: "other.example.com", SANs: []string{"x", "ext.example.com"}, Roots: srv.roots}, 200, " via_upstream "},
		{"other-sni", mesh.BackendTLS{SNI: "front.example.com", Hostname: "ext.example.com", Roots: srv.roots}, 200, " via_upstream "},
		{"wrong-name", mesh.BackendTLS{Hostname: "other.example.com", Roots: srv.roots}, 503, `failed to verify certificate: it is not for other.example.com`},
		{"wrong-san", mesh.BackendTLS{Hostname: "ext.example.com", SANs: []string{"other.example.com"}, Roots: srv.roots}, 503, "it is not for other.example.com"},
		{"uri-san", mesh.BackendTLS{SANs: []string{"spiffe://x/y"}, Roots: srv.roots}, 503, "it is not for spiffe://x/y"},
		{"wrong-roots", mesh.BackendTLS{Hostname: "ext.example.com", Roots: otherRoots}, 503, "failed to verify certificate: x509: "},
		{"system-roots", mesh.BackendTLS{Hostname: "ext.example.com", System: true}, 503, "failed to verify certificate: x509: "},
		{"no-roots", mesh.BackendTLS{Hostname: "ext.example.com"}, 500, " invalid_backend "},
		{"bad-roots", mesh.BackendTLS{Hostname: "ext.example.com", Roots: []byte("nonsense")}, 500, " invalid_backend "},
		{"bad-client", mesh.BackendTLS{Hostname: "ext.example.com", Roots: srv.roots, Certificate: srv.roots, Key: []byte("SECRET-KEY")}, 500, " invalid_backend "},
		{"broken", mesh.BackendTLS{Broken: "no such ConfigMap"}, 500, " invalid_backend "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, v := oneTLS(t, mesh.ProtocolHTTP, &tc.tls, srv.serve)
			status, body, _ := get(t, r.client(v, false), "http://ext.example.com/")
			if status != tc.status {
				t.Errorf("status %d %q, want %d", status, body, tc.status)
			}
			dump, err := json.Marshal(r.proxy.ConfigDump())
			if err != nil || strings.Contains(string(dump), "SECRET-KEY") {
				t.Errorf("the dump tells the key, or %v", err)
			}
			if broken := strings.Contains(string(dump), `"tls":"broken: `); broken != (tc.status == 500) || !broken && !strings.Contains(string(dump), `"tls":"SNI `) {
				t.Errorf("the dump says %s", dump)
			}
			r.stop()
			line := r.log.String()
			if !strings.Contains(line, tc.log) || strings.Contains(line, "SECRET-KEY") {
				t.Errorf("access log %q has no %q", line, tc.log)
			}
			if tc.status == 503 && !strings.Contains(line, " 503 UF") {
				t.Errorf("access log %q has no UF", line)
			}
		})
	}
	if n := srv.plain.Load(); n > 0 {
		t.Errorf("%d connections came in plain text", n)
	}
}

// An endpoint that does not speak TLS gets no request.
func TestTLSOriginationToPlainServer(t *testing.T) {
	var served atomic.Int64
	cert, _ := selfSigned(t, "ext.example.com")
	roots, _ := pemOf(t, cert)
	r, v := oneTLS(t, mesh.ProtocolHTTP, &mesh.BackendTLS{Roots: roots}, serveHTTP(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { served.Add(1) })))
	if status, _, _ := get(t, r.client(v, false), "http://ext.example.com/"); status != 503 || served.Load() > 0 {
		t.Errorf("status %d, %d requests served", status, served.Load())
	}
}

func TestTLSOriginationWithClientCertificate(t *testing.T) {
	srv := newTLSServer(t, "http/1.1")
	client, pool := selfSigned(t, "client.example.com")
	srv.config.ClientAuth, srv.config.ClientCAs = tls.RequireAndVerifyClientCert, pool
	cert, key := pemOf(t, client)
	r, v := oneTLS(t, mesh.ProtocolHTTP, &mesh.BackendTLS{Roots: srv.roots, Certificate: cert, Key: key}, srv.serve)
	if status, body, _ := get(t, r.client(v, false), "http://ext.example.com/"); status != 200 || !strings.Contains(body, "client=test") {
		t.Errorf("%d %q", status, body)
	}
	without, w := oneTLS(t, mesh.ProtocolHTTP, &mesh.BackendTLS{Roots: srv.roots}, srv.serve)
	if status, _, _ := get(t, without.client(w, false), "http://ext.example.com/"); status != 503 {
		t.Errorf("without a certificate: %d", status)
	}
}

// Bytes of a TCP port go through TLS, too.
func TestTLSOriginationForTCP(t *testing.T) {
	srv := newTLSServer(t)
	r, v := oneTLS(t, mesh.ProtocolTCP, &mesh.BackendTLS{Roots: srv.roots}, func(ln net.Listener) {
		ln = tls.NewListener(ln, srv.config)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	})
	c := r.conn(v)
	data := strings.Repeat("ping", 100_000)
	go func() { io.WriteString(c, data); c.(*net.TCPConn).CloseWrite() }()
	if b, err := io.ReadAll(c); err != nil || string(b) != data {
		t.Errorf("%d bytes came back, %v", len(b), err)
	}
}

// Endpoints in the mesh get TLS inside their tunnels, and nothing in plain text.
func TestTLSOriginationInsideTheMesh(t *testing.T) {
	for _, proto := range []mesh.AppProtocol{mesh.ProtocolHTTP, mesh.ProtocolHTTP2, mesh.ProtocolSniff, mesh.ProtocolTCP} {
		for _, good := range []bool{true, false} {
			t.Run(fmt.Sprint(proto, "-good=", good), func(t *testing.T) {
				srv := newTLSServer(t, "h2", "http/1.1")
				b := &mesh.BackendTLS{Hostname: "ext.example.com", Roots: srv.roots}
				if !good {
					b.Hostname = "other.example.com"
				}
				var v *mesh.Service
				r := newRig(t, func(r *rig) mesh.Parts {
					ln, err := net.Listen("tcp", "127.0.0.1:0")
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { ln.Close() })
					if proto == mesh.ProtocolTCP {
						go func() {
							for {
								c, err := ln.Accept()
								if err != nil {
									return
								}
								tc := tls.Server(c, srv.config)
								go func() { io.Copy(tc, tc); tc.Close() }()
							}
						}()
					} else {
						go srv.serve(ln)
					}
					w := r.node("secure", ln.Addr().String())
					v = r.service("secure", 443, proto, w)
					v.Ports[0].Backend = &mesh.BackendPolicy{TLS: b}
					return mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{v}}
				})
				if proto == mesh.ProtocolTCP {
					if !good {
						if c, err := r.dial(t.Context(), netip.AddrPortFrom(v.VIPs[0], 443).String()); err == nil {
							c.Close()
							t.Error("the connection was accepted")
						}
						return
					}
					c := r.conn(v)
					data := strings.Repeat("ping", 500_000)
					go func() { io.WriteString(c, data); c.(*net.TCPConn).CloseWrite() }()
					if got, err := io.ReadAll(c); err != nil || string(got) != data {
						t.Errorf("%d bytes came back, %v", len(got), err)
					}
					return
				}
				for _, http2 := range []bool{false, true} {
					c := r.client(v, http2)
					for i := range 4 {
						body := strings.Repeat("x", i*300_000)
						resp, err := c.Post("http://secure/", "text/plain", strings.NewReader(body))
						if err != nil {
							t.Fatal(err)
						}
						got, _ := io.ReadAll(resp.Body)
						resp.Body.Close()
						spoken := "HTTP/2.0"
						if proto == mesh.ProtocolHTTP {
							spoken = "HTTP/1.1"
						}
						want := fmt.Sprintf("%s sni=ext.example.com client= body=%d", spoken, len(body))
						if good && (resp.StatusCode != 200 || string(got) != want) || !good && resp.StatusCode != 503 {
							t.Fatalf("h2=%v: got %d %q, want %q", http2, resp.StatusCode, got, want)
						}
					}
				}
				if n := srv.plain.Load(); n > 0 {
					t.Errorf("%d connections came in plain text", n)
				}
			})
		}
	}
}

// Many slow exchanges share connections with TLS inside tunnels.
func TestTLSPipeStops(t *testing.T) {
	srv := newTLSServer(t, "http/1.1")
	const size = 8 << 20
	srv.handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		chunk := make([]byte, 64<<10)
		for range size / len(chunk) {
			w.Write(chunk)
		}
	})
	var v *mesh.Service
	r := newRig(t, func(r *rig) mesh.Parts {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		go srv.serve(ln)
		w := r.node("secure", ln.Addr().String())
		v = r.service("secure", 443, mesh.ProtocolHTTP, w)
		v.Ports[0].Backend = &mesh.BackendPolicy{TLS: &mesh.BackendTLS{Hostname: "ext.example.com", Roots: srv.roots}}
		return mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{v}}
	})
	c := r.client(v, true)
	var bodies []io.ReadCloser
	for range 4 {
		resp, err := c.Get("http://secure/")
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, resp.Body)
	}
	settle(t, func() uint64 { return uint64(r.proxy.o.Budget.Used()) })
	if used := r.proxy.o.Budget.Used(); used > 4<<20 {
		t.Errorf("%d KiB wait", used>>10)
	}
	bodies[0].Close() // goes away
	for _, b := range bodies[1:] {
		if n, err := io.Copy(io.Discard, b); n != size || err != nil {
			t.Errorf("%d bytes came, %v", n, err)
		}
	}
}

// Health is asked for as requests are sent: with TLS, to who has the right name.
func TestHealthChecksWithTLS(t *testing.T) {
	for _, good := range []bool{true, false} {
		srv := newTLSServer(t, "http/1.1")
		b := &mesh.BackendTLS{Roots: srv.roots}
		if !good {
			b.Hostname = "other.example.com"
		}
		var v *mesh.Service
		r := newRig(t, func(r *rig) mesh.Parts {
			w := r.outside("ext", 8080, srv.serve)
			v = r.service("ext", 443, mesh.ProtocolHTTP)
			v.Key.Hostname = "ext.example.com"
			w.Services = map[mesh.ServiceKey]map[uint16]uint16{v.Key: {443: 8080}}
			v.Ports[0].Backend = &mesh.BackendPolicy{TLS: b, Health: &mesh.HealthCheck{Interval: 20 * time.Millisecond, Unhealthy: 1}}
			return mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{v}}
		})
		until(t, "three checks", func() bool { return srv.conns.Load() >= 3 })
		want := ""
		if !good {
			want = "unhealthy"
		}
		until(t, "the condition is "+want, func() bool { return strings.HasPrefix(r.conditions(), want) && (r.conditions() == "") == good })
		if n := srv.plain.Load(); n > 0 {
			t.Errorf("%d checks came in plain text", n)
		}
		r.stop()
	}
}

// A change of the settings makes new connections; what does not change keeps them.
func TestTLSOriginationChanges(t *testing.T) {
	srv := newTLSServer(t, "http/1.1")
	var v *mesh.Service
	var w *mesh.Workload
	parts := func(b *mesh.BackendTLS) mesh.Parts {
		u := *v
		u.Ports = []mesh.ServicePort{v.Ports[0]}
		u.Ports[0].Backend = &mesh.BackendPolicy{TLS: b}
		return mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{&u}}
	}
	good := mesh.BackendTLS{Roots: srv.roots}
	r := newRig(t, func(r *rig) mesh.Parts {
		w = r.outside("ext", 8080, srv.serve)
		v = r.service("ext", 443, mesh.ProtocolHTTP)
		v.Key.Hostname = "ext.example.com"
		w.Services = map[mesh.ServiceKey]map[uint16]uint16{v.Key: {443: 8080}}
		return parts(&good)
	})
	c := r.client(v, true)
	want := func(status int, conns int64) {
		t.Helper()
		if got, body, _ := get(t, c, "http://ext.example.com/"); got != status || srv.conns.Load() != conns {
			t.Errorf("status %d %q over %d connections, want %d over %d", got, body, srv.conns.Load(), status, conns)
		}
	}
	publish := func(b mesh.BackendTLS) {
		p := parts(&b)
		p.Waypoints = r.snapshots.Current().Parts.Waypoints
		r.snapshots.publish(p)
		for r.proxy.runtime.Load().snapshot != r.snapshots.Current() {
			time.Sleep(time.Millisecond)
		}
	}
	want(200, 1)
	publish(good)
	want(200, 1)
	publish(mesh.BackendTLS{Roots: srv.roots, SANs: []string{"other"}})
	got, _, _ := get(t, c, "http://ext.example.com/")
	if got != 503 {
		t.Errorf("after the name changed: %d", got)
	}
}

func TestVerifyOriginWithoutCertificate(t *testing.T) {
	if err := verifyOrigin(&tls.ConnectionState{}, x509.NewCertPool(), []string{"a"}); err == nil {
		t.Error("no certificate is accepted")
	}
}
