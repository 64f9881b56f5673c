package ztunnel

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/internal/logbuf"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/telemetry"
)

var nets atomic.Uint32

// world is a small mesh in loopback mode: client, server and other are pods in
// namespace ns, echo is a service of server.
type world struct {
	t     testing.TB
	net   uint32
	store *source.Store
	certs *identity.Cache
	proxy *Proxy
	m     *telemetry.Metrics
	log   *telemetry.Writer
	lines *logbuf.Buffer
	stop  context.CancelFunc
	done  chan error
	parts mesh.Parts
	// options are further ones.
	options Options
	// patience is how long a client waits; 0 means 10 s.
	patience time.Duration
}

// addr returns an address that no other test uses.
func (w *world) addr(n int) string { return fmt.Sprintf("127.91.%d.%d", w.net, n) }

func newWorld(t testing.TB, edit func(w *world)) *world {
	t.Helper()
	if ln, err := net.Listen("tcp", "127.91.255.1:0"); err != nil {
		t.Skipf("skipped: this machine has no loopback addresses to spare: %v", err)
	} else {
		ln.Close()
	}
	ca, err := identity.NewCA("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, net: nets.Add(1), store: source.NewStore(), lines: &logbuf.Buffer{}}
	w.certs = identity.NewCache(ca.Issuer(time.Hour), identity.CacheOptions{})
	w.m = telemetry.NewMetrics("ztunnel", "test", telemetry.MetricsOptions{NoRuntime: true})
	w.log = telemetry.NewWriter(w.lines, telemetry.WriterOptions{})
	server := pod("ns", "server", w.addr(2))
	echo := svcOf("ns", "echo", w.addr(100), server)
	echo.Ports[0] = mesh.ServicePort{Port: 8000, TargetPort: 8080}
	server.Services[echo.Key] = map[uint16]uint16{8000: 8080}
	w.parts = mesh.Parts{Workloads: []*mesh.Workload{pod("ns", "client", w.addr(1)), server, pod("ns", "other", w.addr(3))}, Services: []*mesh.Service{echo}}
	if edit != nil {
		edit(w)
	}
	w.publish(w.parts)
	o := w.options
	o.Snapshots, o.Certificates, o.Metrics, o.AccessLog, o.DrainTime = w.store, w.certs, w.m, w.log, 100*time.Millisecond
	w.proxy, err = New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.stop, w.done = cancel, make(chan error, 1)
	go func() { w.done <- w.proxy.Run(ctx) }()
	t.Cleanup(w.close)
	select {
	case <-w.proxy.Ready():
	case err := <-w.done:
		w.done <- err
		t.Fatalf("the proxy ended: %v", err)
	}
	return w
}

// newBenchWorld is newWorld for longer.
func newBenchWorld(b *testing.B) *world {
	b.Helper()
	return newWorld(b, func(w *world) { w.patience = 5 * time.Minute })
}

func (w *world) close() {
	w.stop()
	if err := <-w.done; err != nil {
		w.t.Errorf("run: %v", err)
	}
	w.done <- nil
}

// logged returns the access log so far.
func (w *world) logged() string {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = w.log.Run(ctx)
	return w.lines.String()
}

// listen serves f on an address.
func (w *world) listen(addr string, f func(*net.TCPConn)) {
	w.t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go f(c.(*net.TCPConn))
		}
	}()
}

// echo answers with what it got, after the client has ended its output.
func echo(c *net.TCPConn) {
	defer c.Close()
	b, err := io.ReadAll(c)
	if err == nil {
		_, _ = c.Write(b)
	}
}

// echoCount reads to the end, then says that it did.
func echoCount(c *net.TCPConn) {
	defer c.Close()
	n, _ := io.Copy(io.Discard, c)
	fmt.Fprintln(c, n)
}

// lines answers line by line.
func lines(c *net.TCPConn) {
	defer c.Close()
	_, _ = io.Copy(c, c)
}

// dial connects from a pod's address.
func (w *world) dial(from int, to string) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	if from > 0 {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip(w.addr(from)), 0))
	}
	c, err := d.Dial("tcp", to)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(max(w.patience, 10*time.Second)))
	w.t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn), nil
}

// roundTrip sends msg, ends its output, and returns the answer.
func (w *world) roundTrip(from int, to, msg string) (string, error) {
	c, err := w.dial(from, to)
	if err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, msg); err != nil {
		return "", err
	}
	if err := c.CloseWrite(); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

func (w *world) service() string { return w.addr(100) + ":8000" }

func TestLoopbackEcho(t *testing.T) {
	w := newWorld(t, nil)
	w.listen(w.addr(2)+":8080", echo)
	for _, msg := range []string{"", "hello", strings.Repeat("0123456789", 300_000)} {
		got, err := w.roundTrip(1, w.service(), msg)
		if err != nil || got != msg {
			t.Fatalf("%d bytes: got %d back, %v\n%s", len(msg), len(got), err, w.logged())
		}
	}
	w.close()
	log := w.logged()
	for _, want := range []string{
		`src.workload="client"`, `src.identity="spiffe://cluster.local/ns/ns/sa/client"`, `dst.workload="server"`,
		`dst.service="echo.ns.svc.cluster.local"`, `direction="outbound" bytes_sent=3000000 bytes_recv=3000000`,
		`direction="inbound" bytes_sent=3000000 bytes_recv=3000000`, "dst.hbone_addr=" + w.addr(2) + ":8080",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("the access log lacks %s:\n%s", want, log)
		}
	}
	for _, reporter := range []string{"source", "destination"} {
		for name, want := range map[string]float64{
			"istio_tcp_connections_opened_total": 3, "istio_tcp_connections_closed_total": 3, "istio_tcp_connections_failed_total": 0,
			"istio_tcp_received_bytes_total": 3000005, "istio_tcp_sent_bytes_total": 3000005,
		} {
			if got := w.metric(name, reporter); got != want {
				t.Errorf("%s{reporter=%q} is %v, want %v", name, reporter, got, want)
			}
		}
	}
}

// metric sums a counter over the series of a reporter.
func (w *world) metric(name, reporter string) (sum float64) {
	w.t.Helper()
	var text bytes.Buffer
	if err := w.m.WriteText(&text); err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(text.String()) {
		if strings.HasPrefix(line, name+"{") && strings.Contains(line, `reporter="`+reporter+`"`) {
			var v float64
			if _, err := fmt.Sscan(line[strings.LastIndexByte(line, '}')+1:], &v); err != nil {
				w.t.Fatalf("%q: %v", line, err)
			}
			sum += v
		}
	}
	return sum
}

// publish makes parts the state of the mesh. A snapshot owns its lists.
func (w *world) publish(p mesh.Parts) {
	p.Workloads, p.Services, p.Waypoints = slices.Clone(p.Workloads), slices.Clone(p.Services), slices.Clone(p.Waypoints)
	p.Policies, p.PeerAuth = slices.Clone(p.Policies), slices.Clone(p.PeerAuth)
	w.store.Publish(p)
}

func TestLoopbackSourceAddress(t *testing.T) {
	w := newWorld(t, nil)
	w.listen(w.addr(2)+":8080", func(c *net.TCPConn) {
		fmt.Fprintln(c, c.RemoteAddr().(*net.TCPAddr).IP)
		c.Close()
	})
	got, err := w.roundTrip(1, w.service(), "")
	if want := w.addr(2) + "\n"; err != nil || got != want {
		t.Errorf("the application sees %q, %v; want the pod's own address %q", got, err, want)
	}
}

func deny(name string, principals ...string) *mesh.AuthorizationPolicy {
	return &mesh.AuthorizationPolicy{
		Name: mesh.Name{Namespace: "ns", Name: name}, Action: mesh.ActionDeny,
		Rules: []mesh.AuthzRule{{From: []mesh.AuthzSource{{Principals: principals}}}},
	}
}

func TestLoopbackPolicy(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.parts.Policies = []*mesh.AuthorizationPolicy{deny("no-other", "cluster.local/ns/ns/sa/other")}
	})
	w.listen(w.addr(2)+":8080", echo)
	if got, err := w.roundTrip(1, w.service(), "hi"); err != nil || got != "hi" {
		t.Errorf("client: got %q, %v", got, err)
	}
	if got, err := w.roundTrip(0, w.service(), "hi"); err != nil || got != "hi" {
		t.Errorf("up/client: got %q, %v", got, err)
	}
	if got, err := w.roundTrip(3, w.service(), "hi"); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("other: got %q, %v; want a reset", got, err)
	}
	w.close()
	log := w.logged()
	for _, want := range []string{"explicitly denied by policy: ns/no-other", "401 (authorization policy or waypoint binding)"} {
		if !strings.Contains(log, want) {
			t.Errorf("the access log lacks %q:\n%s", want, log)
		}
	}
}

// TestLoopbackWatched: policies in dry run, and those that audit, refuse nothing at a node proxy; they count and log.
func TestLoopbackWatched(t *testing.T) {
	w := newWorld(t, func(w *world) {
		try, watch := deny("try", "*"), deny("watch", "*")
		try.DryRun, watch.Action = true, mesh.ActionAudit
		w.parts.Policies = []*mesh.AuthorizationPolicy{try, watch}
	})
	w.listen(w.addr(2)+":8080", echo)
	if got, err := w.roundTrip(1, w.service(), "hi"); err != nil || got != "hi" {
		t.Errorf("client: got %q, %v", got, err)
	}
	w.close()
	if log, want := w.logged(), `dry_run="denied by ns/try, audited by ns/watch"`; strings.Count(log, want) != 1 {
		t.Errorf("the access log lacks %s, or has it twice:\n%s", want, log)
	}
	var page strings.Builder
	if err := w.m.WriteText(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`cairn_authz_disagreements_total{policy="try",policy_kind="AuthorizationPolicy",policy_namespace="ns",would="deny"} 1`,
		`cairn_authz_audited_total{policy="watch",policy_kind="AuthorizationPolicy",policy_namespace="ns"} 1`,
	} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("metrics lack %s:\n%s", want, page.String())
		}
	}
}

// TestLoopbackPolicyChange closes a connection that was allowed when it was opened.
func TestLoopbackPolicyChange(t *testing.T) {
	w := newWorld(t, nil)
	w.listen(w.addr(2)+":8080", lines)
	open := func(from int) (*net.TCPConn, *bufio.Reader) {
		c, err := w.dial(from, w.service())
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(c)
		io.WriteString(c, "one\n")
		if line, err := r.ReadString('\n'); err != nil || line != "one\n" {
			t.Fatalf("got %q, %v", line, err)
		}
		return c, r
	}
	allowed, ar := open(1)
	_, dr := open(3)
	w.parts.Policies = []*mesh.AuthorizationPolicy{deny("late", "cluster.local/ns/ns/sa/other")}
	w.publish(w.parts)
	if line, err := dr.ReadString('\n'); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the forbidden connection got %q, %v; want a reset", line, err)
	}
	io.WriteString(allowed, "two\n")
	if line, err := ar.ReadString('\n'); err != nil || line != "two\n" {
		t.Errorf("the other connection got %q, %v", line, err)
	}
	allowed.Close()
	w.close()
	if log := w.logged(); !strings.Contains(log, "connection closed due to policy change") {
		t.Errorf("the access log does not say why:\n%s", log)
	}
}

func TestLoopbackWaypointMissing(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.parts.Services[0].Waypoint = wpRef("ns", "wp")
		w.parts.Waypoints = []*mesh.Waypoint{gateway("ns", "wp", w.addr(50))} // nobody listens there
	})
	w.listen(w.addr(2)+":8080", echo)
	if got, err := w.roundTrip(1, w.service(), "hi"); err == nil {
		t.Errorf("got %q around the waypoint, want a reset", got)
	}
	if n := w.metric("istio_tcp_connections_opened_total", "destination"); n != 0 {
		t.Errorf("%v connections reached the destination", n)
	}
	w.close()
	if log := w.logged(); !strings.Contains(log, "traffic is not passed around it: connecting to "+w.addr(50)+":15008") {
		t.Errorf("the access log does not say why:\n%s", log)
	}
}

// TestLoopbackRetry has one endpoint that refuses connections: nobody notices.
func TestLoopbackRetry(t *testing.T) {
	w := newWorld(t, func(w *world) {
		plain := func(n int) *mesh.Workload {
			p := pod("ns", fmt.Sprint("plain", n), w.addr(n))
			p.Protocol = mesh.TunnelNone
			return p
		}
		a, b := plain(20), plain(21)
		svc := svcOf("ns", "pair", w.addr(101), a, b)
		svc.Ports[0] = mesh.ServicePort{Port: 8000, TargetPort: 8080}
		a.Services[svc.Key], b.Services[svc.Key] = map[uint16]uint16{8000: 8080}, map[uint16]uint16{8000: 8080}
		w.parts.Workloads = append(w.parts.Workloads, a, b)
		w.parts.Services = append(w.parts.Services, svc)
	})
	w.listen(w.addr(21)+":8080", echo)
	for range 20 {
		if got, err := w.roundTrip(1, w.addr(101)+":8000", "hi"); err != nil || got != "hi" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
}

// TestLoopbackHalfClose keeps one direction open after the other has ended.
func TestLoopbackHalfClose(t *testing.T) {
	w := newWorld(t, nil)
	serverDone := make(chan string, 1)
	w.listen(w.addr(2)+":8080", func(c *net.TCPConn) {
		defer c.Close()
		io.WriteString(c, "first\n")
		c.CloseWrite()
		b, _ := io.ReadAll(c)
		serverDone <- string(b)
	})
	c, err := w.dial(1, w.service())
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c) // until the server has ended its output
	if err != nil || string(got) != "first\n" {
		t.Fatalf("got %q, %v", got, err)
	}
	io.WriteString(c, "late")
	c.CloseWrite()
	if got := <-serverDone; got != "late" {
		t.Errorf("the server got %q after it had ended its own output, want %q", got, "late")
	}
}

// TestLoopbackFollows adds and removes services and pods while it runs.
func TestLoopbackFollows(t *testing.T) {
	w := newWorld(t, nil)
	w.listen(w.addr(2)+":8080", lines)
	w.listen(w.addr(9)+":8080", echo)
	kept, err := w.dial(1, w.service())
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(kept)
	say := func(s string) {
		t.Helper()
		io.WriteString(kept, s+"\n")
		if got, err := r.ReadString('\n'); err != nil || got != s+"\n" {
			t.Fatalf("the old connection got %q, %v", got, err)
		}
	}
	say("before")
	late := pod("ns", "late", w.addr(9))
	svc := svcOf("ns", "late", w.addr(109), late)
	svc.Ports[0] = mesh.ServicePort{Port: 8000, TargetPort: 8080}
	late.Services[svc.Key] = map[uint16]uint16{8000: 8080}
	before := w.parts
	w.parts.Workloads = append(before.Workloads[:3:3], late)
	w.parts.Services = append(before.Services[:1:1], svc)
	w.publish(w.parts)
	w.until(func() bool { return len(w.proxy.Listening()) == 2 })
	if got, err := w.roundTrip(1, w.addr(109)+":8000", "hi"); err != nil || got != "hi" {
		t.Errorf("the new service: got %q, %v", got, err)
	}
	say("between")
	w.publish(before)
	w.until(func() bool { return len(w.proxy.Listening()) == 1 })
	if _, err := w.dial(1, w.addr(109)+":8000"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the removed service: got %v, want connection refused", err)
	}
	say("after")
}

// until waits for something that happens soon.
func (w *world) until(ok func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for tick := time.NewTicker(time.Millisecond); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			w.t.Fatal("it did not happen")
		}
	}
}

func TestLoopbackLowPort(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.parts.Services[0].Ports = append(w.parts.Services[0].Ports, mesh.ServicePort{Port: 81, TargetPort: 8080})
	})
	w.listen(w.addr(2)+":8080", echo)
	for _, b := range w.proxy.Listening() {
		if b.Err != nil || !b.Listen.IsValid() || (b.Listen.Port() != b.Port && b.Listen.Port() != b.Port+10000) {
			t.Errorf("bound %+v", b)
		}
		if got, err := w.roundTrip(1, b.Listen.String(), "hi"); err != nil || got != "hi" {
			t.Errorf("port %d at %s: got %q, %v", b.Port, b.Listen, got, err)
		}
	}
}

func TestLoopbackPortInUse(t *testing.T) {
	w := newWorld(t, nil)
	p, err := New(Options{Snapshots: w.store, Certificates: w.certs})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second proxy on the same addresses: %v, want address in use", err)
	}
}

func TestRunWithoutMesh(t *testing.T) {
	p, err := New(Options{Snapshots: source.NewStore(), Certificates: identity.NewCache(nil, identity.CacheOptions{})})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Run(ctx); err != nil {
		t.Errorf("run: %v", err)
	}
}

func TestLoopbackDrain(t *testing.T) {
	w := newWorld(t, nil)
	w.listen(w.addr(2)+":8080", lines)
	c, err := w.dial(1, w.service())
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	io.WriteString(c, "one\n")
	if line, err := r.ReadString('\n'); err != nil || line != "one\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	start := time.Now()
	w.close()
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("draining took %v, want about 100ms", d)
	}
	if line, err := r.ReadString('\n'); err == nil {
		t.Errorf("got %q after the drain time", line)
	}
	if log := w.logged(); !strings.Contains(log, "drain time is over") {
		t.Errorf("the access log does not say why:\n%s", log)
	}
}
