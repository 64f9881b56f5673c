package mesh

import "slices"

// Next returns the Snapshot of parts that follows s, whose version is one more.
// It shares with s what is the same, and takes time for what is not: that is told by
// pointer, so parts should name an object that equals one of s by the
// pointer that s has.
func (s *Snapshot) Next(p Parts) *Snapshot {
	if s.byUID.Len() == 0 {
		return NewSnapshot(s.Version+1, p)
	}
	n := begin(s.Version+1, p)
	n.byUID, n.byAddr, n.contested, n.services = s.byUID, s.byAddr, s.contested, s.services
	n.byHost, n.byVIP, n.endpoints, n.routes = s.byHost, s.byVIP, s.endpoints, s.routes
	goneWorkloads, newWorkloads := differ(s.workloadSeq, p.Workloads)
	goneServices, newServices := differ(s.serviceSeq, p.Services)
	n.Workloads = edited(s.Workloads, goneWorkloads, newWorkloads, byWorkloadUID)
	n.Services = edited(s.Services, goneServices, newServices, byServiceKey)
	e := n.edit()
	if !e.changeServices(goneServices, newServices) || !e.changeWorkloads(goneWorkloads, newWorkloads) {
		return NewSnapshot(s.Version+1, p)
	}
	e.endpointsOf(regathered(goneServices, newServices))
	goneRoutes, newRoutes := differ(s.Attachments, p.Attachments)
	if keys := map[ServiceKey]bool{}; len(goneRoutes)+len(newRoutes) > 0 {
		for _, a := range slices.Concat(goneRoutes, newRoutes) {
			keys[a.Service] = true
		}
		e.routesOf(keys)
	}
	e.done()
	return n
}

// Given returns the parts that s was made of, with their lists in the order in
// which they were given. They must not be written to.
func (s *Snapshot) Given() Parts {
	p := s.Parts
	p.Workloads, p.Services = s.workloadSeq, s.serviceSeq
	return p
}

// ChangedServices returns the services that are not the same in s and in old,
// themselves or in their endpoints or routes, if one of the two has them.
func (s *Snapshot) ChangedServices(old *Snapshot) map[ServiceKey]bool {
	keys := map[ServiceKey]bool{}
	add := func(k ServiceKey) { keys[k] = true }
	s.services.Differ(&old.services, func(a, b *Service) bool { return a == b }, add)
	s.endpoints.Differ(&old.endpoints, sameList[Endpoint], add)
	s.routes.Differ(&old.routes, sameList[RouteAttachment], add)
	s.byHost.Differ(&old.byHost, sameList[*Service], func(host string) {
		// Of several services with one key, the index by key knows one.
		gone, added := differ(old.byHost.At(host), s.byHost.At(host))
		for _, v := range slices.Concat(gone, added) {
			add(v.Key)
		}
	})
	return keys
}

// ChangedWorkloads returns the UIDs of the workloads that are not the same in s
// and in old, if one of the two has them.
func (s *Snapshot) ChangedWorkloads(old *Snapshot) map[string]bool {
	uids := map[string]bool{}
	s.byUID.Differ(&old.byUID, func(a, b *Workload) bool { return a == b }, func(uid string) { uids[uid] = true })
	return uids
}

// sameList reports whether both are one piece of memory.
func sameList[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// changeServices takes services out and puts others in. It reports false when it
// cannot: services that share their key with another are for NewSnapshot.
func (e *edit) changeServices(gone, added []*Service) bool {
	for _, v := range gone {
		e.removeService(v)
		if slices.ContainsFunc(e.byHost.At(v.Key.Hostname), func(o *Service) bool { return o.Key == v.Key }) {
			return false
		}
	}
	for _, v := range added {
		if e.services.At(v.Key) != nil {
			return false
		}
		e.addService(v)
	}
	return true
}

// changeWorkloads does the same for workloads, of which none may share its
// UID, nor one that is gone its address, with another.
func (e *edit) changeWorkloads(gone, added []*Workload) bool {
	for _, w := range gone {
		if e.byUID.At(w.UID) != w || !e.removeWorkload(w) {
			return false
		}
	}
	for _, w := range added {
		if e.byUID.At(w.UID) != nil {
			return false
		}
		e.addWorkload(w)
	}
	return true
}

// regathered returns the services whose endpoints may have become others
// without a change of the workloads: those that came or went, or that look at
// readiness otherwise.
func regathered(gone, added []*Service) map[ServiceKey]bool {
	keys := map[ServiceKey]bool{}
	notReady := make(map[ServiceKey]bool, len(gone))
	for _, v := range gone {
		notReady[v.Key] = v.PublishNotReady
		keys[v.Key] = true
	}
	for _, v := range added {
		if was, ok := notReady[v.Key]; ok && was == v.PublishNotReady {
			delete(keys, v.Key)
		} else {
			keys[v.Key] = true
		}
	}
	return keys
}

// differ returns what is only in old and what is only in now. Where most is in the
// same order in both, it looks closely at what stands between what differs first and last.
func differ[T comparable](old, now []T) (gone, added []T) {
	for len(old) > 0 && len(now) > 0 && old[0] == now[0] {
		old, now = old[1:], now[1:]
	}
	for len(old) > 0 && len(now) > 0 && old[len(old)-1] == now[len(now)-1] {
		old, now = old[:len(old)-1], now[:len(now)-1]
	}
	if len(old) == 0 || len(now) == 0 {
		return old, now
	}
	left := make(map[T]int, len(old))
	for _, v := range old {
		left[v]++
	}
	for _, v := range now {
		if left[v] > 0 {
			left[v]--
		} else {
			added = append(added, v)
		}
	}
	for _, v := range old {
		if left[v] > 0 {
			left[v]--
			gone = append(gone, v)
		}
	}
	return gone, added
}

// edited returns list, which is in order, without what is gone and with what is
// added, which it sorts.
func edited[T comparable](list, gone, added []T, order func(a, b T) int) []T {
	if len(gone)+len(added) == 0 {
		return list
	}
	drop := make(map[T]bool, len(gone))
	for _, v := range gone {
		drop[v] = true
	}
	added = slices.SortedFunc(slices.Values(added), order)
	out := make([]T, 0, max(0, len(list)-len(gone))+len(added))
	for _, v := range list {
		if drop[v] {
			continue
		}
		for len(added) > 0 && order(added[0], v) < 0 {
			out, added = append(out, added[0]), added[1:]
		}
		out = append(out, v)
	}
	return append(out, added...)
}
