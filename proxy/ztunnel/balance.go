package ztunnel

import (
	"net/netip"
	"slices"

	"cairnproxy.dev/cairn/mesh"
)

// pickEndpoint chooses among a service's endpoints: the nearest by the
// service's locality rules, of those one at random by capacity. An endpoint
// whose service account has a waypoint stands for that waypoint, and counts
// only while the waypoint can be reached: it is never dialled directly instead.
//
// It looks at each endpoint once and allocates nothing until it has chosen.
func pickEndpoint(s *mesh.Snapshot, req OutboundRequest, svc *mesh.Service) (Hop, error) {
	var (
		best     mesh.Endpoint
		bestPort uint16
		bestRank = -1
		total    uint64
		blocked  error
	)
	endpoints := s.Endpoints(svc.Key)
	for _, ep := range endpoints {
		w := ep.Workload
		port, ok := ep.TargetPort(svc, req.Target.Port())
		if !ok || w.Capacity == 0 || w.Network != req.Source.Network {
			continue
		}
		rank, ok := localityRank(svc, req.Source, w)
		if !ok || rank < bestRank {
			continue
		}
		if err := reachable(s, req, svc, w, port); err != nil {
			blocked = err
			continue
		}
		if rank > bestRank {
			bestRank, total = rank, 0
		}
		total += uint64(w.Capacity)
		if req.Rand(total) < uint64(w.Capacity) {
			best, bestPort = ep, port
		}
	}
	switch {
	case total > 0:
		return endpointHop(s, req, svc, best.Workload, bestPort)
	case blocked != nil:
		return Hop{}, blocked
	case len(endpoints) == 0:
		return Hop{}, refuse(0, flagConnect, "no healthy upstream: %s (service %s has no ready endpoint)", req.Target, svc.Key)
	default:
		return Hop{}, refuse(0, flagConnect, "no healthy upstream: %s (none of service %s's %d endpoints can take it)", req.Target, svc.Key, len(endpoints))
	}
}

// viaAccountWaypoint returns the waypoint that a connection to w through a
// service must pass because w's service account has one, or nil. The
// waypoint's own connections pass.
func viaAccountWaypoint(s *mesh.Snapshot, req OutboundRequest, w *mesh.Workload) *mesh.WaypointRef {
	if !w.ServiceAccountWaypoint || w.Waypoint == nil || waypointHas(s, w.Waypoint, req.Source, req.SourceAddr) {
		return nil
	}
	return w.Waypoint
}

// reachable says why w cannot be chosen; nil when it can.
func reachable(s *mesh.Snapshot, req OutboundRequest, svc *mesh.Service, w *mesh.Workload, port uint16) error {
	if w.ServiceAccountWaypoint && w.Waypoint == nil && !w.WaypointOptional {
		return refuse(0, flagBinding, "workload %s/%s is bound to its service account's waypoint, which is not known; traffic is not passed around it (%s)", w.Namespace, w.Name, optOut)
	}
	if ref := viaAccountWaypoint(s, req, w); ref != nil {
		if _, err := resolveWaypoint(s, req, ref, svc); err == nil || !w.WaypointOptional {
			return err
		}
	}
	if len(req.Tried) == 0 {
		return nil
	}
	addr := chooseAddr(w, req.Target.Addr())
	if w.Protocol == mesh.TunnelHBONE {
		port = PortHBONE
	}
	if slices.Contains(req.Tried, netip.AddrPortFrom(addr, port)) {
		return refuse(0, flagConnect, "no endpoint of service %s could be reached", svc.Key)
	}
	return nil
}

func endpointHop(s *mesh.Snapshot, req OutboundRequest, svc *mesh.Service, w *mesh.Workload, port uint16) (Hop, error) {
	around := ""
	if ref := viaAccountWaypoint(s, req, w); ref != nil {
		h, err := waypointHop(s, req, ref, svc)
		if err == nil || !w.WaypointOptional {
			return h, err
		}
		around = refString(ref)
	}
	addr := chooseAddr(w, req.Target.Addr())
	if !addr.IsValid() && w.Hostname == "" {
		return Hop{}, refuse(0, flagConnect, "workload %s has no address", w.UID)
	}
	h := directHop(w, addr, port, svc)
	h.Around = around
	return h, nil
}

// localityRank counts how many of the service's routing preferences w shares
// with the source, in order and until the first that it does not. ok is false
// for an endpoint that the service's mode rules out. As in ztunnel, a leading
// NETWORK preference counts more than all others together.
func localityRank(svc *mesh.Service, src, w *mesh.Workload) (rank int, ok bool) {
	if svc.Locality != mesh.LocalityFailover && svc.Locality != mesh.LocalityStrict {
		return 0, true
	}
	prefs := svc.RoutingPreferences
	for i, p := range prefs {
		switch {
		case sameScope(p, src, w):
			rank++
			if i == 0 && p == "NETWORK" {
				rank += len(prefs) - 1
			}
			continue
		case i == 0 && p == "NETWORK":
			continue
		}
		break
	}
	full := len(prefs)
	if full > 0 && prefs[0] == "NETWORK" {
		full += len(prefs) - 1
	}
	return rank, svc.Locality != mesh.LocalityStrict || rank == full
}

func sameScope(preference string, a, b *mesh.Workload) bool {
	switch preference {
	case "NETWORK":
		return a.Network == b.Network
	case "REGION":
		return a.Region == b.Region
	case "ZONE":
		return a.Zone == b.Zone
	case "SUBZONE":
		return a.Subzone == b.Subzone
	case "NODE":
		return a.Node == b.Node
	case "CLUSTER":
		return a.ClusterID == b.ClusterID
	default:
		return false
	}
}
