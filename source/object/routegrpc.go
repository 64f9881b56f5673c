package object

import (
	"regexp"
	"regexp/syntax"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// grpcRoute says in HTTPRoute's words what a GRPCRoute says.
func grpcRoute(o *Object, v *gwv1.GRPCRoute) *routeObject {
	r := &routeObject{
		Object: o, kind: mesh.RouteGRPC, created: v.CreationTimestamp.Time,
		parents: v.Spec.ParentRefs, hostnames: v.Spec.Hostnames, rules: make([]ruleObject, len(v.Spec.Rules)),
	}
	for i := range v.Spec.Rules {
		in := &v.Spec.Rules[i]
		out := ruleObject{name: in.Name, grpcMatches: in.Matches, filters: grpcFilters(in.Filters), session: in.SessionPersistence}
		for _, b := range in.BackendRefs {
			out.backends = append(out.backends, gwv1.HTTPBackendRef{BackendRef: b.BackendRef, Filters: grpcFilters(b.Filters)})
		}
		r.rules[i] = out
	}
	return r
}

func grpcFilters(in []gwv1.GRPCRouteFilter) []gwv1.HTTPRouteFilter {
	var out []gwv1.HTTPRouteFilter
	for _, f := range in {
		out = append(out, gwv1.HTTPRouteFilter{
			Type: gwv1.HTTPRouteFilterType(f.Type), RequestHeaderModifier: f.RequestHeaderModifier,
			ResponseHeaderModifier: f.ResponseHeaderModifier, RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef,
		})
	}
	return out
}

var (
	grpcService = regexp.MustCompile(`^(?i)\.?[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*$`)
	grpcMethod  = regexp.MustCompile(`^[A-Za-z_][A-Za-z_0-9]*$`)
)

// maxGRPCName is how long the name of a service or method may be.
const maxGRPCName = 1024

// grpcMatch makes of a match for a service and a method one for the path, which is /SERVICE/METHOD.
//
//	service and method, exact    the path itself
//	service alone, exact         the prefix /SERVICE, of which the method is the next element
//	anything else                an expression
//
// So the order of the router's table is that of GRPCRoute: characters of the service, of
// the method, headers. Among expressions RouteMatch.Precedence says it, since the length of
// the whole does not.
func (t *translator) grpcMatch(o *Object, path string, in *gwv1.GRPCRouteMatch) mesh.RouteMatch {
	var m mesh.RouteMatch
	if in.Method != nil {
		t.grpcMethod(o, path+".method", in.Method, &m)
	}
	for i, h := range in.Headers {
		n := t.namedMatch(o, elem(path+".headers", i), string(deref(h.Type, gwv1.GRPCHeaderMatchExact)), strings.ToLower(string(h.Name)), h.Value)
		m.Headers = addMatch(m.Headers, n)
	}
	return m
}

func (t *translator) grpcMethod(o *Object, path string, in *gwv1.GRPCMethodMatch, m *mesh.RouteMatch) {
	service, method := deref(in.Service, ""), deref(in.Method, "")
	typ := deref(in.Type, gwv1.GRPCMethodMatchExact)
	switch {
	case typ != gwv1.GRPCMethodMatchExact && typ != gwv1.GRPCMethodMatchRegularExpression:
		t.bad(o, path+".type", "%q is not known; use Exact or RegularExpression", clip(string(typ)))
		return
	case service == "" && method == "":
		t.bad(o, path, "it names neither a service nor a method; add one, or remove it to match all")
		return
	}
	for _, x := range []struct {
		field, value, example string
		form                  *regexp.Regexp
	}{{"service", service, "helloworld.Greeter", grpcService}, {"method", method, "SayHello", grpcMethod}} {
		at := path + "." + x.field
		switch {
		case len(x.value) > maxGRPCName:
			t.bad(o, at, "it is %d bytes long; keep it to %d", len(x.value), maxGRPCName)
			return
		case typ == gwv1.GRPCMethodMatchRegularExpression:
			if !t.regex(o, at, x.value) {
				return
			}
		case x.value != "" && !x.form.MatchString(x.value):
			t.bad(o, at, "%q is not the name of a gRPC %s; write it like %s", clip(x.value), x.field, x.example)
			return
		}
	}
	switch {
	case typ == gwv1.GRPCMethodMatchExact && service != "" && method != "":
		m.Path = &mesh.StringMatch{Kind: mesh.MatchExact, Value: "/" + service + "/" + method}
	case typ == gwv1.GRPCMethodMatchExact && service != "":
		m.Path = &mesh.StringMatch{Kind: mesh.MatchPrefix, Value: "/" + service + "/"}
	default:
		m.Path = &mesh.StringMatch{Kind: mesh.MatchRegex, Value: "/" + element(service) + "/" + element(method)}
		m.Precedence = uint32(len(service))<<16 | uint32(len(method))
	}
}

// element is an expression for one element of a path: expr, or any where that is
// empty. The parsed form goes into the brackets, from which a text like "a|b" or `\Qa` would escape.
func element(expr string) string {
	if expr == "" {
		return "[^/]+"
	}
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return "[^/]+"
	}
	return "(?:" + re.String() + ")"
}
