package upstream

import (
	"net/netip"
	"slices"
	"strconv"

	"cairnproxy.dev/cairn/mesh"
)

// HBONEPort is where a workload's node proxy accepts tunnels.
const HBONEPort = 15008

// Endpoint is one workload's port as a destination. All but the counters is
// read-only.
type Endpoint struct {
	Workload *mesh.Workload
	// Port is the workload's own port.
	Port uint16
	// Hostname is set instead of addresses for entries that are to be resolved.
	Hostname string
	// Identity is the workload's, Expect the SPIFFE URIs of which its
	// certificate must carry one: its own, and the service's SubjectAltNames.
	Identity mesh.Identity
	Expect   []string

	addresses []Address
	live      *live
	monitor   *Monitor // nil where the cluster watches nothing
	position  int
}

// Position is the endpoint's place in its cluster's Endpoints.
func (e *Endpoint) Position() int { return e.position }

// Address is one way to reach an endpoint.
type Address struct {
	// Addr is the workload's address and port; not valid when the endpoint has
	// only a Hostname.
	Addr netip.AddrPort
	// Tunnel is where its node proxy accepts tunnels: the same address, port 15008.
	Tunnel netip.AddrPort
	// Authority is Addr as text, or "hostname:port": what a CONNECT for it asks for.
	Authority string
}

// newEndpoint makes the endpoint of a workload's port. sans are further
// identities to accept; trustDomain is the mesh's, for workloads that name none.
// like is another endpoint with the same sans, nil for none.
func newEndpoint(r *Registry, w *mesh.Workload, port uint16, sans []string, trustDomain string, like *Endpoint) *Endpoint {
	e := &Endpoint{Workload: w, Port: port, Identity: w.Identity(), live: r.get(endpointKey{w.UID, port})}
	if e.Identity.TrustDomain == "" {
		e.Identity.TrustDomain = trustDomain
	}
	if like != nil && like.Identity == e.Identity {
		e.Expect = like.Expect
	} else {
		e.Expect = append(e.Expect, e.Identity.String())
		for _, s := range sans {
			if !slices.Contains(e.Expect, s) {
				e.Expect = append(e.Expect, s)
			}
		}
	}
	e.addresses = make([]Address, 0, max(1, len(w.Addresses)))
	for _, a := range w.Addresses {
		a = a.Unmap()
		to := netip.AddrPortFrom(a, port)
		e.addresses = append(e.addresses, Address{Addr: to, Tunnel: netip.AddrPortFrom(a, HBONEPort), Authority: to.String()})
	}
	if len(e.addresses) == 0 {
		e.Hostname = w.Hostname
		e.addresses = []Address{{Authority: w.Hostname + ":" + strconv.Itoa(int(port))}}
	}
	return e
}

// At returns how to reach the endpoint for a client that dialled target: target
// itself where the workload owns it, else the first address of target's
// family, else the first one. The zero target takes the first. It never returns nil.
func (e *Endpoint) At(target netip.Addr) *Address {
	if len(e.addresses) == 1 || !target.IsValid() {
		return &e.addresses[0]
	}
	target = target.Unmap()
	family := -1
	for i := range e.addresses {
		a := e.addresses[i].Addr.Addr()
		if a == target {
			return &e.addresses[i]
		}
		if family < 0 && a.Is4() == target.Is4() {
			family = i
		}
	}
	return &e.addresses[max(0, family)]
}

// Authority returns the first address' authority, "podIP:port".
func (e *Endpoint) Authority() string { return e.addresses[0].Authority }

// Tunnelled reports whether the endpoint is reached through HBONE; otherwise it gets plain TCP.
func (e *Endpoint) Tunnelled() bool { return e.Workload.Protocol == mesh.TunnelHBONE }

// Acquire counts a request, or connection, that is sent to the endpoint.
// Release must follow, once.
func (e *Endpoint) Acquire() { e.live.active.Add(1) }

// Release ends what Acquire began.
func (e *Endpoint) Release() { e.live.active.Add(-1) }

// Active returns how many requests are in flight, from all clusters of this process.
func (e *Endpoint) Active() int64 { return e.live.active.Load() }

// Same reports whether both are the same workload's port, perhaps of different
// snapshots.
func (e *Endpoint) Same(o *Endpoint) bool { return e.live == o.live }

// AddrFor returns the address of w that serves a client which dialled target,
// chosen as by Endpoint.At; false when w has none.
func AddrFor(w *mesh.Workload, target netip.Addr) (netip.Addr, bool) {
	target = target.Unmap()
	var first, family netip.Addr
	for _, a := range w.Addresses {
		a = a.Unmap()
		if a == target {
			return a, true
		}
		if !first.IsValid() {
			first = a
		}
		if !family.IsValid() && target.IsValid() && a.Is4() == target.Is4() {
			family = a
		}
	}
	if family.IsValid() {
		return family, true
	}
	return first, first.IsValid()
}

// TargetPort returns the port on which w serves port of service v; false when it does not.
func TargetPort(v *mesh.Service, w *mesh.Workload, port uint16) (uint16, bool) {
	ports, ok := w.Services[v.Key]
	if !ok || v.Port(port) == nil {
		return 0, false
	}
	return mesh.Endpoint{Workload: w, Ports: ports}.TargetPort(v, port)
}
