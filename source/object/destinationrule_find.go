package object

import (
	"cmp"
	"reflect"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// Which rules are for a service is decided as Istio does for a waypoint: by the
// namespace of the waypoint, else that of the service, else the root namespace; in the
// first that has rules for the host, those for the exact host go before wildcards,
// and longer wildcards before shorter ones. Several for one host are merged: the
// first by age that has a trafficPolicy, and the subsets of all.

// ruleIndex finds the rules for a service.
type ruleIndex struct {
	objects   []*Object // the oldest first
	bodies    map[*Object]*ruleBody
	exact     map[ruleKey][]*ruleBody
	wildcards map[string][]*ruleBody // by namespace; those with the longest host first
	merged    map[groupKey]*ruleGroup
	hosts     map[string][]*service // nil as long as nobody has asked
	made      map[any]madeRule
}

// ruleKey is a host in the namespace of its rules.
type ruleKey struct{ namespace, host string }

// groupKey is a ruleKey as a client's namespace sees it.
type groupKey struct {
	ruleKey
	client string
}

// ruleGroup is what several rules say together.
type ruleGroup struct {
	of     []*ruleBody
	merged *ruleBody
}

// madeRule is what became of a rule in some surroundings.
type madeRule struct {
	in     *surroundings
	origin mesh.Origin
	body   *ruleBody
}

// gatherRules translates the DestinationRules.
func (t *translator) gatherRules(objects []*Object) {
	ix := &t.traffic.rules
	*ix = ruleIndex{
		bodies: map[*Object]*ruleBody{}, exact: map[ruleKey][]*ruleBody{}, wildcards: map[string][]*ruleBody{},
		merged: map[groupKey]*ruleGroup{}, made: map[any]madeRule{},
	}
	ix.objects = oldestFirst(objects, func(o *Object) bool { _, ok := o.Value.(*DestinationRule); return ok })
	for _, o := range ix.objects {
		v := o.Value.(*DestinationRule)
		if v.Spec.WorkloadSelector != nil {
			t.note(o, "workloadSelector chooses sidecars, and a waypoint is none: the rule has no effect")
			continue
		}
		b := t.rememberedRule(o, v)
		if b.invalid && !b.asksForTLS() {
			continue // what it asks for is not in force; one that asks for TLS lets nothing pass
		}
		ix.bodies[o] = b
		if strings.HasPrefix(b.host, "*") {
			ix.wildcards[o.Name.Namespace] = append(ix.wildcards[o.Name.Namespace], b)
		} else {
			key := ruleKey{o.Name.Namespace, b.host}
			ix.exact[key] = append(ix.exact[key], b)
		}
	}
	for _, list := range ix.wildcards {
		slices.SortStableFunc(list, func(a, b *ruleBody) int { return cmp.Compare(len(b.host), len(a.host)) })
	}
}

// rememberedRule translates a rule, or remembers what it was.
func (t *translator) rememberedRule(o *Object, v *DestinationRule) *ruleBody {
	ix := &t.traffic.rules
	old, known := t.past.traffic.rules[v]
	if known && old.in == t.past.policies && old.origin == o.Origin {
		ix.made[v] = old
		return old.body
	}
	said, notices := t.said, len(t.notices)
	b := t.ruleBody(o, v)
	if known && reflect.DeepEqual(old.body, b) {
		b = old.body
	}
	in := t.past.policies
	if !t.quiet(said, notices) {
		in = nil // to be said again
	}
	ix.made[v] = madeRule{in, o.Origin, b}
	return b
}

// ruleOf returns what rules say of the way to s; nil for nothing.
func (t *translator) ruleOf(s *service) *ruleBody {
	ix := &t.traffic.rules
	if len(ix.bodies) == 0 {
		return nil
	}
	client := s.model.Key.Namespace
	if s.model.Waypoint != nil {
		client = s.model.Waypoint.Name.Namespace
	}
	host := s.model.Key.Hostname
	for i, ns := range [...]string{client, s.model.Key.Namespace, t.opts.RootNamespace} {
		if i > 0 && ns == client {
			continue
		}
		if b := t.group(ruleKey{ns, host}, client, ix.exact[ruleKey{ns, host}]); b != nil {
			return b
		}
		for j, w := range ix.wildcards[ns] {
			if !strings.HasSuffix(host, w.host[1:]) || j > 0 && ix.wildcards[ns][j-1].host == w.host {
				continue
			}
			same := ix.wildcards[ns][j:]
			if n := slices.IndexFunc(same, func(b *ruleBody) bool { return b.host != w.host }); n >= 0 {
				same = same[:n]
			}
			if b := t.group(ruleKey{ns, w.host}, client, same); b != nil {
				return b
			}
		}
	}
	return nil
}

// group merges the rules for one host that a client's namespace sees.
func (t *translator) group(key ruleKey, client string, list []*ruleBody) *ruleBody {
	if len(list) == 0 {
		return nil
	}
	if len(list) == 1 {
		if !list[0].visible(key.namespace, client) {
			return nil
		}
		return list[0]
	}
	at := groupKey{key, client}
	if g := t.traffic.rules.merged[at]; g != nil {
		return g.merged
	}
	g := &ruleGroup{}
	for _, b := range list {
		if b.visible(key.namespace, client) {
			g.of = append(g.of, b)
		}
	}
	if old := t.past.traffic.groups[at]; old != nil && slices.Equal(old.of, g.of) {
		g = old
	} else if len(g.of) > 0 {
		g.merged = mergeRules(g.of)
	}
	t.traffic.rules.merged[at] = g
	return g.merged
}

func mergeRules(list []*ruleBody) *ruleBody {
	out := &ruleBody{host: list[0].host, subsets: map[string]*madeSubset{}}
	for _, b := range list {
		if !out.says() {
			out.all, out.ports = b.all, b.ports
		}
		for name, s := range b.subsets {
			if out.subsets[name] == nil {
				out.subsets[name] = s
			}
		}
	}
	return out
}

func (b *ruleBody) says() bool { return b.all != nil || len(b.ports) > 0 }

// visible reports whether a rule of namespace ns is exported to another.
func (b *ruleBody) visible(ns, client string) bool {
	return ns == client || len(b.exportTo) == 0 || slices.Contains(b.exportTo, "*") || slices.Contains(b.exportTo, client)
}

// subset finds a subset of s by its name; nil for none.
func (t *translator) subset(s *service, name string) *madeSubset {
	if b := t.ruleOf(s); b != nil {
		return b.subsets[name]
	}
	return nil
}

// ruled lists the services that there are rules for.
func (t *translator) ruled() []*service {
	ix := &t.traffic.rules
	var out []*service
	if len(ix.wildcards) > 0 {
		for _, s := range t.serviceSeq {
			if t.ruleOf(s) != nil {
				out = append(out, s)
			}
		}
		return out
	}
	for key := range ix.exact {
		out = append(out, t.byHostname(key.host)...)
	}
	return out
}

// byHostname lists the services of that host in all namespaces.
func (t *translator) byHostname(host string) []*service {
	ix := &t.traffic.rules
	if ix.hosts == nil {
		ix.hosts = make(map[string][]*service, len(t.serviceSeq))
		for _, s := range t.serviceSeq {
			ix.hosts[s.model.Key.Hostname] = append(ix.hosts[s.model.Key.Hostname], s)
		}
	}
	return ix.hosts[host]
}

// finishRules says what became of each rule.
func (t *translator) finishRules() {
	ix := &t.traffic.rules
	policies, subsets := map[ruleKey]*Object{}, map[ruleKey]map[string]*Object{}
	for _, o := range ix.objects {
		b := ix.bodies[o]
		if b == nil {
			continue
		}
		t.begin()
		key := ruleKey{o.Name.Namespace, b.host}
		if !t.hostExists(b.host) {
			t.unresolved(o, "spec.host", reasonTargetNotFound, "no Service or ServiceEntry has host %q; %s", clip(b.host), t.hostRemedy(b.host))
		}
		if first := policies[key]; b.says() && first != nil {
			t.unresolved(o, "spec.trafficPolicy", reasonConflicted, "%s, which is older, has a trafficPolicy for host %s already, and this one is not in force; merge the two", first, b.host)
		} else if b.says() {
			policies[key] = o
		}
		for _, name := range sortedKeys(b.subsets) {
			if subsets[key] == nil {
				subsets[key] = map[string]*Object{}
			}
			if first := subsets[key][name]; first != nil {
				t.unresolved(o, "spec.subsets", reasonConflicted, "%s, which is older, has a subset %q of host %s already, and this one is not in force; rename or remove it", first, name, b.host)
				continue
			}
			subsets[key][name] = o
		}
		c := goodCondition(conditionAccepted)
		if len(t.trail) > 0 {
			c = badCondition(conditionAccepted, t.trail[0].reason, t.trail[0].path+": "+t.trail[0].message)
		}
		t.setStatus(o, []mesh.ParentStatus{{
			Parent:     mesh.ParentRef{Group: groupNet, Kind: "Hostname", Name: mesh.Name{Namespace: o.Name.Namespace, Name: b.host}},
			Conditions: []mesh.Condition{c},
		}})
	}
	t.past.traffic.rules, t.past.traffic.groups = ix.made, ix.merged
}

func (t *translator) hostExists(host string) bool {
	if suffix, ok := strings.CutPrefix(host, "*"); ok {
		return slices.ContainsFunc(t.serviceSeq, func(s *service) bool { return strings.HasSuffix(s.model.Key.Hostname, suffix) })
	}
	return len(t.byHostname(host)) > 0
}

// hostRemedy knows the mistake that is made most: NAME.NAMESPACE is not completed.
func (t *translator) hostRemedy(host string) string {
	if full := host + ".svc." + t.opts.ClusterDomain; len(t.byHostname(full)) > 0 {
		return "did you mean " + full + "?"
	}
	return "correct the host or add one"
}
