package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// ServerOptions configures a Server. Exactly one of Handler and Inline is set.
type ServerOptions struct {
	// TLS must require and verify client certificates: identity.Cache.Server.
	TLS *tls.Config
	// Handler is called for each CONNECT on a goroutine of its own.
	Handler func(*Connect)
	// Inline is called for each CONNECT on the connection's reader and must
	// not block. It answers with AcceptInline or RejectInline, now or later.
	Inline func(t *loop.Turn, c *Connect)
	Log    *slog.Logger
	// MaxStreams per connection; 0 means 200.
	MaxStreams uint32
	// HandshakeTimeout; 0 means 10 s.
	HandshakeTimeout time.Duration
	// Keepalive is the silence after which a peer is pinged, and
	// KeepaliveTimeout how long its answer may take; 0 means 10 s and 20 s.
	Keepalive, KeepaliveTimeout time.Duration
	// Budget bounds the bytes that wait; nil means none.
	Budget *h2.Budget
	// ConnOpened, if set, is called when a connection was authenticated, and
	// the function that it returns when it ended.
	ConnOpened func(peer mesh.Identity, remote netip.AddrPort) (ended func())
	// HandshakeFailed, if set, is called for connections that did not get that far.
	HandshakeFailed func(remote netip.AddrPort, err error)
	// Revocations, if set, says which peers are to be cut off.
	Revocations Revocations
}

// Server is an HBONE server: it authenticates peers and gives each CONNECT to
// its handler. Its methods may be called from any goroutine.
type Server struct {
	o ServerOptions

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     map[*serverConn]struct{}
	closing   bool // no new connections; those there are drain
	killed    bool // connections are aborted
	wg        sync.WaitGroup
	ticker    chan struct{} // closed to stop the ticker

	// Cancelled when the server shuts down, for handshakes under way.
	ctx    context.Context
	cancel context.CancelFunc
}

// NewServer returns a server that does nothing yet.
func NewServer(o ServerOptions) *Server {
	if o.MaxStreams == 0 {
		o.MaxStreams = 200
	}
	if o.HandshakeTimeout == 0 {
		o.HandshakeTimeout = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{o: o, listeners: map[net.Listener]struct{}{}, conns: map[*serverConn]struct{}{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Serve accepts connections from ln until ln or the server is closed, then
// returns nil; any other error is returned. It closes ln.
func (s *Server) Serve(ln net.Listener) error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		ln.Close()
		return nil
	}
	s.listeners[ln] = struct{}{}
	if s.ticker == nil {
		s.ticker = make(chan struct{})
		s.wg.Add(1)
		go s.tick(s.ticker)
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, ln)
		s.mu.Unlock()
		ln.Close()
	}()
	return acceptLoop(ln, func(nc *net.TCPConn) {
		s.mu.Lock()
		if s.closing {
			s.mu.Unlock()
			nc.Close()
			return
		}
		s.wg.Add(1)
		s.mu.Unlock()
		go s.serveConn(nc)
	})
}

// acceptLoop accepts until the listener is closed. It survives what passes by
// itself, such as running out of file descriptors.
func acceptLoop(ln net.Listener, f func(*net.TCPConn)) error {
	delay := time.Duration(0)
	for {
		c, err := ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			// Everything else passes: too many open files, an aborted connection.
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			time.Sleep(delay)
			continue
		}
		delay = 0
		nc, ok := c.(*net.TCPConn)
		if !ok {
			c.Close()
			return errors.New("hbone needs a TCP listener")
		}
		f(nc)
	}
}

// serveConn is a connection's reader, for as long as that lives: what it needs
// at the beginning only stands in functions of its own, off its stack.
func (s *Server) serveConn(nc *net.TCPConn) {
	defer s.wg.Done()
	c := s.handshake(nc)
	if c == nil {
		return
	}
	if s.o.ConnOpened != nil {
		defer s.o.ConnOpened(c.peer.Identity, c.peer.Addr)()
	}
	s.start(c)
	_ = c.sock.Serve(c.h2, false)
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// handshake authenticates a peer. It returns nil, and has closed nc, if that fails.
func (s *Server) handshake(nc *net.TCPConn) *serverConn {
	remote := addrPort(nc.RemoteAddr())
	sock, err := loop.NewTLS(s.ctx, nc, s.o.TLS, false, s.o.HandshakeTimeout)
	var peer mesh.Identity
	var cert *Certificate
	if err == nil {
		cs, _ := sock.TLS()
		if peer, err = identity.PeerOf(cs); err != nil {
			sock.Close()
		} else {
			cert = &Certificate{leaf: cs.PeerCertificates[0]}
		}
	}
	if err != nil {
		s.o.Log.Debug("hbone connection refused", "peer", remote, "error", err)
		if s.o.HandshakeFailed != nil {
			s.o.HandshakeFailed(remote, err)
		}
		return nil
	}
	return &serverConn{
		s: s, sock: sock, local: addrPort(sock.LocalAddr()), cert: cert,
		peer: mesh.Peer{Identity: peer, Principal: peer.Principal(), Addr: remote},
	}
}

// start begins to speak HTTP/2.
func (s *Server) start(c *serverConn) {
	loop.Run(func(t *loop.Turn) {
		c.h2 = h2.New(t, c.sock, c, h2.Options{
			MaxStreams: s.o.MaxStreams, Budget: s.o.Budget,
			Keepalive: s.o.Keepalive, Timeout: s.o.KeepaliveTimeout,
		})
	})
	s.mu.Lock()
	s.conns[c] = struct{}{}
	closing, killed := s.closing, s.killed
	s.mu.Unlock()
	c.sock.Start(c.h2)
	// It may have been revoked between its handshake and being registered.
	c.cutRevoked()
	switch {
	case killed:
		c.h2.Abort()
	case closing:
		loop.Run(c.h2.Drain)
	}
}

// tick drives keepalive of all connections, once a second, and looks for those
// of revoked peers.
func (s *Server) tick(stop chan struct{}) {
	defer s.wg.Done()
	tk := time.NewTicker(time.Second)
	defer tk.Stop()
	looked := revision(s.o.Revocations)
	for {
		select {
		case <-stop:
			return
		case <-tk.C:
		}
		now := revision(s.o.Revocations)
		for _, c := range s.snapshot() {
			loop.Run(func(t *loop.Turn) { c.h2.Tick(t) })
			if now != looked {
				c.cutRevoked()
			}
		}
		looked = now
	}
}

func (s *Server) snapshot() []*serverConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*serverConn, 0, len(s.conns))
	for c := range s.conns {
		out = append(out, c)
	}
	return out
}

// Handlers returns the handlers of all streams of all connections.
func (s *Server) Handlers() []h2.StreamHandler {
	var out []h2.StreamHandler
	for _, c := range s.snapshot() {
		out = append(out, c.h2.Handlers()...)
	}
	return out
}

// CloseListeners stops accepting; connections go on.
func (s *Server) CloseListeners() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ln := range s.listeners {
		ln.Close()
	}
}

// Shutdown stops accepting, announces the end to every peer with GOAWAY, and
// waits for their streams to end. When ctx ends first, it closes what is left.
func (s *Server) Shutdown(ctx context.Context) error {
	s.cancel()
	s.mu.Lock()
	s.closing = true
	for ln := range s.listeners {
		ln.Close()
	}
	s.mu.Unlock()
	for _, c := range s.snapshot() {
		loop.Run(c.h2.Drain)
	}
	return s.wait(ctx)
}

// Close ends everything at once.
func (s *Server) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.Shutdown(ctx)
	return nil
}

func (s *Server) wait(ctx context.Context) error {
	// The ticker is one of those that wait waits for, and it must go on until
	// the connections have ended: it finds the peers that fell silent.
	s.mu.Lock()
	ticker := s.ticker
	s.ticker = nil
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.wg.Wait()
	}()
	if ticker != nil {
		defer func() { <-done }()
		defer close(ticker)
	}
	idle := time.NewTicker(5 * time.Millisecond)
	defer idle.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			s.mu.Lock()
			s.killed = true
			s.mu.Unlock()
			for _, c := range s.snapshot() {
				c.h2.Abort()
			}
			return ctx.Err()
		case <-idle.C:
			if len(s.snapshot()) == 0 {
				return nil
			}
		}
	}
}

// Conns is the number of connections that are open.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// serverConn is one authenticated HBONE connection.
type serverConn struct {
	s     *Server
	sock  *loop.Socket
	h2    *h2.Conn
	peer  mesh.Peer
	cert  *Certificate
	local netip.AddrPort

	handlers atomic.Int64 // running; a reset stream's may outlive it
}

// Closed implements h2.Handler.
func (c *serverConn) Closed(*loop.Turn, error) {}

// Open implements h2.Handler: a request came in.
func (c *serverConn) Open(t *loop.Turn, st *h2.Stream, head *h2.Head) {
	cn := &Connect{Peer: c.peer, Certificate: c.cert, Local: c.local, st: st}
	if head.TooLarge {
		rejectStream(t, st, 431)
		return
	}
	if !cn.parse(head.Fields) {
		rejectStream(t, st, 400)
		return
	}
	if c.s.o.Inline != nil {
		c.s.o.Inline(t, cn)
		return
	}
	if c.handlers.Add(1) > 2*int64(c.s.o.MaxStreams) {
		// A stream that the peer resets frees its place at once, its handler
		// only when it has noticed (CVE-2023-44487).
		c.handlers.Add(-1)
		st.Reset(t, h2.RefusedStream)
		return
	}
	cn.stream = newStream(st)
	if head.End {
		cn.stream.buffer(nil, true)
	}
	st.Handle(cn.stream)
	c.s.wg.Add(1)
	go c.handle(cn)
}

func (c *serverConn) handle(cn *Connect) {
	defer c.s.wg.Done()
	defer c.handlers.Add(-1)
	c.s.o.Handler(cn)
}

// addrPort converts a TCP address, unwrapping IPv4 in IPv6.
func addrPort(a net.Addr) netip.AddrPort {
	ta, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := ta.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// statusFields are prebuilt response heads.
func statusFields(status int) []hpack.HeaderField {
	return []hpack.HeaderField{{Name: ":status", Value: statusText(status)}}
}

func rejectStream(t *loop.Turn, st *h2.Stream, status int) {
	st.WriteHeaders(t, statusFields(status), true)
	if _, remote := st.Ended(); !remote {
		st.Reset(t, h2.NoError)
	}
}
