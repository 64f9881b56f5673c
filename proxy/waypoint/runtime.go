package waypoint

import (
	"net/netip"
	"sync"
	"time"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
	"cairnproxy.dev/cairn/router"
	"cairnproxy.dev/cairn/telemetry"
	"cairnproxy.dev/cairn/upstream"
)

// Runtime is a snapshot compiled for one waypoint. It does not change.
type Runtime struct {
	snapshot *mesh.Snapshot
	waypoint *mesh.Waypoint // nil: the snapshot does not know us, nothing is served
	services map[netip.AddrPort]*servicePort
	hosts    map[hostPort]*servicePort
	// workloads are those whose own addresses we serve.
	workloads map[netip.Addr]*mesh.Workload
	ports     map[netip.AddrPort]*servicePort // of workloads, where a service tells the protocol
	clusters  map[clusterKey]*cluster
	problems  []string // rules that did not compile
	id        uint64   // of this Runtime among all of the Proxy's

	// asked holds ports of workloads that no service tells of, from when they
	// are first asked for. It is all that changes.
	askedMu sync.Mutex
	asked   map[netip.AddrPort]askedPort
}

type askedPort struct {
	port     *servicePort
	clusters map[clusterKey]*cluster
}

type hostPort struct {
	host string
	port uint16
}

// servicePort is one port of a service, or of a workload, as clients address it.
type servicePort struct {
	service   *mesh.Service  // nil for a workload's own address
	workload  *mesh.Workload // nil for a service
	port      uint16
	protocol  mesh.AppProtocol
	table     *router.Table[*rule]            // nil: no routes
	consumers map[string]*router.Table[*rule] // by the client's namespace, in table's place
	fallback  *rule                           // without a matching route: the service itself, or nil for 404
	tcp       *rule                           // where bytes that are not HTTP go, if not to fallback
	authz     *policy.L7                      // for TCP
	chain     filters.Chain                   // before routing: authorization
	labels    telemetry.ServiceLabels
	// What it was compiled from, to be recognised in the next snapshot.
	routes   []mesh.RouteAttachment
	policies []*mesh.AuthorizationPolicy
}

// rule is a compiled route rule.
type rule struct {
	name           string
	broken         string
	timeout        time.Duration
	backendTimeout time.Duration
	chain          filters.Chain
	split          *upstream.Split
	backends       []*backend
}

// backend is one destination of a rule.
type backend struct {
	broken  string
	cluster *cluster
	chain   filters.Chain
}

type clusterKey struct {
	service  mesh.ServiceKey
	workload string
	port     uint16
}

// cluster is an upstream.Cluster with the connections to its endpoints.
type cluster struct {
	key      clusterKey
	c        *upstream.Cluster
	name     string // as Envoy's waypoint names it: the log's upstream_cluster
	protocol mesh.AppProtocol
	service  telemetry.ServiceLabels
	dests    map[*upstream.Endpoint]*destination
}

// lookup finds what a CONNECT is for, or nil.
func (rt *Runtime) lookup(dst netip.AddrPort, host string, port uint16) *servicePort {
	if !dst.IsValid() {
		return rt.hosts[hostPort{host, port}]
	}
	if sp := rt.services[dst]; sp != nil {
		return sp
	}
	if sp := rt.ports[dst]; sp != nil {
		return sp
	}
	return nil
}

// match is the rule for a request, or nil.
func (sp *servicePort) match(r *mesh.Request, m *router.Match) *rule {
	if t := sp.consumers[r.Peer.Identity.Namespace]; t != nil {
		if ru, ok := t.Match(r, m); ok {
			return ru
		}
		return nil
	}
	if sp.table != nil {
		if ru, ok := sp.table.Match(r, m); ok {
			return ru
		}
	}
	return sp.fallback
}
