package envoy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/conformance/ca"
)

// Waypoint is Envoy as istiod configures it for a waypoint:
//
//	connect_terminate (mTLS, CONNECT) ─► main_internal (by VIP and port: HTTP filters, route)
//	    ─► inbound-vip cluster ─► connect_originate ─► ORIGINAL_DST cluster (mTLS, CONNECT, port 15008)
type Waypoint struct {
	Listen    netip.AddrPort // where HBONE is accepted
	Admin     netip.AddrPort
	Files     ca.Files
	Services  []Service
	RBAC      *RBAC          // of the services that have none of their own; nil: no RBAC filter
	AccessLog string         // file; empty: none
	Stats     bool           // Istio's standard metrics, by what stands in for Istio's filter
	Clusters  List           // that no service has
	Inspect   bool           // TLS inside the tunnels is looked at for its server name
	Collector netip.AddrPort // of one in a hundred requests' spans; zero: no tracing
}

// Service is one HTTP port of a service behind the waypoint.
type Service struct {
	Host      string           // hostname
	Addr      netip.AddrPort   // virtual address and port, as CONNECT names it
	Endpoints []netip.AddrPort // pods and their target ports; their HBONE port is 15008
	Prefixes  []string         // path prefixes of the routes, in order; empty: one route for /
	TCP       bool             // the port is opaque: bytes are passed on
	HTTP2     bool             // the application is spoken to in HTTP/2, as for gRPC
	RBAC      *RBAC            // nil: the waypoint's

	// What follows is for shapes that the fields above have no words for.
	Routes   List              // in place of Prefixes
	Filters  List              // HTTP filters before the router
	Manager  Object            // over the connection manager
	Cluster  Object            // over the cluster
	Chain    List              // the network filters, in place of all of them
	Network  List              // network filters before the last one
	Groups   []Group           // of endpoints, in place of Endpoints
	Metadata map[string]Object // of endpoints by address and port: what goes over each
}

// Group is the endpoints of one locality.
type Group struct {
	Endpoints []netip.AddrPort
	Zone      string
	Priority  int // 0 is the first
	Weight    int // of the locality among those of its priority; 0: none is said
}

// RBAC is ALLOW rules: the first is these principals with these methods and paths, where
// there are any.
type RBAC struct {
	Principals []string // SPIFFE URIs
	Methods    []string
	Paths      []string // whole, or beginnings that end in *
	Or         []RBAC   // the further rules
}

// Config returns the bootstrap.
func (w Waypoint) Config() any {
	listeners := list{w.connectTerminate(), w.mainInternal(), w.connectOriginate()}
	clusters := list{internalCluster("main_internal"), w.originalDstCluster()}
	for _, s := range w.Services {
		clusters = append(clusters, s.cluster())
	}
	clusters = append(clusters, w.Clusters...)
	if w.Collector.IsValid() {
		clusters = append(clusters, collector(w.Collector))
	}
	return bootstrap(w.Admin, listeners, clusters, true)
}

// AdminAddr returns where the admin endpoint listens.
func (w Waypoint) AdminAddr() netip.AddrPort { return w.Admin }

func (w Waypoint) connectTerminate() object {
	state := func(key, format string) object {
		return object{
			"object_key": key, "shared_with_upstream": "ONCE",
			"format_string": object{"text_format_source": object{"inline_string": format}},
		}
	}
	hashable := func(key, format string) object {
		o := state(key, format)
		o["factory_key"] = "envoy.string" // istio.hashable_string in Istio's build
		return o
	}
	authority := named("connect_authority", "envoy.extensions.filters.http.set_filter_state.v3.Config", object{"on_request_headers": list{
		state("envoy.filters.listener.original_dst.local_ip", "%REQ(:AUTHORITY)%"),
		hashable("io.istio.connect_authority", "%REQ(:AUTHORITY)%"),
		state("envoy.filters.listener.original_dst.remote_ip", "%DOWNSTREAM_REMOTE_ADDRESS%"),
		hashable("io.istio.peer_principal", "%DOWNSTREAM_PEER_URI_SAN%"),
		hashable("io.istio.local_principal", "%DOWNSTREAM_LOCAL_URI_SAN%"),
	}})
	return object{
		"name": "connect_terminate", "address": socket(w.Listen),
		"connection_balance_config": object{"exact_balance": object{}},
		"filter_chains": list{object{
			"name":             "default",
			"transport_socket": downstreamTLS(w.Files),
			"filters":          list{connectManager("connect_terminate", list{connectHost("*", "main_internal")}, list{authority})},
		}},
	}
}

// mainInternal has one filter chain per service port, found by the address
// and then the port that CONNECT named.
func (w Waypoint) mainInternal() object {
	var chains, ranges list
	ports := map[netip.Addr]object{}
	for _, s := range w.Services {
		chains = append(chains, object{"name": s.clusterName(), "filters": w.manager(s)})
		vip := s.Addr.Addr()
		if ports[vip] == nil {
			ports[vip] = object{}
			ranges = append(ranges, object{
				"ranges": list{object{"address_prefix": vip.String(), "prefix_len": vip.BitLen()}},
				"on_match": object{"matcher": object{"matcher_tree": object{
					"input":           named("port", "envoy.extensions.matching.common_inputs.network.v3.DestinationPortInput", nil),
					"exact_match_map": object{"map": ports[vip]},
				}}},
			})
		}
		ports[vip][strconv.Itoa(int(s.Addr.Port()))] = object{"action": named(s.clusterName(), kindString, object{"value": s.clusterName()})}
	}
	filters := list{originalDst()}
	if w.Inspect {
		filters = append(filters, named("envoy.filters.listener.tls_inspector", "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector", nil))
	}
	return object{
		"name": "main_internal", "internal_listener": object{}, "traffic_direction": "INBOUND",
		"listener_filters": filters,
		"filter_chains":    chains,
		"filter_chain_matcher": object{"matcher_tree": object{
			"input":        named("ip", "envoy.extensions.matching.common_inputs.network.v3.DestinationIPInput", nil),
			"custom_match": named("ip", "xds.type.matcher.v3.IPMatcher", object{"range_matchers": ranges}),
		}},
	}
}

// manager is the last network filter of a service's chain.
func (w Waypoint) manager(s Service) list {
	if s.Chain != nil {
		return s.Chain
	}
	return append(append(list{}, s.Network...), w.filter(s))
}

func (w Waypoint) filter(s Service) object {
	if s.TCP {
		proxy := object{"stat_prefix": s.clusterName(), "cluster": s.clusterName()}
		if logs := w.accessLogs(s); logs != nil {
			proxy["access_log"] = logs
		}
		return named("envoy.filters.network.tcp_proxy", kindTCPProxy, proxy)
	}
	return w.httpManager(s)
}

func (w Waypoint) httpManager(s Service) object {
	manager := object{
		"stat_prefix": fmt.Sprintf("inbound_0.0.0.0_%d;", s.Addr.Port()),
		"route_config": object{
			"name": s.clusterName(), "validate_clusters": false,
			"virtual_hosts": list{object{"name": fmt.Sprintf("inbound|http|%d", s.Addr.Port()), "domains": list{"*"}, "routes": s.routes()}},
		},
		"http_filters":       w.httpFilters(s),
		"server_name":        "istio-envoy",
		"use_remote_address": false, "proxy_100_continue": true, "normalize_path": true,
		"stream_idle_timeout":              "0s",
		"path_with_escaped_slashes_action": "KEEP_UNCHANGED",
		"upgrade_configs":                  list{object{"upgrade_type": "websocket"}},
		"request_id_extension": object{"typed_config": typed("envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig", object{
			"use_request_id_for_trace_sampling": true,
		})},
	}
	if logs := w.accessLogs(s); logs != nil {
		manager["access_log"] = logs
	}
	if w.Collector.IsValid() {
		manager["tracing"] = tracing()
	}
	return named("envoy.filters.network.http_connection_manager", kindHCM, Merge(manager, s.Manager))
}

// istioLogFormat is the text format that Istio gives its proxies.
const istioLogFormat = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% " +
	"%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% " +
	"%DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" " +
	"\"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% " +
	"%DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"

func (w Waypoint) httpFilters(s Service) list {
	var filters list
	if s.RBAC != nil {
		filters = append(filters, s.RBAC.filter())
	} else if w.RBAC != nil {
		filters = append(filters, w.RBAC.filter())
	}
	filters = append(filters,
		named("envoy.filters.http.grpc_stats", "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig", object{
			"emit_filter_state": true, "stats_for_all_methods": false,
		}),
		named("envoy.filters.http.fault", "envoy.extensions.filters.http.fault.v3.HTTPFault", nil),
		named("envoy.filters.http.cors", "envoy.extensions.filters.http.cors.v3.Cors", nil),
	)
	return append(append(filters, s.Filters...), router())
}

// filter is the shape that istiod gives ALLOW policies: one filter for all of them, with a policy for each
// rule; principals by the filter state that connect_terminate set, methods by header.
func (r RBAC) filter() object {
	policies := object{}
	for i, rule := range append([]RBAC{r}, r.Or...) {
		policies[fmt.Sprintf("ns[bench]-policy[allow]-rule[%d]", i)] = rule.policy()
	}
	return named("envoy.filters.http.rbac", "envoy.extensions.filters.http.rbac.v3.RBAC", object{
		"rules":                    object{"policies": policies},
		"shadow_rules_stat_prefix": "istio_dry_run_allow_",
	})
}

func (r RBAC) policy() object {
	var permissions, methods, paths, principals list
	for _, m := range r.Methods {
		methods = append(methods, object{"header": object{"name": ":method", "string_match": object{"exact": m}}})
	}
	for _, p := range r.Paths {
		match := object{"exact": p}
		if prefix, ok := strings.CutSuffix(p, "*"); ok {
			match = object{"prefix": prefix}
		}
		paths = append(paths, object{"url_path": object{"path": match}})
	}
	for _, p := range r.Principals {
		principals = append(principals, object{"filter_state": object{"key": "io.istio.peer_principal", "string_match": object{"exact": p}}})
	}
	for _, some := range []list{methods, paths} {
		if len(some) > 0 {
			permissions = append(permissions, object{"or_rules": object{"rules": some}})
		}
	}
	return object{
		"permissions": list{object{"and_rules": object{"rules": permissions}}},
		"principals":  list{object{"and_ids": object{"ids": list{object{"or_ids": object{"ids": principals}}}}}},
	}
}

func (w Waypoint) connectOriginate() object {
	return object{
		"name": "connect_originate", "internal_listener": object{},
		"listener_filters": list{originalDst()},
		"filter_chains": list{object{"filters": list{named("envoy.filters.network.tcp_proxy", kindTCPProxy, object{
			"stat_prefix": "connect_originate", "cluster": "connect_originate",
			"tunneling_config": object{"hostname": "%DOWNSTREAM_LOCAL_ADDRESS%"},
		})}}},
	}
}

func (w Waypoint) originalDstCluster() object {
	return object{
		"name": "connect_originate", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "10s",
		"cleanup_interval": "60s", "circuit_breakers": unlimited,
		"typed_extension_protocol_options": h2Options(),
		"original_dst_lb_config": object{
			"upstream_port_override": 15008,
			"metadata_key":           object{"key": "envoy.filters.listener.original_dst", "path": list{object{"key": "waypoint"}}},
		},
		"transport_socket": upstreamTLS(w.Files, ""),
	}
}

// internalCluster leads to the internal listener of the same name.
func internalCluster(name string) object {
	return object{
		"name": name, "type": "STATIC", "circuit_breakers": unlimited,
		"load_assignment": object{"cluster_name": name, "endpoints": list{object{"lb_endpoints": list{object{"endpoint": object{
			"address": object{"envoy_internal_address": object{"server_listener_name": name}},
		}}}}}},
		"typed_extension_protocol_options": object{kindHTTPOptions: typed(kindHTTPOptions, object{
			"common_http_protocol_options":   object{"idle_timeout": "300s"},
			"use_downstream_protocol_config": object{"http_protocol_options": object{}, "http2_protocol_options": object{}},
		})},
		"transport_socket": named("internal_upstream", kindInternal, object{
			"transport_socket": named("raw_buffer", kindRaw, nil),
		}),
	}
}

// ClusterName is the name of the service's cluster.
func (s Service) ClusterName() string { return s.clusterName() }

func (s Service) clusterName() string {
	kind := "http"
	if s.TCP {
		kind = "tcp"
	}
	return fmt.Sprintf("inbound-vip|%d|%s|%s", s.Addr.Port(), kind, s.Host)
}

// cluster leads to connect_originate with the endpoint in metadata.
func (s Service) cluster() object {
	groups := s.Groups
	if groups == nil {
		groups = []Group{{Endpoints: s.Endpoints}}
	}
	var localities list
	for _, g := range groups {
		o := object{"lb_endpoints": s.endpoints(g.Endpoints)}
		if g.Zone != "" {
			o["locality"] = object{"zone": g.Zone}
		}
		if g.Priority > 0 {
			o["priority"] = g.Priority
		}
		if g.Weight > 0 {
			o["load_balancing_weight"] = g.Weight
		}
		localities = append(localities, o)
	}
	host := func(name string) object { return object{"kind": object{"host": object{}}, "name": name} }
	cluster := object{
		"name": s.clusterName(), "type": "STATIC", "connect_timeout": "10s", "lb_policy": "LEAST_REQUEST",
		"circuit_breakers": unlimited, "common_lb_config": object{"healthy_panic_threshold": object{}},
		"load_assignment": object{"cluster_name": s.clusterName(), "endpoints": localities},
		"transport_socket": named("internal_upstream", kindInternal, object{
			"passthrough_metadata": list{host("envoy.filters.listener.original_dst"), host("istio")},
			"transport_socket":     named("raw_buffer", kindRaw, nil),
		}),
	}
	if s.HTTP2 {
		cluster["typed_extension_protocol_options"] = h2Options()
	}
	return Merge(cluster, s.Cluster)
}

func (s Service) endpoints(addrs []netip.AddrPort) list {
	endpoints := list{}
	for _, e := range addrs {
		endpoints = append(endpoints, Merge(object{
			"endpoint": object{"address": object{"envoy_internal_address": object{
				"server_listener_name": "connect_originate", "endpoint_id": e.String(),
			}}},
			"health_status": "HEALTHY", "load_balancing_weight": 1,
			"metadata": object{"filter_metadata": object{
				"envoy.filters.listener.original_dst": object{"local": e.String()},
				"istio":                               object{"workload": "server;bench;server;v1;Kubernetes"},
			}},
		}, s.Metadata[e.String()]))
	}
	return endpoints
}

func (s Service) routes() list {
	if s.Routes != nil {
		return s.Routes
	}
	retry := object{
		"retry_on":    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
		"num_retries": 2, "host_selection_retry_max_attempts": "5",
		"retry_host_predicate": list{named("envoy.retry_host_predicates.previous_hosts", "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", nil)},
	}
	route := func(name string, match object) object {
		return object{
			"name": name, "match": match,
			"route":     object{"cluster": s.clusterName(), "timeout": "0s", "max_grpc_timeout": "0s", "retry_policy": retry},
			"decorator": object{"operation": fmt.Sprintf("%s:%d/*", s.Host, s.Addr.Port())},
		}
	}
	if len(s.Prefixes) == 0 {
		return list{route("default", object{"prefix": "/"})}
	}
	var routes list
	for i, p := range s.Prefixes {
		match := object{"path_separated_prefix": strings.TrimSuffix(p, "/"), "case_sensitive": true}
		if p == "/" {
			match = object{"prefix": "/"}
		}
		routes = append(routes, route(fmt.Sprintf("route-%d", i), match))
	}
	return routes
}

// NamedCluster is the service's cluster with another name.
func NamedCluster(s Service, name string) Object {
	c := s.cluster()
	c["name"] = name
	Merge(c, object{"load_assignment": object{"cluster_name": name}})
	return c
}
