// Package shell is what stands around a proxy in a running process: its
// metrics, its access log, and the admin, metrics and readiness servers.
//
//	sh, err := shell.New(shell.Options{Component: "ztunnel", Admin: "127.0.0.1:15000", …})
//	proxy := ztunnel.New(ztunnel.Options{Metrics: sh.Metrics, AccessLog: sh.AccessLog, …})
//	sh.Config = func() any { return proxy.ConfigDump() }
//	err = sh.Run(ctx, proxy.Run, cache.Run, sh.ServingOnce(proxy.Ready()))
//
// Run ends in order: when its context does, the proxy drains first, while the
// servers still answer (not ready), and the access log is written to its last
// line after that.
//
// A Shell is run once. Its fields are set before Run and not changed after.
package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"cairnproxy.dev/cairn/telemetry"
)

// Options configure a Shell.
type Options struct {
	// Component and Version are what istio_build tells: "proxy" for a waypoint,
	// "ztunnel" for a node proxy.
	Component, Version string
	// Admin, Metrics and Ready are the servers' addresses, "IP:PORT". Empty
	// means 127.0.0.1:15000, :15020 and :15021. AdminFlag and MetricsFlag are
	// what an error tells the user to change when the address is taken.
	Admin, Metrics, Ready  string
	AdminFlag, MetricsFlag string
	// NoReady leaves out the readiness server: the metrics server answers too.
	NoReady bool
	// NoRuntimeMetrics leaves out the metrics of the process, which another
	// proxy in it reports.
	NoRuntimeMetrics bool
	// AccessLog gets the access log; nil means none.
	AccessLog io.Writer
	// Level is the log level that the admin server may change; nil offers none.
	Level *slog.LevelVar
	Log   *slog.Logger
}

// Shell is made by New.
type Shell struct {
	// Metrics and AccessLog are the proxy's; AccessLog is nil without one.
	Metrics   *telemetry.Metrics
	AccessLog *telemetry.Writer
	// Ready tells the readiness of the proxy. Run has one task pending in it
	// until Serving is called.
	Ready *telemetry.Readiness
	// Config, if set, returns what the proxy believes, for the admin server.
	Config func() any
	// Pages are further pages of the admin server.
	Pages []telemetry.Page

	o       Options
	serving func()
}

// New returns a Shell that does nothing yet.
func New(o Options) *Shell {
	s := &Shell{
		Metrics: telemetry.NewMetrics(o.Component, o.Version, telemetry.MetricsOptions{NoRuntime: o.NoRuntimeMetrics}),
		Ready:   &telemetry.Readiness{},
		o:       o,
	}
	s.serving = s.Ready.Pending("proxy")
	if o.AccessLog != nil {
		s.AccessLog = telemetry.NewWriter(o.AccessLog, telemetry.WriterOptions{Log: o.Log})
		s.AccessLog.Expose(s.Metrics)
	}
	return s
}

// Serving says that the proxy serves: from now on it is ready.
func (s *Shell) Serving() { s.serving() }

// ServingOnce returns a task for Run that calls Serving when ready is closed.
func (s *Shell) ServingOnce(ready <-chan struct{}) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-ready:
			s.Serving()
		case <-ctx.Done():
		}
		return nil
	}
}

// task is something that runs until its context ends.
type task func(context.Context) error

// Run runs the proxy and what it needs until ctx ends or one of them fails. It
// returns nil after an orderly end, and otherwise the first failure. proxy gets
// a context that ends with ctx; the others (a certificate cache, a source) run
// until the proxy has drained.
func (s *Shell) Run(ctx context.Context, proxy task, others ...task) error {
	run, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	// What serves the proxy outlives ctx, until the proxy has ended.
	support, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	servers, err := s.servers(func() { stop(nil) })
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	start := func(t task) {
		wg.Go(func() {
			if err := t(support); err != nil && support.Err() == nil {
				stop(err)
			}
		})
	}
	for _, srv := range servers {
		start(srv.Run)
	}
	for _, t := range others {
		start(t)
	}
	if s.AccessLog != nil {
		start(s.AccessLog.Run)
	}
	draining := context.AfterFunc(run, func() { s.Ready.Pending("draining") })
	defer draining()
	err = proxy(run)
	if err == nil && run.Err() == nil {
		err = errors.New("the proxy ended by itself")
	}
	end()
	wg.Wait()
	if cause := context.Cause(run); err == nil && ctx.Err() == nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

// servers opens the ports of the three servers.
func (s *Shell) servers(quit func()) ([]*telemetry.Server, error) {
	admin, err := telemetry.NewAdmin(telemetry.AdminOptions{
		Addr: s.o.Admin, Flag: s.o.AdminFlag, Config: s.Config, Level: s.o.Level,
		Quit: quit, Ready: s.Ready, Metrics: s.Metrics, Pages: s.Pages, Log: s.o.Log,
	})
	if err != nil {
		return nil, err
	}
	list := []*telemetry.Server{
		admin,
		telemetry.NewMetricsServer(s.o.Metrics, s.o.MetricsFlag, s.Metrics, s.Ready, s.o.Log),
	}
	if !s.o.NoReady {
		list = append(list, telemetry.NewReadyServer(s.o.Ready, "", s.Ready, s.o.Log))
	}
	for i, srv := range list {
		if err := srv.Listen(); err != nil {
			closeAll(list[:i])
			return nil, fmt.Errorf("starting the proxy's servers: %w", err)
		}
	}
	return list, nil
}

// closeAll closes servers that listen and have not been run.
func closeAll(list []*telemetry.Server) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, srv := range list {
		_ = srv.Run(ctx) // ends at once
	}
}
