package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/netutil"
)

// The ports that Istio's charts and tools expect.
const (
	AdminPort   = 15000
	MetricsPort = 15020
	ReadyPort   = 15021
)

// Limits of the three servers. They answer small questions of few clients.
const (
	headerTimeout   = 2 * time.Second  // ztunnel's
	maxHeader       = 4 << 10          // net/http reads 4 KiB more: ztunnel's 8
	idleTimeout     = 90 * time.Second // longer than any sane scrape interval
	shutdownTimeout = 2 * time.Second
	maxConns        = 256
)

// Server is one of the HTTP servers for operators: made by NewAdmin,
// NewMetricsServer or NewReadyServer.
type Server struct {
	name, addr, flag string
	handler          http.Handler
	log              *slog.Logger
	writeTimeout     time.Duration

	mu sync.Mutex
	ln net.Listener
}

// NewMetricsServer serves /metrics and /stats/prometheus of m, and
// /healthz/ready, on addr ("IP:PORT"; "" means port 15020 of all addresses).
// flag is what an error tells the user to change when the port is taken, for
// example "--metrics".
func NewMetricsServer(addr, flag string, m *Metrics, ready *Readiness, log *slog.Logger) *Server {
	if ready == nil {
		ready = new(Readiness)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", m.Handler())
	mux.Handle("/stats/prometheus", m.Handler())
	mux.Handle("/healthz/ready", ready)
	return newServer("metrics", addr, MetricsPort, flag, mux, log)
}

// NewReadyServer serves /healthz/ready on addr ("" means port 15021 of all addresses).
func NewReadyServer(addr, flag string, ready *Readiness, log *slog.Logger) *Server {
	mux := http.NewServeMux()
	mux.Handle("/healthz/ready", ready)
	return newServer("readiness", addr, ReadyPort, flag, mux, log)
}

func newServer(name, addr string, port int, flag string, h http.Handler, log *slog.Logger) *Server {
	if addr == "" {
		addr = fmt.Sprintf(":%d", port)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Server{name: name, addr: addr, flag: flag, handler: h, log: log, writeTimeout: time.Minute}
}

// Listen opens the port. Run does it too if it was not done before; calling it
// first lets all errors come before anything starts.
func (s *Server) Listen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ln != nil {
		return nil
	}
	ln, err := net.Listen("tcp", s.addr)
	if err != nil {
		return s.listenError(err)
	}
	s.ln = ln
	return nil
}

// listenError says in one line what to do.
func (s *Server) listenError(err error) error {
	remedy := ""
	if s.flag != "" {
		remedy = "; choose another address with " + s.flag
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s server: port %s is already in use%s", s.name, s.addr, remedy)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s server: no permission to listen on %s%s", s.name, s.addr, remedy)
	}
	return fmt.Errorf("%s server: listening on %s%s: %w", s.name, s.addr, remedy, err)
}

// Addr is the address that Listen bound; invalid before.
func (s *Server) Addr() netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ln == nil {
		return netip.AddrPort{}
	}
	a, ok := s.ln.Addr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
}

// Run serves until ctx ends, lets answers under way finish for at most two
// seconds, and returns nil when nothing of it runs any more.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Listen(); err != nil {
		return err
	}
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      s.writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.With("server", s.name).Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(netutil.LimitListener(s.ln, maxConns)) }()
	select {
	case err := <-served:
		return fmt.Errorf("%s server: serving %s: %w", s.name, s.addr, err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := srv.Shutdown(stop); err != nil {
		_ = srv.Close() // somebody did not hang up in time
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("%s server: serving %s: %w", s.name, s.addr, err)
	}
	return nil
}

// allow answers 405 unless the method is one of those.
func allow(w http.ResponseWriter, req *http.Request, methods ...string) bool {
	if slices.Contains(methods, req.Method) {
		return true
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	plainText(w)
	w.WriteHeader(http.StatusMethodNotAllowed)
	write(w, "use "+strings.Join(methods, " or ")+"\n")
	return false
}

func plainText(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
}

// write sends a text; a client that has gone is nobody's error.
func write(w http.ResponseWriter, text string) { _, _ = w.Write([]byte(text)) }
