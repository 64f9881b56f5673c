package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"
	"weak"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"cairnproxy.dev/cairn/mesh"
)

// Dialer connects to a service of the mesh, the way that requests go there: over
// HBONE with the waypoint's identity where the endpoint speaks it, as plain TCP else.
type Dialer interface {
	DialService(ctx context.Context, service mesh.ServiceKey, port uint16) (net.Conn, error)
}

type clientKey struct {
	service mesh.ServiceKey
	port    uint16
}

// client asks one rate limit service. All policies share it.
type client struct {
	r    *Registry
	conn *grpc.ClientConn
	stub rls.RateLimitServiceClient

	asking atomic.Int64 // questions under way
	// failures in a row, and when the next question may go out while there are many.
	failures atomic.Int64
	probeAt  atomic.Int64
}

const (
	// maxAsking bounds the questions under way: more mean that the service does not keep up.
	maxAsking = 1024
	// After maxFailures without an answer one question in each probeEvery goes out,
	// and all others fail at once.
	maxFailures = 20
	probeEvery  = 100 * time.Millisecond
	// maxAnswer bounds the bytes of an answer.
	maxAnswer = 64 << 10
)

var (
	errBusy   = errors.New("too many questions to the rate limit service are under way")
	errAway   = errors.New("the rate limit service does not answer")
	errClosed = errors.New("the proxy is ending")
)

// client returns the client for a service. It connects when it is first asked.
func (r *Registry) client(service mesh.ServiceKey, port uint16) (*client, error) {
	if r.dialer == nil {
		return nil, errors.New("this proxy cannot reach services")
	}
	k := clientKey{service, port}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.clients[k].Value(); c != nil {
		return c, nil
	}
	c := &client{r: r}
	dialer := r.dialer
	var err error
	// The name is resolved by the dialer, among the service's endpoints. A proxy that the environment
	// names is not for the mesh.
	c.conn, err = grpc.NewClient("passthrough:///"+net.JoinHostPort(service.Hostname, strconv.Itoa(int(port))),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // HBONE is what authenticates
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dialer.DialService(ctx, service, port) }),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithUserAgent("cairn"),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, fmt.Errorf("rate limit service %s: %w", service, err)
	}
	// The connection is closed with the last configuration that asks there.
	runtime.AddCleanup(c, func(conn *grpc.ClientConn) { _ = conn.Close() }, c.conn)
	c.stub = rls.NewRateLimitServiceClient(c.conn)
	sweep(r.clients)
	r.clients[k] = weak.Make(c)
	return c, nil
}

func (c *client) close() { _ = c.conn.Close() }

// admit reports whether a question may go out now. Who may, calls done.
func (c *client) admit(now time.Duration) error {
	if c.failures.Load() >= maxFailures {
		at := c.probeAt.Load()
		if int64(now) < at || !c.probeAt.CompareAndSwap(at, int64(now+probeEvery)) {
			return errAway
		}
	}
	if c.asking.Add(1) > maxAsking {
		c.asking.Add(-1)
		return errBusy
	}
	if !c.r.begin() {
		c.asking.Add(-1)
		return errClosed
	}
	return nil
}

// done ends a question. One that the client's end has cut short says nothing of the service.
func (c *client) done(ctx context.Context, err error) {
	c.asking.Add(-1)
	switch {
	case err == nil:
		c.failures.Store(0)
	case !errors.Is(ctx.Err(), context.Canceled):
		c.failures.Add(1)
	}
	c.r.asking.Done()
}

// begin notes a question, unless the registry is closed.
func (r *Registry) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.asking.Add(1)
	return true
}
