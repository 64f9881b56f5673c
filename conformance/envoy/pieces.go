package envoy

import (
	"net/netip"

	"cairnproxy.dev/cairn/conformance/ca"
)

// unlimited are the circuit breakers of every cluster that istiod makes.
var unlimited = object{"thresholds": list{object{
	"max_connections": 4294967295, "max_pending_requests": 4294967295, "max_requests": 4294967295, "max_retries": 4294967295,
}}}

// commonTLS is the part of TLS that both directions share: TLS 1.3, h2, our
// certificate, and peers whose URI has one of the prefixes (istiod asks for
// the trust domain) or equals it.
func commonTLS(files ca.Files, match object) object {
	return object{
		"tls_params":       object{"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
		"alpn_protocols":   list{"h2"},
		"tls_certificates": list{object{"certificate_chain": object{"filename": files.Cert}, "private_key": object{"filename": files.Key}}},
		"validation_context": object{
			"trusted_ca":                    object{"filename": files.Root},
			"match_typed_subject_alt_names": list{object{"san_type": "URI", "matcher": match}},
		},
	}
}

func trustDomain() object { return object{"prefix": "spiffe://cluster.local/"} }

func downstreamTLS(files ca.Files) object {
	return named("tls", kindDownTLS, object{"common_tls_context": commonTLS(files, trustDomain()), "require_client_certificate": true})
}

// upstreamTLS expects the peer's SPIFFE URI, or any of the trust domain when
// expect is empty.
func upstreamTLS(files ca.Files, expect string) object {
	match := trustDomain()
	if expect != "" {
		match = object{"exact": expect}
	}
	return named("tls", kindUpTLS, object{"common_tls_context": commonTLS(files, match)})
}

// h2Options make a cluster speak HTTP/2 with CONNECT.
func h2Options() object {
	return object{kindHTTPOptions: typed(kindHTTPOptions, object{
		"common_http_protocol_options": object{"idle_timeout": "3600s"},
		"explicit_http_config":         object{"http2_protocol_options": object{"allow_connect": true}},
	})}
}

func socket(addr netip.AddrPort) object {
	return object{"socket_address": object{"address": addr.Addr().String(), "port_value": addr.Port()}}
}

func staticCluster(name string, addr netip.AddrPort) object {
	return object{
		"name": name, "type": "STATIC", "connect_timeout": "10s", "circuit_breakers": unlimited,
		"load_assignment": object{"cluster_name": name, "endpoints": list{object{"lb_endpoints": list{object{"endpoint": object{"address": socket(addr)}}}}}},
	}
}

func fileLog(path, format string) object {
	return named("envoy.access_loggers.file", kindFileLog, object{
		"path": path, "log_format": object{"text_format_source": object{"inline_string": format}},
	})
}

func originalDst() object { return named("envoy.filters.listener.original_dst", kindOriginalDst, nil) }

func router() object { return named("envoy.filters.http.router", kindRouter, nil) }

// connectHost is the virtual host that sends the bytes of CONNECT streams for
// an authority ("*": any) to a cluster.
func connectHost(authority, cluster string) object {
	return object{"name": authority, "domains": list{authority}, "routes": list{object{
		"match": object{"connect_matcher": object{}},
		"route": object{"cluster": cluster, "upgrade_configs": list{object{"upgrade_type": "CONNECT", "connect_config": object{}}}},
	}}}
}

// connectManager is the connection manager of a listener that terminates
// CONNECT.
func connectManager(name string, hosts, filters list) object {
	return named("envoy.filters.network.http_connection_manager", kindHCM, object{
		"stat_prefix":  name,
		"route_config": object{"name": "default", "virtual_hosts": hosts},
		"http_filters": append(filters, router()),
		"http2_protocol_options": object{
			"max_concurrent_streams": 100, "allow_connect": true,
			"connection_keepalive": object{"interval": "10s", "timeout": "20s"},
		},
		"server_name": "istio-envoy", "stream_idle_timeout": "0s", "use_remote_address": false,
		"forward_client_cert_details":     "APPEND_FORWARD",
		"set_current_client_cert_details": object{"subject": true, "dns": true, "uri": true},
		"upgrade_configs":                 list{object{"upgrade_type": "CONNECT"}},
	})
}

// bootstrap wraps listeners and clusters; with internal, the extension for
// internal listeners is on.
func bootstrap(admin netip.AddrPort, listeners, clusters list, internal bool) object {
	b := object{
		"admin":            object{"address": socket(admin)},
		"node":             object{"id": "conformance", "cluster": "conformance"},
		"static_resources": object{"listeners": listeners, "clusters": clusters},
	}
	if internal {
		b["bootstrap_extensions"] = list{named("envoy.bootstrap.internal_listener", "envoy.extensions.bootstrap.internal_listener.v3.InternalListener", nil)}
	}
	return b
}
