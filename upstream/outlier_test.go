package upstream

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

var epoch = time.Unix(1_800_000_000, 0)

// watchedCluster is a cluster of n endpoints with a state.
func watchedCluster(t testing.TB, n int, p mesh.BackendPolicy) *Cluster {
	t.Helper()
	var list []*mesh.Workload
	for i := range n {
		list = append(list, workload(fmt.Sprintf("w%03d", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), nil))
	}
	v := service(nil)
	return ForService(snapshot(v, list...), v, 9080, Options{Registry: &Registry{}, Backend: &p, State: &ClusterState{}})
}

// outlier is a detector with its cluster.
type outlierRig struct {
	*Outlier
	eps []*Endpoint
	now time.Time
}

func newOutlierRig(t testing.TB, n int, p mesh.OutlierDetection) *outlierRig {
	c := watchedCluster(t, n, mesh.BackendPolicy{Outlier: &p})
	return &outlierRig{NewOutlier(c, &p), c.Endpoints(), epoch}
}

func (r *outlierRig) status(e, status, times int) (changed bool) {
	for range times {
		changed = r.Report(r.now, r.eps[e], Outcome{Status: status}) || changed
	}
	return changed
}

func (r *outlierRig) pass(d time.Duration) {
	for end := r.now.Add(d); r.now.Before(end); {
		next := r.Tick(r.now)
		if !next.After(r.now) {
			panic("Tick wants to be called again at once")
		}
		if r.now = next; r.now.After(end) {
			r.now = end
		}
	}
	r.Tick(r.now)
}

func (r *outlierRig) out() (list []int) {
	for i, e := range r.eps {
		if e.Condition() == "ejected" {
			list = append(list, i)
		}
	}
	return list
}

func TestConsecutiveFailures(t *testing.T) {
	local := Outcome{}
	late := Outcome{Timeout: true}
	of := func(statuses ...int) (list []Outcome) {
		for _, s := range statuses {
			list = append(list, Outcome{Status: s})
		}
		return list
	}
	five := mesh.OutlierDetection{Consecutive5xx: 3}
	gateway := mesh.OutlierDetection{ConsecutiveGateway: 3}
	for _, tt := range []struct {
		name     string
		policy   mesh.OutlierDetection
		outcomes []Outcome
		want     bool
	}{
		{"three", five, of(500, 503, 599), true},
		{"two", five, of(500, 500), false},
		{"interrupted", five, of(500, 500, 200, 500, 500), false},
		{"four_hundreds_are_well", five, of(500, 500, 404, 500, 500), false},
		{"load_is_not_failure", five, of(429, 429, 429, 429), false},
		{"load_interrupts_nothing", five, of(500, 500, 429, 500), true},
		{"off", mesh.OutlierDetection{}, of(500, 500, 500, 500, 500), false},
		{"gateway", gateway, of(502, 503, 504), true},
		{"gateway_not_500", gateway, of(502, 503, 500, 504), false},
		{"gateway_not_505", gateway, of(505, 505, 505), false},
		{"local_is_503", five, []Outcome{local, local, local}, true},
		{"local_is_gateway", gateway, []Outcome{local, late, local}, true},
		{"local_and_5xx", five, []Outcome{local, {Status: 500}, local}, true},
		{"split", mesh.OutlierDetection{Consecutive5xx: 3, SplitLocal: true}, []Outcome{local, local, local, local}, false},
		{"split_local", mesh.OutlierDetection{ConsecutiveLocal: 3, SplitLocal: true}, []Outcome{local, late, local}, true},
		{"split_reset", mesh.OutlierDetection{ConsecutiveLocal: 3, SplitLocal: true}, []Outcome{local, local, {Status: 500}, local}, false},
		{"local_without_split", mesh.OutlierDetection{ConsecutiveLocal: 3}, []Outcome{local, local, local}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newOutlierRig(t, 3, tt.policy)
			changed := false
			for _, o := range tt.outcomes {
				changed = r.Report(r.now, r.eps[1], o) || changed
			}
			if got := len(r.out()) == 1 && r.eps[1].Condition() == "ejected"; got != tt.want || changed != tt.want {
				t.Errorf("ejected: %v, changed: %v, want %v", r.out(), changed, tt.want)
			}
		})
	}
}

// An ejection takes base × how often, up to the maximum; well behaved intervals
// take one off.
func TestEjectionTimeGrowsAndDecays(t *testing.T) {
	r := newOutlierRig(t, 2, mesh.OutlierDetection{Consecutive5xx: 1, Interval: 10 * time.Second, BaseEjection: 10 * time.Second, MaxEjection: 25 * time.Second})
	for i, want := range []int{10, 20, 25, 25} {
		r.status(0, 500, 1)
		start := r.now
		for len(r.out()) == 1 {
			r.pass(time.Second)
		}
		if d := r.now.Sub(start); d.Seconds() != float64(want) {
			t.Errorf("ejection %d took %s, want %d s", i, d, want)
		}
	}
	r.pass(35 * time.Second) // three intervals or four
	r.status(0, 500, 1)
	start := r.now
	for len(r.out()) == 1 {
		r.pass(time.Second)
	}
	if d := r.now.Sub(start); d != 10*time.Second {
		t.Errorf("after a while of peace an ejection took %s, want 10 s again", d)
	}
	if n := r.s.Outlier.Total(); n != 5 || r.s.Outlier.Consecutive5xx.Load() != 5 {
		t.Errorf("%d ejections were counted, want 5", n)
	}
	events := r.s.Events()
	if len(events) != 10 || events[0].What != "ejected" || events[0].Reason != "consecutive_5xx" || events[9].What != "returned" {
		t.Errorf("events: %+v", events)
	}
}

func TestSuccessRate(t *testing.T) {
	p := mesh.OutlierDetection{SuccessRateStdev: 1900, SuccessRateHosts: 5, RequestVolume: 100, MaxEjectionPercent: 50, Interval: 10 * time.Second}
	fill := func(r *outlierRig, rates []int, volume int) {
		for i, good := range rates {
			r.status(i, 200, volume*good/100)
			r.status(i, 500, volume-volume*good/100)
		}
	}
	for _, tt := range []struct {
		name   string
		rates  []int
		volume int
		want   string
	}{
		{"one_stands_out", []int{100, 100, 100, 99, 98, 50}, 100, "[5]"},
		{"all_alike", []int{50, 50, 50, 50, 50, 50}, 100, "[]"},
		{"too_few_requests", []int{100, 100, 100, 100, 100, 0}, 50, "[]"},
		{"too_few_hosts", []int{100, 100, 100, 0}, 100, "[]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newOutlierRig(t, len(tt.rates), p)
			r.pass(time.Second)
			fill(r, tt.rates, tt.volume)
			if len(r.out()) > 0 {
				t.Fatal("something was ejected before the interval was over")
			}
			r.pass(10 * time.Second)
			if got := fmt.Sprint(r.out()); got != tt.want {
				t.Errorf("ejected %s, want %s", got, tt.want)
			}
			// The next interval begins at nothing.
			for i := range tt.rates {
				r.status(i, 200, 100)
			}
			before := fmt.Sprint(r.out())
			r.pass(10 * time.Second)
			if got := fmt.Sprint(r.out()); got != before {
				t.Errorf("ejected %s of an interval in which all was well, before it were %s", got, before)
			}
		})
	}
}

func TestFailurePercentage(t *testing.T) {
	p := mesh.OutlierDetection{FailurePercent: 50, FailureHosts: 3, FailureVolume: 10, MaxEjectionPercent: 100, Interval: time.Second}
	r := newOutlierRig(t, 4, p)
	r.Tick(r.now)
	for i := range 4 {
		r.status(i, 200, 10-3*i)
		r.status(i, 503, 3*i)
	}
	r.pass(time.Second)
	if got := fmt.Sprint(r.out()); got != "[2 3]" {
		t.Errorf("ejected %s, want those with 60%% and 90%% failures", got)
	}
	// Connections that fail are a rate of their own where they are told apart.
	p.SplitLocal = true
	r = newOutlierRig(t, 4, p)
	r.Tick(r.now)
	for i := range 4 {
		r.status(i, 200, 10)
		for range i * 5 {
			r.Report(r.now, r.eps[i], Outcome{})
		}
	}
	r.pass(time.Second)
	if got := fmt.Sprint(r.out()); got != "[2 3]" {
		t.Errorf("split: ejected %s, want those with 10 and 15 failures to 10 successes", got)
	}
}

// In any history no more are ejected than the policy allows, one always may be, none
// stays for longer than the maximum, and picking obeys.
func TestOutlierBounds(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		n := 1 + rnd.IntN(20)
		p := mesh.OutlierDetection{
			Consecutive5xx: uint32(rnd.IntN(4)), ConsecutiveGateway: uint32(rnd.IntN(4)), ConsecutiveLocal: uint32(rnd.IntN(4)), SplitLocal: rnd.IntN(2) == 0,
			Interval: time.Second, BaseEjection: time.Duration(1+rnd.IntN(5)) * time.Second, MaxEjection: time.Duration(1+rnd.IntN(10)) * time.Second,
			MaxEjectionPercent: uint32(rnd.IntN(101)), MinHealthPercent: uint32(rnd.IntN(101)),
			SuccessRateStdev: uint32(rnd.IntN(2000)), SuccessRateHosts: 2, RequestVolume: 2, FailurePercent: uint32(rnd.IntN(101)), FailureHosts: 1, FailureVolume: 2,
		}
		r := newOutlierRig(t, n, p)
		most := max(1, n*int(r.cfg.MaxEjectionPercent)/100)
		since := map[int]time.Time{}
		statuses := []int{0, 200, 200, 404, 429, 500, 502, 503, 504}
		for range 500 {
			switch rnd.IntN(10) {
			case 0:
				r.now = r.now.Add(time.Duration(rnd.IntN(3000)) * time.Millisecond)
				r.Tick(r.now)
			default:
				r.Report(r.now, r.eps[rnd.IntN(n)], Outcome{Status: statuses[rnd.IntN(len(statuses))], Timeout: rnd.IntN(2) == 0, RetryAfter: time.Duration(rnd.IntN(3)) * time.Second})
			}
			out := r.out()
			if len(out) > most {
				t.Fatalf("seed %d: %d of %d are ejected, at most %d%% may be", seed, len(out), n, r.cfg.MaxEjectionPercent)
			}
			is := map[int]bool{}
			for _, i := range out {
				if is[i] = true; since[i].IsZero() {
					since[i] = r.now
				}
			}
			for i, at := range since {
				if !is[i] {
					delete(since, i)
				} else if d := r.now.Sub(at); d > r.cfg.MaxEjection+3*time.Second { // and one step of the clock
					t.Fatalf("seed %d: endpoint %d has been ejected for %s", seed, i, d)
				}
			}
		}
		r.c.Refresh()
		healthy := n - len(r.out())
		inPanic := healthy*100 < n*int(p.MinHealthPercent)
		for range 50 {
			e := r.c.Pick(nil)
			switch {
			case e == nil && (healthy > 0 || inPanic):
				t.Fatalf("seed %d: nothing is picked of %d healthy ones, panic: %v", seed, healthy, inPanic)
			case e != nil && !inPanic && e.Condition() == "ejected":
				t.Fatalf("seed %d: an ejected endpoint is picked", seed)
			}
		}
		// In the end all come back.
		r.pass(5 * time.Minute)
		if len(r.out()) > 0 || r.c.Ejections() != 0 {
			t.Fatalf("seed %d: %v are still ejected", seed, r.out())
		}
	}
}

// Below the share of healthy ones, nothing more is ejected, and all are picked.
func TestPanic(t *testing.T) {
	r := newOutlierRig(t, 4, mesh.OutlierDetection{Consecutive5xx: 1, MaxEjectionPercent: 100, MinHealthPercent: 60})
	for i := range 4 {
		r.status(i, 500, 1)
	}
	if got := fmt.Sprint(r.out()); got != "[0 1]" {
		t.Fatalf("ejected %s, want two, with which less than 60%% are healthy", got)
	}
	if r.s.Outlier.Overflow.Load() != 2 {
		t.Errorf("%d ejections were forbidden, want 2", r.s.Outlier.Overflow.Load())
	}
	r.c.Refresh()
	seen := map[*Endpoint]bool{}
	for range 200 {
		seen[r.c.Pick(nil)] = true
	}
	if len(seen) != 4 {
		t.Errorf("%d endpoints are picked in panic, want all 4", len(seen))
	}
	// Without it, nothing is left when all are ejected, as in Envoy.
	r = newOutlierRig(t, 2, mesh.OutlierDetection{Consecutive5xx: 1, MaxEjectionPercent: 100})
	r.status(0, 500, 1)
	r.status(1, 500, 1)
	if r.c.Refresh(); r.c.Pick(nil) != nil {
		t.Error("an ejected endpoint is picked though there is no panic")
	}
}

func TestBusy(t *testing.T) {
	r := newOutlierRig(t, 2, mesh.OutlierDetection{Consecutive5xx: 1, BaseEjection: 10 * time.Second})
	busyFor := func(e int, status int, d time.Duration) bool {
		return r.Report(r.now, r.eps[e], Outcome{Status: status, RetryAfter: d})
	}
	if busyFor(0, 429, 0) || r.eps[0].Condition() != "" {
		t.Error("a 429 that asks for nothing made an endpoint busy")
	}
	if !busyFor(0, 429, 3*time.Second) || r.eps[0].Condition() != "busy" || r.eps[0].Available() || !r.eps[0].Healthy() {
		t.Errorf("a 429 with Retry-After: %q", r.eps[0].Condition())
	}
	if got := r.eps[0].BusyUntil(); !got.Equal(r.now.Add(3 * time.Second)) {
		t.Errorf("busy until %s", got)
	}
	r.c.Refresh()
	for range 20 {
		if r.c.Pick(nil) != r.eps[1] {
			t.Fatal("a busy endpoint is picked while another is not")
		}
	}
	busyFor(1, 503, time.Hour) // bounded by the length of an ejection
	r.c.Refresh()
	if r.c.Pick(nil) == nil {
		t.Error("nothing is picked when all are busy")
	}
	r.pass(3 * time.Second)
	if r.eps[0].Condition() != "" || r.eps[1].Condition() != "busy" {
		t.Errorf("after 3 s: %q, %q", r.eps[0].Condition(), r.eps[1].Condition())
	}
	r.pass(7 * time.Second)
	if r.eps[1].Condition() != "" {
		t.Error("an endpoint decides for how long it is left alone")
	}
	if len(r.out()) > 0 || r.s.Outlier.Total() > 0 {
		t.Error("a busy endpoint was ejected")
	}
}

// Ejections belong to the state: another cluster with another policy and other endpoints
// finds them, and one without the policy forgives them.
func TestEjectionsSurvive(t *testing.T) {
	var reg Registry
	state := reg.State(StateKey{Service: reviews, Port: 9080})
	v := service(nil)
	a, b := workload("a", "10.0.0.1", nil), workload("b", "10.0.0.2", nil)
	build := func(p *mesh.OutlierDetection, list ...*mesh.Workload) (*Cluster, *Outlier) {
		c := ForService(snapshot(v, list...), v, 9080, Options{Registry: &reg, Backend: &mesh.BackendPolicy{Outlier: p}, State: state})
		return c, NewOutlier(c, p)
	}
	c1, o1 := build(&mesh.OutlierDetection{Consecutive5xx: 1}, a, b)
	o1.Report(epoch, c1.Endpoints()[0], Outcome{Status: 500})
	c2, o2 := build(&mesh.OutlierDetection{Consecutive5xx: 5, Interval: time.Minute}, a, b, workload("c", "10.0.0.3", nil))
	if c2.Ejections() != 1 || c2.Endpoints()[0].Condition() != "ejected" {
		t.Fatal("the ejection did not survive")
	}
	for range 50 {
		if c2.Pick(nil).Workload == a {
			t.Fatal("a new cluster picks an ejected endpoint")
		}
	}
	o2.Tick(epoch.Add(31 * time.Second))
	if c2.Ejections() != 0 {
		t.Error("under another policy the ejection does not end")
	}
	o2.Report(epoch, c2.Endpoints()[0], Outcome{Status: 500})
	o1.Report(epoch, c1.Endpoints()[0], Outcome{Status: 500})
	c2.Forgive()
	if c1.Ejections() != 0 {
		t.Error("an ejection is left that nothing would end")
	}
}

// Reports, ticks and picks come from all sides at once.
func TestOutlierRaces(t *testing.T) {
	r := newOutlierRig(t, 10, mesh.OutlierDetection{Consecutive5xx: 2, FailurePercent: 50, FailureVolume: 1, FailureHosts: 1, Interval: time.Millisecond, BaseEjection: time.Millisecond, MaxEjectionPercent: 50})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 7))
			for range 3000 {
				if e := r.c.Pick(nil); e != nil && r.Report(epoch.Add(time.Duration(rnd.IntN(1000))*time.Millisecond), e, Outcome{Status: []int{200, 500, 0}[rnd.IntN(3)]}) {
					r.c.Refresh()
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 1000 {
			r.Tick(epoch.Add(time.Duration(i) * time.Millisecond))
			r.s.Events()
		}
	})
	wg.Wait()
	if n := r.c.Ejections(); n > 5 {
		t.Errorf("%d of 10 are ejected", n)
	}
}

func BenchmarkReport(b *testing.B) {
	for _, tc := range []struct {
		name string
		p    mesh.OutlierDetection
	}{
		{"consecutive", mesh.OutlierDetection{Consecutive5xx: 5}},
		{"rates", mesh.OutlierDetection{Consecutive5xx: 5, SuccessRateStdev: 1900, FailurePercent: 85}},
	} {
		b.Run(tc.name, func(b *testing.B) {
			r := newOutlierRig(b, 10, tc.p)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r.Report(r.now, r.eps[i%10], Outcome{Status: 200})
			}
		})
	}
}

func BenchmarkTick(b *testing.B) {
	r := newOutlierRig(b, 1000, mesh.OutlierDetection{Consecutive5xx: 5, SuccessRateStdev: 1900, FailurePercent: 85, Interval: time.Second})
	b.ReportAllocs()
	for b.Loop() {
		r.now = r.now.Add(time.Second)
		r.Tick(r.now)
	}
}

// Policies may say anything.
func TestOddPolicies(t *testing.T) {
	const huge = time.Duration(1<<63 - 1)
	for _, d := range []time.Duration{-huge, -1, 0, 1, huge / 2, huge} {
		p := mesh.OutlierDetection{Consecutive5xx: 1, Interval: d, BaseEjection: d, MaxEjection: huge, MaxEjectionPercent: 1 << 31, MinHealthPercent: 100}
		r := newOutlierRig(t, 2, p)
		for range 5 {
			r.status(0, 500, 1)
			if next := r.Tick(r.now); !next.After(r.now) {
				t.Fatalf("%d: next at %s", d, next)
			}
			if m := r.eps[0].monitor; len(r.out()) > 0 && !m.until.After(r.now) {
				t.Fatalf("%d: ejected until %s", d, m.until)
			}
			r.now = r.now.Add(time.Hour)
		}
		l := newLimitRig(mesh.AdaptiveConcurrency{SampleWindow: d, MinRTTInterval: d, Min: 10, Max: 1, Percentile: float64(d), BufferPercent: float64(d)})
		l.serve(50, func(int64) time.Duration { return time.Millisecond })
		if next := l.Tick(l.s, l.now); !next.After(l.now) || l.Limit() != 10 {
			t.Fatalf("%d: limit %d, next at %s", d, l.Limit(), next)
		}
		c := watchedCluster(t, 1, mesh.BackendPolicy{Health: &mesh.HealthCheck{}})
		c.DueChecks(epoch, d, 1)
		c.Checked(c.endpoints[0], &mesh.HealthCheck{}, "")
		if due, next := c.DueChecks(epoch, d, 1); len(due) > 0 || !next.After(epoch) {
			t.Fatalf("%d: a check is due again at once, or at %s", d, next)
		}
	}
}
