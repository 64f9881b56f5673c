package waypoint

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/explain"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
	"cairnproxy.dev/cairn/router"
	"cairnproxy.dev/cairn/telemetry"
	"cairnproxy.dev/cairn/telemetry/decision"
	"cairnproxy.dev/cairn/tunnel/h1"
)

// Explain says what the configuration in force makes of a request, and why, by asking what requests
// are served by: the same policies, tables and backends. It may be called from any goroutine, counts nothing, and asks
// nobody: neither the providers of CUSTOM policies nor rate limits. took is the record of the request, nil for one
// that was made up.
func (p *Proxy) Explain(q *explain.Question, took *decision.Record) *explain.Waypoint {
	w := &explain.Waypoint{Name: p.o.Name.String()}
	rt := p.runtime.Load()
	if rt == nil {
		return refused(w, 503, "the waypoint has no configuration yet")
	}
	w.Version = rt.snapshot.Version
	req, sp, err := p.request(rt, q)
	if err != nil {
		return refused(w, 400, err.Error())
	}
	if sp == nil {
		return refused(w, 404, "no service of this waypoint has the address that was dialled, nor the host name")
	}
	w.Service, w.Protocol = sp.String(), sp.protocol.String()
	for _, a := range sp.policies.Tokens {
		for i := range a.Rules {
			w.Tokens = append(w.Tokens, a.Rules[i].Issuer)
		}
	}
	if !sp.authz.Empty() {
		w.Policies = explainPolicies(sp.authz, sp, req, q)
	}
	if sp.protocol == mesh.ProtocolTCP || sp.protocol == mesh.ProtocolTLS {
		if w.Policies != nil && !w.Policies.Allowed {
			w.Why = "the port is not HTTP: the connection is refused"
		}
		return w
	}
	var m router.Match
	ru := sp.match(req, &m)
	w.Route = sp.explainRoute(ru, req, &m, took)
	if ru != nil && ru.authz != nil {
		w.Route.Policies = explainPolicies(ru.authz.set, sp, req, q)
	}
	w.Status, w.Why = outcome(w, ru)
	return w
}

func refused(w *explain.Waypoint, status int, why string) *explain.Waypoint {
	w.Status, w.Why = status, why
	return w
}

// outcome is what we answer ourselves, 0 for nothing, and why.
func outcome(w *explain.Waypoint, ru *rule) (status int, why string) {
	for _, d := range []*explain.Decision{w.Policies, w.Route.Policies} {
		if d != nil && !d.Allowed {
			if d.By == "" {
				return 403, d.Reason
			}
			return 403, d.By + ": " + d.Reason
		}
	}
	switch {
	case ru == nil:
		return 404, "no rule of the service's routes matches"
	case ru.broken != "":
		return 500, ru.broken
	}
	if i := slices.IndexFunc(w.Route.Backends, func(b explain.Backend) bool { return b.Weight > 0 }); i < 0 && !slices.ContainsFunc(w.Route.Filters, func(f string) bool { return strings.HasPrefix(f, "redirect") }) {
		return 500, "the rule has no backend"
	}
	return 0, ""
}

// String is the service and port, or the workload's address.
func (sp *servicePort) String() string {
	if sp.service != nil {
		return fmt.Sprintf("%s:%d", sp.service.Key.Hostname, sp.port)
	}
	return fmt.Sprintf("%s:%d", sp.workload.UID, sp.port)
}

// request is what the codecs would make of q, and what it is for.
func (p *Proxy) request(rt *Runtime, q *explain.Question) (*mesh.Request, *servicePort, error) {
	req := &mesh.Request{
		Method: q.Method, Scheme: "http", Authority: q.Host, Fields: q.Fields(), Token: q.Token(), Destination: q.Destination, Proto: 1, MinorVersion: 1,
		Peer: mesh.Peer{Identity: q.Identity(), Principal: q.Principal, Addr: q.Source},
	}
	if q.HTTP2 {
		req.Proto, req.MinorVersion = 2, 0
	}
	var ok bool
	if req.Fields, ok = rt.heads.underscored(rt.heads.disown(req.Fields)); !ok {
		return nil, nil, errors.New("the name of a header has an underscore, which this waypoint refuses (policy.cairnproxy.dev/header-underscores)")
	}
	if q.ID != "" {
		req.Fields.Set("x-request-id", q.ID)
	}
	if !req.Fields.Has("x-forwarded-proto") {
		req.Fields.Add("x-forwarded-proto", "http")
	}
	if err := h1.SetPathAs(rt.heads.lim().PathLevel(), []byte(q.Path), req); err != nil {
		return nil, nil, fmt.Errorf("path %q: %w", q.Path, err)
	}
	host, port := splitHost(q.Host)
	req.Host = host
	sp := p.find(rt, q.Destination, host, port)
	if q.Service != "" && (sp == nil || sp.service == nil || sp.service.Key.Hostname != q.Service) {
		// The address is of another run of the mesh: the name counts.
		if q.Destination.IsValid() {
			port = q.Destination.Port()
		}
		sp = rt.lookup(netip.AddrPort{}, strings.ToLower(q.Service), port)
		if sp != nil {
			tun := clientTunnel{port: port}
			req.Destination = tun.destination(sp)
		}
		return req, sp, nil
	}
	if sp != nil && !q.Destination.IsValid() {
		tun := clientTunnel{port: port}
		req.Destination = tun.destination(sp)
	}
	return req, sp, nil
}

// splitHost splits an authority into its host, in lower case, and its port, 80 where there is none.
func splitHost(authority string) (host string, port uint16) {
	host, port = strings.ToLower(authority), 80
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.Contains(host[i:], "]") {
		if _, err := fmt.Sscanf(host[i:], ":%d", &port); err == nil {
			host = host[:i]
		}
	}
	return strings.TrimSuffix(strings.Trim(host, "[]"), "."), port
}

func explainPolicies(set *policy.L7, sp *servicePort, req *mesh.Request, q *explain.Question) *explain.Decision {
	if sp.protocol == mesh.ProtocolTCP || sp.protocol == mesh.ProtocolTLS {
		return explain.NewDecision(set.ExplainL4(policy.L4Facts{
			Peer: req.Peer.Identity, Principal: req.Peer.Principal, Source: req.Peer.Addr.Addr(), Destination: req.Destination, Service: sp.service,
		}))
	}
	in := policy.Input{Req: req, Service: sp.service, Now: q.At}
	d := explain.NewDecision(set.Explain(in))
	for i, provider := range set.Providers() {
		if set.Custom(in, i) {
			d.Ask = append(d.Ask, provider.Name)
		}
	}
	return d
}

// explainRoute says how ru was chosen, and what it leads to.
func (sp *servicePort) explainRoute(ru *rule, req *mesh.Request, m *router.Match, took *decision.Record) *explain.Route {
	out := &explain.Route{}
	consumer := ""
	if sp.consumers[req.Peer.Identity.Namespace] != nil {
		consumer = req.Peer.Identity.Namespace
	}
	n := -1 // of the rules in the table
	for i, a := range sp.routes {
		r := a.Route
		if r.Kind == mesh.RouteTCP || r.Kind == mesh.RouteTLS {
			continue
		}
		name := fmt.Sprintf("%s %s rule %s", r.Kind, r.Object, ruleName(r))
		if a.ConsumerNamespace != consumer {
			out.Tried = append(out.Tried, explain.Tried{Rule: name, Failed: consumersOf(a.ConsumerNamespace, consumer)})
			continue
		}
		n++
		taken := sp.rules[i] == ru && n == m.Rule
		if taken {
			out.Rule, out.Filters, out.Requests = name, r.Filters.List(), r.Requests.Over(sp.requests).String()
		}
		out.Tried = append(out.Tried, tried(name, r, req, taken, m.Match)...)
		if taken {
			out.Match = out.Tried[len(out.Tried)-1].Match
			for _, t := range out.Tried {
				if t.Taken {
					out.Match = t.Match
				}
			}
			for j := range r.Backends {
				out.Backends = append(out.Backends, ru.explainBackend(j, r, took))
			}
		}
	}
	if ru == nil {
		return out
	}
	out.Broken = ru.broken
	if out.Rule == "" {
		out.Rule, out.Requests = "the service itself", sp.requests.String()
		for _, b := range ru.backends {
			to := explain.Backend{Service: sp.labels.Name + "." + sp.labels.Namespace, Port: sp.port, Weight: 1, Percent: 100, Broken: b.broken}
			if sp.service != nil {
				to.Service = sp.service.Key.String()
			}
			out.Backends = append(out.Backends, b.explain(to, took))
		}
	}
	return out
}

func consumersOf(of, client string) string {
	if of == "" {
		return "the client's namespace " + client + " has routes of its own"
	}
	return "it is for clients of the namespace " + of
}

// tried says what each match of a rule makes of the request.
func tried(name string, r *mesh.Route, req *mesh.Request, taken bool, match int) []explain.Tried {
	if len(r.Hostnames) > 0 && !slices.ContainsFunc(r.Hostnames, func(h string) bool { return router.MeetsHost(h, req.Authority) }) {
		return []explain.Tried{{Rule: name, Match: "hostnames " + strings.Join(r.Hostnames, " "), Failed: "host " + req.Authority}}
	}
	matches := r.Matches
	if len(matches) == 0 {
		matches = []mesh.RouteMatch{{}}
	}
	var out []explain.Tried
	for i := range matches {
		t := explain.Tried{Rule: name, Match: matches[i].String(), Taken: taken && i == match, Failed: router.WhyNot(&matches[i], req)}
		if t.Match == "" {
			t.Match = "all"
		}
		for _, h := range matches[i].Headers {
			t.Fields = append(t.Fields, strings.ToLower(h.Name))
		}
		if !t.Taken && t.Failed == "" {
			t.Failed = "it matches, and another goes before it"
		}
		out = append(out, t)
	}
	return out
}

func (ru *rule) explainBackend(i int, r *mesh.Route, took *decision.Record) explain.Backend {
	b := &r.Backends[i]
	var sum uint64
	for j := range r.Backends {
		sum += uint64(r.Backends[j].Weight)
	}
	out := explain.Backend{Service: b.Service.String(), Port: b.Port, Weight: b.Weight, Broken: b.Broken}
	if b.Service == (mesh.ServiceKey{}) {
		out.Service = "nothing"
	}
	if sum > 0 {
		out.Percent = 100 * float64(b.Weight) / float64(sum)
	}
	if i >= len(ru.backends) { // the rule is broken
		return out
	}
	return ru.backends[i].explain(out, took)
}

func (b *backend) explain(out explain.Backend, took *decision.Record) explain.Backend {
	out.Broken = b.broken
	cl := b.cluster
	if cl == nil {
		return out
	}
	out.Policy, out.Balancer = cl.policy.String(), describeBalancer(cl.c)
	out.Took = took != nil && took.Cluster == cl.name
	for _, ep := range cl.c.Endpoints() {
		e := explain.Endpoint{Workload: ep.Workload.UID, Address: ep.Authority(), Condition: ep.Condition()}
		e.Took = out.Took && took.Endpoint.IsValid() && ep.Authority() == took.Endpoint.String()
		out.Endpoints = append(out.Endpoints, e)
	}
	return out
}

// NewOffline returns a waypoint that serves nothing and explains what it would: the one of that name in snap. It
// opens no socket and starts nothing, and Run must not be called.
func NewOffline(name mesh.Name, snap *mesh.Snapshot) (*Proxy, error) {
	p, err := New(Options{
		Name: name, Addresses: []netip.Addr{netip.IPv4Unspecified()}, Snapshots: offlineSnapshots{snap}, Identities: noIdentities{},
		Metrics: telemetry.NewMetrics("proxy", "", telemetry.MetricsOptions{NoRuntime: true}),
	})
	if err != nil {
		return nil, err
	}
	p.deps.Tokens.Close() // no keys are fetched
	p.runtime.Store(p.compile(snap, nil))
	return p, nil
}

// offlineSnapshots is one snapshot.
type offlineSnapshots struct{ snap *mesh.Snapshot }

func (o offlineSnapshots) Current() *mesh.Snapshot { return o.snap }

func (offlineSnapshots) Updates(context.Context) <-chan *mesh.Snapshot { return nil }

// noIdentities can shake hands with nobody.
type noIdentities struct{}

func (noIdentities) Server(mesh.Identity) *tls.Config           { return new(tls.Config) }
func (noIdentities) Client(mesh.Identity, []string) *tls.Config { return new(tls.Config) }
func (noIdentities) Alias([]string)                             {}
func (noIdentities) Revision() uint64                           { return 0 }
func (noIdentities) Revoked(*tls.ConnectionState) error         { return nil }
