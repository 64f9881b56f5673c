package main

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cairnproxy.dev/cairn/conformance/ca"
	"cairnproxy.dev/cairn/conformance/hbone"
	"cairnproxy.dev/cairn/conformance/loopback"
)

// TestProxy sends requests of the benchmark's load to its sink: what the
// proxy lets through, and what it refuses.
func TestProxy(t *testing.T) {
	block, err := loopback.Take()
	if err != nil {
		t.Fatal(err)
	}
	defer block.Close()
	authority, err := ca.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	leaf := func(account string) *ca.Leaf {
		l, err := authority.Issue("bench", account)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	server, client, stranger, dir := leaf("server"), leaf("client"), leaf("stranger"), t.TempDir()
	files, err := authority.Write(dir, "waypoint", leaf("waypoint"))
	if err != nil {
		t.Fatal(err)
	}
	pod := block.Addr(2)
	ln, err := net.Listen("tcp", netip.AddrPortFrom(pod, 15008).String())
	if err != nil {
		t.Fatal(err)
	}
	sunk := make(chan error, 1)
	go func() { sunk <- (&hbone.Sink{TLS: server.Server()}).Serve(ln) }()

	target := []endpoint{{netip.AddrPortFrom(pod, 8080).String(), server.URI}}
	only := &allow{Principals: []string{client.URI}, Methods: []string{"GET", "POST"}}
	c := config{
		Listen: netip.AddrPortFrom(block.Addr(3), 15008).String(), Cert: files.Cert, Key: files.Key, Root: files.Root, AccessLog: filepath.Join(dir, "log"),
		Services: []service{
			{Addr: "127.0.0.1:80", Prefixes: []string{"/other", "/bytes"}, Endpoints: target, Allow: only},
			{Addr: "127.0.0.1:81", Prefixes: []string{"/other", "/byt"}, Endpoints: target, Allow: only},
			{Addr: "127.0.0.1:82", Endpoints: []endpoint{{target[0].Addr, client.URI}}},
		},
	}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, path) }()
	awaitListener(t, c.Listen)

	for _, test := range []struct {
		name, service string
		client        *ca.Leaf
		method        string
		upload        int
		status        int
	}{
		{"get", "127.0.0.1:80", client, "GET", 0, 200},
		{"post", "127.0.0.1:80", client, "POST", 100_000, 200},
		{"method-denied", "127.0.0.1:80", client, "DELETE", 0, 403},
		{"identity-denied", "127.0.0.1:80", stranger, "GET", 0, 403},
		{"no-route", "127.0.0.1:81", client, "GET", 0, 404},
		{"wrong-endpoint", "127.0.0.1:82", client, "GET", 0, 502},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			load, err := hbone.Dial(ctx, hbone.Options{
				Addr: c.Listen, Authority: test.service, TLS: test.client.Client("spiffe://cluster.local/ns/bench/sa/waypoint"),
				Conns: 2, Streams: 3, Host: "example", Size: 1000, Upload: test.upload, Method: test.method, Status: test.status,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer load.Close()
			for range 2 { // the second time on the same tunnels
				if r := load.Once(); r.Failures > 0 || r.Requests != 6 {
					t.Errorf("%d answers, %d failures: %v", r.Requests, r.Failures, r.Err)
				}
			}
		})
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	ln.Close()
	if err := <-sunk; err != nil {
		t.Error(err)
	}
}

// awaitListener returns once something listens there.
func awaitListener(t *testing.T, addr string) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("nothing listens at %s", addr)
		}
	}
}
