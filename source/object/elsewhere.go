package object

import (
	"fmt"
	"net/url"
	"os"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// A waypoint dials what its routes and policies lead to, and is no other waypoint: where a service is bound to
// another one, strictly, the node proxies of its pods refuse it, as they refuse everybody. The configuration is good by
// itself and is served; a notice tells of it.

// noteElsewhere looks for what leads to services of other waypoints. All else has been translated.
func (t *translator) noteElsewhere() {
	for i := range t.parts.Attachments {
		a := &t.parts.Attachments[i]
		at := a.Waypoint
		if s := t.byHost[a.Service]; at == (mesh.Name{}) && s != nil && s.model.Waypoint != nil {
			at = s.model.Waypoint.Name
		}
		if at != (mesh.Name{}) {
			t.routeElsewhere(a.Route, at)
		}
	}
	for _, v := range t.parts.Services {
		if w := v.Waypoint; w != nil && w.Name != (mesh.Name{}) {
			for i := range v.Ports {
				t.limitElsewhere(v.Ports[i].Requests, w.Name)
			}
		}
	}
	for _, p := range t.parts.Policies {
		if p.Provider == nil || p.Provider.Broken != "" {
			continue
		}
		for _, at := range t.targetWaypoints(p.Name.Namespace, p.TargetRefs) {
			t.elsewhere("AuthorizationPolicy", p.Name, fmt.Sprintf("provider %q", clip(p.Provider.Name)), p.Provider.Service, at)
		}
	}
	for _, p := range t.parts.RequestAuth {
		for i := range p.Rules {
			for _, at := range t.targetWaypoints(p.Name.Namespace, p.TargetRefs) {
				if key, ok := t.keysIn(p.Rules[i].JWKSURI, at.Namespace); ok {
					t.elsewhere("RequestAuthentication", p.Name, elem("spec.jwtRules", i)+".jwksUri", key, at)
				}
			}
		}
	}
}

func (t *translator) routeElsewhere(r *mesh.Route, at mesh.Name) {
	kind := r.Kind.String()
	says := func(what string, key mesh.ServiceKey) {
		t.elsewhere(kind, r.Object, fmt.Sprintf("%s of rule %d", what, r.Rule), key, at)
	}
	filters := func(f *mesh.RouteFilters) {
		for i := range f.Mirrors {
			says("a mirror", f.Mirrors[i].Backend.Service)
		}
		if f.ExternalAuth != nil {
			says("the external authorization", f.ExternalAuth.Service)
		}
	}
	filters(&r.Filters)
	for i := range r.Backends {
		says("a backend", r.Backends[i].Service)
		filters(&r.Backends[i].Filters)
	}
	t.limitElsewhere(r.Requests, at)
}

func (t *translator) limitElsewhere(p *mesh.RequestPolicy, at mesh.Name) {
	if p != nil && p.RateLimit != nil && p.RateLimit.Global != nil {
		t.elsewhere("TrafficPolicy", p.RateLimit.Policy, "the rate limit service", p.RateLimit.Global.Service, at)
	}
}

// elsewhere tells that the waypoint at is refused at the service, if that is so.
func (t *translator) elsewhere(kind string, name mesh.Name, what string, key mesh.ServiceKey, at mesh.Name) {
	s := t.byHost[key]
	if s == nil || s.model.Waypoint == nil || s.model.WaypointOptional || s.model.External || s.headless() {
		return
	}
	other := s.model.Waypoint.Name
	if other == (mesh.Name{}) || other == at {
		return
	}
	o := t.objectOf(kind, name)
	if o == nil {
		return
	}
	t.note(o, "%s is %s, which is bound to waypoint %s: its pods refuse waypoint %s; bind it to %s too, or give it the label %s: permissive",
		what, s.obj, other, at, at, labelBinding)
}

// headless says of a Service that its clients dial its pods, which no waypoint of the Service stands before.
func (s *service) headless() bool {
	v, ok := s.obj.Value.(*serviceObject)
	return ok && v.address == "None"
}

// objectOf finds an object by the name of its kind. What leads here is rare.
func (t *translator) objectOf(kind string, name mesh.Name) *Object {
	for k, o := range t.byKey {
		if k.name == name && k.kind.Kind == kind {
			return o
		}
	}
	return nil
}

// targetWaypoints are those that enforce a policy, as far as its targets name them.
func (t *translator) targetWaypoints(ns string, refs []mesh.TargetRef) (out []mesh.Name) {
	for _, ref := range refs {
		name := mesh.Name{Namespace: ns, Name: ref.Name}
		switch ref.Kind {
		case "Gateway":
			out = append(out, name)
		case "Service":
			if s := t.services[name]; s != nil && s.model.Waypoint != nil && s.model.Waypoint.Name != (mesh.Name{}) {
				out = append(out, s.model.Waypoint.Name)
			}
		}
	}
	return out
}

// keysIn returns the Service that a waypoint in ns fetches keys from, by the URL, as the waypoint understands it.
func (t *translator) keysIn(uri, ns string) (mesh.ServiceKey, bool) {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return mesh.ServiceKey{}, false
	}
	name, rest, _ := strings.Cut(strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")), ".")
	in, rest, _ := strings.Cut(rest, ".")
	if in == "" {
		in = ns
	}
	s := t.services[mesh.Name{Namespace: in, Name: name}]
	if s == nil || rest != "" && rest != "svc" && rest != "svc."+t.opts.ClusterDomain {
		return mesh.ServiceKey{}, false
	}
	return s.model.Key, true
}

// noteKeyFile tells of a file of keys that is not there: it may come later, and until then no token is believed.
func (t *translator) noteKeyFile(o *Object, path, name string) {
	if _, err := os.Stat(name); err != nil && os.IsNotExist(err) {
		t.note(o, "%s: there is no file %s: tokens are refused until it is there", path, name)
	}
}
