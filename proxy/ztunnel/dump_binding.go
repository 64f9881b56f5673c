package ztunnel

import (
	"slices"

	"cairnproxy.dev/cairn/mesh"
)

// dumpBindings lists what is bound to a waypoint, whether strictly, and what there is of the
// waypoint: for who asks why traffic is refused. ztunnel has no such list.
func dumpBindings(s *mesh.Snapshot) []any {
	out := []any{}
	for _, v := range s.Services {
		if v.Waypoint != nil {
			out = append(out, dumpBound(s, v.Waypoint, v.WaypointOptional, object{"service": v.Key.String(), "headless": len(v.VIPs) == 0}))
		}
	}
	for _, w := range s.Workloads {
		if w.Waypoint != nil {
			out = append(out, dumpBound(s, w.Waypoint, w.WaypointOptional, object{"workload": w.UID, "forServiceAccount": w.ServiceAccountWaypoint}))
		}
	}
	return out
}

func dumpBound(s *mesh.Snapshot, ref *mesh.WaypointRef, optional bool, o object) object {
	o["waypoint"], o["mode"] = refString(ref), "strict"
	if optional {
		o["mode"] = "permissive"
	}
	ready := 0
	here := &mesh.Workload{Network: s.Network}
	known := waypointInstances(s, here, ref, PortHBONE, func(waypointAt) { ready++ })
	o["known"], o["readyInstances"] = known, ready
	ids := mapSlice(waypointIdentities(s, here, ref), mesh.Identity.String)
	slices.Sort(ids)
	o["identities"] = ids
	return o
}
