package object

import (
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// methods are those that Gateway API knows.
var methods = []gwv1.HTTPMethod{
	gwv1.HTTPMethodGet, gwv1.HTTPMethodHead, gwv1.HTTPMethodPost, gwv1.HTTPMethodPut, gwv1.HTTPMethodDelete,
	gwv1.HTTPMethodConnect, gwv1.HTTPMethodOptions, gwv1.HTTPMethodTrace, gwv1.HTTPMethodPatch,
}

const methodList = "GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE or PATCH"

// addMatch appends n unless its name is there: of several conditions on one, the first counts.
func addMatch(list []mesh.NamedMatch, n mesh.NamedMatch) []mesh.NamedMatch {
	if slices.ContainsFunc(list, func(x mesh.NamedMatch) bool { return x.Name == n.Name }) {
		return list
	}
	return append(list, n)
}

func (t *translator) match(o *Object, path string, in *gwv1.HTTPRouteMatch) mesh.RouteMatch {
	var m mesh.RouteMatch
	if in.Path != nil {
		m.Path = t.pathMatch(o, path+".path", in.Path)
	}
	if in.Method != nil {
		m.Method = string(*in.Method)
		if !slices.Contains(methods, *in.Method) {
			t.bad(o, path+".method", "%q is not a method; use %s", clip(m.Method), methodList)
		}
	}
	for i, h := range in.Headers {
		at := elem(path+".headers", i)
		n := t.namedMatch(o, at, string(deref(h.Type, gwv1.HeaderMatchExact)), strings.ToLower(string(h.Name)), h.Value)
		m.Headers = addMatch(m.Headers, n)
	}
	for i, q := range in.QueryParams {
		at := elem(path+".queryParams", i)
		n := t.namedMatch(o, at, string(deref(q.Type, gwv1.QueryParamMatchExact)), string(q.Name), q.Value)
		m.Query = addMatch(m.Query, n)
	}
	return m
}

func (t *translator) pathMatch(o *Object, path string, in *gwv1.HTTPPathMatch) *mesh.StringMatch {
	m := &mesh.StringMatch{Value: deref(in.Value, "/")}
	switch typ := deref(in.Type, gwv1.PathMatchPathPrefix); typ {
	case gwv1.PathMatchExact:
		t.checkPath(o, path+".value", m.Value)
	case gwv1.PathMatchPathPrefix:
		m.Kind = mesh.MatchPrefix
		t.checkPath(o, path+".value", m.Value)
	case gwv1.PathMatchRegularExpression:
		m.Kind = mesh.MatchRegex
		t.regex(o, path+".value", m.Value)
	default:
		t.bad(o, path+".type", "%q is not known; use Exact, PathPrefix or RegularExpression", clip(string(typ)))
	}
	return m
}

// checkPath refuses paths that no normalised request can have.
func (t *translator) checkPath(o *Object, path, p string) {
	const most = 1024
	switch {
	case !strings.HasPrefix(p, "/"):
		t.bad(o, path, "path %q does not begin with '/'; add it", clip(p))
	case len(p) > most:
		t.bad(o, path, "the path is %d bytes long; keep it to %d", len(p), most)
	case strings.Contains(p, "//") || strings.Contains(p, "/./") || strings.Contains(p, "/../") ||
		strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..") ||
		strings.Contains(strings.ToLower(p), "%2f") || strings.ContainsAny(p, "#?"):
		t.bad(o, path, "path %q holds //, /./, /../, %%2f, # or ?, which no request path has when it is compared; remove that", clip(p))
	}
}

func (t *translator) namedMatch(o *Object, path, typ, name, value string) mesh.NamedMatch {
	n := mesh.NamedMatch{Name: name, StringMatch: mesh.StringMatch{Value: value}}
	if !isToken(name) {
		t.bad(o, path+".name", "%q is not a valid name; use letters, digits and '-'", clip(name))
	}
	switch typ {
	case "Exact":
	case "RegularExpression":
		n.Kind = mesh.MatchRegex
		t.regex(o, path+".value", value)
	default:
		t.bad(o, path+".type", "%q is not known; use Exact or RegularExpression", clip(typ))
	}
	return n
}
