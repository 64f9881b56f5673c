package main

import (
	"strings"

	"cairnproxy.dev/cairn/conformance/envoy"
)

// envoyIdle says to Envoy what manifests.yaml says under Idle, as nearly as
// Envoy can: its hedges come with the timeout of a try, and its retry budget has no
// interval.
func envoyIdle(s *envoy.Service) {
	type (
		object = envoy.Object
		list   = envoy.List
	)
	typed := func(name string, o object) object {
		o["@type"] = "type.googleapis.com/" + name
		return o
	}
	all := object{"default_value": object{"numerator": 100}, "runtime_key": "idle"}
	s.Filters = append(s.Filters, object{
		"name": "envoy.filters.http.local_ratelimit",
		"typed_config": typed("envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit", object{
			"stat_prefix": "idle", "filter_enabled": all, "filter_enforced": all, "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
			"token_bucket": object{"max_tokens": 100000000, "tokens_per_fill": 100000000, "fill_interval": "1s"},
		}),
	})
	for _, p := range s.Prefixes {
		s.Routes = append(s.Routes, object{
			"match":                      object{"path_separated_prefix": strings.TrimSuffix(p, "/"), "case_sensitive": true},
			"request_headers_to_remove":  list{"x-internal"},
			"response_headers_to_remove": list{"x-powered-by"},
			"typed_per_filter_config": object{
				"envoy.filters.http.cors": typed("envoy.extensions.filters.http.cors.v3.CorsPolicy", object{
					"allow_origin_string_match": list{object{"exact": "https://elsewhere.example"}}, "allow_methods": "GET", "max_age": "60",
				}),
				"envoy.filters.http.fault": typed("envoy.extensions.filters.http.fault.v3.HTTPFault", object{
					"headers": list{object{"name": "x-fault", "string_match": object{"exact": "abort"}}},
					"abort":   object{"http_status": 503, "percentage": object{"numerator": 100}},
				}),
			},
			"route": object{
				"cluster": s.ClusterName(), "timeout": "60s", "idle_timeout": "50s",
				"retry_policy": object{
					"retry_on": "retriable-status-codes", "retriable_status_codes": list{502, 503}, "num_retries": 2, "per_try_timeout": "20s",
				},
				"hedge_policy": object{"hedge_on_per_try_timeout": true},
				"request_mirror_policies": list{object{
					"cluster": s.ClusterName(), "runtime_fraction": object{"default_value": object{"numerator": 0}},
				}},
			},
		})
	}
	s.Cluster = object{
		"circuit_breakers": object{"thresholds": list{object{
			"max_connections": 1024, "max_pending_requests": 1024, "max_requests": 1024,
			"retry_budget": object{"budget_percent": object{"value": 20}, "min_retry_concurrency": 3},
		}}},
		"outlier_detection": object{"consecutive_5xx": 5, "interval": "10s", "base_ejection_time": "30s"},
	}
}
