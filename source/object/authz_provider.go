package object

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// authzProvider finds the provider of a CUSTOM policy among MeshConfig's extensionProviders. One that is not
// there, or is not as it must be, is told of at the policy, and refuses what the policy matches.
func (t *translator) authzProvider(o *Object, path, name string) *mesh.ExtAuthz {
	p, known := t.providers[name]
	if !known {
		p = t.extAuthzProvider(name)
		if t.providers == nil {
			t.providers = map[string]*mesh.ExtAuthz{}
		}
		t.providers[name] = p
	}
	if p.Broken != "" {
		t.unresolved(o, path, reasonNotFound, "%s", p.Broken)
	}
	return p
}

// extAuthzProvider translates the provider of a name. Broken says what is wrong with it, and
// what to do.
func (t *translator) extAuthzProvider(name string) *mesh.ExtAuthz {
	out := &mesh.ExtAuthz{Name: name}
	i := slices.IndexFunc(t.mesh.extensionProviders, func(p extensionProvider) bool { return p.name == name })
	if i < 0 {
		out.Broken = fmt.Sprintf("there is no extension provider %q; add it to MeshConfig's extensionProviders (ConfigMap %s/%s), or correct the name",
			clip(name), t.opts.RootNamespace, meshConfigName)
		return out
	}
	p := &t.mesh.extensionProviders[i]
	at := t.mesh.path(elem("extensionProviders", i))
	r := providerReader{t: t, out: out, at: at + "."}
	kind, api := p.kind()
	switch {
	case slices.ContainsFunc(t.mesh.extensionProviders[i+1:], func(q extensionProvider) bool { return q.name == name }):
		r.wrong("name", "there are several extension providers of this name; rename all but one")
	case p.wrong != "":
		r.wrong(p.wrongAt, "%s", p.wrong)
	case kind == "":
		r.wrong("name", "the provider is not for external authorization; name one with %s or %s", providerGRPC, providerHTTP)
	case api == nil:
		r.wrong(providerHTTP, "%s exclude each other; remove one", kind)
	default:
		out.GRPC = kind == providerGRPC
		r.at += kind + "."
		r.read(api)
	}
	return out
}

// providerReader translates one provider; the first mistake counts.
type providerReader struct {
	t   *translator
	out *mesh.ExtAuthz
	at  string
}

func (r *providerReader) wrong(field, format string, args ...any) {
	if r.out.Broken == "" {
		r.out.Broken = fmt.Sprintf("extension provider %q cannot be asked: ConfigMap %s, %s: %s", clip(r.out.Name), r.t.mesh.object.Name, r.at+field, fmt.Sprintf(format, args...))
	}
}

// maxCheckBody bounds how much of a body a question may have.
const maxCheckBody = 16 << 20

func (r *providerReader) read(in *extAuthzAPI) {
	out := r.out
	r.service(in)
	out.FailOpen = in.FailOpen
	if in.Timeout != "" {
		d, err := time.ParseDuration(in.Timeout)
		if err != nil || d <= 0 {
			r.wrong("timeout", "%q is no duration above 0; write it like 0.5s", clip(in.Timeout))
		}
		out.Timeout = d
	}
	if in.StatusOnError != "" {
		n, err := strconv.Atoi(in.StatusOnError)
		if err != nil || n < 200 || n > 599 {
			r.wrong("statusOnError", "%q is no status; use 200 to 599", clip(in.StatusOnError))
		}
		out.StatusOnError = n
	}
	if b := in.IncludeRequestBodyInCheck; b != nil {
		if b.MaxRequestBytes < 1 || b.MaxRequestBytes > maxCheckBody {
			r.wrong("includeRequestBodyInCheck.maxRequestBytes", "%d is out of range; use 1 to %d", b.MaxRequestBytes, maxCheckBody)
		}
		out.Body, out.PartialBody, out.PackAsBytes = int(b.MaxRequestBytes), b.AllowPartialMessage, b.PackAsBytes
	}
	if out.GRPC {
		if in.PathPrefix != "" || len(in.IncludeAdditionalHeadersInCheck) > 0 ||
			len(in.IncludeHeadersInCheck)+len(in.IncludeRequestHeadersInCheck)+len(in.HeadersToUpstreamOnAllow)+len(in.HeadersToDownstreamOnDeny)+len(in.HeadersToDownstreamOnAllow) > 0 {
			r.wrong("service", "pathPrefix and the lists of headers are of %s alone; remove them", providerHTTP)
		}
		return
	}
	if in.PathPrefix != "" && (in.PathPrefix[0] != '/' || strings.ContainsAny(in.PathPrefix, "?# ") || !isFieldValue(in.PathPrefix)) {
		r.wrong("pathPrefix", "%q is no path; begin with /, without query", clip(in.PathPrefix))
	}
	out.PathPrefix = in.PathPrefix
	out.RequestHeaders = append(r.names("includeHeadersInCheck", in.IncludeHeadersInCheck), r.names("includeRequestHeadersInCheck", in.IncludeRequestHeadersInCheck)...)
	out.UpstreamOnAllow = r.names("headersToUpstreamOnAllow", in.HeadersToUpstreamOnAllow)
	out.DownstreamOnDeny = r.names("headersToDownstreamOnDeny", in.HeadersToDownstreamOnDeny)
	out.DownstreamOnAllow = r.names("headersToDownstreamOnAllow", in.HeadersToDownstreamOnAllow)
	for _, k := range slices.Sorted(maps.Keys(in.IncludeAdditionalHeadersInCheck)) {
		v := in.IncludeAdditionalHeadersInCheck[k]
		if !isToken(k) || !isFieldValue(v) {
			r.wrong("includeAdditionalHeadersInCheck", "%q is no header with a value that can be sent; correct it", clip(k))
		}
		out.AddHeaders = append(out.AddHeaders, mesh.Field{Name: strings.ToLower(k), Value: v})
	}
}

// names checks patterns of header names: whole, or with a * at the end or the beginning.
func (r *providerReader) names(field string, list []string) (out []string) {
	for i, s := range list {
		name := strings.ToLower(s)
		if bare := strings.TrimPrefix(strings.TrimSuffix(name, "*"), "*"); name != "*" && (!isToken(bare) || strings.Contains(bare, "*")) {
			r.wrong(elem(field, i), "%q is no header's name; write it like x-user or x-user-*", clip(s))
		}
		out = append(out, name)
	}
	return out
}

// service finds the service that is asked: [NAMESPACE/]HOST, as Istio has it.
func (r *providerReader) service(in *extAuthzAPI) {
	t := r.t
	if in.Service == "" {
		r.wrong("service", "it names no service; write NAMESPACE/HOST, such as auth/authz.auth.svc.%s", t.opts.ClusterDomain)
		return
	}
	ns, host, both := strings.Cut(in.Service, "/")
	var s *service
	if host = strings.ToLower(host); both {
		s = t.byHost[mesh.ServiceKey{Namespace: ns, Hostname: host}]
	} else {
		s = t.host(strings.ToLower(ns), t.opts.RootNamespace)
	}
	if s == nil {
		r.wrong("service", "no Service or ServiceEntry has host %q; correct it (NAMESPACE/HOST), or add the Service", clip(in.Service))
		return
	}
	r.out.Service = s.model.Key
	switch {
	case in.Port < 1 || in.Port > 65535:
		r.wrong("port", "%d is not a port; %s", in.Port, portRemedy)
	case s.model.Port(uint16(in.Port)) == nil:
		r.wrong("port", "%s has no TCP port %d; %s", s.obj, in.Port, portsOf(s))
	default:
		r.out.Port = uint16(in.Port)
	}
}
