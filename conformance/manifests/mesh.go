package manifests

import (
	"fmt"
	"net/netip"
)

// Mesh is what the manifests ask of one waypoint.
type Mesh struct {
	Services []Service // in the order of the files, ports in the order of the Service
}

// Service is one port of a service behind the waypoint.
type Service struct {
	Namespace string
	Name      string
	Addr      netip.AddrPort // virtual address and port, as CONNECT names it
	Protocol  Protocol
	Endpoints []Endpoint
	Prefixes  []string // path prefixes in the order in which a scan has to look; none: every path
	Allow     *Allow   // nil: everybody
}

// Host is the service's hostname.
func (s Service) Host() string { return s.Name + "." + s.Namespace + ".svc.cluster.local" }

// Protocol is what the application behind a port speaks.
type Protocol string

// The protocols that a port's appProtocol or name can say.
const (
	HTTP  Protocol = "http"
	HTTP2 Protocol = "http2"
	TCP   Protocol = "tcp"
)

// Endpoint is one pod that stands behind a service port.
type Endpoint struct {
	Addr     netip.AddrPort
	Identity string // SPIFFE URI
}

// Allow is one rule of an ALLOW policy: these principals with these methods
// and paths. An empty list is any.
type Allow struct {
	Principals []string // SPIFFE URIs
	Methods    []string
	Paths      []string // whole, or beginnings that end in *
	// Or are the further rules of this and other policies of the service.
	Or []*Allow
}

// Find returns the service port that CONNECT names by the address.
func (m *Mesh) Find(addr netip.AddrPort) (Service, error) {
	for _, s := range m.Services {
		if s.Addr == addr {
			return s, nil
		}
	}
	return Service{}, fmt.Errorf("the manifests have no service at %s", addr)
}
