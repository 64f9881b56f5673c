package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"cairnproxy.dev/cairn/conformance/peers"
	"cairnproxy.dev/cairn/conformance/proc"
)

// goProxy is cmd/goproxy: the baseline made of net/http and x/net/http2.
type goProxy struct{ lab *lab }

func (g *goProxy) name() string { return "goproxy" }

func (g *goProxy) version(ctx context.Context) (string, error) {
	if err := g.build(ctx); err != nil {
		return "", err
	}
	return "net/http and golang.org/x/net/http2, " + runtime.Version(), nil
}

func (g *goProxy) binary() string { return filepath.Join(g.lab.dir, "goproxy-binary") }

// build makes the program, once in a run.
func (g *goProxy) build(ctx context.Context) error {
	if _, err := os.Stat(g.binary()); err == nil {
		return nil
	}
	root, err := peers.ModuleRoot()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", g.binary(), "./cmd/goproxy")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building goproxy: %w: %s", err, out)
	}
	return nil
}

func (g *goProxy) start(ctx context.Context, dir string, s shape) (*running, error) {
	listen := netip.AddrPortFrom(g.lab.block.Addr(12), 15008).String()
	m, err := g.lab.mesh(s)
	if err != nil {
		return nil, err
	}
	log := ""
	if !s.noLog {
		log = filepath.Join(dir, "access.log")
	}
	config, err := g.config(m, listen, log)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		return nil, fmt.Errorf("configuring goproxy: %w", err)
	}
	p, err := proc.Start(proc.Options{
		Path: g.binary(), Args: []string{path}, Dir: dir, Log: filepath.Join(dir, "goproxy.log"), Core: g.lab.opts.proxyCore, Nice: g.lab.opts.nice,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err = p.Await(ctx, func() error {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", listen)
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		_ = p.Stop(time.Second) // its log is in err already
		return nil, fmt.Errorf("starting goproxy: %w", err)
	}
	return &running{Group: proc.Group{p}, addr: listen, log: log}, nil
}

// config says to goproxy what the manifests say.
func (g *goProxy) config(m *meshFiles, listen, log string) ([]byte, error) {
	model, err := m.read()
	if err != nil {
		return nil, err
	}
	f := g.lab.waypoint
	c := map[string]any{"Listen": listen, "Cert": f.Cert, "Key": f.Key, "Root": f.Root, "AccessLog": log}
	var services []map[string]any
	for _, s := range model.Services {
		// Addresses marshal as text, and the rest has the names that it wants.
		services = append(services, map[string]any{"Addr": s.Addr, "Prefixes": s.Prefixes, "Endpoints": s.Endpoints, "Allow": s.Allow})
	}
	c["Services"] = services
	return json.MarshalIndent(c, "", " ")
}
