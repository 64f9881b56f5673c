package waypoint

import (
	"net/netip"
	"strings"

	"cairnproxy.dev/cairn/filters/authz"
	"cairnproxy.dev/cairn/filters/extauthz"
	"cairnproxy.dev/cairn/filters/jwt"
	"cairnproxy.dev/cairn/filters/ratelimit"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/telemetry"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// seriesKey is what the metrics of an exchange depend on, its end apart.
type seriesKey struct {
	port *servicePort
	cl   *cluster
	dest *destination
	grpc bool
}

// report writes the exchange's record and counts it, once.
func (x *exchange) report(t *loop.Turn) {
	if x.slotted {
		x.leaveSlot(t, x.upFinished && x.phase != upgraded)
	}
	if _, copied := x.down.(*mirrorSide); copied {
		return
	}
	d := t.Now.Sub(x.start)
	grpc := isGRPC(&x.req)
	status := x.resp.Status
	if !x.respStarted {
		status = 0
	}
	s := x.tun.series(x, grpc)
	g := ""
	if grpc {
		g = x.grpcStatus
	}
	flags := x.flags()
	flag := flags
	if flag == "" {
		flag = "-"
	}
	s.With(status, g, flag).Observe(int64(d), x.bytesIn, x.bytesOut)
	dryRun := x.dryRun()
	x.keepDecision(status, d, flags, dryRun)
	if x.tun.p.o.AccessLog == nil {
		return
	}
	r := telemetry.Record{
		Start: x.start, Method: x.req.Method, Protocol: "HTTP/1.1",
		ResponseCode: status, ResponseFlags: flags, ResponseCodeDetails: x.details, GRPCStatus: g, DryRun: dryRun,
		UpstreamTransportFailureReason: x.cause,
		BytesReceived:                  x.bytesIn, BytesSent: x.bytesOut, Duration: d, UpstreamServiceTime: -1,
		RequestID: viewString(x.requestID), Authority: x.req.Authority,
		DownstreamLocalAddress: x.tun.dst, DownstreamRemoteAddress: x.tun.peer.Addr,
		SourcePrincipal: x.tun.principalURI,
	}
	r.Path = x.publicPath()
	if x.req.Proto == 2 {
		r.Protocol = "HTTP/2"
	}
	r.ForwardedFor, _ = x.req.Fields.Get("x-forwarded-for")
	r.UserAgent, _ = x.req.Fields.Get("user-agent")
	if x.dest != nil {
		r.UpstreamHost = x.dest.addr
	}
	if x.backend != nil && x.backend.cluster != nil {
		r.UpstreamCluster = x.backend.cluster.name
	}
	if x.rule != nil {
		r.RouteName = x.rule.name
	}
	if !x.local && x.respStarted {
		if r.ResponseCodeDetails == "" {
			r.ResponseCodeDetails = "via_upstream"
		}
		r.UpstreamServiceTime = x.upDuration
	}
	x.tun.p.o.AccessLog.HTTP(&r)
}

// flags are the exchange's response flags: a delay is no answer, and is told beside one.
func (x *exchange) flags() string {
	switch n := x.fx.Noted(); {
	case n == nil || !n.Delayed:
		return x.flag
	case x.flag == "":
		return flagDelayed
	}
	return flagDelayed + "," + x.flag
}

// dryRun says what policies in dry run would have done, "" for nothing.
func (x *exchange) dryRun() string {
	n := x.fx.Noted()
	if n == nil || n.WouldDeny.Name == "" && n.WouldAllow.Name == "" && n.Audited.Name == "" && n.WouldLimit == "" {
		return ""
	}
	out := authz.Told(n.WouldDeny, n.WouldAllow, n.Audited)
	switch {
	case n.WouldLimit == "":
	case out == "":
		out = "limited by " + n.WouldLimit
	default:
		out += ", limited by " + n.WouldLimit
	}
	return out
}

// authzCounter makes a series of what a policy that decides nothing says.
func (p *Proxy) authzCounter(metric string, policy authz.Watched, label, value string) authz.Counter {
	labels := []telemetry.Label{
		{Name: "policy_kind", Value: policy.Kind}, {Name: "policy_namespace", Value: policy.Name.Namespace}, {Name: "policy", Value: policy.Name.Name},
	}
	if label != "" {
		labels = append(labels, telemetry.Label{Name: label, Value: value})
	}
	return p.o.Metrics.Counter(metric, authz.Help(metric), labels...)
}

// extAuthzCounter makes a series of what a service says that is asked about requests.
func (p *Proxy) extAuthzCounter(provider string, service mesh.ServiceKey, result string) extauthz.Counter {
	return p.o.Metrics.Counter(extauthz.Metric, "Requests about which an external authorization service was asked, by what it said.",
		telemetry.Label{Name: "provider", Value: provider}, telemetry.Label{Name: "service_namespace", Value: service.Namespace},
		telemetry.Label{Name: "service", Value: service.Hostname}, telemetry.Label{Name: "result", Value: result})
}

// jwtCounter makes a series of what becomes of tokens, or of the fetches of keys.
func (p *Proxy) jwtCounter(metric, jwks, result string) jwt.Counter {
	labels := []telemetry.Label{{Name: "result", Value: result}}
	if jwks != "" {
		labels = append(labels, telemetry.Label{Name: "jwks", Value: jwks})
	}
	return p.o.Metrics.Counter(metric, jwt.Help(metric), labels...)
}

// limitCounter makes a series of what rate limits do.
func (p *Proxy) limitCounter(policy mesh.Name, limit, result string) ratelimit.Counter {
	return p.o.Metrics.Counter("cairn_ratelimit_total", "Requests that a rate limit refused, or would have refused in dry run; questions to rate limit services, and those without an answer.",
		telemetry.Label{Name: "policy_namespace", Value: policy.Namespace}, telemetry.Label{Name: "policy", Value: policy.Name},
		telemetry.Label{Name: "limit", Value: limit}, telemetry.Label{Name: "result", Value: result})
}

// publicPath is the client's path, as it was before any rewrite, for others to read: without a query that holds a token.
func (x *exchange) publicPath() string {
	path := viewString(x.path)
	if n := x.fx.Noted(); n != nil && n.SecretQuery {
		path, _, _ = strings.Cut(path, "?")
	}
	return path
}

// series resolves the labels of an exchange. The last ones used are kept with
// the tunnel, where nearly all requests look alike.
func (tun *clientTunnel) series(x *exchange, grpc bool) *telemetry.HTTPSeries {
	key := seriesKey{port: x.port, dest: x.dest, grpc: grpc}
	if x.backend != nil {
		key.cl = x.backend.cluster
	}
	tun.seriesMu.Lock()
	defer tun.seriesMu.Unlock()
	tun.freshen()
	for i := range tun.seriesCache {
		if e := &tun.seriesCache[i]; e.key == key && e.s != nil {
			return e.s
		}
	}
	if s := tun.seriesMore[key]; s != nil {
		return s
	}
	l := telemetry.HTTPLabels{Reporter: telemetry.ReporterWaypoint, Source: tun.source(), Protocol: "http", Security: "mutual_tls"}
	if grpc {
		l.Protocol = "grpc"
	}
	if x.port != nil {
		l.Service = x.port.labels
	}
	if x.backend != nil && x.backend.cluster != nil {
		l.Service = x.backend.cluster.service
	}
	if x.dest != nil && x.rt != nil {
		w := x.rt.snapshot.Workload(x.dest.key.workload)
		l.Destination = telemetry.WorkloadLabelsOf(w)
		if w != nil && x.dest.peer != nil {
			l.Destination.Principal = w.Identity().String()
		}
	}
	s := tun.p.o.Metrics.HTTP(l)
	tun.keepSeries(key, s)
	return s
}

// freshen drops the series at hand when the client's workload is another since
// the last configuration: its labels are in all of them. What else they tell of
// is in their keys.
func (tun *clientTunnel) freshen() {
	rt := tun.p.runtime.Load()
	if rt == nil || rt.id == tun.seriesAt {
		return
	}
	tun.seriesAt = rt.id
	if w := tun.workload(rt.snapshot); w != tun.seriesOf {
		tun.seriesOf, tun.seriesMore = w, nil
		tun.seriesCache = [len(tun.seriesCache)]seriesEntry{}
	}
}

// maxSeries bounds the series that a tunnel keeps at hand.
const maxSeries = 256

func (tun *clientTunnel) keepSeries(key seriesKey, s *telemetry.HTTPSeries) {
	for i := range tun.seriesCache {
		if e := &tun.seriesCache[i]; e.s == nil {
			*e = seriesEntry{key, s}
			return
		}
	}
	if tun.seriesMore == nil || len(tun.seriesMore) >= maxSeries {
		// Most of what is kept is of configurations of before.
		tun.seriesCache = [len(tun.seriesCache)]seriesEntry{{key, s}}
		tun.seriesMore = map[seriesKey]*telemetry.HTTPSeries{}
		return
	}
	tun.seriesMore[key] = s
}

type seriesEntry struct {
	key seriesKey
	s   *telemetry.HTTPSeries
}

// source is who the client is: the workload at the address that its node proxy
// named, if that workload has the identity that was proven; else what the
// node proxy said of it; else its identity alone.
func (tun *clientTunnel) source() telemetry.WorkloadLabels {
	id := tun.peer.Identity
	if w := tun.workload(tun.p.runtime.Load().snapshot); w != nil {
		return withPrincipal(telemetry.WorkloadLabelsOf(w), id)
	}
	b := &tun.baggage
	return telemetry.WorkloadLabels{
		Name: b.WorkloadName, Namespace: id.Namespace, CanonicalService: b.Service, CanonicalRevision: b.Version,
		App: b.Service, Version: b.Version, Cluster: b.Cluster, Principal: id.String(), Region: b.Region, Zone: b.Zone,
	}
}

// workload is the client's, if snap knows it and the client has its identity; else nil.
func (tun *clientTunnel) workload(snap *mesh.Snapshot) *mesh.Workload {
	for _, a := range [...]netip.Addr{tun.client.Addr(), tun.peer.Addr.Addr()} {
		if w := snap.WorkloadAt(tun.p.o.Network, a); w != nil && w.Identity() == tun.peer.Identity {
			return w
		}
	}
	return nil
}

func withPrincipal(l telemetry.WorkloadLabels, id mesh.Identity) telemetry.WorkloadLabels {
	l.Principal = id.String()
	return l
}
