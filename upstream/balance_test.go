package upstream

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"github.com/google/go-cmp/cmp"
)

// counted is a cluster whose endpoints a test can make unavailable.
type counted struct {
	*Cluster
	t *testing.T
}

// newCounted builds the cluster of list under p, with a state.
func newCounted(t *testing.T, v *mesh.Service, p *mesh.BackendPolicy, source *mesh.Workload, list ...*mesh.Workload) *counted {
	t.Helper()
	return &counted{ForService(snapshot(v, list...), v, 9080, Options{Backend: p, State: &ClusterState{}, Source: source}), t}
}

// flag raises or lowers a flag of the named endpoints.
func (c *counted) flag(flag uint32, on bool, names ...string) {
	c.t.Helper()
	for _, e := range c.endpoints {
		if slices.Contains(names, e.Workload.Name) {
			c.state.mu.Lock()
			c.state.set(e.monitor, flag, on)
			c.state.mu.Unlock()
		}
	}
	c.Refresh()
}

// shares are the percentages of n picks that each endpoint gets.
func shares(c *Cluster, n int) map[string]float64 {
	out := map[string]float64{}
	for range n {
		if e := c.Pick(nil); e != nil {
			out[e.Workload.Name] += 100 / float64(n)
		}
	}
	return out
}

// wantShares compares shares by the first letter of names.
func wantShares(t *testing.T, c *Cluster, want map[string]float64) {
	t.Helper()
	got := map[string]float64{}
	for name, s := range shares(c, 20000) {
		got[name[:1]] += s
	}
	for name, w := range want {
		if math.Abs(got[name]-w) > 2 {
			t.Errorf("%s gets %.1f %%, want %.0f (all: %v)", name, got[name], w, got)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s gets %.1f %%, want nothing", name, got[name])
		}
	}
}

// near are workloads of three zones: four in a, four in b, two in c.
func near() (source *mesh.Workload, list []*mesh.Workload) {
	for i, name := range []string{"a1", "a2", "a3", "a4", "b1", "b2", "b3", "b4", "c1", "c2"} {
		list = append(list, workload(name, fmt.Sprintf("10.0.0.%d", i+1), func(w *mesh.Workload) {
			w.Region, w.Zone = "r", name[:1]
			if name[0] == 'c' {
				w.Region = "far"
			}
		}))
	}
	return workload("source", "10.0.0.99", func(w *mesh.Workload) { w.Region, w.Zone = "r", "a" }), list
}

func zonal(v *mesh.Service) {
	v.Locality, v.RoutingPreferences = mesh.LocalityFailover, []string{"REGION", "ZONE"}
}

// TestPriorities: the figures are those of Envoy's documentation of priority levels.
func TestPriorities(t *testing.T) {
	a := []string{"a1", "a2", "a3", "a4"}
	tests := []struct {
		name      string
		ill       []string
		minHealth uint32
		want      map[string]float64
	}{
		{"all_well", nil, 0, map[string]float64{"a": 100}},
		{"three_of_four", a[:1], 0, map[string]float64{"a": 100}}, // 75 × 1.4 > 100
		{"half", a[:2], 0, map[string]float64{"a": 70, "b": 30}},
		{"quarter", a[:3], 0, map[string]float64{"a": 35, "b": 65}},
		{"none_near", a, 0, map[string]float64{"b": 100}},
		{"little_anywhere", append([]string{"b1", "b2", "b3", "c1", "c2"}, a[:3]...), 0, map[string]float64{"a": 50, "b": 50}},
		{"third_level", append([]string{"b1", "b2", "b3"}, a...), 0, map[string]float64{"b": 35, "c": 65}},
		{"nothing", append([]string{"b1", "b2", "b3", "b4", "c1", "c2"}, a...), 0, map[string]float64{}},
		{"panic", append([]string{"b1", "b2", "b3", "b4", "c1", "c2"}, a...), 50, map[string]float64{"a": 40, "b": 40, "c": 20}},
		{"no_panic_while_others_bear_it", a[:3], 50, map[string]float64{"a": 35, "b": 65}},
	}
	for _, tt := range tests {
		for _, kind := range []mesh.BalancerPolicy{mesh.BalanceLeastRequest, mesh.BalanceRoundRobin, mesh.BalanceRendezvous} {
			t.Run(fmt.Sprint(tt.name, "/", BalancerName(&mesh.Balancer{Kind: kind})), func(t *testing.T) {
				source, list := near()
				p := balance(kind)
				p.Outlier = &mesh.OutlierDetection{MinHealthPercent: tt.minHealth}
				c := newCounted(t, service(zonal), p, source, list...)
				c.flag(ejected, true, tt.ill...)
				wantShares(t, c.Cluster, tt.want)
				c.flag(ejected, false, tt.ill...)
				wantShares(t, c.Cluster, map[string]float64{"a": 100})
			})
		}
	}
}

// TestPanicOfOneLevel: with one level the threshold alone counts.
func TestPanicOfOneLevel(t *testing.T) {
	_, list := near()
	p := balance(mesh.BalanceRoundRobin)
	p.Outlier = &mesh.OutlierDetection{MinHealthPercent: 75}
	c := newCounted(t, service(nil), p, nil, list...)
	c.flag(ejected, true, "a1", "a2")
	wantShares(t, c.Cluster, map[string]float64{"a": 25, "b": 50, "c": 25})
	c.flag(ejected, true, "b1")
	wantShares(t, c.Cluster, map[string]float64{"a": 40, "b": 40, "c": 20})
}

// TestBusyAreLeftAlone: who asks to be left alone is, unless all do.
func TestBusyAreLeftAlone(t *testing.T) {
	_, list := near()
	c := newCounted(t, service(nil), balance(mesh.BalanceRandom), nil, list[:4]...)
	c.flag(busy, true, "a1", "a2")
	if got := shares(c.Cluster, 1000); got["a1"]+got["a2"] != 0 || len(got) != 2 {
		t.Errorf("shares %v, want the two that are not busy", got)
	}
	c.flag(busy, true, "a3", "a4")
	c.flag(ejected, true, "a1")
	if got := shares(c.Cluster, 1000); len(got) != 3 || got["a1"] != 0 {
		t.Errorf("shares %v, want all that are healthy", got)
	}
}

func TestLocalityPolicy(t *testing.T) {
	tests := []struct {
		name   string
		policy mesh.LocalityPolicy
		ill    []string
		want   map[string]float64
	}{
		{"off", mesh.LocalityPolicy{Off: true}, nil, map[string]float64{"a": 40, "b": 40, "c": 20}},
		{"nearest", mesh.LocalityPolicy{}, nil, map[string]float64{"a": 100}},
		{"nearest_then_region", mesh.LocalityPolicy{}, []string{"a1", "a2", "a3", "a4"}, map[string]float64{"b": 100}},
		{"distribute", mesh.LocalityPolicy{Distribute: []mesh.LocalityWeights{
			{From: "far/*", To: map[string]uint32{"r/a": 100}},
			{From: "r/a/*", To: map[string]uint32{"r/a/*": 70, "r/b/*": 20, "far/*": 10}},
		}}, nil, map[string]float64{"a": 70, "b": 20, "c": 10}},
		{"distribute_rest", mesh.LocalityPolicy{Distribute: []mesh.LocalityWeights{
			{From: "*", To: map[string]uint32{"r/*": 60, "r/b": 40}},
		}}, nil, map[string]float64{"a": 60, "b": 40}},
		{"distribute_half_ill", mesh.LocalityPolicy{Distribute: []mesh.LocalityWeights{
			{From: "*", To: map[string]uint32{"r/a": 50, "r/b": 50}},
		}}, []string{"a1", "a2"}, map[string]float64{"a": 100 * 35 / 85., "b": 100 * 50 / 85.}},
		{"distribute_all_ill", mesh.LocalityPolicy{Distribute: []mesh.LocalityWeights{
			{From: "*", To: map[string]uint32{"r/a": 90, "r/b": 10}},
		}}, []string{"a1", "a2", "a3", "a4"}, map[string]float64{"b": 100}},
		{
			"failover",
			mesh.LocalityPolicy{Failover: map[string]string{"r": "far"}},
			[]string{"a1", "a2", "a3", "a4", "b1", "b2", "b3", "b4"},
			map[string]float64{"c": 100},
		},
		{"labels", mesh.LocalityPolicy{FailoverLabels: []string{"topology.kubernetes.io/region=far"}}, nil, map[string]float64{"c": 100}},
		{"labels_order", mesh.LocalityPolicy{FailoverLabels: []string{"topology.kubernetes.io/region", "topology.kubernetes.io/zone=b"}}, nil, map[string]float64{"b": 100}},
		{"labels_none", mesh.LocalityPolicy{FailoverLabels: []string{"version=v9"}}, nil, map[string]float64{"a": 40, "b": 40, "c": 20}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			source, list := near()
			p := balance(mesh.BalanceRoundRobin)
			p.Balancer.Locality = &tt.policy
			c := newCounted(t, service(zonal), p, source, list...)
			c.flag(ejected, true, tt.ill...)
			wantShares(t, c.Cluster, tt.want)
		})
	}
}

func TestMatchLocality(t *testing.T) {
	w := &mesh.Workload{Region: "us", Zone: "us-a", Subzone: "r1"}
	for pattern, want := range map[string]bool{
		"*": true, "us": true, "us/*": true, "us/us-a": true, "us/us-a/*": true, "us/us-a/r1": true, "us/us-*": true, "u*": true,
		"eu": false, "us/us-b": false, "us/us-a/r2": false, "us/us-b/*": false, "": false, "usa": false,
	} {
		if got := matchLocality(pattern, w); got != want {
			t.Errorf("%q matches: %v, want %v", pattern, got, want)
		}
	}
}

func TestSubset(t *testing.T) {
	label := func(version string) func(*mesh.Workload) {
		return func(w *mesh.Workload) { w.Labels = map[string]string{"app": "reviews", "version": version} }
	}
	list := []*mesh.Workload{workload("a", "10.0.0.1", label("v1")), workload("b", "10.0.0.2", label("v2")), workload("c", "10.0.0.3", nil)}
	v := service(nil)
	for _, tt := range []struct {
		subset map[string]string
		want   []string
	}{
		{nil, []string{"a", "b", "c"}},
		{map[string]string{"version": "v1"}, []string{"a"}},
		{map[string]string{"version": "v2", "app": "reviews"}, []string{"b"}},
		{map[string]string{"version": "v2", "app": "other"}, nil},
		{map[string]string{"version": ""}, nil},
	} {
		var got []string
		for _, e := range ForService(snapshot(v, list...), v, 9080, Options{Backend: &mesh.BackendPolicy{Subset: tt.subset}}).Endpoints() {
			got = append(got, e.Workload.Name)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("subset %v (-want +got):\n%s", tt.subset, diff)
		}
	}
}

// TestHashedSurvivesEjection: an ejection moves the ejected endpoint's keys and no others, and
// its return brings them back.
func TestHashedSurvivesEjection(t *testing.T) {
	for _, kind := range []mesh.BalancerPolicy{mesh.BalanceRingHash, mesh.BalanceMaglev, mesh.BalanceRendezvous} {
		_, list := near()
		c := newCounted(t, service(nil), balance(kind), nil, list...)
		pick := func(key uint64) string {
			var h Hint
			h.SetKey(key * 0x9e3779b97f4a7c15)
			return c.Pick(&h).Workload.Name
		}
		const keys = 5000
		before := map[uint64]string{}
		for k := range uint64(keys) {
			before[k] = pick(k)
		}
		c.flag(ejected, true, "b2")
		strays := 0
		for k, was := range before {
			switch now := pick(k); {
			case now == "b2":
				t.Fatalf("%v: a key leads to the ejected endpoint", kind)
			case was != "b2" && now != was:
				strays++
			}
		}
		if strays > keys/50 || kind != mesh.BalanceMaglev && strays > 0 {
			t.Errorf("policy %d: %d keys of other endpoints moved", kind, strays)
		}
		c.flag(ejected, false, "b2")
		for k, was := range before {
			if now := pick(k); now != was {
				t.Fatalf("policy %d: a key leads to %s, not to %s again", kind, now, was)
			}
		}
	}
}

// TestSecondChoice: another endpoint for the same key is the same one each time.
func TestSecondChoice(t *testing.T) {
	_, list := near()
	c := newCounted(t, service(nil), balance(mesh.BalanceMaglev), nil, list...)
	seen := map[string]bool{}
	for range 50 {
		var h Hint
		h.SetKey(42)
		first := c.Pick(&h)
		h.Exclude(first)
		second := c.Pick(&h)
		if second == first {
			t.Fatal("the excluded endpoint is picked")
		}
		seen[second.Workload.Name] = true
	}
	if len(seen) != 1 {
		t.Errorf("the second choice was %v, want always the same", seen)
	}
}

func TestPeakEWMACluster(t *testing.T) {
	_, list := near()
	var r Registry
	v := service(nil)
	c := ForService(snapshot(v, list[:2]...), v, 9080, Options{Registry: &r, Backend: balance(mesh.BalancePeakEWMA)})
	now := time.Unix(1_800_000_000, 0)
	c.Observe(c.Endpoints()[0], 50*time.Millisecond, now)
	c.Observe(c.Endpoints()[1], time.Millisecond, now)
	count := func(c *Cluster) (n int) {
		for range 100 {
			var h Hint
			c.Fill(&h, &mesh.Request{}, now)
			if c.Pick(&h).Workload.Name == "a2" {
				n++
			}
		}
		return n
	}
	if n := count(c); n != 100 {
		t.Errorf("the fast one of two got %d of 100", n)
	}
	// What was learned outlives the cluster.
	again := ForService(snapshot(service(nil), list[:2]...), v, 9080, Options{Registry: &r, Backend: balance(mesh.BalancePeakEWMA)})
	if n := count(again); n != 100 {
		t.Errorf("after a new configuration the fast one got %d of 100", n)
	}
	c.ObserveFailure(c.Endpoints()[1], 0, now)
	if n := count(c); n != 0 {
		t.Errorf("the one that refuses got %d of 100", n)
	}
	if plain := ForService(snapshot(v, list[:2]...), v, 9080, Options{Registry: &r}); plain.Timed() || plain.Asks() {
		t.Error("a cluster without a policy asks for the time")
	}
}

func TestPassthrough(t *testing.T) {
	_, list := near()
	v := service(nil)
	c := ForService(snapshot(v, list...), v, 9080, Options{Backend: balance(mesh.BalancePassthrough)})
	to := func(addr string) string {
		var h Hint
		c.Fill(&h, &mesh.Request{Destination: addrPort(addr)}, time.Time{})
		return c.Pick(&h).Workload.Name
	}
	for range 20 {
		if got := to("10.0.0.3:8080"); got != "a3" {
			t.Fatalf("10.0.0.3 leads to %s, want a3", got)
		}
		if got := to("10.0.0.5:9080"); got != "b1" {
			t.Fatalf("10.0.0.5 by the service's port leads to %s, want b1", got)
		}
	}
	if to("10.96.0.1:9080") == "" {
		t.Error("an address of nobody leads nowhere")
	}
}

func TestEveryKindHasAName(t *testing.T) {
	seen := map[string]bool{}
	for k := range algorithms {
		n := BalancerName(&mesh.Balancer{Kind: mesh.BalancerPolicy(k)})
		if n == "" || algorithmOf(&mesh.Balancer{Kind: mesh.BalancerPolicy(k)}).make == nil {
			t.Errorf("kind %d has no line", k)
		}
		seen[n] = true
	}
	if len(seen) != len(algorithms)-1 || BalancerName(nil) != "LeastRequest" {
		t.Errorf("names %v; the default is %s", seen, BalancerName(nil))
	}
}

func BenchmarkPickBy(b *testing.B) {
	_, list := near()
	v := service(nil)
	for k := range algorithms {
		p := balance(mesh.BalancerPolicy(k))
		p.Balancer.Hash = []mesh.HashKey{{Kind: mesh.HashHeader, Name: "x-user"}}
		c := ForService(snapshot(v, list...), v, 9080, Options{Backend: p})
		r := &mesh.Request{Fields: mesh.Fields{{Name: "accept", Value: "*/*"}, {Name: "x-user", Value: "user-1234"}}}
		b.Run(BalancerName(p.Balancer), func(b *testing.B) {
			b.ReportAllocs()
			now := time.Now()
			for b.Loop() {
				var w Wish
				h := Hint{Wish: &w}
				if c.Asks() {
					c.Fill(&h, r, now)
				}
				e := c.Pick(&h)
				e.Acquire()
				e.Release()
			}
		})
	}
}

func BenchmarkRefresh(b *testing.B) {
	var list []*mesh.Workload
	for i := range 1000 {
		list = append(list, workload(fmt.Sprint("w", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), nil))
	}
	v := service(nil)
	c := ForService(snapshot(v, list...), v, 9080, Options{State: &ClusterState{}})
	b.ReportAllocs()
	for b.Loop() {
		c.Refresh()
	}
}

// TestRefreshWhilePicking is for the race detector.
func TestRefreshWhilePicking(t *testing.T) {
	_, list := near()
	for _, kind := range everyKind() {
		c := newCounted(t, service(nil), balance(kind), nil, list...)
		done := make(chan struct{})
		for range 3 {
			go func() {
				defer func() { done <- struct{}{} }()
				for k := range uint64(500) {
					var h Hint
					h.SetKey(k << 50)
					c.Fill(&h, &mesh.Request{}, time.Now())
					e := c.Pick(&h)
					h.Exclude(e)
					c.Observe(e, time.Millisecond, time.Now())
					c.Pick(&h)
				}
			}()
		}
		for i := range 40 {
			c.flag(ejected, i%2 == 0, "a1", "c2")
		}
		for range 3 {
			<-done
		}
	}
}

// TestNoAllocationByAnyKind: whatever the algorithm, choosing allocates nothing.
func TestNoAllocationByAnyKind(t *testing.T) {
	_, list := near()
	v := service(nil)
	r := &mesh.Request{
		Fields: mesh.Fields{{Name: "cookie", Value: "a=b; id=17"}, {Name: "x-user", Value: "user-1234"}}, Query: "user=7",
		Peer: mesh.Peer{Addr: addrPort("10.0.0.9:1234")},
	}
	now := time.Now()
	for k := range algorithms {
		p := balance(mesh.BalancerPolicy(k))
		p.Balancer.Hash = []mesh.HashKey{{Kind: mesh.HashHeader, Name: "x-user"}, {Kind: mesh.HashCookie, Name: "id", TTL: time.Hour}, {Kind: mesh.HashQuery, Name: "user"}, {Kind: mesh.HashSource}}
		c := ForService(snapshot(v, list...), v, 9080, Options{Backend: p})
		var w Wish
		n := testing.AllocsPerRun(200, func() {
			w = Wish{}
			h := Hint{Wish: &w}
			if c.Asks() {
				c.Fill(&h, r, now)
			}
			e := c.Pick(&h)
			c.Observe(e, time.Millisecond, now)
			h.Exclude(e)
			c.Pick(&h)
		})
		if n != 0 {
			t.Errorf("%s: two tries allocate %v times", BalancerName(p.Balancer), n)
		}
	}
}

// TestTablesAreBuiltAside: the first request has its table made, and no later one.
func TestTablesAreBuiltAside(t *testing.T) {
	_, list := near()
	c := newCounted(t, service(nil), balance(mesh.BalanceMaglev), nil, list...)
	if c.asked() {
		t.Error("a table is there that nobody has asked for")
	}
	c.flag(ejected, true, "a1")
	if c.asked() {
		t.Error("a change makes a table that nobody has asked for")
	}
	c.Pick(nil)
	c.flag(ejected, false, "a1")
	if !c.asked() {
		t.Error("after a change the next request makes the table")
	}
	v := service(nil)
	next := ForService(snapshot(v, list[:5]...), v, 9080, Options{Backend: balance(mesh.BalanceMaglev), Previous: c.Cluster})
	if next == c.Cluster || !next.asked() {
		t.Error("after a new configuration the next request makes the table")
	}
}
