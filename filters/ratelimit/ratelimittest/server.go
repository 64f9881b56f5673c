// Package ratelimittest is a rate limit service for tests: it answers as it is told.
package ratelimittest

import (
	"context"
	"net"
	"sync"
	"testing"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"

	"cairnproxy.dev/cairn/mesh"
)

// Server is a rate limit service on loopback. It implements remote.Dialer for itself.
type Server struct {
	rls.UnimplementedRateLimitServiceServer
	addr string

	mu    sync.Mutex
	asked []*rls.RateLimitRequest
	dials int
	// answer is called for each question.
	answer func(context.Context, *rls.RateLimitRequest) (*rls.RateLimitResponse, error)
}

// Start serves until the test ends. answer may be nil, for OK.
func Start(t testing.TB, answer func(context.Context, *rls.RateLimitRequest) (*rls.RateLimitResponse, error)) *Server {
	t.Helper()
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{addr: ln.Addr().String(), answer: answer}
	g := grpc.NewServer()
	rls.RegisterRateLimitServiceServer(g, s)
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Serve(ln) })
	t.Cleanup(func() {
		g.Stop()
		wg.Wait()
	})
	return s
}

// ShouldRateLimit implements the service.
func (s *Server) ShouldRateLimit(ctx context.Context, q *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
	s.mu.Lock()
	s.asked = append(s.asked, q)
	s.mu.Unlock()
	if s.answer == nil {
		return &rls.RateLimitResponse{OverallCode: rls.RateLimitResponse_OK}, nil
	}
	return s.answer(ctx, q)
}

// Asked returns the questions so far.
func (s *Server) Asked() []*rls.RateLimitRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*rls.RateLimitRequest(nil), s.asked...)
}

// Dials returns how many connections were made.
func (s *Server) Dials() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials
}

// DialService implements remote.Dialer: every service is this one.
func (s *Server) DialService(ctx context.Context, _ mesh.ServiceKey, _ uint16, _ string) (net.Conn, error) {
	s.mu.Lock()
	s.dials++
	s.mu.Unlock()
	var d net.Dialer
	return d.DialContext(ctx, "tcp", s.addr)
}

// Addr is where the service listens.
func (s *Server) Addr() string { return s.addr }
