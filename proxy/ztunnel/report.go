package ztunnel

import (
	"errors"
	"net/netip"
	"time"

	"cairnproxy.dev/cairn/filters/authz"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/telemetry"
	"cairnproxy.dev/cairn/tunnel"
)

// reportEvery is how often the byte counters of open connections are brought
// up to date in the metrics.
const reportEvery = 5 * time.Second

// gauge is the part of a gauge that is needed here.
type gauge interface {
	Inc()
	Dec()
}

// metrics makes the label sets of connections. A nil *metrics counts nothing.
type metrics struct {
	m           *telemetry.Metrics
	source      gauge
	destination gauge
}

func newMetrics(m *telemetry.Metrics) *metrics {
	if m == nil {
		return nil
	}
	return &metrics{m: m, source: m.SocketsOpen(telemetry.ReporterSource), destination: m.SocketsOpen(telemetry.ReporterDestination)}
}

// labelled is a client as the metrics name it.
type labelled struct {
	workload *mesh.Workload // nil when it is not known
	labels   telemetry.WorkloadLabels
}

func sourceOf(w *mesh.Workload) labelled {
	return labelled{w, telemetry.WorkloadLabelsOf(w)}
}

// peerOf says who is at the other end of a tunnel: what the mesh knows of its
// address counts more than what it says of itself in its baggage; of another
// network's addresses nothing is known here.
func peerOf(s *mesh.Snapshot, local *mesh.Workload, req *tunnel.Connect) labelled {
	if req.Network == "" || req.Network == local.Network {
		if w := s.WorkloadAt(local.Network, req.Peer.Addr.Addr().Unmap()); w != nil {
			return sourceOf(w)
		}
	}
	b := tunnel.ParseBaggage(req.Baggage)
	return labelled{labels: telemetry.WorkloadLabels{
		Name: b.WorkloadName, CanonicalService: b.Service, CanonicalRevision: b.Version, App: b.Service, Version: b.Version,
		Namespace: b.Namespace, Cluster: b.Cluster, Region: b.Region, Zone: b.Zone,
	}}
}

func (m *metrics) outbound(src, dst *mesh.Workload, hop Hop) *telemetry.TCPSeries {
	if m == nil {
		return nil
	}
	l := telemetry.TCPLabels{
		Reporter: telemetry.ReporterSource, Source: telemetry.WorkloadLabelsOf(src),
		Destination: telemetry.WorkloadLabelsOf(dst), Service: telemetry.ServiceLabelsOf(hop.Service),
	}
	if hop.Protocol == ProtocolHBONE {
		l.Security = telemetry.SecurityMutualTLS
		l.Source.Principal, l.Destination.Principal = src.Identity().String(), hop.Peer.String()
	}
	return m.m.TCP(l)
}

func (m *metrics) inbound(src labelled, peer mesh.Identity, dst *mesh.Workload, svc *mesh.Service) *telemetry.TCPSeries {
	if m == nil {
		return nil
	}
	l := telemetry.TCPLabels{
		Reporter: telemetry.ReporterDestination, Source: src.labels,
		Destination: telemetry.WorkloadLabelsOf(dst), Service: telemetry.ServiceLabelsOf(svc),
	}
	if !peer.IsZero() {
		l.Security = telemetry.SecurityMutualTLS
		l.Source.Principal, l.Destination.Principal = peer.String(), dst.Identity().String()
	}
	return m.m.TCP(l)
}

// open counts the connection as opened.
func (c *connection) open(m *metrics, s *telemetry.TCPSeries) {
	if s == nil {
		return
	}
	s.Opened()
	m.sockets(c).Inc()
	c.series.Store(s)
}

func (m *metrics) sockets(c *connection) gauge {
	if c.outbound {
		return m.source
	}
	return m.destination
}

// around counts a connection that went around a waypoint, which permissive bindings allow and which is rare.
func (m *metrics) around(c *connection) {
	reporter := "destination"
	if c.outbound {
		reporter = "source"
	}
	m.m.Counter("cairn_waypoint_bypassed_total", "Connections that went around the waypoint of what they are for, as a permissive binding allows.",
		telemetry.Label{Name: "reporter", Value: reporter}, telemetry.Label{Name: "waypoint", Value: c.around}).Inc()
}

// report adds what was copied since the last report to the metrics. The
// client's bytes are "received", the server's "sent", for both reporters.
func (c *connection) report() {
	s := c.series.Load()
	if s == nil {
		return
	}
	c.reportMu.Lock()
	defer c.reportMu.Unlock()
	from, to := c.bytes.FromConn.Load(), c.bytes.ToConn.Load()
	client, server := from-c.reported.fromConn, to-c.reported.toConn
	c.reported.fromConn, c.reported.toConn = from, to
	if c.connIsServer() {
		client, server = server, client
	}
	s.Received(client)
	s.Sent(server)
}

// connIsServer reports whether the counters' Conn is the server: the
// application behind an inbound stream.
func (c *connection) connIsServer() bool { return !c.outbound && c.protocol == ProtocolHBONE }

// record is what the access log adds to what a connection knows itself.
type record struct {
	source   *mesh.Workload
	sourceID mesh.Identity
	dest     *mesh.Workload
	service  *mesh.Service
	hop      *Hop // outbound only
}

// end is the end of a connection that was tracked.
func (p *Proxy) end(c *connection, err error, r record) {
	if reason := c.aborted(); reason != nil {
		err = reason
	}
	p.finish(c, err, r)
	p.conns.remove(c)
}

// finish counts a connection's end and logs it.
func (p *Proxy) finish(c *connection, err error, r record) {
	c.report()
	flag := flagOf(err)
	if s := c.series.Load(); s != nil {
		p.tcp.sockets(c).Dec()
		s = s.With(flag)
		s.Closed()
		if flag != flagNone {
			s.Failed()
		}
	}
	if c.around != "" && p.tcp != nil {
		p.tcp.around(c)
	}
	if p.o.AccessLog != nil {
		rec := c.record(err, r)
		p.o.AccessLog.Conn(&rec)
	}
}

func (c *connection) record(err error, r record) telemetry.ConnRecord {
	now := time.Now()
	out := telemetry.ConnRecord{Time: now, Inbound: !c.outbound, Duration: now.Sub(c.started)}
	out.Src.Addr, out.Dst.Addr = c.src, c.actual
	if r.hop != nil {
		out.DstHBONE = r.hop.Authority
		out.Dst.Identity = r.hop.Peer.String()
		if r.hop.Protocol == ProtocolHBONE {
			r.sourceID = r.source.Identity()
		}
		if !c.actual.IsValid() {
			out.Dst.Addr, _ = netip.ParseAddrPort(c.original)
		}
	} else if c.protocol == ProtocolHBONE {
		out.DstHBONE, out.Dst.Identity = c.original, r.dest.Identity().String()
	}
	describe(&out.Src, r.source)
	describe(&out.Dst, r.dest)
	out.Src.Identity = r.sourceID.String()
	if r.service != nil {
		out.DstService = r.service.Key.Hostname
	}
	// As the own workload sees it: sent is what it sent.
	from, to := c.bytes.FromConn.Load(), c.bytes.ToConn.Load()
	out.BytesSent, out.BytesRecv = from, to
	if !c.outbound && c.protocol == ProtocolTCP {
		out.BytesSent, out.BytesRecv = to, from
	}
	if err != nil {
		out.Err = err.Error()
	}
	out.DryRun, out.Around = c.would, c.around
	return out
}

func describe(e *telemetry.EndpointRecord, w *mesh.Workload) {
	if w == nil {
		return
	}
	e.Workload, e.Namespace, e.Cluster = w.Name, w.Namespace, w.ClusterID
}

// logEarly logs a connection that was refused before anything was known of it.
func (p *Proxy) logEarly(direction string, src, dst netip.AddrPort, err error) {
	if p.o.AccessLog == nil {
		return
	}
	rec := telemetry.ConnRecord{Time: time.Now(), Event: telemetry.ConnFailed, Inbound: direction == "inbound", Err: err.Error()}
	rec.Src.Addr, rec.Dst.Addr = src, dst
	p.o.AccessLog.Conn(&rec)
}

// statusOf is the answer to a CONNECT that failed with err.
func statusOf(err error) int {
	if r, ok := errors.AsType[*Refusal](err); ok && r.Status != 0 {
		return r.Status
	}
	return 503
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
