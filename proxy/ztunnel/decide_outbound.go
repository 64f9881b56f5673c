package ztunnel

import (
	"net/netip"
	"slices"

	"cairnproxy.dev/cairn/mesh"
)

// Ports of the node proxy inside a pod's network namespace.
const (
	PortOutbound = 15001
	PortInbound  = 15006 // plain text
	PortHBONE    = 15008
	PortDNS      = 15053
)

// illegalPort reports whether port belongs to the proxy itself, so that a
// connection to it would come back to where it started.
func illegalPort(port uint16) bool {
	return port == PortOutbound || port == PortInbound || port == PortHBONE
}

// Protocol is how a Hop is reached.
type Protocol uint8

const (
	// ProtocolTCP is a plain connection.
	ProtocolTCP Protocol = iota
	// ProtocolHBONE is a CONNECT stream over mutual TLS.
	ProtocolHBONE
)

// String returns the name that the configuration dump uses.
func (p Protocol) String() string {
	if p == ProtocolHBONE {
		return "HBONE"
	}
	return "TCP"
}

// OutboundRequest is what is known of a connection that a pod opened.
type OutboundRequest struct {
	// Source is the workload that dialled.
	Source *mesh.Workload
	// SourceAddr is its address on this connection.
	SourceAddr netip.Addr
	// Target is what it dialled.
	Target netip.AddrPort
	// Closed refuses destinations that the mesh does not know instead of
	// passing them on as plain TCP.
	Closed bool
	// Tried are the hops that already failed for this connection and must not
	// be chosen again.
	Tried []netip.AddrPort
	// Rand returns a number in [0,n). Required.
	Rand func(n uint64) uint64
}

// Hop is where an outbound connection goes next.
type Hop struct {
	Protocol Protocol
	// Addr is the socket to dial. For an endpoint that is known by name only,
	// its address is invalid, Hostname is set and Addr's port is the port.
	Addr     netip.AddrPort
	Hostname string
	// Authority is the CONNECT's :authority; "" for TCP.
	Authority string
	// Expect are the SPIFFE URIs of which the peer must present one.
	Expect []string
	// Service is the service that was addressed, or nil.
	Service *mesh.Service
	// Workload is the destination, or nil when a waypoint will choose it or
	// nothing is known.
	Workload *mesh.Workload
	// Waypoint is true when the hop is a waypoint.
	Waypoint bool
	// Peer is the identity of the hop, zero for plain TCP.
	Peer mesh.Identity
	// Passthrough is true when the connection leaves the mesh as it is.
	Passthrough bool
	// Around names the waypoint that could not be reached and is gone around, as a permissive binding allows.
	Around string
}

// DecideOutbound chooses the next hop for req, or says why there is none (a
// *Refusal). It is a pure function: a caller whose hop could not be reached
// adds it to req.Tried and asks again.
//
// The order is: the addressed service's waypoint; one of its endpoints, or the
// waypoint of that endpoint's service account; the addressed workload's
// waypoint; the workload; the address as it is. A waypoint that cannot be reached
// is not passed by, unless what is bound to it says so (WaypointOptional).
func DecideOutbound(s *mesh.Snapshot, req OutboundRequest) (Hop, error) {
	target := req.Target
	if target.Addr().IsLoopback() && illegalPort(target.Port()) {
		return Hop{}, refuse(0, flagDeny, "attempted recursive call to ourselves: %s", target)
	}
	if svc := s.ServiceAt(req.Source.Network, target.Addr(), req.Source.Namespace); svc != nil {
		return decideService(s, req, svc)
	}
	w := s.WorkloadAt(req.Source.Network, target.Addr())
	if w == nil {
		if req.Closed {
			return Hop{}, refuse(0, flagConnect, "no workload or service has the address %s", target)
		}
		return passthrough(req, nil)
	}
	around := ""
	if w.Waypoint != nil && !waypointHas(s, w.Waypoint, req.Source, req.SourceAddr) {
		h, err := waypointHop(s, req, w.Waypoint, nil)
		if err == nil || !w.WaypointOptional {
			return h, err
		}
		around = refString(w.Waypoint)
	}
	h := directHop(w, target.Addr(), target.Port(), nil)
	h.Around = around
	return once(req, h)
}

func decideService(s *mesh.Snapshot, req OutboundRequest, svc *mesh.Service) (Hop, error) {
	if svc.Waypoint != nil {
		h, err := waypointHop(s, req, svc.Waypoint, svc)
		if err == nil || !svc.WaypointOptional {
			return h, err
		}
		h, err = withoutWaypoint(s, req, svc)
		if !h.Waypoint {
			h.Around = refString(svc.Waypoint)
		}
		return h, err
	}
	return withoutWaypoint(s, req, svc)
}

// withoutWaypoint sends to the service itself.
func withoutWaypoint(s *mesh.Snapshot, req OutboundRequest, svc *mesh.Service) (Hop, error) {
	if svc.Locality == mesh.LocalityPassthrough {
		return passthrough(req, svc)
	}
	if svc.Port(req.Target.Port()) == nil {
		return Hop{}, refuse(0, flagConnect, "service %s has no port %d", svc.Key, req.Target.Port())
	}
	return pickEndpoint(s, req, svc)
}

// passthrough sends the connection where the app wanted it.
func passthrough(req OutboundRequest, svc *mesh.Service) (Hop, error) {
	return once(req, Hop{Protocol: ProtocolTCP, Addr: req.Target, Service: svc, Passthrough: true})
}

// once refuses a hop without alternative that was tried before.
func once(req OutboundRequest, h Hop) (Hop, error) {
	if slices.Contains(req.Tried, h.Addr) {
		return Hop{}, refuse(0, flagConnect, "%s could not be reached", req.Target)
	}
	return h, nil
}

// directHop reaches w itself.
func directHop(w *mesh.Workload, addr netip.Addr, port uint16, svc *mesh.Service) Hop {
	h := Hop{Service: svc, Workload: w}
	if !addr.IsValid() {
		h.Hostname = w.Hostname
	}
	if w.Protocol != mesh.TunnelHBONE {
		h.Addr = netip.AddrPortFrom(addr, port)
		return h
	}
	h.Protocol = ProtocolHBONE
	h.Addr = netip.AddrPortFrom(addr, PortHBONE)
	h.Peer = w.Identity()
	h.Expect = expect(svc, h.Peer)
	h.Authority = netip.AddrPortFrom(addr, port).String()
	return h
}

// expect lists the identities that a peer may present: the addressed
// service's further names, and the peer's own.
func expect(svc *mesh.Service, id mesh.Identity) []string {
	if svc == nil || len(svc.SubjectAltNames) == 0 {
		return []string{id.String()}
	}
	return append(slices.Clone(svc.SubjectAltNames), id.String())
}

// chooseAddr returns the address of w to dial for a connection to original:
// that address itself if w owns it, else the first of its family, else the
// first; invalid when w has none.
func chooseAddr(w *mesh.Workload, original netip.Addr) netip.Addr {
	if slices.Contains(w.Addresses, original) {
		return original
	}
	for _, a := range w.Addresses {
		if a.Is4() == original.Is4() {
			return a
		}
	}
	if len(w.Addresses) > 0 {
		return w.Addresses[0]
	}
	return netip.Addr{}
}
