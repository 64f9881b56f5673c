package ztunnel

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

func TestDecideInbound(t *testing.T) {
	local, other := pod("ns", "local", "10.0.0.1", "fd00::1"), pod("ns", "other", "10.0.0.2")
	behind := pod("ns", "behind", "10.0.0.3")
	behind.Waypoint = &mesh.WaypointRef{Address: ip("10.0.0.1")}
	svc := svcOf("ns", "svc", "10.96.0.1", local)
	foreign := svcOf("ns", "foreign", "10.96.0.2", other)
	sandwich := svcOf("ns", "sandwich", "10.96.0.3", other)
	sandwich.Waypoint = wpRef("ns", "local")
	mapped := svcOf("ns", "mapped", "10.96.0.4", local)
	mapped.Ports[0].TargetPort = 0
	local.Services[mapped.Key] = map[uint16]uint16{80: 9090}
	s := mesh.NewSnapshot(1, mesh.Parts{
		Workloads: []*mesh.Workload{local, other, behind},
		Services:  []*mesh.Service{svc, foreign, sandwich, mapped},
		Waypoints: []*mesh.Waypoint{gateway("ns", "local", "10.0.0.1")},
	})
	tests := []struct {
		name   string
		host   string
		port   uint16
		local  string
		want   string
		status int
		reason string
	}{
		{name: "own-address", host: "10.0.0.1", port: 8080, want: "10.0.0.1:8080"},
		{name: "own-address-v6", host: "fd00::1", port: 8080, local: "fd00::1", want: "[fd00::1]:8080"},
		{name: "mapped-address", host: "::ffff:10.0.0.1", port: 8080, want: "10.0.0.1:8080"},
		{name: "other-pod", host: "10.0.0.2", port: 8080, status: 400, reason: "ip mismatch"},
		{name: "other-own-address", host: "fd00::1", port: 8080, status: 400, reason: "ip mismatch"},
		{name: "loopback", host: "127.0.0.1", port: 8080, status: 400, reason: "ip mismatch"},
		{name: "unknown-address", host: "1.2.3.4", port: 8080, status: 400, reason: "ip mismatch"},
		{name: "own-vip-without-waypoint", host: "10.96.0.1", port: 80, status: 400, reason: "ip mismatch"},
		{name: "vip-of-served-service", host: "10.96.0.3", port: 80, want: "10.0.0.1:80"},
		{name: "address-of-served-workload", host: "10.0.0.3", port: 80, want: "10.0.0.1:80"},
		{name: "hostname", host: "svc.ns.svc.cluster.local", port: 80, want: "10.0.0.1:8080"},
		{name: "hostname-port-map", host: "mapped.ns.svc.cluster.local", port: 80, want: "10.0.0.1:9090"},
		{name: "hostname-bad-port", host: "svc.ns.svc.cluster.local", port: 81, status: 503, reason: "no port 81"},
		{name: "hostname-unknown", host: "nope.ns.svc.cluster.local", port: 80, status: 503, reason: "unknown service"},
		{name: "hostname-of-others", host: "foreign.ns.svc.cluster.local", port: 80, status: 503, reason: "does not serve"},
		{name: "hostname-sandwich", host: "sandwich.ns.svc.cluster.local", port: 80, want: "10.0.0.1:80"},
		{name: "self-15008", host: "10.0.0.1", port: 15008, status: 503, reason: "recursive"},
		{name: "self-15006", host: "10.0.0.1", port: 15006, status: 503, reason: "recursive"},
		{name: "self-15001", host: "10.0.0.1", port: 15001, status: 503, reason: "recursive"},
		{name: "port-zero", host: "10.0.0.1", port: 0, status: 400, reason: "no port"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := InboundRequest{Authority: tt.host, Host: tt.host, Port: tt.port, Local: ip("10.0.0.1")}
			if tt.local != "" {
				req.Local = ip(tt.local)
			}
			if a, err := netip.ParseAddr(tt.host); err == nil {
				req.Dst = netip.AddrPortFrom(a, tt.port)
			}
			got, err := DecideInbound(s, local, req)
			if tt.status != 0 {
				var r *Refusal
				if !errors.As(err, &r) || r.Status != tt.status || !strings.Contains(r.Reason, tt.reason) {
					t.Fatalf("got %v, error %v; want status %d that says %q", got, err, tt.status, tt.reason)
				}
				return
			}
			if err != nil || got.String() != tt.want {
				t.Fatalf("got %v, error %v; want %s", got, err, tt.want)
			}
		})
	}
}

func TestServiceOf(t *testing.T) {
	local := pod("ns", "local", "10.0.0.1")
	a, b := svcOf("ns", "a", "10.96.0.1", local), svcOf("ns", "b", "10.96.0.2", local)
	s := mesh.NewSnapshot(1, mesh.Parts{Workloads: []*mesh.Workload{local}, Services: []*mesh.Service{a, b}})
	if got := serviceOf(s, local, b.Key.Hostname, 8080); got != b {
		t.Errorf("named service: got %v, want b", got)
	}
	if got := serviceOf(s, local, "elsewhere.ns", 8080); got != a {
		t.Errorf("service by port: got %v, want a, the first by name", got)
	}
	if got := serviceOf(s, local, "", 1); got != nil {
		t.Errorf("port of no service: got %v, want none", got)
	}
}
