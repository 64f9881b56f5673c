package host

// Redirection says where the traffic of a pod is sent. The numbers are those
// that Istio's node agent and ztunnel agree on.
type Redirection struct {
	// Outbound gets TCP connections that the pod opens, Inbound those that
	// reach it in plain text, DNS its queries (0: not captured).
	Outbound, Inbound, DNS uint16
	// Tunnel is the port that reaches its listener unredirected.
	Tunnel uint16
	// Mark is carried by the proxy's own packets, which are let through.
	Mark uint32
	// ConnMark marks connections that the proxy opened to the pod with the
	// client's source address, so that the answers return to the proxy.
	ConnMark uint32
}

// DefaultRedirection is what the proxies of the mesh expect.
func DefaultRedirection() Redirection {
	return Redirection{Outbound: 15001, Inbound: 15006, DNS: 15053, Tunnel: 15008, Mark: 0x539, ConnMark: 0x111}
}

// markMask is the part of a packet mark that the mesh uses.
const markMask = 0xfff

// routeTable holds the route that brings marked answers back to the proxy, and
// rulePriority is where it is looked up.
const (
	routeTable   = 100
	rulePriority = 32764
)
