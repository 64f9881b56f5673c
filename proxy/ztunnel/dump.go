package ztunnel

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
)

// object is a JSON object; its keys are printed in alphabetical order.
type object = map[string]any

// ConfigDump returns what the proxy believes, in the shape of ztunnel's
// /config_dump, so that tools made for that read it: workloads, services,
// policies, certificates, and the connections of each pod.
func (p *Proxy) ConfigDump() any {
	s := p.snapshot()
	d := object{
		"workloads":      mapSlice(s.Workloads, func(w *mesh.Workload) any { return dumpWorkload(s, w) }),
		"services":       dumpServices(s),
		"bindings":       dumpBindings(s),
		"policies":       dumpPolicies(s),
		"stagedServices": object{},
		"config":         p.dumpConfig(),
		"workloadState":  p.dumpState(),
	}
	if c, ok := p.o.Certificates.(interface{ Status() []identity.Status }); ok {
		d["certificates"] = append([]identity.Status{}, c.Status()...)
	} else {
		d["certificates"] = []any{}
	}
	if p.loop != nil {
		d["listeners"] = p.dumpListeners()
	}
	return d
}

func mapSlice[T, U any](in []T, f func(T) U) []U {
	out := make([]U, 0, len(in))
	for _, x := range in {
		out = append(out, f(x))
	}
	return out
}

// put sets a key unless the value is the zero of its type.
func put[T comparable](o object, key string, v T) {
	var zero T
	if v != zero {
		o[key] = v
	}
}

func dumpWorkload(s *mesh.Snapshot, w *mesh.Workload) object {
	o := object{
		"uid": w.UID, "name": w.Name, "namespace": w.Namespace, "serviceAccount": w.ServiceAccount, "trustDomain": w.TrustDomain,
		"clusterId": w.ClusterID, "protocol": w.Protocol.String(), "capacity": w.Capacity, "networkMode": "Standard", "status": health(w.Ready),
		"workloadIps": mapSlice(w.Addresses, netip.Addr.String),
	}
	if w.HostNetwork {
		o["networkMode"] = "HostNetwork"
	}
	put(o, "network", w.Network)
	put(o, "node", w.Node)
	put(o, "hostname", w.Hostname)
	put(o, "workloadName", w.WorkloadName)
	put(o, "workloadType", w.WorkloadType)
	put(o, "canonicalName", w.CanonicalName)
	put(o, "canonicalRevision", w.CanonicalRevision)
	if w.Region+w.Zone+w.Subzone != "" {
		l := object{}
		put(l, "region", w.Region)
		put(l, "zone", w.Zone)
		put(l, "subzone", w.Subzone)
		o["locality"] = l
	}
	if len(w.Policies) > 0 {
		o["authorizationPolicies"] = w.Policies
	}
	if len(w.Services) > 0 {
		keys := mapSlice(slices.Collect(maps.Keys(w.Services)), mesh.ServiceKey.String)
		slices.Sort(keys)
		o["services"] = keys
	}
	if w.Waypoint != nil {
		o["waypoint"] = dumpWaypoint(s, w.Waypoint)
	}
	return o
}

func health(ready bool) string {
	if ready {
		return "Healthy"
	}
	return "Unhealthy"
}

// dumpWaypoint names a waypoint as ztunnel does, by its service or address.
func dumpWaypoint(s *mesh.Snapshot, ref *mesh.WaypointRef) object {
	port := ref.Port
	if port == 0 {
		port = PortHBONE
	}
	o := object{"hboneMtlsPort": port}
	switch {
	case ref.Name != mesh.Name{}:
		o["destination"] = ref.Name.Namespace + "/" + ref.Name.Name + "." + ref.Name.Namespace + ".svc." + s.ClusterDomain
	case ref.Service != mesh.ServiceKey{}:
		o["destination"] = ref.Service.String()
	default:
		o["destination"] = s.Network + "/" + ref.Address.String()
	}
	return o
}

func dumpServices(s *mesh.Snapshot) []any {
	sorted := slices.SortedFunc(slices.Values(s.Services), func(a, b *mesh.Service) int {
		return cmp.Or(cmp.Compare(a.Key.Hostname, b.Key.Hostname), cmp.Compare(a.Key.Namespace, b.Key.Namespace))
	})
	return mapSlice(sorted, func(v *mesh.Service) any {
		ports, endpoints := object{}, object{}
		for _, p := range v.Ports {
			ports[strconv.Itoa(int(p.Port))] = p.TargetPort
		}
		for _, ep := range s.Endpoints(v.Key) {
			own := object{}
			for port, target := range ep.Ports {
				own[strconv.Itoa(int(port))] = target
			}
			endpoints[ep.Workload.UID] = object{"workloadUid": ep.Workload.UID, "port": own, "status": health(ep.Workload.Ready)}
		}
		o := object{
			"name": v.Name, "namespace": v.Key.Namespace, "hostname": v.Key.Hostname, "ports": ports, "endpoints": endpoints,
			"vips":            mapSlice(v.VIPs, func(a netip.Addr) string { return v.Network + "/" + a.String() }),
			"subjectAltNames": append([]string{}, v.SubjectAltNames...), "canonical": v.Canonical, "visibility": "Public",
		}
		if v.Waypoint != nil {
			o["waypoint"] = dumpWaypoint(s, v.Waypoint)
		}
		if v.Locality != mesh.LocalityNone {
			o["loadBalancer"] = dumpBalancer(v)
		}
		return o
	})
}

func dumpBalancer(v *mesh.Service) object {
	title := map[string]string{"NETWORK": "Network", "REGION": "Region", "ZONE": "Zone", "SUBZONE": "Subzone", "NODE": "Node", "CLUSTER": "Cluster"}
	o := object{"healthPolicy": "OnlyHealthy", "routingPreferences": mapSlice(v.RoutingPreferences, func(p string) string { return title[p] })}
	if v.PublishNotReady {
		o["healthPolicy"] = "AllowAll"
	}
	o["mode"] = map[mesh.LocalityMode]string{mesh.LocalityFailover: "Failover", mesh.LocalityStrict: "Strict", mesh.LocalityPassthrough: "Passthrough"}[v.Locality]
	return o
}

func dumpPolicies(s *mesh.Snapshot) []any {
	list := slices.Clone(s.L4Policies)
	for _, p := range s.Policies {
		if len(p.TargetRefs) == 0 {
			list = append(list, policy.ToL4(p, s.RootNamespace))
		}
	}
	slices.SortFunc(list, func(a, b *mesh.L4Policy) int { return cmp.Compare(a.Name.String(), b.Name.String()) })
	return mapSlice(list, func(p *mesh.L4Policy) any {
		action := "Allow"
		if p.Action == mesh.ActionDeny {
			action = "Deny"
		}
		scope := [...]string{mesh.ScopeGlobal: "Global", mesh.ScopeNamespace: "Namespace", mesh.ScopeWorkload: "WorkloadSelector"}[p.Scope]
		rules := mapSlice(p.Rules, func(clauses [][]mesh.L4Match) any {
			return mapSlice(clauses, func(matches []mesh.L4Match) any { return mapSlice(matches, dumpMatch) })
		})
		return object{"name": p.Name.Name, "namespace": p.Name.Namespace, "scope": scope, "action": action, "dryRun": p.DryRun, "rules": rules}
	})
}

func dumpMatch(m mesh.L4Match) any {
	o := object{}
	texts := func(key string, list []mesh.L4String) {
		if len(list) > 0 {
			o[key] = mapSlice(list, dumpString)
		}
	}
	addrs := func(key string, list []netip.Prefix) {
		if len(list) > 0 {
			o[key] = mapSlice(list, netip.Prefix.String)
		}
	}
	accounts := func(key string, list []mesh.Name) {
		if len(list) > 0 {
			o[key] = mapSlice(list, func(n mesh.Name) object { return object{"namespace": n.Namespace, "serviceAccount": n.Name} })
		}
	}
	ports := func(key string, list []uint16) {
		if len(list) > 0 {
			o[key] = list
		}
	}
	texts("namespaces", m.Namespaces)
	texts("notNamespaces", m.NotNamespaces)
	texts("principals", m.Principals)
	texts("notPrincipals", m.NotPrincipals)
	accounts("serviceAccounts", m.ServiceAccounts)
	accounts("notServiceAccounts", m.NotServiceAccounts)
	addrs("sourceIps", m.SourceIPs)
	addrs("notSourceIps", m.NotSourceIPs)
	addrs("destinationIps", m.DestinationIPs)
	addrs("notDestinationIps", m.NotDestinationIPs)
	ports("destinationPorts", m.DestinationPorts)
	ports("notDestinationPorts", m.NotDestinationPorts)
	return o
}

func dumpString(s mesh.L4String) object {
	switch s.Kind {
	case mesh.L4Prefix:
		return object{"Prefix": s.Value}
	case mesh.L4Suffix:
		return object{"Suffix": s.Value}
	case mesh.L4Presence:
		return object{"Presence": []string{}}
	default:
		return object{"Exact": s.Value}
	}
}

func (p *Proxy) dumpConfig() object {
	mode := [...]string{ModeLoopback: "Loopback", ModeInPod: "Shared", ModeDedicated: "Dedicated"}[p.o.Mode]
	s := p.snapshot()
	drain := p.o.DrainTime
	o := object{
		"proxyMode": mode, "localNode": p.o.Node, "network": s.Network, "clusterId": s.ClusterID, "clusterDomain": s.ClusterDomain,
		"dnsProxy": p.o.DNS, "packetMark": p.o.Sockets.Mark, "ipv6Enabled": !p.o.Sockets.IPv4Only, "illegalPorts": []uint16{PortOutbound, PortInbound, PortHBONE},
		"selfTerminationDeadline": object{"secs": int64(drain.Seconds()), "nanos": drain.Nanoseconds() % 1e9},
	}
	if p.o.Mode == ModeDedicated {
		o["proxyWorkloadInformation"] = dumpInfo(p.o.Workload)
	}
	return o
}

func dumpInfo(w WorkloadInfo) object {
	return object{"name": w.Name, "namespace": w.Namespace, "serviceAccount": w.ServiceAccount}
}

// dumpState lists the connections of every pod that is served; in loopback
// mode those to services under the name "loopback".
func (p *Proxy) dumpState() object {
	type lists struct{ in, out []object }
	bySite := map[*site]*lists{}
	p.mu.Lock()
	for s := range p.sites {
		bySite[s] = &lists{in: []object{}, out: []object{}}
	}
	p.mu.Unlock()
	for _, c := range p.conns.list(nil) {
		l := bySite[c.site]
		if l == nil {
			continue
		}
		protocol, actual := c.wayOn()
		o := object{"src": c.src.String(), "actualDst": actual.String(), "protocol": protocol.String(), "originalDst": c.original}
		if c.outbound {
			l.out = append(l.out, o)
		} else {
			l.in = append(l.in, o)
		}
	}
	out := object{}
	for s, l := range bySite {
		key := s.uid
		if key == "" {
			key = s.name
		}
		out[key] = object{"state": "Up", "info": dumpInfo(s.info), "connections": object{"inbound": l.in, "outbound": l.out}}
	}
	return out
}

func (p *Proxy) dumpListeners() []any {
	return mapSlice(p.Listening(), func(b Bound) any {
		o := object{"service": b.Service.String(), "address": netip.AddrPortFrom(b.VIP, b.Port).String()}
		if b.Listen.IsValid() {
			o["listen"] = b.Listen.String()
		}
		if b.Err != nil {
			o["error"] = b.Err.Error()
		}
		return o
	})
}
