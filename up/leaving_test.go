package up

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

func TestLeaving(t *testing.T) {
	shop := mesh.ServiceKey{Namespace: "ns", Hostname: "shop"}
	pod := func(name, addr string) Pod {
		return Pod{Namespace: "ns", Name: name, Address: netip.MustParseAddr(addr)}
	}
	workload := func(name, addr string, ready bool) *mesh.Workload {
		return &mesh.Workload{
			UID: name, Name: name, Namespace: "ns", Addresses: []netip.Addr{netip.MustParseAddr(addr)}, Ready: ready,
			Services: map[mesh.ServiceKey]map[uint16]uint16{shop: {80: 8080}},
		}
	}
	a, b := pod("a", "127.0.0.1"), pod("b", "127.0.0.2")
	wa, wb := workload("a", "127.0.0.1", true), workload("b", "127.0.0.2", true)
	type seen struct {
		name             string
		ready, inService bool
	}
	tests := []struct {
		name string
		pods []Pod            // that stay
		next []*mesh.Workload // with them
		runs bool             // the program of a accepts
		hold bool             // and must go on
		want []seen
	}{
		{"beside another", []Pod{b}, []*mesh.Workload{wb}, true, false, []seen{{"b", true, true}, {"a", false, false}}},
		{"other not ready", []Pod{b}, []*mesh.Workload{workload("b", "127.0.0.2", false)}, true, true, []seen{{"b", false, true}, {"a", true, true}}},
		{"last", nil, nil, true, false, []seen{{"a", true, true}}},
		{"last and down", nil, nil, false, false, []seen{{"a", false, false}}},
		{"address taken", []Pod{pod("c", "127.0.0.1")}, []*mesh.Workload{workload("c", "127.0.0.1", true)}, true, false, []seen{{"c", true, true}}},
		{"back", []Pod{a}, []*mesh.Workload{wa}, true, false, []seen{{"a", true, true}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &reconciler{
				runner: newRunner(runnerOptions{}), leaving: map[string]*mesh.Workload{},
				pods: []Pod{a}, parts: mesh.Parts{Workloads: []*mesh.Workload{wa}},
			}
			r.runner.setReady(a.key(), tt.runs)
			if tt.name == "back" {
				r.leave(&config{}) // it has left, and comes back
				r.pods = nil
			}
			r.leave(&config{pods: tt.pods, parts: mesh.Parts{Workloads: tt.next}})
			var got []seen
			for _, w := range r.withLeaving(tt.next) {
				got = append(got, seen{w.Name, w.Ready, w.Services[shop] != nil})
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if freed, ok := r.runner.held[a.key()]; (ok && freed.IsZero()) != tt.hold {
				t.Errorf("held: %v, want %v", ok && freed.IsZero(), tt.hold)
			}
			if !wa.Ready || wa.Services[shop] == nil {
				t.Error("a workload that others read has changed")
			}
		})
	}
}

func TestHold(t *testing.T) {
	p := Pod{Namespace: "ns", Name: "a"}
	tests := []struct {
		name  string
		hold  func(r *Runner)
		after time.Duration
	}{
		{"not held", func(*Runner) {}, linger},
		{"held for ever", func(r *Runner) { r.Hold(p.key(), true) }, lingerAtMost},
		{"let go", func(r *Runner) {
			r.Hold(p.key(), true)
			time.Sleep(2500 * time.Millisecond)
			r.Hold(p.key(), false)
		}, 3500 * time.Millisecond},
		{"let go at once", func(r *Runner) {
			r.Hold(p.key(), true)
			r.Hold(p.key(), false)
		}, linger},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, ended := time.Now(), make(chan time.Time, 1)
				r := newRunner(runnerOptions{})
				r.stopLater(&runningPod{pod: p, cancel: func() { ended <- time.Now() }})
				tt.hold(r)
				if got := (<-ended).Sub(began); got != tt.after {
					t.Errorf("ended after %v, want %v", got, tt.after)
				}
			})
		})
	}
}

func TestComesBack(t *testing.T) {
	p := Pod{Namespace: "ns", Name: "a"}
	changed := p
	changed.Containers = []Container{{Image: "other"}}
	tests := []struct {
		name  string
		after time.Duration // of having left
		back  Pod
		keeps bool
	}{
		{"at once", 0, p, true},
		{"in time", linger / 2, p, true},
		{"too late", linger + 1, p, false},
		{"changed", 0, changed, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := 0
				r := newRunner(runnerOptions{})
				rp := &runningPod{pod: p, cancel: func() { ended++ }}
				r.running[p.key()] = rp
				r.setReady(p.key(), true)
				r.stopLater(rp)
				time.Sleep(tt.after)
				synctest.Wait()
				r.Prepare([]Pod{tt.back})
				if got := r.Ready(p.key()); got != tt.keeps {
					t.Errorf("ready: %v, want %v", got, tt.keeps)
				}
				if got := r.keeps(rp, tt.back); got != tt.keeps {
					t.Errorf("goes on: %v, want %v", got, tt.keeps)
				}
				time.Sleep(2 * lingerAtMost)
				synctest.Wait()
				if tt.keeps && ended != 0 {
					t.Error("a pod that came back was ended")
				}
			})
		})
	}
}
