package waypoint

import (
	"iter"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
	"cairnproxy.dev/cairn/router"
	"cairnproxy.dev/cairn/telemetry"
	"cairnproxy.dev/cairn/telemetry/decision"
	"cairnproxy.dev/cairn/upstream"
)

// Runtime is a snapshot compiled for one waypoint. It does not change, and shares
// with the one before what is the same in both.
type Runtime struct {
	snapshot *mesh.Snapshot
	waypoint *mesh.Waypoint // nil: the snapshot does not know us, nothing is served
	policies *policy.Attachments
	general  *policy.L7 // of what has no policies of its own
	heads    *heads     // how requests are read; nil: as by default
	services mesh.Index[netip.AddrPort, *servicePort]
	hosts    mesh.Index[hostPort, *servicePort]
	// workloads are those whose own addresses we serve.
	workloads mesh.Index[netip.Addr, *mesh.Workload]
	ports     mesh.Index[netip.AddrPort, *servicePort] // of workloads, where a service tells the protocol
	clusters  mesh.Index[mesh.ServiceKey, []*cluster]  // of services
	// What was compiled, to be recognised in the next snapshot.
	compiled mesh.Index[mesh.ServiceKey, *compiledService]
	pods     mesh.Index[string, *compiledWorkload]
	// users are the services whose routes lead to a service, beside itself.
	users mesh.Index[mesh.ServiceKey, []mesh.ServiceKey]
	place string // where we are, as endpoints' places are compared with it
	// routeAuthz is the policies of routes, by their rules.
	routeAuthz map[routeAuthzKey]*routeAuthz
	contested  bool   // several lay claim to one address or name
	id         uint64 // of this Runtime among all of the Proxy's

	// asked holds ports of workloads that no service tells of, from when they
	// are first asked for. It is all that changes, until the Runtime is over.
	askedMu sync.Mutex
	asked   map[netip.AddrPort]askedPort
	over    bool
}

// compiledService is a service with what it was compiled from and to.
type compiledService struct {
	service  *mesh.Service
	policies policy.Attached
	ports    []*servicePort
	uses     []*cluster
	leads    []mesh.ServiceKey // where its routes lead, if only to say that nothing is there
	problems []string          // rules that did not compile
}

// compiledWorkload is the same of a workload whose own addresses we serve.
type compiledWorkload struct {
	workload *mesh.Workload
	ports    []*servicePort
	clusters []*cluster
}

type askedPort struct {
	port    *servicePort
	cluster *cluster
}

// problems are what is wrong with the rules of all services.
func (rt *Runtime) problems() []string {
	var out []string
	for _, cs := range rt.compiled.All() {
		out = append(out, cs.problems...)
	}
	slices.Sort(out)
	return out
}

// allClusters iterates over the clusters of services and workloads, in no order.
func (rt *Runtime) allClusters() iter.Seq[*cluster] {
	return func(yield func(*cluster) bool) {
		for _, list := range rt.clusters.All() {
			for _, cl := range list {
				if !yield(cl) {
					return
				}
			}
		}
		for _, cw := range rt.pods.All() {
			for _, cl := range cw.clusters {
				if !yield(cl) {
					return
				}
			}
		}
	}
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
	conns     *connRoutes                     // before both: TCPRoutes and TLSRoutes; nil for none
	authz     *policy.L7                      // for TCP
	chain     filters.Chain                   // before routing: authorization
	labels    telemetry.ServiceLabels
	requests  *mesh.RequestPolicy // of all requests to the port; nil for none
	told      *decision.Fields    // header fields that records tell of; nil for none
	// What it was compiled from, for the dump.
	routes   []mesh.RouteAttachment
	rules    []*rule // of routes
	policies policy.Attached
}

// rule is a compiled route rule.
type rule struct {
	name     string
	broken   string
	res      *resilience // nil: nothing is said; see policy
	chain    filters.Chain
	split    *upstream.Split
	backends []*backend
	session  *sessionRule // nil: clients have none
	mirrors  []mirror
	authz    *routeAuthz // what chain has of it, to be recognised
}

type routeAuthzKey struct {
	kind   mesh.RouteKind
	object mesh.Name
	rule   string
}

// backend is one destination of a rule.
type backend struct {
	broken  string
	cluster *cluster
	chain   filters.Chain
}

// clusterKey is what a cluster is known by in the Runtime that follows.
type clusterKey struct {
	service  mesh.ServiceKey
	workload string
	port     uint16
	variant  string // of a backend with a policy of its own: see variantOf
}

// cluster is an upstream.Cluster with the connections to its endpoints.
type cluster struct {
	key      clusterKey
	c        *upstream.Cluster
	name     string // as Envoy's waypoint names it: the log's upstream_cluster
	protocol mesh.AppProtocol
	service  telemetry.ServiceLabels
	policy   *mesh.BackendPolicy // in force on the way to the endpoints; nil for none
	tls      *originTLS          // of policy; nil for none
	adm      *admission          // what bounds and watches it; nil: nothing does
	// dests are the connections to each endpoint, made when they are first wanted.
	dests []atomic.Pointer[destination]
	dead  bool // no configuration in force names it; under Proxy.mu
}

// lookup finds what a CONNECT is for, or nil.
func (rt *Runtime) lookup(dst netip.AddrPort, host string, port uint16) *servicePort {
	if !dst.IsValid() {
		return rt.hosts.At(hostPort{host, port})
	}
	if sp := rt.services.At(dst); sp != nil {
		return sp
	}
	if sp := rt.ports.At(dst); sp != nil {
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
