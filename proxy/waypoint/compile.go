package waypoint

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/filters/builtin"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
)

// compiler turns a snapshot into a Runtime. What did not change since the
// previous one is used again.
type compiler struct {
	p        *Proxy
	snap     *mesh.Snapshot
	prev     *Runtime // nil for none
	rt       *Runtime
	policies *policy.Attachments
	general  *policy.L7     // of what has no policies of its own
	source   *mesh.Workload // where we are; nil: not known

	// The indexes of rt in the making.
	services, ports *mesh.IndexEdit[netip.AddrPort, *servicePort]
	hosts           *mesh.IndexEdit[hostPort, *servicePort]
	workloads       *mesh.IndexEdit[netip.Addr, *mesh.Workload]
	clusters        *mesh.IndexEdit[mesh.ServiceKey, []*cluster]
	compiled        *mesh.IndexEdit[mesh.ServiceKey, *compiledService]
	pods            *mesh.IndexEdit[string, *compiledWorkload]
	users           *mesh.IndexEdit[mesh.ServiceKey, []mesh.ServiceKey]

	rules, rulesBefore map[ruleKey]*rule // of this Runtime so far, and of prev's same service

	now     *compiledService             // what is being compiled
	touched map[mesh.ServiceKey]struct{} // whose clusters may be out of use
	fresh   map[mesh.ServiceKey]bool     // services whose clusters of before are out of date
}

// compile builds the Runtime for snap. It does not fail: what cannot be
// compiled answers 500, and its neighbours are served.
func (p *Proxy) compile(snap *mesh.Snapshot, prev *Runtime) *Runtime {
	c := &compiler{p: p, snap: snap, prev: prev, touched: map[mesh.ServiceKey]struct{}{}, rules: map[ruleKey]*rule{}, rt: &Runtime{
		snapshot: snap, waypoint: snap.Waypoint(p.o.Name), asked: map[netip.AddrPort]askedPort{}, id: p.runtimes.Add(1),
	}}
	if c.rt.waypoint == nil {
		return c.rt
	}
	c.rt.heads = headsOf(c.rt.waypoint)
	c.source = c.place()
	c.rt.place = describe(c.source)
	c.policies = policy.NewAttachments(snap, c.rt.waypoint)
	c.rt.policies = c.policies
	if prev != nil && prev.general != nil && prev.policies.Of(nil).Equal(c.policies.Of(nil)) {
		c.general = prev.general
	} else {
		c.general = c.policies.Compile(c.policies.Of(nil))
	}
	c.rt.general = c.general
	if c.follows() {
		if slices.Equal(snap.Access, prev.snapshot.Access) {
			c.rt.routeAuthz = prev.routeAuthz // else what is still in use is taken over
		}
		c.edit(prev)
		c.changes()
	}
	if !c.follows() || c.rt.contested {
		c.edit(&Runtime{})
		c.rules, c.fresh = map[ruleKey]*rule{}, nil
		c.everything()
	}
	c.done()
	return c.rt
}

// follows reports whether prev is near enough for a change of parts: not where
// the waypoint itself, its own policies or the mesh's names are others, nor
// where several objects lay claim to one address, of which the last has it.
func (c *compiler) follows() bool {
	return c.prev != nil && !c.prev.contested && c.rt.likens(c.prev)
}

// likens reports whether what all of a Runtime depends on is the same in rt and
// in prev: the waypoint with its own policies, and the mesh's names.
func (rt *Runtime) likens(prev *Runtime) bool {
	return rt.waypoint != nil && prev.waypoint != nil && rt.terms() == prev.terms() &&
		rt.policies.Of(nil).Equal(prev.policies.Of(nil))
}

// terms are what all of a Runtime depends on.
type terms struct {
	waypoint                                                *mesh.Waypoint
	trustDomain, clusterDomain, rootNamespace, cluster, net string
	place                                                   string
}

func (rt *Runtime) terms() terms {
	s := rt.snapshot
	return terms{rt.waypoint, s.TrustDomain, s.ClusterDomain, s.RootNamespace, s.ClusterID, s.Network, rt.place}
}

// edit begins with the indexes of from.
func (c *compiler) edit(from *Runtime) {
	n := from.compiled.Len()
	if n == 0 {
		n = len(c.snap.Services)
	}
	c.services, c.hosts, c.ports = from.services.Edit(n), from.hosts.Edit(n), from.ports.Edit(from.ports.Len())
	c.workloads, c.pods = from.workloads.Edit(from.workloads.Len()), from.pods.Edit(from.pods.Len())
	c.clusters, c.compiled, c.users = from.clusters.Edit(n), from.compiled.Edit(n), from.users.Edit(from.users.Len())
}

func (c *compiler) done() {
	rt := c.rt
	rt.services, rt.hosts, rt.ports = c.services.Done(), c.hosts.Done(), c.ports.Done()
	rt.workloads, rt.pods = c.workloads.Done(), c.pods.Done()
	rt.clusters, rt.compiled, rt.users = c.clusters.Done(), c.compiled.Done(), c.users.Done()
}

// everything compiles all that is ours.
func (c *compiler) everything() {
	for _, v := range c.snap.Services {
		if c.serves(v) {
			c.service(v)
		}
	}
	for _, w := range c.snap.Workloads {
		if c.bound(w) {
			c.workload(w)
		}
	}
}

// changes compiles what is not as it was in prev's snapshot, and what leads there.
func (c *compiler) changes() {
	old := c.prev.snapshot
	c.fresh = c.snap.ChangedServices(old)
	dirty := map[mesh.ServiceKey]bool{}
	for key := range c.fresh {
		dirty[key] = true
		for _, user := range c.prev.users.At(key) {
			dirty[user] = true
		}
	}
	if !slices.Equal(c.snap.Policies, old.Policies) || !slices.Equal(c.snap.Access, old.Access) || !slices.Equal(c.snap.RequestAuth, old.RequestAuth) {
		for key, cs := range c.prev.compiled.All() {
			if !cs.policies.Equal(c.policies.Of(cs.service)) || c.routePoliciesChanged(cs) {
				dirty[key] = true
			}
		}
	}
	for key := range dirty {
		c.drop(key)
	}
	for key := range c.fresh {
		c.clusters.Delete(key)
	}
	for _, key := range sortedKeys(dirty) {
		if v := c.snap.Service(key); v != nil && c.serves(v) {
			c.service(v)
		}
	}
	c.changedWorkloads(old)
	c.tidy()
}

func sortedKeys(m map[mesh.ServiceKey]bool) []mesh.ServiceKey {
	keys := make([]mesh.ServiceKey, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compareKeys)
	return keys
}

func compareKeys(a, b mesh.ServiceKey) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Hostname, b.Hostname))
}

// changedWorkloads does for workloads what changes does for services. Their ports
// depend on their services.
func (c *compiler) changedWorkloads(old *mesh.Snapshot) {
	dirty := c.snap.ChangedWorkloads(old)
	for uid, cw := range c.prev.pods.All() {
		for key := range cw.workload.Services {
			dirty[uid] = dirty[uid] || c.fresh[key]
		}
	}
	for uid, yes := range dirty {
		if !yes {
			continue
		}
		c.dropWorkload(uid)
		if w := c.snap.Workload(uid); w != nil && c.bound(w) {
			c.workload(w)
		}
	}
}

// serves reports whether traffic to v comes to us: it is bound to us, or one
// of its endpoints runs as the account that we are for.
func (c *compiler) serves(v *mesh.Service) bool {
	if v.Waypoint != nil {
		return v.Waypoint.Name == c.p.o.Name
	}
	if c.rt.waypoint.ForServiceAccount == "" {
		return false
	}
	return slices.ContainsFunc(c.snap.Endpoints(v.Key), func(e mesh.Endpoint) bool { return c.ours(e.Workload) })
}

// ours reports whether the service account waypoint that we are serves w.
func (c *compiler) ours(w *mesh.Workload) bool { return w.ServiceAccountWaypoint && c.bound(w) }

// bound reports whether traffic to w itself comes to us.
func (c *compiler) bound(w *mesh.Workload) bool {
	return w.Waypoint != nil && w.Waypoint.Name == c.p.o.Name
}

// service compiles v and files it under its addresses and its name.
func (c *compiler) service(v *mesh.Service) {
	cs := &compiledService{service: v, policies: c.policies.Of(v)}
	if old, ok := c.compiled.Get(v.Key); ok && old != nil {
		c.rt.contested = true
	}
	c.now, c.rulesBefore = cs, c.before(v.Key)
	routes := c.snap.Routes(v.Key)
	cs.ports = make([]*servicePort, 0, len(v.Ports))
	for i := range v.Ports {
		port := &v.Ports[i]
		sp := c.port(v, port, routes, c.policies.OfPort(v, cs.policies, port.Name))
		cs.ports = append(cs.ports, sp)
		for _, a := range v.VIPs {
			claim(c.rt, c.services, netip.AddrPortFrom(a, port.Port), sp)
		}
		claim(c.rt, c.hosts, hostPort{strings.ToLower(v.Key.Hostname), port.Port}, sp)
	}
	c.compiled.Set(v.Key, cs)
	for _, k := range cs.leads {
		if k != v.Key {
			c.users.Set(k, append(slices.Clip(c.users.At(k)), v.Key))
		}
	}
	c.now = nil
}

// before returns the rules that prev has for a service's routes.
func (c *compiler) before(key mesh.ServiceKey) map[ruleKey]*rule {
	if c.fresh == nil {
		return nil
	}
	cs := c.prev.compiled.At(key)
	if cs == nil {
		return nil
	}
	m := map[ruleKey]*rule{}
	for _, sp := range cs.ports {
		for i, ru := range sp.rules {
			if ru.sound() {
				m[ruleKey{sp.routes[i].Route, sp.requests, ru.authz}] = ru
			}
		}
	}
	return m
}

// claim files v under k, where another may be already.
func claim[K, V comparable](rt *Runtime, e *mesh.IndexEdit[K, V], k K, v V) {
	if old, ok := e.Get(k); ok && old != v {
		rt.contested = true
	}
	e.Set(k, v)
}

// drop forgets a service that was compiled for prev.
func (c *compiler) drop(key mesh.ServiceKey) {
	c.touched[key] = struct{}{}
	cs := c.compiled.At(key)
	if cs == nil {
		return
	}
	for _, sp := range cs.ports {
		for _, a := range cs.service.VIPs {
			c.services.Delete(netip.AddrPortFrom(a, sp.port))
		}
		c.hosts.Delete(hostPort{strings.ToLower(key.Hostname), sp.port})
	}
	c.compiled.Delete(key)
	for _, k := range cs.leads {
		c.touched[k] = struct{}{}
		if list := c.users.At(k); slices.Contains(list, key) {
			list = slices.DeleteFunc(slices.Clone(list), func(u mesh.ServiceKey) bool { return u == key })
			if c.users.Set(k, list); len(list) == 0 {
				c.users.Delete(k)
			}
		}
	}
}

// tidy lets go of clusters that nothing leads to any more.
func (c *compiler) tidy() {
	for key := range c.touched {
		list := c.clusters.At(key)
		used := func(cl *cluster) bool {
			by := func(k mesh.ServiceKey) bool {
				cs := c.compiled.At(k)
				return cs != nil && slices.Contains(cs.uses, cl)
			}
			return by(key) || slices.ContainsFunc(c.users.At(key), by)
		}
		if kept := slices.DeleteFunc(slices.Clone(list), func(cl *cluster) bool { return !used(cl) }); len(kept) == 0 {
			c.clusters.Delete(key)
		} else if len(kept) < len(list) {
			c.clusters.Set(key, kept)
		}
	}
}

// authz compiles policies; those of the waypoint alone, and of several ports together,
// are compiled once.
func (c *compiler) authz(policies policy.Attached) *policy.L7 {
	if policies.Equal(c.policies.Of(nil)) {
		return c.general
	}
	for _, sp := range c.now.ports {
		if sp.policies.Equal(policies) {
			return sp.authz
		}
	}
	return c.policies.Compile(policies)
}

// routeAuthz is what is attached to routes and their rules, compiled. Two of its values with
// the same policies are the same pointer, from one Runtime to the next.
type routeAuthz struct {
	policies []*mesh.AccessPolicy
	set      *policy.L7
}

// routeAuthz returns what is attached to the rule that r is; nil for nothing.
func (c *compiler) routeAuthz(r *mesh.Route) *routeAuthz {
	list := c.policies.OfRoute(r)
	if len(list) == 0 {
		return nil
	}
	key := routeAuthzKey{r.Kind, r.Object, r.RuleName}
	a := c.rt.routeAuthz[key]
	if a == nil {
		if c.prev != nil {
			a = c.prev.routeAuthz[key]
		}
		if a == nil || !slices.Equal(a.policies, list) { // by their pointers
			a = &routeAuthz{list, c.policies.Compile(policy.Attached{Access: list})}
		}
		if c.rt.routeAuthz == nil {
			c.rt.routeAuthz = map[routeAuthzKey]*routeAuthz{}
		}
		c.rt.routeAuthz[key] = a
	}
	return a
}

// routePoliciesChanged reports whether the policies of one of the service's routes are others.
func (c *compiler) routePoliciesChanged(cs *compiledService) bool {
	for _, sp := range cs.ports {
		for i, ru := range sp.rules {
			if ru.authz != c.routeAuthz(sp.routes[i].Route) {
				return true
			}
		}
	}
	return false
}

// serviceChain builds what precedes routing: authorization, and what is asked for
// of the whole port. Without it the port is closed, to bytes as to requests, and serviceChain
// reports false.
func (c *compiler) serviceChain(sp *servicePort) bool {
	if sp.authz.Empty() && sp.requests == nil && len(sp.policies.Tokens) == 0 {
		return true
	}
	ch, err := c.chainOf(sp.authz, sp.policies.Tokens, filters.BuildContext{Level: filters.LevelService, Requests: sp.requests, Service: sp.service, Port: sp.port})
	if err != nil {
		sp.authz, sp.fallback = nil, &rule{broken: err.Error()}
		return false
	}
	sp.chain = ch
	return true
}

// chain builds the steps of a rule, of a backend, or of what precedes both.
func (c *compiler) chain(authz *policy.L7, ctx filters.BuildContext) (filters.Chain, error) {
	return c.chainOf(authz, nil, ctx)
}

func (c *compiler) chainOf(authz *policy.L7, tokens []*mesh.RequestAuthentication, ctx filters.BuildContext) (filters.Chain, error) {
	deps := c.p.deps
	deps.Policies, deps.RequestAuth = authz, tokens
	ch, err := filters.Compile(builtin.Specs(deps), ctx)
	if err != nil {
		c.problem("%v", err)
	}
	return ch, err
}

// noPolicies lets a rule's chain go without the authorization that has come before it.
var noPolicies = &policy.L7{}
