package pod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// DefaultGrace is how long Serve lets running requests finish.
const DefaultGrace = 5 * time.Second

// ServeOptions say what Serve serves.
type ServeOptions struct {
	// Listen is one or several addresses, separated by commas, each as Pod.Listen
	// takes it.
	Listen string
	// Handler answers the requests. If it is a Drainer it is told to end what
	// http.Server does not know about.
	Handler http.Handler
	// Grace is how long running requests may go on once ctx is cancelled; 0
	// means DefaultGrace.
	Grace time.Duration
	// Log gets a line per listener; nil means none.
	Log *slog.Logger
	// Ready, if not nil, is called once with the addresses really bound.
	Ready func([]net.Addr)
}

// Drainer is a handler with connections or streams that outlive requests, such
// as WebSockets. Drain ends them in good order and returns when they have ended
// or ctx is done.
type Drainer interface{ Drain(ctx context.Context) }

// Serve answers HTTP/1.1 and HTTP/2 without TLS (with prior knowledge) on the
// same ports until ctx is cancelled, then lets running requests finish and
// returns nil. An error means that a listener could not be opened or failed.
func (p *Pod) Serve(ctx context.Context, o ServeOptions) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	lns, err := p.listenAll(ctx, o.Listen)
	if err != nil {
		return err
	}
	addrs := make([]net.Addr, len(lns))
	for i, ln := range lns {
		addrs[i] = ln.Addr()
		o.Log.Info("sample listening", "pod", p.namespace+"/"+p.name, "address", ln.Addr().String())
	}
	srv := newServer(o.Handler, o.Log)
	ended := make(chan error, len(lns))
	var wg sync.WaitGroup
	for _, ln := range lns {
		wg.Go(func() { ended <- srv.Serve(ln) })
	}
	if o.Ready != nil {
		o.Ready(addrs)
	}
	var failed error
	select {
	case <-ctx.Done():
	case err := <-ended:
		failed = fmt.Errorf("serving: %w", err)
	}
	shutdown(ctx, srv, o)
	wg.Wait()
	return failed
}

// listenAll opens every listener of list, or none.
func (p *Pod) listenAll(ctx context.Context, list string) ([]net.Listener, error) {
	var lns []net.Listener
	for addr := range strings.SplitSeq(list, ",") {
		ln, err := p.Listen(ctx, strings.TrimSpace(addr))
		if err != nil {
			for _, ln := range lns {
				ln.Close()
			}
			return nil, err
		}
		lns = append(lns, ln)
	}
	return lns, nil
}

func newServer(h http.Handler, log *slog.Logger) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           h,
		Protocols:         &protocols,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    256 << 10,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 1000},
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// shutdown ends srv: new connections are refused at once, running requests and
// what the handler drains have o.Grace to end by themselves.
func shutdown(ctx context.Context, srv *http.Server, o ServeOptions) {
	grace := o.Grace
	if grace == 0 {
		grace = DefaultGrace
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	var wg sync.WaitGroup
	if d, ok := o.Handler.(Drainer); ok {
		wg.Go(func() { d.Drain(ctx) })
	}
	if err := srv.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) {
		o.Log.Warn("cutting requests that did not end in time", "grace", grace)
		srv.Close()
	}
	wg.Wait()
}
