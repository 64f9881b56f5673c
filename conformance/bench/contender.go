package main

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"

	"cairnproxy.dev/cairn/conformance/cairn"
	"cairnproxy.dev/cairn/conformance/envoy"
	"cairnproxy.dev/cairn/conformance/loopback"
	"cairnproxy.dev/cairn/conformance/manifests"
	"cairnproxy.dev/cairn/conformance/peers"
	"cairnproxy.dev/cairn/conformance/proc"
)

// contender is a proxy, or several that work together, in one place of the
// mesh.
type contender interface {
	name() string
	version(ctx context.Context) (string, error)
	// start runs it in the folder, which is empty, for a mesh of that shape,
	// and returns once it accepts load.
	start(ctx context.Context, dir string, s shape) (*running, error)
}

// allContenders are there to be named in a case's list.
func allContenders(l *lab) []contender {
	return append(nodeContenders(l),
		&cairnProxy{lab: l, called: "cairn"},
		&cairnProxy{lab: l, called: "base", binary: l.opts.base},
		&envoyProxy{lab: l},
		&goProxy{lab: l},
	)
}

// selectContenders returns those that the lab's cases run on, by name. Each
// has told its version: what can not be had fails here.
func selectContenders(ctx context.Context, l *lab) (map[string]contender, error) {
	all, chosen := map[string]contender{}, map[string]contender{}
	for _, x := range allContenders(l) {
		all[x.name()] = x
	}
	for _, c := range l.cases {
		for _, name := range c.on {
			x, ok := all[name]
			if !ok {
				return nil, fmt.Errorf("case %s runs on %q, which is no contender", c.name, name)
			}
			if _, err := x.version(ctx); err != nil {
				return nil, err
			}
			chosen[name] = x
		}
	}
	return chosen, nil
}

// cairnProxy is the program under test, started as its documentation says, or
// another build of it.
type cairnProxy struct {
	lab    *lab
	called string
	binary string // empty: the one under test
}

func (c *cairnProxy) name() string { return c.called }

func (c *cairnProxy) version(ctx context.Context) (string, error) {
	path := c.binary
	if path == "" {
		var err error
		if path, err = peers.Cairn(); err != nil {
			return "", err
		}
	}
	out, err := exec.CommandContext(ctx, path, "version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("running %s version: %w: %s", path, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func (c *cairnProxy) start(ctx context.Context, dir string, s shape) (*running, error) {
	addr := c.lab.block.Addr(10)
	m, err := c.lab.mesh(s)
	if err != nil {
		return nil, err
	}
	w := cairn.Waypoint{Binary: c.binary, Manifests: m.folder, Gateway: namespace + "/waypoint", Address: addr, Files: c.lab.waypoint}
	if w.Admin, err = freeAddr(addr); err != nil {
		return nil, err
	}
	if w.Metrics, err = freeAddr(addr); err != nil {
		return nil, err
	}
	r := &running{addr: netip.AddrPortFrom(addr, 15008).String(), log: filepath.Join(dir, "waypoint.access.log")}
	if s.noLog {
		w.AccessLog, r.log = "none", ""
	}
	r.admin, r.metrics = w.Admin, w.Metrics
	p, err := w.Start(ctx, dir, "waypoint", proc.Options{Core: c.lab.opts.proxyCore, Nice: c.lab.opts.nice})
	r.Group = proc.Group{p}
	return r, err
}

// envoyProxy is Envoy in the shape that istiod gives a waypoint.
type envoyProxy struct{ lab *lab }

func (e *envoyProxy) name() string { return "envoy" }

func (e *envoyProxy) version(ctx context.Context) (string, error) {
	path, err := peers.Envoy(ctx)
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("running %s --version: %w", path, err)
	}
	_, version, _ := strings.Cut(strings.TrimSpace(string(out)), "version: ")
	return version, nil
}

func (e *envoyProxy) start(ctx context.Context, dir string, s shape) (*running, error) {
	addr := e.lab.block.Addr(11)
	plain := s
	plain.idle = false
	m, err := e.lab.mesh(plain)
	if err != nil {
		return nil, err
	}
	services, err := envoyServices(m)
	if err != nil {
		return nil, err
	}
	if s.idle {
		envoyIdle(&services[0])
	}
	w := envoy.Waypoint{
		Listen: netip.AddrPortFrom(addr, 15008), Admin: netip.AddrPortFrom(addr, 15000), Files: e.lab.waypoint,
		Services: services, Stats: s.stats,
	}
	if s.tracing {
		w.Collector = netip.AddrPortFrom(addr, 4317) // nobody is there
	}
	if !s.noLog {
		w.AccessLog = filepath.Join(dir, "access.log")
	}
	p, err := envoy.Start(ctx, dir, "waypoint", w, proc.Options{Core: e.lab.opts.proxyCore, Nice: e.lab.opts.nice})
	return &running{Group: proc.Group{p}, addr: w.Listen.String(), log: w.AccessLog}, err
}

// freeAddr returns an address and port that were free a moment ago.
func freeAddr(addr netip.Addr) (string, error) {
	port, err := loopback.Port(addr)
	return netip.AddrPortFrom(addr, port).String(), err
}

// envoyServices says to Envoy what the manifests say.
func envoyServices(m *meshFiles) ([]envoy.Service, error) {
	model, err := m.read()
	if err != nil {
		return nil, err
	}
	var all []envoy.Service
	for _, s := range model.Services {
		x := envoy.Service{
			Host: s.Host(), Addr: s.Addr, Prefixes: s.Prefixes,
			HTTP2: s.Protocol == manifests.HTTP2, TCP: s.Protocol == manifests.TCP,
		}
		for _, e := range s.Endpoints {
			x.Endpoints = append(x.Endpoints, e.Addr)
		}
		if s.Allow != nil {
			x.RBAC = &envoy.RBAC{Principals: s.Allow.Principals, Methods: s.Allow.Methods}
		}
		all = append(all, x)
	}
	return all, nil
}
