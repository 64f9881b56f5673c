package ztunnel

import (
	"cairnproxy.dev/cairn/proxy/ztunnel/dns"
	"cairnproxy.dev/cairn/telemetry"
)

// dnsBuckets are ztunnel's, in seconds.
var dnsBuckets = []float64{.0005, .001, .01, .1, 1, 5}

// dnsAsked counts a query of the site's workload.
func (s *site) dnsAsked(q dns.Query) {
	m := s.p.o.Metrics
	if m == nil {
		return
	}
	var who telemetry.WorkloadLabels
	if w := s.local(s.p.snapshot()); w != nil {
		who = telemetry.WorkloadLabelsOf(w)
	}
	or := func(v string) string {
		if v == "" {
			return telemetry.Unknown
		}
		return v
	}
	labels := []telemetry.Label{
		{Name: "request_query_type", Value: or(q.Type)},
		{Name: "request_protocol", Value: q.Protocol},
		{Name: "source_canonical_service", Value: or(who.CanonicalService)},
		{Name: "source_canonical_revision", Value: or(who.CanonicalRevision)},
	}
	m.Counter("istio_dns_requests_total", "Total number of DNS requests.", labels...).Inc()
	if !q.Upstream {
		return
	}
	m.Counter("istio_dns_upstream_requests_total", "Total number of DNS requests forwarded to upstream.", labels...).Inc()
	if q.Failed {
		m.Counter("istio_dns_upstream_failures_total", "Total number of DNS requests that no upstream answered.", labels...).Inc()
	}
	m.Histogram("istio_dns_upstream_request_duration_seconds", "Total time in seconds that upstream took to answer.", dnsBuckets, labels...).Observe(q.Duration.Seconds())
}
