package waypoint

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/telemetry"
	"cairnproxy.dev/cairn/tunnel"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// lab is a waypoint whose connections are in memory and move only when the
// test says so: no sockets, no TLS, no goroutines, no clock. HTTP/2 on both
// sides is the real one.
type lab struct {
	t      testing.TB
	p      *Proxy
	now    time.Time
	turn   loop.Turn
	logged bytes.Buffer
	log    *telemetry.Writer
	budget *h2.Budget
	wires  []*wire
	peers  map[netip.AddrPort]*labPeer
	parts  mesh.Parts
	// serve handles the streams that reach a workload.
	serve   func(t *loop.Turn, host string, st *h2.Stream, head *h2.Head)
	version uint64
	window  int64 // of the tests' own ends
	own     int64 // of the waypoint's, and they do not grow; 0 is as in production
}

type labIdentities struct{}

func (labIdentities) Server(mesh.Identity) *tls.Config           { return &tls.Config{} }
func (labIdentities) Client(mesh.Identity, []string) *tls.Config { return &tls.Config{} }
func (labIdentities) Alias([]string)                             {}
func (labIdentities) Revision() uint64                           { return 0 }
func (labIdentities) Revoked(*tls.ConnectionState) error         { return nil }

var labWaypoint = &mesh.Waypoint{Name: wpName, Class: "cairn-waypoint", Identity: wpID, Addresses: []netip.Addr{netip.MustParseAddr("10.9.9.9")}, Port: 15008, For: mesh.WaypointForAll}

func newLab(t testing.TB, parts mesh.Parts) *lab {
	l := &lab{t: t, now: time.Unix(1_800_000_000, 0), peers: map[netip.AddrPort]*labPeer{}, budget: &h2.Budget{Limit: 256 << 20}, window: 65535}
	l.log = telemetry.NewWriter(&l.logged, telemetry.WriterOptions{MaxBuffered: 1 << 30})
	var err error
	l.p, err = New(Options{
		Name: wpName, Addresses: labWaypoint.Addresses, Snapshots: &snapshots{}, Identities: labIdentities{},
		Metrics: telemetry.NewMetrics("proxy", "test", telemetry.MetricsOptions{NoRuntime: true}), AccessLog: l.log, Budget: l.budget,
	})
	if err != nil {
		t.Fatal(err)
	}
	l.p.peer = func(tg tunnel.Target) peer {
		if l.peers[tg.Addr] == nil {
			l.peers[tg.Addr] = &labPeer{l: l, addr: tg.Addr, max: 100}
		}
		return l.peers[tg.Addr]
	}
	parts.Waypoints = append(parts.Waypoints, labWaypoint)
	l.parts = parts
	l.publish()
	return l
}

// publish puts l.parts in force.
func (l *lab) publish() {
	l.version++
	l.p.apply(mesh.NewSnapshot(l.version, l.parts))
}

// do gives f a turn.
func (l *lab) do(f func(t *loop.Turn)) {
	l.turn.Now = l.now
	f(&l.turn)
	l.turn.End()
}

// lines is the access log so far; the log ends with it.
func (l *lab) lines() []string {
	l.log.Close()
	return strings.Split(strings.TrimSuffix(l.logged.String(), "\n"), "\n")
}

func labWorkload(n int) *mesh.Workload {
	name := fmt.Sprintf("w%d", n)
	return &mesh.Workload{
		UID: "Kubernetes//Pod/app/" + name, Name: name, Namespace: "app", ServiceAccount: name, TrustDomain: "cluster.local",
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(n)})}, Protocol: mesh.TunnelHBONE, Ready: true, Capacity: 1,
		WorkloadName: name, WorkloadType: "deployment", Services: map[mesh.ServiceKey]map[uint16]uint16{},
	}
}

func labService(n int, proto mesh.AppProtocol, endpoints ...*mesh.Workload) *mesh.Service {
	name := fmt.Sprintf("s%d", n)
	v := &mesh.Service{
		Key: mesh.ServiceKey{Namespace: "app", Hostname: name + ".app.svc.cluster.local"}, Name: name, VIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 0, byte(n)})},
		Ports: []mesh.ServicePort{{Name: "p", Port: 80, TargetPort: 8080, Protocol: proto}}, Waypoint: &mesh.WaypointRef{Name: wpName}, Canonical: true,
	}
	for _, w := range endpoints {
		w.Services[v.Key] = map[uint16]uint16{80: 8080}
	}
	return v
}

// wire is one end of a connection in memory: the carrier of conn, whose output
// goes to another wire's conn.
type wire struct {
	l      *lab
	q      loop.Queue
	conn   *h2.Conn
	to     *wire
	staged []byte // taken from q and not delivered
	rest   []byte // delivered and not consumed
	closed bool   // conn.Closed was called
	fin    bool   // the end was delivered
	abort  bool
	ledger ledger
}

func (w *wire) Queue() *loop.Queue { return &w.q }
func (w *wire) Abort()             { w.abort = true }
func (w *wire) Flush(*loop.Turn) {
	w.q.Lock()
	w.q.Flushed()
	w.q.Unlock()
}

// pair joins two new connections.
func (l *lab) pair(client, server h2.Handler, co, so h2.Options) (*wire, *wire) {
	a, b := &wire{l: l}, &wire{l: l}
	a.to, b.to = b, a
	a.q.Init(a)
	b.q.Init(b)
	co.Client = true
	a.ledger.open(co)
	b.ledger.open(so)
	l.do(func(t *loop.Turn) {
		a.conn = h2.New(t, a, client, co)
		b.conn = h2.New(t, b, server, so)
	})
	l.wires = append(l.wires, a, b)
	return a, b
}

// pending reports whether pump would do something.
func (w *wire) pending() bool {
	if w.abort && !w.closed {
		return true
	}
	w.q.Lock()
	defer w.q.Unlock()
	return len(w.staged) > 0 || w.q.Size() > 0 || w.q.Ended() && !w.fin
}

// pump delivers at most n bytes of w's output.
func (w *wire) pump(n int) {
	if w.abort && !w.closed {
		w.l.do(func(t *loop.Turn) { w.close(t, loop.ErrAborted) })
		return
	}
	w.q.Lock()
	if len(w.staged) == 0 {
		b := w.q.Take()
		w.staged = append(w.staged[:0], b...)
		w.q.Release(b)
	}
	end := len(w.staged) == 0 && w.q.Ended()
	drained := w.q.WantDrained && w.q.Size() <= loop.LowWater
	if drained {
		w.q.WantDrained = false
	}
	w.q.Unlock()
	w.l.do(func(t *loop.Turn) {
		if drained && !w.closed {
			w.conn.Drained(t)
		}
		if end {
			w.fin = true
			w.to.close(t, io.EOF)
			return
		}
		n = min(n, len(w.staged))
		w.to.receive(t, w.staged[:n])
		w.staged = w.staged[n:]
	})
}

// receive gives bytes to w's conn in memory that is spoilt afterwards.
func (w *wire) receive(t *loop.Turn, b []byte) {
	if w.closed {
		return
	}
	w.rest = append(w.rest, b...)
	lent := bytes.Clone(w.rest)
	used, err := w.conn.Data(t, lent)
	w.note(lent[:used])
	for i := range lent {
		lent[i] = 0xa5
	}
	w.rest = w.rest[:copy(w.rest, w.rest[used:])]
	if err != nil {
		w.close(t, err)
	}
}

func (w *wire) close(t *loop.Turn, err error) {
	if w.closed {
		return
	}
	w.closed = true
	w.conn.Closed(t, err)
	w.q.Lock()
	w.q.End(t)
	w.q.Unlock()
}

// settle delivers everything that is under way.
func (l *lab) settle() {
	for more := true; more; {
		more = false
		for i := 0; i < len(l.wires); i++ {
			for w := l.wires[i]; w.pending(); more = true {
				w.pump(1 << 20)
			}
		}
	}
}

// quiet is the h2.Handler of ends that get no streams.
type quiet struct{}

func (quiet) Open(t *loop.Turn, s *h2.Stream, _ *h2.Head) { s.Reset(t, h2.ProtocolError) }
func (quiet) Closed(*loop.Turn, error)                    {}

// labServer is the waypoint's HBONE server.
type labServer struct {
	quiet
	l *lab
}

func (s labServer) Open(t *loop.Turn, st *h2.Stream, head *h2.Head) {
	authority := ""
	for _, f := range head.Fields {
		if f.Name == ":authority" {
			authority = f.Value
		}
	}
	a, err := tunnel.ParseAuthority(authority)
	if err != nil {
		s.l.t.Fatal(err)
	}
	pe := mesh.Peer{Identity: clientID, Principal: clientID.Principal(), Addr: netip.MustParseAddrPort("10.0.1.1:40000")}
	tun := &clientTunnel{p: s.l.p, peer: pe, principalURI: "spiffe://" + pe.Principal, dst: a.Addr, host: a.Host, port: a.Port, shard: s.l.p.nextShard.Add(1)}
	s.l.p.serve(t, tun, labConnect{st})
}

type labConnect struct{ st *h2.Stream }

func (c labConnect) Stream() *h2.Stream { return c.st }
func (c labConnect) AcceptInline(t *loop.Turn, h h2.StreamHandler, _ ...mesh.Field) *h2.Stream {
	c.st.Handle(h)
	c.st.WriteHeaders(t, []hpack.HeaderField{{Name: ":status", Value: "200"}}, false)
	return c.st
}

func (c labConnect) RejectInline(t *loop.Turn, status int) {
	c.st.WriteHeaders(t, []hpack.HeaderField{{Name: ":status", Value: statusString(status)}}, true)
	if _, remote := c.st.Ended(); !remote {
		c.st.Reset(t, h2.NoError)
	}
}

// client makes an HBONE connection to the waypoint and returns its client end.
func (l *lab) client() *wire {
	a, _ := l.pair(quiet{}, labServer{l: l}, h2.Options{Window: l.window, MaxWindow: l.window, Keepalive: time.Hour}, h2.Options{MaxStreams: 200, Budget: l.budget, Keepalive: time.Hour, Window: l.own, MaxWindow: l.own})
	return a
}

// connect sends a CONNECT for a service's port.
func (w *wire) connect(t *loop.Turn, authority string, h h2.StreamHandler) *h2.Stream {
	return w.conn.Open(t, h, []hpack.HeaderField{{Name: ":method", Value: "CONNECT"}, {Name: ":authority", Value: authority}}, false)
}

func vip(v *mesh.Service) string { return netip.AddrPortFrom(v.VIPs[0], v.Ports[0].Port).String() }

// labPeer is the waypoint's connections to one workload's node proxy.
type labPeer struct {
	l       *lab
	addr    netip.AddrPort
	conns   []*wire
	waiting []labWaiter
	max     int  // streams per connection
	refused bool // a dial
}

type labWaiter struct {
	authority string
	o         tunnel.Opener
}

func (p *labPeer) TryOpen(t *loop.Turn, req tunnel.Request, h h2.StreamHandler) *h2.Stream {
	for _, w := range p.conns {
		if ok, _ := w.conn.CanOpen(p.max); ok && !w.closed {
			if st := w.connect(t, req.Authority, h); st != nil {
				return st
			}
		}
	}
	return nil
}

func (p *labPeer) Open(_ *loop.Turn, req tunnel.Request, o tunnel.Opener) {
	p.waiting = append(p.waiting, labWaiter{req.Authority, o})
}

// dialed ends a dial: with an error for all that wait, or with a connection.
func (p *labPeer) dialed(err error) {
	waiting := p.waiting
	p.waiting = nil
	if err != nil {
		p.l.do(func(t *loop.Turn) {
			for _, w := range waiting {
				w.o.Opened(t, nil, err)
			}
		})
		return
	}
	c, _ := p.l.pair(quiet{}, labHost{l: p.l, name: p.addr.Addr().String()}, h2.Options{Budget: p.l.budget, Keepalive: time.Hour, Window: p.l.own, MaxWindow: p.l.own}, h2.Options{Window: p.l.window, MaxWindow: p.l.window, MaxStreams: 200, Keepalive: time.Hour})
	p.conns = append(p.conns, c)
	p.l.do(func(t *loop.Turn) {
		for i, w := range waiting {
			ok, _ := c.conn.CanOpen(p.max)
			if !ok {
				p.waiting = append(p.waiting, waiting[i:]...)
				return
			}
			st := c.connect(t, w.authority, w.o)
			w.o.Opened(t, st, nil)
		}
	})
}

// labHost is a workload's node proxy.
type labHost struct {
	quiet
	l    *lab
	name string
}

func (h labHost) Open(t *loop.Turn, st *h2.Stream, head *h2.Head) { h.l.serve(t, h.name, st, head) }

// timeoutPolicy is what a rule says that has these timeouts; 0 for none.
func timeoutPolicy(request, perTry time.Duration) *mesh.RequestPolicy {
	return &mesh.RequestPolicy{Timeouts: &mesh.Timeouts{Request: request, PerTry: perTry}}
}
