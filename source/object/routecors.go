package object

import (
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// cors translates a CORS filter (GEP-1767).
func (t *translator) cors(o *Object, path string, in *gwv1.HTTPCORSFilter) *mesh.CORS {
	out := &mesh.CORS{Credentials: deref(in.AllowCredentials, false)}
	for i, s := range in.AllowOrigins {
		if origin, ok := t.origin(o, elem(path+".allowOrigins", i), string(s)); ok {
			out.Origins = append(out.Origins, origin)
		}
	}
	t.alone(o, path+".allowOrigins", out.Origins)
	for i, m := range in.AllowMethods {
		if !slices.Contains(methods, gwv1.HTTPMethod(m)) && m != "*" {
			t.bad(o, elem(path+".allowMethods", i), "%q is not a method; use %s, or \"*\" for all", clip(string(m)), methodList)
		}
		out.Methods = append(out.Methods, string(m))
	}
	t.alone(o, path+".allowMethods", out.Methods)
	out.Headers = t.corsHeaders(o, path+".allowHeaders", in.AllowHeaders)
	t.alone(o, path+".allowHeaders", out.Headers)
	out.Expose = t.corsHeaders(o, path+".exposeHeaders", in.ExposeHeaders)
	if in.MaxAge < 0 {
		t.bad(o, path+".maxAge", "%d is not a time to keep an answer; use 1 or more seconds", in.MaxAge)
	}
	out.MaxAge = time.Duration(in.MaxAge) * time.Second
	return out
}

// alone refuses a "*" beside others.
func (t *translator) alone(o *Object, path string, list []string) {
	if len(list) > 1 && slices.Contains(list, "*") {
		t.bad(o, path, "\"*\" stands for all; remove it or the others")
	}
}

func (t *translator) corsHeaders(o *Object, path string, in []gwv1.HTTPHeaderName) []string {
	var out []string
	for i, h := range in {
		name := strings.ToLower(string(h))
		if !isToken(name) { // as "*" is
			t.bad(o, elem(path, i), "%q is not a valid header name; use letters, digits and '-', or \"*\" for all", clip(name))
			continue
		}
		out = append(out, name)
	}
	return out
}

// origin checks "scheme://host[:port]", of which the host may be or begin with a "*", and returns
// it as browsers write it: in lower case, without the port that the scheme stands for.
func (t *translator) origin(o *Object, path, s string) (string, bool) {
	if s == "*" {
		return s, true
	}
	out, ok := canonicalOrigin(s)
	if !ok {
		t.bad(o, path, "%q is not an origin; write it like https://www.example.com, https://*.example.com:8443 or \"*\"", clip(s))
	}
	return out, ok
}

func canonicalOrigin(s string) (string, bool) {
	scheme, rest, ok := strings.Cut(strings.ToLower(s), "://")
	usual := map[string]string{"http": "80", "https": "443"}[scheme]
	if !ok || usual == "" {
		return "", false
	}
	host, port := rest, ""
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.HasSuffix(rest, "]") {
		host, port = rest[:i], rest[i+1:]
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > math.MaxUint16 || port[0] == '+' || port[0] == '0' {
			return "", false
		}
	}
	switch inner, v6 := strings.CutPrefix(host, "["); {
	case v6:
		if a, err := netip.ParseAddr(strings.TrimSuffix(inner, "]")); err != nil || !a.Is6() || a.Zone() != "" || !strings.HasSuffix(inner, "]") {
			return "", false
		}
	case host != "*" && !isSubdomain(strings.TrimPrefix(host, "*.")):
		return "", false
	}
	if port != "" && port != usual {
		host += ":" + port
	}
	return scheme + "://" + host, true
}
