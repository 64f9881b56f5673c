package object

import (
	"net/netip"
	"reflect"
	"slices"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// past is what a Translator remembers: the surroundings in which services and
// pods were translated. What came of each stands with its object.
type past struct {
	mesh       *surroundings            // namespaces, nodes, gateways and their classes
	namespaces map[string]*surroundings // beside these, a namespace's services
	routing    *surroundings            // all that routes refer to
	routes     map[any]madeRoute        // by the objects' values
	statuses   map[objectKey]*mesh.Status
	policies   *surroundings            // routing, and what policies of traffic refer to
	extensions map[string]*surroundings // a namespace's TrafficPolicies, with what they refer to
	traffic    pastTraffic
	cel        map[celCheck]error
}

// surroundings are objects that the translation of others depends on. Two states
// with the same objects share one pointer.
type surroundings struct{ values []any }

// look compares the objects with those of the last translation.
func (p *past) look(objects []*Object) {
	var all, routing, policies []any
	each := map[string][]any{}
	for _, o := range objects {
		switch o.Value.(type) {
		case *corev1.Namespace, *corev1.Node, *gwv1.Gateway, *gwv1.GatewayClass:
			all, routing = append(all, o.Value), append(routing, o.Value)
		case *serviceObject, *ServiceEntry:
			each[o.Name.Namespace] = append(each[o.Name.Namespace], o.Value)
			routing = append(routing, o.Value)
		case *gwv1.ReferenceGrant:
			routing = append(routing, o.Value)
		case *configMap, *secret:
			policies = append(policies, o.Value)
		}
	}
	if p.routing == nil || !slices.Equal(p.routing.values, routing) {
		p.routing, p.policies = &surroundings{routing}, nil
	}
	if p.policies == nil || !slices.Equal(p.policies.values, policies) {
		p.policies = &surroundings{policies}
	}
	if p.mesh == nil || !slices.Equal(p.mesh.values, all) {
		p.mesh, p.namespaces = &surroundings{all}, nil
	}
	old := p.namespaces
	p.namespaces = make(map[string]*surroundings, len(each))
	for ns, values := range each {
		if s := old[ns]; s != nil && slices.Equal(s.values, values) {
			p.namespaces[ns] = s
		} else {
			p.namespaces[ns] = &surroundings{values}
		}
	}
}

// around returns the surroundings of the pods of a namespace.
func (p *past) around(ns string) *surroundings {
	if s := p.namespaces[ns]; s != nil {
		return s
	}
	return p.mesh
}

// madePod is what became of a pod in some surroundings.
type madePod struct {
	in *surroundings
	w  *mesh.Workload
}

// madeService is what became of a service in some surroundings.
type madeService struct {
	in *surroundings
	s  *service
}

// madeRoute is what became of a route in some surroundings.
type madeRoute struct {
	in      *surroundings
	policy  *surroundings
	origin  mesh.Origin
	created time.Time
	parents []attachedParent
	status  *mesh.Status
}

// remembered returns what was made of p if nothing of it can have changed, else nil.
func (t *translator) remembered(o *Object, p *pod, ready bool, node string) *mesh.Workload {
	made := p.made.Load()
	if made == nil || made.in != t.past.around(o.Name.Namespace) || made.w.Origin != o.Origin {
		return nil
	}
	if w := made.w; w.Ready == (ready && len(w.Addresses) > 0) && w.Node == node {
		return w
	}
	return nil
}

// rememberedService does the same for a service. An address that another has
// taken meanwhile is for the translation to tell of.
func (t *translator) rememberedService(o *Object, v *serviceObject, vips map[netip.Addr]*Object) *service {
	made := v.made.Load()
	allocated := v.address == "" && len(v.addresses) == 0
	if made == nil || made.in != t.past.mesh || made.s.model.Origin != o.Origin || allocated && len(v.ingress) > 0 {
		return nil
	}
	for _, a := range made.s.model.VIPs {
		if vips[a] != nil {
			return nil
		}
	}
	if !allocated {
		for _, a := range made.s.model.VIPs {
			vips[a] = o
		}
	}
	made.s.obj = o
	return made.s
}

// keepPod remembers what became of p, if all is quiet, and returns it: the
// workload made of it in earlier surroundings where that is the same.
func (t *translator) keepPod(o *Object, p *pod, w *mesh.Workload, quiet bool) *mesh.Workload {
	if !quiet || w.IsWaypoint {
		p.made.Store(nil)
		return w
	}
	if old := p.made.Load(); old != nil && source.EqualWorkloads(old.w, w) {
		w = old.w
	}
	p.made.Store(&madePod{t.past.around(o.Name.Namespace), w})
	return w
}

// keepService remembers what became of v.
func (t *translator) keepService(v *serviceObject, s *service) {
	if old := v.made.Load(); old != nil && reflect.DeepEqual(old.s.model, s.model) {
		s.model = old.s.model
	}
	v.made.Store(&madeService{t.past.mesh, s})
}

// translateRoutes attaches the routes to what they name.
func (t *translator) translateRoutes(objects []*Object) {
	routes := make(map[any]madeRoute, len(t.past.routes))
	attached := make([]attachedRoute, 0, len(t.past.routes))
	for _, o := range objects {
		if m, ok := t.past.routes[o.Value]; ok && m.in == t.past.routing && m.policy == t.past.extensions[o.Name.Namespace] && m.origin == o.Origin {
			routes[o.Value] = m
			attached = append(attached, attachedRoute{o, m.created, m.parents})
			t.statuses[objectKey{o.Kind, o.Name}] = m.status
			continue
		}
		r := routeOf(o)
		if r == nil {
			continue
		}
		said, notices := t.said, len(t.notices)
		parents := t.translateRoute(r)
		attached = append(attached, attachedRoute{o, r.created, parents})
		// Whom the waypoint of a service account serves depends on the pods.
		if t.quiet(said, notices) && len(t.accountWps) == 0 {
			routes[o.Value] = madeRoute{t.past.routing, t.past.extensions[o.Name.Namespace], o.Origin, r.created, parents, t.statuses[objectKey{o.Kind, o.Name}]}
		}
	}
	t.past.routes = routes
	t.attachRoutes(attached)
}

// quiet reports whether nothing has been said since: what is said of an object
// must be said again.
func (t *translator) quiet(said, notices int) bool {
	return t.said == said && len(t.notices) == notices
}
