package waypoint

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/internal/logbuf"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/telemetry"
	"cairnproxy.dev/cairn/tunnel"
)

// rig is a waypoint on loopback with real TLS on both sides: a client's pool
// in front of it, HBONE servers for its endpoints behind it.
type rig struct {
	json      bool         // the access log; build says
	reading   mesh.Reading // of the waypoint; set by build
	t         *testing.T
	cache     *identity.Cache
	pool      *tunnel.Pool
	proxy     *Proxy
	snapshots *snapshots
	metrics   *telemetry.Metrics
	log       *logbuf.Buffer
	addr      netip.Addr // the waypoint's
	next      int
	stop      func()
}

var (
	wpName   = mesh.Name{Namespace: "app", Name: "wp"}
	wpID     = mesh.Identity{TrustDomain: "cluster.local", Namespace: "app", ServiceAccount: "wp"}
	clientID = mesh.Identity{TrustDomain: "cluster.local", Namespace: "app", ServiceAccount: "client"}
)

var rigs atomic.Uint32

// snapshots is a source of configuration that tests drive.
type snapshots struct {
	mu      sync.Mutex
	current *mesh.Snapshot
	subs    []chan *mesh.Snapshot
}

func (s *snapshots) Current() *mesh.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

func (s *snapshots) Updates(context.Context) <-chan *mesh.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(chan *mesh.Snapshot, 16)
	c <- s.current
	s.subs = append(s.subs, c)
	return c
}

func (s *snapshots) publish(p mesh.Parts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = mesh.NewSnapshot(s.current.Version+1, p)
	for _, c := range s.subs {
		c <- s.current
	}
}

func newRig(t *testing.T, build func(r *rig) mesh.Parts) *rig {
	t.Helper()
	n := rigs.Add(1)
	ca, err := identity.NewCA("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, log: &logbuf.Buffer{}, metrics: telemetry.NewMetrics("proxy", "test")}
	r.cache = identity.NewCache(ca.Issuer(time.Hour), identity.CacheOptions{})
	r.next = os.Getpid()%200<<16 | int(n%250)<<8
	r.addr = r.address()
	parts := build(r)
	parts.Waypoints = append(parts.Waypoints, &mesh.Waypoint{Name: wpName, Class: "cairn-waypoint", Identity: wpID, Addresses: []netip.Addr{r.addr}, Port: 15008, For: mesh.WaypointForAll, Reading: r.reading})
	r.snapshots = &snapshots{current: mesh.NewSnapshot(1, parts)}
	w := telemetry.NewWriter(r.log, telemetry.WriterOptions{JSON: r.json})
	r.proxy, err = New(Options{Name: wpName, Addresses: []netip.Addr{r.addr}, Snapshots: r.snapshots, Identities: r.cache, Metrics: r.metrics, AccessLog: w, DrainTimeout: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.proxy.Run(ctx) }()
	logged := make(chan struct{})
	go func() { defer close(logged); _ = w.Run(ctx) }()
	r.pool = tunnel.NewPool(tunnel.PoolOptions{Dial: dialSystem, TLS: r.cache.Client})
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
			<-logged
			w.Close()
		})
	}
	t.Cleanup(func() {
		r.pool.Close()
		r.stop()
	})
	select {
	case <-r.proxy.Ready():
	case err := <-done:
		t.Fatalf("waypoint ended: %v", err)
	}
	return r
}

// address hands out loopback addresses of this test's own.
func (r *rig) address() netip.Addr {
	r.next++
	return netip.AddrFrom4([4]byte{127, byte(100 + r.next>>16%100), byte(r.next >> 8), byte(r.next)})
}

// endpoint starts a workload whose node proxy forwards to a server with the
// given handler, and returns it.
func (r *rig) endpoint(name string, h http.Handler, http2 bool) *mesh.Workload {
	r.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	srv := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(http2)
	go srv.Serve(ln)
	r.t.Cleanup(func() { srv.Close() })
	return r.node(name, ln.Addr().String())
}

// node starts a node proxy that forwards every CONNECT to addr.
func (r *rig) node(name, addr string) *mesh.Workload {
	r.t.Helper()
	return r.nodeAt(name, func() string { return addr })
}

// nodeAt is node with an address that may change.
func (r *rig) nodeAt(name string, addr func() string) *mesh.Workload {
	r.t.Helper()
	id := mesh.Identity{TrustDomain: "cluster.local", Namespace: "app", ServiceAccount: name}
	w := &mesh.Workload{
		UID: "Kubernetes//Pod/app/" + name, Name: name, Namespace: "app", ServiceAccount: name, TrustDomain: "cluster.local",
		Addresses: []netip.Addr{r.address()}, Protocol: mesh.TunnelHBONE, Ready: true, Capacity: 1, CanonicalName: name, CanonicalRevision: "v1",
		WorkloadName: name, WorkloadType: "deployment", ClusterID: "Kubernetes", Services: map[mesh.ServiceKey]map[uint16]uint16{},
	}
	ln, err := net.Listen("tcp", netip.AddrPortFrom(w.Addresses[0], 15008).String())
	if err != nil {
		r.t.Fatal(err)
	}
	srv := tunnel.NewServer(tunnel.ServerOptions{TLS: r.cache.Server(id), Handler: func(c *tunnel.Connect) {
		if c.Peer.Identity != wpID {
			c.Reject(401)
			return
		}
		conn, err := net.Dial("tcp", addr())
		if err != nil {
			c.Reject(503)
			return
		}
		_ = tunnel.Relay(conn.(*net.TCPConn), c.Accept(), nil)
	}})
	go srv.Serve(ln)
	r.t.Cleanup(func() { srv.Close() })
	return w
}

// service makes a service that is bound to the waypoint and has endpoints.
func (r *rig) service(name string, port uint16, proto mesh.AppProtocol, endpoints ...*mesh.Workload) *mesh.Service {
	v := &mesh.Service{
		Key: mesh.ServiceKey{Namespace: "app", Hostname: name + ".app.svc.cluster.local"}, Name: name, VIPs: []netip.Addr{r.address()},
		Ports: []mesh.ServicePort{{Name: "p", Port: port, TargetPort: 8080, Protocol: proto}}, Waypoint: &mesh.WaypointRef{Name: wpName}, Canonical: true,
	}
	for _, w := range endpoints {
		w.Services[v.Key] = map[uint16]uint16{port: 8080}
	}
	return v
}

// dial opens a connection to a service address through the waypoint.
func (r *rig) dial(ctx context.Context, authority string) (net.Conn, error) {
	st, err := r.pool.Dial(ctx, tunnel.Target{Addr: netip.AddrPortFrom(r.addr, 15008), Own: clientID, Expect: []string{wpID.String()}}, tunnel.Request{Authority: authority})
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return nil, err
	}
	s, err := ln.Accept()
	if err != nil {
		return nil, err
	}
	go tunnel.Relay(s.(*net.TCPConn), st, nil)
	return c, nil
}

// client is an HTTP client whose connections go to v's port.
func (r *rig) client(v *mesh.Service, http2 bool) *http.Client {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return r.dial(ctx, netip.AddrPortFrom(v.VIPs[0], v.Ports[0].Port).String())
	}, Protocols: new(http.Protocols), DisableCompression: true}
	tr.Protocols.SetHTTP1(!http2)
	tr.Protocols.SetUnencryptedHTTP2(http2)
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// raw sends text on a fresh connection and returns everything that comes back.
func (r *rig) raw(v *mesh.Service, text string) string {
	r.t.Helper()
	c, err := r.dial(r.t.Context(), netip.AddrPortFrom(v.VIPs[0], v.Ports[0].Port).String())
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(c, text)
	c.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(bufio.NewReader(c))
	if err != nil {
		r.t.Fatalf("reading the answer to %q: %v (got %q)", text, err, b)
	}
	return string(b)
}

func get(t *testing.T, c *http.Client, url string) (status int, body string, h http.Header) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("GET %s: reading the body: %v", url, err)
	}
	return resp.StatusCode, string(b), resp.Header
}
