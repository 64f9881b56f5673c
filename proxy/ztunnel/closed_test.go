package ztunnel

import (
	"fmt"
	"net/netip"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

// dice reads small numbers from fuzz input, then zeros.
type dice []byte

func (d *dice) roll(n int) int {
	if len(*d) == 0 {
		return 0
	}
	b := (*d)[0]
	*d = (*d)[1:]
	return int(b) % n
}

// anyMesh builds a mesh of a few workloads, services and waypoints that are
// bound to each other in any way, sense or not.
func anyMesh(d *dice) *mesh.Snapshot {
	ref := func() *mesh.WaypointRef {
		switch d.roll(5) {
		case 0:
			return wpRef("ns", fmt.Sprint("wp", d.roll(4)))
		case 1:
			return &mesh.WaypointRef{Service: mesh.ServiceKey{Namespace: "ns", Hostname: fmt.Sprintf("s%d.ns.svc.cluster.local", d.roll(5))}}
		case 2:
			return &mesh.WaypointRef{Address: netip.AddrFrom4([4]byte{10, byte(d.roll(3)), 0, byte(d.roll(6))}), Port: uint16(d.roll(2) * 15008)}
		case 3:
			return &mesh.WaypointRef{} // names nothing
		}
		return nil
	}
	var p mesh.Parts
	for i := range 6 {
		w := pod("ns", fmt.Sprint("w", d.roll(4)), fmt.Sprintf("10.0.0.%d", i))
		w.UID = fmt.Sprint("c//Pod/ns/", i)
		w.Ready, w.Protocol, w.Capacity = d.roll(4) > 0, mesh.TunnelProtocol(d.roll(2)), uint32(d.roll(3))
		w.Waypoint, w.ServiceAccountWaypoint = ref(), d.roll(3) == 0
		w.WaypointOptional, w.IsWaypoint = d.roll(4) == 3, d.roll(8) == 7
		if d.roll(6) == 0 {
			w.Addresses, w.Hostname = nil, "by.name"
		}
		p.Workloads = append(p.Workloads, w)
	}
	for i := range 5 {
		svc := svcOf("ns", fmt.Sprint("s", i), fmt.Sprintf("10.1.0.%d", i), p.Workloads[d.roll(6)], p.Workloads[d.roll(6)])
		svc.Ports = append(svc.Ports, mesh.ServicePort{Port: PortHBONE, TargetPort: uint16(d.roll(2) * PortHBONE)})
		svc.Waypoint, svc.Locality = ref(), mesh.LocalityMode(d.roll(4))
		svc.WaypointOptional = d.roll(4) == 3
		svc.RoutingPreferences = [][]string{nil, {"NETWORK", "ZONE"}, {"NODE", "nonsense"}}[d.roll(3)]
		p.Services = append(p.Services, svc)
	}
	for i := range 3 {
		p.Waypoints = append(p.Waypoints, gateway("ns", fmt.Sprint("wp", i), fmt.Sprintf("10.2.0.%d", i))) // wp3 is unknown
	}
	return mesh.NewSnapshot(1, p)
}

// FuzzFailClosed checks for any mesh what no decision may break: whatever is
// bound to a waypoint goes to that waypoint or nowhere, a hop over HBONE names
// whom it expects, and what was tried is not tried again. And of the other side: nobody but
// its waypoints comes to a pod's port that a bound service exposes, and they all do.
func FuzzFailClosed(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte("the quick brown fox jumps over the lazy dog, and then some more of it, again and again and again"))
	f.Fuzz(func(t *testing.T, in []byte) {
		d := dice(in)
		s := anyMesh(&d)
		src := pod("ns", "outsider", "10.9.9.9")
		for _, v := range s.Services {
			checkHops(t, s, src, netip.AddrPortFrom(v.VIPs[0], 80), func(h Hop) {
				if v.Waypoint != nil && !v.WaypointOptional && !h.Waypoint {
					t.Fatalf("service %s is bound to waypoint %+v, but traffic goes to %+v", v.Key, v.Waypoint, h)
				}
				if w := h.Workload; w != nil && w.ServiceAccountWaypoint && !w.WaypointOptional {
					t.Fatalf("workload %s is bound to its account's waypoint, but traffic goes to %+v", w.UID, h)
				}
				if h.Workload != nil && (!h.Workload.Ready || h.Workload.Capacity == 0) {
					t.Fatalf("workload %s must not get traffic", h.Workload.UID)
				}
			})
		}
		for _, w := range s.Workloads {
			checkInbound(t, s, src, w)
			if len(w.Addresses) == 0 {
				continue
			}
			checkHops(t, s, src, netip.AddrPortFrom(w.Addresses[0], 80), func(h Hop) {
				if w.Waypoint != nil && !w.WaypointOptional && !h.Waypoint {
					t.Fatalf("workload %s is bound to waypoint %+v, but traffic goes to %+v", w.UID, w.Waypoint, h)
				}
			})
		}
	})
}

// checkInbound asks the node proxy of w who may come.
func checkInbound(t *testing.T, s *mesh.Snapshot, src, w *mesh.Workload) {
	t.Helper()
	b := bindingOf(s, w)
	strict, instance := false, w.IsWaypoint
	for key := range w.Services {
		v := s.Service(key)
		for _, id := range waypointIdentities(s, w, v.Waypoint) {
			if r := b.refusal(8080, id); r != nil {
				t.Fatalf("the waypoint of %s comes to %s: %v", key, w.UID, r)
			}
			instance = instance || id == w.Identity()
		}
		strict = strict || v.Waypoint != nil && !v.WaypointOptional
	}
	for _, id := range waypointIdentities(s, w, w.Waypoint) {
		instance = instance || id == w.Identity()
	}
	for _, id := range []mesh.Identity{src.Identity(), {}} {
		if r := b.refusal(8080, id); r == nil && strict && !instance {
			t.Fatalf("%v comes to %s, which is bound", id, w.UID)
		}
	}
}

// checkHops follows the decisions for a target until there is none left.
func checkHops(t *testing.T, s *mesh.Snapshot, src *mesh.Workload, target netip.AddrPort, check func(Hop)) {
	t.Helper()
	req := OutboundRequest{Source: src, SourceAddr: src.Addresses[0], Target: target, Rand: newRand(7)}
	seen := map[string]bool{}
	for range 20 {
		h, err := DecideOutbound(s, req)
		if err != nil {
			return
		}
		key := fmt.Sprint(h.Addr, h.Addr.Port(), h.Hostname)
		if seen[key] {
			t.Fatalf("%s was chosen again after it failed", key)
		}
		seen[key] = true
		if h.Protocol == ProtocolHBONE && (len(h.Expect) == 0 || h.Authority == "") {
			t.Fatalf("a tunnel to anybody: %+v", h)
		}
		check(h)
		req.Tried = append(req.Tried, h.Addr)
	}
	t.Fatalf("%s: there is no end of hops", target)
}
