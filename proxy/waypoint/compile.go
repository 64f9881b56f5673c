package waypoint

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/filters/builtin"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
	"cairnproxy.dev/cairn/router"
	"cairnproxy.dev/cairn/telemetry"
	"cairnproxy.dev/cairn/upstream"
)

// compiler turns a snapshot into a Runtime. What did not change since the
// previous one is used again.
type compiler struct {
	p    *Proxy
	snap *mesh.Snapshot
	prev *Runtime
	rt   *Runtime
}

// compile builds the Runtime for snap. It does not fail: what cannot be
// compiled answers 500, and its neighbours are served.
func (p *Proxy) compile(snap *mesh.Snapshot, prev *Runtime) *Runtime {
	c := &compiler{p: p, snap: snap, prev: prev, rt: &Runtime{
		snapshot: snap, waypoint: snap.Waypoint(p.o.Name),
		services: map[netip.AddrPort]*servicePort{}, hosts: map[hostPort]*servicePort{},
		workloads: map[netip.Addr]*mesh.Workload{}, ports: map[netip.AddrPort]*servicePort{},
		clusters: map[clusterKey]*cluster{}, asked: map[netip.AddrPort]askedPort{},
		id: p.runtimes.Add(1),
	}}
	if c.rt.waypoint == nil {
		return c.rt
	}
	for _, v := range snap.Services {
		if c.serves(v) {
			c.service(v)
		}
	}
	for _, w := range snap.Workloads {
		if w.Waypoint != nil && w.Waypoint.Name == p.o.Name {
			c.workload(w)
		}
	}
	return c.rt
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
func (c *compiler) ours(w *mesh.Workload) bool {
	return w.ServiceAccountWaypoint && w.Waypoint != nil && w.Waypoint.Name == c.p.o.Name
}

func (c *compiler) service(v *mesh.Service) {
	routes := c.snap.Routes(v.Key)
	policies := policy.AttachedTo(c.snap, v, c.rt.waypoint)
	for i := range v.Ports {
		port := &v.Ports[i]
		sp := c.port(v, port, routes, policies)
		for _, a := range v.VIPs {
			c.rt.services[netip.AddrPortFrom(a, port.Port)] = sp
		}
		c.rt.hosts[hostPort{strings.ToLower(v.Key.Hostname), port.Port}] = sp
	}
}

// port compiles one port of a service.
func (c *compiler) port(v *mesh.Service, port *mesh.ServicePort, all []mesh.RouteAttachment, policies []*mesh.AuthorizationPolicy) *servicePort {
	sp := &servicePort{
		service: v, port: port.Port, protocol: port.Protocol, policies: policies,
		authz: policy.CompileL7(policies), labels: telemetry.ServiceLabelsOf(v),
	}
	if !c.serviceChain(sp) {
		return sp
	}
	for _, a := range all {
		if (a.Port == 0 || a.Port == port.Port) && (a.Waypoint == (mesh.Name{}) || a.Waypoint == c.p.o.Name) {
			sp.routes = append(sp.routes, a)
		}
	}
	if len(sp.routes) == 0 {
		sp.fallback = c.direct(v, port.Port)
		return sp
	}
	c.tables(sp)
	if sp.table == nil { // consumers have routes, others reach the service itself
		sp.fallback = c.direct(v, port.Port)
	}
	if sp.protocol == mesh.ProtocolTCP || sp.protocol == mesh.ProtocolTLS || sp.protocol == mesh.ProtocolSniff {
		sp.fallback = c.direct(v, port.Port)
		if sp.protocol == mesh.ProtocolSniff && sp.table != nil {
			sp.tcp = sp.fallback
			sp.fallback = nil // HTTP requests obey the routes: no match is 404
		}
	}
	return sp
}

// tables builds the routes' tables: one for everybody, and one for each
// namespace whose clients have routes of their own, which replace the former
// for them (GEP-1294, consumer routes).
func (c *compiler) tables(sp *servicePort) {
	rules := map[string][]router.Rule[*rule]{}
	for _, a := range sp.routes {
		r := a.Route
		rules[a.ConsumerNamespace] = append(rules[a.ConsumerNamespace],
			router.Rule[*rule]{Object: r.Object, Created: r.Created, Rule: r.Rule, Matches: r.Matches, Value: c.rule(r)})
	}
	for consumer, list := range rules {
		table, errs := router.New(list)
		for _, e := range errs {
			c.problem("%v", e)
		}
		if consumer == "" {
			sp.table = table
			continue
		}
		if sp.consumers == nil {
			sp.consumers = map[string]*router.Table[*rule]{}
		}
		sp.consumers[consumer] = table
	}
}

func (c *compiler) problem(format string, args ...any) {
	c.rt.problems = append(c.rt.problems, fmt.Sprintf(format, args...))
}

// serviceChain builds what precedes routing: authorization. Without it the
// port is closed, to bytes as to requests, and serviceChain reports false.
func (c *compiler) serviceChain(sp *servicePort) bool {
	ch, err := c.chain(sp.authz, nil, filters.LevelService)
	if err != nil {
		sp.authz, sp.fallback = nil, &rule{broken: err.Error()}
		return false
	}
	sp.chain = ch
	return true
}

// chain builds the steps of a rule, of a backend, or of what precedes both.
func (c *compiler) chain(authz *policy.L7, f *mesh.RouteFilters, level filters.Level) (filters.Chain, error) {
	ch, err := filters.Compile(builtin.Specs(builtin.Deps{Policies: authz}), filters.BuildContext{Level: level, Filters: f})
	if err != nil {
		c.problem("%v", err)
	}
	return ch, err
}

// noPolicies lets a rule's chain go without the authorization that has come before it.
var noPolicies = &policy.L7{}

func (c *compiler) rule(r *mesh.Route) *rule {
	ru := &rule{name: r.Object.String() + "/" + ruleName(r), broken: r.Broken, timeout: r.Timeout, backendTimeout: r.BackendTimeout}
	if ru.broken != "" {
		c.problem("HTTPRoute %s rule %s: %s", r.Object, ruleName(r), ru.broken)
		return ru
	}
	var err error
	if ru.chain, err = c.chain(noPolicies, &r.Filters, filters.LevelRule); err != nil {
		ru.broken = err.Error()
	}
	weights := make([]uint32, 0, len(r.Backends))
	for i := range r.Backends {
		weights = append(weights, r.Backends[i].Weight)
		ru.backends = append(ru.backends, c.backend(&r.Backends[i]))
	}
	ru.split = upstream.NewSplit(weights)
	return ru
}

func ruleName(r *mesh.Route) string {
	if r.RuleName != "" {
		return r.RuleName
	}
	return fmt.Sprint(r.Rule)
}

func (c *compiler) backend(b *mesh.Backend) *backend {
	ch, err := c.chain(noPolicies, &b.Filters, filters.LevelBackend)
	out := &backend{broken: b.Broken, chain: ch}
	if err != nil {
		out.broken = err.Error()
	}
	if out.broken != "" {
		return out
	}
	v := c.snap.Service(b.Service)
	switch {
	case v == nil:
		out.broken = "service " + b.Service.String() + " does not exist"
	case v.Port(b.Port) == nil:
		out.broken = fmt.Sprintf("service %s has no port %d", b.Service, b.Port)
	default:
		out.cluster = c.serviceCluster(v, b.Port)
	}
	return out
}

// direct is the rule that sends to a service itself.
func (c *compiler) direct(v *mesh.Service, port uint16) *rule {
	return c.single(c.serviceCluster(v, port))
}

func (c *compiler) single(cl *cluster) *rule {
	return &rule{name: "default", backends: []*backend{{cluster: cl}}, split: upstream.NewSplit([]uint32{1})}
}

// serviceCluster is the cluster of a service port, made once per Runtime.
func (c *compiler) serviceCluster(v *mesh.Service, port uint16) *cluster {
	key := clusterKey{service: v.Key, port: port}
	if cl := c.rt.clusters[key]; cl != nil {
		return cl
	}
	sp := v.Port(port)
	cl := &cluster{
		key: key, protocol: sp.Protocol, service: telemetry.ServiceLabelsOf(v),
		name: fmt.Sprintf("inbound-vip|%d|%s|%s", port, protocolName(sp.Protocol), v.Key.Hostname),
	}
	cl.c = upstream.ForService(c.snap, v, port, upstream.Options{Registry: &c.p.registry, Only: c.only(), Previous: c.previous(key)})
	c.destinations(cl)
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

func (c *compiler) previous(key clusterKey) *upstream.Cluster {
	if c.prev == nil {
		return nil
	}
	if cl := c.prev.clusters[key]; cl != nil {
		return cl.c
	}
	return nil
}

func protocolName(p mesh.AppProtocol) string {
	if p == mesh.ProtocolTCP || p == mesh.ProtocolTLS {
		return "tcp"
	}
	return "http"
}

// destinations joins a cluster's endpoints with our connections to them.
func (c *compiler) destinations(cl *cluster) {
	c.rt.clusters[cl.key] = cl
	cl.dests = make(map[*upstream.Endpoint]*destination, len(cl.c.Endpoints()))
	for _, ep := range cl.c.Endpoints() {
		cl.dests[ep] = c.p.destination(ep)
	}
}

// workload compiles a workload's own address: the ports that a service tells
// the protocol of, and the rest when it is asked for.
func (c *compiler) workload(w *mesh.Workload) {
	policies := policy.AttachedTo(c.snap, nil, c.rt.waypoint)
	ports := map[uint16]mesh.AppProtocol{}
	for key := range w.Services {
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
	for _, a := range w.Addresses {
		c.rt.workloads[a] = w
	}
	for port, proto := range ports {
		sp := c.workloadPort(w, port, proto, policies)
		for _, a := range w.Addresses {
			c.rt.ports[netip.AddrPortFrom(a, port)] = sp
		}
	}
}

func (c *compiler) workloadPort(w *mesh.Workload, port uint16, proto mesh.AppProtocol, policies []*mesh.AuthorizationPolicy) *servicePort {
	sp := &servicePort{workload: w, port: port, protocol: proto, policies: policies, authz: policy.CompileL7(policies)}
	key := clusterKey{workload: w.UID, port: port}
	cl := &cluster{key: key, protocol: proto, name: fmt.Sprintf("inbound-pod|%d||%s", port, w.Name)}
	cl.c = upstream.ForWorkload(c.snap, w, port, upstream.Options{Registry: &c.p.registry, Previous: c.previous(key)})
	c.destinations(cl)
	if c.serviceChain(sp) {
		sp.fallback = c.single(cl)
	}
	return sp
}

// maxAsked bounds the ports that clients make us compile.
const maxAsked = 1024

// find is Runtime.lookup, and compiles ports of our workloads that no service
// tells of when they are asked for.
func (p *Proxy) find(rt *Runtime, dst netip.AddrPort, host string, port uint16) *servicePort {
	if sp := rt.lookup(dst, host, port); sp != nil || !dst.IsValid() {
		return sp
	}
	w := rt.workloads[dst.Addr()]
	if w == nil || dst.Port() == hbonePort {
		return nil
	}
	rt.askedMu.Lock()
	defer rt.askedMu.Unlock()
	a, ok := rt.asked[dst]
	if !ok && len(rt.asked) < maxAsked {
		c := &compiler{p: p, snap: rt.snapshot, rt: &Runtime{snapshot: rt.snapshot, waypoint: rt.waypoint, clusters: map[clusterKey]*cluster{}}}
		a.port = c.workloadPort(w, dst.Port(), mesh.ProtocolSniff, policy.AttachedTo(rt.snapshot, nil, rt.waypoint))
		a.clusters = c.rt.clusters
		rt.asked[dst] = a
	}
	return a.port
}
