package waypoint

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
	"cairnproxy.dev/cairn/telemetry"
	"cairnproxy.dev/cairn/upstream"
)

// direct is the rule that sends to a service itself, under the policy of its port.
func (c *compiler) direct(sp *servicePort) *rule {
	ru := single(c.serviceCluster(sp.service, sp.port, nil))
	if sp.requests == nil {
		return ru
	}
	ru.res = resilienceOf(sp.requests)
	ru.session = newSessionRule(sp.requests, sp.requests, nil, ru)
	var err error
	ru.chain, err = c.chain(noPolicies, filters.BuildContext{Level: filters.LevelRule, Requests: sp.requests, Service: sp.service, Port: sp.port})
	if err != nil {
		ru.broken = err.Error()
	}
	return ru
}

// all is the split of a rule with one backend.
var all = upstream.NewSplit([]uint32{1})

// single is the rule that sends to one cluster: nearly every service has one, so
// its parts are one piece of memory.
func single(cl *cluster) *rule {
	r := &struct {
		rule
		backend
		list [1]*backend
	}{rule: rule{name: "default", split: all}, backend: backend{cluster: cl}}
	r.backend.broken = cl.broken()
	r.list[0] = &r.backend
	r.rule.backends = r.list[:]
	return &r.rule
}

// broken says why nothing may be sent to the cluster, "" for no reason.
func (cl *cluster) broken() string {
	if cl.tls == nil || cl.tls.broken == "" {
		return ""
	}
	return "TLS to its endpoints cannot be set up: " + cl.tls.broken
}

// serviceCluster is the cluster of a service port, or of a backend there that has
// a policy of its own. It is made once per Runtime, and used again for as long as it
// stays the same.
func (c *compiler) serviceCluster(v *mesh.Service, port uint16, own *mesh.BackendPolicy) *cluster {
	key := clusterKey{service: v.Key, port: port, variant: variantOf(own)}
	policy := own.Over(v.Port(port).Backend)
	list := c.clusters.At(v.Key)
	i := slices.IndexFunc(list, func(cl *cluster) bool { return cl.key == key && samePolicy(cl.policy, policy) })
	if i < 0 {
		cl := c.newServiceCluster(v, key, policy)
		list, i = append(slices.Clip(list), cl), len(list)
		c.clusters.Set(v.Key, list)
	}
	if c.now != nil && !slices.Contains(c.now.uses, list[i]) {
		c.now.uses = append(c.now.uses, list[i])
	}
	return list[i]
}

func (c *compiler) newServiceCluster(v *mesh.Service, key clusterKey, policy *mesh.BackendPolicy) *cluster {
	sp := v.Port(key.port)
	old := c.previous(key, policy)
	o := upstream.Options{Registry: &c.p.registry, Only: c.only(), Backend: policy, State: c.stateOf(key, policy), Source: c.source}
	if old != nil {
		o.Previous, o.Now = old.c, time.Now()
	}
	uc := upstream.ForService(c.snap, v, key.port, o)
	if old != nil && old.c == uc && old.protocol == sp.Protocol && samePolicy(old.policy, policy) {
		return old
	}
	kind := protocolName(sp.Protocol)
	if key.variant != "" {
		kind += "/" + key.variant
	}
	cl := &cluster{
		key: key, protocol: sp.Protocol, service: telemetry.ServiceLabelsOf(v), c: uc, policy: policy,
		name: fmt.Sprintf("inbound-vip|%d|%s|%s", key.port, kind, v.Key.Hostname),
	}
	if policy != nil {
		cl.tls = newOriginTLS(policy.TLS, v.Key.Hostname, sp.Protocol)
	}
	cl = c.newCluster(cl)
	c.p.watchWarming(cl)
	return cl
}

// variantOf is what sets a backend's cluster apart from that of its service port:
// the labels of its subset and the names of the policies that it has for itself. It
// stays the same when such a policy is edited, so that what is known of the
// cluster does, too. It is empty for a backend without a policy of its own.
func variantOf(own *mesh.BackendPolicy) string {
	if own == nil || reflect.ValueOf(*own).IsZero() {
		return ""
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(own.Subset)) {
		parts = append(parts, k+"="+own.Subset[k])
	}
	var names []string
	for _, f := range reflect.ValueOf(*own).Fields() {
		if f.Kind() != reflect.Pointer || f.IsNil() {
			continue
		}
		if n, ok := reflect.TypeAssert[mesh.Name](f.Elem().FieldByName("Policy")); ok {
			names = append(names, n.String())
		}
	}
	slices.Sort(names)
	return strings.Join(append(parts, slices.Compact(names)...), ",")
}

// samePolicy reports whether two policies say the same.
func samePolicy(a, b *mesh.BackendPolicy) bool { return a == b || reflect.DeepEqual(a, b) }

// stateOf is the live state of a cluster whose policy needs one; nil otherwise.
func (c *compiler) stateOf(key clusterKey, p *mesh.BackendPolicy) *upstream.ClusterState {
	if p == nil || p.Breaker == nil && p.Budget == nil && p.Outlier == nil && p.Health == nil && p.Concurrency == nil {
		return nil
	}
	return c.p.registry.State(upstream.StateKey{Service: key.service, Workload: key.workload, Port: key.port, Variant: key.variant})
}

// newCluster makes room for cl's connections.
func (c *compiler) newCluster(cl *cluster) *cluster {
	cl.adm = newAdmission(c.p.watch, cl)
	cl.dests = make([]atomic.Pointer[destination], len(cl.c.Endpoints()))
	return cl
}

// only restricts the waypoint of a service account to that account's
// workloads: the node proxies bring it services' traffic, and the services may
// have other endpoints, which have no business here.
func (c *compiler) only() func(*mesh.Workload) bool {
	if c.rt.waypoint.ForServiceAccount == "" {
		return nil
	}
	return c.ours
}

// previous is the cluster that was the same in prev, or nil.
func (c *compiler) previous(key clusterKey, policy *mesh.BackendPolicy) *cluster {
	if c.prev == nil {
		return nil
	}
	list := c.prev.clusters.At(key.service)
	if key.workload != "" {
		list = nil
		if cw := c.prev.pods.At(key.workload); cw != nil {
			list = cw.clusters
		}
	}
	return known(list, key, policy)
}

// known returns the cluster of list that is known by key, if there are several
// the one that has this policy; nil when there is none.
func known(list []*cluster, key clusterKey, policy *mesh.BackendPolicy) (found *cluster) {
	for _, cl := range list {
		if cl.key != key {
			continue
		}
		if samePolicy(cl.policy, policy) {
			return cl
		}
		if found == nil {
			found = cl
		}
	}
	return found
}

func protocolName(p mesh.AppProtocol) string {
	if p == mesh.ProtocolTCP || p == mesh.ProtocolTLS {
		return "tcp"
	}
	return "http"
}

// workload compiles a workload's own address: the ports that a service tells
// the protocol of, and the rest when it is asked for.
func (c *compiler) workload(w *mesh.Workload) {
	ports := map[uint16]mesh.AppProtocol{}
	// In order: where two services lead to one port, the last one has its say.
	for _, key := range slices.SortedFunc(maps.Keys(w.Services), compareKeys) {
		v := c.snap.Service(key)
		if v == nil {
			continue
		}
		for i := range v.Ports {
			if target, ok := upstream.TargetPort(v, w, v.Ports[i].Port); ok {
				ports[target] = v.Ports[i].Protocol
			}
		}
	}
	cw := &compiledWorkload{workload: w}
	for _, a := range w.Addresses {
		claim(c.rt, c.workloads, a, w)
	}
	for port, proto := range ports {
		sp, cl := c.workloadPort(w, port, proto, c.general)
		cw.ports, cw.clusters = append(cw.ports, sp), append(cw.clusters, cl)
		for _, a := range w.Addresses {
			claim(c.rt, c.ports, netip.AddrPortFrom(a, port), sp)
		}
	}
	c.pods.Set(w.UID, cw)
}

// dropWorkload forgets a workload that was compiled for prev.
func (c *compiler) dropWorkload(uid string) {
	cw := c.pods.At(uid)
	if cw == nil {
		return
	}
	c.pods.Delete(uid)
	for _, a := range cw.workload.Addresses {
		c.workloads.Delete(a)
		for _, sp := range cw.ports {
			c.ports.Delete(netip.AddrPortFrom(a, sp.port))
		}
	}
}

func (c *compiler) workloadPort(w *mesh.Workload, port uint16, proto mesh.AppProtocol, authz *policy.L7) (*servicePort, *cluster) {
	sp := &servicePort{workload: w, port: port, protocol: proto, policies: c.policies.Of(nil), authz: authz}
	key := clusterKey{workload: w.UID, port: port}
	old := c.previous(key, nil)
	o := upstream.Options{Registry: &c.p.registry}
	if old != nil {
		o.Previous = old.c
	}
	cl := old
	if uc := upstream.ForWorkload(c.snap, w, port, o); old == nil || old.c != uc || old.protocol != proto {
		cl = c.newCluster(&cluster{key: key, protocol: proto, name: fmt.Sprintf("inbound-pod|%d||%s", port, w.Name), c: uc})
	}
	if c.serviceChain(sp) {
		sp.fallback = single(cl)
	}
	return sp, cl
}

// maxAsked bounds the ports that clients make us compile.
const maxAsked = 1024

// find is Runtime.lookup, and compiles ports of our workloads that no service
// tells of when they are asked for.
func (p *Proxy) find(rt *Runtime, dst netip.AddrPort, host string, port uint16) *servicePort {
	if sp := rt.lookup(dst, host, port); sp != nil || !dst.IsValid() {
		return sp
	}
	w := rt.workloads.At(dst.Addr())
	if w == nil || dst.Port() == hbonePort {
		return nil
	}
	rt.askedMu.Lock()
	defer rt.askedMu.Unlock()
	a, ok := rt.asked[dst]
	if !ok && len(rt.asked) < maxAsked {
		c := &compiler{p: p, snap: rt.snapshot, rt: rt, policies: rt.policies}
		a.port, a.cluster = c.workloadPort(w, dst.Port(), mesh.ProtocolSniff, rt.general)
		a.cluster.dead = rt.over
		rt.asked[dst] = a
	}
	return a.port
}
