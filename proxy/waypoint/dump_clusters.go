package waypoint

import (
	"fmt"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/telemetry"
)

// ConfigCluster is a set of endpoints.
type ConfigCluster struct {
	Name string `json:"name"`
	ConfigChoice
	// State says in a few words what is out of the ordinary.
	State       string             `json:"state,omitempty"`
	TLS         string             `json:"tls,omitempty"`
	Endpoints   []ConfigEndpoint   `json:"endpoints"`
	Breaker     *ConfigBreaker     `json:"circuitBreaker,omitempty"`
	Outlier     *ConfigOutlier     `json:"outlierDetection,omitempty"`
	Concurrency *ConfigConcurrency `json:"adaptiveConcurrency,omitempty"`
}

// ConfigEndpoint is one endpoint with its requests in flight.
type ConfigEndpoint struct {
	Workload string   `json:"workload"`
	Address  string   `json:"address"`
	Tunnel   bool     `json:"hbone"`
	Expect   []string `json:"expect,omitempty"`
	Active   int64    `json:"active"`
	// Condition is why it is not used: "ejected", "unhealthy" or "busy".
	Condition string `json:"condition,omitempty"`
	// Level is how near it is: 0 for the nearest.
	Level int `json:"level,omitempty"`
}

// ConfigBreaker is a circuit breaker.
type ConfigBreaker struct {
	Connections ConfigBound `json:"connections"`
	Pending     ConfigBound `json:"pending"`
	Requests    ConfigBound `json:"requests"`
	Retries     ConfigBound `json:"retries"`
}

// ConfigBound is one of its bounds; a maximum of 0 is none.
type ConfigBound struct {
	Active   int64  `json:"active"`
	Max      uint32 `json:"max,omitempty"`
	Overflow uint64 `json:"overflow,omitempty"`
}

// open reports whether the next one is refused.
func (b ConfigBound) open() bool { return b.Max > 0 && b.Active >= int64(b.Max) }

// ConfigOutlier is what outlier detection does.
type ConfigOutlier struct {
	Ejected   int    `json:"ejected"`
	Ejections uint64 `json:"ejections"`
	Overflow  uint64 `json:"overflow,omitempty"`
}

// ConfigConcurrency is an adaptive limit.
type ConfigConcurrency struct {
	Active  int64  `json:"active"`
	Limit   int64  `json:"limit"`
	MinRTT  string `json:"minRTT"`
	Blocked uint64 `json:"blocked"`
}

func dumpClusters(rt *Runtime) (list []ConfigCluster) {
	for cl := range rt.allClusters() {
		cc := ConfigCluster{Name: cl.name, ConfigChoice: cl.choice()}
		if cl.tls != nil {
			cc.TLS = cl.tls.String()
		}
		for _, ep := range cl.c.Endpoints() {
			cc.Endpoints = append(cc.Endpoints, ConfigEndpoint{ep.Workload.UID, ep.Authority(), ep.Tunnelled(), ep.Expect, ep.Active(), ep.Condition(), cl.c.Level(ep)})
		}
		if cl.adm != nil {
			cl.adm.dump(&cc)
		}
		list = append(list, cc)
	}
	slices.SortFunc(list, func(a, b ConfigCluster) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// bounds is the circuit breaker as it stands.
func (a *admission) bounds() ConfigBreaker {
	s, o := a.state, &a.state.Overflows
	return ConfigBreaker{
		Connections: ConfigBound{s.Connections.Load(), a.limits.MaxConnections, o.Connections.Load()},
		Pending:     ConfigBound{s.Pending.Load(), a.limits.MaxPending, o.Pending.Load()},
		Requests:    ConfigBound{s.Requests.Load(), a.limits.MaxRequests, o.Requests.Load()},
		Retries:     ConfigBound{s.Retries.Load(), a.limits.MaxRetries, o.Retries.Load()},
	}
}

func (a *admission) dump(cc *ConfigCluster) {
	var state []string
	if a.cl.policy.Breaker != nil {
		b := a.bounds()
		cc.Breaker = &b
		for _, x := range []struct {
			name string
			ConfigBound
		}{{"connections", b.Connections}, {"pending", b.Pending}, {"requests", b.Requests}, {"retries", b.Retries}} {
			if x.open() {
				state = append(state, fmt.Sprintf("%s %d/%d", x.name, x.Active, x.Max))
			}
		}
	}
	if a.outlier != nil {
		cc.Outlier = &ConfigOutlier{a.cl.c.Ejections(), a.state.Outlier.Total(), a.state.Outlier.Overflow.Load()}
		if n := cc.Outlier.Ejected; n > 0 {
			state = append(state, fmt.Sprintf("%d ejected", n))
		}
	}
	if n := a.cl.c.Unhealthy(); n > 0 {
		state = append(state, fmt.Sprintf("%d unhealthy", n))
	}
	if c := a.concurrency; c != nil {
		cc.Concurrency = &ConfigConcurrency{c.Active(), c.Limit(), c.MinRTT().String(), c.Blocked()}
		state = append(state, fmt.Sprintf("limit %d", c.Limit()))
	}
	cc.State = strings.Join(state, ", ")
}

// collect gives a scrape what is known of the clusters that are bounded or watched,
// under Envoy's names. Like there, requests over the bound on requests count as
// pending ones that overflowed.
func (w *watch) collect(emit telemetry.Emit) {
	w.mu.Lock()
	all := make([]*admission, 0, len(w.byState))
	for _, list := range w.byState {
		all = append(all, list[len(list)-1]) // they differ in what they were made for, not in what they count
	}
	w.mu.Unlock()
	for _, a := range all {
		a.collect(func(name, help string, total bool, v float64) {
			emit("envoy_"+name, help, total, v, telemetry.Label{Name: "cluster_name", Value: a.cl.name})
		})
	}
}

func (a *admission) collect(emit func(name, help string, total bool, v float64)) {
	gauge := func(name, help string, v int64) { emit(name, help, false, float64(v)) }
	count := func(name, help string, v uint64) { emit(name, help, true, float64(v)) }
	open := func(name string, b ConfigBound) {
		v := int64(0)
		if b.open() {
			v = 1
		}
		gauge("cluster_circuit_breakers_default_"+name+"_open", "Whether the circuit breaker refuses the next one.", v)
	}
	b := a.bounds()
	open("cx", b.Connections)
	open("rq_pending", b.Pending)
	open("rq", b.Requests)
	open("rq_retry", b.Retries)
	gauge("cluster_upstream_cx_active", "Connections to the cluster, of those that count.", b.Connections.Active)
	gauge("cluster_upstream_rq_active", "Requests that are with an endpoint.", b.Requests.Active)
	gauge("cluster_upstream_rq_pending_active", "Requests that wait for a connection.", b.Pending.Active)
	count("cluster_upstream_cx_overflow", "Times that the circuit breaker allowed no further connection.", b.Connections.Overflow)
	count("cluster_upstream_rq_pending_overflow", "Requests that the circuit breaker refused.", b.Pending.Overflow+b.Requests.Overflow)
	count("cluster_upstream_rq_retry_overflow", "Retries that the circuit breaker refused.", b.Retries.Overflow)
	n, bad := len(a.cl.c.Endpoints()), 0
	for _, ep := range a.cl.c.Endpoints() {
		if !ep.Healthy() {
			bad++
		}
	}
	gauge("cluster_membership_total", "Endpoints of the cluster.", int64(n))
	gauge("cluster_membership_healthy", "Endpoints that are neither ejected nor found unhealthy.", int64(n-bad))
	if a.outlier != nil {
		const prefix, help = "cluster_outlier_detection_ejections_", "Endpoints that were ejected for this reason."
		o := &a.state.Outlier
		gauge(prefix+"active", "Endpoints that are ejected.", int64(a.cl.c.Ejections()))
		count(prefix+"enforced_total", "Endpoints that were ejected.", o.Total())
		count(prefix+"enforced_consecutive_5xx", help, o.Consecutive5xx.Load())
		count(prefix+"enforced_consecutive_gateway_failure", help, o.ConsecutiveGateway.Load())
		count(prefix+"enforced_consecutive_local_origin_failure", help, o.ConsecutiveLocal.Load())
		count(prefix+"enforced_success_rate", help, o.SuccessRate.Load())
		count(prefix+"enforced_failure_percentage", help, o.FailurePercentage.Load())
		count(prefix+"overflow", "Ejections that the policy's bounds forbade.", o.Overflow.Load())
	}
	if c := a.concurrency; c != nil {
		const prefix = "http_adaptive_concurrency_gradient_controller_"
		gauge(prefix+"concurrency_limit", "Requests that may be in flight.", c.Limit())
		gauge(prefix+"min_rtt_msecs", "Latency without load, in milliseconds.", c.MinRTT().Milliseconds())
		count(prefix+"rq_blocked", "Requests over the limit.", c.Blocked())
	}
}
