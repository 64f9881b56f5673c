package object

import (
	"reflect"
	"slices"

	"cairnproxy.dev/cairn/mesh"
)

// overlay is a service with policies: its model as it is without, what was laid
// over its ports, and what came of that.
type overlay struct {
	base   *mesh.Service
	layers []any
	out    *mesh.Service
}

// labelMissing is a label that no endpoint has: a subset that is not there has
// no endpoints, where to take all instead would be to ignore the policy.
const labelMissing = "policy.cairnproxy.dev/missing-subset"

// layServices lays policies over the ports of the services that they concern, and
// leaves all others alone.
func (t *translator) layServices() {
	over := map[mesh.ServiceKey]*overlay{}
	for _, s := range t.concerned() {
		if o := t.layService(s); o != nil {
			over[s.model.Key] = o
			t.parts.Services[s.seq] = o.out
		}
	}
	t.past.traffic.over = over
}

// concerned lists the services to which something is attached, in their order.
func (t *translator) concerned() []*service {
	marked := make([]bool, len(t.serviceSeq))
	mark := func(list ...*service) {
		for _, s := range list {
			marked[s.seq] = true
		}
	}
	gateways := false
	for at, c := range t.traffic.claims {
		switch {
		case c.merged == nil:
		case at.kind == "Service":
			mark(t.services[at.name])
		case at.kind == "ServiceEntry":
			mark(t.entry(at.name).hosts...)
		case at.kind == "Gateway":
			gateways = true
		}
	}
	mark(t.ruled()...)
	var out []*service
	for _, s := range t.serviceSeq {
		if marked[s.seq] || gateways && t.gatewayLayer(s) != nil {
			out = append(out, s)
		}
	}
	return out
}

// stack is what is said of one service, or of one of its ports: the later over
// the earlier.
type stack struct{ gateway, rule, constraint, tls, own *policyBody }

// layService lays policies over the ports of s; nil for none.
func (t *translator) layService(s *service) *overlay {
	kind := "Service"
	if s.obj.Kind.Kind == "ServiceEntry" {
		kind = "ServiceEntry"
	}
	dr := t.ruleOf(s)
	old := t.past.traffic.over[s.model.Key]
	if !t.traffic.targets[s.obj.Name] {
		return t.layCommon(s, old, dr)
	}
	all := stack{
		gateway:    t.gatewayLayer(s),
		constraint: t.layer(kindConstraint, kind, s.obj.Name, ""),
		tls:        t.layer(kindBackendTLS, kind, s.obj.Name, ""),
		own:        t.layer(kindTrafficPolicy, kind, s.obj.Name, ""),
	}
	if dr != nil {
		all.rule = dr.all
	}
	layers := []any{all.gateway, all.constraint, all.tls, all.own, dr}
	ports := make([]portStack, len(s.model.Ports))
	for i, p := range s.model.Ports {
		ports[i].number = p.Port
		if p.Name == "" {
			continue
		}
		ports[i].tls = t.layer(kindBackendTLS, kind, s.obj.Name, p.Name)
		ports[i].own = t.layer(kindTrafficPolicy, kind, s.obj.Name, p.Name)
		layers = append(layers, ports[i].tls, ports[i].own)
	}
	subsets := t.subsetsUsed(s, all.own, ports)
	for _, name := range sortedKeys(subsets) {
		layers = append(layers, subsets[name])
	}
	if old != nil && old.base == s.model && slices.Equal(old.layers, layers) {
		return old
	}
	return all.lay(s, old, layers, dr, ports, subsets)
}

// lay lays the stack over the ports of s; nil for nothing said.
func (st *stack) lay(s *service, old *overlay, layers []any, dr *ruleBody, ports []portStack, subsets map[string]*madeSubset) *overlay {
	out := *s.model
	out.Ports = slices.Clone(out.Ports)
	common := st.policies(s, nil, subsets)
	said := false
	for i := range out.Ports {
		p, x := &out.Ports[i], common
		own := &portStack{number: p.Port}
		if ports != nil {
			own = &ports[i]
		}
		if port := dr.port(p.Port); own.tls != nil || own.own != nil || port != nil || len(subsets) > 0 {
			of := *st
			if port != nil {
				of.rule = port
			}
			x = of.policies(s, own, subsets)
		}
		p.Requests, p.Backend = x.requests, x.backend
		said = said || x.requests != nil || x.backend != nil
	}
	switch {
	case !said:
		return nil
	case old != nil && reflect.DeepEqual(old.out, &out):
		return &overlay{s.model, layers, old.out}
	}
	return &overlay{s.model, layers, &out}
}

// layCommon is layService for a service to which nothing is attached itself: there
// may be very many behind a waypoint that has a policy.
func (t *translator) layCommon(s *service, old *overlay, dr *ruleBody) *overlay {
	all := stack{gateway: t.gatewayLayer(s)}
	if dr != nil {
		all.rule = dr.all
	}
	if old != nil && old.base == s.model && len(old.layers) == 2 && old.layers[0] == any(all.gateway) && old.layers[1] == any(dr) {
		return old
	}
	return all.lay(s, old, []any{all.gateway, dr}, dr, nil, nil)
}

// portStack is what is said of one port beside what is said of its service.
type portStack struct {
	number   uint16
	tls, own *policyBody
}

// policies lays a stack together, with what is said of one port over it; nil for
// what ports have in common.
func (st *stack) policies(s *service, port *portStack, subsets map[string]*madeSubset) (out policyBody) {
	if port == nil {
		port = &portStack{}
	}
	rule := []*policyBody{st.rule}
	name := port.own.subsetOver(st.own.subsetOver(""))
	if name != "" {
		if m := subsets[name]; m != nil && m.ports[port.number] != nil {
			rule = []*policyBody{m.ports[port.number]}
		} else if m != nil {
			rule = append(rule, m.all)
		}
	}
	for _, b := range slices.Concat([]*policyBody{st.gateway}, rule, []*policyBody{st.constraint, st.tls, port.tls, st.own, port.own}) {
		if b != nil {
			out.requests, out.backend = b.requests.Over(out.requests), b.backend.Over(out.backend)
		}
	}
	if name != "" {
		labels := map[string]string{labelMissing: name}
		if m := subsets[name]; m != nil {
			labels = m.labels
		}
		out.backend = (&mesh.BackendPolicy{Subset: labels}).Over(out.backend)
	}
	out.backend = namedTLS(s, out.backend)
	return out
}

// subsetOver is the name of the subset that b chooses where more general policies
// have chosen another; "" where there is none, or labels are given instead.
func (b *policyBody) subsetOver(general string) string {
	switch {
	case b == nil:
		return general
	case b.subset != "" || b.backend != nil && len(b.backend.Subset) > 0:
		return b.subset
	}
	return general
}

// subsetsUsed are the subsets of s that its policies name.
func (t *translator) subsetsUsed(s *service, own *policyBody, ports []portStack) map[string]*madeSubset {
	var out map[string]*madeSubset
	add := func(b *policyBody) {
		if b == nil || b.subset == "" {
			return
		}
		if m := t.subset(s, b.subset); m != nil {
			if out == nil {
				out = map[string]*madeSubset{}
			}
			out[b.subset] = m
		}
	}
	add(own)
	for i := range ports {
		add(ports[i].own)
	}
	return out
}

// namedTLS fills in the name of the service where TLS is asked for without one,
// as Istio does.
func namedTLS(s *service, b *mesh.BackendPolicy) *mesh.BackendPolicy {
	if b == nil || b.TLS == nil || b.TLS.SNI != "" {
		return b
	}
	out, tls := *b, *b.TLS
	tls.SNI = s.model.Key.Hostname
	if len(tls.SANs) == 0 {
		tls.SANs = s.model.SubjectAltNames
	}
	if len(tls.SANs) == 0 {
		tls.Hostname = tls.SNI
	}
	out.TLS = &tls
	return &out
}

// gatewayLayer is what is attached to the waypoint that serves s.
func (t *translator) gatewayLayer(s *service) *policyBody {
	if w := s.model.Waypoint; w != nil {
		return t.traffic.gateways[w.Name]
	}
	for _, name := range sortedNames(t.byAccount[s.model.Key]) {
		if b := t.traffic.gateways[name]; b != nil {
			return b
		}
	}
	return nil
}
