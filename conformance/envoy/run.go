package envoy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"cairnproxy.dev/cairn/conformance/peers"
	"cairnproxy.dev/cairn/conformance/proc"
)

// A Role is one of Client, Waypoint and Server.
type Role interface {
	Config() any
	AdminAddr() netip.AddrPort
}

// Start writes the role's configuration into dir as NAME.json, runs Envoy
// with one worker and waits until it is live. opts carries core, priority and
// network namespace.
func Start(ctx context.Context, dir, name string, role Role, opts proc.Options) (*proc.Process, error) {
	binary, err := peers.Envoy(ctx)
	if err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(role.Config(), "", " ")
	if err != nil {
		return nil, fmt.Errorf("configuring envoy %s: %w", name, err)
	}
	config := filepath.Join(dir, name+".json")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return nil, fmt.Errorf("configuring envoy %s: %w", name, err)
	}
	opts.Path = binary
	opts.Log = filepath.Join(dir, name+".log")
	opts.Args = []string{
		"--config-path", config, "--concurrency", "1",
		"--log-level", "warning", "--component-log-level", "misc:error,main:error",
		"--disable-hot-restart", "--drain-time-s", "1",
	}
	p, err := proc.Start(opts)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	url := "http://" + role.AdminAddr().String() + "/ready"
	if err := p.Await(ctx, func() error { return get(ctx, opts.Netns, url) }); err != nil {
		_ = p.Stop(time.Second) // its log is in err already
		return nil, fmt.Errorf("starting envoy %s: %w", name, err)
	}
	return p, nil
}

// get returns nil when the URL answers 200.
func get(ctx context.Context, netns, url string) error {
	resp, err := proc.Get(ctx, netns, url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return nil
}
