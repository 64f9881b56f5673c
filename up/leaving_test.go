package up

import (
	"net/netip"
	"slices"
	"testing"

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
		want []seen
	}{
		{"beside another", []Pod{b}, []*mesh.Workload{wb}, true, []seen{{"b", true, true}, {"a", false, false}}},
		{"other not ready", []Pod{b}, []*mesh.Workload{workload("b", "127.0.0.2", false)}, true, []seen{{"b", false, true}, {"a", true, true}}},
		{"last", nil, nil, true, []seen{{"a", true, true}}},
		{"last and down", nil, nil, false, []seen{{"a", false, false}}},
		{"address taken", []Pod{pod("c", "127.0.0.1")}, []*mesh.Workload{workload("c", "127.0.0.1", true)}, true, []seen{{"c", true, true}}},
		{"back", []Pod{a}, []*mesh.Workload{wa}, true, []seen{{"a", true, true}}},
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
			if !wa.Ready || wa.Services[shop] == nil {
				t.Error("a workload that others read has changed")
			}
		})
	}
}
