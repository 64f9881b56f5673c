package waypoint

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/router"
	"cairnproxy.dev/cairn/telemetry"
	"cairnproxy.dev/cairn/upstream"
)

// town is a mesh that changes at random, one or a few objects at a time.
type town struct {
	r         *rand.Rand
	workloads map[int]*mesh.Workload
	services  map[int]*mesh.Service
	attached  map[int]mesh.RouteAttachment
	policies  map[int]*mesh.AuthorizationPolicy
	access    map[int]*mesh.AccessPolicy
	waypoint  *mesh.Waypoint
}

const townSize = 6

func newTown(seed uint64) *town {
	return &town{
		r: rand.New(rand.NewPCG(seed, 3)), workloads: map[int]*mesh.Workload{}, services: map[int]*mesh.Service{},
		attached: map[int]mesh.RouteAttachment{}, policies: map[int]*mesh.AuthorizationPolicy{}, access: map[int]*mesh.AccessPolicy{}, waypoint: labWaypoint,
	}
}

func townKey(n int) mesh.ServiceKey {
	return mesh.ServiceKey{Namespace: "app", Hostname: fmt.Sprintf("s%d.app.svc.cluster.local", n)}
}

func (t *town) change() {
	r, n := t.r, t.r.IntN(townSize)
	switch r.IntN(10) {
	case 0:
		delete(t.workloads, n)
	case 1, 2:
		w := labWorkload(n)
		w.Ready = r.IntN(4) > 0
		if r.IntN(3) == 0 {
			w.Waypoint = &mesh.WaypointRef{Name: wpName}
		}
		for range r.IntN(4) {
			w.Services[townKey(r.IntN(townSize))] = map[uint16]uint16{80: uint16(8080 + r.IntN(2))}
		}
		t.workloads[n] = w
	case 3:
		delete(t.services, n)
	case 4:
		v := labService(n, mesh.AppProtocol(r.IntN(5)))
		if r.IntN(4) == 0 {
			v.Waypoint = nil
		}
		if r.IntN(3) == 0 {
			v.Ports = append(v.Ports, mesh.ServicePort{Name: "q", Port: 81, TargetPort: 8081, Protocol: mesh.ProtocolHTTP})
		}
		if r.IntN(12) == 0 {
			v.VIPs = labService(0, 0).VIPs // another's
		}
		t.services[n] = v
	case 5, 6:
		rt := &mesh.Route{Object: mesh.Name{Namespace: "app", Name: fmt.Sprint("r", n)}, Matches: []mesh.RouteMatch{pathMatch(mesh.MatchPrefix, fmt.Sprint("/", r.IntN(3)))}}
		if r.IntN(5) == 0 {
			rt.Broken = "it is broken"
		}
		if r.IntN(2) == 0 {
			rt.RuleName = "one"
		}
		for range r.IntN(3) {
			rt.Backends = append(rt.Backends, mesh.Backend{Service: townKey(r.IntN(townSize)), Port: uint16(80 + r.IntN(2)), Weight: 1})
		}
		a := mesh.RouteAttachment{Service: townKey(r.IntN(townSize)), Route: rt}
		if r.IntN(4) == 0 {
			a.ConsumerNamespace = "other"
		}
		t.attached[n] = a
	case 7:
		delete(t.attached, n)
	case 8:
		p := &mesh.AuthorizationPolicy{Name: mesh.Name{Namespace: "app", Name: fmt.Sprint("p", n)}}
		p.TargetRefs = []mesh.TargetRef{{Kind: "Service", Name: fmt.Sprint("s", r.IntN(townSize))}}
		if r.IntN(4) == 0 {
			p.TargetRefs = []mesh.TargetRef{{Group: "gateway.networking.k8s.io", Kind: "Gateway", Name: wpName.Name}}
		}
		if t.policies[n] = p; r.IntN(2) == 0 {
			delete(t.policies, n)
		}
	case 9:
		t.changeAccess(n)
	}
	if r.IntN(40) == 0 {
		w := *labWaypoint
		t.waypoint = &w
	}
}

// changeAccess attaches an AccessPolicy to something, or takes one away.
func (t *town) changeAccess(n int) {
	if t.r.IntN(3) == 0 {
		delete(t.access, n)
		return
	}
	const gateway = "gateway.networking.k8s.io"
	p := &mesh.AccessPolicy{Name: mesh.Name{Namespace: "app", Name: fmt.Sprint("x", n)}, Rules: []mesh.AccessRule{{Effect: mesh.AccessDeny, When: "request.method == 'M" + fmt.Sprint(t.r.IntN(3)) + "'"}}}
	p.TargetRefs = []mesh.TargetRef{[]mesh.TargetRef{
		{Kind: "Service", Name: fmt.Sprint("s", t.r.IntN(townSize))},
		{Kind: "Service", Name: fmt.Sprint("s", t.r.IntN(townSize)), Section: "q"},
		{Group: gateway, Kind: "HTTPRoute", Name: fmt.Sprint("r", t.r.IntN(townSize))},
		{Group: gateway, Kind: "HTTPRoute", Name: fmt.Sprint("r", t.r.IntN(townSize)), Section: "one"},
		{Group: gateway, Kind: "GRPCRoute", Name: fmt.Sprint("r", t.r.IntN(townSize))},
		{Group: gateway, Kind: "Gateway", Name: wpName.Name},
	}[min(t.r.IntN(8), 5)]}
	t.access[n] = p
}

// authzOf says which methods a chain refuses, of those that policies of a town are about.
func authzOf(c filters.Chain) (out string) {
	for i := range 3 {
		x := &filters.Exchange{Req: &mesh.Request{Method: fmt.Sprint("M", i)}}
		if r, _ := c.Request(x, 0); r == filters.Replied {
			out += x.Req.Method
		}
	}
	return out
}

func (t *town) parts() mesh.Parts {
	p := mesh.Parts{Waypoints: []*mesh.Waypoint{t.waypoint}}
	for i := range townSize {
		if w := t.workloads[i]; w != nil {
			p.Workloads = append(p.Workloads, w)
		}
		if v := t.services[i]; v != nil {
			p.Services = append(p.Services, v)
		}
		if a, ok := t.attached[i]; ok {
			p.Attachments = append(p.Attachments, a)
		}
		if x := t.policies[i]; x != nil {
			p.Policies = append(p.Policies, x)
		}
		if x := t.access[i]; x != nil {
			p.Access = append(p.Access, x)
		}
	}
	return p
}

// portrait is what a Runtime does with each address and name, as text.
func portrait(rt *Runtime) map[string]string {
	out := map[string]string{"problems": strings.Join(rt.problems(), "; ")}
	for at, sp := range rt.services.All() {
		out[at.String()] = portraitOf(sp)
	}
	for at, sp := range rt.ports.All() {
		out["pod "+at.String()] = portraitOf(sp)
	}
	for at, sp := range rt.hosts.All() {
		out[fmt.Sprint(at)] = portraitOf(sp)
	}
	for at, w := range rt.workloads.All() {
		out["workload "+at.String()] = fmt.Sprintf("%p", w)
	}
	var clusters []string
	for cl := range rt.allClusters() {
		clusters = append(clusters, portraitOfCluster(cl))
	}
	slices.Sort(clusters)
	out["clusters"] = strings.Join(clusters, "\n")
	var users []string
	for k, list := range rt.users.All() {
		list = slices.SortedFunc(slices.Values(list), func(a, b mesh.ServiceKey) int { return strings.Compare(a.String(), b.String()) })
		users = append(users, fmt.Sprint(k, list))
	}
	slices.Sort(users)
	out["users"] = strings.Join(users, "\n")
	return out
}

func portraitOfCluster(cl *cluster) string {
	text := fmt.Sprint(cl.name, cl.protocol, cl.service, cl.dead)
	for _, ep := range cl.c.Endpoints() {
		text += fmt.Sprintf(" %p %s %v", ep.Workload, ep.Authority(), ep.Expect)
	}
	return text
}

func portraitOf(sp *servicePort) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%p %p %d %v %v authz %v %s", sp.service, sp.workload, sp.port, sp.protocol, sp.policies, sp.authz.Empty(), authzOf(sp.chain))
	describe := func(name string, ru *rule) {
		if ru == nil {
			return
		}
		fmt.Fprintf(&b, "\n%s %s broken %q authz %s", name, ru.name, ru.broken, authzOf(ru.chain))
		for _, x := range ru.backends {
			fmt.Fprintf(&b, " backend %q", x.broken)
			if x.cluster != nil {
				b.WriteString(portraitOfCluster(x.cluster))
			}
		}
	}
	describe("fallback", sp.fallback)
	describe("tcp", sp.tcp)
	for _, ns := range []string{"app", "other"} {
		for path := range 3 {
			req := &mesh.Request{Method: "GET", Path: fmt.Sprint("/", path), Peer: mesh.Peer{Identity: mesh.Identity{Namespace: ns}}}
			describe(ns+req.Path, sp.match(req, new(router.Match)))
		}
	}
	return b.String()
}

// A Runtime that was made of another by its changes does what one that is made from nothing
// does; what a change does not touch is the same as before; and destinations are those
// that some cluster in force has asked for.
func TestChangesAddUp(t *testing.T) {
	reused, compiled := 0, 0
	for seed := range uint64(100) {
		town := newTown(seed)
		l := newLab(t, mesh.Parts{})
		snap := mesh.NewSnapshot(1, town.parts())
		l.p.apply(snap)
		for step := range 25 {
			for range 1 + town.r.IntN(2) {
				town.change()
			}
			before := l.p.runtime.Load()
			snap = snap.Next(town.parts())
			l.p.apply(snap)
			rt := l.p.runtime.Load()
			want := portrait(l.p.compile(mesh.NewSnapshot(1, town.parts()), nil))
			if got := portrait(rt); !maps.Equal(got, want) {
				for k := range want {
					if got[k] != want[k] {
						t.Errorf("%s is\n%s\nwant\n%s", k, got[k], want[k])
					}
				}
				t.Fatalf("seed %d, step %d: %d addresses and names, want %d", seed, step, len(got), len(want))
			}
			for at, sp := range rt.services.All() {
				compiled++
				if before.services.At(at) == sp {
					reused++
				}
			}
			town.visit(l.p, before, rt)
			checkDestinations(t, l.p, rt, seed)
		}
	}
	if reused*2 < compiled {
		t.Errorf("%d of %d ports were used again", reused, compiled)
	}
}

// visit asks for connections to some endpoints, as requests do that began with
// this configuration and with the one before.
func (t *town) visit(p *Proxy, rts ...*Runtime) {
	for _, rt := range rts {
		for cl := range rt.allClusters() {
			for _, ep := range cl.c.Endpoints() {
				if t.r.IntN(3) == 0 {
					p.dest(cl, ep)
				}
			}
		}
		for _, w := range rt.workloads.All() {
			if sp := p.find(rt, netip.AddrPortFrom(w.Addresses[0], 9999), "", 9999); sp != nil {
				cl := sp.fallback.backends[0].cluster
				p.dest(cl, cl.c.Endpoints()[0])
			}
		}
	}
}

func checkDestinations(t *testing.T, p *Proxy, rt *Runtime, seed uint64) {
	t.Helper()
	want := map[*destination]int{}
	count := func(cl *cluster) {
		if cl.dead {
			t.Fatalf("seed %d: %s is in force and dead", seed, cl.name)
		}
		for i, ep := range cl.c.Endpoints() {
			d := cl.dests[i].Load()
			if d == nil {
				continue
			}
			want[d]++
			if d.key != cl.destKey(ep) || d.retired {
				t.Fatalf("seed %d: %s has the destination of %v, retired: %v", seed, ep.Authority(), d.key, d.retired)
			}
		}
	}
	for cl := range rt.allClusters() {
		count(cl)
	}
	for _, a := range rt.asked {
		count(a.cluster)
	}
	for d, n := range want {
		if d.users != n || p.destinations[d.key] != d {
			t.Fatalf("seed %d: %v is said to have %d users, want %d", seed, d.key, d.users, n)
		}
	}
	if len(p.destinations) != len(want) {
		t.Fatalf("seed %d: %d destinations, want %d", seed, len(p.destinations), len(want))
	}
}

// A pod that comes or goes leaves the connections to its neighbours alone.
func TestConnectionsOutliveAChangeOfNeighbours(t *testing.T) {
	a, b := labWorkload(1), labWorkload(2)
	v := labService(1, mesh.ProtocolHTTP, a, b)
	l := newLab(t, mesh.Parts{Workloads: []*mesh.Workload{a}, Services: []*mesh.Service{v}})
	at := func(w *mesh.Workload) *destination {
		cl := l.p.runtime.Load().services.At(netip.AddrPortFrom(v.VIPs[0], 80)).fallback.backends[0].cluster
		i := slices.IndexFunc(cl.c.Endpoints(), func(e *upstream.Endpoint) bool { return e.Workload == w })
		return l.p.dest(cl, cl.c.Endpoints()[i])
	}
	d := at(a)
	l.parts.Workloads = []*mesh.Workload{a, b}
	l.publish()
	if at(a) != d || d.retired {
		t.Error("a pod more ended the connections to the others")
	}
	gone := at(b)
	l.parts.Workloads = []*mesh.Workload{a}
	l.publish()
	if at(a) != d || d.retired || !gone.retired {
		t.Errorf("a pod less: the one that stays is retired: %v, the one that went: %v", d.retired, gone.retired)
	}
}

// What is said of a client in metrics follows the configuration, also where
// nothing else of it has changed.
func TestSeriesFollowTheClient(t *testing.T) {
	client, w := labWorkload(1), labWorkload(2)
	v := labService(1, mesh.ProtocolHTTP, w)
	l := newLab(t, mesh.Parts{Workloads: []*mesh.Workload{client, w}, Services: []*mesh.Service{v}})
	tun := &clientTunnel{p: l.p, dst: netip.AddrPortFrom(v.VIPs[0], 80), client: netip.AddrPortFrom(client.Addresses[0], 40000)}
	tun.peer.Identity = client.Identity()
	series := func() *telemetry.HTTPSeries {
		rt, port := tun.current()
		x := &exchange{tun: tun, rt: rt, port: port, backend: port.fallback.backends[0]}
		x.dest = l.p.dest(x.backend.cluster, x.backend.cluster.c.Endpoints()[0])
		return tun.series(x, false)
	}
	first := series()
	l.parts.Services = append(l.parts.Services, labService(2, mesh.ProtocolHTTP))
	l.publish()
	if series() != first {
		t.Error("another service changed a client's series")
	}
	newer := *client
	newer.CanonicalRevision = "v2"
	l.parts.Workloads = []*mesh.Workload{&newer, w}
	l.publish()
	second := series()
	if second == first {
		t.Error("a client is still counted as it was before its labels changed")
	}
	l.parts.Workloads = []*mesh.Workload{w}
	l.publish()
	if got := series(); got == first || got == second {
		t.Error("a client that the configuration does not know any more is counted as a workload of it")
	}
}
