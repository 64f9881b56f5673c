package object

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"cairnproxy.dev/cairn/mesh"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// service is a Service, or one host of a ServiceEntry, with what the model
// does not keep.
type service struct {
	obj      *Object
	model    *mesh.Service
	selector []label       // empty for none
	ports    []servicePort // in step with model.Ports
	seq      int           // its number among all services
}

// serviceObject is what is kept of a Service. There may be 10,000 of them, and
// the published type is mostly fields that nobody reads here.
type serviceObject struct {
	labels          map[string]string
	selector        []label
	ports           []corev1.ServicePort
	addresses       []string // spec.clusterIPs
	address         string   // spec.clusterIP
	kind            corev1.ServiceType
	publishNotReady bool
	nearness        *nearness
	made            atomic.Pointer[madeService]
	ingress         []string // the load balancer's addresses; "" for one that has a name
}

// nearness is what a Service says of which endpoints it prefers.
type nearness struct {
	internal   *corev1.ServiceInternalTrafficPolicy
	annotation string
	traffic    *string
}

// label is one label that a selector asks for.
type label struct{ key, value string }

func newServiceObject(v *corev1.Service, in *interner) *serviceObject {
	out := &serviceObject{
		labels: in.labels(v.Labels), ports: v.Spec.Ports, addresses: v.Spec.ClusterIPs, address: v.Spec.ClusterIP,
		kind: v.Spec.Type, selector: selectorOf(v.Spec.Selector, in), publishNotReady: v.Spec.PublishNotReadyAddresses,
	}
	for i := range out.ports {
		out.ports[i].Name = in.text(out.ports[i].Name)
	}
	n := nearness{v.Spec.InternalTrafficPolicy, v.Annotations[annotationDist], v.Spec.TrafficDistribution}
	if n != (nearness{}) {
		out.nearness = &n
	}
	for _, i := range v.Status.LoadBalancer.Ingress {
		out.ingress = append(out.ingress, i.IP)
	}
	return out
}

// selectorOf returns the labels in order.
func selectorOf(m map[string]string, in *interner) []label {
	out := make([]label, 0, len(m))
	for k, value := range m {
		out = append(out, label{in.text(k), in.text(value)})
	}
	slices.SortFunc(out, func(a, b label) int { return strings.Compare(a.key, b.key) })
	return out
}

// servicePort says where a port leads.
type servicePort struct {
	name       string
	port       uint16
	target     uint16 // 0 when named
	targetName string
}

// target returns the port of a workload behind p. named are its container
// ports; entry are a WorkloadEntry's ports by the service port's name.
func (p servicePort) resolve(named map[string]uint16, entry map[string]uint32) (uint16, bool) {
	if n := entry[p.name]; p.name != "" && n > 0 && n <= 65535 {
		return uint16(n), true
	}
	if p.targetName == "" {
		return p.target, true
	}
	if n := entry[p.targetName]; n > 0 && n <= 65535 {
		return uint16(n), true
	}
	n, ok := named[p.targetName]
	return n, ok
}

func (t *translator) gatherServices(objects []*Object) {
	vips := map[netip.Addr]*Object{}
	for _, o := range objects {
		switch v := o.Value.(type) {
		case *serviceObject:
			t.gatherService(o, v, vips)
		case *ServiceEntry:
			t.gatherEntry(o, v)
		}
	}
}

func (t *translator) gatherService(o *Object, v *serviceObject, vips map[netip.Addr]*Object) {
	if s := t.rememberedService(o, v, vips); s != nil {
		t.services[o.Name] = s
		t.addService(s)
		return
	}
	said, notices := t.said, len(t.notices)
	m := &mesh.Service{
		Key:     mesh.ServiceKey{Namespace: o.Name.Namespace, Hostname: o.Name.Name + "." + o.Name.Namespace + ".svc." + t.opts.ClusterDomain},
		Name:    o.Name.Name,
		Network: t.opts.Network, Canonical: true, PublishNotReady: v.publishNotReady,
		Labels: v.labels, Origin: o.Origin,
	}
	s := &service{obj: o, model: m, selector: v.selector}
	for _, l := range v.selector {
		labelFault("spec.selector", l.key, l.value, func(path, format string, args ...any) { t.bad(o, path, format, args...) })
	}
	switch v.kind {
	case "", corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
	case corev1.ServiceTypeExternalName:
		t.note(o, "type ExternalName has neither address nor endpoints in the mesh: it is ignored")
		return
	default:
		t.bad(o, "spec.type", "%q is not a type of Service; use ClusterIP", clip(string(v.kind)))
	}
	t.servicePorts(s, v.ports)
	t.serviceVIPs(s, v, vips)
	t.serviceLocality(s, v)
	own := waypointOfService(t, o, v)
	t.bindService(s, v.labels, own)
	if t.quiet(said, notices) && own == nil {
		t.keepService(v, s)
	}
	t.services[o.Name] = s
	t.addService(s)
}

func (t *translator) addService(s *service) {
	s.seq = len(t.serviceSeq)
	t.serviceSeq = append(t.serviceSeq, s)
	t.parts.Services = append(t.parts.Services, s.model)
	if old := t.byHost[s.model.Key]; old == nil || s.model.Canonical && !old.model.Canonical {
		t.byHost[s.model.Key] = s
	}
}

// waypointOfService returns the waypoint whose own Service this is, or nil.
func waypointOfService(t *translator, o *Object, v *serviceObject) *waypoint {
	name := ""
	if i := slices.IndexFunc(v.selector, func(l label) bool { return l.key == labelGatewayName }); i >= 0 {
		name = v.selector[i].value
	}
	if name == "" {
		name = v.labels[labelGatewayName]
	}
	if name == "" {
		name = o.Name.Name
	}
	return t.waypoints[mesh.Name{Namespace: o.Name.Namespace, Name: name}]
}

// bindService finds the waypoint of a service: by its own label, else by its
// namespace's. A waypoint's own service is never bound.
func (t *translator) bindService(s *service, labels map[string]string, own *waypoint) {
	if own != nil {
		t.waypointUses(own, s.obj, "metadata.labels", labels)
		return
	}
	w, said := t.boundWaypoint(s.obj, "metadata.labels", labels, s.obj.Name.Namespace)
	if !said {
		w = t.namespace(s.obj.Name.Namespace).waypoint
	}
	s.model.WaypointOptional = t.permissive(s.obj, "metadata.labels", labels, s.obj.Name.Namespace)
	switch {
	case w == nil:
	case w.serves(mesh.WaypointForService):
		s.model.Waypoint = w.ref
	case said && w.model.For != mesh.WaypointForNone:
		t.note(s.obj, "waypoint %s takes traffic to workloads only (label %s): it does not serve this service", w.model.Name, labelWaypointFor)
	}
}

func (t *translator) servicePorts(s *service, ports []corev1.ServicePort) {
	type key struct {
		proto corev1.Protocol
		port  int32
	}
	seen, names := map[key]int{}, map[string]int{}
	for i, p := range ports {
		path := elem("spec.ports", i)
		tcp := t.tcp(s.obj, path+".protocol", p.Protocol)
		n := t.port(s.obj, path+".port", int64(p.Port))
		k := key{p.Protocol, p.Port}
		if k.proto == "" {
			k.proto = corev1.ProtocolTCP
		}
		if first, dup := seen[k]; dup {
			t.bad(s.obj, path+".port", "port %d is also ports[%d]; remove one of them", p.Port, first)
			continue
		}
		seen[k] = i
		switch first, dup := names[p.Name]; {
		case p.Name == "" && len(ports) > 1:
			t.bad(s.obj, path, "a Service of several ports names each; give this one a name")
		case p.Name != "" && !isLabel(p.Name):
			t.bad(s.obj, path+".name", "%q is not a valid port name; use lower-case letters, digits and '-'", clip(p.Name))
		case p.Name != "" && dup:
			t.bad(s.obj, path+".name", "name %q is also that of ports[%d]; rename one", p.Name, first)
		}
		names[p.Name] = i
		target, targetName := t.targetPort(s.obj, path+".targetPort", p.TargetPort, n)
		if !tcp || n == 0 {
			continue
		}
		app := ""
		if p.AppProtocol != nil {
			app = *p.AppProtocol
		}
		s.ports = append(s.ports, servicePort{name: p.Name, port: n, target: target, targetName: targetName})
		s.model.Ports = append(s.model.Ports, mesh.ServicePort{Name: p.Name, Port: n, TargetPort: target, Protocol: portProtocol(app, p.Name, n)})
	}
}

// targetPort reads a Service's targetPort: a number, a name, or the port itself.
func (t *translator) targetPort(o *Object, path string, v intstr.IntOrString, port uint16) (target uint16, name string) {
	switch {
	case v.Type == intstr.String && v.StrVal != "":
		if n, err := strconv.Atoi(v.StrVal); err == nil {
			t.bad(o, path, "%q is a number in quotes; remove the quotes", v.StrVal)
			return uint16(max(0, min(n, 65535))), ""
		}
		if len(v.StrVal) > 15 || !isLabel(v.StrVal) {
			t.bad(o, path, "%q is not a valid port name; use up to 15 lower-case letters, digits and '-'", clip(v.StrVal))
		}
		return 0, v.StrVal
	case v.Type == intstr.Int && v.IntVal != 0:
		return t.port(o, path, int64(v.IntVal)), ""
	}
	return port, ""
}

func (t *translator) serviceVIPs(s *service, v *serviceObject, vips map[netip.Addr]*Object) {
	add := func(path, text string) {
		a, ok := t.addr(s.obj, path, text)
		if !ok || slices.Contains(s.model.VIPs, a) {
			return
		}
		if other := vips[a]; other != nil {
			t.bad(s.obj, path, "address %s is that of %s too (%s:%d); give each its own", a, other, other.Origin.File, other.Origin.Line)
			return
		}
		vips[a] = s.obj
		s.model.VIPs = append(s.model.VIPs, a)
	}
	if v.address == corev1.ClusterIPNone {
		return // headless
	}
	if v.address != "" {
		add("spec.clusterIP", v.address)
	}
	for i, ip := range v.addresses {
		if ip == corev1.ClusterIPNone {
			return
		}
		add(elem("spec.clusterIPs", i), ip)
	}
	if v.address == "" && len(v.addresses) == 0 {
		s.model.VIPs = t.allocate(s.obj.Name)
	}
	for i, ip := range v.ingress {
		if ip != "" {
			add(elem("status.loadBalancer.ingress", i)+".ip", ip)
		}
	}
}

// allocate asks the allocator for a service's address.
func (t *translator) allocate(n mesh.Name) []netip.Addr {
	if t.opts.Allocator == nil {
		return nil
	}
	if a := t.opts.Allocator.Service(n); a.IsValid() {
		return []netip.Addr{a}
	}
	return nil
}

// serviceLocality reads how a Service prefers near endpoints, in the terms in
// which Istio tells its node proxies.
func (t *translator) serviceLocality(s *service, v *serviceObject) {
	if v.nearness == nil {
		return
	}
	zone := []string{"NETWORK", "REGION", "ZONE"}
	set := func(mode mesh.LocalityMode, prefs ...string) {
		s.model.Locality, s.model.RoutingPreferences = mode, prefs
	}
	if p := v.nearness.internal; p != nil {
		switch *p {
		case corev1.ServiceInternalTrafficPolicyLocal:
			set(mesh.LocalityStrict, "NODE")
			return
		case corev1.ServiceInternalTrafficPolicyCluster:
		default:
			t.bad(s.obj, "spec.internalTrafficPolicy", "%q is not known; use Cluster or Local", clip(string(*p)))
		}
	}
	dist, path := v.nearness.annotation, "metadata.annotations["+annotationDist+"]"
	if v.nearness.traffic != nil {
		dist, path = *v.nearness.traffic, "spec.trafficDistribution"
	}
	switch dist {
	case "", "Any":
	case "PreferClose":
		set(mesh.LocalityFailover, append(zone, "SUBZONE")...)
	case "PreferSameZone":
		set(mesh.LocalityFailover, zone...)
	case "PreferSameNode":
		set(mesh.LocalityFailover, append(zone, "SUBZONE", "NODE")...)
	default:
		t.bad(s.obj, path, "%q is not known; use PreferClose, PreferSameZone or PreferSameNode", clip(dist))
	}
}

// portProtocol reads what a port carries, as Istio does (ConvertProtocol): appProtocol if there is
// one, else the port's name, each up to its first '-', else the number where it
// belongs to a protocol whose server speaks first. A port of which nothing is
// known is sniffed.
func portProtocol(app, name string, port uint16) mesh.AppProtocol {
	if app != "" {
		name = app
	}
	name = strings.ToLower(name)
	if p, ok := standardProtocols[name]; ok && app != "" {
		return p
	}
	if strings.HasPrefix(name, "grpc-web") { // it has a '-' of its own
		return mesh.ProtocolHTTP
	}
	head, _, _ := strings.Cut(name, "-")
	p := protocolOf(head)
	if p == mesh.ProtocolSniff && (port == 25 || port == 53 || port == 3306 || port == 27017) { // SMTP, DNS, MySQL, MongoDB
		p = mesh.ProtocolTCP
	}
	return p
}

// standardProtocols are Kubernetes' own values of appProtocol (KEP-3726). The server of a secure
// WebSocket is the one that ends its TLS.
var standardProtocols = map[string]mesh.AppProtocol{
	"kubernetes.io/h2c": mesh.ProtocolHTTP2,
	"kubernetes.io/ws":  mesh.ProtocolHTTP,
	"kubernetes.io/wss": mesh.ProtocolTLS,
}

func protocolOf(name string) mesh.AppProtocol {
	switch name {
	case "http", "http_proxy":
		return mesh.ProtocolHTTP
	case "http2":
		return mesh.ProtocolHTTP2
	case "grpc":
		return mesh.ProtocolGRPC
	case "https", "tls":
		return mesh.ProtocolTLS
	case "tcp", "mongo", "mysql", "redis", "hbone":
		return mesh.ProtocolTCP
	}
	return mesh.ProtocolSniff
}
