package envoy

import "net/netip"

// Istio's build of Envoy has a filter, istio.stats, that counts each request
// in Istio's standard metrics. The stock build lacks it. What stands in is its
// access logger for statistics: the same counter and histograms, with the same
// tags, of which those that name the client come from what the connection
// proved and those that name the destination are known beforehand. It looks up
// nobody's metadata, so it costs less than what it stands for rather than more.
func (s Service) stats() object {
	var tags list
	for _, t := range s.tags() {
		tags = append(tags, object{"name": t[0], "value_format": t[1]})
	}
	stat := func(name string) object { return object{"name": name, "tags": tags} }
	histogram := func(name, unit, format string) object {
		return object{"stat": stat(name), "unit": unit, "value_format": format}
	}
	return named("envoy.access_loggers.stats", "envoy.extensions.access_loggers.stats.v3.Config", object{
		"stat_prefix": "istio",
		"counters":    list{object{"stat": stat("requests_total"), "value_fixed": 1}},
		"histograms": list{
			histogram("request_duration_milliseconds", "Milliseconds", "%DURATION%"),
			histogram("request_bytes", "Bytes", "%BYTES_RECEIVED%"),
			histogram("response_bytes", "Bytes", "%BYTES_SENT%"),
		},
	})
}

// tags are the labels of Istio's standard metrics.
func (s Service) tags() [][2]string {
	const namespace = "bench"
	return [][2]string{
		{"reporter", "waypoint"},
		{"source_workload", "client"},
		{"source_canonical_service", "client"},
		{"source_canonical_revision", "v1"},
		{"source_workload_namespace", namespace},
		{"source_principal", "%FILTER_STATE(io.istio.peer_principal:PLAIN)%"},
		{"source_app", "client"},
		{"source_version", "v1"},
		{"source_cluster", "Kubernetes"},
		{"destination_workload", "server"},
		{"destination_workload_namespace", namespace},
		{"destination_principal", "%UPSTREAM_PEER_URI_SAN%"},
		{"destination_app", "server"},
		{"destination_version", "v1"},
		{"destination_service", s.Host},
		{"destination_canonical_service", "server"},
		{"destination_canonical_revision", "v1"},
		{"destination_service_name", "server"},
		{"destination_service_namespace", namespace},
		{"destination_cluster", "Kubernetes"},
		{"request_protocol", "%PROTOCOL%"},
		{"response_code", "%RESPONSE_CODE%"},
		{"grpc_response_status", "%GRPC_STATUS_NUMBER%"},
		{"response_flags", "%RESPONSE_FLAGS%"},
		{"connection_security_policy", "mutual_tls"},
	}
}

// tracingCluster is where spans go.
const tracingCluster = "tracing"

// tracing samples one request in a hundred and sends its span to an
// OpenTelemetry collector.
func tracing() object {
	return object{
		"random_sampling": object{"value": 1.0},
		"provider": named("envoy.tracers.opentelemetry", "envoy.config.trace.v3.OpenTelemetryConfig", object{
			"service_name": "waypoint.bench",
			"grpc_service": object{"envoy_grpc": object{"cluster_name": tracingCluster}, "timeout": "0.250s"},
		}),
	}
}

// collector is the cluster of the address, which may have nobody listening:
// then spans are made and dropped.
func collector(addr netip.AddrPort) object {
	cluster := staticCluster(tracingCluster, addr)
	cluster["typed_extension_protocol_options"] = h2Options()
	return cluster
}

// accessLogs are what the service's manager writes at the end of a request.
func (w Waypoint) accessLogs(s Service) list {
	var logs list
	if w.AccessLog != "" {
		logs = append(logs, named("envoy.access_loggers.file", kindFileLog, object{
			"path":       w.AccessLog,
			"log_format": object{"text_format_source": object{"inline_string": istioLogFormat}},
		}))
	}
	if w.Stats {
		logs = append(logs, s.stats())
	}
	return logs
}
