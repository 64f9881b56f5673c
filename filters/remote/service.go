package remote

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

// Service is one service that is asked.
type Service struct {
	pool *Pool
	conn *grpc.ClientConn // nil: it is asked by HTTP
	http *http.Transport  // nil: it is asked by gRPC

	asking atomic.Int64 // questions under way
	// failures in a row, and when the next question may go out while there are many.
	failures atomic.Int64
	probeAt  atomic.Int64
}

const (
	// MaxAsking bounds the questions to a service that are under way: more mean that it does not keep up.
	MaxAsking = 4096
	// MaxFailures is how many questions without an answer make a service count as away: one
	// question in each ProbeEvery goes out then, and all others fail at once.
	MaxFailures = 20
	// ProbeEvery is how often a service that is away is asked.
	ProbeEvery = 100 * time.Millisecond
	// MaxAnswer bounds the bytes of an answer.
	MaxAnswer = 256 << 10
)

// What Admit says.
var (
	ErrBusy   = errors.New("too many questions to the service are under way")
	ErrAway   = errors.New("the service does not answer")
	ErrClosed = errors.New("the proxy is ending")
)

// Conn is for calls to a service that Pool.GRPC has found.
func (s *Service) Conn() grpc.ClientConnInterface { return s.conn }

// RoundTrip sends a request to a service that Pool.HTTP has found; its URL's scheme is http, and its host
// is not looked at. Redirects are the caller's to see, as is the length of the body.
func (s *Service) RoundTrip(r *http.Request) (*http.Response, error) { return s.http.RoundTrip(r) }

// Admit reports whether a question may go out now, which is the time since some moment that is
// the same for all questions. Who may, calls Done.
func (s *Service) Admit(now time.Duration) error {
	if s.failures.Load() >= MaxFailures {
		at := s.probeAt.Load()
		if int64(now) < at || !s.probeAt.CompareAndSwap(at, int64(now+ProbeEvery)) {
			return ErrAway
		}
	}
	if s.asking.Add(1) > MaxAsking {
		s.asking.Add(-1)
		return ErrBusy
	}
	if !s.pool.begin() {
		s.asking.Add(-1)
		return ErrClosed
	}
	return nil
}

// Done ends a question, whose context is ctx. One that the client's end has cut short says nothing of the service.
func (s *Service) Done(ctx context.Context, err error) {
	s.asking.Add(-1)
	switch {
	case err == nil:
		s.failures.Store(0)
	case !errors.Is(ctx.Err(), context.Canceled):
		s.failures.Add(1)
	}
	s.pool.asking.Done()
}

func (s *Service) close() {
	if s.conn != nil {
		_ = s.conn.Close()
	}
	if s.http != nil {
		s.http.CloseIdleConnections()
	}
}
