package up

import (
	"maps"
	"net/netip"
	"slices"

	"cairnproxy.dev/cairn/mesh"
)

// Pods that are gone from the manifests run on for a while (linger), because
// proxies learn of it one after the other, and because requests are under way
// in them. As long as their programs run, their node proxies must know them:
// a workload that is in no snapshot is cut off. So a pod that leaves stays in
// the snapshots until its program has ended, out of its services.
//
// It stays in a service that would have no other pod: where a pod is replaced,
// the new one has yet to start, and for as long the old one is held.

// leave notes the pods that next does not have any more.
func (r *reconciler) leave(next *config) {
	now := map[string]bool{}
	for _, p := range next.pods {
		now[p.key()] = true
		delete(r.leaving, p.key())
	}
	for _, p := range r.pods {
		i := slices.IndexFunc(r.parts.Workloads, func(w *mesh.Workload) bool { return slices.Contains(w.Addresses, p.Address) })
		if !now[p.key()] && i >= 0 {
			r.leaving[p.key()] = r.parts.Workloads[i]
		}
	}
}

// withLeaving adds to the workloads of a snapshot those that leave.
func (r *reconciler) withLeaving(list []*mesh.Workload) []*mesh.Workload {
	taken, served := map[netip.Addr]bool{}, map[mesh.ServiceKey]bool{}
	for _, w := range list {
		for _, a := range w.Addresses {
			taken[a] = true
		}
		for key := range w.Services {
			served[key] = served[key] || w.Ready
		}
	}
	for _, key := range slices.Sorted(maps.Keys(r.leaving)) {
		w := *r.leaving[key]
		if slices.ContainsFunc(w.Addresses, func(a netip.Addr) bool { return taken[a] }) {
			continue // another pod has its address by now
		}
		services, hold := map[mesh.ServiceKey]map[uint16]uint16{}, false
		for name, ports := range w.Services {
			ready, others := served[name]
			if !ready {
				services[name] = ports
			}
			hold = hold || others && !ready
		}
		r.runner.Hold(key, hold)
		w.Services, w.Ready = services, w.Ready && len(services) > 0 && r.runner.Ready(key)
		if !w.Ready {
			w.Services = nil
		}
		list = append(list, &w)
	}
	return list
}
