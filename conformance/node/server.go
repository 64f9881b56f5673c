package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"cairnproxy.dev/cairn/conformance/ca"
)

// Server is the node proxies of all pods of a test. Its methods may be called
// from any goroutine.
type Server struct {
	expect string // the SPIFFE URI of who may come
	srv    *http.Server

	mu     sync.Mutex
	leaves map[netip.Addr]*ca.Leaf
	apps   map[netip.AddrPort]*Listener
	hang   map[netip.Addr]bool
	count  map[netip.Addr]int
	lns    map[netip.Addr]net.Listener
}

// NewServer returns a server without pods, which takes CONNECTs of one peer.
func NewServer(expect string) *Server {
	s := &Server{
		expect: expect, leaves: map[netip.Addr]*ca.Leaf{}, apps: map[netip.AddrPort]*Listener{}, hang: map[netip.Addr]bool{},
		count: map[netip.Addr]int{}, lns: map[netip.Addr]net.Listener{},
	}
	s.srv = &http.Server{
		Handler: s,
		// A stream that stands still must not keep the others of its connection from going on.
		HTTP2:    &http.HTTP2Config{MaxReceiveBufferPerConnection: 4<<20 - 1, MaxReceiveBufferPerStream: 64 << 10, MaxConcurrentStreams: 10_000},
		ErrorLog: log.New(io.Discard, "", 0), // what a peer makes of a connection shows in the cases
		TLSConfig: &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			leaf := s.leaves[addrOf(hello.Conn.LocalAddr())]
			if leaf == nil {
				return nil, errors.New("no pod has this address")
			}
			return leaf.Server(), nil
		}},
	}
	return s
}

func addrOf(a net.Addr) netip.Addr { return a.(*net.TCPAddr).AddrPort().Addr().Unmap() }

// Add makes a pod with the identity of leaf: port 15008 of its address.
func (s *Server) Add(pod netip.Addr, leaf *ca.Leaf) error {
	ln, err := net.Listen("tcp", netip.AddrPortFrom(pod, 15008).String())
	if err != nil {
		return fmt.Errorf("making a pod: %w", err)
	}
	s.mu.Lock()
	s.leaves[pod], s.lns[pod] = leaf, ln
	s.mu.Unlock()
	go func() { _ = s.srv.ServeTLS(ln, "", "") }() // ends with Close
	return nil
}

// Leaf is what a pod presents; nil if there is none at the address.
func (s *Server) Leaf(pod netip.Addr) *ca.Leaf {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaves[pod]
}

// Listen returns what is carried to a port of a pod.
func (s *Server) Listen(at netip.AddrPort) *Listener {
	l := &Listener{addr: net.TCPAddrFromAddrPort(at), conns: make(chan net.Conn), done: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apps[at] = l
	return l
}

// Refuse makes the node proxy of a pod answer 503, as it does when nothing
// listens in the pod; with false it accepts again.
func (s *Server) Refuse(at netip.AddrPort, refuse bool, l *Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if refuse {
		delete(s.apps, at)
		return
	}
	s.apps[at] = l
}

// Hang lets the node proxy of a pod accept CONNECTs and never answer.
func (s *Server) Hang(pod netip.Addr, hang bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hang[pod] = hang
}

// Streams is how many CONNECTs have come for a pod.
func (s *Server) Streams(pod netip.Addr) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count[pod]
}

// Close ends everything.
func (s *Server) Close() { s.srv.Close() }

// ServeHTTP takes a CONNECT.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	to, err := netip.ParseAddrPort(r.Host)
	if r.Method != http.MethodConnect || err != nil || to.Addr() != s.local(r) {
		http.Error(w, "this is no pod's address", http.StatusBadRequest)
		return
	}
	if got := ca.URI(*r.TLS); got != s.expect {
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	s.mu.Lock()
	app, hang := s.apps[to], s.hang[to.Addr()]
	s.count[to.Addr()]++
	s.mu.Unlock()
	switch {
	case hang:
		<-r.Context().Done()
	case app == nil:
		w.WriteHeader(http.StatusServiceUnavailable)
	default:
		s.carry(w, r, app)
	}
}

func (s *Server) local(r *http.Request) netip.Addr {
	return addrOf(r.Context().Value(http.LocalAddrContextKey).(net.Addr))
}

// carry joins a stream and an application.
func (s *Server) carry(w http.ResponseWriter, r *http.Request, app *Listener) {
	mine, inner, err := pair()
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	reset := make(chan struct{})
	conn := &Conn{UnixConn: mine, local: app.addr, remote: remoteAddr(r), reset: sync.OnceFunc(func() { close(reset) })}
	if !app.offer(r.Context(), conn) {
		mine.Close()
		inner.Close()
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	defer inner.Close()
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	rc.Flush()
	go func() {
		if _, err := io.Copy(inner, r.Body); err != nil {
			conn.fail(err)
		}
		_ = inner.CloseWrite() // the application may have gone
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := inner.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return
			}
			rc.Flush()
		}
		if err != nil {
			break
		}
	}
	select {
	case <-reset:
		panic(http.ErrAbortHandler) // RST_STREAM
	default:
	}
}

func remoteAddr(r *http.Request) net.Addr {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return &net.TCPAddr{}
	}
	return net.TCPAddrFromAddrPort(a)
}

// Listener is a port of a pod as its application sees it.
type Listener struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// Accept returns the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr is the pod's address and port.
func (l *Listener) Addr() net.Addr { return l.addr }

func (l *Listener) offer(ctx context.Context, c net.Conn) bool {
	timer := time.NewTimer(5 * time.Second)
	defer timer.Stop()
	select {
	case l.conns <- c:
		return true
	case <-l.done:
	case <-ctx.Done():
	case <-timer.C:
	}
	return false
}
