package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"time"
	"weak"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"cairnproxy.dev/cairn/mesh"
)

// Dialer connects to a service of the mesh, the way that requests go there: over
// HBONE with the waypoint's identity where the endpoint speaks it, as plain TCP else. Where the service's
// policy asks for TLS inside, alpn is what is offered: "h2" or "http/1.1".
type Dialer interface {
	DialService(ctx context.Context, service mesh.ServiceKey, port uint16, alpn string) (net.Conn, error)
}

// Pool has the services that are asked, over all configurations of one proxy.
type Pool struct {
	dialer Dialer

	mu       sync.Mutex
	services map[serviceKey]weak.Pointer[Service]
	closed   bool
	asking   sync.WaitGroup
}

type serviceKey struct {
	service mesh.ServiceKey
	port    uint16
	grpc    bool
}

// NewPool returns an empty pool. A nil dialer is for proxies that can ask nobody.
func NewPool(d Dialer) *Pool {
	return &Pool{dialer: d, services: map[serviceKey]weak.Pointer[Service]{}}
}

// GRPC returns the service, to be asked by gRPC. It connects when it is first asked.
func (p *Pool) GRPC(service mesh.ServiceKey, port uint16) (*Service, error) {
	return p.service(serviceKey{service, port, true}, p.dialGRPC)
}

// HTTP returns the service, to be asked by HTTP/1.1. It connects when it is first asked.
func (p *Pool) HTTP(service mesh.ServiceKey, port uint16) (*Service, error) {
	return p.service(serviceKey{service, port, false}, p.dialHTTP)
}

func (p *Pool) service(k serviceKey, dial func(*Service, serviceKey) error) (*Service, error) {
	if p.dialer == nil {
		return nil, errors.New("this proxy cannot reach services")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.services[k].Value(); s != nil {
		return s, nil
	}
	s := &Service{pool: p}
	if err := dial(s, k); err != nil {
		return nil, fmt.Errorf("service %s: %w", k.service, err)
	}
	for k, v := range p.services {
		if v.Value() == nil {
			delete(p.services, k)
		}
	}
	p.services[k] = weak.Make(s)
	return s, nil
}

func (k serviceKey) addr() string {
	return net.JoinHostPort(k.service.Hostname, strconv.Itoa(int(k.port)))
}

// dialGRPC makes the connection. The name is resolved by the dialer, among the service's
// endpoints; a proxy that the environment names is not for the mesh.
func (p *Pool) dialGRPC(s *Service, k serviceKey) (err error) {
	dialer := p.dialer // not p, which the connection must not keep
	s.conn, err = grpc.NewClient("passthrough:///"+k.addr(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // HBONE is what authenticates
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return dialer.DialService(ctx, k.service, k.port, "h2")
		}),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithUserAgent("cairn"),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxAnswer)))
	if err != nil {
		return err
	}
	// The connection is closed with the last configuration that asks there.
	runtime.AddCleanup(s, func(conn *grpc.ClientConn) { _ = conn.Close() }, s.conn)
	return nil
}

// idleHTTP is how many connections to a service are kept for its next questions, and for how long.
const (
	idleHTTP    = 64
	idleHTTPFor = 90 * time.Second
)

func (p *Pool) dialHTTP(s *Service, k serviceKey) error {
	dialer := p.dialer
	s.http = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialService(ctx, k.service, k.port, "http/1.1")
		},
		Protocols: new(http.Protocols), DisableCompression: true,
		MaxIdleConnsPerHost: idleHTTP, IdleConnTimeout: idleHTTPFor,
		MaxResponseHeaderBytes: MaxAnswer,
	}
	s.http.Protocols.SetHTTP1(true)
	runtime.AddCleanup(s, func(t *http.Transport) { t.CloseIdleConnections() }, s.http)
	return nil
}

// begin notes a question, unless the pool is closed.
func (p *Pool) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.asking.Add(1)
	return true
}

// Close ends the questions to gRPC services and closes connections; it returns when all questions have
// ended, those by HTTP by their own contexts. Later ones are not admitted.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	for _, s := range p.services {
		if s := s.Value(); s != nil {
			s.close()
		}
	}
	p.mu.Unlock()
	p.asking.Wait()
}
