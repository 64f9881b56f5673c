package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
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

// contender is a proxy that can stand in the waypoint's place.
type contender interface {
	name() string
	version(ctx context.Context) (string, error)
	// start runs the proxy in the folder, for a mesh of that shape, and returns it and the address where
	// it accepts HBONE, once it does.
	start(ctx context.Context, dir string, s shape) (*proc.Process, string, error)
	// accessLog is the file in the folder that gets a line for each request.
	accessLog(dir string) string
}

// selectContenders returns those that are named, all by default. The first is
// the one under test, the second the one it is measured against.
func selectContenders(ctx context.Context, l *lab, names string) ([]contender, error) {
	all := []contender{&cairnProxy{lab: l}, &envoyProxy{lab: l}}
	var chosen []contender
	for _, c := range all {
		if names == "" || listed(names, c.name()) {
			chosen = append(chosen, c)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no contender is named %q: there are cairn and envoy", names)
	}
	for _, c := range chosen {
		if _, err := c.version(ctx); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(filepath.Join(l.dir, c.name()), 0o755); err != nil {
			return nil, fmt.Errorf("making a working folder: %w", err)
		}
	}
	return chosen, nil
}

func listed(names, name string) bool {
	for n := range strings.SplitSeq(names, ",") {
		if n == name {
			return true
		}
	}
	return false
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

func (c *cairnProxy) start(ctx context.Context, dir string, s shape) (*proc.Process, string, error) {
	addr := c.lab.block.Addr(10)
	folder, err := c.write(dir, addr, s)
	if err != nil {
		return nil, "", err
	}
	w := cairn.Waypoint{Manifests: folder, Gateway: namespace + "/waypoint", Address: addr, Files: c.lab.waypoint}
	if w.Admin, err = freeAddr(addr); err != nil {
		return nil, "", err
	}
	if w.Metrics, err = freeAddr(addr); err != nil {
		return nil, "", err
	}
	p, err := w.Start(ctx, dir, "waypoint", proc.Options{Core: c.lab.opts.proxyCore, Nice: c.lab.opts.nice})
	return p, netip.AddrPortFrom(addr, 15008).String(), err
}

func (c *cairnProxy) accessLog(dir string) string { return filepath.Join(dir, "waypoint.access.log") }

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

func (e *envoyProxy) start(ctx context.Context, dir string, s shape) (*proc.Process, string, error) {
	addr := e.lab.block.Addr(11)
	w := envoy.Waypoint{
		Listen: netip.AddrPortFrom(addr, 15008), Admin: netip.AddrPortFrom(addr, 15000), Files: e.lab.waypoint,
		Services: []envoy.Service{{
			Host: host, Addr: e.lab.vip, Endpoints: []netip.AddrPort{e.lab.pod}, Prefixes: []string{"/bytes"}, HTTP2: s.grpc,
		}},
		RBAC:      &envoy.RBAC{Principals: []string{clientURI}, Methods: []string{"GET", "POST"}},
		AccessLog: e.accessLog(dir),
	}
	p, err := envoy.Start(ctx, dir, "waypoint", w, proc.Options{Core: e.lab.opts.proxyCore, Nice: e.lab.opts.nice})
	return p, w.Listen.String(), err
}

func (e *envoyProxy) accessLog(dir string) string { return filepath.Join(dir, "access.log") }

// freeAddr returns an address and port that were free a moment ago.
func freeAddr(addr netip.Addr) (string, error) {
	port, err := loopback.Port(addr)
	return netip.AddrPortFrom(addr, port).String(), err
}
