package ztunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"cairnproxy.dev/cairn/host"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel"
)

// site is one place at which the proxy takes connections: a pod's network
// namespace, a pod's loopback address, or, in loopback mode, the addresses of
// all services together.
type site struct {
	p    *Proxy
	name string
	uid  string // the pod's, in ModeInPod
	info WorkloadInfo
	ns   *host.Namespace // the pod's; nil for the process's own

	// local finds the workload that the site stands for, or nil.
	local func(s *mesh.Snapshot) *mesh.Workload
	// dialPeer reaches other proxies and addresses outside the mesh; dialApp
	// reaches the site's own application for a client.
	dialPeer func(ctx context.Context, source netip.Addr, to netip.AddrPort) (*net.TCPConn, error)
	dialApp  func(ctx context.Context, client netip.Addr, to netip.AddrPort) (*net.TCPConn, error)
	// closed refuses destinations that the mesh does not know.
	closed bool
	// bindSource makes tunnels come from the client's own address.
	bindSource bool

	pool   *tunnel.Pool   // nil where nothing is sent
	server *tunnel.Server // nil where nothing is received

	ctx    context.Context // of everything that the site does; ends with shutdown
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	serving bool
	ended   bool
	loops   []func() // run by serve
	closers []func() error
	holds   mesh.Identity // whose certificate the site keeps fresh
}

func (p *Proxy) newSite(name string) *site {
	s := &site{p: p, name: name}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// onServe registers a loop to run while the site serves, and what stops it.
func (s *site) onServe(run func(), closeIt func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loops = append(s.loops, run)
	s.closers = append(s.closers, closeIt)
}

// serve starts the site's loops. It does not block.
func (s *site) serve() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.serving {
		return
	}
	s.serving = true
	for _, run := range s.loops {
		s.wg.Go(run)
	}
}

// stopListening closes the site's listeners; connections go on.
func (s *site) stopListening() {
	s.mu.Lock()
	s.ended = true
	closers := s.closers
	s.closers = nil
	if s.server != nil {
		s.server.CloseListeners()
	}
	s.mu.Unlock()
	for _, f := range closers {
		_ = f()
	}
}

// farewell is how long a tunnel may take to end after its streams have.
const farewell = 200 * time.Millisecond

// shutdown ends the site: no new connections, peers are told, and what goes on
// when ctx ends is closed.
func (s *site) shutdown(ctx context.Context) {
	s.stopListening()
	s.mu.Lock()
	server := s.server
	s.mu.Unlock()
	var drained sync.WaitGroup
	serverCtx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if server != nil {
		drained.Go(func() { _ = server.Shutdown(serverCtx) })
	}
	s.p.conns.wait(ctx, s)
	s.cancel()
	s.p.conns.abort(s, errDrained)
	// The streams are reset: their tunnels have nothing left but to say so.
	time.AfterFunc(farewell, cancel)
	drained.Wait()
	if s.pool != nil {
		s.pool.Close()
	}
	s.wg.Wait()
	s.release()
	_ = s.ns.Close()
}

// accept runs f for each connection, on a goroutine of its own, until the
// listener is closed.
func (s *site) accept(ln *net.TCPListener, f func(conn *net.TCPConn)) {
	delay := time.Duration(0)
	for {
		conn, err := ln.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors, or a connection that was gone before we had it:
			// neither ends the listener.
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			if !errors.Is(err, syscall.ECONNABORTED) {
				s.p.o.Log.Warn("accepting a connection", "at", ln.Addr().String(), "error", err)
			}
			select {
			case <-s.ctx.Done():
				return
			case <-time.NewTimer(delay).C:
			}
			continue
		}
		delay = 0
		s.wg.Go(func() { f(conn) })
	}
}

// awaitLocal returns the site's workload, waiting a while for the mesh to know it.
func (s *site) awaitLocal() (*mesh.Workload, error) {
	if w := s.local(s.p.snapshot()); w != nil {
		return w, nil
	}
	timeout := time.NewTimer(s.p.o.WorkloadTimeout)
	defer timeout.Stop()
	for {
		changed := s.p.changes()
		if w := s.local(s.p.snapshot()); w != nil {
			return w, nil
		}
		select {
		case <-changed:
		case <-timeout.C:
			return nil, refuse(503, flagConnect, "timed out waiting for workload %s", s.info)
		case <-s.ctx.Done():
			return nil, refuse(503, flagConnect, "proxy is shutting down")
		}
	}
}

// newServer makes the site's HBONE server. It presents the identity id.
func (s *site) newServer(id mesh.Identity) {
	s.hold(id)
	s.server = tunnel.NewServer(tunnel.ServerOptions{
		TLS:         s.p.o.Certificates.Server(id),
		Handler:     func(c *tunnel.Connect) { s.serveConnect(c) },
		Log:         s.p.o.Log,
		Revocations: s.p.o.Certificates,
		HandshakeFailed: func(remote netip.AddrPort, err error) {
			s.p.logEarly("inbound", remote, netip.AddrPort{}, fmt.Errorf("tls: %w", err))
		},
	})
}

// prefetcher is what a source of certificates may be able to do: to have one
// ready before the first connection needs it, and to stop renewing it.
type prefetcher interface {
	Prefetch(id mesh.Identity)
	Forget(id mesh.Identity)
}

// hold keeps the certificate of id ready while the site lives.
func (s *site) hold(id mesh.Identity) {
	s.holds = id
	s.p.holdMu.Lock()
	defer s.p.holdMu.Unlock()
	s.p.held[id]++
	if c, ok := s.p.o.Certificates.(prefetcher); ok && s.p.held[id] == 1 {
		c.Prefetch(id)
	}
}

// release lets go of it; the last site that does makes it forgotten.
func (s *site) release() {
	if s.holds.IsZero() {
		return
	}
	s.p.holdMu.Lock()
	defer s.p.holdMu.Unlock()
	s.p.held[s.holds]--
	if s.p.held[s.holds] > 0 {
		return
	}
	delete(s.p.held, s.holds)
	if c, ok := s.p.o.Certificates.(prefetcher); ok {
		c.Forget(s.holds)
	}
}

// newPool makes the site's pool of tunnels.
func (s *site) newPool() {
	s.pool = tunnel.NewPool(tunnel.PoolOptions{
		Dial:        s.dialPeer,
		TLS:         s.p.o.Certificates.Client,
		Log:         s.p.o.Log,
		MaxStreams:  s.p.o.PoolStreams,
		IdleTimeout: s.p.o.PoolIdle,
		DialTimeout: s.p.o.ConnectTimeout,
		Revocations: s.p.o.Certificates,
	})
}

// reset ends a connection so that its peer sees that something went wrong.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}
