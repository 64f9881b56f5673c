// Package extauthztest is an external authorization service for tests: it answers as it is told, by
// gRPC and by HTTP.
package extauthztest

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"

	"cairnproxy.dev/cairn/mesh"
)

// Server is a service on loopback. It implements remote.Dialer for itself: ALPN chooses the protocol.
type Server struct {
	auth.UnimplementedAuthorizationServer
	grpcAddr, httpAddr string
	check              func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error)
	handle             http.HandlerFunc

	mu     sync.Mutex
	asked  []*auth.CheckRequest
	heard  []*http.Request
	bodies []string
}

// Start serves until the test ends. check and handle may be nil, for yes.
func Start(t testing.TB, check func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error), handle http.HandlerFunc) *Server {
	t.Helper()
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{grpcAddr: ln.Addr().String(), check: check, handle: handle}
	g := grpc.NewServer()
	auth.RegisterAuthorizationServer(g, s)
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Serve(ln) })
	h := httptest.NewServer(http.HandlerFunc(s.serve))
	s.httpAddr = strings.TrimPrefix(h.URL, "http://")
	t.Cleanup(func() {
		g.Stop()
		wg.Wait()
		h.Close()
	})
	return s
}

// Check implements the service.
func (s *Server) Check(ctx context.Context, q *auth.CheckRequest) (*auth.CheckResponse, error) {
	s.mu.Lock()
	s.asked = append(s.asked, q)
	s.mu.Unlock()
	if s.check == nil {
		return &auth.CheckResponse{}, nil
	}
	return s.check(ctx, q)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.heard, s.bodies = append(s.heard, r), append(s.bodies, string(body))
	s.mu.Unlock()
	if s.handle != nil {
		s.handle(w, r)
	}
}

// Asked returns the questions by gRPC so far.
func (s *Server) Asked() []*auth.CheckRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*auth.CheckRequest(nil), s.asked...)
}

// Heard returns the questions by HTTP so far, and their bodies.
func (s *Server) Heard() ([]*http.Request, []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*http.Request(nil), s.heard...), append([]string(nil), s.bodies...)
}

// DialService implements remote.Dialer: every service is this one.
func (s *Server) DialService(ctx context.Context, _ mesh.ServiceKey, _ uint16, alpn string) (net.Conn, error) {
	addr := s.grpcAddr
	if alpn != "h2" {
		addr = s.httpAddr
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

// Addrs are where gRPC and HTTP are served.
func (s *Server) Addrs() (grpcAddr, httpAddr string) { return s.grpcAddr, s.httpAddr }
