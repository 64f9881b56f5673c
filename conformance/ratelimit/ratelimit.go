// Package ratelimit runs Envoy's rate limit service (github.com/envoyproxy/ratelimit) with a Redis of its
// own on a loopback address, for tests of what asks it.
//
//	s, err := ratelimit.Start(ctx, addr, `
//	  domain: shop
//	  descriptors:
//	  - {key: path, value: /limited, rate_limit: {unit: hour, requests_per_unit: 2}}`)
//	defer s.Stop()
//	… s.Addr …
package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"cairnproxy.dev/cairn/conformance/loopback"
	"cairnproxy.dev/cairn/conformance/peers"
	"cairnproxy.dev/cairn/conformance/proc"
)

// Service is the rate limit service, and its Redis.
type Service struct {
	// Addr is where it answers by gRPC.
	Addr  netip.AddrPort
	dir   string
	group proc.Group // the service, then Redis
}

// Start runs the service on a free port of addr, with one domain's limits each in configs (YAML, as in the
// service's README), and returns when it answers. Programs that are missing are built or
// installed.
func Start(ctx context.Context, addr netip.Addr, configs ...string) (*Service, error) {
	port, err := loopback.Port(addr)
	if err != nil {
		return nil, err
	}
	return StartAt(ctx, netip.AddrPortFrom(addr, port), configs...)
}

// StartAt is Start for a given port.
func StartAt(ctx context.Context, at netip.AddrPort, configs ...string) (*Service, error) {
	dir, err := os.MkdirTemp("", "ratelimit") // short: a path of a Unix socket is at most 107 bytes long
	if err != nil {
		return nil, fmt.Errorf("starting the rate limit service: %w", err)
	}
	s := &Service{Addr: at, dir: dir}
	if err := s.start(ctx, configs); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the rate limit service: %w", err), s.Stop())
	}
	return s, nil
}

func (s *Service) start(ctx context.Context, configs []string) error {
	binary, err := peers.RateLimit(ctx)
	if err != nil {
		return err
	}
	redis, err := peers.Program(ctx, "redis-server")
	if err != nil {
		return err
	}
	config := filepath.Join(s.dir, "limits", "config")
	if err := os.MkdirAll(config, 0o755); err != nil {
		return err
	}
	for i, text := range configs {
		if err := os.WriteFile(filepath.Join(config, strconv.Itoa(i)+".yaml"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	socket := filepath.Join(s.dir, "redis.sock")
	store, err := proc.Start(proc.Options{
		Path: redis, Args: []string{"--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", s.dir}, Log: filepath.Join(s.dir, "redis.log"),
	})
	if err != nil {
		return err
	}
	s.group = proc.Group{store}
	if err := store.Await(ctx, func() error { return dial(ctx, "unix", socket) }); err != nil {
		return err
	}
	var ports [2]uint16
	for i := range ports {
		if ports[i], err = loopback.Port(s.Addr.Addr()); err != nil {
			return err
		}
	}
	host := s.Addr.Addr().String()
	service, err := proc.Start(proc.Options{
		Path: binary, Log: filepath.Join(s.dir, "ratelimit.log"), Env: []string{
			"GRPC_HOST=" + host, fmt.Sprintf("GRPC_PORT=%d", s.Addr.Port()),
			"HOST=" + host, fmt.Sprintf("PORT=%d", ports[0]), "DEBUG_HOST=" + host, fmt.Sprintf("DEBUG_PORT=%d", ports[1]),
			"REDIS_SOCKET_TYPE=unix", "REDIS_URL=" + socket, "USE_STATSD=false", "LOG_LEVEL=warn",
			"RUNTIME_ROOT=" + s.dir, "RUNTIME_SUBDIRECTORY=limits", "RUNTIME_WATCH_ROOT=false",
		},
	})
	if err != nil {
		return err
	}
	s.group = proc.Group{service, store}
	health := fmt.Sprintf("http://%s/healthcheck", netip.AddrPortFrom(s.Addr.Addr(), ports[0]))
	return service.Await(ctx, func() error {
		resp, err := proc.Get(ctx, "", health)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("health: %s", resp.Status)
		}
		return dial(ctx, "tcp", s.Addr.String())
	})
}

func dial(ctx context.Context, network, addr string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return err
	}
	return c.Close()
}

// Err returns nil while the service runs, and afterwards why it ended.
func (s *Service) Err() error { return s.group.Err() }

// Stop ends the service and removes what it left.
func (s *Service) Stop() error {
	return errors.Join(s.group.Stop(2*time.Second), os.RemoveAll(s.dir))
}
