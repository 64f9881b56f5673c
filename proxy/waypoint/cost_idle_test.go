package waypoint

import (
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// idleFeatures is a rule with ten features of which a request makes none act: CORS, edits
// of absent fields, a mirror at 0%, timeouts, retries with a budget, hedges, a circuit
// breaker, outlier detection, a local rate limit and a fault for those who ask for it.
func idleFeatures(parts *mesh.Parts, v *mesh.Service) {
	r := mesh.Route{Matches: []mesh.RouteMatch{pathMatch(mesh.MatchPrefix, "/api")}, Backends: []mesh.Backend{to(v, 1)}}
	r.Filters = mesh.RouteFilters{
		RequestHeaders:  &mesh.HeaderEdits{Remove: []string{"x-internal"}},
		ResponseHeaders: &mesh.HeaderEdits{Remove: []string{"x-powered-by"}},
		CORS:            &mesh.CORS{Origins: []string{"https://elsewhere.example"}, Methods: []string{"GET"}, MaxAge: time.Minute},
		Mirrors:         []mesh.Mirror{{Backend: to(v, 1), Numerator: 0, Denominator: 100}},
	}
	parts.Attachments = []mesh.RouteAttachment{route("r", 1, v, r)}
	v.Ports[0].Requests = &mesh.RequestPolicy{
		Timeouts:  &mesh.Timeouts{Request: time.Minute, PerTry: 30 * time.Second, Idle: 50 * time.Second},
		Retry:     &mesh.Retry{Attempts: 2, Codes: []int{502, 503}, BodyLimit: 128 << 10},
		Hedging:   &mesh.Hedging{Delay: 20 * time.Second, Max: 1},
		RateLimit: &mesh.RateLimit{Fields: mesh.QuotaRefused, Local: []mesh.LocalLimit{{Name: "all", Requests: 1e8, Per: time.Second}}},
		Faults: &mesh.Faults{List: []mesh.Fault{{
			Headers: []mesh.NamedMatch{{Name: "x-fault", StringMatch: mesh.StringMatch{Value: "abort"}}}, Status: 503, AbortPPM: 1_000_000, GRPCStatus: -1,
		}}},
	}
	v.Ports[0].Backend = &mesh.BackendPolicy{
		Breaker: &mesh.CircuitBreaker{MaxConnections: 1024, MaxPending: 1024, MaxRequests: 1024, MaxRetries: 3},
		Outlier: &mesh.OutlierDetection{Consecutive5xx: 5},
		Budget:  &mesh.RetryBudget{Percent: 20, Interval: 10 * time.Second, MinRate: 10, MinRateInterval: time.Second},
	}
}
