package ztunnel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/proxy/ztunnel/capture"
)

// loopback is the mode without privileges. Services and pods have addresses in
// 127.0.0.0/8; the proxy listens on those of the services, and for the tunnels
// to the pods on theirs. It follows the mesh: a listener is opened when its
// address appears and closed when it goes, and no other is touched.
//
// Nothing is redirected here: an application that dials a pod's own address
// reaches it directly. And nothing is secret from who runs on the same machine:
// a client is who its source address says it is.
type loopback struct {
	p   *Proxy
	out *site // for connections to services

	mu     sync.Mutex
	vips   map[netip.AddrPort]*vipListener
	pods   map[podKey]*site
	failed map[podKey]error // pods whose address cannot be listened on
	closed bool
	retry  *time.Timer
}

// vipListener is a service's port.
type vipListener struct {
	service mesh.ServiceKey
	target  netip.AddrPort
	ln      *net.TCPListener // nil while err stands in the way
	err     error
}

// podKey is a pod and whom its listener serves: with a change of either the
// listener is another.
type podKey struct {
	uid  string
	addr netip.Addr
	id   mesh.Identity
}

// lowPortTries is how many ports may stand in for one below 1024: 10080, 20080, …
const lowPortTries = 3

// retryListen is when a listener that could not be opened is tried again.
const retryListen = 2 * time.Second

func newLoopback(p *Proxy) *loopback {
	l := &loopback{p: p, vips: map[netip.AddrPort]*vipListener{}, pods: map[podKey]*site{}, failed: map[podKey]error{}}
	sockets := p.o.Sockets
	sockets.Namespace, sockets.Mark = nil, 0
	l.out = p.newSite("loopback")
	l.out.closed, l.out.bindSource, l.out.dialPeer = true, true, sockets.Dial
	l.out.local = func(*mesh.Snapshot) *mesh.Workload { return nil }
	l.out.newPool()
	p.sites[l.out] = struct{}{}
	return l
}

// start opens the listeners of the first snapshot; all of them must open.
func (l *loopback) start(s *mesh.Snapshot) error {
	l.out.serve()
	l.reconcile(s)
	l.mu.Lock()
	defer l.mu.Unlock()
	var first error
	n := 0
	count := func(err error) {
		if err == nil {
			return
		}
		if n++; first == nil || err.Error() < first.Error() {
			first = err
		}
	}
	for _, v := range l.vips {
		count(v.err)
	}
	for _, err := range l.failed {
		count(err)
	}
	return listenError(first, n)
}

// listenError puts why n listeners could not be opened into one line.
func listenError(first error, n int) error {
	if first == nil {
		return nil
	}
	more := ""
	if n > 1 {
		more = fmt.Sprintf(" (and %d more)", n-1)
	}
	if errors.Is(first, syscall.EADDRINUSE) {
		return fmt.Errorf("%w%s: is another mesh running on these addresses? stop it, or give this one other addresses", first, more)
	}
	return fmt.Errorf("%w%s", first, more)
}

// reconcile opens and closes listeners as the snapshot asks for.
func (l *loopback) reconcile(s *mesh.Snapshot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.reconcileServices(s)
	l.reconcilePods(s)
	l.retryLater()
}

// retryLater looks again when something could not be opened.
func (l *loopback) retryLater() {
	missing := len(l.failed) > 0
	for _, v := range l.vips {
		missing = missing || v.err != nil
	}
	if missing && l.retry == nil {
		l.retry = time.AfterFunc(retryListen, func() {
			l.mu.Lock()
			l.retry = nil
			l.mu.Unlock()
			l.reconcile(l.p.snapshot())
		})
	}
}

func (l *loopback) reconcileServices(s *mesh.Snapshot) {
	want := map[netip.AddrPort]mesh.ServiceKey{}
	for _, svc := range s.Services {
		for _, vip := range svc.VIPs {
			for _, port := range svc.Ports {
				at := netip.AddrPortFrom(vip, port.Port)
				if _, taken := want[at]; vip.IsLoopback() && !illegalPort(port.Port) && !taken {
					want[at] = svc.Key
				}
			}
		}
	}
	for at, v := range l.vips {
		if _, ok := want[at]; !ok {
			if v.ln != nil {
				v.ln.Close()
			}
			delete(l.vips, at)
		}
	}
	// High ports first: one that stands in for a low port must not take them.
	order := slices.SortedFunc(maps.Keys(want), func(a, b netip.AddrPort) int {
		return cmp.Or(cmp.Compare(b.Port(), a.Port()), a.Addr().Compare(b.Addr()))
	})
	for _, at := range order {
		v := l.vips[at]
		if v == nil {
			v = &vipListener{target: at}
			l.vips[at] = v
		}
		v.service = want[at]
		if v.ln == nil {
			l.open(v)
		}
	}
}

// open listens for a service's port, and serves.
func (l *loopback) open(v *vipListener) {
	sockets := l.p.o.Sockets
	sockets.Namespace, sockets.Mark, sockets.ReusePort = nil, 0, false
	before := v.err
	v.ln, v.err = sockets.ListenOn(l.out.ctx, v.target)
	for n := uint16(1); n <= lowPortTries && v.target.Port() < 1024 && (errors.Is(v.err, syscall.EACCES) || n > 1 && errors.Is(v.err, syscall.EADDRINUSE)); n++ {
		v.ln, v.err = sockets.ListenOn(l.out.ctx, netip.AddrPortFrom(v.target.Addr(), v.target.Port()+n*l.p.o.LowPortOffset))
	}
	if v.err != nil {
		if before == nil {
			l.p.o.Log.Warn("a service cannot be reached", "service", v.service.String(), "error", v.err)
		}
		return
	}
	ln, target := v.ln, v.target
	l.out.wg.Go(func() {
		l.out.accept(ln, func(conn *net.TCPConn) {
			sockets.Tune(conn)
			source := capture.AddrPort(conn.RemoteAddr())
			l.out.outbound(conn, l.client(source.Addr()), source, target)
		})
	})
}

// client is the workload at an address, or the one that stands for all
// clients without a pod.
func (l *loopback) client(addr netip.Addr) *mesh.Workload {
	s := l.p.snapshot()
	if w := s.WorkloadAt(s.Network, addr); w != nil {
		return w
	}
	return l.p.up.workload(s)
}

func (l *loopback) reconcilePods(s *mesh.Snapshot) {
	want := map[podKey]*mesh.Workload{}
	for _, w := range s.Workloads {
		// A waypoint terminates its own tunnels.
		if w.Protocol != mesh.TunnelHBONE || w.IsWaypoint || w.HostNetwork || (l.p.o.Node != "" && w.Node != l.p.o.Node) {
			continue
		}
		for _, a := range w.Addresses {
			if a.IsLoopback() && s.WorkloadAt(w.Network, a) == w {
				want[podKey{w.UID, a, w.Identity()}] = w
			}
		}
	}
	for k, st := range l.pods {
		if want[k] == nil {
			delete(l.pods, k)
			go l.p.endSite(st)
			st.stopListening()
		}
	}
	for k := range l.failed {
		if want[k] == nil {
			delete(l.failed, k)
		}
	}
	for k, w := range want {
		if l.pods[k] != nil {
			continue
		}
		st, err := l.openPod(k, w)
		if err != nil {
			if l.failed[k] == nil {
				l.p.o.Log.Warn("a pod cannot be reached", "pod", w.UID, "error", err)
			}
			l.failed[k] = err
			continue
		}
		delete(l.failed, k)
		l.pods[k] = st
	}
}

// openPod listens for tunnels to a pod.
func (l *loopback) openPod(k podKey, w *mesh.Workload) (*site, error) {
	sockets := l.p.o.Sockets
	sockets.Namespace, sockets.Mark, sockets.ReusePort = nil, 0, false
	ln, err := sockets.ListenOn(l.out.ctx, netip.AddrPortFrom(k.addr, PortHBONE))
	if err != nil {
		return nil, err
	}
	st := l.p.newSite(w.Name)
	st.uid, st.info = k.uid, WorkloadInfo{w.Namespace, w.Name, w.ServiceAccount}
	st.local = func(s *mesh.Snapshot) *mesh.Workload { return s.Workload(k.uid) }
	st.dialApp = func(ctx context.Context, _ netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
		return sockets.Dial(ctx, k.addr, to)
	}
	st.newServer(k.id)
	server := st.server
	st.onServe(func() {
		if err := server.Serve(ln); err != nil {
			l.p.o.Log.Error("serving hbone", "pod", k.uid, "error", err)
		}
	}, ln.Close)
	l.p.mu.Lock()
	l.p.sites[st] = struct{}{}
	l.p.mu.Unlock()
	st.serve()
	return st, nil
}

// endSite takes down the site of a pod that was removed.
func (p *Proxy) endSite(s *site) {
	p.mu.Lock()
	delete(p.sites, s)
	p.mu.Unlock()
	p.conns.abort(s, errPodGone)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.shutdown(ctx)
}

func (l *loopback) closeListeners() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.retry != nil {
		l.retry.Stop()
	}
	for _, v := range l.vips {
		if v.ln != nil {
			v.ln.Close()
		}
	}
	for _, st := range l.pods {
		st.stopListening()
	}
}

// bound lists the services' ports.
func (l *loopback) bound() []Bound {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Bound, 0, len(l.vips))
	for at, v := range l.vips {
		b := Bound{Service: v.service, VIP: at.Addr(), Port: at.Port(), Err: v.err}
		if v.ln != nil {
			b.Listen = capture.AddrPort(v.ln.Addr())
		}
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b Bound) int {
		return cmp.Or(cmp.Compare(a.Service.String(), b.Service.String()), a.VIP.Compare(b.VIP), cmp.Compare(a.Port, b.Port))
	})
	return out
}

// upClient makes the workload of clients without a pod: up/client.
type upClient struct {
	mu   sync.Mutex
	last *mesh.Workload
}

func (u *upClient) workload(s *mesh.Snapshot) *mesh.Workload {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.last == nil || u.last.TrustDomain != s.TrustDomain || u.last.Network != s.Network || u.last.ClusterID != s.ClusterID {
		u.last = &mesh.Workload{
			UID: "up/client", Name: "client", Namespace: "up", ServiceAccount: "client", TrustDomain: s.TrustDomain,
			Network: s.Network, ClusterID: s.ClusterID, Protocol: mesh.TunnelHBONE, Ready: true, Capacity: 1,
			CanonicalName: "client", CanonicalRevision: "latest", WorkloadName: "client", WorkloadType: "pod",
		}
	}
	return u.last
}
