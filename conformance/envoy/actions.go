package envoy

import (
	"fmt"
	"strings"
	"time"

	gw "sigs.k8s.io/gateway-api/apis/v1"
)

// httpAction says what a rule does: where it sends, and its filters, timeouts and retries.
func (r Rules) httpAction(from string, y gw.HTTPRouteRule, prefix string) (object, error) {
	out, route := object{}, object{"timeout": "0s", "max_grpc_timeout": "0s", "cluster_not_found_response_code": "INTERNAL_SERVER_ERROR"}
	for _, f := range y.Filters {
		switch f.Type {
		case gw.HTTPRouteFilterRequestRedirect:
			out["redirect"] = redirect(f.RequestRedirect, prefix)
		case gw.HTTPRouteFilterURLRewrite:
			rewrite(route, f.URLRewrite, prefix)
		case gw.HTTPRouteFilterRequestMirror:
			m, err := r.mirror(from, f.RequestMirror)
			if err != nil {
				return nil, err
			}
			before, _ := route["request_mirror_policies"].(list)
			route["request_mirror_policies"] = append(before, m)
		case gw.HTTPRouteFilterCORS:
			Merge(out, object{"typed_per_filter_config": object{"envoy.filters.http.cors": cors(f.CORS)}})
		case gw.HTTPRouteFilterRequestHeaderModifier:
			edit(out, "request", f.RequestHeaderModifier)
		case gw.HTTPRouteFilterResponseHeaderModifier:
			edit(out, "response", f.ResponseHeaderModifier)
		case gw.HTTPRouteFilterExtensionRef, gw.HTTPRouteFilterExternalAuth:
			// A case that has one says itself what it means to Envoy.
		default:
			return nil, fmt.Errorf("filter %s is not understood", f.Type)
		}
	}
	if out["redirect"] != nil {
		return out, nil
	}
	if err := timeouts(route, y); err != nil {
		return nil, err
	}
	backends, err := r.backends(from, y.BackendRefs)
	if err != nil {
		return nil, err
	}
	if backends == nil {
		out["direct_response"] = object{"status": 500}
		return out, nil
	}
	out["route"] = Merge(route, backends)
	return out, nil
}

// backends is where a rule sends, nil if it is nowhere.
func (r Rules) backends(from string, refs []gw.HTTPBackendRef) (object, error) {
	var clusters list
	for i, ref := range refs {
		name, ok := r.Cluster(from, ref.BackendObjectReference)
		if !ok {
			name = fmt.Sprintf("missing-%d", i) // is not found: 500, as the specification says
		}
		weight := int32(1)
		if ref.Weight != nil {
			weight = *ref.Weight
		}
		if weight == 0 {
			continue
		}
		c := object{"name": name, "weight": weight}
		for _, f := range ref.Filters {
			switch f.Type {
			case gw.HTTPRouteFilterRequestHeaderModifier:
				edit(c, "request", f.RequestHeaderModifier)
			case gw.HTTPRouteFilterResponseHeaderModifier:
				edit(c, "response", f.ResponseHeaderModifier)
			case gw.HTTPRouteFilterExtensionRef:
			default:
				return nil, fmt.Errorf("filter %s of a backend is not understood", f.Type)
			}
		}
		clusters = append(clusters, c)
	}
	if clusters == nil {
		return nil, nil
	}
	return object{"weighted_clusters": object{"clusters": clusters}}, nil
}

// edit adds a header modifier: set, add, remove, for a request or a response.
func edit(to object, side string, f *gw.HTTPHeaderFilter) {
	var add list
	for _, h := range f.Set {
		add = append(add, object{"header": object{"key": string(h.Name), "value": h.Value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"})
	}
	for _, h := range f.Add {
		add = append(add, object{"header": object{"key": string(h.Name), "value": h.Value}, "append_action": "APPEND_IF_EXISTS_OR_ADD"})
	}
	if add != nil {
		to[side+"_headers_to_add"] = add
	}
	if len(f.Remove) > 0 {
		to[side+"_headers_to_remove"] = f.Remove
	}
}

func redirect(f *gw.HTTPRequestRedirectFilter, prefix string) object {
	o, status := object{}, 302
	if f.StatusCode != nil {
		status = *f.StatusCode
	}
	o["response_code"] = map[int]string{301: "MOVED_PERMANENTLY", 302: "FOUND", 303: "SEE_OTHER", 307: "TEMPORARY_REDIRECT", 308: "PERMANENT_REDIRECT"}[status]
	if f.Scheme != nil {
		o["scheme_redirect"] = *f.Scheme
	}
	if f.Hostname != nil {
		o["host_redirect"] = string(*f.Hostname)
	}
	if f.Port != nil {
		o["port_redirect"] = *f.Port
	}
	if f.Path != nil {
		switch f.Path.Type {
		case gw.FullPathHTTPPathModifier:
			o["path_redirect"] = *f.Path.ReplaceFullPath
		case gw.PrefixMatchHTTPPathModifier:
			prefixEdit(o, "regex_rewrite", prefix, *f.Path.ReplacePrefixMatch)
		}
	}
	return o
}

func rewrite(route object, f *gw.HTTPURLRewriteFilter, prefix string) {
	if f.Hostname != nil {
		route["host_rewrite_literal"] = string(*f.Hostname)
	}
	if f.Path == nil {
		return
	}
	switch f.Path.Type {
	case gw.FullPathHTTPPathModifier:
		route["regex_rewrite"] = object{"pattern": object{"regex": "^[^?]*"}, "substitution": *f.Path.ReplaceFullPath}
	case gw.PrefixMatchHTTPPathModifier:
		prefixEdit(route, "regex_rewrite", prefix, *f.Path.ReplacePrefixMatch)
	}
}

// prefixEdit replaces the prefix that a rule matched. Where what comes in its
// place ends with a slash, a slash that follows is taken with it.
func prefixEdit(to object, field, prefix, value string) {
	value, prefix = strings.TrimRight(value, "/"), strings.TrimRight(prefix, "/")
	if value != "" && prefix != "" {
		to["prefix_rewrite"] = value
		return
	}
	to[field] = object{"pattern": object{"regex": "^" + prefix + "/*"}, "substitution": value + "/"}
}

func (r Rules) mirror(from string, f *gw.HTTPRequestMirrorFilter) (object, error) {
	name, ok := r.Cluster(from, f.BackendRef)
	if !ok {
		return nil, fmt.Errorf("a mirror leads to nothing: %v", f.BackendRef.Name)
	}
	m := object{"cluster": name}
	fraction := func(n, of uint32) object {
		return object{"default_value": object{"numerator": uint64(n) * 1_000_000 / uint64(of), "denominator": "MILLION"}}
	}
	switch {
	case f.Percent != nil:
		m["runtime_fraction"] = fraction(uint32(*f.Percent), 100)
	case f.Fraction != nil:
		of := uint32(100)
		if f.Fraction.Denominator != nil {
			of = uint32(*f.Fraction.Denominator)
		}
		m["runtime_fraction"] = fraction(uint32(f.Fraction.Numerator), of)
	}
	return m, nil
}

func cors(f *gw.HTTPCORSFilter) object {
	o := object{}
	var origins list
	for _, x := range f.AllowOrigins {
		if strings.Contains(string(x), "*") {
			regex := strings.ReplaceAll(strings.ReplaceAll(string(x), ".", `\.`), "*", ".+")
			origins = append(origins, object{"safe_regex": object{"regex": regex}})
			continue
		}
		origins = append(origins, object{"exact": string(x)})
	}
	o["allow_origin_string_match"] = origins
	join := func(field string, values []string) {
		if len(values) > 0 {
			o[field] = strings.Join(values, ",")
		}
	}
	join("allow_methods", texts(f.AllowMethods))
	join("allow_headers", texts(f.AllowHeaders))
	join("expose_headers", texts(f.ExposeHeaders))
	if f.AllowCredentials != nil {
		o["allow_credentials"] = *f.AllowCredentials
	}
	if f.MaxAge > 0 {
		o["max_age"] = fmt.Sprint(f.MaxAge)
	}
	return typed("envoy.extensions.filters.http.cors.v3.CorsPolicy", o)
}

func texts[T ~string](from []T) []string {
	var out []string
	for _, x := range from {
		out = append(out, string(x))
	}
	return out
}

// timeouts says the rule's timeouts and retries in Envoy's words. Without any
// of them a route retries as istiod has it retry.
func timeouts(route object, y gw.HTTPRouteRule) error {
	retry := object{
		"retry_on":    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
		"num_retries": 2, "host_selection_retry_max_attempts": "5",
		"retry_host_predicate": list{named("envoy.retry_host_predicates.previous_hosts", "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", nil)},
	}
	if t := y.Timeouts; t != nil {
		if t.Request != nil {
			d, err := time.ParseDuration(string(*t.Request))
			if err != nil {
				return err
			}
			route["timeout"] = seconds(d)
		}
		if t.BackendRequest != nil {
			d, err := time.ParseDuration(string(*t.BackendRequest))
			if err != nil {
				return err
			}
			retry["per_try_timeout"] = seconds(d)
		}
	}
	if r := y.Retry; r != nil {
		retry["num_retries"] = 1
		if r.Attempts != nil {
			retry["num_retries"] = *r.Attempts
		}
		var codes list
		for _, c := range r.Codes {
			codes = append(codes, int(c))
		}
		retry["retry_on"] = "connect-failure,refused-stream,reset,retriable-status-codes"
		retry["retriable_status_codes"] = codes
		if r.Backoff != nil {
			d, err := time.ParseDuration(string(*r.Backoff))
			if err != nil {
				return err
			}
			retry["retry_back_off"] = object{"base_interval": seconds(d), "max_interval": seconds(10 * d)}
		}
	}
	route["retry_policy"] = retry
	return nil
}

func seconds(d time.Duration) string { return fmt.Sprintf("%gs", d.Seconds()) }
