package waypoint

import (
	"cmp"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// connRoutes says where the connections of a port go that are not HTTP: by its
// TCPRoutes and TLSRoutes.
//
//	connection ─► TLSRoutes? ─ClientHello─► exact name ─► longest "*.suffix" ─► any name ─► none: NR
//	                  └ no, or not TLS ─► the TCPRoute ─► none: NR
//
// A TCPRoute matches everything, so of several the oldest has its way (Gateway API's
// rule for conflicts: older, then by namespace and name, then the earlier rule).
type connRoutes struct {
	tcp *rule // nil: none
	tls *serverNames
	// consumers are those of namespaces whose clients have routes of their own.
	consumers map[string]*connRoutes
}

// serverNames is a table of TLSRoutes.
type serverNames struct {
	exact    map[string]*rule
	suffixes map[string]*rule // ".example.com" of "*.example.com"
	any      *rule            // of a route without hostnames
}

// add takes a rule for hostnames; what is there already goes before.
func (s *serverNames) add(hostnames []string, ru *rule) {
	if len(hostnames) == 0 && s.any == nil {
		s.any = ru
	}
	for _, h := range hostnames {
		h, m := strings.ToLower(h), &s.exact
		switch suffix, wild := strings.CutPrefix(h, "*"); {
		case suffix == "" && wild:
			if s.any == nil {
				s.any = ru
			}
			continue
		case wild:
			h, m = suffix, &s.suffixes
		}
		if *m == nil {
			*m = map[string]*rule{}
		}
		if (*m)[h] == nil {
			(*m)[h] = ru
		}
	}
}

// match is the rule for a server name in lower case, or nil. A "*" stands for one
// label or more, as Gateway API has it.
func (s *serverNames) match(name string) *rule {
	if name == "" {
		return s.any
	}
	if ru := s.exact[name]; ru != nil {
		return ru
	}
	if len(s.suffixes) > 0 {
		for i := 1; i < len(name); i++ {
			if name[i] != '.' {
				continue
			}
			if ru := s.suffixes[name[i:]]; ru != nil {
				return ru
			}
		}
	}
	return s.any
}

// connRoute is a TCPRoute's or TLSRoute's rule before it is in a table.
type connRoute struct {
	mesh.RouteAttachment
	rule *rule
}

// newConnRoutes files rules by precedence; nil for none.
func newConnRoutes(list []connRoute) *connRoutes {
	if len(list) == 0 {
		return nil
	}
	slices.SortStableFunc(list, func(a, b connRoute) int {
		x, y := a.Route, b.Route
		return cmp.Or(x.Created.Compare(y.Created), strings.Compare(x.Object.Namespace, y.Object.Namespace),
			strings.Compare(x.Object.Name, y.Object.Name), cmp.Compare(x.Rule, y.Rule))
	})
	all := &connRoutes{}
	for _, a := range list {
		cr := all
		if ns := a.ConsumerNamespace; ns != "" {
			if all.consumers == nil {
				all.consumers = map[string]*connRoutes{}
			}
			if cr = all.consumers[ns]; cr == nil {
				cr = &connRoutes{}
				all.consumers[ns] = cr
			}
		}
		switch {
		case a.Route.Kind == mesh.RouteTLS:
			if cr.tls == nil {
				cr.tls = &serverNames{}
			}
			cr.tls.add(a.Route.Hostnames, a.rule)
		case cr.tcp == nil:
			cr.tcp = a.rule
		}
	}
	return all
}

// of returns the routes for clients of a namespace, or nil.
func (cr *connRoutes) of(namespace string) *connRoutes {
	if cr == nil {
		return nil
	}
	if own := cr.consumers[namespace]; own != nil {
		return own
	}
	if cr.tcp == nil && cr.tls == nil { // others have some
		return nil
	}
	return cr
}
