package object

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// entry is a ServiceEntry with the services that its hosts became.
type entry struct {
	obj   *Object
	spec  *ServiceEntrySpec
	hosts []*service
}

// resolution is how a ServiceEntry's endpoints are found.
type resolution uint8

const (
	resolveNone resolution = iota
	resolveStatic
	resolveDNS
)

func (t *translator) gatherEntry(o *Object, v *ServiceEntry) {
	spec := &v.Spec
	e := &entry{obj: o, spec: spec}
	res, ok := t.checkEntry(o, spec)
	if !ok {
		return
	}
	external := spec.Location != "MESH_INTERNAL"
	for i, host := range spec.Hosts {
		path := elem("spec.hosts", i)
		switch name := strings.ToLower(host); {
		case strings.HasPrefix(name, "*.") && res == resolveDNS:
			t.bad(o, path, "wildcard host %q cannot be looked up; list the hosts, or use resolution STATIC with endpoints", clip(host))
			continue
		case !isSubdomain(strings.TrimPrefix(name, "*.")):
			t.bad(o, path, "%q is not a host name; write a full DNS name, or one with a leading \"*.\"", clip(host))
			continue
		case slices.ContainsFunc(e.hosts, func(s *service) bool { return s.model.Key.Hostname == name }):
			t.bad(o, path, "host %q is listed twice; remove one", clip(host))
			continue
		}
		s := &service{obj: o, model: &mesh.Service{
			Key:  mesh.ServiceKey{Namespace: o.Name.Namespace, Hostname: strings.ToLower(host)},
			Name: o.Name.Name, Network: t.opts.Network, External: external,
			SubjectAltNames: spec.SubjectAltNames, Labels: v.Labels, Origin: o.Origin,
		}}
		if spec.WorkloadSelector != nil {
			s.selector = selectorOf(spec.WorkloadSelector.Labels, nil)
		}
		if res == resolveNone {
			s.model.Locality = mesh.LocalityPassthrough
		}
		e.hosts = append(e.hosts, s)
	}
	if len(e.hosts) == 0 {
		return
	}
	t.entryVIPs(e, res)
	t.entryPorts(e)
	t.bindEntry(e, v.Labels)
	for _, s := range e.hosts {
		t.addService(s)
	}
	t.entries = append(t.entries, e)
	t.entryEndpoints(e, res)
}

func (t *translator) bindEntry(e *entry, labels map[string]string) {
	t.bindService(e.hosts[0], labels, nil)
	for _, s := range e.hosts[1:] {
		s.model.Waypoint, s.model.WaypointOptional = e.hosts[0].model.Waypoint, e.hosts[0].model.WaypointOptional
	}
}

func (t *translator) checkEntry(o *Object, spec *ServiceEntrySpec) (res resolution, ok bool) {
	ok = true
	bad := func(path, format string, args ...any) {
		t.bad(o, path, format, args...)
		ok = false
	}
	if len(spec.Hosts) == 0 {
		bad("spec.hosts", "the entry has no hosts; list at least one")
	}
	switch spec.Location {
	case "", "MESH_EXTERNAL", "MESH_INTERNAL":
	default:
		bad("spec.location", "%q is not known; use MESH_EXTERNAL or MESH_INTERNAL", clip(spec.Location))
	}
	switch spec.Resolution {
	case "", "NONE":
	case "STATIC":
		res = resolveStatic
	case "DNS", "DNS_ROUND_ROBIN":
		res = resolveDNS
	case "DYNAMIC_DNS":
		bad("spec.resolution", "DYNAMIC_DNS is not supported yet; use DNS")
	default:
		bad("spec.resolution", "%q is not known; use NONE, STATIC or DNS", clip(spec.Resolution))
	}
	selects := spec.WorkloadSelector != nil
	switch {
	case selects && len(spec.WorkloadSelector.Labels) == 0:
		bad("spec.workloadSelector.labels", "the selector is empty; name the labels of the workloads")
	case selects && len(spec.Endpoints) > 0:
		bad("spec.endpoints", "endpoints and workloadSelector exclude each other; remove one")
	case res == resolveNone && len(spec.Endpoints) > 0:
		bad("spec.endpoints", "resolution NONE sends to where the client wanted and takes no endpoints; use STATIC or remove them")
	case res == resolveStatic && !selects && len(spec.Endpoints) == 0:
		bad("spec.endpoints", "resolution STATIC needs endpoints or a workloadSelector; add one")
	}
	if selects {
		t.checkLabels(o, "spec.workloadSelector.labels", spec.WorkloadSelector.Labels)
	}
	if len(spec.ExportTo) > 0 && !slices.Contains(spec.ExportTo, "*") {
		t.note(o, "exportTo is not honoured: the hosts are seen from every namespace")
	}
	return res, ok
}

func (t *translator) entryVIPs(e *entry, res resolution) {
	var vips []netip.Addr
	for i, text := range e.spec.Addresses {
		path := elem("spec.addresses", i)
		p, ok := t.prefix(e.obj, path, text)
		switch {
		case !ok:
		case !p.IsSingleIP():
			t.bad(e.obj, path, "an address block is not supported yet; list single addresses")
		default:
			vips = append(vips, p.Addr())
		}
	}
	for _, s := range e.hosts {
		s.model.VIPs = vips
		if len(e.spec.Addresses) == 0 && res != resolveNone {
			s.model.VIPs = t.allocate(mesh.Name{Namespace: e.obj.Name.Namespace, Name: s.model.Key.Hostname})
		}
	}
}

func (t *translator) entryPorts(e *entry) {
	o := e.obj
	seen, names := map[uint16]int{}, map[string]int{}
	for i, p := range e.spec.Ports {
		path := elem("spec.ports", i)
		n := t.port(o, path+".number", int64(p.Number))
		target := n
		if p.TargetPort != 0 {
			target = t.port(o, path+".targetPort", int64(p.TargetPort))
		}
		proto, known := entryProtocol(p.Protocol)
		if !known {
			t.bad(o, path+".protocol", "%q is not known; use HTTP, HTTP2, GRPC, HTTPS, TLS or TCP", clip(p.Protocol))
		}
		if p.Protocol == "" {
			proto = portProtocol("", p.Name, n)
		}
		switch first, dup := names[p.Name]; {
		case p.Name == "":
			t.bad(o, path+".name", "the port has no name; give it one")
		case dup:
			t.bad(o, path+".name", "name %q is also that of ports[%d]; rename one", clip(p.Name), first)
		}
		names[p.Name] = i
		if n == 0 {
			continue
		}
		if first, dup := seen[n]; dup {
			t.bad(o, path+".number", "port %d is also ports[%d]; remove one of them", n, first)
			continue
		}
		seen[n] = i
		for _, s := range e.hosts {
			s.ports = append(s.ports, servicePort{name: p.Name, port: n, target: target})
			s.model.Ports = append(s.model.Ports, mesh.ServicePort{Name: p.Name, Port: n, TargetPort: target, Protocol: proto})
		}
	}
}

func entryProtocol(s string) (p mesh.AppProtocol, known bool) {
	switch strings.ToUpper(s) {
	case "":
		return mesh.ProtocolSniff, true
	case "HTTP", "HTTP_PROXY", "GRPC-WEB":
		return mesh.ProtocolHTTP, true
	case "HTTP2":
		return mesh.ProtocolHTTP2, true
	case "GRPC":
		return mesh.ProtocolGRPC, true
	case "HTTPS", "TLS":
		return mesh.ProtocolTLS, true
	case "TCP", "MONGO", "REDIS", "MYSQL":
		return mesh.ProtocolTCP, true
	}
	return mesh.ProtocolSniff, false
}

// entryEndpoints makes a workload of each endpoint; one that is resolved by
// name and has no endpoints is itself the endpoint.
func (t *translator) entryEndpoints(e *entry, res resolution) {
	for i := range e.spec.Endpoints {
		ep, path := &e.spec.Endpoints[i], elem("spec.endpoints", i)
		w := t.entryWorkload(e.obj, path, ep, res == resolveDNS)
		if w == nil {
			continue
		}
		where := w.Hostname
		if where == "" {
			where = w.Addresses[0].String()
		}
		w.UID = t.opts.ClusterID + "/" + groupNet + "/ServiceEntry/" + e.obj.Name.String() + "/" + where
		w.Services = map[mesh.ServiceKey]map[uint16]uint16{}
		for _, s := range e.hosts {
			w.Services[s.model.Key] = endpointPorts(s, nil, ep.Ports)
		}
		t.bindWorkload(w, e.obj, path+".labels", ep.Labels)
		t.parts.Workloads = append(t.parts.Workloads, w)
	}
	if res != resolveDNS || len(e.spec.Endpoints) > 0 || e.spec.WorkloadSelector != nil {
		return
	}
	for _, s := range e.hosts {
		w := t.entryWorkload(e.obj, "spec.hosts", &WorkloadEntrySpec{Address: s.model.Key.Hostname}, true)
		if w == nil {
			continue
		}
		w.UID = t.opts.ClusterID + "/" + groupNet + "/ServiceEntry/" + e.obj.Name.String() + "/" + w.Hostname
		w.Services = map[mesh.ServiceKey]map[uint16]uint16{s.model.Key: endpointPorts(s, nil, nil)}
		t.parts.Workloads = append(t.parts.Workloads, w)
	}
}

// endpointPorts maps a service's ports to those of one of its endpoints. A port
// that the endpoint does not have is left out.
func endpointPorts(s *service, named map[string]uint16, entry map[string]uint32) map[uint16]uint16 {
	ports := make(map[uint16]uint16, len(s.ports))
	for _, p := range s.ports {
		if n, ok := p.resolve(named, entry); ok {
			ports[p.port] = n
		}
	}
	return ports
}

func (t *translator) gatherWorkloadEntry(o *Object, v *WorkloadEntry) {
	w := t.entryWorkload(o, "spec", &v.Spec, true)
	if w == nil {
		return
	}
	w.UID = t.opts.ClusterID + "/" + groupNet + "/WorkloadEntry/" + o.Name.String()
	t.checkLabels(o, "spec.labels", v.Spec.Labels)
	if len(v.Labels) > 0 { // the object's own labels go before those of its spec
		merged := maps.Clone(v.Labels)
		for k, val := range v.Spec.Labels {
			if _, ok := merged[k]; !ok {
				merged[k] = val
			}
		}
		w.Labels = merged
		w.CanonicalName, w.CanonicalRevision = canonical(merged, o.Name.Name)
	}
	w.Services = t.servicesOf(w.Namespace, w.Labels, nil, v.Spec.Ports)
	t.bindWorkload(w, o, "metadata.labels", v.Labels)
	t.parts.Workloads = append(t.parts.Workloads, w)
}

// entryWorkload makes a workload of an endpoint, without UID and services; nil
// when its address cannot be used.
func (t *translator) entryWorkload(o *Object, path string, spec *WorkloadEntrySpec, hostnames bool) *mesh.Workload {
	w := &mesh.Workload{
		Name: o.Name.Name, Namespace: o.Name.Namespace,
		ServiceAccount: spec.ServiceAccount, TrustDomain: t.opts.TrustDomain,
		Network: t.opts.Network, ClusterID: t.opts.ClusterID, Labels: spec.Labels,
		WorkloadName: o.Name.Name, WorkloadType: "pod",
		Ready: true, Capacity: 1, Origin: o.Origin,
	}
	if spec.Network != "" {
		w.Network = spec.Network
	}
	if spec.Weight > 0 {
		w.Capacity = spec.Weight
	}
	if w.ServiceAccount == "" {
		w.ServiceAccount = "default"
	} else if !isSubdomain(w.ServiceAccount) {
		t.bad(o, path+".serviceAccount", "%q is not the name of a service account; correct it", clip(w.ServiceAccount))
	}
	if spec.Labels[labelTunnel] == "http" {
		w.Protocol = mesh.TunnelHBONE
	}
	w.CanonicalName, w.CanonicalRevision = canonical(spec.Labels, o.Name.Name)
	parts := strings.SplitN(spec.Locality, "/", 3)
	parts = append(parts, "", "")
	w.Region, w.Zone, w.Subzone = parts[0], parts[1], parts[2]
	for name, n := range spec.Ports {
		t.port(o, path+".ports["+name+"]", int64(n))
	}
	if !t.entryAddress(o, path, spec.Address, hostnames, w) {
		return nil
	}
	return w
}

func (t *translator) entryAddress(o *Object, path, addr string, hostnames bool, w *mesh.Workload) bool {
	path += ".address"
	switch {
	case addr == "":
		t.bad(o, path, "the endpoint has no address; give it one")
		return false
	case strings.HasPrefix(addr, "unix:"):
		t.bad(o, path, "unix sockets are not supported; use an IP address")
		return false
	}
	if a, err := netip.ParseAddr(addr); err == nil && a.Zone() == "" {
		w.Addresses = []netip.Addr{a.Unmap()}
		return true
	}
	if hostnames && isSubdomain(strings.ToLower(addr)) && !looksLikeIPv4(addr) {
		w.Hostname = strings.ToLower(addr)
		return true
	}
	remedy := "use an IP address"
	if hostnames {
		remedy += " or a host name"
	}
	t.bad(o, path, "%s cannot be reached; %s", strconv.Quote(clip(addr)), remedy)
	return false
}

// looksLikeIPv4 tells a mistyped address like 10.0.0.256 from a name.
func looksLikeIPv4(s string) bool {
	return strings.Trim(s, "0123456789.") == ""
}
