package envoy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	gw "sigs.k8s.io/gateway-api/apis/v1"
)

// Rules are the routes of Gateway API that say what a waypoint does, in the
// kinds and fields that Envoy has words for.
type Rules struct {
	HTTP []gw.HTTPRoute
	GRPC []gw.GRPCRoute
	// Cluster returns the name of the cluster of a Service's port, seen from a
	// namespace, and whether there is one that may be used.
	Cluster func(from string, ref gw.BackendObjectReference) (string, bool)
}

// Port is one port of a Service as a parent.
type Port struct {
	Namespace, Name, Section string
	Number                   int32
}

func (p Port) cluster(r Rules) string {
	port, ns := gw.PortNumber(p.Number), gw.Namespace(p.Namespace)
	name, _ := r.Cluster(p.Namespace, gw.BackendObjectReference{Name: gw.ObjectName(p.Name), Namespace: &ns, Port: &port})
	return name
}

// rule is one match of a route with what follows it.
type rule struct {
	match    object
	consumer string // namespace of the clients that it is for; empty: all
	action   object

	rank [5]int    // kind of path, its length, method, headers, queries: more is first
	made time.Time // of the route
	name string    // of the route
	n    int
}

// Routes returns the routes of a port in the order of precedence that Gateway
// API demands. A port without any has nil.
func (r Rules) Routes(p Port) (List, error) {
	var all []rule
	for _, x := range r.HTTP {
		if !attached(x.Spec.ParentRefs, x.Namespace, p) {
			continue
		}
		rules, err := r.httpRoute(x, p)
		if err != nil {
			return nil, fmt.Errorf("HTTPRoute %s/%s: %w", x.Namespace, x.Name, err)
		}
		all = append(all, rules...)
	}
	for _, x := range r.GRPC {
		if !attached(x.Spec.ParentRefs, x.Namespace, p) {
			continue
		}
		rules, err := r.grpcRoute(x)
		if err != nil {
			return nil, fmt.Errorf("GRPCRoute %s/%s: %w", x.Namespace, x.Name, err)
		}
		all = append(all, rules...)
	}
	slices.SortStableFunc(all, func(a, b rule) int {
		// A client that has consumer routes has only these.
		if c := cmp.Compare(b2i(b.consumer != ""), b2i(a.consumer != "")); c != 0 {
			return c
		}
		for i := range a.rank {
			if c := cmp.Compare(b.rank[i], a.rank[i]); c != 0 {
				return c
			}
		}
		return cmp.Or(a.made.Compare(b.made), strings.Compare(a.name, b.name), cmp.Compare(a.n, b.n))
	})
	if len(all) > 0 && all[len(all)-1].consumer != "" {
		all = append(all, rule{match: object{"prefix": "/"}, action: r.Default(p.cluster(r))[0].(object)}) // for those who are no consumers
	}
	var out list
	for i, x := range all {
		o := Merge(object{"name": fmt.Sprintf("route-%d", i), "match": x.match}, x.action)
		if x.consumer != "" {
			x.match["filter_state"] = list{object{
				"key":          "io.istio.peer_principal",
				"string_match": object{"prefix": "spiffe://cluster.local/ns/" + x.consumer + "/"},
			}}
		}
		out = append(out, o)
	}
	return out, nil
}

// Default returns the routes of a port that no route object is attached to.
func (r Rules) Default(cluster string) List {
	route := object{"timeout": "0s", "max_grpc_timeout": "0s", "cluster": cluster}
	_ = timeouts(route, gw.HTTPRouteRule{}) // nothing in it can be wrong
	return list{object{"name": "default", "match": object{"prefix": "/"}, "route": route}}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func attached(refs []gw.ParentReference, from string, p Port) bool {
	return slices.ContainsFunc(refs, func(ref gw.ParentReference) bool {
		kind, ns := "Gateway", from
		if ref.Kind != nil {
			kind = string(*ref.Kind)
		}
		if ref.Namespace != nil {
			ns = string(*ref.Namespace)
		}
		return kind == "Service" && ns == p.Namespace && string(ref.Name) == p.Name &&
			(ref.Port == nil || int32(*ref.Port) == p.Number) && (ref.SectionName == nil || string(*ref.SectionName) == p.Section)
	})
}

func (r Rules) httpRoute(x gw.HTTPRoute, p Port) ([]rule, error) {
	var all []rule
	for i, y := range x.Spec.Rules {
		matches := y.Matches
		if len(matches) == 0 {
			matches = []gw.HTTPRouteMatch{{}}
		}
		for _, m := range matches {
			one, prefix, err := httpMatch(m)
			if err != nil {
				return nil, fmt.Errorf("rule %d: %w", i, err)
			}
			if one.action, err = r.httpAction(x.Namespace, y, prefix); err != nil {
				return nil, fmt.Errorf("rule %d: %w", i, err)
			}
			one.made, one.name, one.n = x.CreationTimestamp.Time, x.Namespace+"/"+x.Name, len(all)
			if x.Namespace != p.Namespace {
				one.consumer = x.Namespace
			}
			all = append(all, one)
		}
	}
	return all, nil
}

// httpMatch returns a match and the path prefix that it names.
func httpMatch(m gw.HTTPRouteMatch) (rule, string, error) {
	kind, value := gw.PathMatchPathPrefix, "/"
	if m.Path != nil {
		if m.Path.Type != nil {
			kind = *m.Path.Type
		}
		if m.Path.Value != nil {
			value = *m.Path.Value
		}
	}
	x := rule{match: object{}}
	switch kind {
	case gw.PathMatchExact:
		x.match["path"], x.rank[0] = value, 2
	case gw.PathMatchPathPrefix:
		value = strings.TrimRight(value, "/")
		if value == "" {
			x.match["prefix"] = "/"
		} else {
			x.match["path_separated_prefix"] = value
		}
		x.rank[0] = 1
	case gw.PathMatchRegularExpression:
		x.match["safe_regex"] = object{"regex": value}
		x.rank[0] = 1 // how it compares with a prefix is for implementations to say: by its length
	default:
		return x, "", fmt.Errorf("path type %s is not understood", kind)
	}
	x.rank[1] = len(value)
	var headers, queries list
	if m.Method != nil {
		headers = append(headers, object{"name": ":method", "string_match": object{"exact": string(*m.Method)}})
		x.rank[2] = 1
	}
	for _, h := range m.Headers {
		headers = append(headers, object{"name": string(h.Name), "string_match": stringMatch(h.Type != nil && *h.Type == gw.HeaderMatchRegularExpression, h.Value)})
	}
	for _, q := range m.QueryParams {
		queries = append(queries, object{"name": string(q.Name), "string_match": stringMatch(q.Type != nil && *q.Type == gw.QueryParamMatchRegularExpression, q.Value)})
	}
	x.rank[3], x.rank[4] = len(m.Headers), len(queries)
	if headers != nil {
		x.match["headers"] = headers
	}
	if queries != nil {
		x.match["query_parameters"] = queries
	}
	return x, value, nil
}

func stringMatch(regex bool, value string) object {
	if regex {
		return object{"safe_regex": object{"regex": value}}
	}
	return object{"exact": value}
}

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
		case gw.HTTPRouteFilterExtensionRef:
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

func (r Rules) grpcRoute(x gw.GRPCRoute) ([]rule, error) {
	var all []rule
	for i, y := range x.Spec.Rules {
		matches := y.Matches
		if len(matches) == 0 {
			matches = []gw.GRPCRouteMatch{{}}
		}
		h := gw.HTTPRouteRule{}
		for _, f := range y.Filters {
			g := gw.HTTPRouteFilter{
				Type: gw.HTTPRouteFilterType(f.Type), RequestHeaderModifier: f.RequestHeaderModifier,
				ResponseHeaderModifier: f.ResponseHeaderModifier, RequestMirror: f.RequestMirror,
			}
			h.Filters = append(h.Filters, g)
		}
		for _, b := range y.BackendRefs {
			ref := gw.HTTPBackendRef{BackendRef: b.BackendRef}
			for _, f := range b.Filters {
				ref.Filters = append(ref.Filters, gw.HTTPRouteFilter{
					Type: gw.HTTPRouteFilterType(f.Type), RequestHeaderModifier: f.RequestHeaderModifier, ResponseHeaderModifier: f.ResponseHeaderModifier,
				})
			}
			h.BackendRefs = append(h.BackendRefs, ref)
		}
		for _, m := range matches {
			one := rule{match: grpcMatch(m), made: x.CreationTimestamp.Time, name: x.Namespace + "/" + x.Name, n: len(all)}
			if m.Method != nil {
				one.rank[0] = 1
				if m.Method.Service != nil {
					one.rank[1] = len(*m.Method.Service)
				}
				if m.Method.Method != nil {
					one.rank[2] = len(*m.Method.Method)
				}
			}
			one.rank[3] = len(m.Headers)
			var err error
			if one.action, err = r.httpAction(x.Namespace, h, "/"); err != nil {
				return nil, fmt.Errorf("rule %d: %w", i, err)
			}
			all = append(all, one)
		}
	}
	return all, nil
}

func grpcMatch(m gw.GRPCRouteMatch) object {
	o := object{"prefix": "/"}
	if m.Method != nil {
		service, method := "[^/]+", "[^/]+"
		quote := func(s string) string {
			if m.Method.Type != nil && *m.Method.Type == gw.GRPCMethodMatchRegularExpression {
				return s
			}
			return strings.ReplaceAll(s, ".", `\.`)
		}
		if m.Method.Service != nil {
			service = quote(*m.Method.Service)
		}
		if m.Method.Method != nil {
			method = quote(*m.Method.Method)
		}
		o = object{"safe_regex": object{"regex": "/" + service + "/" + method}}
	}
	var headers list
	for _, h := range m.Headers {
		headers = append(headers, object{"name": string(h.Name), "string_match": stringMatch(h.Type != nil && *h.Type == gw.GRPCHeaderMatchRegularExpression, h.Value)})
	}
	if headers != nil {
		o["headers"] = headers
	}
	return o
}
