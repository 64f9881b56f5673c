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
	port, ns := p.Number, gw.Namespace(p.Namespace)
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
			(ref.Port == nil || *ref.Port == p.Number) && (ref.SectionName == nil || string(*ref.SectionName) == p.Section)
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
