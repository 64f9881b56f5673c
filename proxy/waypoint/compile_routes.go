package waypoint

import (
	"fmt"
	"iter"
	"slices"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
	"cairnproxy.dev/cairn/router"
	"cairnproxy.dev/cairn/telemetry"
	"cairnproxy.dev/cairn/upstream"
)

// port compiles one port of a service.
func (c *compiler) port(v *mesh.Service, port *mesh.ServicePort, all []mesh.RouteAttachment, policies policy.Attached) *servicePort {
	sp := &servicePort{
		service: v, port: port.Port, protocol: port.Protocol, policies: policies,
		authz: c.authz(policies), labels: telemetry.ServiceLabelsOf(v), requests: port.Requests,
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
		sp.fallback = c.direct(sp)
		sp.told = fieldsToTell(sp)
		return sp
	}
	c.tables(sp)
	sp.told = fieldsToTell(sp)
	if sp.table == nil { // consumers have routes, others reach the service itself
		sp.fallback = c.direct(sp)
	}
	if sp.protocol == mesh.ProtocolTCP || sp.protocol == mesh.ProtocolTLS || sp.protocol == mesh.ProtocolSniff {
		sp.fallback = c.direct(sp)
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
	rules := make(map[string][]router.Rule[*rule], 1)
	var conns []connRoute
	for _, a := range sp.routes {
		r, ru := a.Route, c.sharedRule(ruleKey{a.Route, sp.requests, c.routeAuthz(a.Route)})
		sp.rules = append(sp.rules, ru)
		if r.Kind == mesh.RouteTCP || r.Kind == mesh.RouteTLS {
			conns = append(conns, connRoute{a, ru})
			continue
		}
		rules[a.ConsumerNamespace] = append(rules[a.ConsumerNamespace],
			router.Rule[*rule]{Object: r.Object, Created: r.Created, Rule: r.Rule, Hostnames: r.Hostnames, Matches: r.Matches, Value: ru})
	}
	sp.conns = newConnRoutes(conns)
	for consumer, list := range rules {
		if !slices.ContainsFunc(list, func(r router.Rule[*rule]) bool { return len(r.Hostnames) == 0 }) {
			// Requests for other names find the service as if there were no routes.
			list = append(list, router.Rule[*rule]{Otherwise: true, Value: c.direct(sp)})
		}
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
	if c.now != nil {
		c.now.problems = append(c.now.problems, fmt.Sprintf(format, args...))
	}
}

// ruleKey is what a rule is made of: a route, over what the policies of the service's
// port say. Most ports have none.
type ruleKey struct {
	route *mesh.Route
	port  *mesh.RequestPolicy
	authz *routeAuthz // who may use it; nil: the service's policies alone say so
}

// sharedRule is the rule of r, which all services have in common that its route is
// attached to and whose ports have the same policy, and which is the one of before where
// it would be the same.
func (c *compiler) sharedRule(key ruleKey) *rule {
	r := key.route
	ru := c.rules[key]
	if ru == nil {
		ru = c.rulesBefore[key]
		if ru != nil && c.stale(r) {
			ru = nil
		}
	}
	if ru == nil {
		if ru = c.rule(key); !ru.sound() {
			return ru // it is compiled for each service, to tell each time what is wrong
		}
	}
	for i := range r.Filters.Mirrors {
		c.lead(r.Filters.Mirrors[i].Backend.Service) // also where nothing is there yet
	}
	for b := range ru.targets() {
		c.lead(b.cluster.key.service)
		if !slices.Contains(c.now.uses, b.cluster) {
			c.now.uses = append(c.now.uses, b.cluster)
		}
	}
	c.rules[key] = ru
	return ru
}

// sound reports whether all of the rule can be served.
func (ru *rule) sound() bool {
	return ru.broken == "" && !slices.ContainsFunc(ru.backends, func(b *backend) bool { return b.broken != "" })
}

// lead notes that what is being compiled leads to a service.
func (c *compiler) lead(to mesh.ServiceKey) {
	if !slices.Contains(c.now.leads, to) {
		c.now.leads = append(c.now.leads, to)
	}
}

func (c *compiler) rule(key ruleKey) *rule {
	r, requests := key.route, key.route.Requests.Over(key.port)
	ru := &rule{name: r.Object.String() + "/" + ruleName(r), broken: r.Broken, res: resilienceOf(requests), authz: key.authz}
	authz := noPolicies
	if key.authz != nil {
		authz = key.authz.set
	}
	if ru.broken != "" {
		c.problem("%s %s rule %s: %s", r.Kind, r.Object, ruleName(r), ru.broken)
		return ru
	}
	var err error
	if ru.chain, err = c.chain(authz, filters.BuildContext{Level: filters.LevelRule, Filters: &r.Filters, Requests: requests}); err != nil {
		ru.broken = err.Error()
	}
	weights := make([]uint32, 0, len(r.Backends))
	for i := range r.Backends {
		weights = append(weights, r.Backends[i].Weight)
		ru.backends = append(ru.backends, c.backend(&r.Backends[i]))
	}
	ru.split = upstream.NewSplit(weights)
	ru.session = newSessionRule(requests, key.port, r, ru)
	c.mirrors(ru, r)
	return ru
}

// mirrors compiles where copies of the rule's requests go. One that cannot be reached gets
// none, which the object's status tells; the requests themselves are served.
func (c *compiler) mirrors(ru *rule, r *mesh.Route) {
	for i := range r.Filters.Mirrors {
		m := &r.Filters.Mirrors[i]
		b := c.backend(&m.Backend)
		if b.broken != "" {
			c.problem("%s %s rule %s: mirror: %s", r.Kind, r.Object, ruleName(r), b.broken)
			continue
		}
		if m.Numerator == 0 && m.Denominator > 0 {
			continue // never
		}
		to := &rule{name: ru.name, split: all, backends: []*backend{b}, res: ru.res}
		ru.mirrors = append(ru.mirrors, mirror{rule: to, num: m.Numerator, den: m.Denominator})
	}
}

// targets are the backends of the rule and of its mirrors.
func (ru *rule) targets() iter.Seq[*backend] {
	return func(yield func(*backend) bool) {
		for _, b := range ru.backends {
			if !yield(b) {
				return
			}
		}
		for i := range ru.mirrors {
			if !yield(ru.mirrors[i].rule.backends[0]) {
				return
			}
		}
	}
}

func ruleName(r *mesh.Route) string {
	if r.RuleName != "" {
		return r.RuleName
	}
	return fmt.Sprint(r.Rule)
}

func (c *compiler) backend(b *mesh.Backend) *backend {
	ch, err := c.chain(noPolicies, filters.BuildContext{Level: filters.LevelBackend, Filters: &b.Filters})
	out := &backend{broken: b.Broken, chain: ch}
	if err != nil {
		out.broken = err.Error()
	}
	if out.broken != "" {
		return out
	}
	c.lead(b.Service)
	v := c.snap.Service(b.Service)
	switch {
	case v == nil:
		out.broken = "service " + b.Service.String() + " does not exist"
	case v.Port(b.Port) == nil:
		out.broken = fmt.Sprintf("service %s has no port %d", b.Service, b.Port)
	default:
		out.cluster = c.serviceCluster(v, b.Port, b.Policy)
		out.broken = out.cluster.broken()
	}
	return out
}

// stale reports whether a service that the rule leads to is another than before.
func (c *compiler) stale(r *mesh.Route) bool {
	return slices.ContainsFunc(r.Backends, func(b mesh.Backend) bool { return c.fresh[b.Service] }) ||
		slices.ContainsFunc(r.Filters.Mirrors, func(m mesh.Mirror) bool { return c.fresh[m.Backend.Service] })
}
