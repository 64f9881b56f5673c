package websocket

import (
	"context"
	"net/http"
	"sync"
)

// Endpoint is an http.Handler that echoes, and that a server can drain: an
// http.Server neither knows nor waits for connections that were taken over.
// Build it with NewEndpoint.
type Endpoint struct {
	ctx    context.Context // done once the endpoint drains
	cancel context.CancelFunc

	mu      sync.Mutex
	drained bool
	open    sync.WaitGroup // adds are under mu, and none follows drained
}

// NewEndpoint returns an Endpoint that accepts connections.
func NewEndpoint() *Endpoint {
	e := &Endpoint{}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

// ServeHTTP echoes until the connection ends; while draining it answers 503.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	if e.drained {
		e.mu.Unlock()
		http.Error(w, "the server is going away", http.StatusServiceUnavailable)
		return
	}
	e.open.Add(1)
	e.mu.Unlock()
	defer e.open.Done()
	_ = Echo(e.ctx, w, r) // how a client's connection ends is the client's concern
}

// Drain tells every client that the server goes away. It returns when all
// connections have ended, or ctx is done.
func (e *Endpoint) Drain(ctx context.Context) {
	e.mu.Lock()
	e.drained = true
	e.mu.Unlock()
	e.cancel()
	ended := make(chan struct{})
	go func() {
		e.open.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
}
