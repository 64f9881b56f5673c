package ztunnel

import (
	"net/netip"

	"cairnproxy.dev/cairn/mesh"
)

// InboundRequest is what a CONNECT says, and the connection it came on.
type InboundRequest struct {
	// Authority as received, for messages.
	Authority string
	// Host and Port are the authority's parts.
	Host string
	Port uint16
	// Dst is the authority when it is an address; invalid when it is a name.
	Dst netip.AddrPort
	// Local is the address that the peer connected to: the pod's.
	Local netip.Addr
}

// DecideInbound says where in the pod of the workload local a CONNECT goes, or
// why it is refused (a *Refusal with the CONNECT's status).
//
// A CONNECT ends in the pod whose address was dialled and nowhere else,
// whatever its authority says: the authority gives the port. It must be the
// pod's own address, the name of a service that the pod serves, or (where the
// pod is a waypoint behind this proxy) an address that the waypoint serves.
func DecideInbound(s *mesh.Snapshot, local *mesh.Workload, req InboundRequest) (netip.AddrPort, error) {
	port := req.Port
	if req.Dst.IsValid() {
		if dst := req.Dst.Addr().Unmap(); dst != req.Local && !servedBy(s, local, dst) {
			return netip.AddrPort{}, refuse(400, flagConnect, "ip mismatch: %s != %s", dst, req.Local)
		}
	} else {
		var err error
		if port, err = namedPort(s, local, req); err != nil {
			return netip.AddrPort{}, err
		}
	}
	if illegalPort(port) {
		return netip.AddrPort{}, refuse(503, flagConnect, "attempted recursive call to ourselves: port %d of %s", port, local.UID)
	}
	if port == 0 {
		return netip.AddrPort{}, refuse(400, flagConnect, "no port in %q", req.Authority)
	}
	return netip.AddrPortFrom(req.Local, port), nil
}

// namedPort translates an authority of the form host:port to the workload's port.
func namedPort(s *mesh.Snapshot, local *mesh.Workload, req InboundRequest) (uint16, error) {
	svc := s.ServiceByHost(req.Host, local.Namespace)
	if svc == nil {
		return 0, refuse(503, flagConnect, "unknown service %q", req.Host)
	}
	ports, ok := local.Services[svc.Key]
	if !ok && !servedByRef(s, local, svc.Waypoint) {
		return 0, refuse(503, flagConnect, "workload %s does not serve %s", local.UID, svc.Key)
	}
	if !ok {
		return req.Port, nil
	}
	port, ok := (mesh.Endpoint{Workload: local, Ports: ports}).TargetPort(svc, req.Port)
	if !ok {
		return 0, refuse(503, flagConnect, "service %s has no port %d on %s", svc.Key, req.Port, local.UID)
	}
	return port, nil
}

// servedBy reports whether local is an instance of the waypoint of the service
// or workload at addr.
func servedBy(s *mesh.Snapshot, local *mesh.Workload, addr netip.Addr) bool {
	if svc := s.ServiceAt(local.Network, addr, local.Namespace); svc != nil {
		return servedByRef(s, local, svc.Waypoint)
	}
	if w := s.WorkloadAt(local.Network, addr); w != nil {
		return servedByRef(s, local, w.Waypoint)
	}
	return false
}

func servedByRef(s *mesh.Snapshot, local *mesh.Workload, ref *mesh.WaypointRef) bool {
	if ref == nil {
		return false
	}
	for _, a := range local.Addresses {
		if waypointHas(s, ref, local, a) {
			return true
		}
	}
	return false
}

// serviceOf returns the service through which a connection to port of the
// workload local came: the one that the client names, if local serves it, else
// the first whose target port it is. It is for telemetry; nil for none.
func serviceOf(s *mesh.Snapshot, local *mesh.Workload, host string, port uint16) *mesh.Service {
	var found *mesh.Service
	for key, ports := range local.Services {
		svc := s.Service(key)
		if svc == nil {
			continue
		}
		if host != "" && key.Hostname == host {
			return svc
		}
		ep := mesh.Endpoint{Workload: local, Ports: ports}
		for _, p := range svc.Ports {
			if t, ok := ep.TargetPort(svc, p.Port); ok && t == port {
				if found == nil || svc.Key.String() < found.Key.String() {
					found = svc
				}
			}
		}
	}
	return found
}
