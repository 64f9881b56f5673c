package upstream

import (
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

func TestSlowStart(t *testing.T) {
	for _, tt := range []struct {
		name   string
		policy mesh.SlowStart
		want   map[int]float64 // the weight after so many seconds
	}{
		{"straight", mesh.SlowStart{Window: 100 * time.Second}, map[int]float64{0: 0.1, 5: 0.1, 20: 0.2, 50: 0.5, 99: 0.99, 100: 1, 200: 1}},
		{"least", mesh.SlowStart{Window: 100 * time.Second, MinPercent: 40}, map[int]float64{0: 0.4, 30: 0.4, 60: 0.6}},
		{"aggressive", mesh.SlowStart{Window: 100 * time.Second, Aggression: 2}, map[int]float64{0: 0.1, 4: 0.2, 25: 0.5, 81: 0.9}},
		{"gentle", mesh.SlowStart{Window: 100 * time.Second, Aggression: 0.5}, map[int]float64{50: 0.25, 90: 0.81}},
	} {
		for _, kind := range []mesh.BalancerPolicy{mesh.BalanceRoundRobin, mesh.BalanceLeastRequest, mesh.BalanceRandom} {
			t.Run(tt.name+"/"+BalancerName(&mesh.Balancer{Kind: kind}), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					_, list := near()
					v := service(nil)
					p := balance(kind)
					p.Balancer.SlowStart = &tt.policy
					first := ForService(snapshot(v, list[:4]...), v, 9080, Options{Backend: p, Now: time.Now()})
					if first.Warming() {
						t.Error("the first endpoints are new")
					}
					v2 := service(nil)
					c := ForService(snapshot(v2, list[:5]...), v2, 9080, Options{Backend: p, Previous: first, Now: time.Now()})
					if !c.Warming() {
						t.Fatal("nothing is new")
					}
					start := time.Now()
					var at []int
					for d := range tt.want {
						at = append(at, d)
					}
					slices.Sort(at)
					for _, d := range at {
						time.Sleep(time.Until(start.Add(time.Duration(d) * time.Second)))
						c.Refresh()
						w := tt.want[d]
						// Of two by weight the idle ones' first draw decides.
						got, want := shares(c, 20000)["b1"]/100, w/(4+w)
						if math.Abs(got-want) > 0.012 {
							t.Errorf("after %d s the new one has %.3f of the requests, want %.3f", d, got, want)
						}
					}
					time.Sleep(100 * time.Second)
					if c.Refresh(); c.Warming() {
						t.Error("it is new still")
					}
				})
			})
		}
	}
}

// TestSlowStartGoesOn: another configuration does not begin it again, nor end it.
func TestSlowStartGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, list := near()
		p := balance(mesh.BalanceRoundRobin)
		p.Balancer.SlowStart = &mesh.SlowStart{Window: 100 * time.Second}
		build := func(prev *Cluster, n int) *Cluster {
			v := service(nil)
			return ForService(snapshot(v, list[:n]...), v, 9080, Options{Backend: p, Previous: prev, Now: time.Now()})
		}
		c := build(build(nil, 2), 3)
		time.Sleep(50 * time.Second)
		c = build(c, 4) // a3 is half warm, a4 is new
		got := shares(c, 21000)
		if want := 100 * 0.5 / 2.6; math.Abs(got["a3"]-want) > 1 {
			t.Errorf("shares %v, want %.1f for a3", got, want)
		}
		if want := 100 * 0.1 / 2.6; math.Abs(got["a4"]-want) > 1 {
			t.Errorf("shares %v, want %.1f for a4", got, want)
		}
	})
}

// TestSlowStartAfterIllness: who was found ill and is well again is new again.
func TestSlowStartAfterIllness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, list := near()
		p := balance(mesh.BalanceRoundRobin)
		p.Balancer.SlowStart = &mesh.SlowStart{Window: 100 * time.Second}
		c := newCounted(t, service(nil), p, nil, list[:2]...)
		c.flag(unhealthy, true, "a1")
		time.Sleep(10 * time.Second)
		c.flag(unhealthy, false, "a1")
		if got, want := shares(c.Cluster, 11000)["a1"], 100*0.1/1.1; math.Abs(got-want) > 1 {
			t.Errorf("it has %.1f %%, want %.1f", got, want)
		}
		c.flag(ejected, true, "a2")
		c.flag(ejected, false, "a2")
		if got := shares(c.Cluster, 11000)["a2"]; got < 85 {
			t.Errorf("after an ejection the other has %.1f %%; that is no illness", got)
		}
	})
}

// Where keys have their endpoints, nobody is let in gradually.
func TestNoSlowStartOfHashes(t *testing.T) {
	_, list := near()
	for _, kind := range []mesh.BalancerPolicy{mesh.BalanceRingHash, mesh.BalanceMaglev, mesh.BalanceRendezvous} {
		p := balance(kind)
		p.Balancer.SlowStart = &mesh.SlowStart{Window: time.Hour}
		v, v2 := service(nil), service(nil)
		first := ForService(snapshot(v, list[:2]...), v, 9080, Options{Backend: p})
		if ForService(snapshot(v2, list[:3]...), v2, 9080, Options{Backend: p, Previous: first, Now: time.Now()}).Warming() {
			t.Errorf("policy %d warms up", kind)
		}
	}
}
