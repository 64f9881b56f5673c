package object

import (
	"maps"
	"slices"

	"cairnproxy.dev/cairn/mesh"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// filterSet is what the filters of a rule or a backend come to.
type filterSet struct {
	mesh.RouteFilters
	// extension is what the extensions among them say, the first one above the others; nil for none.
	extension *policyBody
}

// filters translates the filters of a rule or a backend. rule is the one that they are in.
func (t *translator) filters(r *routeObject, path string, list []gwv1.HTTPRouteFilter, rule *ruleObject) filterSet {
	var out filterSet
	seen := map[gwv1.HTTPRouteFilterType]int{}
	for i := range list {
		f, at := &list[i], elem(path, i)
		repeats := f.Type == gwv1.HTTPRouteFilterRequestMirror || f.Type == gwv1.HTTPRouteFilterExtensionRef
		if first, dup := seen[f.Type]; dup && !repeats {
			t.incompatible(r.Object, at+".type", "filter %s is also filters[%d]; merge the two", f.Type, first)
			continue
		}
		seen[f.Type] = i
		t.filter(r, at, f, rule, &out)
	}
	if out.Redirect != nil && out.Rewrite != nil {
		t.incompatible(r.Object, path, "RequestRedirect and URLRewrite exclude each other; remove one")
	}
	return out
}

func (t *translator) filter(r *routeObject, path string, f *gwv1.HTTPRouteFilter, rule *ruleObject, out *filterSet) {
	o := r.Object
	u := uses[f.Type]
	switch {
	case u.field == "" || r.kind == mesh.RouteGRPC && !u.grpc:
		what := "RequestHeaderModifier, ResponseHeaderModifier, RequestMirror, RequestRedirect, URLRewrite, CORS, ExternalAuth or ExtensionRef"
		if r.kind == mesh.RouteGRPC {
			what = "RequestHeaderModifier, ResponseHeaderModifier, RequestMirror or ExtensionRef"
		}
		t.bad(o, path+".type", "%q is not a filter of a %s; use %s", clip(string(f.Type)), r.Kind.Kind, what)
	case !u.given(f):
		t.bad(o, path, "filter %s says nothing; add %s", f.Type, u.field)
	default:
		path := path + "." + u.field
		switch f.Type {
		case gwv1.HTTPRouteFilterRequestHeaderModifier:
			out.RequestHeaders = t.headerEdits(o, path, f.RequestHeaderModifier)
		case gwv1.HTTPRouteFilterResponseHeaderModifier:
			out.ResponseHeaders = t.headerEdits(o, path, f.ResponseHeaderModifier)
		case gwv1.HTTPRouteFilterRequestRedirect:
			out.Redirect = t.redirect(o, path, f.RequestRedirect, rule)
		case gwv1.HTTPRouteFilterURLRewrite:
			out.Rewrite = t.rewrite(o, path, f.URLRewrite, rule)
		case gwv1.HTTPRouteFilterRequestMirror:
			if m, ok := t.mirror(r, path, f.RequestMirror); ok {
				out.Mirrors = append(out.Mirrors, m)
			}
		case gwv1.HTTPRouteFilterCORS:
			out.CORS = t.cors(o, path, f.CORS)
		case gwv1.HTTPRouteFilterExtensionRef:
			if b, ok := t.extension(o, path, f.ExtensionRef); ok {
				out.extension = out.extension.over(b)
			}
		case gwv1.HTTPRouteFilterExternalAuth:
			out.ExternalAuth = t.externalAuth(r, path, f.ExternalAuth)
		}
	}
	t.checkFilterFields(o, path, f)
}

// use is where a type of filter says what it does.
type use struct {
	field string
	given func(*gwv1.HTTPRouteFilter) bool
	grpc  bool // GRPCRoutes have it, too
}

var uses = map[gwv1.HTTPRouteFilterType]use{
	gwv1.HTTPRouteFilterRequestHeaderModifier:  {"requestHeaderModifier", func(f *gwv1.HTTPRouteFilter) bool { return f.RequestHeaderModifier != nil }, true},
	gwv1.HTTPRouteFilterResponseHeaderModifier: {"responseHeaderModifier", func(f *gwv1.HTTPRouteFilter) bool { return f.ResponseHeaderModifier != nil }, true},
	gwv1.HTTPRouteFilterRequestMirror:          {"requestMirror", func(f *gwv1.HTTPRouteFilter) bool { return f.RequestMirror != nil }, true},
	gwv1.HTTPRouteFilterRequestRedirect:        {"requestRedirect", func(f *gwv1.HTTPRouteFilter) bool { return f.RequestRedirect != nil }, false},
	gwv1.HTTPRouteFilterURLRewrite:             {"urlRewrite", func(f *gwv1.HTTPRouteFilter) bool { return f.URLRewrite != nil }, false},
	gwv1.HTTPRouteFilterCORS:                   {"cors", func(f *gwv1.HTTPRouteFilter) bool { return f.CORS != nil }, false},
	gwv1.HTTPRouteFilterExternalAuth:           {"externalAuth", func(f *gwv1.HTTPRouteFilter) bool { return f.ExternalAuth != nil }, false},
	gwv1.HTTPRouteFilterExtensionRef:           {"extensionRef", func(f *gwv1.HTTPRouteFilter) bool { return f.ExtensionRef != nil }, true},
}

// checkFilterFields refuses settings that the filter's type takes no notice of.
func (t *translator) checkFilterFields(o *Object, path string, f *gwv1.HTTPRouteFilter) {
	for _, typ := range filterTypes {
		if u := uses[typ]; typ != f.Type && u.given(f) {
			t.bad(o, path+"."+u.field, "it has no effect in a filter of type %s; make it a filter of type %s", clip(string(f.Type)), typ)
		}
	}
}

// filterTypes are the keys of uses in order.
var filterTypes = slices.Sorted(maps.Keys(uses))

// mirror translates a RequestMirror. One whose backend cannot be resolved is left
// out, as Gateway API has it: requests go on as if it were not there.
func (t *translator) mirror(r *routeObject, path string, in *gwv1.HTTPRequestMirrorFilter) (mesh.Mirror, bool) {
	m := mesh.Mirror{Backend: mesh.Backend{Weight: 1}}
	switch {
	case in.Percent != nil && in.Fraction != nil:
		t.bad(r.Object, path+".fraction", "percent and fraction exclude each other; remove one")
	case in.Percent != nil:
		if p := *in.Percent; p < 0 || p > 100 {
			t.bad(r.Object, path+".percent", "%d is not a percentage; use 0 to 100", p)
		} else {
			m.Numerator, m.Denominator = uint32(p), 100
		}
	case in.Fraction != nil:
		switch n, d := in.Fraction.Numerator, deref(in.Fraction.Denominator, 100); {
		case d < 1:
			t.bad(r.Object, path+".fraction.denominator", "%d cannot be a denominator; use 1 or more", d)
		case n < 0 || n > d:
			t.bad(r.Object, path+".fraction.numerator", "%d is not a part of %d; use 0 to %d", n, d, d)
		default:
			m.Numerator, m.Denominator = uint32(n), uint32(d)
		}
	}
	first, ok := len(t.trail), true
	m.Backend.Service, m.Backend.Port = t.backendPort(r, path+".backendRef", &in.BackendRef)
	for i := range t.trail[first:] {
		t.trail[first+i].harmless, ok = t.trail[first+i].served, false
	}
	return m, ok
}
