package object

import (
	"strings"

	"cairnproxy.dev/cairn/mesh"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Headers, paths and redirects of filters.

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

func (t *translator) redirect(o *Object, path string, in *gwv1.HTTPRequestRedirectFilter, rule *ruleObject) *mesh.Redirect {
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
	r.Path = t.pathEdit(o, path+".path", in.Path, rule)
	return r
}

func (t *translator) pathEdit(o *Object, path string, in *gwv1.HTTPPathModifier, rule *ruleObject) *mesh.PathEdit {
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
		for _, m := range rule.matches {
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

func (t *translator) rewrite(o *Object, path string, in *gwv1.HTTPURLRewriteFilter, rule *ruleObject) *mesh.Rewrite {
	out := &mesh.Rewrite{Path: t.pathEdit(o, path+".path", in.Path, rule)}
	if in.Hostname != nil {
		out.Hostname = t.hostname(o, path+".hostname", string(*in.Hostname))
	}
	return out
}
