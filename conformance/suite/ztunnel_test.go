package suite

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/conformance/ca"
	"cairnproxy.dev/cairn/conformance/cairn"
	"cairnproxy.dev/cairn/conformance/envoy"

	_ "embed"
)

//go:embed testdata/ztunnel.yaml
var ztunnelConfig string

// TestZtunnel runs Cairn's node proxy for one pod in a network namespace, with
// Envoy as every other proxy of the mesh:
//
//	test ─► Envoy (client) ══► cairn ztunnel ─► application in the pod
//	client in the pod ─► cairn ztunnel ══► Envoy (server) ─► application
//	client in the pod ─► cairn ztunnel ══► Envoy (waypoint) ══► Envoy (server) ─► application
func TestZtunnel(t *testing.T) {
	p := newPod(t)
	l := newLab(t)
	serveHTTP(t, p.listen(t, addrPort(p.addr, portHTTP).String()))
	serveTCP(t, p.listen(t, addrPort(p.addr, portTCP).String()))
	serverLog := l.zoneOfEnvoy(t, p)

	config := filepath.Join(l.dir, "xds.yaml")
	text := fill(t, ztunnelConfig, map[string]any{"Pod": p.addr, "Host": p.host, "Waypoint": p.other, "Impostor": p.third})
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	z := cairn.Ztunnel{Netns: p.name, Workload: "bench/app/app", Node: "node-1", LocalXDS: config, Files: l.files(t, "app")}
	proxy, err := z.Start(t.Context(), l.dir, "ztunnel", p.get)
	if err != nil {
		t.Fatal(err)
	}
	stopAtEnd(t, "cairn ztunnel", proxy)

	t.Run("inbound", func(t *testing.T) { testInbound(t, l, p) })
	t.Run("outbound", func(t *testing.T) { testOutbound(t, p, serverLog) })
	t.Run("metrics", func(t *testing.T) {
		resp, err := p.get(t.Context(), "http://127.0.0.1:15020/stats/prometheus")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s %v", resp.Status, err)
		}
		for _, want := range []string{
			`istio_tcp_connections_opened_total{`, `reporter="source"`, `reporter="destination"`,
			`source_principal="spiffe://cluster.local/ns/bench/sa/client"`, `destination_service="peer.bench.svc.cluster.local"`,
		} {
			if !bytes.Contains(body, []byte(want)) {
				t.Errorf("the metrics lack %s", want)
			}
		}
	})
}

// zoneOfEnvoy runs the mesh outside the pod on the host's two addresses: an
// Envoy as node proxy with applications, and an Envoy as waypoint. It returns
// the access log of the former.
func (l *lab) zoneOfEnvoy(t *testing.T, p *pod) string {
	apps := map[string]netip.AddrPort{}
	for port, serve := range map[uint16]func(*testing.T, net.Listener){portHTTP: serveHTTP, portTCP: serveTCP} {
		at := l.at(7, port)
		serve(t, listen(t, at.String()))
		apps[addrPort(p.host, port).String()] = at
	}
	log, files := filepath.Join(l.dir, "server.access"), l.files(t, "server")
	l.envoy(t, "server", envoy.Server{Listen: addrPort(p.host, 15008), Admin: l.at(7, 15000), Apps: apps, Files: files, AccessLog: log})
	l.envoy(t, "impostor", envoy.Server{
		Listen: addrPort(p.third, 15008), Admin: l.at(9, 15000), Files: files,
		Apps: map[string]netip.AddrPort{addrPort(p.third, portHTTP).String(): l.at(7, portHTTP)},
	})
	l.envoy(t, "waypoint", envoy.Waypoint{
		Listen: addrPort(p.other, 15008), Admin: l.at(8, 15000), Files: l.files(t, "waypoint"),
		Services: []envoy.Service{{
			Host: "guarded.bench.svc.cluster.local", Addr: netip.MustParseAddrPort("198.19.0.2:80"),
			Endpoints: []netip.AddrPort{addrPort(p.host, portHTTP)},
		}},
		RBAC: &envoy.RBAC{Principals: []string{principal + "app"}, Methods: []string{"GET", "HEAD", "POST"}},
	})
	return log
}

func testInbound(t *testing.T, l *lab, p *pod) {
	client := func(n byte, name string, port uint16, files ca.Files) string {
		l.envoy(t, name, envoy.Client{
			Listen: l.at(n, 80), Admin: l.at(n, 15000), Upstream: addrPort(p.addr, 15008),
			Authority: addrPort(p.addr, port).String(), Expect: principal + "app", Files: files,
		})
		return l.at(n, 80).String()
	}
	files := l.files(t, "client")
	web := client(20, "in-http", portHTTP, files)
	tcp := client(21, "in-tcp", portTCP, files)
	denied := client(22, "in-denied", portHTTP, l.files(t, "denied"))
	t.Run("http1", func(t *testing.T) { testHTTP(t, web, false, true) })
	t.Run("http2", func(t *testing.T) { testHTTP(t, web, true, true) })
	t.Run("upgrade", func(t *testing.T) { testUpgrade(t, web) })
	t.Run("half-close", func(t *testing.T) { testTCP(t, tcp) })
	t.Run("source-address", func(t *testing.T) {
		a := newCaller(t, web, false).ask(t, "GET", "/app/x", nil)
		if host, _, _ := net.SplitHostPort(a.Remote); host != p.host.String() {
			t.Errorf("the application saw %s, want the client's address %s", a.Remote, p.host)
		}
	})
	t.Run("denied", func(t *testing.T) { wantNoAnswer(t, denied) })
	t.Run("plain", func(t *testing.T) {
		// Captured at 15006: no identity, and the policy asks for none here.
		newCaller(t, addrPort(p.addr, portHTTP).String(), false).ask(t, "GET", "/app/x", nil)
	})
	// The status codes that ztunnel gives.
	c := &chain{lab: l, waypoint: p.addr}
	for name, test := range map[string]struct{ account, authority, status string }{
		"good":         {"client", addrPort(p.addr, portHTTP).String(), "200"},
		"policy":       {"denied", addrPort(p.addr, portHTTP).String(), "401"},
		"mismatch":     {"client", addrPort(p.host, portHTTP).String(), "400"},
		"bad":          {"client", "nonsense", "400"},
		"self":         {"client", addrPort(p.addr, 15008).String(), "503"},
		"refused":      {"client", addrPort(p.addr, 9).String(), "503"},
		"by-name":      {"client", "app.bench.svc.cluster.local:80", "200"},
		"unknown-name": {"client", "none.bench.svc.cluster.local:80", "503"},
	} {
		t.Run("status-"+name, func(t *testing.T) {
			status, err := c.connect(l.leaf(t, test.account).Client(principal+"app"), test.authority)
			if err != nil || status != test.status {
				t.Errorf("CONNECT %s was answered with %q (%v), want %s", test.authority, status, err, test.status)
			}
		})
	}
	t.Run("handshake", func(t *testing.T) {
		cfg := l.leaf(t, "client").Client("")
		cfg.Certificates = nil
		if status, err := c.connect(cfg, addrPort(p.addr, portHTTP).String()); err == nil {
			t.Errorf("CONNECT without a certificate was answered with %q", status)
		}
	})
}

func testOutbound(t *testing.T, p *pod, serverLog string) {
	ask := func(t *testing.T, addr string) answer {
		resp, err := p.get(t.Context(), "http://"+addr+"/app/x")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var a answer
		if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s %v", resp.Status, err)
		}
		return a
	}
	t.Run("service", func(t *testing.T) {
		ask(t, "198.19.0.1:80")
		wantLine(t, serverLog, "authority="+addrPort(p.host, portHTTP).String(), "peer="+principal+"app", "tls=TLSv1.3",
			"k8s.namespace.name=bench", "forwarded=for=", "peer.bench.svc.cluster.local", "traceparent=00-")
	})
	t.Run("pod", func(t *testing.T) { ask(t, addrPort(p.host, portHTTP).String()) })
	t.Run("waypoint", func(t *testing.T) {
		if a := ask(t, "198.19.0.2:80"); a.Headers.Get("X-Request-Id") == "" {
			t.Errorf("no waypoint was on the way: %v", a.Headers)
		}
		wantLine(t, serverLog, "authority="+addrPort(p.host, portHTTP).String(), "peer="+principal+"waypoint")
	})
	t.Run("curl", func(t *testing.T) {
		out := command(t, "", "ip", "netns", "exec", p.name, "curl", "-sS", "--max-time", "10", "--data-binary", "@/etc/services", "http://198.19.0.1:80/app/x")
		var a answer
		info, err := os.Stat("/etc/services")
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(out), &a); err != nil || a.Body != info.Size() {
			t.Errorf("%s: %v", out, err)
		}
	})
	t.Run("half-close", func(t *testing.T) {
		ln := listen(t, "127.0.0.1:0") // a door from here into the pod
		go func() {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			out, err := p.dial(t.Context(), "tcp", "198.19.0.1:70")
			if err != nil {
				fmt.Fprint(c, err)
				return
			}
			defer out.Close()
			go func() {
				io.Copy(out, c)
				out.(*net.TCPConn).CloseWrite()
			}()
			io.Copy(c, out)
		}()
		testTCP(t, ln.Addr().String())
	})
	t.Run("wrong-identity", func(t *testing.T) {
		conn, err := p.dial(t.Context(), "tcp", "198.19.0.3:80")
		if err != nil {
			return // refused at once is right, too
		}
		defer conn.Close()
		wantNoAnswerOn(t, conn)
	})
	t.Run("no-endpoint", func(t *testing.T) {
		conn, err := p.dial(t.Context(), "tcp", "198.19.0.4:80")
		if err != nil {
			return
		}
		defer conn.Close()
		wantNoAnswerOn(t, conn)
	})
}

// wantNoAnswer connects and expects the connection to end without a byte.
func wantNoAnswer(t *testing.T, addr string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	wantNoAnswerOn(t, conn)
}

func wantNoAnswerOn(t *testing.T, conn net.Conn) {
	t.Helper()
	conn.SetDeadline(time.Now().Add(15 * time.Second))
	io.WriteString(conn, "GET /app/x HTTP/1.1\r\nHost: x\r\n\r\n") // may fail: the end may have come
	got, err := io.ReadAll(conn)
	if timedOut(err) {
		t.Fatal("the connection stays open")
	}
	if strings.Contains(string(got), "HTTP/1.1 200") {
		t.Errorf("answered %q", got)
	}
}
