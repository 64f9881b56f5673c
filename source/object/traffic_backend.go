package object

import (
	"math"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// The backend part of a TrafficPolicy: what governs the way to a service's endpoints.

// trafficBackend translates it; nil for nothing said.
func (t *translator) trafficBackend(o *Object, s *TrafficPolicySpec) *mesh.BackendPolicy {
	out := mesh.BackendPolicy{
		Connection:  t.trafficConnection(o, s),
		Breaker:     t.trafficBreaker(o, s.CircuitBreaker),
		Outlier:     t.trafficOutlier(o, s.OutlierDetection),
		Health:      t.trafficHealth(o, s.HealthCheck),
		Balancer:    t.trafficBalancer(o, s.LoadBalancer),
		Concurrency: t.trafficConcurrency(o, s.AdaptiveConcurrency),
	}
	if s.Retry != nil {
		out.Budget = t.trafficBudget(o, s.Retry.Budget)
	}
	if b := s.LoadBalancer; b != nil && b.Subset != nil {
		out.Subset = b.Subset.Labels
	}
	if out.IsZero() {
		return nil
	}
	return &out
}

func (t *translator) trafficConnection(o *Object, s *TrafficPolicySpec) *mesh.ConnectionSettings {
	out := mesh.ConnectionSettings{}
	if s.Timeout != nil {
		out.ConnectTimeout = t.positive(o, "spec.timeout.connect", s.Timeout.Connect)
	}
	if c := s.Connection; c != nil {
		out.IdleTimeout = t.timeout(o, "spec.connection.idleTimeout", c.IdleTimeout)
		out.MaxRequests = t.optional(o, "spec.connection.maxRequestsPerConnection", c.MaxRequestsPerConnection, 1, math.MaxUint32)
		out.HTTP2 = c.HTTP2
	}
	if out == (mesh.ConnectionSettings{}) {
		return nil
	}
	out.Policy = o.Name
	return &out
}

func (t *translator) trafficBreaker(o *Object, in *TrafficBreaker) *mesh.CircuitBreaker {
	if in == nil {
		return nil
	}
	most := func(field string, n *int64) uint32 {
		return t.optional(o, "spec.circuitBreaker."+field, n, 1, math.MaxUint32)
	}
	return &mesh.CircuitBreaker{
		Policy:         o.Name,
		MaxConnections: most("maxConnections", in.MaxConnections),
		MaxPending:     most("maxPendingRequests", in.MaxPendingRequests),
		MaxRequests:    most("maxRequests", in.MaxRequests),
		MaxRetries:     most("maxRetries", in.MaxRetries),
	}
}

const (
	defaultBudgetPercent = 20 // Envoy's, GEP-3388's and Istio's
	defaultMinConcurrent = 3  // Envoy's and Istio's
)

func (t *translator) trafficBudget(o *Object, in *TrafficBudget) *mesh.RetryBudget {
	if in == nil {
		return nil
	}
	const path = "spec.retry.budget"
	out := &mesh.RetryBudget{
		Policy:   o.Name,
		Percent:  t.fraction(o, path+".percent", in.Percent, defaultBudgetPercent, 0, 100),
		Interval: t.positive(o, path+".interval", in.Interval),
	}
	switch {
	case in.MinConcurrent != nil:
		out.MinConcurrency = uint32(number(t, o, path+".minConcurrent", int64(*in.MinConcurrent), 0, math.MaxInt32))
	case in.Interval == nil && in.MinRate == nil:
		out.MinConcurrency = defaultMinConcurrent
	}
	if r := in.MinRate; r != nil {
		out.MinRate = uint32(number(t, o, path+".minRate.count", int64(r.Count), 1, 1_000_000))
		if out.MinRateInterval = t.positive(o, path+".minRate.interval", r.Interval); r.Interval == nil {
			out.MinRateInterval = time.Second
		}
	}
	return out
}

// defaultConsecutive5xx is Envoy's and Istio's.
const defaultConsecutive5xx = 5

func (t *translator) trafficOutlier(o *Object, in *TrafficOutlier) *mesh.OutlierDetection {
	if in == nil {
		return nil
	}
	const path = "spec.outlierDetection"
	count := func(field string, n *int64) uint32 { return t.optional(o, path+"."+field, n, 0, math.MaxUint32) }
	percent := func(field string, n *int64) uint32 { return t.optional(o, path+"."+field, n, 0, 100) }
	out := &mesh.OutlierDetection{
		Policy:             o.Name,
		Consecutive5xx:     defaultConsecutive5xx,
		ConsecutiveGateway: count("consecutiveGatewayErrors", in.ConsecutiveGatewayErrors),
		ConsecutiveLocal:   count("consecutiveLocalOriginErrors", in.ConsecutiveLocalOriginErrors),
		SplitLocal:         in.SplitLocalOriginErrors,
		Interval:           t.positive(o, path+".interval", in.Interval),
		BaseEjection:       t.positive(o, path+".baseEjectionTime", in.BaseEjectionTime),
		MaxEjection:        t.positive(o, path+".maxEjectionTime", in.MaxEjectionTime),
		MinHealthPercent:   percent("minHealthPercent", in.MinHealthPercent),
	}
	if in.Consecutive5xxErrors != nil {
		out.Consecutive5xx = count("consecutive5xxErrors", in.Consecutive5xxErrors)
	}
	out.MaxEjectionPercent = t.optional(o, path+".maxEjectionPercent", in.MaxEjectionPercent, 1, 100)
	if out.MaxEjection > 0 && out.MaxEjection < out.BaseEjection {
		t.bad(o, path+".maxEjectionTime", "it is shorter than baseEjectionTime; make it %s or more", *in.BaseEjectionTime)
	}
	if s := in.SuccessRate; s != nil {
		out.SuccessRateStdev = uint32(math.Round(1000 * t.fraction(o, path+".successRate.stdevFactor", s.StdevFactor, 1.9, 0.001, 100)))
		out.SuccessRateHosts = t.optional(o, path+".successRate.minHosts", s.MinHosts, 1, math.MaxUint32)
		out.RequestVolume = t.optional(o, path+".successRate.requestVolume", s.RequestVolume, 1, math.MaxUint32)
	}
	if f := in.FailurePercentage; f != nil {
		out.FailurePercent = uint32(number(t, o, path+".failurePercentage.threshold", f.Threshold, 1, 100))
		out.FailureHosts = t.optional(o, path+".failurePercentage.minHosts", f.MinHosts, 1, math.MaxUint32)
		out.FailureVolume = t.optional(o, path+".failurePercentage.requestVolume", f.RequestVolume, 1, math.MaxUint32)
	}
	return out
}

func (t *translator) trafficHealth(o *Object, in *TrafficHealthCheck) *mesh.HealthCheck {
	if in == nil {
		return nil
	}
	const path = "spec.healthCheck"
	out := &mesh.HealthCheck{
		Policy:    o.Name,
		Interval:  t.positive(o, path+".interval", in.Interval),
		Timeout:   t.positive(o, path+".timeout", in.Timeout),
		Healthy:   t.optional(o, path+".healthyThreshold", in.HealthyThreshold, 1, 1000),
		Unhealthy: t.optional(o, path+".unhealthyThreshold", in.UnhealthyThreshold, 1, 1000),
	}
	if in.Port != nil {
		out.Port = t.port(o, path+".port", int64(*in.Port))
	}
	kinds := 0
	if h := in.HTTP; h != nil {
		kinds++
		out.Kind, out.Path, out.Host = mesh.HealthHTTP, h.Path, h.Host
		if !strings.HasPrefix(h.Path, "/") || len(h.Path) > 1024 || !isFieldValue(h.Path) || strings.ContainsAny(h.Path, " #") {
			t.bad(o, path+".http.path", "%q is not a path; begin it with '/'", clip(h.Path))
		}
		if h.Host != "" && !isSubdomain(strings.ToLower(h.Host)) {
			t.bad(o, path+".http.host", "%q is not a host name; write a DNS name", clip(h.Host))
		}
		t.atMost(o, path+".http.statuses", len(h.Statuses), 16)
		for i, s := range h.Statuses {
			out.Statuses = append(out.Statuses, t.statusRange(o, elem(path+".http.statuses", i), s))
		}
	}
	if g := in.GRPC; g != nil {
		kinds++
		out.Kind, out.Service = mesh.HealthGRPC, g.Service
		if len(g.Service) > 256 || !isFieldValue(g.Service) {
			t.bad(o, path+".grpc.service", "%q is not the name of a gRPC service; correct it", clip(g.Service))
		}
	}
	if in.TCP != nil {
		kinds++
		out.Kind = mesh.HealthTCP
	}
	if kinds != 1 {
		t.bad(o, path, "a health check asks in one way; give exactly one of http, grpc and tcp")
	}
	return out
}

func (t *translator) statusRange(o *Object, path string, in TrafficStatusRange) [2]int {
	from := int(number(t, o, path+".from", int64(in.From), 100, 599))
	if in.To == nil {
		return [2]int{from, from}
	}
	to := int(number(t, o, path+".to", int64(*in.To), 100, 599))
	if to < from {
		t.bad(o, path+".to", "the range ends before it begins; make it %d or more", from)
	}
	return [2]int{from, to}
}

func (t *translator) trafficConcurrency(o *Object, in *TrafficConcurrency) *mesh.AdaptiveConcurrency {
	if in == nil {
		return nil
	}
	const path = "spec.adaptiveConcurrency"
	out := &mesh.AdaptiveConcurrency{
		Policy:        o.Name,
		SampleWindow:  t.positive(o, path+".sampleWindow", in.SampleWindow),
		Min:           t.optional(o, path+".minConcurrency", in.MinConcurrency, 1, math.MaxUint32),
		Max:           t.optional(o, path+".maxConcurrency", in.MaxConcurrency, 1, math.MaxUint32),
		Percentile:    t.fraction(o, path+".percentile", in.Percentile, 0, 1, 99.99),
		BufferPercent: t.fraction(o, path+".bufferPercent", in.BufferPercent, 0, 0.1, 1000),
	}
	if out.Max > 0 && out.Max < max(out.Min, 3) && (out.Min > 0 || in.MinConcurrency == nil) {
		t.bad(o, path+".maxConcurrency", "it is less than minConcurrency; make it %d or more", max(out.Min, 3))
	}
	if m := in.MinRTT; m != nil {
		out.MinRTTInterval = t.positive(o, path+".minRTT.interval", m.Interval)
		out.MinRTTRequests = t.optional(o, path+".minRTT.requests", m.Requests, 1, 100_000)
	}
	return out
}
