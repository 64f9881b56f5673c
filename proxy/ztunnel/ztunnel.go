package ztunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"cairnproxy.dev/cairn/filters/authz"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/proxy/ztunnel/capture"
	"cairnproxy.dev/cairn/telemetry"
	"cairnproxy.dev/cairn/tunnel"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// Mode says where a Proxy's connections come from.
type Mode uint8

const (
	// ModeLoopback listens on the services' loopback addresses.
	ModeLoopback Mode = iota
	// ModeInPod serves the pods that AddPod is given.
	ModeInPod
	// ModeDedicated serves the network namespace it runs in, for one workload.
	ModeDedicated
)

// Snapshots is where a Proxy learns about the mesh: a source.Store.
type Snapshots interface {
	Current() *mesh.Snapshot
	Updates(ctx context.Context) <-chan *mesh.Snapshot
}

// Certificates gives a Proxy the TLS configurations of identities: an
// identity.Cache.
type Certificates interface {
	Server(id mesh.Identity) *tls.Config
	Client(own mesh.Identity, expect []string) *tls.Config
	// Alias makes other trust domains stand for our own.
	Alias(domains []string)
	tunnel.Revocations
}

// Options configures a Proxy.
type Options struct {
	Mode         Mode
	Snapshots    Snapshots    // required
	Certificates Certificates // required
	// Node limits the local workloads to those of a node; "" means all.
	Node string
	// Workload is whom ModeDedicated serves.
	Workload WorkloadInfo
	// Sockets is the template of the pods' sockets: mark, spoofing, keepalive.
	// Its Namespace is ignored.
	Sockets capture.Sockets
	// DNS answers pods' queries (ModeInPod, ModeDedicated).
	DNS bool
	// DNSSearch are the clients' search domains; nil means those of a pod.
	DNSSearch []string
	// Nameservers get the queries that the mesh cannot answer. With none, such
	// names do not exist.
	Nameservers []netip.AddrPort
	// DrainTime is how long connections may go on after Run's context has
	// ended; 0 means 5 s.
	DrainTime time.Duration
	// ConnectTimeout bounds the establishing of a connection, all attempts
	// together; 0 means 10 s.
	ConnectTimeout time.Duration
	// WorkloadTimeout is how long a pod's connection waits for its workload to
	// be known; 0 means 5 s.
	WorkloadTimeout time.Duration
	// PoolStreams bounds the streams of one HBONE connection; 0 means 100.
	PoolStreams int
	// PoolIdle is when an HBONE connection without streams is closed; 0 means 5 minutes.
	PoolIdle time.Duration
	// HideBaggage leaves the local workload's description out of answers.
	HideBaggage bool
	// LowPortOffset is added to a service's port below 1024 that may not be
	// bound (ModeLoopback); 0 means 10000.
	LowPortOffset uint16
	// Metrics may be nil.
	Metrics *telemetry.Metrics
	// AccessLog gets one line per connection; nil means none.
	AccessLog *telemetry.Writer
	Log       *slog.Logger
	// Applied, if set, is told the version of each Snapshot once new connections are
	// served by it; of those that came in quick succession, the last. It must not block.
	Applied func(version uint64)
}

// WorkloadInfo names a workload as the environment of a pod does.
type WorkloadInfo struct{ Namespace, Name, ServiceAccount string }

// String returns it as messages have it.
func (w WorkloadInfo) String() string {
	return fmt.Sprintf("%s.%s (%s)", w.ServiceAccount, w.Namespace, w.Name)
}

// Bound is a service's port and where it is really listened on (ModeLoopback).
type Bound struct {
	Service mesh.ServiceKey
	VIP     netip.Addr
	Port    uint16
	// Listen is where clients connect; invalid while Err stands in the way.
	Listen netip.AddrPort
	Err    error
}

// Proxy is a node proxy. New makes it, Run runs it; the other methods may be
// called from any goroutine, before and during Run.
type Proxy struct {
	o     Options
	conns tracker
	lot   loop.Lot // of quiet connections
	pol   policyCache
	// watched counts what policies say that decide nothing; nil does not.
	watched *authz.Registry
	up      upClient
	tcp     *metrics

	mu      sync.Mutex
	running bool
	drained bool
	serving bool // the mesh is known: sites serve as they come
	sites   map[*site]struct{}
	pods    map[string]*site
	changed chan struct{} // closed at each snapshot

	holdMu sync.Mutex
	held   map[mesh.Identity]int // how many sites hold a certificate

	loop  *loopback // ModeLoopback
	ready chan struct{}
	once  sync.Once
}

// New returns a proxy that does nothing yet.
func New(o Options) (*Proxy, error) {
	switch {
	case o.Snapshots == nil:
		return nil, errors.New("node proxy: no source of snapshots")
	case o.Certificates == nil:
		return nil, errors.New("node proxy: no source of certificates")
	case o.Mode == ModeDedicated && (o.Workload.Namespace == "" || o.Workload.Name == "" || o.Workload.ServiceAccount == ""):
		return nil, errors.New("node proxy: dedicated mode needs the workload's namespace, name and service account")
	}
	setDefault(&o.DrainTime, 5*time.Second)
	setDefault(&o.ConnectTimeout, 10*time.Second)
	setDefault(&o.WorkloadTimeout, 5*time.Second)
	setDefault(&o.LowPortOffset, 10000)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Proxy{o: o, sites: map[*site]struct{}{}, pods: map[string]*site{}, held: map[mesh.Identity]int{}, changed: make(chan struct{}), ready: make(chan struct{})}
	p.conns.all = map[*connection]struct{}{}
	p.tcp = newMetrics(o.Metrics)
	if o.Metrics != nil {
		p.watched = authz.NewRegistry(p.authzCounter)
	}
	if o.Mode == ModeLoopback {
		p.loop = newLoopback(p)
	}
	return p, nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Ready is closed once the proxy serves: the mesh is known and the listeners
// that it calls for are open.
func (p *Proxy) Ready() <-chan struct{} { return p.ready }

// Run serves until ctx ends, then drains: it stops listening at once, tells
// peers to go elsewhere, lets connections go on for DrainTime and closes what
// is left. It returns nil after everything has ended, or why it cannot serve.
func (p *Proxy) Run(ctx context.Context) error {
	p.mu.Lock()
	if p.running {
		p.mu.Unlock()
		return errors.New("node proxy: already run")
	}
	p.running = true
	p.mu.Unlock()

	updates := p.o.Snapshots.Updates(ctx)
	if err := p.awaitMesh(ctx, updates); err != nil || ctx.Err() != nil {
		return err
	}
	p.o.Certificates.Alias(p.snapshot().TrustDomainAliases)
	first := p.snapshot().Version
	if err := p.start(); err != nil {
		p.drain(0)
		return err
	}
	p.applied(first)
	p.once.Do(func() { close(p.ready) })
	var trims sync.WaitGroup
	defer trims.Wait()
	trims.Go(func() { p.trims(ctx) })
	report := time.NewTicker(reportEvery)
	defer report.Stop()
	for {
		select {
		case <-ctx.Done():
			p.drain(p.o.DrainTime)
			return nil
		case s, ok := <-updates:
			if !ok {
				updates = nil // ctx has ended, or the source has: the last state stays
				continue
			}
			p.update(s)
		case <-report.C:
			p.conns.report()
		}
	}
}

// awaitMesh waits until something is known of the mesh.
func (p *Proxy) awaitMesh(ctx context.Context, updates <-chan *mesh.Snapshot) error {
	for p.snapshot().Version == 0 {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-updates:
			if !ok && ctx.Err() == nil {
				return errors.New("node proxy: the source ended before it told of the mesh")
			}
		}
	}
	return nil
}

// start opens what the mode calls for.
func (p *Proxy) start() error {
	switch p.o.Mode {
	case ModeLoopback:
		return p.loop.start(p.snapshot())
	case ModeDedicated:
		p.mu.Lock()
		p.serving = true
		p.mu.Unlock()
		s, err := p.newPodSite(podSite{name: p.o.Workload.Name, info: p.o.Workload})
		if err != nil {
			return err
		}
		return p.addSite("", s)
	default:
		p.mu.Lock()
		defer p.mu.Unlock()
		p.serving = true
		for s := range p.sites {
			s.serve()
		}
		return nil
	}
}

func (p *Proxy) snapshot() *mesh.Snapshot { return p.o.Snapshots.Current() }

// update follows a change of the mesh: connections that are now forbidden are
// closed, listeners follow, and who waited for a workload looks again.
func (p *Proxy) update(s *mesh.Snapshot) {
	p.o.Certificates.Alias(s.TrustDomainAliases)
	p.mu.Lock()
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
	p.conns.recheck(func(c *connection) error { return p.recheck(s, c) })
	if p.loop != nil {
		p.loop.reconcile(s)
	}
	p.applied(s.Version)
}

func (p *Proxy) applied(version uint64) {
	if p.o.Applied != nil {
		p.o.Applied(version)
	}
}

// changes returns a channel that is closed at the next change of the mesh.
func (p *Proxy) changes() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// drain ends everything, giving connections the time d.
func (p *Proxy) drain(d time.Duration) {
	p.mu.Lock()
	p.drained = true
	sites := make([]*site, 0, len(p.sites))
	for s := range p.sites {
		sites = append(sites, s)
	}
	p.sites, p.pods = map[*site]struct{}{}, map[string]*site{}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	if p.loop != nil {
		p.loop.closeListeners()
	}
	var wg sync.WaitGroup
	for _, s := range sites {
		wg.Go(func() { s.shutdown(ctx) })
	}
	wg.Wait()
	p.lot.Close()
	p.conns.report()
}

// Listening returns where the services are listened on, in the order of their
// names, addresses and ports (ModeLoopback).
func (p *Proxy) Listening() []Bound {
	if p.loop == nil {
		return nil
	}
	return p.loop.bound()
}

// random returns a number in [0,n).
func random(n uint64) uint64 { return rand.Uint64N(n) }
