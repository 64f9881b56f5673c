package waypoint

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// ConfigRouteObject is a route that concerns a waypoint: attached to what it serves, or refused there.
type ConfigRouteObject struct {
	Kind      string         `json:"kind"`
	Name      string         `json:"name"`
	Hostnames []string       `json:"hostnames,omitempty"`
	Parents   []ConfigParent `json:"parents,omitempty"`
	Rules     []ConfigRule   `json:"rules,omitempty"`
}

// ConfigParent is what became of a route or a policy at one parent.
type ConfigParent struct {
	Parent     string            `json:"parent"`
	Conditions []ConfigCondition `json:"conditions,omitempty"`
}

// ConfigCondition is a condition as Kubernetes writes it.
type ConfigCondition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
}

// ConfigRule is one rule of a route, in words.
type ConfigRule struct {
	Name    string   `json:"name"`
	Broken  string   `json:"broken,omitempty"`
	Matches []string `json:"matches,omitempty"`
	Filters []string `json:"filters,omitempty"`
	// Ports are where it is attached, with the policy that is in force there for its requests.
	Ports    []ConfigRulePort `json:"ports,omitempty"`
	Backends []ConfigBackend  `json:"backends,omitempty"`
}

// ConfigRulePort is a service's port.
type ConfigRulePort struct {
	Hostname string `json:"hostname"`
	Port     uint16 `json:"port"`
	Consumer string `json:"consumer,omitempty"`
	Policy   string `json:"policy,omitempty"`
}

// ConfigStatus is what became of an object.
type ConfigStatus struct {
	Kind    string         `json:"kind"`
	Name    string         `json:"name"`
	Parents []ConfigParent `json:"parents,omitempty"`
}

func dumpStatuses(s *mesh.Snapshot) []ConfigStatus {
	var out []ConfigStatus
	for _, st := range s.Statuses {
		out = append(out, ConfigStatus{st.Kind, st.Object.String(), dumpParents(st)})
	}
	return out
}

func dumpParents(s *mesh.Status) []ConfigParent {
	var out []ConfigParent
	for i := range s.Parents {
		p := ConfigParent{Parent: s.Parents[i].Parent.String()}
		for _, c := range s.Parents[i].Conditions {
			status := "False"
			if c.True {
				status = "True"
			}
			p.Conditions = append(p.Conditions, ConfigCondition{c.Type, status, c.Reason, c.Message})
		}
		out = append(out, p)
	}
	return out
}

// routeID names a route object.
type routeID struct {
	kind string
	name mesh.Name
}

// dumpRoutes lists the routes that concern rt's waypoint.
func dumpRoutes(rt *Runtime) []ConfigRouteObject {
	type attached struct {
		*servicePort
		consumer string
	}
	ports := map[*mesh.Route][]attached{}
	served := map[mesh.Name]bool{} // services, by the names of their objects
	for _, cs := range rt.compiled.All() {
		served[mesh.Name{Namespace: cs.service.Key.Namespace, Name: cs.service.Name}] = true
		for _, sp := range cs.ports {
			for _, a := range sp.routes {
				ports[a.Route] = append(ports[a.Route], attached{sp, a.ConsumerNamespace})
			}
		}
	}
	objects := map[routeID]*ConfigRouteObject{}
	object := func(id routeID) *ConfigRouteObject {
		if objects[id] == nil {
			objects[id] = &ConfigRouteObject{Kind: id.kind, Name: id.name.String()}
		}
		return objects[id]
	}
	for _, r := range slices.SortedFunc(maps.Keys(ports), func(a, b *mesh.Route) int {
		return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(len(a.Hostnames), len(b.Hostnames)))
	}) {
		o := object(routeID{r.Kind.String(), r.Object})
		if len(r.Hostnames) > 0 {
			o.Hostnames = r.Hostnames
		}
		rule := dumpRule(r)
		for _, a := range ports[r] {
			rule.Ports = append(rule.Ports, ConfigRulePort{a.service.Key.Hostname, a.port, a.consumer, r.Requests.Over(requestsOf(a.service, a.port)).String()})
		}
		slices.SortFunc(rule.Ports, func(a, b ConfigRulePort) int {
			return cmp.Or(strings.Compare(a.Hostname, b.Hostname), cmp.Compare(a.Port, b.Port), strings.Compare(a.Consumer, b.Consumer))
		})
		o.Rules = append(o.Rules, rule)
	}
	for _, s := range rt.snapshot.Statuses {
		if !strings.HasSuffix(s.Kind, "Route") {
			continue
		}
		id := routeID{s.Kind, s.Object}
		concerns := slices.ContainsFunc(s.Parents, func(p mesh.ParentStatus) bool {
			if p.Parent.Kind == "Gateway" {
				return p.Parent.Name == rt.waypoint.Name
			}
			return served[p.Parent.Name]
		})
		if concerns || objects[id] != nil {
			object(id).Parents = dumpParents(s)
		}
	}
	var out []ConfigRouteObject
	for _, o := range objects {
		out = append(out, *o)
	}
	slices.SortFunc(out, func(a, b ConfigRouteObject) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name))
	})
	return out
}

// requestsOf is the policy of a service's port.
func requestsOf(v *mesh.Service, port uint16) *mesh.RequestPolicy {
	if p := v.Port(port); p != nil {
		return p.Requests
	}
	return nil
}

func dumpRule(r *mesh.Route) ConfigRule {
	out := ConfigRule{Name: ruleName(r), Broken: r.Broken, Filters: r.Filters.List()}
	for i := range r.Matches {
		out.Matches = append(out.Matches, r.Matches[i].String())
	}
	for i := range r.Backends {
		out.Backends = append(out.Backends, dumpBackend(&r.Backends[i]))
	}
	return out
}

func dumpBackend(b *mesh.Backend) ConfigBackend {
	out := ConfigBackend{Service: b.Service.String(), Port: b.Port, Weight: b.Weight, Broken: b.Broken, Policy: b.Policy.String(), Filters: b.Filters.List()}
	if b.Service == (mesh.ServiceKey{}) {
		out.Service = "nothing"
	}
	return out
}
