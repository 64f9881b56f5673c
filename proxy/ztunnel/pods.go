package ztunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"

	"cairnproxy.dev/cairn/host"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/proxy/ztunnel/dns"
)

// Pod is a pod to serve in ModeInPod.
type Pod struct {
	// UID names the pod towards RemovePod and in the configuration dump.
	UID string
	WorkloadInfo
	// NetNS is a descriptor of the pod's network namespace. AddPod keeps a
	// duplicate; the caller may close its own.
	NetNS int
}

// podSite is what newPodSite needs to know.
type podSite struct {
	name, uid string
	info      WorkloadInfo
	ns        *host.Namespace
}

// AddPod begins to serve a pod: it opens the listeners to which the pod's
// redirection rules lead. They accept from the moment that Run serves. Adding
// the same pod with the same namespace again does nothing; with another
// namespace it replaces the old.
func (p *Proxy) AddPod(pod Pod) error {
	if p.o.Mode != ModeInPod {
		return errors.New("adding a pod: the proxy does not serve pods' namespaces")
	}
	ns, err := host.OpenNamespace(pod.NetNS)
	if err != nil {
		return fmt.Errorf("adding pod %s: %w", pod.UID, err)
	}
	p.mu.Lock()
	old := p.pods[pod.UID]
	p.mu.Unlock()
	if old != nil {
		if old.sameNamespace(ns) {
			ns.Close()
			return nil
		}
		p.RemovePod(pod.UID)
	}
	s, err := p.newPodSite(podSite{name: pod.Name, uid: pod.UID, info: pod.WorkloadInfo, ns: ns})
	if err == nil {
		err = p.addSite(pod.UID, s)
	}
	if err != nil {
		ns.Close()
		return fmt.Errorf("failure to start proxy : pod %s: %w", pod.UID, err)
	}
	return nil
}

// RemovePod ends a pod's connections and listeners at once: its network is
// gone or going.
func (p *Proxy) RemovePod(uid string) {
	p.mu.Lock()
	s := p.pods[uid]
	delete(p.pods, uid)
	delete(p.sites, s)
	p.mu.Unlock()
	if s == nil {
		return
	}
	s.stopListening()
	p.conns.abort(s, errPodGone)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.shutdown(ctx)
}

// addSite takes a site up, and serves it if the proxy runs.
func (p *Proxy) addSite(uid string, s *site) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drained {
		go s.stopListening()
		return errors.New("the proxy is shutting down")
	}
	p.sites[s] = struct{}{}
	if uid != "" {
		p.pods[uid] = s
	}
	if p.serving {
		s.serve()
	}
	return nil
}

func (s *site) sameNamespace(ns *host.Namespace) bool { return s.ns != nil && s.ns.Same(ns) }

// newPodSite opens the listeners of a pod's namespace.
func (p *Proxy) newPodSite(pod podSite) (_ *site, err error) {
	sockets := p.o.Sockets
	sockets.Namespace = pod.ns
	s := p.newSite(pod.name)
	s.uid, s.info, s.ns = pod.uid, pod.info, pod.ns
	s.local = findLocal(pod)
	s.dialPeer = sockets.Dial
	s.dialApp = func(ctx context.Context, client netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
		conn, _, err := sockets.DialApp(ctx, client, to)
		return conn, err
	}
	defer func() {
		if err != nil {
			s.stopListening()
		}
	}()
	ctx := s.ctx
	if err := sockets.Check(ctx); err != nil {
		return nil, err
	}
	s.newPool()
	tuned := func(f func(*net.TCPConn)) func(*net.TCPConn) {
		return func(conn *net.TCPConn) {
			sockets.Tune(conn)
			f(conn)
		}
	}
	for _, l := range []struct {
		port uint16
		f    func(*net.TCPConn)
	}{{PortOutbound, tuned(s.captured)}, {PortInbound, tuned(s.plaintext)}} {
		ln, err := sockets.Listen(ctx, l.port)
		if err != nil {
			return nil, err
		}
		s.onServe(func() { s.accept(ln, l.f) }, ln.Close)
	}
	hbone, err := sockets.Listen(ctx, PortHBONE)
	if err != nil {
		return nil, err
	}
	s.onServe(func() { s.serveHBONE(hbone) }, hbone.Close)
	if p.o.DNS {
		return s, s.listenDNS(ctx)
	}
	return s, nil
}

// serveHBONE serves tunnels once it is known whose identity to present.
func (s *site) serveHBONE(ln *net.TCPListener) {
	for {
		changed := s.p.changes()
		if w := s.local(s.p.snapshot()); w != nil {
			s.mu.Lock()
			if s.ended {
				s.mu.Unlock()
				return
			}
			s.newServer(w.Identity())
			server := s.server
			s.mu.Unlock()
			if err := server.Serve(ln); err != nil {
				s.p.o.Log.Error("serving hbone", "workload", s.info.String(), "error", err)
			}
			return
		}
		select {
		case <-changed:
		case <-s.ctx.Done():
			return
		}
	}
}

// findLocal returns a function that finds the pod's workload: by UID where the
// mesh knows it, else by its name, namespace and account. It remembers the
// answer for a snapshot.
func findLocal(pod podSite) func(*mesh.Snapshot) *mesh.Workload {
	type answer struct {
		snap *mesh.Snapshot
		w    *mesh.Workload
	}
	var last atomic.Pointer[answer]
	return func(s *mesh.Snapshot) *mesh.Workload {
		if a := last.Load(); a != nil && a.snap == s {
			return a.w
		}
		a := &answer{snap: s, w: s.Workload(pod.uid)}
		if a.w == nil {
			for _, w := range s.Workloads {
				if w.Name == pod.info.Name && w.Namespace == pod.info.Namespace && w.ServiceAccount == pod.info.ServiceAccount {
					a.w = w
					break
				}
			}
		}
		last.Store(a)
		return a.w
	}
}

// listenDNS opens the name server on the pod's loopback addresses. It must not
// be on all addresses: a redirected query goes to 127.0.0.1, and an answer
// from another address is not recognised as its answer.
func (s *site) listenDNS(ctx context.Context) error {
	sockets := s.p.o.Sockets
	sockets.Namespace = s.ns
	server := dns.NewServer(dns.Options{
		Snapshot:  s.p.snapshot,
		Client:    func() *mesh.Workload { return s.local(s.p.snapshot()) },
		Search:    s.p.o.DNSSearch,
		Upstreams: s.p.o.Nameservers,
		Dial: func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
			if network == "tcp" {
				return sockets.Dial(ctx, netip.Addr{}, to)
			}
			return sockets.DialUDP(ctx, to)
		},
		Asked: s.dnsAsked,
		Log:   s.p.o.Log,
	})
	addrs := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	if !sockets.IPv4Only {
		addrs = append(addrs, netip.IPv6Loopback())
	}
	for i, a := range addrs {
		at := netip.AddrPortFrom(a, PortDNS)
		udp, err := sockets.ListenUDP(ctx, at)
		if err == nil {
			tcp, terr := sockets.ListenOn(ctx, at)
			if err = terr; err == nil {
				s.onServe(func() { server.Serve(s.ctx, udp, tcp) }, func() error { return errors.Join(udp.Close(), tcp.Close()) })
				continue
			}
			udp.Close()
		}
		if i > 0 {
			return nil // the namespace has no IPv6
		}
		return err
	}
	return nil
}
