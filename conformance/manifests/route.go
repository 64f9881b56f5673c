package manifests

import (
	"cmp"
	"fmt"
	"slices"
)

// candidate is one match of a route.
type candidate struct {
	prefix string
	route  string // name of the HTTPRoute
	order  int    // of the match in its route
}

// addRoutes gives each service port its prefixes in the order of precedence
// that Gateway API demands: the longest first, among equals the route that is
// first by name, then the match that stands first. Nothing here has a time of
// creation.
func (o *objects) addRoutes(m *Mesh, at map[serviceKey][]int) error {
	found := map[int][]candidate{}
	for _, r := range o.routes {
		matches, err := r.candidates()
		if err != nil {
			return fmt.Errorf("route %s/%s: %w", r.Metadata.Namespace, r.Metadata.Name, err)
		}
		for _, parent := range r.Spec.ParentRefs {
			ports := slices.DeleteFunc(slices.Clone(at[serviceKey{r.Metadata.Namespace, parent.Name}]), func(i int) bool {
				return parent.Port != 0 && parent.Port != m.Services[i].Addr.Port()
			})
			if parent.Group != "" || parent.Kind != "Service" || len(ports) == 0 {
				return fmt.Errorf("route %s/%s: parent %+v: a Service of its namespace is understood", r.Metadata.Namespace, r.Metadata.Name, parent)
			}
			for _, i := range ports {
				if err := r.leadsTo(m.Services[i]); err != nil {
					return fmt.Errorf("route %s/%s: %w", r.Metadata.Namespace, r.Metadata.Name, err)
				}
				found[i] = append(found[i], matches...)
			}
		}
	}
	for i, matches := range found {
		slices.SortStableFunc(matches, func(a, b candidate) int {
			return cmp.Or(cmp.Compare(len(b.prefix), len(a.prefix)), cmp.Compare(a.route, b.route), cmp.Compare(a.order, b.order))
		})
		for _, c := range matches {
			m.Services[i].Prefixes = append(m.Services[i].Prefixes, c.prefix)
		}
	}
	return nil
}

func (r route) candidates() ([]candidate, error) {
	var all []candidate
	for _, rule := range r.Spec.Rules {
		if len(rule.Matches) == 0 {
			all = append(all, candidate{"/", r.Metadata.Name, len(all)})
		}
		for _, match := range rule.Matches {
			if match.Path.Type != "PathPrefix" {
				return nil, fmt.Errorf("match %+v: PathPrefix is understood", match.Path)
			}
			all = append(all, candidate{match.Path.Value, r.Metadata.Name, len(all)})
		}
	}
	return all, nil
}

// leadsTo checks that every rule's backend is the service port itself.
func (r route) leadsTo(s Service) error {
	for i, rule := range r.Spec.Rules {
		if len(rule.BackendRefs) != 1 {
			return fmt.Errorf("rule %d has %d backends, one is understood", i, len(rule.BackendRefs))
		}
		b := rule.BackendRefs[0]
		if b.Group != "" || (b.Kind != "" && b.Kind != "Service") || b.Name != s.Name || b.Port != s.Addr.Port() {
			return fmt.Errorf("rule %d leads to %+v: the parent itself, %s:%d, is understood", i, b, s.Name, s.Addr.Port())
		}
	}
	return nil
}
