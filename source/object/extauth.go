package object

import (
	"strings"

	"cairnproxy.dev/cairn/mesh"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// externalAuth translates an ExternalAuth filter (GEP-1494). One that leads to nobody breaks its rule: requests
// get 500, as for any filter that cannot be resolved.
func (t *translator) externalAuth(r *routeObject, path string, in *gwv1.HTTPExternalAuthFilter) *mesh.ExtAuthz {
	o, out := r.Object, &mesh.ExtAuthz{}
	switch in.ExternalAuthProtocol {
	case gwv1.HTTPRouteExternalAuthGRPCProtocol:
		out.GRPC = true
	case gwv1.HTTPRouteExternalAuthHTTPProtocol:
	default:
		t.bad(o, path+".protocol", "%q is not known; use HTTP or GRPC", clip(string(in.ExternalAuthProtocol)))
	}
	first := len(t.trail)
	out.Service, out.Port, _ = t.referredPort(o, path+".backendRef", &in.BackendRef)
	out.Broken = t.brokenSince(first)
	if g := in.GRPCAuthConfig; g != nil {
		if !out.GRPC {
			t.bad(o, path+".grpc", "it has no effect with protocol HTTP; remove it, or use http")
		}
		out.RequestHeaders = t.headerNames(o, path+".grpc.allowedHeaders", g.AllowedRequestHeaders)
	}
	if h := in.HTTPAuthConfig; h != nil {
		if out.GRPC {
			t.bad(o, path+".http", "it has no effect with protocol GRPC; remove it, or use grpc")
		}
		out.PathPrefix = h.Path
		if h.Path != "" && h.Path[0] != '/' {
			out.PathPrefix = "/" + h.Path
		}
		if strings.ContainsAny(h.Path, "?# ") || !isFieldValue(h.Path) || len(h.Path) > 1024 {
			t.bad(o, path+".http.path", "%q is no path; leave out query and spaces", clip(h.Path))
		}
		out.RequestHeaders = t.headerNames(o, path+".http.allowedHeaders", h.AllowedRequestHeaders)
		out.UpstreamOnAllow = t.headerNames(o, path+".http.allowedResponseHeaders", h.AllowedResponseHeaders)
	}
	if !out.GRPC && len(out.UpstreamOnAllow) == 0 {
		out.UpstreamOnAllow = []string{"*"}
	}
	if b := in.ForwardBody; b != nil {
		out.Body, out.PackAsBytes = int(b.MaxSize), true // longer ones are refused
	}
	return out
}

func (t *translator) headerNames(o *Object, path string, list []string) (out []string) {
	for i, s := range list {
		if !isToken(s) || strings.Contains(s, "*") {
			t.bad(o, elem(path, i), "%q is not a header's name; use letters, digits and '-'", clip(s))
		}
		out = append(out, strings.ToLower(s))
	}
	return out
}
