package localxds

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	"go.yaml.in/yaml/v3"
)

// stringMatch is written with a tag that says how to compare.
type stringMatch mesh.L4String

// UnmarshalNode reads "!Exact x" and its kin.
func (m *stringMatch) UnmarshalNode(n *yaml.Node) error {
	m.Value = n.Value
	switch n.Tag {
	case "!Exact":
		m.Kind = mesh.L4Exact
	case "!Prefix":
		m.Kind = mesh.L4Prefix
	case "!Suffix":
		m.Kind = mesh.L4Suffix
	case "!Presence":
		*m = stringMatch{Kind: mesh.L4Presence}
		if len(n.Content) > 0 || n.Value != "" {
			return fmt.Errorf("!Presence takes no value; write !Presence []")
		}
		return nil
	default:
		return fmt.Errorf("the comparison has no tag; write !Exact, !Prefix, !Suffix or !Presence before the value")
	}
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("%s takes a string; write one after it", n.Tag)
	}
	return nil
}

// block is an address block, or an address alone.
type block netip.Prefix

// UnmarshalText reads "10.0.0.0/8" or "10.0.0.1".
func (b *block) UnmarshalText(text []byte) error {
	s := string(text)
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return err
		}
		*b = block(netip.PrefixFrom(a, a.BitLen()))
		return nil
	}
	p, err := netip.ParsePrefix(s)
	*b = block(p.Masked())
	return err
}

// oneOf looks value up among spellings; "" gives the first value.
func oneOf[T any](p *parser, object, path, value string, names []string, values []T) T {
	for i, n := range names {
		if value == n {
			return values[i]
		}
	}
	if value != "" {
		p.bad(object, path, "%q is not known; use %s", value, strings.Join(names, " or "))
	}
	return values[0]
}

func (p *parser) workload(object, path string, in *workload) *mesh.Workload {
	p.need(object, path, "uid", in.UID)
	p.need(object, path, "name", in.Name)
	p.need(object, path, "namespace", in.Namespace)
	p.need(object, path, "protocol", in.Protocol)
	w := &mesh.Workload{
		UID: in.UID, Name: in.Name, Namespace: in.Namespace,
		ServiceAccount: in.ServiceAccount, TrustDomain: in.TrustDomain,
		Addresses: in.WorkloadIPs, Hostname: in.Hostname, Network: in.Network,
		ClusterID: in.ClusterID, Node: in.Node,
		CanonicalName: in.CanonicalName, CanonicalRevision: in.CanonicalRevision,
		WorkloadName: in.WorkloadName, WorkloadType: strings.ToLower(in.WorkloadType),
		Region: in.Locality.Region, Zone: in.Locality.Zone, Subzone: in.Locality.Subzone,
		Capacity: 1, Policies: in.AuthorizationPolicies, Origin: p.origin(path),
	}
	w.Protocol = oneOf(p, object, path+".protocol", in.Protocol, []string{"TCP", "HBONE"}, []mesh.TunnelProtocol{mesh.TunnelNone, mesh.TunnelHBONE})
	w.HostNetwork = oneOf(p, object, path+".networkMode", in.NetworkMode, []string{"Standard", "HostNetwork"}, []bool{false, true})
	w.Ready = oneOf(p, object, path+".status", in.Status, []string{"Healthy", "Unhealthy"}, []bool{true, false})
	if in.Capacity != nil {
		w.Capacity = *in.Capacity
	}
	w.Waypoint = p.gateway(object, path+".waypoint", in.Waypoint)
	if in.NetworkGateway != nil {
		p.bad(object, path+".networkGateway", "networks beyond this one are not supported yet; remove it")
	}
	if t := in.ApplicationTunnel; t != nil && t.Protocol != "" && t.Protocol != "NONE" {
		p.bad(object, path+".applicationTunnel", "application tunnels are not supported yet; remove it")
	}
	for _, s := range in.AuthorizationPolicies {
		if _, ok := serviceKey(s); !ok {
			p.bad(object, path+".authorizationPolicies", "%q does not name a policy; write NAMESPACE/NAME", s)
		}
	}
	if in.Services == nil {
		p.bad(object, path+".services", "services is missing; add it, {} for none")
	}
	for s, ports := range in.Services {
		key, ok := serviceKey(s)
		if !ok {
			p.bad(object, path+".services["+s+"]", "%q does not name a service; write NAMESPACE/HOSTNAME", s)
			continue
		}
		if w.Services == nil {
			w.Services = map[mesh.ServiceKey]map[uint16]uint16{}
		}
		w.Services[key] = ports
	}
	return w
}

// gateway parses a waypoint's address: "network/1.2.3.4" or "namespace/hostname".
func (p *parser) gateway(object, path string, in *gatewayAddress) *mesh.WaypointRef {
	if in == nil {
		return nil
	}
	if in.Port == 0 {
		p.bad(object, path+".hboneMtlsPort", "the port is missing; add it, usually 15008")
	}
	head, rest, ok := strings.Cut(in.Destination, "/")
	if a, err := netip.ParseAddr(rest); ok && err == nil {
		return &mesh.WaypointRef{Address: a, Port: in.Port}
	}
	if ok && head != "" && rest != "" {
		return &mesh.WaypointRef{Service: mesh.ServiceKey{Namespace: head, Hostname: rest}, Port: in.Port}
	}
	p.bad(object, path+".destination", "%q is not an address; write NETWORK/IP or NAMESPACE/HOSTNAME", in.Destination)
	return nil
}

func (p *parser) service(path string, in *service) *mesh.Service {
	s := &mesh.Service{
		Key:  mesh.ServiceKey{Namespace: in.Namespace, Hostname: in.Hostname},
		Name: in.Name, SubjectAltNames: in.SubjectAltNames, Canonical: in.Canonical, Origin: p.origin(path),
	}
	object := "service " + s.Key.String()
	p.need(object, path, "name", in.Name)
	p.need(object, path, "namespace", in.Namespace)
	p.need(object, path, "hostname", in.Hostname)
	if in.VIPs == nil {
		p.bad(object, path+".vips", "vips is missing; add it, [] for none")
	}
	if in.Ports == nil {
		p.bad(object, path+".ports", "ports is missing; add it, {} for none")
	}
	for i, text := range in.VIPs {
		at := fmt.Sprintf("%s.vips[%d]", path, i)
		network, ip, ok := strings.Cut(text, "/")
		a, err := netip.ParseAddr(ip)
		switch {
		case !ok || err != nil:
			p.bad(object, at, "%q is not an address; write NETWORK/IP, like \"/10.96.0.1\"", text)
			continue
		case i > 0 && network != s.Network:
			p.bad(object, at, "addresses in several networks are not supported yet; keep those of one")
			continue
		}
		s.Network = network
		s.VIPs = append(s.VIPs, a)
	}
	for port, target := range in.Ports {
		s.Ports = append(s.Ports, mesh.ServicePort{Port: port, TargetPort: target})
	}
	slices.SortFunc(s.Ports, func(a, b mesh.ServicePort) int { return int(a.Port) - int(b.Port) })
	s.Waypoint = p.gateway(object, path+".waypoint", in.Waypoint)
	if len(in.WeightedWaypoint) > 0 {
		p.bad(object, path+".weightedWaypoints", "weighted waypoints are not supported yet; use waypoint")
	}
	if len(in.CIDRVIPs) > 0 {
		p.bad(object, path+".cidrVips", "address blocks are not supported yet; list single addresses in vips")
	}
	oneOf(p, object, path+".ipFamilies", in.IPFamilies, []string{"Dual", "IPv4", "IPv6"}, []bool{true, true, true})
	oneOf(p, object, path+".visibility", in.Visibility, []string{"Public", "Namespace"}, []bool{true, true})
	if lb := in.LoadBalancer; lb != nil {
		p.loadBalancer(object, path+".loadBalancer", lb, s)
	}
	return s
}

func (p *parser) loadBalancer(object, path string, in *loadBalancer, s *mesh.Service) {
	s.Locality = oneOf(p, object, path+".mode", in.Mode, []string{"Standard", "Strict", "Failover", "Passthrough"},
		[]mesh.LocalityMode{mesh.LocalityNone, mesh.LocalityStrict, mesh.LocalityFailover, mesh.LocalityPassthrough})
	s.PublishNotReady = oneOf(p, object, path+".healthPolicy", in.HealthPolicy, []string{"OnlyHealthy", "AllowAll"}, []bool{false, true})
	names := []string{"Region", "Zone", "Subzone", "Node", "Cluster", "Network"}
	for i, pref := range in.RoutingPreferences {
		at := fmt.Sprintf("%s.routingPreferences[%d]", path, i)
		if pref == "" {
			p.bad(object, at, "the preference is empty; use %s", strings.Join(names, " or "))
			continue
		}
		oneOf(p, object, at, pref, names, names)
		s.RoutingPreferences = append(s.RoutingPreferences, strings.ToUpper(pref))
	}
}

func (p *parser) policy(path string, in *policy) *mesh.L4Policy {
	out := &mesh.L4Policy{Name: mesh.Name{Namespace: in.Namespace, Name: in.Name}}
	object := "policy " + out.Name.String()
	p.need(object, path, "name", in.Name)
	p.need(object, path, "scope", in.Scope)
	p.need(object, path, "action", in.Action)
	out.Scope = oneOf(p, object, path+".scope", in.Scope, []string{"Global", "Namespace", "WorkloadSelector"},
		[]mesh.L4Scope{mesh.ScopeGlobal, mesh.ScopeNamespace, mesh.ScopeWorkload})
	out.Action = oneOf(p, object, path+".action", in.Action, []string{"Allow", "Deny"}, []mesh.Action{mesh.ActionAllow, mesh.ActionDeny})
	if in.Namespace == "" && out.Scope != mesh.ScopeGlobal {
		p.need(object, path, "namespace", "")
	}
	if in.DryRun == nil {
		p.bad(object, path+".dryRun", "dryRun is missing; add it, false for a policy in force")
	} else {
		out.DryRun = *in.DryRun
	}
	if in.Rules == nil {
		p.bad(object, path+".rules", "rules is missing; add it, [] for none")
	}
	for _, clauses := range in.Rules {
		rule := make([][]mesh.L4Match, 0, len(clauses))
		for _, matches := range clauses {
			clause := make([]mesh.L4Match, 0, len(matches))
			for i := range matches {
				clause = append(clause, matches[i].model())
			}
			rule = append(rule, clause)
		}
		out.Rules = append(out.Rules, rule)
	}
	return out
}

func (m *match) model() mesh.L4Match {
	return mesh.L4Match{
		Namespaces: stringsOf(m.Namespaces), NotNamespaces: stringsOf(m.NotNamespaces),
		ServiceAccounts: accountsOf(m.ServiceAccounts), NotServiceAccounts: accountsOf(m.NotServiceAccounts),
		Principals: stringsOf(m.Principals), NotPrincipals: stringsOf(m.NotPrincipals),
		SourceIPs: blocksOf(m.SourceIPs), NotSourceIPs: blocksOf(m.NotSourceIPs),
		DestinationIPs: blocksOf(m.DestinationIPs), NotDestinationIPs: blocksOf(m.NotDestinationIPs),
		DestinationPorts: m.DestinationPorts, NotDestinationPorts: m.NotDestinationPorts,
	}
}

func convert[A, B any](list []A, f func(A) B) []B {
	if len(list) == 0 {
		return nil
	}
	out := make([]B, len(list))
	for i, v := range list {
		out[i] = f(v)
	}
	return out
}

func stringsOf(list []stringMatch) []mesh.L4String {
	return convert(list, func(m stringMatch) mesh.L4String { return mesh.L4String(m) })
}

func accountsOf(list []serviceAccount) []mesh.Name {
	return convert(list, func(a serviceAccount) mesh.Name {
		return mesh.Name{Namespace: a.Namespace, Name: a.ServiceAccount}
	})
}

func blocksOf(list []block) []netip.Prefix {
	return convert(list, func(b block) netip.Prefix { return netip.Prefix(b) })
}
