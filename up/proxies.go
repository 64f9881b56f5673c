package up

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/proxy/shell"
	"cairnproxy.dev/cairn/proxy/waypoint"
	"cairnproxy.dev/cairn/proxy/ztunnel"
	"cairnproxy.dev/cairn/source"
)

// spec says which proxy to run and where its servers listen. A proxy in a
// process of its own gets it as JSON.
type spec struct {
	// Waypoint is the name of the waypoint to run, Node of the node whose proxy
	// to run; one of them is set.
	Waypoint mesh.Name
	Node     string
	// Identity is what a waypoint presents, Addresses and Port where it listens.
	Identity  mesh.Identity
	Addresses []netip.Addr
	Port      uint16
	// Admin, Metrics and Ready are where its servers listen.
	Admin, Metrics, Ready netip.AddrPort
	Version               string
	// Shared is true if the process runs other proxies too, one of which
	// reports the metrics of the process.
	Shared bool
	// InPod is true for a node proxy whose pods are network namespaces.
	InPod bool
}

func (s spec) String() string {
	if s.Node != "" {
		return "node proxy " + s.Node
	}
	return "waypoint " + s.Waypoint.String()
}

// deps is what a proxy needs of the process that it runs in.
type deps struct {
	store     *source.Store
	issuer    identity.Issuer
	accessLog io.Writer
	log       *slog.Logger
	// bound is told where a node proxy's ports are bound, again and again.
	bound func(boundPorts)
}

// builtProxy is a proxy that is ready to run.
type builtProxy struct {
	// run runs the proxy with its servers until ctx ends and it has drained.
	run func(ctx context.Context) error
	// node is set for a node proxy.
	node *ztunnel.Proxy
}

// build makes a proxy. It does no I/O.
func build(s spec, d deps) (*builtProxy, error) {
	component := "proxy"
	if s.Node != "" {
		component = "ztunnel"
	}
	sh := shell.New(shell.Options{
		Component: component, Version: s.Version, NoRuntimeMetrics: s.Shared,
		Admin: s.Admin.String(), Metrics: s.Metrics.String(), Ready: s.Ready.String(), AdminFlag: "--range", MetricsFlag: "--range",
		AccessLog: d.accessLog, Log: d.log,
	})
	cache := identity.NewCache(d.issuer, identity.CacheOptions{Log: d.log})
	if s.Node != "" {
		return buildNode(s, d, sh, cache)
	}
	return buildWaypoint(s, d, sh, cache)
}

// packetMark is what a node proxy's own packets carry, so that they are not
// captured again; Istio's and ztunnel's number.
const packetMark = 0x539

func buildNode(s spec, d deps, sh *shell.Shell, cache *identity.Cache) (*builtProxy, error) {
	o := ztunnel.Options{
		Mode: ztunnel.ModeLoopback, Snapshots: d.store, Certificates: cache, DrainTime: drainWithin,
		Metrics: sh.Metrics, AccessLog: sh.AccessLog, Log: d.log,
	}
	if s.InPod {
		o.Mode, o.Node, o.DNS = ztunnel.ModeInPod, s.Node, true
		o.Sockets.Mark = packetMark
	}
	p, err := ztunnel.New(o)
	if err != nil {
		return nil, err
	}
	sh.Config = p.ConfigDump
	run := func(ctx context.Context) error {
		report := func(ctx context.Context) error { return reportBound(ctx, p, d.bound) }
		return sh.Run(ctx, p.Run, cache.Run, sh.ServingOnce(p.Ready()), report)
	}
	return &builtProxy{run: run, node: p}, nil
}

// reportBound tells where ports are bound, now and as it changes.
func reportBound(ctx context.Context, p *ztunnel.Proxy, report func(boundPorts)) error {
	t := time.NewTicker(250 * time.Millisecond)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-p.Ready():
	}
	for {
		report(boundOf(p.Listening()))
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func boundOf(list []ztunnel.Bound) boundPorts {
	out := boundPorts{}
	for _, b := range list {
		if b.Listen.IsValid() {
			out[netip.AddrPortFrom(b.VIP, b.Port)] = b.Listen.Port()
		}
	}
	return out
}

func buildWaypoint(s spec, d deps, sh *shell.Shell, cache *identity.Cache) (*builtProxy, error) {
	p, err := waypoint.New(waypoint.Options{
		Name: s.Waypoint, Identity: s.Identity, Addresses: s.Addresses, Port: s.Port, Source: s.Addresses[0],
		Snapshots: d.store, Identities: cache, DrainTimeout: drainWithin,
		Metrics: sh.Metrics, AccessLog: sh.AccessLog, Log: d.log,
	})
	if err != nil {
		return nil, err
	}
	sh.Config = p.ConfigDump
	run := func(ctx context.Context) error { return sh.Run(ctx, p.Run, cache.Run, sh.ServingOnce(p.Ready())) }
	return &builtProxy{run: run}, nil
}

// dialHere connects from this process's network namespace.
func dialHere(ctx context.Context, _ Pod, to netip.AddrPort) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", to.String())
}

// runningProxy is a proxy that has been started, here or in its own process.
type runningProxy struct {
	spec   spec
	dial   dialFunc
	place  Pod // where it runs, for dial
	cancel context.CancelFunc
	done   chan struct{}
	node   *ztunnel.Proxy // set for node proxies of this process

	mu    sync.Mutex
	bound boundPorts
}

// start runs a proxy in this process; ended is told what came of it.
func (p *runningProxy) start(ctx context.Context, d deps, ended func(error)) error {
	d.bound = p.setBound
	b, err := build(p.spec, d)
	if err != nil {
		return err
	}
	p.node, p.dial = b.node, dialHere
	ctx, p.cancel = context.WithCancel(ctx)
	p.done = make(chan struct{})
	go func() {
		defer close(p.done)
		ended(b.run(ctx))
	}()
	return nil
}

func (p *runningProxy) setBound(b boundPorts) {
	p.mu.Lock()
	p.bound = b
	p.mu.Unlock()
}

// ports says where the proxy's captured ports are bound.
func (p *runningProxy) ports() boundPorts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bound
}
