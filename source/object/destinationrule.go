package object

import (
	"math"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// A DestinationRule becomes backend policies in the model's terms. What it says
// beyond these is told in a notice: nothing is silently without effect.

// ruleBody is what a rule, or several for one host, say.
type ruleBody struct {
	host     string      // in full, in lower case; may begin with "*"
	all      *policyBody // nil for nothing
	ports    map[uint16]*policyBody
	subsets  map[string]*madeSubset
	exportTo []string
	invalid  bool
}

// madeSubset is one subset. Its policies go over those of its rule.
type madeSubset struct {
	labels map[string]string
	all    *policyBody
	ports  map[uint16]*policyBody
}

// port returns what replaces the settings for one port; nil for nothing.
func (b *ruleBody) port(n uint16) *policyBody {
	if b == nil {
		return nil
	}
	return b.ports[n]
}

func (t *translator) ruleBody(o *Object, v *DestinationRule) *ruleBody {
	t.begin()
	b := &ruleBody{host: t.ruleHost(o, v.Spec.Host), exportTo: v.Spec.ExportTo}
	b.all, b.ports = t.rulePolicy(o, "spec.trafficPolicy", v.Spec.TrafficPolicy)
	for i := range v.Spec.Subsets {
		s, path := &v.Spec.Subsets[i], elem("spec.subsets", i)
		switch {
		case s.Name == "" || !isLabelValue(s.Name):
			t.bad(o, path+".name", "%q is not a valid name; use letters, digits, '-', '_' and '.'", clip(s.Name))
		case b.subsets[s.Name] != nil:
			t.bad(o, path+".name", "subset %q is defined twice; rename one", s.Name)
		}
		t.checkLabels(o, path+".labels", s.Labels)
		m := &madeSubset{labels: s.Labels}
		m.all, m.ports = t.rulePolicy(o, path+".trafficPolicy", s.TrafficPolicy)
		if b.subsets == nil {
			b.subsets = map[string]*madeSubset{}
		}
		b.subsets[s.Name] = m
	}
	if why := t.refused(); why != "" {
		b.invalid = true
		if b.asksForTLS() {
			b.all, b.ports = &policyBody{backend: &mesh.BackendPolicy{TLS: &mesh.BackendTLS{Policy: o.Name, Broken: why}}}, nil
		}
	}
	return b
}

// asksForTLS reports whether it does so for any port or subset.
func (b *ruleBody) asksForTLS() bool {
	asks := func(all *policyBody, ports map[uint16]*policyBody) bool {
		if all != nil && all.backend.TLS != nil {
			return true
		}
		for _, p := range ports {
			if p.backend != nil && p.backend.TLS != nil {
				return true
			}
		}
		return false
	}
	for _, s := range b.subsets {
		if asks(s.all, s.ports) {
			return true
		}
	}
	return asks(b.all, b.ports)
}

// ruleHost completes a short name, as Istio does: with the rule's own namespace.
func (t *translator) ruleHost(o *Object, host string) string {
	name := strings.ToLower(host)
	switch rest := strings.TrimPrefix(strings.TrimPrefix(name, "*"), "."); {
	case name == "":
		t.bad(o, "spec.host", "the rule is for no host; name one")
	case name != "*" && !isSubdomain(rest):
		t.bad(o, "spec.host", "%q is not a host name; write a DNS name, with \"*\" at most as its beginning", clip(host))
	case !strings.Contains(name, ".") && name != "*":
		return name + "." + o.Name.Namespace + ".svc." + t.opts.ClusterDomain
	}
	return name
}

// rulePolicy translates a trafficPolicy. A port's settings do not inherit those of the
// whole, except for the retry budget, which ports do not have.
func (t *translator) rulePolicy(o *Object, path string, in *RulePolicy) (all *policyBody, ports map[uint16]*policyBody) {
	if in == nil {
		return nil, nil
	}
	if in.Tunnel != nil {
		t.note(o, "%s.tunnel is not honoured: connections are not carried in HTTP", path)
	}
	if in.ProxyProtocol != nil {
		t.note(o, "%s.proxyProtocol is not honoured: no PROXY header is sent", path)
	}
	budget := t.ruleBudget(o, path+".retryBudget", in.RetryBudget)
	all = t.ruleSettings(o, path, &in.RuleSettings, budget)
	for i := range in.PortLevelSettings {
		p, at := &in.PortLevelSettings[i], elem(path+".portLevelSettings", i)
		if p.Port == nil {
			t.bad(o, at+".port", "the settings are for no port; give its number")
			continue
		}
		n := t.port(o, at+".port.number", int64(p.Port.Number))
		if ports[n] != nil {
			t.bad(o, at+".port.number", "port %d has settings already; merge the two", n)
		}
		if ports == nil {
			ports = map[uint16]*policyBody{}
		}
		if ports[n] = t.ruleSettings(o, at, &p.RuleSettings, budget); ports[n] == nil {
			ports[n] = &policyBody{}
		}
	}
	return all, ports
}

func (t *translator) ruleSettings(o *Object, path string, in *RuleSettings, budget *mesh.RetryBudget) *policyBody {
	out := &mesh.BackendPolicy{
		Budget:   budget,
		Outlier:  t.ruleOutlier(o, path+".outlierDetection", in.OutlierDetection),
		Balancer: t.ruleBalancer(o, path+".loadBalancer", in.LoadBalancer),
		TLS:      t.ruleTLS(o, path+".tls", in.TLS),
	}
	t.rulePool(o, path+".connectionPool", in.ConnectionPool, out)
	if out.IsZero() {
		return nil
	}
	return &policyBody{backend: out}
}

func (t *translator) ruleBudget(o *Object, path string, in *RuleRetryBudget) *mesh.RetryBudget {
	if in == nil {
		return nil
	}
	out := &mesh.RetryBudget{
		Policy: o.Name, MinConcurrency: defaultMinConcurrent,
		Percent: t.fraction(o, path+".percent", in.Percent, defaultBudgetPercent, 0, 100),
	}
	if in.MinRetryConcurrency != nil {
		out.MinConcurrency = *in.MinRetryConcurrency
	}
	return out
}

// rulePool fills in the settings of connections and the circuit breaker.
func (t *translator) rulePool(o *Object, path string, in *RuleConnectionPool, out *mesh.BackendPolicy) {
	if in == nil {
		return
	}
	var c mesh.ConnectionSettings
	var b mesh.CircuitBreaker
	count := func(field string, n int32) uint32 {
		return uint32(number(t, o, path+field, int64(n), 0, math.MaxInt32))
	}
	if p := in.TCP; p != nil {
		b.MaxConnections = count(".tcp.maxConnections", p.MaxConnections)
		c.ConnectTimeout = t.span(o, path+".tcp.connectTimeout", p.ConnectTimeout)
		c.IdleTimeout = t.idle(o, path+".tcp.idleTimeout", p.IdleTimeout)
		if p.TCPKeepalive != nil {
			t.note(o, "%s.tcp.tcpKeepalive is not honoured: connections inside the mesh are kept alive by HBONE", path)
		}
		if p.MaxConnectionDuration != "" {
			t.note(o, "%s.tcp.maxConnectionDuration is not honoured: use http.maxRequestsPerConnection or an idle timeout", path)
		}
	}
	if p := in.HTTP; p != nil {
		b.MaxPending = count(".http.http1MaxPendingRequests", p.HTTP1MaxPendingRequests)
		b.MaxRequests = count(".http.http2MaxRequests", p.HTTP2MaxRequests)
		b.MaxRetries = count(".http.maxRetries", p.MaxRetries)
		c.MaxRequests = count(".http.maxRequestsPerConnection", p.MaxRequestsPerConnection)
		if d := t.idle(o, path+".http.idleTimeout", p.IdleTimeout); d != 0 {
			c.IdleTimeout = d
		}
		switch p.H2UpgradePolicy {
		case "", "DEFAULT", "DO_NOT_UPGRADE":
		case "UPGRADE":
			c.HTTP2 = true
		default:
			t.bad(o, path+".http.h2UpgradePolicy", "%q is not known; use DEFAULT, DO_NOT_UPGRADE or UPGRADE", clip(p.H2UpgradePolicy))
		}
		if p.UseClientProtocol {
			t.note(o, "%s.http.useClientProtocol is not honoured: the port's protocol decides", path)
		}
		if p.MaxConcurrentStreams != 0 {
			t.note(o, "%s.http.maxConcurrentStreams is not honoured: endpoints say themselves how many streams they take", path)
		}
	}
	if c != (mesh.ConnectionSettings{}) {
		c.Policy = o.Name
		out.Connection = &c
	}
	if b != (mesh.CircuitBreaker{}) {
		b.Policy = o.Name
		out.Breaker = &b
	}
}

func (t *translator) ruleOutlier(o *Object, path string, in *RuleOutlier) *mesh.OutlierDetection {
	if in == nil {
		return nil
	}
	if in.ConsecutiveErrors != 0 {
		t.note(o, "%s.consecutiveErrors is not honoured: Istio gave it up; use consecutiveGatewayErrors or consecutive5xxErrors", path)
	}
	or := func(n *uint32, def uint32) uint32 { return deref(n, def) }
	out := &mesh.OutlierDetection{
		Policy:             o.Name,
		Consecutive5xx:     or(in.Consecutive5xxErrors, defaultConsecutive5xx),
		ConsecutiveGateway: or(in.ConsecutiveGatewayErrors, 0),
		SplitLocal:         in.SplitExternalLocalOriginErrors,
		Interval:           t.span(o, path+".interval", in.Interval),
		BaseEjection:       t.span(o, path+".baseEjectionTime", in.BaseEjectionTime),
		MaxEjectionPercent: uint32(number(t, o, path+".maxEjectionPercent", int64(in.MaxEjectionPercent), 0, 100)),
		MinHealthPercent:   uint32(number(t, o, path+".minHealthPercent", int64(in.MinHealthPercent), 0, 100)),
	}
	if in.SplitExternalLocalOriginErrors {
		out.ConsecutiveLocal = or(in.ConsecutiveLocalOriginFailures, defaultConsecutive5xx)
	} else if in.ConsecutiveLocalOriginFailures != nil {
		t.note(o, "%s.consecutiveLocalOriginFailures has no effect without splitExternalLocalOriginErrors", path)
	}
	return out
}

var simpleBalancers = map[string]mesh.BalancerPolicy{
	"": mesh.BalanceDefault, "UNSPECIFIED": mesh.BalanceDefault, "LEAST_REQUEST": mesh.BalanceLeastRequest, "LEAST_CONN": mesh.BalanceLeastRequest,
	"ROUND_ROBIN": mesh.BalanceRoundRobin, "RANDOM": mesh.BalanceRandom, "PASSTHROUGH": mesh.BalancePassthrough,
}

func (t *translator) ruleBalancer(o *Object, path string, in *RuleBalancer) *mesh.Balancer {
	if in == nil {
		return nil
	}
	kind, ok := simpleBalancers[in.Simple]
	if !ok {
		t.bad(o, path+".simple", "%q is not known; use %s", clip(in.Simple), choice(sortedKeys(simpleBalancers)[1:]))
	}
	out := &mesh.Balancer{Policy: o.Name, Kind: kind}
	if in.ConsistentHash != nil {
		if in.Simple != "" {
			t.bad(o, path, "simple and consistentHash exclude each other; remove one")
		}
		t.ruleHash(o, path+".consistentHash", in.ConsistentHash, out)
	}
	if l := in.LocalityLbSetting; l != nil {
		out.Locality = t.locality(o, path+".localityLbSetting", &TrafficLocality{Enabled: l.Enabled, Distribute: l.Distribute, Failover: l.Failover, FailoverPriority: l.FailoverPriority})
	}
	if in.WarmupDurationSecs != "" {
		out.SlowStart = &mesh.SlowStart{Window: t.span(o, path+".warmupDurationSecs", in.WarmupDurationSecs)}
	}
	if w := in.Warmup; w != nil {
		out.SlowStart = &mesh.SlowStart{
			Window:     t.span(o, path+".warmup.duration", w.Duration),
			Aggression: t.fraction(o, path+".warmup.aggression", w.Aggression, 0, 0.1, 100),
			MinPercent: uint32(math.Ceil(t.fraction(o, path+".warmup.minimumPercent", w.MinimumPercent, 0, 0, 100))),
		}
		if w.Duration == "" {
			t.bad(o, path+".warmup.duration", "it is missing; say how long the warmup takes")
		}
	}
	if out.SlowStart != nil && hashes(out.Kind) {
		t.note(o, "%s.warmup has no effect with consistentHash, which gives each key its endpoint, new or not", path)
		out.SlowStart = nil
	}
	return out
}

func (t *translator) ruleHash(o *Object, path string, in *RuleHash, out *mesh.Balancer) {
	out.Kind = mesh.BalanceRingHash
	out.RingMin = in.MinimumRingSize
	if in.RingHash != nil && in.RingHash.MinimumRingSize > 0 {
		out.RingMin = in.RingHash.MinimumRingSize
	}
	if out.RingMin > maxRingSize {
		t.bad(o, path+".ringHash.minimumRingSize", "%d is out of range; use 1 to %d", out.RingMin, maxRingSize)
		out.RingMin = 0
	}
	if m := in.Maglev; m != nil {
		if in.RingHash != nil || in.MinimumRingSize > 0 {
			t.bad(o, path, "ringHash and maglev exclude each other; remove one")
		}
		out.Kind = mesh.BalanceMaglev
		if m.TableSize > 0 {
			out.TableSize = t.tableSize(o, path+".maglev.tableSize", int64(min(m.TableSize, math.MaxInt64)))
		}
	}
	key := TrafficHash{Header: in.HTTPHeaderName, Query: in.HTTPQueryParameterName, SourceIP: in.UseSourceIP}
	sources := 0
	for _, said := range []bool{key.Header != "", key.Query != "", key.SourceIP, in.HTTPCookie != nil} {
		if said {
			sources++
		}
	}
	if sources != 1 {
		t.bad(o, path, "the hash has one source; give exactly one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName")
		return
	}
	c := in.HTTPCookie
	if c == nil {
		out.Hash = []mesh.HashKey{t.trafficHash(o, path, &key)}
		return
	}
	t.cookie(o, path+".httpCookie", c.Name, c.Path)
	k := mesh.HashKey{Kind: mesh.HashCookie, Name: c.Name, Path: c.Path}
	if c.TTL != nil {
		k.TTL = max(t.idle(o, path+".httpCookie.ttl", *c.TTL), 0)
		k.Session = k.TTL == 0
	}
	out.Hash = []mesh.HashKey{k}
}

// span reads a duration of Istio's, "" for none: 1 ms at the least.
func (t *translator) span(o *Object, path, s string) time.Duration {
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Millisecond {
		t.bad(o, path, "%q is not a duration of at least 1ms; write it like 10s or 500ms", clip(s))
		return 0
	}
	return d
}

// idle is span, but for a 0 that means never.
func (t *translator) idle(o *Object, path, s string) time.Duration {
	if d, err := time.ParseDuration(s); err == nil && d == 0 {
		return mesh.Never
	}
	return t.span(o, path, s)
}
