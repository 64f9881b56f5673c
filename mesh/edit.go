package mesh

import (
	"slices"
	"strings"
)

// edit is a Snapshot whose indexes are being made.
type edit struct {
	s         *Snapshot
	fresh     bool // no list is shared with another Snapshot
	byUID     *IndexEdit[string, *Workload]
	byAddr    *IndexEdit[netAddr, *Workload]
	contested *IndexEdit[netAddr, bool]
	services  *IndexEdit[ServiceKey, *Service]
	byHost    *IndexEdit[string, []*Service]
	byVIP     *IndexEdit[netAddr, []*Service]
	endpoints *IndexEdit[ServiceKey, []Endpoint]
	routes    *IndexEdit[ServiceKey, []RouteAttachment]
}

// edit begins with the indexes that s has.
func (s *Snapshot) edit() *edit {
	workloads, services := len(s.Workloads), len(s.Services)
	return &edit{
		s: s, fresh: s.byUID.Len() == 0, byUID: s.byUID.Edit(workloads), byAddr: s.byAddr.Edit(workloads), contested: s.contested.Edit(0),
		services: s.services.Edit(services), byHost: s.byHost.Edit(services), byVIP: s.byVIP.Edit(services),
		endpoints: s.endpoints.Edit(services), routes: s.routes.Edit(min(services, len(s.Attachments))),
	}
}

func (e *edit) done() {
	s := e.s
	s.byUID, s.byAddr, s.contested = e.byUID.Done(), e.byAddr.Done(), e.contested.Done()
	s.services, s.byHost, s.byVIP = e.services.Done(), e.byHost.Done(), e.byVIP.Done()
	s.endpoints, s.routes = e.endpoints.Done(), e.routes.Done()
}

// addService files v, behind the services that come before it in order.
func (e *edit) addService(v *Service) {
	if old := e.services.At(v.Key); old == nil || (v.Canonical && !old.Canonical) {
		e.services.Set(v.Key, v)
	}
	e.byHost.Set(v.Key.Hostname, with(e, e.byHost.At(v.Key.Hostname), v, byServiceKey))
	for _, a := range v.VIPs {
		k := netAddr{v.Network, a}
		e.byVIP.Set(k, with(e, e.byVIP.At(k), v, byServiceKey))
	}
}

func (e *edit) removeService(v *Service) {
	if e.services.At(v.Key) == v {
		e.services.Delete(v.Key)
	}
	setOrDelete(e.byHost, v.Key.Hostname, without(e.byHost.At(v.Key.Hostname), v))
	for _, a := range v.VIPs {
		k := netAddr{v.Network, a}
		setOrDelete(e.byVIP, k, without(e.byVIP.At(k), v))
	}
}

// addWorkload files w. Services must be there before.
func (e *edit) addWorkload(w *Workload) {
	e.byUID.Set(w.UID, w)
	if !w.HostNetwork {
		for _, a := range w.Addresses {
			k := netAddr{w.Network, a}
			old := e.byAddr.At(k)
			if old != nil {
				e.contested.Set(k, true)
			}
			if old == nil || before(w, old) {
				e.byAddr.Set(k, w)
			}
		}
	}
	for key, ports := range w.Services {
		if v := e.services.At(key); v != nil && (w.Ready || v.PublishNotReady) {
			e.endpoints.Set(key, with(e, e.endpoints.At(key), Endpoint{Workload: w, Ports: ports}, byEndpointUID))
		}
	}
}

// removeWorkload is the reverse; it reports false where another workload may have a
// claim on w's address.
func (e *edit) removeWorkload(w *Workload) bool {
	e.byUID.Delete(w.UID)
	if !w.HostNetwork {
		for _, a := range w.Addresses {
			k := netAddr{w.Network, a}
			if e.contested.At(k) {
				return false
			}
			e.byAddr.Delete(k)
		}
	}
	for key := range w.Services {
		old := e.endpoints.At(key)
		if i := slices.IndexFunc(old, func(x Endpoint) bool { return x.Workload == w }); i >= 0 {
			setOrDelete(e.endpoints, key, slices.Concat(old[:i], old[i+1:]))
		}
	}
	return true
}

// endpointsOf finds the endpoints of these services among all workloads, anew.
func (e *edit) endpointsOf(keys map[ServiceKey]bool) {
	if len(keys) == 0 {
		return
	}
	found := map[ServiceKey][]Endpoint{}
	for _, w := range e.s.Workloads {
		for key, ports := range w.Services {
			if !keys[key] {
				continue
			}
			if v := e.services.At(key); v != nil && (w.Ready || v.PublishNotReady) {
				found[key] = append(found[key], Endpoint{Workload: w, Ports: ports})
			}
		}
	}
	for key := range keys {
		setOrDelete(e.endpoints, key, found[key])
	}
}

// routesOf gathers what is attached to these services; nil means all.
func (e *edit) routesOf(keys map[ServiceKey]bool) {
	found := map[ServiceKey][]RouteAttachment{}
	for _, a := range e.s.Attachments {
		if keys == nil || keys[a.Service] {
			found[a.Service] = append(found[a.Service], a)
		}
	}
	for key := range keys {
		e.routes.Delete(key)
	}
	for key, list := range found {
		e.routes.Set(key, slices.Clip(list))
	}
}

func byEndpointUID(a, b Endpoint) int { return strings.Compare(a.Workload.UID, b.Workload.UID) }

// with returns list, which is in order and may be shared, with v in its place:
// behind those that equal it.
func with[T any](e *edit, list []T, v T, order func(a, b T) int) []T {
	if !e.fresh {
		list = slices.Clip(list) // what stands behind its end may be another's
	}
	if n := len(list); n == 0 || order(list[n-1], v) <= 0 {
		return append(list, v)
	}
	i, _ := slices.BinarySearchFunc(list, v, func(a, b T) int {
		if order(a, b) <= 0 {
			return -1
		}
		return 1
	})
	return slices.Insert(slices.Clone(list), i, v)
}

// without returns list without v, in memory of its own.
func without[T comparable](list []T, v T) []T {
	i := slices.Index(list, v)
	if i < 0 {
		return list
	}
	return slices.Concat(list[:i], list[i+1:])
}

func setOrDelete[K comparable, T any](e *IndexEdit[K, []T], k K, list []T) {
	if len(list) == 0 {
		e.Delete(k)
	} else {
		e.Set(k, list)
	}
}
