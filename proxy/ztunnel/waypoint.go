package ztunnel

import (
	"net/netip"
	"slices"

	"cairnproxy.dev/cairn/mesh"
)

// waypointAt is one instance of a waypoint that may be dialled.
type waypointAt struct {
	addr netip.AddrPort
	id   mesh.Identity
}

// waypointHop sends req to the waypoint ref, to which what was addressed is bound: a
// workload or, if svc is not nil, that service. A waypoint that is unknown or has no instance
// left to try is a refusal; whether there is a way around it is for the caller to know.
func waypointHop(s *mesh.Snapshot, req OutboundRequest, ref *mesh.WaypointRef, svc *mesh.Service) (Hop, error) {
	at, err := resolveWaypoint(s, req, ref, svc)
	if err != nil {
		return Hop{}, err
	}
	return Hop{
		Protocol:  ProtocolHBONE,
		Addr:      at.addr,
		Authority: req.Target.String(),
		Expect:    expect(svc, at.id),
		Service:   svc,
		Workload:  nil,
		Waypoint:  true,
		Peer:      at.id,
	}, nil
}

// resolveWaypoint chooses one instance of the waypoint ref that was not tried.
func resolveWaypoint(s *mesh.Snapshot, req OutboundRequest, ref *mesh.WaypointRef, svc *mesh.Service) (waypointAt, error) {
	port := ref.Port
	if port == 0 {
		port = PortHBONE
	}
	var p instancePick
	p.req = &req
	known := waypointInstances(s, req.Source, ref, port, p.offer)
	if p.n > 0 {
		return p.best, nil
	}
	why := "has no ready instance"
	if !known {
		why = "is not known"
	} else if p.tried {
		why = "could not be reached"
	}
	what := "workload " + req.Target.Addr().String()
	if svc != nil {
		what = "service " + svc.Key.String()
	}
	return waypointAt{}, refuse(0, flagBinding, "waypoint %s, to which %s is bound, %s; traffic is not passed around it (%s)", refString(ref), what, why, optOut)
}

// instancePick keeps one of the instances that it is offered, each with the
// same chance.
type instancePick struct {
	req   *OutboundRequest
	best  waypointAt
	n     uint64
	tried bool
}

func (p *instancePick) offer(at waypointAt) {
	if slices.Contains(p.req.Tried, at.addr) {
		p.tried = true
		return
	}
	p.n++
	if p.req.Rand(p.n) == 0 {
		p.best = at
	}
}

// waypointInstances yields the ready instances of the waypoint ref, as src sees
// it, and reports whether the waypoint is known at all.
func waypointInstances(s *mesh.Snapshot, src *mesh.Workload, ref *mesh.WaypointRef, port uint16, yield func(waypointAt)) bool {
	switch {
	case ref.Name != mesh.Name{}:
		return gatewayInstances(s, src, s.Waypoint(ref.Name), port, yield)
	case ref.Service != mesh.ServiceKey{}:
		return serviceInstances(s, s.Service(ref.Service), port, yield)
	case ref.Address.IsValid():
		if wp := s.WaypointAt(ref.Address); wp != nil {
			return gatewayInstances(s, src, wp, port, yield)
		}
		if svc := s.ServiceAt(src.Network, ref.Address, src.Namespace); svc != nil {
			return serviceInstances(s, svc, port, yield)
		}
		w := s.WorkloadAt(src.Network, ref.Address)
		if w != nil && w.Ready {
			yield(waypointAt{netip.AddrPortFrom(ref.Address, port), w.Identity()})
		}
		return w != nil
	}
	return false
}

func gatewayInstances(s *mesh.Snapshot, src *mesh.Workload, wp *mesh.Waypoint, port uint16, yield func(waypointAt)) bool {
	if wp == nil {
		return false
	}
	if wp.Port != 0 {
		port = wp.Port
	}
	for _, a := range wp.Addresses {
		if w := s.WorkloadAt(src.Network, a); w == nil || w.Ready {
			yield(waypointAt{netip.AddrPortFrom(a, port), wp.Identity})
		}
	}
	return true
}

func serviceInstances(s *mesh.Snapshot, svc *mesh.Service, port uint16, yield func(waypointAt)) bool {
	if svc == nil {
		return false
	}
	for _, ep := range s.Endpoints(svc.Key) {
		t, ok := ep.TargetPort(svc, port)
		if !ok || len(ep.Workload.Addresses) == 0 || ep.Workload.Capacity == 0 {
			continue
		}
		yield(waypointAt{netip.AddrPortFrom(ep.Workload.Addresses[0], t), ep.Workload.Identity()})
	}
	return true
}

// waypointHas reports whether the client src at addr is an instance of the
// waypoint ref: the waypoint's own traffic must not be sent to it again.
func waypointHas(s *mesh.Snapshot, ref *mesh.WaypointRef, src *mesh.Workload, addr netip.Addr) bool {
	id, found := src.Identity(), false
	waypointInstances(s, src, ref, PortHBONE, func(at waypointAt) {
		found = found || (at.id == id && at.addr.Addr() == addr)
	})
	return found
}

func refString(ref *mesh.WaypointRef) string {
	switch {
	case ref == nil:
		return ""
	case ref.Name != mesh.Name{}:
		return ref.Name.String()
	case ref.Service != mesh.ServiceKey{}:
		return ref.Service.String()
	}
	return ref.Address.String()
}
