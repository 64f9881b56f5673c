package waypoint

import (
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/loop"
	"cairnproxy.dev/cairn/upstream"
)

// dest returns our connections to an endpoint of cl.
func (p *Proxy) dest(cl *cluster, ep *upstream.Endpoint) *destination {
	if d := cl.dests[ep.Position()].Load(); d != nil {
		return d
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	slot := &cl.dests[ep.Position()]
	if d := slot.Load(); d != nil {
		return d
	}
	key := cl.destKey(ep)
	d := p.destinations[key]
	if d == nil {
		d = newDestination(p, key, cl, ep)
		if d.retired = cl.dead; !cl.dead {
			p.destinations[key] = d
		}
	}
	if !cl.dead {
		d.users++
	}
	slot.Store(d)
	d.settings.Store(settingsOf(cl.policy))
	return d
}

// destKey is what connections to an endpoint may be shared by: in the mesh who is
// expected there, outside how TLS is spoken, if it is.
func (cl *cluster) destKey(ep *upstream.Endpoint) destKey {
	k := destKey{workload: ep.Workload.UID, authority: ep.Authority(), expect: strings.Join(ep.Expect, ","), tunnelled: ep.Tunnelled()}
	if cl.tls != nil {
		k.expect = cl.tls.digest + cl.protocol.String()
	}
	return k
}

// succeed puts rt in force in old's place; old is nil for the first. What both
// compiled alike goes on, and destinations that nothing leads to any more end.
func (p *Proxy) succeed(old, rt *Runtime) {
	if old == nil {
		p.runtime.Store(rt)
		for cl := range rt.allClusters() {
			p.watch.add(cl.adm)
		}
		return
	}
	old.askedMu.Lock() // nobody asks the old one for another meanwhile
	var gone, fresh []*cluster
	for dst, a := range old.asked {
		if rt.likens(old) && rt.workloads.At(dst.Addr()) == a.port.workload && rt.ports.At(dst) == nil {
			rt.asked[dst] = a
		} else {
			gone = append(gone, a.cluster)
		}
	}
	p.runtime.Store(rt)
	old.over = true
	old.askedMu.Unlock()
	rt.clusters.Differ(&old.clusters, slices.Equal[[]*cluster], func(k mesh.ServiceKey) {
		gone = append(gone, lost(old.clusters.At(k), rt.clusters.At(k))...)
		fresh = append(fresh, lost(rt.clusters.At(k), old.clusters.At(k))...)
	})
	rt.pods.Differ(&old.pods, func(a, b *compiledWorkload) bool { return a == b }, func(uid string) {
		if was := old.pods.At(uid); was != nil {
			gone = append(gone, lost(was.clusters, rt.clustersOf(uid))...)
		}
	})
	p.release(gone, rt)
	for _, cl := range fresh {
		p.watch.add(cl.adm)
	}
}

// lost returns the clusters of old that are not in now.
func lost(old, now []*cluster) []*cluster {
	return slices.DeleteFunc(slices.Clone(old), func(cl *cluster) bool { return slices.Contains(now, cl) })
}

func (rt *Runtime) clustersOf(uid string) []*cluster {
	if cw := rt.pods.At(uid); cw != nil {
		return cw.clusters
	}
	return nil
}

// successor is what rt has in cl's place, or nil.
func (rt *Runtime) successor(cl *cluster) *cluster {
	list := rt.clusters.At(cl.key.service)
	if cl.key.workload != "" {
		list = rt.clustersOf(cl.key.workload)
	}
	return known(list, cl.key, cl.policy)
}

// release ends clusters. Their successors take over the connections.
func (p *Proxy) release(gone []*cluster, rt *Runtime) {
	var ended []*destination
	p.mu.Lock()
	for _, cl := range gone {
		next := rt.successor(cl)
		var places map[destKey]int // of the successor's endpoints
		cl.dead = true
		p.watch.remove(cl.adm)
		if next == nil || next.c != cl.c {
			delete(p.warming, cl.c)
		}
		for i := range cl.dests {
			d := cl.dests[i].Load()
			if d == nil {
				continue
			}
			if places == nil && next != nil {
				places = next.places()
			}
			if at, ok := places[d.key]; ok && next.dests[at].Load() == nil {
				next.dests[at].Store(d)
				d.settings.Store(settingsOf(next.policy))
				d.users++
			}
			if d.users--; d.users == 0 {
				delete(p.destinations, d.key)
				ended = append(ended, d)
			}
		}
	}
	p.mu.Unlock()
	loop.Run(func(t *loop.Turn) {
		for _, d := range ended {
			d.retire(t)
		}
	})
}

// places returns where in cl the destinations have their endpoints.
func (cl *cluster) places() map[destKey]int {
	m := make(map[destKey]int, len(cl.dests))
	for i, ep := range cl.c.Endpoints() {
		m[cl.destKey(ep)] = i
	}
	return m
}
