package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	_ "embed"

	"cairnproxy.dev/cairn/conformance/envoy"
	"cairnproxy.dev/cairn/conformance/loopback"
	"cairnproxy.dev/cairn/conformance/peers"
	"cairnproxy.dev/cairn/conformance/proc"
)

// contender is a proxy that can stand in the waypoint's place.
type contender interface {
	name() string
	version(ctx context.Context) (string, error)
	// start runs the proxy in the folder and returns it and the address where
	// it accepts HBONE, once it does.
	start(ctx context.Context, dir string) (*proc.Process, string, error)
}

// selectContenders returns those that are named, all by default. The first is
// the one under test, the second the one it is measured against.
func selectContenders(ctx context.Context, l *lab, names string) ([]contender, error) {
	all := []contender{&cairn{lab: l}, &envoyProxy{lab: l}}
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

// cairn is the program under test, started as its documentation says.
type cairn struct{ lab *lab }

func (c *cairn) name() string { return "cairn" }

func (c *cairn) version(ctx context.Context) (string, error) {
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

func (c *cairn) start(ctx context.Context, dir string) (*proc.Process, string, error) {
	path, err := peers.Cairn()
	if err != nil {
		return nil, "", err
	}
	addr := c.lab.block.Addr(10)
	files := c.lab.waypoint
	folder := filepath.Join(dir, "manifests")
	if err := c.write(folder, addr); err != nil {
		return nil, "", err
	}
	admin, err := freeAddr(addr)
	if err != nil {
		return nil, "", err
	}
	metrics, err := freeAddr(addr)
	if err != nil {
		return nil, "", err
	}
	p, err := proc.Start(proc.Options{
		Path: path,
		Args: []string{
			"waypoint", "--manifests", folder, "--gateway", namespace + "/waypoint", "--address", addr.String(),
			"--cert", files.Cert, "--key", files.Key, "--root", files.Root, "--admin", admin, "--metrics", metrics,
		},
		Dir: dir, Log: filepath.Join(dir, "stderr.log"), Out: filepath.Join(dir, "stdout.log"),
		Core: c.lab.opts.proxyCore, Nice: c.lab.opts.nice,
	})
	if err != nil {
		return nil, "", err
	}
	hbone := netip.AddrPortFrom(addr, 15008).String()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := p.Await(ctx, func() error { return dialable(ctx, hbone) }); err != nil {
		_ = p.Stop(time.Second) // its log is in err already
		return nil, "", fmt.Errorf("starting cairn: %w", err)
	}
	return p, hbone, nil
}

// write puts the manifests of the lab's mesh into folder.
func (c *cairn) write(folder string, waypoint netip.Addr) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("writing the manifests: %w", err)
	}
	f, err := os.Create(filepath.Join(folder, "bench.yaml"))
	if err != nil {
		return fmt.Errorf("writing the manifests: %w", err)
	}
	defer f.Close()
	t, err := template.New("manifests").Parse(manifests)
	if err != nil {
		return fmt.Errorf("writing the manifests: %w", err)
	}
	return t.Execute(f, map[string]any{"VIP": c.lab.vip, "Pod": c.lab.pod, "Waypoint": waypoint})
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

func (e *envoyProxy) start(ctx context.Context, dir string) (*proc.Process, string, error) {
	addr := e.lab.block.Addr(11)
	w := envoy.Waypoint{
		Listen: netip.AddrPortFrom(addr, 15008), Admin: netip.AddrPortFrom(addr, 15000), Files: e.lab.waypoint,
		Services: []envoy.Service{{
			Host: host, Addr: e.lab.vip, Endpoints: []netip.AddrPort{e.lab.pod}, Prefixes: []string{"/bytes"},
		}},
		RBAC:      &envoy.RBAC{Principals: []string{clientURI}, Methods: []string{"GET", "POST"}},
		AccessLog: filepath.Join(dir, "access.log"),
	}
	p, err := envoy.Start(ctx, dir, "waypoint", w, proc.Options{Core: e.lab.opts.proxyCore, Nice: e.lab.opts.nice})
	return p, w.Listen.String(), err
}

// freeAddr returns an address and port that were free a moment ago.
func freeAddr(addr netip.Addr) (string, error) {
	port, err := loopback.Port(addr)
	return netip.AddrPortFrom(addr, port).String(), err
}

// dialable returns nil when something accepts connections at addr.
func dialable(ctx context.Context, addr string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return c.Close()
}
