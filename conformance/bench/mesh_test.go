package main

import (
	"net/netip"
	"testing"
)

// labOf is a lab that writes manifests and runs nothing.
func labOf(t *testing.T) *lab {
	t.Helper()
	return &lab{
		dir: t.TempDir(), meshes: map[shape]*meshFiles{},
		vip: netip.MustParseAddrPort("127.70.0.1:8080"), pod: netip.MustParseAddrPort("127.70.0.2:8080"),
	}
}

// TestMesh reads back what is written for Cairn, for each shape.
func TestMesh(t *testing.T) {
	for _, test := range []struct {
		name                          string
		shape                         shape
		services, endpoints, prefixes int
		last                          string
		open                          bool
		more                          int // rules of policies beside the first
	}{
		{name: "plain", services: 1, endpoints: 1, prefixes: 1, last: "/bytes"},
		{name: "routes", shape: shape{routes: 100}, services: 1, endpoints: 1, prefixes: 100, last: "/bytes"},
		{name: "services", shape: shape{services: 20, pods: 3}, services: 20, endpoints: 58, prefixes: 1, last: "/bytes"},
		{name: "grpc", shape: shape{grpc: true, routes: 3}, services: 1, endpoints: 1, prefixes: 3, last: "/bytes"},
		{name: "policies", shape: shape{authzPolicies: 10, authzRules: 10, authzValues: 3}, services: 1, endpoints: 1, prefixes: 1, last: "/bytes", more: 99},
		{name: "open", shape: shape{noPolicy: true}, services: 1, endpoints: 1, prefixes: 1, last: "/bytes", open: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := labOf(t)
			m, err := l.mesh(test.shape)
			if err != nil {
				t.Fatal(err)
			}
			model, err := m.read()
			if err != nil {
				t.Fatal(err)
			}
			endpoints := 0
			for _, s := range model.Services {
				endpoints += len(s.Endpoints)
			}
			used := model.Services[0]
			if len(model.Services) != test.services || endpoints != test.endpoints || len(used.Prefixes) != test.prefixes {
				t.Errorf("%d services, %d endpoints, %d prefixes", len(model.Services), endpoints, len(used.Prefixes))
			}
			if last := used.Prefixes[len(used.Prefixes)-1]; last != test.last {
				t.Errorf("the last prefix is %q, want %q", last, test.last)
			}
			if open := used.Allow == nil; open != test.open {
				t.Errorf("open to everybody: %v", open)
			} else if !open && len(used.Allow.Or) != test.more {
				t.Errorf("%d further rules, want %d", len(used.Allow.Or), test.more)
			}
			if again, err := l.mesh(test.shape); again != m || err != nil {
				t.Errorf("the same shape was written twice (%v)", err)
			}
		})
	}
}
