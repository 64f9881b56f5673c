package main

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"

	_ "embed"

	"cairnproxy.dev/cairn/conformance/cairn"
	"cairnproxy.dev/cairn/conformance/envoy"
	"cairnproxy.dev/cairn/conformance/loopback"
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
		&cairnProxy{lab: l},
		&envoyProxy{lab: l},
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

// cairnProxy is the program under test, started as its documentation says.
type cairnProxy struct{ lab *lab }

func (c *cairnProxy) name() string { return "cairn" }

func (c *cairnProxy) version(ctx context.Context) (string, error) {
	path, err := peers.Cairn()
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, path, "version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("running %s version: %w: %s", path, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

//go:embed manifests.yaml
var manifests string

func (c *cairnProxy) start(ctx context.Context, dir string, s shape) (*running, error) {
	addr := c.lab.block.Addr(10)
	folder, err := c.write(dir, addr, s)
	if err != nil {
		return nil, err
	}
	w := cairn.Waypoint{Manifests: folder, Gateway: namespace + "/waypoint", Address: addr, Files: c.lab.waypoint}
	if w.Admin, err = freeAddr(addr); err != nil {
		return nil, err
	}
	if w.Metrics, err = freeAddr(addr); err != nil {
		return nil, err
	}
	p, err := w.Start(ctx, dir, "waypoint", proc.Options{Core: c.lab.opts.proxyCore, Nice: c.lab.opts.nice})
	if err != nil {
		return nil, err
	}
	return &running{Group: proc.Group{p}, addr: netip.AddrPortFrom(addr, 15008).String(), log: filepath.Join(dir, "waypoint.access.log")}, nil
}

// write puts the manifests of the lab's mesh into a folder below dir.
func (c *cairnProxy) write(dir string, waypoint netip.Addr, s shape) (string, error) {
	t, err := template.New("manifests").Parse(manifests)
	if err != nil {
		return "", fmt.Errorf("making the manifests: %w", err)
	}
	var text strings.Builder
	if err := t.Execute(&text, map[string]any{"VIP": c.lab.vip, "Pod": c.lab.pod, "Waypoint": waypoint, "GRPC": s.grpc}); err != nil {
		return "", fmt.Errorf("making the manifests: %w", err)
	}
	return cairn.WriteManifests(dir, text.String())
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
	w := envoy.Waypoint{
		Listen: netip.AddrPortFrom(addr, 15008), Admin: netip.AddrPortFrom(addr, 15000), Files: e.lab.waypoint,
		Services: []envoy.Service{{
			Host: host, Addr: e.lab.vip, Endpoints: []netip.AddrPort{e.lab.pod}, Prefixes: []string{"/bytes"}, HTTP2: s.grpc,
		}},
		RBAC:      &envoy.RBAC{Principals: []string{clientURI}, Methods: []string{"GET", "POST"}},
		AccessLog: filepath.Join(dir, "access.log"),
	}
	p, err := envoy.Start(ctx, dir, "waypoint", w, proc.Options{Core: e.lab.opts.proxyCore, Nice: e.lab.opts.nice})
	if err != nil {
		return nil, err
	}
	return &running{Group: proc.Group{p}, addr: w.Listen.String(), log: w.AccessLog}, nil
}

// freeAddr returns an address and port that were free a moment ago.
func freeAddr(addr netip.Addr) (string, error) {
	port, err := loopback.Port(addr)
	return netip.AddrPortFrom(addr, port).String(), err
}
