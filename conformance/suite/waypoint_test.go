package suite

import (
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/conformance/ca"
	"cairnproxy.dev/cairn/conformance/cairn"
	"cairnproxy.dev/cairn/conformance/envoy"
	"cairnproxy.dev/cairn/conformance/loopback"
	"cairnproxy.dev/cairn/conformance/proc"

	_ "embed"
)

// The service of these tests, and its ports.
const (
	hostname = "server.bench.svc.cluster.local"
	portHTTP = 8080
	portGRPC = 9090
	portTCP  = 7070
)

//go:embed testdata/waypoint.yaml
var waypointManifests string

// chain is a path through a waypoint under test:
//
//	test ─► Envoy (client) ══► waypoint ══► Envoy (server) ─► application
type chain struct {
	*lab
	vip, pod, waypoint netip.Addr
	serverLog          string
}

// clients are the addresses where Envoys accept plain connections and carry
// them to the waypoint, by what they are for.
const (
	clientHTTP     = 20 // identity client, to the HTTP port
	clientGRPC     = 21
	clientTCP      = 22
	clientStranger = 23 // identity stranger, to the HTTP port
	clientUnknown  = 24 // identity client, to an address that nobody has
	clientNoPort   = 25 // identity client, to a port that the service lacks
)

// newChain starts everything but the waypoint and its clients.
func newChain(t *testing.T) *chain {
	c := &chain{lab: newLab(t)}
	c.vip, c.pod, c.waypoint = c.block.Addr(1), c.block.Addr(2), c.block.Addr(3)
	c.serverLog = filepath.Join(c.dir, "server.access")
	apps := map[string]netip.AddrPort{}
	for port, serve := range map[uint16]func(*testing.T, net.Listener){portHTTP: serveHTTP, portGRPC: serveGRPC, portTCP: serveTCP} {
		at := addrPort(c.pod, port)
		serve(t, listen(t, at.String()))
		apps[at.String()] = at
	}
	c.envoy(t, "server", envoy.Server{
		Listen: addrPort(c.pod, 15008), Admin: addrPort(c.pod, 15000), Apps: apps, Files: c.files(t, "server"), AccessLog: c.serverLog,
	})
	return c
}

func (c *chain) clients(t *testing.T) {
	client, stranger := c.files(t, "client"), c.files(t, "stranger")
	for _, x := range []struct {
		n     byte
		name  string
		to    netip.AddrPort
		files ca.Files
	}{
		{clientHTTP, "client-http", addrPort(c.vip, portHTTP), client},
		{clientGRPC, "client-grpc", addrPort(c.vip, portGRPC), client},
		{clientTCP, "client-tcp", addrPort(c.vip, portTCP), client},
		{clientStranger, "client-stranger", addrPort(c.vip, portHTTP), stranger},
		{clientUnknown, "client-unknown", c.at(99, portHTTP), client},
		{clientNoPort, "client-noport", addrPort(c.vip, 1), client},
	} {
		c.envoy(t, x.name, envoy.Client{
			Listen: c.at(x.n, 80), Admin: c.at(x.n, 15000), Upstream: addrPort(c.waypoint, 15008),
			Authority: x.to.String(), Expect: principal + "waypoint", Files: x.files,
		})
	}
}

// waypoints are the proxies that can be under test.
var waypoints = []struct {
	name  string
	cairn bool
	start func(*testing.T, *chain)
}{
	{"envoy", false, func(t *testing.T, c *chain) {
		endpoint := func(port uint16) []netip.AddrPort { return []netip.AddrPort{addrPort(c.pod, port)} }
		c.envoy(t, "waypoint", envoy.Waypoint{
			Listen: addrPort(c.waypoint, 15008), Admin: addrPort(c.waypoint, 15000), Files: c.files(t, "waypoint"),
			Services: []envoy.Service{
				{Host: hostname, Addr: addrPort(c.vip, portHTTP), Endpoints: endpoint(portHTTP), Prefixes: []string{"/app"}},
				{Host: hostname, Addr: addrPort(c.vip, portGRPC), Endpoints: endpoint(portGRPC), HTTP2: true},
				{Host: hostname, Addr: addrPort(c.vip, portTCP), Endpoints: endpoint(portTCP), TCP: true},
			},
			RBAC: &envoy.RBAC{Principals: []string{principal + "client"}, Methods: []string{"GET", "HEAD", "POST"}},
		})
	}},
	{"cairn", true, func(t *testing.T, c *chain) { c.startCairn(t) }},
}

func (c *chain) startCairn(t *testing.T) *proc.Process {
	folder, err := cairn.WriteManifests(c.dir, fill(t, waypointManifests, map[string]any{"VIP": c.vip, "Pod": c.pod}))
	if err != nil {
		t.Fatal(err)
	}
	w := cairn.Waypoint{Manifests: folder, Gateway: "bench/waypoint", Address: c.waypoint, Files: c.files(t, "waypoint")}
	for _, addr := range []*string{&w.Admin, &w.Metrics} {
		port, err := loopback.Port(c.waypoint)
		if err != nil {
			t.Fatal(err)
		}
		*addr = addrPort(c.waypoint, port).String()
	}
	p, err := w.Start(t.Context(), c.dir, "waypoint", proc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	stopAtEnd(t, "cairn waypoint", p)
	t.Cleanup(func() {
		if log, err := os.ReadFile(filepath.Join(c.dir, "waypoint.access.log")); t.Failed() {
			lines := strings.SplitAfter(string(log), "\n")
			t.Logf("the last lines of its access log (%v):\n%s", err, strings.Join(lines[max(0, len(lines)-30):], ""))
		}
	})
	return p
}

// TestWaypoint sends the same traffic through every waypoint between two
// Envoys.
func TestWaypoint(t *testing.T) {
	for _, w := range waypoints {
		t.Run(w.name, func(t *testing.T) {
			c := newChain(t)
			w.start(t, c)
			c.clients(t)
			t.Run("http1", func(t *testing.T) { testHTTP(t, c.at(clientHTTP, 80).String(), false, w.cairn) })
			t.Run("http2", func(t *testing.T) { testHTTP(t, c.at(clientHTTP, 80).String(), true, w.cairn) })
			t.Run("upgrade", func(t *testing.T) { testUpgrade(t, c.at(clientHTTP, 80).String()) })
			t.Run("grpc", func(t *testing.T) { testGRPC(t, c.at(clientGRPC, 80).String()) })
			t.Run("tcp", func(t *testing.T) { testTCP(t, c.at(clientTCP, 80).String()) })
			t.Run("policy", func(t *testing.T) { testPolicy(t, c) })
			t.Run("nowhere", func(t *testing.T) { testNowhere(t, c) })
			t.Run("h2spec", func(t *testing.T) {
				host := c.block.Addr(clientHTTP).String()
				if w.cairn {
					testH2spec(t, host, 80, "/app/x")
					return
				}
				passed, failed := h2spec(t, host, "80", "/app/x")
				t.Logf("envoy passes %d of h2spec's cases; it fails %q", passed, failed)
			})
			t.Run("server-saw", func(t *testing.T) {
				wantLine(t, c.serverLog, "authority="+addrPort(c.pod, portHTTP).String(), "peer="+principal+"waypoint", "tls=TLSv1.3", "code=200")
				wantLine(t, c.serverLog, "authority="+addrPort(c.pod, portTCP).String(), "peer="+principal+"waypoint")
			})
		})
	}
}

// testPolicy asks for what the authorization policy and the route refuse.
func testPolicy(t *testing.T, c *chain) {
	for _, test := range []struct {
		name, method, path string
		client             byte
		h2                 bool
		status             int
	}{
		{"allowed", "GET", "/app/x", clientHTTP, false, 200},
		{"method", "DELETE", "/app/x", clientHTTP, false, 403},
		{"method-h2", "DELETE", "/app/x", clientHTTP, true, 403},
		{"identity", "GET", "/app/x", clientStranger, false, 403},
		{"identity-h2", "GET", "/app/x", clientStranger, true, 403},
		{"no-route", "GET", "/other", clientHTTP, false, 404},
		{"prefix-is-no-path", "GET", "/apple", clientHTTP, false, 404},
		{"dots", "GET", "/app/../other", clientHTTP, false, 404},
	} {
		t.Run(test.name, func(t *testing.T) {
			resp, text, err := newCaller(t, c.at(test.client, 80).String(), test.h2).do(test.method, test.path, nil)
			if err != nil || resp.StatusCode != test.status {
				t.Errorf("%v %q (%v), want %d", resp, text, err, test.status)
			}
		})
	}
}

// testNowhere connects to what does not exist: the connection must end without
// a byte, and soon.
func testNowhere(t *testing.T, c *chain) {
	for name, n := range map[string]byte{"address": clientUnknown, "port": clientNoPort} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.DialTimeout("tcp", c.at(n, 80).String(), 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(15 * time.Second))
			io.WriteString(conn, "GET /app/x HTTP/1.1\r\nHost: x\r\n\r\n")
			got, err := io.ReadAll(conn)
			if timedOut(err) {
				t.Error("the connection stayed open")
			}
			if strings.Contains(string(got), "200 OK") {
				t.Errorf("answered %q", got)
			}
		})
	}
}
