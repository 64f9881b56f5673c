package ztunnel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// labelBinding opts out of what this file does.
const labelBinding = "policy.cairnproxy.dev/waypoint-binding"

// binding is who may connect to a workload that waypoints stand before. It is the
// second half of "nothing goes around a waypoint": the client's node proxy sends to the
// waypoint or nowhere (waypointHop), and the workload's own node proxy refuses whoever comes
// another way: a client outside the mesh, one whose node proxy is older or not ours, one that
// dials the pod's address. A nil *binding lets everyone connect.
type binding struct {
	// ports are those that a service exposes and a waypoint stands before.
	ports map[uint16]*demand
	// others is for all other ports, when the workload itself has a waypoint; nil for none.
	others *demand
	// free are the ports to which others does not apply, since a service without a waypoint
	// exposes them: its clients dial the pod, and which address they wanted is not
	// known here.
	free map[uint16]bool
	// lax are the ports, and laxOthers is for all others, of which bindings are permissive: everyone may connect,
	// and it is told who went around the waypoint.
	lax       map[uint16]*demand
	laxOthers *demand
}

// demand is what one port of a workload asks of its peers.
type demand struct {
	strict bool
	// via are the identities of the waypoints, of which the peer must have one. It
	// is empty where none of the waypoints exists.
	via []mesh.Identity
	// instance is true if the workload is itself an instance of one of the waypoints. That
	// it has the identity of one says nothing: a Gateway may be named as an account is.
	instance bool
	// what is bound, and to what, for messages; the first strict one of several.
	what, waypoint string
}

// bindingOf returns what the waypoints of the workload w ask of its peers, nil for
// nothing. Of several services on one port, any one's waypoint will do, and the
// strictest of their labels counts: what comes by another of them meets no policy
// of the first.
//
// A service without an address (headless) asks for nothing: its clients dial the pods,
// which no waypoint of the service ever sees.
func bindingOf(s *mesh.Snapshot, w *mesh.Workload) *binding {
	if w.IsWaypoint {
		return nil
	}
	b := &binding{}
	if w.Waypoint != nil || w.ServiceAccountWaypoint {
		b.others = &demand{}
		b.others.add(s, w, w.Waypoint, !w.WaypointOptional, "workload "+w.Namespace+"/"+w.Name)
	}
	for key, ports := range w.Services {
		if svc := s.Service(key); svc != nil && len(svc.VIPs) > 0 {
			b.addService(s, w, svc, mesh.Endpoint{Workload: w, Ports: ports})
		}
	}
	for port, d := range b.ports {
		// Whoever comes by the workload's own waypoint has met its policies, and a waypoint
		// of the service account is passed whatever service was wanted.
		if o := b.others; o != nil {
			d.via = append(d.via, o.via...)
			d.instance = d.instance || o.instance
			if o.strict && !d.strict && w.ServiceAccountWaypoint {
				d.strict, d.what, d.waypoint = true, o.what, o.waypoint
			}
		}
		if d.instance || !d.strict {
			delete(b.ports, port)
			b.open(port)
			if !d.instance {
				if b.lax == nil {
					b.lax = map[uint16]*demand{}
				}
				b.lax[port] = d
			}
		}
	}
	if o := b.others; o != nil && (o.instance || !o.strict) {
		b.others = nil
		if !o.instance {
			b.laxOthers = o
		}
	}
	if len(b.ports)+len(b.lax) == 0 && b.others == nil && b.laxOthers == nil {
		return nil
	}
	return b
}

func (b *binding) addService(s *mesh.Snapshot, w *mesh.Workload, svc *mesh.Service, ep mesh.Endpoint) {
	for _, p := range svc.Ports {
		port, ok := ep.TargetPort(svc, p.Port)
		switch {
		case !ok:
		case svc.Waypoint == nil:
			if !w.ServiceAccountWaypoint {
				b.open(port)
			}
		default:
			if b.ports == nil {
				b.ports = map[uint16]*demand{}
			}
			d := b.ports[port]
			if d == nil {
				d = &demand{}
				b.ports[port] = d
			}
			d.add(s, w, svc.Waypoint, !svc.WaypointOptional, "service "+svc.Key.String())
		}
	}
}

func (b *binding) open(port uint16) {
	if b.free == nil {
		b.free = map[uint16]bool{}
	}
	b.free[port] = true
}

// add is one more waypoint that may come.
func (d *demand) add(s *mesh.Snapshot, w *mesh.Workload, ref *mesh.WaypointRef, strict bool, what string) {
	if strict && !d.strict || strict == d.strict && (d.what == "" || what < d.what) {
		d.strict, d.what, d.waypoint = strict, what, refString(ref)
		if ref == nil {
			d.waypoint = "of its service account"
		}
	}
	d.instance = d.instance || isInstance(s, w, ref)
	for _, id := range waypointIdentities(s, w, ref) {
		if !slices.Contains(d.via, id) {
			d.via = append(d.via, id)
		}
		// Under another of the mesh's own names it is the same waypoint.
		for _, domain := range s.TrustDomainAliases {
			if other := id; id.TrustDomain == s.TrustDomain {
				if other.TrustDomain = domain; !slices.Contains(d.via, other) {
					d.via = append(d.via, other)
				}
			}
		}
	}
}

// refusal says why a peer may not connect to port; nil when it may.
func (b *binding) refusal(port uint16, peer mesh.Identity) *Refusal {
	if b == nil {
		return nil
	}
	d := b.ports[port]
	if d == nil {
		if d = b.others; d == nil || b.free[port] {
			return nil
		}
	}
	// A peer without an identity is nobody, and equal to no waypoint.
	if !peer.IsZero() && slices.Contains(d.via, peer) {
		return nil
	}
	from := "in plain text"
	if !peer.IsZero() {
		from = "from " + peer.String()
	}
	want := "it has no identity in this mesh: does it exist?"
	if len(d.via) > 0 {
		ids := make([]string, len(d.via))
		for i, id := range d.via {
			ids[i] = id.String()
		}
		slices.Sort(ids)
		want = strings.Join(ids, " or ")
	}
	return refuse(401, flagBinding, "port %d is bound to a waypoint and this connection (%s) did not come through it: %s is bound to waypoint %s (%s); %s",
		port, from, d.what, d.waypoint, want, optOut)
}

// around names the waypoint that a peer who may connect to port went around; "" for none.
func (b *binding) around(port uint16, peer mesh.Identity) string {
	if b == nil {
		return ""
	}
	d := b.lax[port]
	if d == nil {
		if d = b.laxOthers; d == nil || b.free[port] || b.ports[port] != nil {
			return ""
		}
	}
	if !peer.IsZero() && slices.Contains(d.via, peer) {
		return ""
	}
	return d.waypoint
}

// optOut tells how to allow it.
var optOut = fmt.Sprintf("the label %s: permissive allows it", labelBinding)

// isInstance reports whether w, ready or not, is an instance of the waypoint ref.
func isInstance(s *mesh.Snapshot, w *mesh.Workload, ref *mesh.WaypointRef) bool {
	owns := func(a netip.Addr) bool { return slices.Contains(w.Addresses, a) }
	serves := func(svc *mesh.Service) bool {
		if svc == nil {
			return false
		}
		_, ok := w.Services[svc.Key]
		return ok
	}
	gateway := func(wp *mesh.Waypoint) bool {
		return wp != nil && wp.Identity == w.Identity() && slices.ContainsFunc(wp.Addresses, owns)
	}
	switch {
	case ref == nil:
		return false
	case ref.Name != mesh.Name{}:
		return gateway(s.Waypoint(ref.Name))
	case ref.Service != mesh.ServiceKey{}:
		return serves(s.Service(ref.Service))
	}
	return ref.Address.IsValid() && (owns(ref.Address) || gateway(s.WaypointAt(ref.Address)) || serves(s.ServiceAt(w.Network, ref.Address, w.Namespace)))
}

// waypointIdentities returns what instances of the waypoint ref present, ready or
// not, as w sees it.
func waypointIdentities(s *mesh.Snapshot, w *mesh.Workload, ref *mesh.WaypointRef) []mesh.Identity {
	ofService := func(svc *mesh.Service) (ids []mesh.Identity) {
		for _, x := range s.Endpoints(svc.Key) {
			if id := x.Workload.Identity(); !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
		return ids
	}
	switch {
	case ref == nil:
	case ref.Name != mesh.Name{}:
		if wp := s.Waypoint(ref.Name); wp != nil {
			return []mesh.Identity{wp.Identity}
		}
	case ref.Service != mesh.ServiceKey{}:
		if svc := s.Service(ref.Service); svc != nil {
			return ofService(svc)
		}
	case ref.Address.IsValid():
		if wp := s.WaypointAt(ref.Address); wp != nil {
			return []mesh.Identity{wp.Identity}
		}
		if svc := s.ServiceAt(w.Network, ref.Address, w.Namespace); svc != nil {
			return ofService(svc)
		}
		if x := s.WorkloadAt(w.Network, ref.Address); x != nil {
			return []mesh.Identity{x.Identity()}
		}
	}
	return nil
}
