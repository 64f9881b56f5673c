package object

import (
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func (t *translator) match(o *Object, path string, in *gwv1.HTTPRouteMatch) mesh.RouteMatch {
	var m mesh.RouteMatch
	if in.Path != nil {
		m.Path = t.pathMatch(o, path+".path", in.Path)
	}
	if in.Method != nil {
		m.Method = string(*in.Method)
		switch *in.Method {
		case gwv1.HTTPMethodGet, gwv1.HTTPMethodHead, gwv1.HTTPMethodPost, gwv1.HTTPMethodPut, gwv1.HTTPMethodDelete,
			gwv1.HTTPMethodConnect, gwv1.HTTPMethodOptions, gwv1.HTTPMethodTrace, gwv1.HTTPMethodPatch:
		default:
			t.bad(o, path+".method", "%q is not a method; use GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE or PATCH", clip(m.Method))
		}
	}
	for i, h := range in.Headers {
		at := elem(path+".headers", i)
		n := t.namedMatch(o, at, string(deref(h.Type, gwv1.HeaderMatchExact)), strings.ToLower(string(h.Name)), h.Value)
		if !slices.ContainsFunc(m.Headers, func(x mesh.NamedMatch) bool { return x.Name == n.Name }) { // only the first counts
			m.Headers = append(m.Headers, n)
		}
	}
	for i, q := range in.QueryParams {
		at := elem(path+".queryParams", i)
		n := t.namedMatch(o, at, string(deref(q.Type, gwv1.QueryParamMatchExact)), string(q.Name), q.Value)
		if !slices.ContainsFunc(m.Query, func(x mesh.NamedMatch) bool { return x.Name == n.Name }) {
			m.Query = append(m.Query, n)
		}
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

// filters translates the filters of a rule or a backend. matches are the
// rule's, which replacing a path prefix depends on.
func (t *translator) filters(o *Object, path string, list []gwv1.HTTPRouteFilter, matches []gwv1.HTTPRouteMatch) mesh.RouteFilters {
	var out mesh.RouteFilters
	seen := map[gwv1.HTTPRouteFilterType]int{}
	for i := range list {
		f, at := &list[i], elem(path, i)
		repeats := f.Type == gwv1.HTTPRouteFilterRequestMirror || f.Type == gwv1.HTTPRouteFilterExtensionRef
		if first, dup := seen[f.Type]; dup && !repeats {
			t.bad(o, at+".type", "filter %s is also filters[%d]; merge the two", f.Type, first)
			continue
		}
		seen[f.Type] = i
		t.filter(o, at, f, matches, &out)
	}
	if out.Redirect != nil && out.Rewrite != nil {
		t.bad(o, path, "RequestRedirect and URLRewrite exclude each other; remove one")
	}
	return out
}

func (t *translator) filter(o *Object, path string, f *gwv1.HTTPRouteFilter, matches []gwv1.HTTPRouteMatch, out *mesh.RouteFilters) {
	missing := func(field string) { t.bad(o, path, "filter %s says nothing; add %s", f.Type, field) }
	switch f.Type {
	case gwv1.HTTPRouteFilterRequestHeaderModifier:
		if f.RequestHeaderModifier == nil {
			missing("requestHeaderModifier")
			return
		}
		out.RequestHeaders = t.headerEdits(o, path+".requestHeaderModifier", f.RequestHeaderModifier)
	case gwv1.HTTPRouteFilterResponseHeaderModifier:
		if f.ResponseHeaderModifier == nil {
			missing("responseHeaderModifier")
			return
		}
		out.ResponseHeaders = t.headerEdits(o, path+".responseHeaderModifier", f.ResponseHeaderModifier)
	case gwv1.HTTPRouteFilterRequestRedirect:
		if f.RequestRedirect == nil {
			missing("requestRedirect")
			return
		}
		out.Redirect = t.redirect(o, path+".requestRedirect", f.RequestRedirect, matches)
	case gwv1.HTTPRouteFilterURLRewrite:
		if f.URLRewrite == nil {
			missing("urlRewrite")
			return
		}
		out.Rewrite = &mesh.Rewrite{Path: t.pathEdit(o, path+".urlRewrite.path", f.URLRewrite.Path, matches)}
		if h := f.URLRewrite.Hostname; h != nil {
			out.Rewrite.Hostname = t.hostname(o, path+".urlRewrite.hostname", string(*h))
		}
	case gwv1.HTTPRouteFilterRequestMirror, gwv1.HTTPRouteFilterCORS, gwv1.HTTPRouteFilterExternalAuth, gwv1.HTTPRouteFilterExtensionRef:
		t.bad(o, path+".type", "filter %s is not supported yet; remove it", f.Type)
	default:
		t.bad(o, path+".type", "%q is not a filter; use RequestHeaderModifier, ResponseHeaderModifier, RequestRedirect or URLRewrite", clip(string(f.Type)))
	}
	t.checkFilterFields(o, path, f)
}

// checkFilterFields refuses settings that the filter's type takes no notice of.
func (t *translator) checkFilterFields(o *Object, path string, f *gwv1.HTTPRouteFilter) {
	for _, x := range []struct {
		set   bool
		field string
		typ   gwv1.HTTPRouteFilterType
	}{
		{f.RequestHeaderModifier != nil, "requestHeaderModifier", gwv1.HTTPRouteFilterRequestHeaderModifier},
		{f.ResponseHeaderModifier != nil, "responseHeaderModifier", gwv1.HTTPRouteFilterResponseHeaderModifier},
		{f.RequestRedirect != nil, "requestRedirect", gwv1.HTTPRouteFilterRequestRedirect},
		{f.URLRewrite != nil, "urlRewrite", gwv1.HTTPRouteFilterURLRewrite},
	} {
		if x.set && f.Type != x.typ {
			t.bad(o, path+"."+x.field, "it has no effect in a filter of type %s; make it a filter of type %s", clip(string(f.Type)), x.typ)
		}
	}
}

func (t *translator) headerEdits(o *Object, path string, in *gwv1.HTTPHeaderFilter) *mesh.HeaderEdits {
	e := &mesh.HeaderEdits{}
	taken := map[string]bool{}
	name := func(at, s string) (string, bool) {
		s = strings.ToLower(s)
		switch {
		case !isToken(s):
			t.bad(o, at, "%q is not a valid header name; use letters, digits and '-'", clip(s))
			return "", false
		case taken[s]:
			t.bad(o, at, "header %q is edited twice; keep one", clip(s))
			return "", false
		}
		taken[s] = true
		return s, true
	}
	fields := func(at string, list []gwv1.HTTPHeader) (out []mesh.Field) {
		for i, h := range list {
			n, ok := name(elem(at, i)+".name", string(h.Name))
			if !isFieldValue(h.Value) {
				t.bad(o, elem(at, i)+".value", "%q cannot be the value of a header; remove control characters and outer spaces", clip(h.Value))
			} else if ok {
				out = append(out, mesh.Field{Name: n, Value: h.Value})
			}
		}
		return out
	}
	e.Set = fields(path+".set", in.Set)
	e.Add = fields(path+".add", in.Add)
	for i, r := range in.Remove {
		if n, ok := name(elem(path+".remove", i), r); ok {
			e.Remove = append(e.Remove, n)
		}
	}
	return e
}

func (t *translator) hostname(o *Object, path, s string) string {
	if !isSubdomain(s) {
		t.bad(o, path, "%q is not a host name; write a DNS name in lower case", clip(s))
		return ""
	}
	return s
}

func (t *translator) redirect(o *Object, path string, in *gwv1.HTTPRequestRedirectFilter, matches []gwv1.HTTPRouteMatch) *mesh.Redirect {
	r := &mesh.Redirect{Status: deref(in.StatusCode, 302), Scheme: deref(in.Scheme, "")}
	switch r.Status {
	case 301, 302, 303, 307, 308:
	default:
		t.bad(o, path+".statusCode", "%d does not redirect; use 301, 302, 303, 307 or 308", r.Status)
	}
	if in.Scheme != nil && r.Scheme != "http" && r.Scheme != "https" {
		t.bad(o, path+".scheme", "%q is not known; use http or https", clip(r.Scheme))
	}
	if in.Hostname != nil {
		r.Hostname = t.hostname(o, path+".hostname", string(*in.Hostname))
	}
	if in.Port != nil {
		r.Port = t.port(o, path+".port", int64(*in.Port))
	}
	r.Path = t.pathEdit(o, path+".path", in.Path, matches)
	return r
}

func (t *translator) pathEdit(o *Object, path string, in *gwv1.HTTPPathModifier, matches []gwv1.HTTPRouteMatch) *mesh.PathEdit {
	if in == nil {
		return nil
	}
	switch in.Type {
	case gwv1.FullPathHTTPPathModifier:
		if in.ReplaceFullPath == nil || in.ReplacePrefixMatch != nil {
			t.bad(o, path, "type ReplaceFullPath needs replaceFullPath and nothing else; correct it")
			return nil
		}
		t.checkNewPath(o, path+".replaceFullPath", *in.ReplaceFullPath)
		return &mesh.PathEdit{Value: *in.ReplaceFullPath}
	case gwv1.PrefixMatchHTTPPathModifier:
		if in.ReplacePrefixMatch == nil || in.ReplaceFullPath != nil {
			t.bad(o, path, "type ReplacePrefixMatch needs replacePrefixMatch and nothing else; correct it")
			return nil
		}
		for _, m := range matches {
			if m.Path != nil && deref(m.Path.Type, gwv1.PathMatchPathPrefix) != gwv1.PathMatchPathPrefix {
				t.bad(o, path+".type", "ReplacePrefixMatch needs every match of the rule to be of type PathPrefix; change the matches or use ReplaceFullPath")
				break
			}
		}
		t.checkNewPath(o, path+".replacePrefixMatch", *in.ReplacePrefixMatch)
		return &mesh.PathEdit{Prefix: true, Value: *in.ReplacePrefixMatch}
	}
	t.bad(o, path+".type", "%q is not known; use ReplaceFullPath or ReplacePrefixMatch", clip(string(in.Type)))
	return nil
}

// checkNewPath refuses what would make a malformed request line or Location.
func (t *translator) checkNewPath(o *Object, path, p string) {
	if strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r == 0x7f }) || strings.ContainsAny(p, "?#") || p != "" && p[0] != '/' {
		t.bad(o, path, "%q cannot be a path; begin it with '/' and leave out spaces, '?' and '#'", clip(p))
	}
}
