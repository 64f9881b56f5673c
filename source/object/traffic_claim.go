package object

import (
	"fmt"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// says lists what a body says, in the words of the manifests. Two bodies at one
// target may not say the same.
func (b *policyBody) says() []string { return append(b.saysOfRequests(), b.saysOfBackend()...) }

// saysOfRequests is says for what is done before an endpoint is chosen.
func (b *policyBody) saysOfRequests() (out []string) {
	add := func(name string, said bool) {
		if said {
			out = append(out, name)
		}
	}
	if r := b.requests; r != nil {
		if d := r.Timeouts; d != nil {
			add("timeout.request", d.Request != 0)
			add("timeout.backendRequest", d.PerTry != 0)
			add("timeout.idle", d.Idle != 0)
			add("timeout.maxStreamDuration", d.MaxDuration != 0)
		}
		add("retry", r.Retry != nil)
		add("hedging", r.Hedging != nil)
		add("rateLimit", r.RateLimit != nil)
		add("faultInjection", r.Faults != nil)
		add("sessionPersistence", r.Session != nil)
	}
	return out
}

// saysOfBackend is says for what governs the way to endpoints.
func (b *policyBody) saysOfBackend() (out []string) {
	add := func(name string, said bool) {
		if said {
			out = append(out, name)
		}
	}
	if p := b.backend; p != nil {
		if c := p.Connection; c != nil {
			add("timeout.connect", c.ConnectTimeout != 0)
			add("connection.idleTimeout", c.IdleTimeout != 0)
			add("connection.maxRequestsPerConnection", c.MaxRequests != 0)
			add("connection.http2", c.HTTP2)
		}
		if c := p.Breaker; c != nil {
			add("circuitBreaker.maxConnections", c.MaxConnections != 0)
			add("circuitBreaker.maxPendingRequests", c.MaxPending != 0)
			add("circuitBreaker.maxRequests", c.MaxRequests != 0)
			add("circuitBreaker.maxRetries", c.MaxRetries != 0)
		}
		add("retry.budget", p.Budget != nil)
		add("outlierDetection", p.Outlier != nil)
		add("healthCheck", p.Health != nil)
		add("loadBalancer", p.Balancer != nil)
		add("adaptiveConcurrency", p.Concurrency != nil)
		add("validation", p.TLS != nil)
		add("loadBalancer.subset", len(p.Subset) > 0)
	}
	add("loadBalancer.subset", b.subset != "")
	return out
}

// claim lays a body at a target. It says what of it others have said before; ""
// for nothing.
func (t *translator) claim(o *Object, at policyTarget, b *policyBody, path string) string {
	c := t.traffic.claims[at]
	if c == nil {
		c = &claim{owners: map[string]*Object{}}
		t.traffic.claims[at] = c
	}
	var lost []string
	var winner *Object
	says := b.says()
	for _, field := range says {
		if first := c.owners[field]; first == nil {
			c.owners[field] = o
		} else {
			winner = first
			lost = append(lost, fmt.Sprintf("%s (%s)", field, first))
		}
	}
	if len(lost) < len(says) {
		c.bodies = append(c.bodies, b)
	}
	if winner == nil {
		return ""
	}
	rest := "nothing of it is in force here"
	if len(lost) < len(says) {
		rest = "the rest of it is in force"
	}
	first := len(t.trail)
	t.unresolved(o, path, reasonConflicted, "an older policy says this of %s already: %s; %s; remove it from one of the two", at, strings.Join(lost, ", "), rest)
	if len(t.trail) == first {
		return "an older policy says the same"
	}
	return t.trail[first].path + ": " + t.trail[first].message
}

// String returns "Service default/web, port http".
func (at policyTarget) String() string {
	s := describe(at.kind, at.name)
	switch {
	case at.section == "":
	case at.kind == "Service" || at.kind == "ServiceEntry":
		s += ", port " + at.section
	default:
		s += ", rule " + at.section
	}
	return s
}

// mergeClaims lays the bodies of each target over each other.
func (t *translator) mergeClaims() {
	for at, c := range t.traffic.claims {
		if old := t.past.traffic.claims[at]; old != nil && slices.Equal(old.bodies, c.bodies) {
			c.merged = old.merged
		} else {
			for _, b := range c.bodies {
				c.merged = c.merged.over(b)
			}
		}
		if at.kind == "Gateway" {
			t.traffic.gateways[at.name] = c.merged
		} else {
			t.traffic.targets[at.name] = true // a Service, an entry or a route by that name
		}
	}
}

// layer returns what policies of a kind say at a target; nil for nothing.
func (t *translator) layer(policy *Kind, kind string, name mesh.Name, section string) *policyBody {
	if c := t.traffic.claims[policyTarget{policy, kind, name, section}]; c != nil {
		return c.merged
	}
	return nil
}
