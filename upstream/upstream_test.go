package upstream

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"github.com/google/go-cmp/cmp"
)

var reviews = mesh.ServiceKey{Namespace: "bookinfo", Hostname: "reviews.bookinfo.svc.cluster.local"}

func service(change func(*mesh.Service)) *mesh.Service {
	v := &mesh.Service{Key: reviews, Name: "reviews", Ports: []mesh.ServicePort{{Port: 9080, TargetPort: 8080}, {Port: 9090}}}
	if change != nil {
		change(v)
	}
	return v
}

func workload(name, addr string, change func(*mesh.Workload)) *mesh.Workload {
	w := &mesh.Workload{
		UID: "Kubernetes//Pod/bookinfo/" + name, Name: name, Namespace: "bookinfo", ServiceAccount: "reviews", TrustDomain: "cluster.local",
		Protocol: mesh.TunnelHBONE, Ready: true, Capacity: 1,
		Services: map[mesh.ServiceKey]map[uint16]uint16{reviews: {}},
	}
	if addr != "" {
		w.Addresses = []netip.Addr{netip.MustParseAddr(addr)}
	}
	if change != nil {
		change(w)
	}
	return w
}

func snapshot(v *mesh.Service, list ...*mesh.Workload) *mesh.Snapshot {
	return mesh.NewSnapshot(1, mesh.Parts{Services: []*mesh.Service{v}, Workloads: slices.Clone(list)})
}

// balance is the policy of a kind of balancer.
func balance(k mesh.BalancerPolicy) *mesh.BackendPolicy {
	return &mesh.BackendPolicy{Balancer: &mesh.Balancer{Kind: k}}
}

// everyKind is all kinds of balancers, and one that is not known.
func everyKind() []mesh.BalancerPolicy {
	out := []mesh.BalancerPolicy{99}
	for k := range algorithms {
		out = append(out, mesh.BalancerPolicy(k))
	}
	return out
}

func names(c *Cluster) []string {
	var out []string
	for _, e := range c.Endpoints() {
		out = append(out, e.Workload.Name+" "+e.Authority())
	}
	return out
}

func TestForService(t *testing.T) {
	port := func(p uint16) func(*mesh.Workload) {
		return func(w *mesh.Workload) { w.Services[reviews] = map[uint16]uint16{9080: p, 9090: 7070} }
	}
	list := []*mesh.Workload{
		workload("b", "10.0.0.2", port(8081)),
		workload("a", "10.0.0.1", nil),
		workload("down", "10.0.0.3", func(w *mesh.Workload) { w.Ready = false }),
		workload("nowhere", "", nil),
		workload("elsewhere", "10.0.0.4", func(w *mesh.Workload) { w.Services = nil }),
		workload("external", "", func(w *mesh.Workload) { w.Hostname = "db.example.com" }),
		workload("six", "fd00::1", nil),
	}
	v := service(nil)
	s := snapshot(v, list...)
	tests := []struct {
		port uint16
		want []string
	}{
		{9080, []string{"a 10.0.0.1:8080", "b 10.0.0.2:8081", "external db.example.com:8080", "six [fd00::1]:8080"}},
		{9090, []string{"b 10.0.0.2:7070"}}, // a target port by name, that only b has
		{80, nil},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, names(ForService(s, v, tt.port, Options{}))); diff != "" {
			t.Errorf("port %d (-want +got):\n%s", tt.port, diff)
		}
	}
	if e := ForService(s, v, 80, Options{}).Pick(nil); e != nil {
		t.Errorf("Pick from an empty cluster = %v, want nil", e)
	}
	for _, w := range list[:2] {
		got, ok := TargetPort(v, w, 9080)
		if want := map[string]uint16{"a": 8080, "b": 8081}[w.Name]; !ok || got != want {
			t.Errorf("TargetPort of %s = %d, %v, want %d", w.Name, got, ok, want)
		}
	}
	for _, bad := range []struct {
		w    *mesh.Workload
		port uint16
	}{{list[1], 9090}, {list[1], 80}, {list[4], 9080}} {
		if got, ok := TargetPort(v, bad.w, bad.port); ok {
			t.Errorf("TargetPort of %s for %d = %d, want none", bad.w.Name, bad.port, got)
		}
	}
}

func TestEndpoint(t *testing.T) {
	w := workload("a", "10.0.0.1", func(w *mesh.Workload) {
		w.Addresses = append(w.Addresses, netip.MustParseAddr("fd00::1"), netip.MustParseAddr("10.0.0.9"))
		w.TrustDomain = ""
	})
	own := "spiffe://cluster.local/ns/bookinfo/sa/reviews"
	v := service(func(v *mesh.Service) { v.SubjectAltNames = []string{"spiffe://other/ns/a/sa/b", own} })
	e := ForService(snapshot(v, w), v, 9080, Options{}).Pick(nil)
	if diff := cmp.Diff([]string{own, "spiffe://other/ns/a/sa/b"}, e.Expect); diff != "" {
		t.Errorf("Expect (-want +got):\n%s", diff)
	}
	if e.Identity.String() != own || !e.Tunnelled() || e.Authority() != "10.0.0.1:8080" {
		t.Errorf("identity %s, tunnelled %v, authority %s", e.Identity, e.Tunnelled(), e.Authority())
	}
	tests := []struct{ target, want string }{
		{"", "10.0.0.1"},
		{"10.96.0.1", "10.0.0.1"},
		{"10.0.0.9", "10.0.0.9"},
		{"::ffff:10.0.0.9", "10.0.0.9"},
		{"fd00:96::1", "fd00::1"},
	}
	for _, tt := range tests {
		var target netip.Addr
		if tt.target != "" {
			target = netip.MustParseAddr(tt.target)
		}
		want := netip.MustParseAddr(tt.want)
		a := e.At(target)
		if a.Addr != netip.AddrPortFrom(want, 8080) || a.Tunnel != netip.AddrPortFrom(want, 15008) || a.Authority != a.Addr.String() {
			t.Errorf("At(%q) = %+v, want %s", tt.target, a, tt.want)
		}
		if got, ok := AddrFor(w, target); !ok || got != want {
			t.Errorf("AddrFor(%q) = %s, %v, want %s", tt.target, got, ok, tt.want)
		}
	}
	if a, ok := AddrFor(&mesh.Workload{}, netip.Addr{}); ok {
		t.Errorf("AddrFor of a workload without addresses = %s", a)
	}
	four := workload("b", "10.0.0.1", nil)
	if got, ok := AddrFor(four, netip.MustParseAddr("fd00::5")); !ok || got != four.Addresses[0] {
		t.Errorf("AddrFor the other family = %s, %v, want the address that there is", got, ok)
	}
	host := workload("h", "", func(w *mesh.Workload) { w.Hostname = "db" })
	h := ForWorkload(snapshot(v), host, 5432, Options{}).Pick(nil)
	if a := h.At(netip.MustParseAddr("10.0.0.1")); a.Addr.IsValid() || a.Authority != "db:5432" || h.Hostname != "db" {
		t.Errorf("endpoint by name: %+v, host %q", a, h.Hostname)
	}
}

func TestForWorkload(t *testing.T) {
	w := workload("a", "10.0.0.1", func(w *mesh.Workload) { w.Capacity = 0 })
	s := snapshot(service(nil), w)
	c := ForWorkload(s, w, 5000, Options{})
	if e := c.Pick(nil); e == nil || e.Authority() != "10.0.0.1:5000" || e.Expect[0] != w.Identity().String() {
		t.Errorf("Pick = %+v", e)
	}
	if e := ForWorkload(s, workload("b", "", nil), 5000, Options{}).Pick(nil); e != nil {
		t.Errorf("Pick of a workload without address = %+v, want nil", e)
	}
	if again := ForWorkload(s, w, 5000, Options{Previous: c}); again != c {
		t.Error("an unchanged workload's cluster was built again")
	}
	if other := ForWorkload(s, w, 5001, Options{Previous: c}); other == c {
		t.Error("another port has the same cluster")
	}
}

func TestCapacity(t *testing.T) {
	capacity := func(n uint32) func(*mesh.Workload) { return func(w *mesh.Workload) { w.Capacity = n } }
	a, b := workload("a", "10.0.0.1", capacity(0)), workload("b", "10.0.0.2", capacity(3))
	v := service(nil)
	for _, p := range everyKind() {
		c := ForService(snapshot(v, a, b), v, 9080, Options{Backend: balance(p)})
		var hint Hint
		hint.Exclude(c.Endpoints()[1])
		for range 50 {
			for _, h := range []*Hint{nil, &hint} { // even excluded, b is the only one that may be picked
				if e := c.Pick(h); e == nil || e.Workload != b {
					t.Fatalf("policy %d: Pick = %+v, want b", p, e)
				}
			}
		}
		if e := ForService(snapshot(v, a), v, 9080, Options{Backend: balance(p)}).Pick(nil); e != nil {
			t.Errorf("policy %d: Pick = %+v, want nil where all capacities are 0", p, e)
		}
	}
}

func TestLocality(t *testing.T) {
	place := func(name, network, region, zone, node string) *mesh.Workload {
		return workload(name, "10.0.0.1", func(w *mesh.Workload) {
			w.Network, w.Region, w.Zone, w.Node, w.ClusterID = network, region, zone, node, "c"
		})
	}
	source := place("source", "n1", "r1", "z1", "node1")
	all := []*mesh.Workload{
		place("1-same-node", "n1", "r1", "z1", "node1"),
		place("2-same-zone", "n1", "r1", "z1", "node2"),
		place("3-same-region", "n1", "r1", "z2", "node3"),
		place("4-far", "n1", "r2", "z1", "node1"),
		place("5-other-net", "n2", "r1", "z1", "node1"),
	}
	near := []string{"REGION", "ZONE", "NODE"}
	net := []string{"NETWORK", "REGION", "ZONE"}
	tests := []struct {
		name  string
		mode  mesh.LocalityMode
		prefs []string
		list  []*mesh.Workload
		want  []string
	}{
		{"none", mesh.LocalityNone, near, all, []string{"1", "2", "3", "4", "5"}},
		{"failover", mesh.LocalityFailover, near, all, []string{"1", "5"}},
		{"failover_zone", mesh.LocalityFailover, near, all[1:4], []string{"2"}},
		{"failover_region", mesh.LocalityFailover, near, all[2:4], []string{"3"}},
		{"failover_rest", mesh.LocalityFailover, near, all[3:4], []string{"4"}},
		{"failover_no_preferences", mesh.LocalityFailover, nil, all, []string{"1", "2", "3", "4", "5"}},
		{"network_first", mesh.LocalityFailover, net, all, []string{"1", "2"}},
		{"network_beats_zone", mesh.LocalityFailover, net, all[3:], []string{"4"}},
		{"network_gone", mesh.LocalityFailover, net, all[4:], []string{"5"}},
		{"strict", mesh.LocalityStrict, near, all, []string{"1", "5"}},
		{"strict_network", mesh.LocalityStrict, net, all, []string{"1", "2"}},
		{"strict_network_only", mesh.LocalityStrict, []string{"NETWORK"}, all, []string{"1", "2", "3", "4"}},
		{"strict_none", mesh.LocalityStrict, near, all[1:4], nil},
		{"strict_cluster", mesh.LocalityStrict, []string{"CLUSTER", "SUBZONE"}, all[3:4], []string{"4"}},
		{"unknown_preference", mesh.LocalityStrict, []string{"PLANET"}, all, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := service(func(v *mesh.Service) { v.Locality, v.RoutingPreferences = tt.mode, tt.prefs })
			var got []string
			c := ForService(snapshot(v, tt.list...), v, 9080, Options{Source: source})
			for range 200 {
				if e := c.Pick(nil); e != nil && !slices.Contains(got, e.Workload.Name[:1]) {
					got = append(got, e.Workload.Name[:1])
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("endpoints (-want +got):\n%s", diff)
			}
			if n := len(ForService(snapshot(v, tt.list...), v, 9080, Options{}).Endpoints()); n != len(tt.list) {
				t.Errorf("without a source there are %d endpoints, want all %d", n, len(tt.list))
			}
		})
	}
	v := service(func(v *mesh.Service) { v.Locality = mesh.LocalityPassthrough })
	if !ForService(snapshot(v), v, 9080, Options{}).Passthrough {
		t.Error("Passthrough is not set")
	}
}

// TestSurvive: counters and clusters outlive snapshots where nothing changed.
func TestSurvive(t *testing.T) {
	var r Registry
	v, a, b := service(nil), workload("a", "10.0.0.1", nil), workload("b", "10.0.0.2", nil)
	o := Options{Registry: &r}
	c1 := ForService(snapshot(v, a, b), v, 9080, o)
	o.Previous = c1
	if ForService(snapshot(v, b, a), v, 9080, o) != c1 {
		t.Error("an unchanged cluster was built again")
	}
	c1.Endpoints()[1].Acquire()
	moved := workload("b", "10.0.0.7", nil) // the same UID
	c2 := ForService(snapshot(v, a, moved), v, 9080, o)
	if c2 == c1 {
		t.Fatal("a changed cluster was not built again")
	}
	if e := c2.Endpoints()[1]; e.Active() != 1 || e.Authority() != "10.0.0.7:8080" || !e.Same(c1.Endpoints()[1]) || e.Same(c2.Endpoints()[0]) {
		t.Errorf("endpoint after the change: active %d, authority %s", e.Active(), e.Authority())
	}
	c1.Endpoints()[1].Release() // a request that began before the change
	if n := c2.Endpoints()[1].Active(); n != 0 {
		t.Errorf("active = %d after release, want 0", n)
	}
	for name, other := range map[string]*Cluster{
		"service": ForService(snapshot(service(nil), a, b), service(nil), 9080, o),
		"port":    ForService(snapshot(v, a, b), v, 9090, o),
		"policy":  ForService(snapshot(v, a, b), v, 9080, Options{Registry: &r, Backend: balance(mesh.BalanceRoundRobin), Previous: c1}),
		"fewer":   ForService(snapshot(v, a), v, 9080, o),
	} {
		if other == c1 {
			t.Errorf("with another %s the previous cluster was returned", name)
		}
	}
	if n := r.Len(); n != 2 {
		t.Errorf("the registry has %d endpoints, want 2", n)
	}
	runtime.KeepAlive(c1)
	runtime.KeepAlive(c2)
}

func TestRegistryForgets(t *testing.T) {
	var r Registry
	v := service(nil)
	c := ForService(snapshot(v, workload("a", "10.0.0.1", nil), workload("b", "10.0.0.2", nil)), v, 9080, Options{Registry: &r})
	kept := c.Endpoints()[0]
	kept.Acquire()
	c = nil
	deadline := time.Now().Add(10 * time.Second)
	for r.Len() != 1 && time.Now().Before(deadline) {
		runtime.GC() // cleanups run in a goroutine of the runtime some time after
	}
	if n := r.Len(); n != 1 {
		t.Fatalf("the registry has %d endpoints, want only the one that a request holds", n)
	}
	again := ForService(snapshot(v, workload("a", "10.0.0.1", nil)), v, 9080, Options{Registry: &r}).Pick(nil)
	if !again.Same(kept) || again.Active() != 1 {
		t.Error("the kept endpoint lost its counters")
	}
}

func TestHint(t *testing.T) {
	v := service(nil)
	var list []*mesh.Workload
	for i := range 6 {
		list = append(list, workload(fmt.Sprint("w", i), fmt.Sprintf("10.0.0.%d", i+1), nil))
	}
	for _, p := range everyKind() {
		var r Registry
		c := ForService(snapshot(v, list...), v, 9080, Options{Registry: &r, Backend: balance(p)})
		var hint Hint
		var tried []*Endpoint
		for i := range 5 {
			e := c.Pick(&hint)
			if slices.Contains(tried, e) {
				t.Fatalf("policy %d: try %d picks an endpoint again", p, i)
			}
			tried = append(tried, e)
			hint.Exclude(e)
		}
		// The hint is about workloads, not about one snapshot's endpoints.
		c2 := ForService(snapshot(service(nil), list...), service(nil), 9080, Options{Registry: &r, Backend: balance(p)})
		for range 50 {
			if e := c2.Pick(&hint); slices.ContainsFunc(tried[1:], e.Same) {
				t.Fatalf("policy %d: an excluded endpoint is picked after a new snapshot", p)
			}
		}
		alone := ForService(snapshot(v, list[0]), v, 9080, Options{Registry: &r, Backend: balance(p)})
		hint.Exclude(alone.Endpoints()[0])
		if alone.Pick(&hint) == nil {
			t.Errorf("policy %d: nothing is picked when all are excluded, want the excluded one", p)
		}
	}
}

func TestSplit(t *testing.T) {
	for _, weights := range [][]uint32{nil, {0}, {0, 0}} {
		if got := NewSplit(weights).Pick(); got != -1 {
			t.Errorf("Pick of %v = %d, want -1", weights, got)
		}
	}
	s := NewSplit([]uint32{0, 90, 10})
	var counts [3]int
	for range 10000 {
		counts[s.Pick()]++
	}
	if counts[0] != 0 || counts[2] < 880 || counts[2] > 1120 {
		t.Errorf("counts of weights 0, 90, 10 = %v", counts)
	}
}

// TestConcurrentUse picks while clusters are rebuilt; run it with -race.
func TestConcurrentUse(t *testing.T) {
	var r Registry
	v := service(nil)
	a, b := workload("a", "10.0.0.1", nil), workload("b", "10.0.0.2", nil)
	first := ForService(snapshot(v, a, b), v, 9080, Options{Registry: &r})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2000 {
				e := first.Pick(nil)
				e.Acquire()
				e.Release()
			}
		})
	}
	wg.Go(func() {
		for i := range 200 {
			ForService(snapshot(v, a, b), v, 9080, Options{Registry: &r, Backend: balance(everyKind()[i%9])})
		}
	})
	wg.Wait()
	for _, e := range first.Endpoints() {
		if e.Active() != 0 {
			t.Errorf("%s has %d requests in flight, want 0", e.Workload.Name, e.Active())
		}
	}
}

func TestNoAllocation(t *testing.T) {
	v := service(nil)
	c := ForService(snapshot(v, workload("a", "10.0.0.1", nil), workload("b", "10.0.0.2", nil)), v, 9080, Options{})
	vip := netip.MustParseAddr("10.96.0.1")
	n := testing.AllocsPerRun(100, func() {
		var h Hint
		e := c.Pick(&h)
		e.Acquire()
		_ = e.At(vip).Authority
		h.Exclude(e)
		e.Release()
		c.Pick(&h)
	})
	if n != 0 {
		t.Errorf("two tries allocate %v times, want 0", n)
	}
}

func BenchmarkPick(b *testing.B) {
	v := service(nil)
	for _, n := range []int{1, 10, 1000} {
		var list []*mesh.Workload
		for i := range n {
			list = append(list, workload(fmt.Sprint("w", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), nil))
		}
		c := ForService(snapshot(v, list...), v, 9080, Options{})
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e := c.Pick(nil)
				e.Acquire()
				e.Release()
			}
		})
	}
}

func BenchmarkSplit(b *testing.B) {
	s := NewSplit([]uint32{90, 10})
	b.ReportAllocs()
	for b.Loop() {
		s.Pick()
	}
}

func BenchmarkForService(b *testing.B) {
	v := service(nil)
	var list []*mesh.Workload
	for i := range 1000 {
		list = append(list, workload(fmt.Sprint("w", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), nil))
	}
	s := snapshot(v, list...)
	var r Registry
	first := ForService(s, v, 9080, Options{Registry: &r})
	b.Run("new", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			ForService(s, v, 9080, Options{Registry: &r})
		}
	})
	b.Run("unchanged", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			ForService(s, v, 9080, Options{Registry: &r, Previous: first})
		}
	})
}
