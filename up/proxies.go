package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"sync"
	"syscall"
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
	// CRL is the file with the CA's lists of revoked certificates; "" for none.
	CRL string
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
	// serving is called once the proxy serves, and again and again after that,
	// with where a node proxy's ports are bound.
	serving func(boundPorts)
	// applied is told the version of each Snapshot that the proxy serves by.
	applied func(version uint64)
}

// builtProxy is a proxy that is ready to run.
type builtProxy struct {
	// run runs the proxy with its servers until ctx ends and it has drained.
	run func(ctx context.Context) error
	// node is set for a node proxy.
	node *ztunnel.Proxy
}

// build makes a proxy. It does no I/O but for reading the list of revoked certificates.
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
	co := identity.CacheOptions{Log: d.log}
	if s.CRL != "" {
		co.CRL = identity.NewCRL(s.CRL, d.log)
		if err := co.CRL.Load(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	cache := identity.NewCache(d.issuer, co)
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
		Metrics: sh.Metrics, AccessLog: sh.AccessLog, Log: d.log, Applied: d.applied,
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
		report := func(ctx context.Context) error { return reportBound(ctx, p, d.serving) }
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
		Metrics: sh.Metrics, AccessLog: sh.AccessLog, Log: d.log, Applied: d.applied,
	})
	if err != nil {
		return nil, err
	}
	sh.Config, sh.Pages = p.ConfigDump, p.Pages()
	run := func(ctx context.Context) error {
		report := func(ctx context.Context) error {
			select {
			case <-p.Ready():
				d.serving(nil)
			case <-ctx.Done():
			}
			return nil
		}
		return sh.Run(ctx, p.Run, cache.Run, sh.ServingOnce(p.Ready()), report)
	}
	return &builtProxy{run: run}, nil
}

// runningProxy is a proxy that has been started, here or in its own process.
type runningProxy struct {
	spec  spec
	place Pod // where it runs; without a name: here
	// shown is spec with the servers' addresses as the user is to know them.
	// forward carries there, where they are not the proxy's own; else it is nil.
	shown   spec
	forward *forwarder
	cancel  context.CancelFunc
	done    chan struct{}
	node    *ztunnel.Proxy // set for node proxies of this process

	err  error // what came of it, once done is closed
	told bool  // its end has been logged

	serving chan struct{} // closed once it serves
	once    sync.Once

	mu      sync.Mutex
	bound   boundPorts
	applied uint64        // the version that it serves by
	changed chan struct{} // closed when applied changes
}

func newRunningProxy(s spec, place Pod) *runningProxy {
	return &runningProxy{spec: s, shown: s, place: place, done: make(chan struct{}), serving: make(chan struct{}), changed: make(chan struct{})}
}

// awaitServing waits until the proxy serves. It reports false if it has ended
// or ctx has.
func (p *runningProxy) awaitServing(ctx context.Context) bool {
	select {
	case <-p.serving:
		return true
	case <-p.done:
		return false
	case <-ctx.Done():
		return false
	}
}

// failure returns what came of a proxy, if it has ended. An orderly end that
// nobody here asked for is told as errQuit.
func (p *runningProxy) failure() (ended bool, err error) {
	select {
	case <-p.done:
	default:
		return false, nil
	}
	if p.err == nil {
		return true, errQuit
	}
	if errors.Is(p.err, syscall.EADDRINUSE) {
		return true, fmt.Errorf("%w; end what runs there, or choose other addresses with --range", p.err)
	}
	return true, p.err
}

// errQuit is the end of a proxy that was told to quit, by a signal to its
// process or at its admin server.
var errQuit = errors.New("it was told to quit")

// start runs a proxy in this process.
func (p *runningProxy) start(ctx context.Context, d deps) error {
	d.serving, d.applied = p.setServing, p.setApplied
	b, err := build(p.spec, d)
	if err != nil {
		return err
	}
	p.node = b.node
	ctx, p.cancel = context.WithCancel(ctx)
	go func() {
		defer close(p.done)
		p.err = b.run(ctx)
	}()
	return nil
}

func (p *runningProxy) setServing(b boundPorts) {
	p.mu.Lock()
	p.bound = b
	p.mu.Unlock()
	p.once.Do(func() { close(p.serving) })
}

func (p *runningProxy) setApplied(version uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.applied = version
	close(p.changed)
	p.changed = make(chan struct{})
}

// awaitApplied waits until the proxy serves by a version, or by a later one. It
// reports false if it has ended or ctx has.
func (p *runningProxy) awaitApplied(ctx context.Context, version uint64) bool {
	for {
		p.mu.Lock()
		applied, changed := p.applied, p.changed
		p.mu.Unlock()
		if applied >= version {
			return true
		}
		select {
		case <-changed:
		case <-p.done:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// ports says where the proxy's captured ports are bound.
func (p *runningProxy) ports() boundPorts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bound
}
