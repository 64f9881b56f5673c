package policy

import (
	"slices"
	"strings"
	"sync"

	"cairnproxy.dev/cairn/mesh"
)

// Groups of what a policy may target.
const (
	groupGateway      = "gateway.networking.k8s.io"
	groupIstioNetwork = "networking.istio.io"
)

// Attached is policies that apply together.
type Attached struct {
	Authorization []*mesh.AuthorizationPolicy
	Access        []*mesh.AccessPolicy
	// Tokens say whose tokens are believed. They decide nothing, and are not compiled here: see filters/jwt.
	Tokens []*mesh.RequestAuthentication
}

// Equal reports whether a and b are the same policies.
func (a Attached) Equal(b Attached) bool {
	return slices.Equal(a.Authorization, b.Authorization) && slices.Equal(a.Access, b.Access) && slices.Equal(a.Tokens, b.Tokens)
}

// Names lists the policies, for dumps.
func (a Attached) Names() (out []string) {
	for _, p := range a.Authorization {
		out = append(out, p.Name.String())
	}
	for _, p := range a.Access {
		out = append(out, KindAccess+" "+p.Name.String())
	}
	for _, p := range a.Tokens {
		out = append(out, "RequestAuthentication "+p.Name.String())
	}
	return out
}

// AttachedTo returns the policies that a waypoint enforces for
// requests to service v: those that target v itself (a Service, or a
// ServiceEntry of its name, in its namespace), the waypoint's Gateway, or, from
// the root namespace, its GatewayClass. v is nil for traffic addressed to a
// workload. The order is the snapshot's.
func AttachedTo(s *mesh.Snapshot, v *mesh.Service, w *mesh.Waypoint) (out Attached) {
	for _, p := range s.Policies {
		if anyTargets(s, p.Name.Namespace, p.TargetRefs, v, w) {
			out.Authorization = append(out.Authorization, p)
		}
	}
	for _, p := range s.Access {
		if anyTargets(s, p.Name.Namespace, p.TargetRefs, v, w) {
			out.Access = append(out.Access, p)
		}
	}
	for _, p := range s.RequestAuth {
		if anyTargets(s, p.Name.Namespace, p.TargetRefs, v, w) {
			out.Tokens = append(out.Tokens, p)
		}
	}
	return out
}

// Attachments finds what AttachedTo does for one waypoint and many services, by
// looking at the policies once. Its methods may be called from any goroutine.
type Attachments struct {
	s             *mesh.Snapshot
	trusted       uint8 // proxies before the waypoint
	authorization finder[mesh.AuthorizationPolicy]
	access        finder[mesh.AccessPolicy]
	tokens        finder[mesh.RequestAuthentication]
	routes        map[target][]*mesh.AccessPolicy
	// programs are those of AccessPolicies, which take long to compile: many services may share one.
	programs sync.Map // of *mesh.AccessPolicy: compiledAccess
}

// Compile is Compile for policies of which some may have been compiled before.
func (a *Attachments) Compile(list Attached) *L7 {
	return compile(list, a.trusted, func(p *mesh.AccessPolicy) compiledAccess {
		if c, ok := a.programs.Load(p); ok {
			return c.(compiledAccess)
		}
		c := compileAccess(p)
		a.programs.Store(p, c)
		return c
	})
}

// target is a service or a route as a policy names it.
type target struct {
	kind, namespace, name string
}

// NewAttachments returns the Attachments of w's services.
func NewAttachments(s *mesh.Snapshot, w *mesh.Waypoint) *Attachments {
	a := &Attachments{s: s, routes: map[target][]*mesh.AccessPolicy{}}
	if w != nil {
		a.trusted = w.Reading.TrustedProxies
	}
	a.authorization = newFinder(s, s.Policies, w, func(p *mesh.AuthorizationPolicy) (string, []mesh.TargetRef) { return p.Name.Namespace, p.TargetRefs })
	a.access = newFinder(s, s.Access, w, func(p *mesh.AccessPolicy) (string, []mesh.TargetRef) { return p.Name.Namespace, p.TargetRefs })
	a.tokens = newFinder(s, s.RequestAuth, w, func(p *mesh.RequestAuthentication) (string, []mesh.TargetRef) { return p.Name.Namespace, p.TargetRefs })
	for _, p := range s.Access {
		for _, ref := range p.TargetRefs {
			t := target{ref.Kind, p.Name.Namespace, ref.Name}
			if list := a.routes[t]; isRoute(ref) && (len(list) == 0 || list[len(list)-1] != p) {
				a.routes[t] = append(list, p)
			}
		}
	}
	return a
}

// Of returns the policies for requests to v, or to workloads if v is nil. The
// lists must not be written to: services without policies of their own share them.
func (a *Attachments) Of(v *mesh.Service) Attached {
	return Attached{a.authorization.of(a.s, v), a.access.of(a.s, v), a.tokens.of(a.s, v)}
}

// OfPort returns those of a service's policies, as Of has them, that are for the port of that name, too.
func (a *Attachments) OfPort(v *mesh.Service, all Attached, port string) Attached {
	other := func(p *mesh.AccessPolicy) bool {
		whole, own := false, false
		for _, ref := range p.TargetRefs {
			if targets(a.s, p.Name.Namespace, ref, v, nil) {
				whole, own = whole || ref.Section == "", own || ref.Section == port
			}
		}
		return !whole && !own && !slices.Contains(a.access.general, p)
	}
	if slices.ContainsFunc(all.Access, other) {
		all.Access = slices.DeleteFunc(slices.Clone(all.Access), other)
	}
	return all
}

// OfRoute returns the policies that are attached to a route, or to the rule of it that r is.
func (a *Attachments) OfRoute(r *mesh.Route) []*mesh.AccessPolicy {
	list := a.routes[target{r.Kind.String(), r.Object.Namespace, r.Object.Name}]
	var out []*mesh.AccessPolicy
	for _, p := range list {
		if slices.ContainsFunc(p.TargetRefs, func(ref mesh.TargetRef) bool {
			return isRoute(ref) && ref.Kind == r.Kind.String() && ref.Name == r.Object.Name && (ref.Section == "" || ref.Section == r.RuleName)
		}) {
			out = append(out, p)
		}
	}
	return out
}

func isRoute(ref mesh.TargetRef) bool {
	return ref.Group == groupGateway && (ref.Kind == mesh.RouteHTTP.String() || ref.Kind == mesh.RouteGRPC.String())
}

// finder is Attachments for one kind of policy.
type finder[P any] struct {
	all     []*P
	refs    func(*P) (namespace string, list []mesh.TargetRef)
	general []*P             // that target the waypoint
	special map[target][]int // positions in all of those that target services
	places  []int            // of general
}

func newFinder[P any](s *mesh.Snapshot, all []*P, w *mesh.Waypoint, refs func(*P) (string, []mesh.TargetRef)) finder[P] {
	a := finder[P]{all: all, refs: refs, special: map[target][]int{}}
	for i, p := range all {
		ns, list := refs(p)
		if anyTargets(s, ns, list, nil, w) {
			a.general, a.places = append(a.general, p), append(a.places, i)
			continue
		}
		for _, ref := range list {
			t := target{ref.Kind, ns, ref.Name}
			if list := a.special[t]; len(list) == 0 || list[len(list)-1] != i {
				a.special[t] = append(list, i)
			}
		}
	}
	return a
}

func (a *finder[P]) of(s *mesh.Snapshot, v *mesh.Service) []*P {
	if v == nil || len(a.special) == 0 {
		return a.general
	}
	kind := "Service"
	if !isService(s, v) {
		kind = "ServiceEntry"
	}
	own := a.special[target{kind, v.Key.Namespace, v.Name}]
	var out []*P
	rest := a.places
	for _, i := range own {
		p := a.all[i]
		if ns, list := a.refs(p); !anyTargets(s, ns, list, v, nil) {
			continue // of another group
		}
		for ; len(rest) > 0 && rest[0] < i; rest = rest[1:] {
			out = append(out, a.all[rest[0]])
		}
		out = append(out, p)
	}
	if out == nil {
		return a.general
	}
	for _, i := range rest {
		out = append(out, a.all[i])
	}
	return out
}

func anyTargets(s *mesh.Snapshot, namespace string, refs []mesh.TargetRef, v *mesh.Service, w *mesh.Waypoint) bool {
	for _, ref := range refs {
		if targets(s, namespace, ref, v, w) {
			return true
		}
	}
	return false
}

// targets reports whether ref, in a policy of that namespace, means v or w.
func targets(s *mesh.Snapshot, namespace string, ref mesh.TargetRef, v *mesh.Service, w *mesh.Waypoint) bool {
	switch {
	case (ref.Group == "" || ref.Group == "core") && ref.Kind == "Service":
		return v != nil && isService(s, v) && ref.Name == v.Name && namespace == v.Key.Namespace
	case ref.Group == groupIstioNetwork && ref.Kind == "ServiceEntry":
		return v != nil && !isService(s, v) && ref.Name == v.Name && namespace == v.Key.Namespace
	case ref.Group == groupGateway && ref.Kind == "Gateway":
		return w != nil && w.Name == mesh.Name{Namespace: namespace, Name: ref.Name}
	case ref.Group == groupGateway && ref.Kind == "GatewayClass":
		return w != nil && namespace == s.RootNamespace && ref.Name == w.Class
	}
	return false
}

// isService tells a Kubernetes Service from a ServiceEntry by the hostname
// that only the former has.
func isService(s *mesh.Snapshot, v *mesh.Service) bool {
	if v.External {
		return false
	}
	rest := v.Key.Hostname
	for _, part := range [...]string{v.Name, ".", v.Key.Namespace, ".svc.", s.ClusterDomain} { // there may be 10,000 to ask about
		var ok bool
		if rest, ok = strings.CutPrefix(rest, part); !ok {
			return false
		}
	}
	return rest == ""
}
