// Package offline explains what a mesh would do with a request, from its manifests alone: nothing runs, and nothing
// is asked.
//
//	mesh.Parts ──► Mesh ──┬─ ztunnel.DecideOutbound   where the client's node proxy sends the connection
//	                      ├─ waypoint.NewOffline      what the waypoint makes of the request
//	                      └─ policy.CompileL4         whom the endpoints' node proxies let in
//
// These are what proxies serve by, so that online and offline cannot differ but in what they know: which endpoints are ejected,
// what has been counted, what somebody else would answer.
package offline

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/explain"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
	"cairnproxy.dev/cairn/proxy/waypoint"
	"cairnproxy.dev/cairn/proxy/ztunnel"
)

// Mesh is a mesh that does not run. It is for one goroutine.
type Mesh struct {
	snap      *mesh.Snapshot
	waypoints map[mesh.Name]*waypoint.Proxy
}

// New returns the mesh of parts.
func New(parts mesh.Parts) *Mesh {
	return &Mesh{snap: mesh.NewSnapshot(1, parts), waypoints: map[mesh.Name]*waypoint.Proxy{}}
}

func (m *Mesh) waypoint(n mesh.Name) (*waypoint.Proxy, error) {
	if p := m.waypoints[n]; p != nil {
		return p, nil
	}
	if m.snap.Waypoint(n) == nil {
		return nil, fmt.Errorf("there is no waypoint %s", n)
	}
	p, err := waypoint.NewOffline(n, m.snap)
	if err != nil {
		return nil, err
	}
	m.waypoints[n] = p
	return p, nil
}

// Client is who asks: the account of a namespace.
type Client struct {
	Namespace, ServiceAccount string
}

// Explain answers q, which comes from a pod of the client's account, or from no pod that is known where there is none. Of
// q, Principal, Source and Destination are found out where they are not given.
func (m *Mesh) Explain(q explain.Question, from Client) (*explain.Explanation, error) {
	src := m.client(from, &q)
	svc, target, err := m.target(&q, from.Namespace)
	if err != nil {
		return nil, err
	}
	e := &explain.Explanation{Configuration: "the manifests"}
	hop, err := ztunnel.DecideOutbound(m.snap, ztunnel.OutboundRequest{
		Source: src, SourceAddr: q.Source.Addr(), Target: target, Rand: func(uint64) uint64 { return 0 },
	})
	e.Request = q
	e.Client = &explain.Hop{From: "the node proxy of " + q.Who()}
	if err != nil {
		e.Client.Refused = err.Error()
		e.Outcome = "refused by the node proxy of the client: " + err.Error()
		return e, nil
	}
	e.Client.To = hopText(&hop)
	if !hop.Waypoint {
		e.Nodes = m.nodes(m.endpointsOf(svc, target, hop.Workload), q.Identity(), q.Source.Addr())
		e.Outcome = "passed on to " + e.Client.To
		m.conclude(e)
		return e, nil
	}
	ref := waypointOf(svc, m.snap.WorkloadAt(src.Network, target.Addr()))
	name, err := m.nameOf(ref, &hop)
	if err != nil {
		return nil, err
	}
	p, err := m.waypoint(name)
	if err != nil {
		return nil, err
	}
	w := p.Explain(&q, nil)
	e.Waypoint = w
	of := explain.Of(&q, nil, w)
	e.Outcome, e.Notes = of.Outcome, of.Notes
	if w.Status == 0 && !w.Refused() {
		at := m.snap.Waypoint(name)
		var addr netip.Addr
		if len(at.Addresses) > 0 {
			addr = at.Addresses[0]
		}
		e.Nodes = m.nodes(m.chosen(w), at.Identity, addr)
		m.conclude(e)
	}
	return e, nil
}

// Judge answers a recorded request as its waypoint would.
func (m *Mesh) Judge(q *explain.Question) (*explain.Waypoint, error) {
	name, err := m.waypointFor(q)
	if err != nil {
		return nil, err
	}
	p, err := m.waypoint(name)
	if err != nil {
		return nil, err
	}
	return p.Explain(q, nil), nil
}

// waypointFor finds the waypoint of a request by what was dialled, or by its host. An address of another run of the
// mesh is of no use: then the host counts alone.
func (m *Mesh) waypointFor(q *explain.Question) (mesh.Name, error) {
	ns := q.Identity().Namespace
	if q.Service != "" {
		svc := m.snap.ServiceByHost(q.Service, ns)
		switch {
		case svc == nil:
			return mesh.Name{}, fmt.Errorf("there is no service %s", q.Service)
		case svc.Waypoint == nil || svc.Waypoint.Name == (mesh.Name{}):
			return mesh.Name{}, fmt.Errorf("service %s has no waypoint", q.Service)
		}
		return svc.Waypoint.Name, nil
	}
	if q.Destination.IsValid() {
		if svc := m.snap.ServiceAt(m.snap.Network, q.Destination.Addr(), ns); svc != nil && svc.Waypoint != nil {
			return svc.Waypoint.Name, nil
		}
		if w := m.snap.WorkloadAt(m.snap.Network, q.Destination.Addr()); w != nil && w.Waypoint != nil {
			return w.Waypoint.Name, nil
		}
	}
	svc, _, err := m.target(q, ns)
	if err != nil {
		return mesh.Name{}, err
	}
	if svc == nil || svc.Waypoint == nil {
		return mesh.Name{}, fmt.Errorf("%s has no waypoint", q.Host)
	}
	return svc.Waypoint.Name, nil
}

// client is the workload that asks.
func (m *Mesh) client(from Client, q *explain.Question) *mesh.Workload {
	src := &mesh.Workload{Namespace: from.Namespace, ServiceAccount: from.ServiceAccount, TrustDomain: m.snap.TrustDomain, Network: m.snap.Network}
	for _, w := range m.snap.Workloads {
		if from.ServiceAccount != "" && w.Namespace == from.Namespace && w.ServiceAccount == from.ServiceAccount {
			src = w
			break
		}
	}
	if q.Principal == "" && from.ServiceAccount != "" {
		q.Principal = src.Identity().Principal()
	}
	if !q.Source.IsValid() && len(src.Addresses) > 0 {
		q.Source = netip.AddrPortFrom(src.Addresses[0], 0)
	}
	return src
}

// target finds the service that a host means to a client of that namespace, and completes q.
func (m *Mesh) target(q *explain.Question, ns string) (*mesh.Service, netip.AddrPort, error) {
	host, port, _ := strings.Cut(q.Host, ":")
	if at, err := netip.ParseAddrPort(q.Host); err == nil {
		q.Destination = at
		return m.snap.ServiceAt(m.snap.Network, at.Addr(), ns), at, nil
	}
	domain := ".svc." + m.snap.ClusterDomain
	var svc *mesh.Service
	for _, name := range []string{host, host + "." + ns + domain, host + domain, host + "." + m.snap.ClusterDomain} {
		if svc = m.snap.ServiceByHost(strings.ToLower(name), ns); svc != nil {
			break
		}
	}
	if svc == nil {
		return nil, netip.AddrPort{}, fmt.Errorf("no service has the host %q; give a service, service.namespace, its full name, or IP:PORT", host)
	}
	if len(svc.Ports) == 0 {
		return nil, netip.AddrPort{}, fmt.Errorf("service %s has no ports", svc.Key)
	}
	to := svc.Ports[0].Port
	switch {
	case port != "":
		if _, err := fmt.Sscanf(port, "%d", &to); err != nil {
			return nil, netip.AddrPort{}, fmt.Errorf("%q is not a port", port)
		}
	case svc.Port(80) != nil:
		to = 80
	default:
		q.Host = fmt.Sprintf("%s:%d", host, to)
	}
	if len(svc.VIPs) == 0 {
		return nil, netip.AddrPort{}, fmt.Errorf("service %s has no address", svc.Key)
	}
	q.Destination = netip.AddrPortFrom(svc.VIPs[0], to)
	return svc, q.Destination, nil
}

func hopText(h *ztunnel.Hop) string {
	switch {
	case h.Waypoint:
		return "the waypoint " + h.Peer.Principal()
	case h.Workload != nil:
		return fmt.Sprintf("%s by %s", h.Workload.UID, h.Protocol)
	case h.Passthrough:
		return h.Addr.String() + ", as it is: the mesh does not know it"
	}
	return h.Addr.String()
}

func waypointOf(svc *mesh.Service, w *mesh.Workload) *mesh.WaypointRef {
	if svc != nil && svc.Waypoint != nil {
		return svc.Waypoint
	}
	if w != nil {
		return w.Waypoint
	}
	return nil
}

// nameOf is the name of the waypoint at the end of a hop.
func (m *Mesh) nameOf(ref *mesh.WaypointRef, hop *ztunnel.Hop) (mesh.Name, error) {
	if ref != nil && ref.Name != (mesh.Name{}) {
		return ref.Name, nil
	}
	if w := m.snap.WaypointAt(hop.Addr.Addr()); w != nil {
		return w.Name, nil
	}
	for _, w := range m.snap.Waypoints {
		if w.Identity == hop.Peer {
			return w.Name, nil
		}
	}
	return mesh.Name{}, errors.New("the waypoint is not one of these manifests")
}

// endpoint is a workload's port.
type endpoint struct {
	w    *mesh.Workload
	port uint16
}

// endpointsOf are what a connection without a waypoint may end at.
func (m *Mesh) endpointsOf(svc *mesh.Service, target netip.AddrPort, w *mesh.Workload) (out []endpoint) {
	if svc == nil {
		if w != nil {
			out = append(out, endpoint{w, target.Port()})
		}
		return out
	}
	for _, e := range m.snap.Endpoints(svc.Key) {
		if port, ok := e.TargetPort(svc, target.Port()); ok {
			out = append(out, endpoint{e.Workload, port})
		}
	}
	return out
}

// chosen are the endpoints of the backends that a waypoint may choose.
func (m *Mesh) chosen(w *explain.Waypoint) (out []endpoint) {
	if w.Route == nil {
		return nil
	}
	for _, b := range w.Route.Backends {
		for _, ep := range b.Endpoints {
			at, err := netip.ParseAddrPort(ep.Address)
			if wl := m.snap.Workload(ep.Workload); err == nil && wl != nil && b.Weight > 0 {
				out = append(out, endpoint{wl, at.Port()})
			}
		}
	}
	return out
}

// nodes are the decisions of the node proxies of endpoints about a peer. Pods of one workload that decide alike are told
// of once, those that anybody may reach not at all.
func (m *Mesh) nodes(list []endpoint, peer mesh.Identity, from netip.Addr) (out []explain.Node) {
	for _, ep := range list {
		if ep.w.Protocol != mesh.TunnelHBONE || len(ep.w.Addresses) == 0 {
			continue
		}
		set := policy.CompileL4(m.snap, ep.w)
		if set.Empty() {
			continue
		}
		v, steps := set.Explain(policy.L4Facts{Peer: peer, Principal: peer.Principal(), Source: from, Destination: netip.AddrPortFrom(ep.w.Addresses[0], ep.port)})
		n := explain.Node{Workload: ep.w.Namespace + "/" + ep.w.Name, Peer: peer.Principal(), Decision: *explain.NewDecision(v, steps)}
		if n.Peer == "" {
			n.Peer = "a client without identity"
		}
		if ep.w.WorkloadName != "" {
			n.Workload = ep.w.Namespace + "/" + ep.w.WorkloadName
		}
		if !slices.ContainsFunc(out, func(o explain.Node) bool {
			return o.Workload == n.Workload && o.Decision.Allowed == n.Decision.Allowed && o.Decision.By == n.Decision.By
		}) {
			out = append(out, n)
		}
	}
	return out
}

// conclude says in the outcome what node proxies refuse.
func (m *Mesh) conclude(e *explain.Explanation) {
	var refusing []string
	for _, n := range e.Nodes {
		if !n.Decision.Allowed {
			refusing = append(refusing, n.Workload)
		}
	}
	switch {
	case len(refusing) == 0:
	case len(refusing) == len(e.Nodes):
		e.Outcome += ", where the node proxy of " + strings.Join(refusing, " and ") + " refuses the connection"
	default:
		e.Outcome += ", where the node proxies of some refuse the connection: " + strings.Join(refusing, ", ")
	}
}
