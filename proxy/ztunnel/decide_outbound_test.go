package ztunnel

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
	"github.com/google/go-cmp/cmp"
)

func ip(s string) netip.Addr     { return netip.MustParseAddr(s) }
func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// pod returns a ready HBONE pod in namespace ns whose service account is name.
func pod(ns, name string, addrs ...string) *mesh.Workload {
	w := &mesh.Workload{
		UID: "c//Pod/" + ns + "/" + name, Name: name, Namespace: ns, ServiceAccount: name,
		TrustDomain: "cluster.local", Protocol: mesh.TunnelHBONE, Ready: true, Capacity: 1,
		Services: map[mesh.ServiceKey]map[uint16]uint16{},
	}
	for _, a := range addrs {
		w.Addresses = append(w.Addresses, ip(a))
	}
	return w
}

func spiffe(ns, sa string) string { return "spiffe://cluster.local/ns/" + ns + "/sa/" + sa }

// svcOf returns a service name.ns with port 80 to 8080, served by the workloads.
func svcOf(ns, name, vip string, eps ...*mesh.Workload) *mesh.Service {
	v := &mesh.Service{
		Key: mesh.ServiceKey{Namespace: ns, Hostname: name + "." + ns + ".svc.cluster.local"}, Name: name, Canonical: true,
		Ports: []mesh.ServicePort{{Name: "http", Port: 80, TargetPort: 8080}},
	}
	if vip != "" {
		v.VIPs = []netip.Addr{ip(vip)}
	}
	for _, w := range eps {
		w.Services[v.Key] = map[uint16]uint16{80: 8080}
	}
	return v
}

func gateway(ns, name string, addrs ...string) *mesh.Waypoint {
	wp := &mesh.Waypoint{
		Name: mesh.Name{Namespace: ns, Name: name}, Port: PortHBONE,
		Identity: mesh.Identity{TrustDomain: "cluster.local", Namespace: ns, ServiceAccount: name},
	}
	for _, a := range addrs {
		wp.Addresses = append(wp.Addresses, ip(a))
	}
	return wp
}

func wpRef(ns, name string) *mesh.WaypointRef {
	return &mesh.WaypointRef{Name: mesh.Name{Namespace: ns, Name: name}, Port: PortHBONE}
}

// hopView is what the tables compare.
type hopView struct {
	Protocol  string
	Addr      string
	Authority string
	Expect    string
	Waypoint  bool
}

func viewOf(h Hop) hopView {
	addr := h.Addr.String()
	if h.Hostname != "" {
		addr = fmt.Sprintf("%s:%d", h.Hostname, h.Addr.Port())
	}
	return hopView{h.Protocol.String(), addr, h.Authority, strings.Join(h.Expect, ","), h.Waypoint}
}

// outboundMesh is the mesh of the table: one of each way a destination is bound.
func outboundMesh() *mesh.Snapshot {
	client := pod("ns1", "client", "10.0.0.1")
	hbone := pod("ns1", "hbone", "10.0.1.1")
	plain := pod("ns1", "plain", "10.0.1.2")
	plain.Protocol = mesh.TunnelNone
	dual := pod("ns1", "dual", "10.0.1.3", "fd00::3")
	down := pod("ns1", "down", "10.0.1.4")
	down.Ready = false
	viaWaypoint := pod("ns1", "via", "10.0.1.5")
	viaWaypoint.Waypoint = wpRef("ns1", "wp")
	viaMissing := pod("ns1", "viamissing", "10.0.1.6")
	viaMissing.Waypoint = wpRef("ns1", "gone")
	account := pod("ns1", "account", "10.0.1.7")
	account.Waypoint, account.ServiceAccountWaypoint = wpRef("ns1", "account-wp"), true
	accountDown := pod("ns1", "accountdown", "10.0.1.8")
	accountDown.Waypoint, accountDown.ServiceAccountWaypoint = wpRef("ns1", "dead"), true
	named := pod("ns1", "named")
	named.Hostname, named.Protocol = "db.example.com", mesh.TunnelNone
	hostNet := pod("ns1", "hostnet", "10.0.9.1")
	hostNet.HostNetwork = true
	far := pod("ns1", "far", "10.0.1.9")
	far.Network = "other"
	zero := pod("ns1", "zero", "10.0.1.10")
	zero.Capacity = 0

	wp := pod("ns1", "wp", "10.0.2.1")
	wp.IsWaypoint = true
	deadPod := pod("ns1", "dead", "10.0.2.3")
	deadPod.Ready, deadPod.IsWaypoint = false, true
	wpPod := pod("ns1", "wp-by-service", "10.0.2.4")

	svcs := []*mesh.Service{
		svcOf("ns1", "hbone", "10.96.0.1", hbone),
		svcOf("ns1", "plain", "10.96.0.2", plain),
		svcOf("ns1", "dual", "10.96.0.3", dual),
		svcOf("ns1", "down", "10.96.0.4", down),
		svcOf("ns1", "waypoint", "10.96.0.5", hbone),
		svcOf("ns1", "dead", "10.96.0.6", hbone),
		svcOf("ns1", "gone", "10.96.0.7", hbone),
		svcOf("ns1", "account", "10.96.0.8", account),
		svcOf("ns1", "accountdown", "10.96.0.9", accountDown),
		svcOf("ns1", "named", "10.96.0.10", named),
		svcOf("ns1", "san", "10.96.0.11", hbone),
		svcOf("ns1", "pass", "10.96.0.12"),
		svcOf("ns1", "hostnet", "10.96.0.13", hostNet),
		svcOf("ns1", "far", "10.96.0.14", far),
		svcOf("ns1", "zero", "10.96.0.15", zero),
		svcOf("ns1", "wpsvc", "10.96.0.16", hbone),
		svcOf("ns1", "wpaddr", "10.96.0.17", hbone),
		svcOf("ns1", "portmap", "10.96.0.18", hbone),
		svcOf("ns1", "accounthalf", "10.96.0.19", accountDown, hbone),
		svcOf("ns1", "wpvip", "10.96.0.20", hbone),
	}
	by := map[string]*mesh.Service{}
	for _, v := range svcs {
		by[v.Name] = v
	}
	by["dual"].VIPs = append(by["dual"].VIPs, ip("fd96::3"))
	by["waypoint"].Waypoint = wpRef("ns1", "wp")
	by["dead"].Waypoint = wpRef("ns1", "dead")
	by["gone"].Waypoint = wpRef("ns1", "gone")
	by["san"].SubjectAltNames = []string{spiffe("x", "extra")}
	by["pass"].Locality = mesh.LocalityPassthrough
	by["portmap"].Ports[0].TargetPort = 0
	hbone.Services[by["portmap"].Key] = map[uint16]uint16{80: 9999}

	gwSvc := svcOf("ns1", "gw", "10.96.0.99", wpPod)
	gwSvc.Ports = []mesh.ServicePort{{Port: PortHBONE, TargetPort: PortHBONE}}
	wpPod.Services[gwSvc.Key] = map[uint16]uint16{PortHBONE: PortHBONE}
	by["wpsvc"].Waypoint = &mesh.WaypointRef{Service: gwSvc.Key, Port: PortHBONE}
	by["wpaddr"].Waypoint = &mesh.WaypointRef{Address: ip("10.0.2.1")}
	by["wpvip"].Waypoint = &mesh.WaypointRef{Address: ip("10.96.0.99")}

	return mesh.NewSnapshot(1, mesh.Parts{
		Workloads: []*mesh.Workload{client, hbone, plain, dual, down, viaWaypoint, viaMissing, account, accountDown, named, hostNet, far, zero, wp, deadPod, wpPod},
		Services:  append(svcs, gwSvc),
		Waypoints: []*mesh.Waypoint{gateway("ns1", "wp", "10.0.2.1"), gateway("ns1", "dead", "10.0.2.3"), gateway("ns1", "account-wp", "10.0.2.5")},
	})
}

func TestDecideOutbound(t *testing.T) {
	s := outboundMesh()
	tests := []struct {
		name   string
		source string // "" is the client
		target string
		closed bool
		want   hopView
		refuse string // part of the reason
	}{
		{name: "unknown", target: "1.2.3.4:80", want: hopView{Protocol: "TCP", Addr: "1.2.3.4:80"}},
		{name: "unknown-closed", target: "1.2.3.4:80", closed: true, refuse: "no workload or service"},
		{name: "workload-hbone", target: "10.0.1.1:8080", want: hopView{"HBONE", "10.0.1.1:15008", "10.0.1.1:8080", spiffe("ns1", "hbone"), false}},
		{name: "workload-plain", target: "10.0.1.2:8080", want: hopView{Protocol: "TCP", Addr: "10.0.1.2:8080"}},
		{name: "workload-v6", target: "[fd00::3]:8080", want: hopView{"HBONE", "[fd00::3]:15008", "[fd00::3]:8080", spiffe("ns1", "dual"), false}},
		{name: "workload-waypoint", target: "10.0.1.5:8080", want: hopView{"HBONE", "10.0.2.1:15008", "10.0.1.5:8080", spiffe("ns1", "wp"), true}},
		{name: "workload-from-its-waypoint", source: "10.0.2.1", target: "10.0.1.5:8080", want: hopView{"HBONE", "10.0.1.5:15008", "10.0.1.5:8080", spiffe("ns1", "via"), false}},
		{name: "workload-waypoint-unknown", target: "10.0.1.6:8080", refuse: "waypoint ns1/gone, to which workload 10.0.1.6 is bound, is not known"},
		{name: "service-hbone", target: "10.96.0.1:80", want: hopView{"HBONE", "10.0.1.1:15008", "10.0.1.1:8080", spiffe("ns1", "hbone"), false}},
		{name: "service-plain", target: "10.96.0.2:80", want: hopView{Protocol: "TCP", Addr: "10.0.1.2:8080"}},
		{name: "service-dual-v4", target: "10.96.0.3:80", want: hopView{"HBONE", "10.0.1.3:15008", "10.0.1.3:8080", spiffe("ns1", "dual"), false}},
		{name: "service-dual-v6", target: "[fd96::3]:80", want: hopView{"HBONE", "[fd00::3]:15008", "[fd00::3]:8080", spiffe("ns1", "dual"), false}},
		{name: "service-no-port", target: "10.96.0.1:81", refuse: "has no port 81"},
		{name: "service-not-ready", target: "10.96.0.4:80", refuse: "no healthy upstream"},
		{name: "service-waypoint", target: "10.96.0.5:80", want: hopView{"HBONE", "10.0.2.1:15008", "10.96.0.5:80", spiffe("ns1", "wp"), true}},
		{name: "service-waypoint-any-port", target: "10.96.0.5:1234", want: hopView{"HBONE", "10.0.2.1:15008", "10.96.0.5:1234", spiffe("ns1", "wp"), true}},
		{name: "service-waypoint-not-ready", target: "10.96.0.6:80", refuse: "no ready instance"},
		{name: "service-waypoint-unknown", target: "10.96.0.7:80", refuse: "waypoint ns1/gone, to which service ns1/gone.ns1.svc.cluster.local is bound, is not known"},
		{name: "service-waypoint-by-service", target: "10.96.0.16:80", want: hopView{"HBONE", "10.0.2.4:15008", "10.96.0.16:80", spiffe("ns1", "wp-by-service"), true}},
		{name: "service-waypoint-by-address", target: "10.96.0.17:80", want: hopView{"HBONE", "10.0.2.1:15008", "10.96.0.17:80", spiffe("ns1", "wp"), true}},
		{name: "service-waypoint-by-vip", target: "10.96.0.20:80", want: hopView{"HBONE", "10.0.2.4:15008", "10.96.0.20:80", spiffe("ns1", "wp-by-service"), true}},
		{name: "account-waypoint", target: "10.96.0.8:80", want: hopView{"HBONE", "10.0.2.5:15008", "10.96.0.8:80", spiffe("ns1", "account-wp"), true}},
		{name: "account-waypoint-direct", target: "10.0.1.7:8080", want: hopView{"HBONE", "10.0.2.5:15008", "10.0.1.7:8080", spiffe("ns1", "account-wp"), true}},
		{name: "account-waypoint-not-ready", target: "10.96.0.9:80", refuse: "no ready instance"},
		{name: "account-waypoint-one-blocked", target: "10.96.0.19:80", want: hopView{"HBONE", "10.0.1.1:15008", "10.0.1.1:8080", spiffe("ns1", "hbone"), false}},
		{name: "by-hostname", target: "10.96.0.10:80", want: hopView{Protocol: "TCP", Addr: "db.example.com:8080"}},
		{name: "service-sans", target: "10.96.0.11:80", want: hopView{"HBONE", "10.0.1.1:15008", "10.0.1.1:8080", spiffe("x", "extra") + "," + spiffe("ns1", "hbone"), false}},
		{name: "service-passthrough", target: "10.96.0.12:80", want: hopView{Protocol: "TCP", Addr: "10.96.0.12:80"}},
		{name: "host-network-address", target: "10.0.9.1:8080", want: hopView{Protocol: "TCP", Addr: "10.0.9.1:8080"}},
		{name: "host-network-service", target: "10.96.0.13:80", want: hopView{"HBONE", "10.0.9.1:15008", "10.0.9.1:8080", spiffe("ns1", "hostnet"), false}},
		{name: "other-network", target: "10.96.0.14:80", refuse: "no healthy upstream"},
		{name: "capacity-zero", target: "10.96.0.15:80", refuse: "no healthy upstream"},
		{name: "endpoint-port-map", target: "10.96.0.18:80", want: hopView{"HBONE", "10.0.1.1:15008", "10.0.1.1:9999", spiffe("ns1", "hbone"), false}},
		{name: "self-call", target: "127.0.0.1:15001", refuse: "recursive"},
		{name: "self-call-v6", target: "[::1]:15008", refuse: "recursive"},
		{name: "loopback-other-port", target: "127.0.0.1:80", want: hopView{Protocol: "TCP", Addr: "127.0.0.1:80"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			src := tt.source
			if src == "" {
				src = "10.0.0.1"
			}
			h, err := DecideOutbound(s, OutboundRequest{
				Source: s.WorkloadAt("", ip(src)), SourceAddr: ip(src), Target: ap(tt.target), Closed: tt.closed,
				Rand: func(uint64) uint64 { return 0 },
			})
			if tt.refuse != "" {
				var r *Refusal
				if !errors.As(err, &r) || !strings.Contains(r.Reason, tt.refuse) {
					t.Fatalf("got hop %+v, error %v; want a refusal that says %q", viewOf(h), err, tt.refuse)
				}
				return
			}
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			if diff := cmp.Diff(tt.want, viewOf(h)); diff != "" {
				t.Errorf("hop (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecideOutboundTried(t *testing.T) {
	a, b, c := pod("ns", "a", "10.0.0.2"), pod("ns", "b", "10.0.0.3"), pod("ns", "c", "10.0.0.1")
	svc := svcOf("ns", "s", "10.96.0.1", a, b)
	wpSvc := svcOf("ns", "w", "10.96.0.2", a)
	wpSvc.Waypoint = wpRef("ns", "wp")
	s := mesh.NewSnapshot(1, mesh.Parts{
		Workloads: []*mesh.Workload{a, b, c}, Services: []*mesh.Service{svc, wpSvc},
		Waypoints: []*mesh.Waypoint{gateway("ns", "wp", "10.0.5.1", "10.0.5.2")},
	})
	for _, target := range []string{"10.96.0.1:80", "10.96.0.2:80"} {
		req := OutboundRequest{Source: c, SourceAddr: ip("10.0.0.1"), Target: ap(target), Rand: func(uint64) uint64 { return 0 }}
		seen := map[netip.AddrPort]bool{}
		for range 2 {
			h, err := DecideOutbound(s, req)
			if err != nil {
				t.Fatalf("%s after %v: %v", target, req.Tried, err)
			}
			if seen[h.Addr] {
				t.Fatalf("%s: %s was chosen again after it failed", target, h.Addr)
			}
			seen[h.Addr] = true
			req.Tried = append(req.Tried, h.Addr)
		}
		if h, err := DecideOutbound(s, req); err == nil {
			t.Errorf("%s: got %s after everything failed, want a refusal", target, h.Addr)
		}
	}
	req := OutboundRequest{Source: c, SourceAddr: ip("10.0.0.1"), Target: ap("9.9.9.9:80"), Tried: []netip.AddrPort{ap("9.9.9.9:80")}}
	if h, err := DecideOutbound(s, req); err == nil {
		t.Errorf("passthrough was tried twice: %+v", h)
	}
}

func TestLocality(t *testing.T) {
	src := pod("ns", "src", "10.0.0.1")
	src.Region, src.Zone, src.Node = "r1", "z1", "n1"
	at := func(name, addr, region, zone, node string) *mesh.Workload {
		w := pod("ns", name, addr)
		w.Region, w.Zone, w.Node = region, zone, node
		return w
	}
	far := at("far", "10.0.1.1", "r2", "z9", "n9")
	region := at("region", "10.0.1.2", "r1", "z2", "n2")
	zone := at("zone", "10.0.1.3", "r1", "z1", "n3")
	node := at("node", "10.0.1.4", "r1", "z1", "n1")
	// The node matches but the region does not: preferences count in order.
	odd := at("odd", "10.0.1.5", "r2", "z1", "n1")
	tests := []struct {
		name  string
		mode  mesh.LocalityMode
		prefs []string
		eps   []*mesh.Workload
		want  string
	}{
		{"none-takes-all", mesh.LocalityNone, nil, []*mesh.Workload{far}, "far"},
		{"failover-nearest", mesh.LocalityFailover, []string{"REGION", "ZONE", "NODE"}, []*mesh.Workload{far, region, zone, node, odd}, "node"},
		{"failover-zone", mesh.LocalityFailover, []string{"REGION", "ZONE", "NODE"}, []*mesh.Workload{far, region, zone, odd}, "zone"},
		{"failover-any", mesh.LocalityFailover, []string{"REGION", "ZONE"}, []*mesh.Workload{far}, "far"},
		{"strict-none", mesh.LocalityStrict, []string{"REGION", "ZONE", "NODE"}, []*mesh.Workload{far, region, zone}, ""},
		{"strict-match", mesh.LocalityStrict, []string{"NODE"}, []*mesh.Workload{far, odd}, "odd"},
		{"strict-network", mesh.LocalityStrict, []string{"NETWORK", "ZONE"}, []*mesh.Workload{far, zone}, "zone"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, w := range tt.eps {
				clear(w.Services)
			}
			svc := svcOf("ns", "s", "10.96.0.1", tt.eps...)
			svc.Locality, svc.RoutingPreferences = tt.mode, tt.prefs
			s := mesh.NewSnapshot(1, mesh.Parts{Workloads: append([]*mesh.Workload{src}, tt.eps...), Services: []*mesh.Service{svc}})
			h, err := DecideOutbound(s, OutboundRequest{Source: src, SourceAddr: ip("10.0.0.1"), Target: ap("10.96.0.1:80"), Rand: func(uint64) uint64 { return 0 }})
			if tt.want == "" {
				if err == nil {
					t.Fatalf("got %s, want a refusal", h.Workload.Name)
				}
				return
			}
			if err != nil || h.Workload.Name != tt.want {
				t.Fatalf("got %+v, %v; want %s", h.Workload, err, tt.want)
			}
		})
	}
}

func TestBalanceByCapacity(t *testing.T) {
	src := pod("ns", "src", "10.0.0.1")
	a, b := pod("ns", "a", "10.0.1.1"), pod("ns", "b", "10.0.1.2")
	b.Capacity = 3
	svc := svcOf("ns", "s", "10.96.0.1", a, b)
	s := mesh.NewSnapshot(1, mesh.Parts{Workloads: []*mesh.Workload{src, a, b}, Services: []*mesh.Service{svc}})
	rnd := newRand(1)
	got := map[string]int{}
	const n = 8000
	for range n {
		h, err := DecideOutbound(s, OutboundRequest{Source: src, SourceAddr: ip("10.0.0.1"), Target: ap("10.96.0.1:80"), Rand: rnd})
		if err != nil {
			t.Fatal(err)
		}
		got[h.Workload.Name]++
	}
	// Binomial: 3 standard deviations around n/4 are about 116.
	if d := got["a"] - n/4; d < -150 || d > 150 {
		t.Errorf("a got %d of %d connections, want about a quarter", got["a"], n)
	}
}

// newRand returns a deterministic random source for the tests.
func newRand(seed uint64) func(uint64) uint64 {
	x := seed
	return func(n uint64) uint64 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		return x % n
	}
}

func BenchmarkDecideOutbound(b *testing.B) {
	src := pod("ns", "src", "10.0.0.1")
	ws := []*mesh.Workload{src}
	for i := range 100 {
		ws = append(ws, pod("ns", fmt.Sprint("w", i), fmt.Sprintf("10.0.1.%d", i)))
	}
	s := mesh.NewSnapshot(1, mesh.Parts{Workloads: ws, Services: []*mesh.Service{svcOf("ns", "s", "10.96.0.1", ws[1:]...)}})
	req := OutboundRequest{Source: src, SourceAddr: ip("10.0.0.1"), Target: ap("10.96.0.1:80"), Rand: newRand(1)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecideOutbound(s, req); err != nil {
			b.Fatal(err)
		}
	}
}
