package waypoint

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/filters/authz"
	"cairnproxy.dev/cairn/filters/builtin"
	"cairnproxy.dev/cairn/filters/extauthz"
	"cairnproxy.dev/cairn/filters/jwt"
	"cairnproxy.dev/cairn/filters/ratelimit"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/telemetry"
	"cairnproxy.dev/cairn/telemetry/decision"
	"cairnproxy.dev/cairn/tunnel"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"cairnproxy.dev/cairn/upstream"
)

// hbonePort is where waypoints and node proxies accept tunnels.
const hbonePort = tunnel.Port

// Snapshots is where the configuration comes from: *source.Store.
type Snapshots interface {
	// Current is the configuration in force.
	Current() *mesh.Snapshot
	// Updates delivers the current snapshot and then each newer one, the
	// latest if the reader is slow, until ctx ends.
	Updates(ctx context.Context) <-chan *mesh.Snapshot
}

// Identities gives TLS configurations: *identity.Cache.
type Identities interface {
	Server(own mesh.Identity) *tls.Config
	Client(own mesh.Identity, expect []string) *tls.Config
	// Alias makes other trust domains stand for our own.
	Alias(domains []string)
	tunnel.Revocations
}

// Options configures a Proxy.
type Options struct {
	// Name is the Gateway that this is an instance of.
	Name mesh.Name
	// Identity is what we present; the zero Identity takes it from Name: the
	// service account that has the Gateway's name, in DefaultTrustDomain.
	Identity mesh.Identity
	// Addresses are where to listen, on Port (0: 15008).
	Addresses []netip.Addr
	Port      uint16
	// HBONEPort is where endpoints' node proxies accept tunnels; 0 means 15008.
	HBONEPort  uint16
	Snapshots  Snapshots
	Identities Identities
	// Metrics is required; AccessLog may be nil for none.
	Metrics   *telemetry.Metrics
	AccessLog *telemetry.Writer
	Log       *slog.Logger
	// Network is the network that we are in.
	Network string
	// Source is the address to dial from; the zero Addr leaves it to the system.
	Source netip.Addr
	// Dial replaces how TCP connections are made; nil means the system's way.
	Dial func(ctx context.Context, source netip.Addr, to netip.AddrPort) (*net.TCPConn, error)
	// Resolve finds the addresses of endpoints that are known by name; nil means the
	// system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// DrainTimeout bounds how long open tunnels may go on after Run's context
	// ended; 0 means 5 s.
	DrainTimeout time.Duration
	// Budget bounds the bytes that wait in flow control, over all connections;
	// nil means 256 MiB.
	Budget *h2.Budget
	// Applied, if set, is told the version of each Snapshot once new requests are
	// served by it; of those that came in quick succession, the last. It must not block.
	Applied func(version uint64)
}

// Proxy is one waypoint instance.
type Proxy struct {
	o         Options
	pool      *tunnel.Pool
	peer      func(tunnel.Target) peer // the pool's
	server    *tunnel.Server
	registry  upstream.Registry
	runtime   atomic.Pointer[Runtime]
	timers    timers
	watch     *watch
	checking  atomic.Int64 // health checks under way
	draining  atomic.Bool
	tunnels   atomic.Int64
	nextShard atomic.Uint32
	runtimes  atomic.Uint64
	deps      builtin.Deps                      // what filters need, apart from policies
	below     func(time.Duration) time.Duration // a random one below another
	decisions decision.Ring                     // about the last requests
	ready     chan struct{}

	// ctx ends when Run is over, for dials of plain connections.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu           sync.Mutex
	destinations map[destKey]*destination
	warming      map[*upstream.Cluster]struct{} // those with slow start
	h2Servers    map[*h2Server]struct{}
}

// New returns a waypoint that does nothing yet.
func New(o Options) (*Proxy, error) {
	if o.Snapshots == nil || o.Identities == nil || o.Metrics == nil || o.Name.Name == "" {
		return nil, errors.New("waypoint needs a name, snapshots, identities and metrics")
	}
	if len(o.Addresses) == 0 {
		return nil, fmt.Errorf("waypoint %s has no address to listen on", o.Name)
	}
	if o.Identity.IsZero() {
		o.Identity = mesh.Identity{TrustDomain: mesh.DefaultTrustDomain, Namespace: o.Name.Namespace, ServiceAccount: o.Name.Name}
	}
	if o.Port == 0 {
		o.Port = hbonePort
	}
	if o.HBONEPort == 0 {
		o.HBONEPort = hbonePort
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		o.Dial = dialSystem
	}
	if o.Resolve == nil {
		o.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if o.DrainTimeout == 0 {
		o.DrainTimeout = 5 * time.Second
	}
	if o.Budget == nil {
		o.Budget = &h2.Budget{Limit: 256 << 20}
	}
	p := &Proxy{o: o, ready: make(chan struct{}), destinations: map[destKey]*destination{}, h2Servers: map[*h2Server]struct{}{}}
	p.watch = newWatch(p)
	o.Metrics.Collect(p.watch.collect)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.deps = builtin.NewDeps(ratelimit.NewRegistry(p, p.limitCounter), authz.NewRegistry(p.authzCounter),
		jwt.NewRegistry(jwt.Options{Mesh: p, Counters: p.jwtCounter, Log: o.Log.With("waypoint", o.Name)}))
	p.deps.Auth = extauthz.NewRegistry(p, o.Identity, p.extAuthzCounter)
	p.timers.wake = make(chan struct{}, 1)
	p.below = rand.N[time.Duration]
	p.pool = tunnel.NewPool(tunnel.PoolOptions{Dial: o.Dial, TLS: o.Identities.Client, Log: o.Log, Budget: o.Budget, Revocations: o.Identities})
	p.peer = func(tg tunnel.Target) peer { return p.pool.Peer(tg) }
	p.server = tunnel.NewServer(tunnel.ServerOptions{TLS: o.Identities.Server(o.Identity), Inline: p.connect, Log: o.Log, Budget: o.Budget, Revocations: o.Identities})
	return p, nil
}

func dialSystem(ctx context.Context, source netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{KeepAlive: -1}
	d.SetMultipathTCP(false)
	if source.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
	}
	c, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// Ready is closed when the proxy listens and serves its first configuration.
func (p *Proxy) Ready() <-chan struct{} { return p.ready }

// Run serves until ctx ends, then drains: it announces its end, lets tunnels
// finish for DrainTimeout, closes the rest, and returns nil. It returns an
// error if it cannot listen.
func (p *Proxy) Run(ctx context.Context) error {
	defer p.pool.Close()
	defer p.deps.Limits.Close()
	defer p.deps.Auth.Close()
	defer p.deps.Tokens.Close()
	defer p.cancel()
	first, cancelWait := context.WithCancel(ctx)
	updates := p.o.Snapshots.Updates(first)
	defer cancelWait()
	var listeners []net.Listener
	for _, a := range p.o.Addresses {
		ln, err := listen(ctx, netip.AddrPortFrom(a, p.o.Port))
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return fmt.Errorf("waypoint %s: %w", p.o.Name, err)
		}
		listeners = append(listeners, ln)
	}
	select {
	case snap := <-updates:
		p.apply(snap)
	case <-ctx.Done():
		for _, l := range listeners {
			l.Close()
		}
		return nil
	}
	var wg sync.WaitGroup
	stopTicks := make(chan struct{})
	wg.Go(func() { p.tick(stopTicks) })
	wg.Go(func() { p.watch.run(stopTicks) })
	wg.Go(func() { p.follow(first, updates) })
	for _, ln := range listeners {
		wg.Go(func() {
			if err := p.server.Serve(ln); err != nil {
				p.o.Log.Error("waypoint stopped accepting", "waypoint", p.o.Name, "error", err)
			}
		})
	}
	close(p.ready)
	<-ctx.Done()
	p.drain()
	close(stopTicks)
	cancelWait()
	wg.Wait()
	p.cancel()
	p.wg.Wait()
	return nil
}

func listen(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: -1}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(ctx, "tcp", at.String())
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w (is another proxy running there?)", at, err)
	}
	return ln, nil
}

// drain ends the tunnels in good order.
func (p *Proxy) drain() {
	p.draining.Store(true)
	for _, s := range p.allH2Servers() {
		loop.Run(s.drain)
	}
	for _, h := range p.server.Handlers() {
		switch s := h.(type) {
		case *h1Server:
			loop.Run(s.drain)
		case *sniffer:
			loop.Run(s.drain)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.o.DrainTimeout)
	defer cancel()
	if err := p.server.Shutdown(ctx); err != nil {
		p.o.Log.Info("waypoint closed tunnels that did not end in time", "waypoint", p.o.Name, "tunnels", p.tunnels.Load())
	}
}

// follow applies each new snapshot.
func (p *Proxy) follow(ctx context.Context, updates <-chan *mesh.Snapshot) {
	for {
		select {
		case <-ctx.Done():
			return
		case snap, ok := <-updates:
			if !ok {
				return
			}
			p.apply(snap)
		}
	}
}

// apply makes a snapshot the configuration in force.
func (p *Proxy) apply(snap *mesh.Snapshot) {
	p.o.Identities.Alias(snap.TrustDomainAliases)
	old := p.runtime.Load()
	rt := p.compile(snap, old)
	var told []string
	if old != nil {
		told = old.problems()
	}
	for _, e := range rt.problems() {
		if !slices.Contains(told, e) {
			p.o.Log.Warn("a rule cannot be served and answers 500", "waypoint", p.o.Name, "problem", e)
		}
	}
	p.succeed(old, rt)
	p.deps.Tokens.Fetch() // now that rt leads to who has the keys
	if p.o.Applied != nil {
		p.o.Applied(snap.Version)
	}
}

// tick sweeps deadlines, and closes what was idle for long.
func (p *Proxy) tick(stop chan struct{}) {
	tk := time.NewTicker(sweepInterval)
	defer tk.Stop()
	quick := time.NewTicker(quickInterval)
	defer quick.Stop()
	quick.Stop()
	last := time.Now()
	warmed := last
	for {
		select {
		case <-stop:
			return
		case <-p.timers.wake:
			quick.Reset(quickInterval)
		case <-quick.C:
			loop.Run(func(t *loop.Turn) {
				if !p.timers.sweepQuick(t) {
					quick.Stop() // who comes now wakes us
				}
			})
		case now := <-tk.C:
			loop.Run(p.timers.sweep)
			if now.Sub(warmed) >= warmInterval {
				warmed = now
				p.warm()
			}
			if now.Sub(last) >= time.Second {
				last = now
				p.closeIdle()
			}
		}
	}
}

func (p *Proxy) closeIdle() {
	p.mu.Lock()
	ds := make([]*destination, 0, len(p.destinations))
	for _, d := range p.destinations {
		ds = append(ds, d)
	}
	p.mu.Unlock()
	loop.Run(func(t *loop.Turn) {
		for _, d := range ds {
			d.expire(t)
			for v := range d.lines {
				d.wake(t, v) // nobody is to wait for what was missed
			}
		}
		for _, s := range p.allH2Servers() {
			s.inner.conn.Tick(t)
		}
	})
}

func (p *Proxy) allH2Servers() []*h2Server {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*h2Server, 0, len(p.h2Servers))
	for s := range p.h2Servers {
		all = append(all, s)
	}
	return all
}

// addH2Server makes drain announce the end inside the tunnel too.
func (p *Proxy) addH2Server(s *h2Server) {
	p.mu.Lock()
	p.h2Servers[s] = struct{}{}
	p.mu.Unlock()
}

func (p *Proxy) removeH2Server(s *h2Server) {
	p.mu.Lock()
	delete(p.h2Servers, s)
	p.mu.Unlock()
}

// Config is what a waypoint believes, for the admin server.
type Config struct {
	Waypoint  string          `json:"waypoint"`
	Identity  string          `json:"identity"`
	Version   uint64          `json:"version"`
	Listeners []string        `json:"listeners"`
	Services  []ConfigService `json:"services"`
	Clusters  []ConfigCluster `json:"clusters"`
	// Tokens are the issuers whose tokens are believed, and the state of their keys.
	Tokens []jwt.State `json:"tokens,omitempty"`
	// Routes are those that concern this waypoint, Statuses what became of all routes and policies.
	Routes       []ConfigRouteObject `json:"routes"`
	Statuses     []ConfigStatus      `json:"statuses"`
	Problems     []string            `json:"problems,omitempty"`
	Tunnels      int64               `json:"tunnels"`
	BufferedByte int64               `json:"bufferedBytes"`
}

// ConfigService is one address that a waypoint serves.
type ConfigService struct {
	Address  string        `json:"address"`
	Hostname string        `json:"hostname,omitempty"`
	Workload string        `json:"workload,omitempty"`
	Protocol string        `json:"protocol"`
	Routes   []ConfigRoute `json:"routes,omitempty"`
	Policies []string      `json:"policies,omitempty"`
}

// ConfigRoute is one rule of a service.
type ConfigRoute struct {
	Name     string            `json:"name"`
	Broken   string            `json:"broken,omitempty"`
	Matches  []mesh.RouteMatch `json:"matches,omitempty"`
	Backends []ConfigBackend   `json:"backends,omitempty"`
}

// ConfigBackend is one backend of a rule.
type ConfigBackend struct {
	Service string `json:"service"`
	Port    uint16 `json:"port"`
	Weight  uint32 `json:"weight"`
	Broken  string `json:"broken,omitempty"`
	// Policy and Filters are what the rule says for this backend alone.
	Policy  string   `json:"policy,omitempty"`
	Filters []string `json:"filters,omitempty"`
}

// ConfigDump returns what the proxy believes now, a Config.
func (p *Proxy) ConfigDump() any {
	c := Config{Waypoint: p.o.Name.String(), Identity: p.o.Identity.String(), Tunnels: p.tunnels.Load(), BufferedByte: p.o.Budget.Used()}
	for _, a := range p.o.Addresses {
		c.Listeners = append(c.Listeners, netip.AddrPortFrom(a, p.o.Port).String())
	}
	rt := p.runtime.Load()
	if rt == nil {
		return c
	}
	c.Version, c.Problems = rt.snapshot.Version, rt.problems()
	if rt.waypoint != nil {
		c.Routes, c.Statuses = dumpRoutes(rt), dumpStatuses(rt.snapshot)
	}
	for _, m := range []mesh.Index[netip.AddrPort, *servicePort]{rt.services, rt.ports} {
		for at, sp := range m.All() {
			c.Services = append(c.Services, dumpService(at, sp))
		}
	}
	slices.SortFunc(c.Services, func(a, b ConfigService) int { return strings.Compare(a.Address, b.Address) })
	c.Clusters, c.Tokens = dumpClusters(rt), p.deps.Tokens.States()
	return c
}

func dumpService(at netip.AddrPort, sp *servicePort) ConfigService {
	s := ConfigService{Address: at.String(), Protocol: sp.protocol.String()}
	if s.Protocol == "" {
		s.Protocol = "sniffed"
	}
	if sp.service != nil {
		s.Hostname = sp.service.Key.Hostname
	}
	if sp.workload != nil {
		s.Workload = sp.workload.UID
	}
	s.Policies = sp.policies.Names()
	for _, a := range sp.routes {
		r := ConfigRoute{Name: a.Route.Object.String() + "/" + ruleName(a.Route), Broken: a.Route.Broken, Matches: a.Route.Matches}
		for _, b := range a.Route.Backends {
			r.Backends = append(r.Backends, dumpBackend(&b))
		}
		s.Routes = append(s.Routes, r)
	}
	return s
}
