package mesh

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The strings of this file are for people who ask what is in force. None holds
// a secret.

// String returns "GET /v1* x-user=bob ?q~.+": "*" for a prefix, "~" for an expression.
func (m *RouteMatch) String() string {
	var parts []string
	if m.Method != "" {
		parts = append(parts, m.Method)
	}
	if m.Path != nil {
		switch m.Path.Kind {
		case MatchPrefix:
			parts = append(parts, strings.TrimSuffix(m.Path.Value, "/")+"/*")
		case MatchRegex:
			parts = append(parts, "~"+m.Path.Value)
		case MatchExact:
			parts = append(parts, m.Path.Value)
		}
	}
	for _, h := range m.Headers {
		parts = append(parts, h.String())
	}
	for _, q := range m.Query {
		parts = append(parts, "?"+q.String())
	}
	if len(parts) == 0 {
		return "all"
	}
	return strings.Join(parts, " ")
}

// String returns "name=value", or "name~expression".
func (n NamedMatch) String() string {
	if n.Kind == MatchRegex {
		return n.Name + "~" + n.Value
	}
	return n.Name + "=" + n.Value
}

// List returns what the filters do, a few words for each.
func (f *RouteFilters) List() []string {
	var out []string
	edits := func(what string, e *HeaderEdits) {
		if e.IsZero() {
			return
		}
		var names []string
		for _, s := range e.Set {
			names = append(names, s.Name+"=")
		}
		for _, s := range e.Add {
			names = append(names, s.Name+"+=")
		}
		for _, s := range e.Remove {
			names = append(names, "-"+s)
		}
		out = append(out, what+" "+strings.Join(names, " "))
	}
	edits("request headers", f.RequestHeaders)
	edits("response headers", f.ResponseHeaders)
	if r := f.Redirect; r != nil {
		out = append(out, fmt.Sprintf("redirect %d%s", r.Status, target(r.Scheme, r.Hostname, r.Port, r.Path)))
	}
	if r := f.Rewrite; r != nil {
		out = append(out, "rewrite"+target("", r.Hostname, 0, r.Path))
	}
	for _, m := range f.Mirrors {
		share := ""
		if m.Denominator > 0 {
			share = fmt.Sprintf(" %d/%d", m.Numerator, m.Denominator)
		}
		out = append(out, fmt.Sprintf("mirror%s to %s:%d", share, m.Backend.Service, m.Backend.Port))
	}
	if f.CORS != nil {
		out = append(out, "cors "+strings.Join(f.CORS.Origins, " "))
	}
	return out
}

func target(scheme, host string, port uint16, path *PathEdit) string {
	s := ""
	if scheme != "" {
		s += " " + scheme
	}
	if host != "" {
		s += " host " + host
	}
	if port != 0 {
		s += " port " + strconv.Itoa(int(port))
	}
	if path != nil && path.Prefix {
		s += " prefix " + strconv.Quote(path.Value)
	} else if path != nil {
		s += " path " + path.Value
	}
	return s
}

// String returns what the policy says in one line, "" for nothing:
// "timeout=10s retry=2x503,reset limit=100/1s".
func (p *RequestPolicy) String() string {
	if p == nil {
		return ""
	}
	var w words
	if t := p.Timeouts; t != nil {
		w.duration("timeout", t.Request)
		w.duration("per-try", t.PerTry)
		w.duration("idle", t.Idle)
		w.duration("max-duration", t.MaxDuration)
	}
	if r := p.Retry; r != nil {
		w.add("retry", strconv.Itoa(r.Attempts)+"x"+strings.Join(r.reasons(), ","))
		w.duration("backoff", r.BackoffBase)
	}
	if h := p.Hedging; h != nil {
		w.add("hedge", fmt.Sprintf("%dx%s", h.Max, h.Delay))
	}
	if l := p.RateLimit; l != nil {
		for _, b := range l.Local {
			w.add("limit", fmt.Sprintf("%d/%s", b.Requests, b.Per))
		}
		if l.Global != nil {
			w.add("limit", fmt.Sprintf("global:%s", l.Global.Domain))
		}
	}
	if f := p.Faults; f != nil {
		w.add("faults", strconv.Itoa(len(f.List)))
	}
	if s := p.Session; s != nil {
		kind := "cookie:"
		if s.Header {
			kind = "header:"
		}
		w.add("session", kind+s.Name)
	}
	return strings.Join(w, " ")
}

// reasons returns codes, then the others.
func (r *Retry) reasons() []string {
	var out []string
	for _, c := range r.Codes {
		out = append(out, strconv.Itoa(c))
	}
	for _, c := range r.GRPCStatuses {
		out = append(out, "grpc-"+strconv.Itoa(c))
	}
	for i, name := range []string{"connect-failure", "refused-stream", "reset", "reset-before-request", "per-try-timeout"} {
		if r.On&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return out
}

// String returns what the policy says in one line, "" for nothing.
func (p *BackendPolicy) String() string {
	if p == nil {
		return ""
	}
	var w words
	if c := p.Connection; c != nil {
		w.duration("connect-timeout", c.ConnectTimeout)
		w.duration("idle", c.IdleTimeout)
	}
	if b := p.Breaker; b != nil {
		w.add("breaker", fmt.Sprintf("%d/%d/%d/%d", b.MaxConnections, b.MaxPending, b.MaxRequests, b.MaxRetries))
	}
	if b := p.Budget; b != nil {
		w.add("budget", fmt.Sprintf("%g%%", b.Percent))
	}
	w.flag("outlier-detection", p.Outlier != nil)
	w.flag("health-check", p.Health != nil)
	if b := p.Balancer; b != nil {
		w.add("balancer", b.Kind.String())
	}
	w.flag("adaptive-concurrency", p.Concurrency != nil)
	if t := p.TLS; t != nil {
		w.add("tls", t.SNI)
	}
	for _, k := range slices.Sorted(maps.Keys(p.Subset)) {
		w.add("subset:"+k, p.Subset[k])
	}
	return strings.Join(w, " ")
}

// words gathers "name=value".
type words []string

func (w *words) add(name, value string) { *w = append(*w, name+"="+value) }

func (w *words) flag(name string, on bool) {
	if on {
		*w = append(*w, name)
	}
}

func (w *words) duration(name string, d time.Duration) {
	switch {
	case d == Never:
		w.add(name, "none")
	case d != 0:
		w.add(name, d.String())
	}
}

// String returns the policy's name.
func (b BalancerPolicy) String() string {
	if int(b) < len(balancers) {
		return balancers[b]
	}
	return "?"
}

var balancers = [...]string{"Default", "LeastRequest", "RoundRobin", "Random", "RingHash", "Maglev", "Rendezvous", "PeakEWMA", "Passthrough"}
