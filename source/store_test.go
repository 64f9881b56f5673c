package source_test

import (
	"context"
	"encoding/json"
	"net/netip"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
)

func TestCurrentIsNeverNil(t *testing.T) {
	s := source.NewStore()
	if got := s.Current(); got == nil || got.Version != 0 {
		t.Fatalf("Current() = %+v, want an empty snapshot of version 0", got)
	}
	first := s.Publish(mesh.Parts{TrustDomain: "a"})
	second := s.Publish(mesh.Parts{TrustDomain: "b"})
	if first.Version != 1 || second.Version != 2 || s.Current() != second {
		t.Errorf("versions %d, %d, current %d; want 1, 2, 2", first.Version, second.Version, s.Current().Version)
	}
}

func TestUpdates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := source.NewStore()
		ctx, cancel := context.WithCancel(t.Context())
		early := s.Updates(ctx)
		stopped := s.Updates(ctx) // nobody reads it
		synctest.Wait()
		select {
		case got := <-early:
			t.Fatalf("got version %d before anything was published", got.Version)
		default:
		}
		for range 5 {
			s.Publish(mesh.Parts{})
		}
		if got := <-early; got.Version != 5 {
			t.Errorf("first update is version %d, want the latest, 5", got.Version)
		}
		late := s.Updates(ctx)
		if got := <-late; got.Version != 5 {
			t.Errorf("a late reader starts with version %d, want 5", got.Version)
		}
		s.Publish(mesh.Parts{})
		if a, b := <-early, <-late; a.Version != 6 || b.Version != 6 {
			t.Errorf("updates are versions %d and %d, want 6", a.Version, b.Version)
		}
		cancel()
		synctest.Wait()
		s.Publish(mesh.Parts{})
		if got, open := <-early; open {
			t.Errorf("got version %d after the context ended, want a closed channel", got.Version)
		}
		if got := <-stopped; got.Version != 6 {
			t.Errorf("the stopped reader's channel holds version %d, want 6", got.Version)
		}
	})
}

func TestPublishRace(t *testing.T) {
	s := source.NewStore()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var last uint64
			for snap := range s.Updates(ctx) {
				if snap.Version <= last {
					t.Errorf("version %d after %d", snap.Version, last)
				}
				last = snap.Version
				if last == 400 {
					return
				}
			}
		}()
	}
	var pub sync.WaitGroup
	for range 4 {
		pub.Add(1)
		go func() {
			defer pub.Done()
			for range 100 {
				s.Publish(mesh.Parts{})
			}
		}()
	}
	pub.Wait()
	wg.Wait() // every reader has seen the last version
	cancel()
	if got := s.Current().Version; got != 400 {
		t.Errorf("version %d after 400 publications", got)
	}
}

// testParts builds everything anew at each call, equal but for tweak.
func testParts(tweak func(*mesh.Parts)) mesh.Parts {
	key := mesh.ServiceKey{Namespace: "n", Hostname: "h"}
	r := &mesh.Route{Object: mesh.Name{Namespace: "n", Name: "r"}, Backends: []mesh.Backend{{Service: key, Weight: 1}}}
	p := mesh.Parts{
		Workloads: []*mesh.Workload{{
			UID: "u", Labels: map[string]string{"a": "b"}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
			Services: map[mesh.ServiceKey]map[uint16]uint16{key: {80: 8080}}, Waypoint: &mesh.WaypointRef{Port: 15008},
		}},
		Services:    []*mesh.Service{{Key: key, Ports: []mesh.ServicePort{{Port: 80}}}},
		Waypoints:   []*mesh.Waypoint{{Name: mesh.Name{Namespace: "n", Name: "w"}}},
		Policies:    []*mesh.AuthorizationPolicy{{Name: mesh.Name{Namespace: "n", Name: "p"}}},
		PeerAuth:    []*mesh.PeerAuthentication{{Name: mesh.Name{Namespace: "n", Name: "p"}}},
		L4Policies:  []*mesh.L4Policy{{Name: mesh.Name{Namespace: "n", Name: "p"}}},
		Attachments: []mesh.RouteAttachment{{Service: key, Route: r}},
	}
	tweak(&p)
	return p
}

func TestPublishReusesWhatIsEqual(t *testing.T) {
	tests := map[string]struct {
		tweak func(*mesh.Parts)
		same  [7]bool // workload, service, waypoint, policy, peer, l4, route
	}{
		"nothing":  {func(*mesh.Parts) {}, [7]bool{true, true, true, true, true, true, true}},
		"workload": {func(p *mesh.Parts) { p.Workloads[0].Ready = true }, [7]bool{false, true, true, true, true, true, true}},
		"ports":    {func(p *mesh.Parts) { p.Workloads[0].Services[p.Services[0].Key][80] = 1 }, [7]bool{false, true, true, true, true, true, true}},
		"waypoint": {func(p *mesh.Parts) { p.Workloads[0].Waypoint = nil }, [7]bool{false, true, true, true, true, true, true}},
		"service":  {func(p *mesh.Parts) { p.Services[0].Ports[0].Name = "x" }, [7]bool{true, false, true, true, true, true, true}},
		"route":    {func(p *mesh.Parts) { p.Attachments[0].Route.Backends[0].Weight = 2 }, [7]bool{true, true, true, true, true, true, false}},
		"policy":   {func(p *mesh.Parts) { p.Policies[0].Action = mesh.ActionDeny }, [7]bool{true, true, true, false, true, true, true}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := source.NewStore()
			a := s.Publish(testParts(func(*mesh.Parts) {}))
			b := s.Publish(testParts(tt.tweak))
			got := [7]bool{
				a.Workloads[0] == b.Workloads[0], a.Services[0] == b.Services[0], a.Waypoints[0] == b.Waypoints[0],
				a.Policies[0] == b.Policies[0], a.PeerAuth[0] == b.PeerAuth[0], a.L4Policies[0] == b.L4Policies[0],
				a.Attachments[0].Route == b.Attachments[0].Route,
			}
			if got != tt.same {
				t.Errorf("same pointers: %v, want %v", got, tt.same)
			}
		})
	}
}

// Each field of a Workload must count when two are compared: a new field that
// the comparison does not know would leave stale workloads in service.
func TestEveryWorkloadFieldCounts(t *testing.T) {
	typ := reflect.TypeFor[mesh.Workload]()
	for i := range typ.NumField() {
		f := typ.Field(i)
		t.Run(f.Name, func(t *testing.T) {
			s := source.NewStore()
			a := s.Publish(testParts(func(*mesh.Parts) {}))
			b := s.Publish(testParts(func(p *mesh.Parts) { disturb(t, reflect.ValueOf(p.Workloads[0]).Elem().Field(i)) }))
			if a.Workloads[0] == b.Workloads[0] {
				t.Errorf("a workload with another %s was taken for the same", f.Name)
			}
		})
	}
}

func disturb(t *testing.T, v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Uint8, reflect.Uint32:
		v.SetUint(v.Uint() + 1)
	case reflect.Slice:
		v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
	case reflect.Map:
		m := reflect.MakeMap(v.Type())
		m.SetMapIndex(reflect.Zero(v.Type().Key()), reflect.Zero(v.Type().Elem()))
		v.Set(m)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Struct:
		disturb(t, v.Field(0))
	default:
		t.Fatalf("cannot disturb a %s", v.Kind())
	}
}

func TestProblemText(t *testing.T) {
	p := source.Problem{File: "a.yaml", Line: 3, Object: "Service default/x", Field: "spec.ports[0].port", Message: "must be from 1 to 65535"}
	if got, want := p.String(), "a.yaml:3: Service default/x: spec.ports[0].port: must be from 1 to 65535"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
	b, err := json.Marshal(p)
	want := `{"file":"a.yaml","line":3,"object":"Service default/x","field":"spec.ports[0].port","message":"must be from 1 to 65535"}`
	if err != nil || string(b) != want {
		t.Errorf("JSON is %s (%v), want %s", b, err, want)
	}
	if got, want := (source.Problem{File: "a.yaml", Message: "m"}).String(), "a.yaml: m"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
	if p.Compare(source.Problem{File: "a.yaml", Line: 4}) >= 0 || p.Compare(p) != 0 {
		t.Error("Compare does not order by line")
	}
}
