package mesh

import "net/netip"

// Name is the namespaced name of a Kubernetes object.
type Name struct{ Namespace, Name string }

// String returns "namespace/name", or "" for the zero Name.
func (n Name) String() string {
	if n == (Name{}) {
		return ""
	}
	return n.Namespace + "/" + n.Name
}

// TunnelProtocol says how a workload is reached.
type TunnelProtocol uint8

const (
	// TunnelNone workloads are outside the mesh and get plain TCP.
	TunnelNone TunnelProtocol = iota
	// TunnelHBONE workloads are behind a node proxy that listens on 15008.
	TunnelHBONE
)

// String returns the name that ztunnel's configuration dump uses.
func (p TunnelProtocol) String() string {
	if p == TunnelHBONE {
		return "HBONE"
	}
	return "TCP"
}

// Workload is one addressable endpoint of the mesh: a pod, or a machine that a
// WorkloadEntry describes.
type Workload struct {
	// UID is unique in the mesh: "CLUSTER//Pod/NAMESPACE/NAME" for pods, as
	// istiod names them.
	UID       string
	Name      string
	Namespace string
	// ServiceAccount and TrustDomain make the workload's Identity.
	ServiceAccount string
	TrustDomain    string
	// Addresses are the workload's own addresses; empty only for entries that
	// are reached by Hostname.
	Addresses []netip.Addr
	Hostname  string
	Network   string
	ClusterID string
	Node      string
	Protocol  TunnelProtocol
	// HostNetwork workloads share their node's address and are not looked up by it.
	HostNetwork bool
	// Labels are the pod's labels; the policies' selectors match on them.
	Labels map[string]string
	// CanonicalName and CanonicalRevision, WorkloadName and WorkloadType
	// ("deployment", "pod", "job", "cronjob") are what telemetry calls the workload.
	CanonicalName     string
	CanonicalRevision string
	WorkloadName      string
	WorkloadType      string
	Region            string
	Zone              string
	Subzone           string
	// Ready is false for a workload that must not get new traffic.
	Ready bool
	// Capacity is its weight among its service's endpoints; 1 where nothing is said.
	Capacity uint32
	// Waypoint is the waypoint that serves traffic addressed to this workload
	// itself (istio.io/waypoint-for: workload or all); nil for none.
	Waypoint *WaypointRef
	// Services maps a service to the ports on which this workload serves it:
	// service port to target port. A target of 0 means the service's own.
	Services map[ServiceKey]map[uint16]uint16
	// Policies names, as "namespace/name", the L4 policies bound to this
	// workload by selector (ztunnel's authorizationPolicies).
	Policies []string
	// NamedPorts are the container ports that have names, for services that
	// target a port by name.
	NamedPorts map[string]uint16
	// ServiceAccountWaypoint is set on a workload that the waypoint of its
	// service account serves (annotation istio.io/for-service-account).
	ServiceAccountWaypoint bool
	// IsWaypoint is true for the instances of a waypoint.
	IsWaypoint bool
	// WaypointOptional lets traffic go around Waypoint (label
	// policy.cairnproxy.dev/waypoint-binding: permissive).
	WaypointOptional bool
	Origin           Origin
}

// Identity is the workload's SPIFFE identity.
func (w *Workload) Identity() Identity {
	return Identity{TrustDomain: w.TrustDomain, Namespace: w.Namespace, ServiceAccount: w.ServiceAccount}
}

// ServiceKey names a service by its namespace and hostname.
type ServiceKey struct{ Namespace, Hostname string }

// String returns "namespace/hostname".
func (k ServiceKey) String() string { return k.Namespace + "/" + k.Hostname }

// AppProtocol is the protocol that a service port carries.
type AppProtocol uint8

const (
	// ProtocolSniff: nothing was said; the first bytes decide between HTTP/1.1, HTTP/2 and TCP.
	ProtocolSniff AppProtocol = iota
	// ProtocolHTTP is HTTP/1.1 (port name http, appProtocol http or kubernetes.io/ws).
	// A client may still speak HTTP/2 with prior knowledge.
	ProtocolHTTP
	// ProtocolHTTP2 is cleartext HTTP/2 (http2, kubernetes.io/h2c).
	ProtocolHTTP2
	// ProtocolGRPC is HTTP/2 that carries gRPC.
	ProtocolGRPC
	// ProtocolTCP is opaque bytes.
	ProtocolTCP
	// ProtocolTLS is TLS, passed through unopened (tls, https).
	ProtocolTLS
)

var protocolNames = [...]string{"", "HTTP", "HTTP2", "GRPC", "TCP", "TLS"}

// String returns the name in upper case; "" for ProtocolSniff.
func (p AppProtocol) String() string { return protocolNames[p] }

// IsHTTP reports whether a waypoint parses the port's traffic without looking at it first.
func (p AppProtocol) IsHTTP() bool {
	return p == ProtocolHTTP || p == ProtocolHTTP2 || p == ProtocolGRPC
}

// ServicePort is one port of a Service.
type ServicePort struct {
	Name string
	Port uint16
	// TargetPort is the port of the endpoints; 0 when it is named and each
	// endpoint's own port map must be asked.
	TargetPort uint16
	Protocol   AppProtocol
	// Requests and Backend are the policies for requests to the port and for the way to
	// its endpoints; nil where there are none.
	Requests *RequestPolicy
	Backend  *BackendPolicy
}

// LocalityMode says how a service prefers endpoints near the client.
type LocalityMode uint8

const (
	// LocalityNone takes every endpoint alike.
	LocalityNone LocalityMode = iota
	// LocalityFailover prefers the nearest endpoints and falls back to others.
	LocalityFailover
	// LocalityStrict takes only endpoints that match all preferences.
	LocalityStrict
	// LocalityPassthrough sends to the original destination.
	LocalityPassthrough
)

// Service is a Kubernetes Service or a ServiceEntry host.
type Service struct {
	Key  ServiceKey
	Name string // the object's name
	// VIPs are its virtual addresses; empty for headless services.
	VIPs  []netip.Addr
	Ports []ServicePort
	// Waypoint serves traffic addressed to the service; nil for none.
	Waypoint *WaypointRef
	// SubjectAltNames are further SPIFFE URIs that its endpoints may present.
	SubjectAltNames []string
	Network         string
	// External is true for ServiceEntry hosts outside the mesh.
	External bool
	// Canonical is true for the Service itself and false for a ServiceEntry
	// that names the same host again.
	Canonical bool
	// WaypointOptional lets traffic go around Waypoint: clients do when no instance of it
	// can be reached, and nobody is refused for having done so (label
	// policy.cairnproxy.dev/waypoint-binding: permissive). Otherwise the binding is strict.
	WaypointOptional bool
	// PublishNotReady keeps endpoints that are not ready in the set.
	PublishNotReady bool
	// Locality and RoutingPreferences ("NETWORK", "REGION", "ZONE", "SUBZONE", "NODE", "CLUSTER").
	Locality           LocalityMode
	RoutingPreferences []string
	Labels             map[string]string
	Origin             Origin
}

// Port returns the service's port with that number, or nil.
func (s *Service) Port(n uint16) *ServicePort {
	for i := range s.Ports {
		if s.Ports[i].Port == n {
			return &s.Ports[i]
		}
	}
	return nil
}

// Endpoint is a workload's part in a service.
type Endpoint struct {
	Workload *Workload
	// Ports maps service port to target port.
	Ports map[uint16]uint16
}

// TargetPort returns the workload's port behind service port p, or false when
// the workload does not serve it.
func (e Endpoint) TargetPort(s *Service, p uint16) (uint16, bool) {
	if t, ok := e.Ports[p]; ok && t != 0 {
		return t, true
	}
	if sp := s.Port(p); sp != nil && sp.TargetPort != 0 {
		return sp.TargetPort, true
	}
	return 0, false
}

// WaypointRef is where a waypoint is reached. Either Name (a Gateway that this
// mesh knows), Service (a hostname) or Address is set.
type WaypointRef struct {
	Name    Name
	Service ServiceKey
	Address netip.Addr
	// Port is the HBONE port, 15008 where nothing is said.
	Port uint16
}

// Origin is the place where an object was written down, for messages.
type Origin struct {
	Source string // "file", "kube", "istiod", "localxds"
	File   string
	Line   int
}
