package mesh

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
)

// world makes parts at random of few names, so that they meet in every way. An
// object that is the same as before has the same pointer.
type world struct {
	r         *rand.Rand
	workloads map[string]*Workload
	services  map[string]*Service
	routes    []RouteAttachment
}

func (w *world) change() {
	r := w.r
	key := func() ServiceKey {
		return ServiceKey{Namespace: fmt.Sprint("ns", r.IntN(2)), Hostname: fmt.Sprint("h", r.IntN(4))}
	}
	switch id := fmt.Sprint(r.IntN(6)); r.IntN(7) {
	case 0:
		delete(w.workloads, id)
	case 1, 2:
		x := &Workload{UID: "c//Pod/" + id, Ready: r.IntN(3) > 0, HostNetwork: r.IntN(8) == 0, Services: map[ServiceKey]map[uint16]uint16{}}
		x.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(12))})}
		for range r.IntN(3) {
			x.Services[key()] = map[uint16]uint16{80: uint16(r.IntN(3))}
		}
		w.workloads[id] = x
	case 3:
		delete(w.services, id)
	case 4, 5:
		v := &Service{Key: key(), PublishNotReady: r.IntN(4) == 0, Canonical: r.IntN(2) == 0}
		for range r.IntN(3) {
			v.VIPs = append(v.VIPs, netip.AddrFrom4([4]byte{10, 1, byte(len(v.VIPs)), byte(r.IntN(3))}))
		}
		w.services[id] = v
	case 6:
		if n := len(w.routes); n > 0 && r.IntN(2) == 0 {
			i := r.IntN(n)
			w.routes = append(append([]RouteAttachment(nil), w.routes[:i]...), w.routes[i+1:]...)
		} else {
			w.routes = append(append([]RouteAttachment(nil), w.routes...), RouteAttachment{Service: key(), Route: &Route{}})
		}
	}
}

func (w *world) parts() Parts {
	p := Parts{Attachments: w.routes}
	for _, id := range []string{"3", "0", "1", "2", "5", "4"} { // sources need no order
		if x := w.workloads[id]; x != nil {
			p.Workloads = append(p.Workloads, x)
		}
		if v := w.services[id]; v != nil {
			p.Services = append(p.Services, v)
		}
	}
	return p
}

// image is all that a Snapshot answers.
func image(s *Snapshot) []any {
	return []any{
		append([]*Workload{}, s.Workloads...), append([]*Service{}, s.Services...), maps.Collect(s.byUID.All()), maps.Collect(s.byAddr.All()), maps.Collect(s.services.All()),
		maps.Collect(s.byHost.All()), maps.Collect(s.byVIP.All()), maps.Collect(s.endpoints.All()), maps.Collect(s.routes.All()),
	}
}

// A Snapshot that was made from another is the one that would have been made from nothing,
// says what has changed, and leaves the other as it was.
func TestNextIsWhatANewSnapshotWouldBe(t *testing.T) {
	shared := 0
	for seed := range uint64(400) {
		w := &world{r: rand.New(rand.NewPCG(seed, 7)), workloads: map[string]*Workload{}, services: map[string]*Service{}}
		for range 8 {
			w.change()
		}
		s := NewSnapshot(1, w.parts())
		for range 20 {
			for range 1 + w.r.IntN(3) {
				w.change()
			}
			before := image(NewSnapshot(0, s.Given()))
			next := s.Next(w.parts())
			want := NewSnapshot(0, w.parts())
			if !reflect.DeepEqual(image(next), image(want)) {
				t.Fatalf("seed %d: Next gives\n%v\nwant\n%v", seed, image(next), image(want))
			}
			if !reflect.DeepEqual(image(s), before) {
				t.Fatalf("seed %d: Next changed the snapshot before", seed)
			}
			changed := next.ChangedServices(s)
			for i := range 2 {
				for j := range 4 {
					k := ServiceKey{Namespace: fmt.Sprint("ns", i), Hostname: fmt.Sprint("h", j)}
					same := s.Service(k) == next.Service(k) && reflect.DeepEqual(s.Endpoints(k), next.Endpoints(k)) && reflect.DeepEqual(s.Routes(k), next.Routes(k))
					if !same && !changed[k] {
						t.Fatalf("seed %d: %v changed and nobody says so", seed, k)
					}
					if same && !changed[k] {
						shared++
					}
				}
			}
			for uid := range next.ChangedWorkloads(s) {
				if s.Workload(uid) == next.Workload(uid) {
					t.Fatalf("seed %d: %s is said to have changed", seed, uid)
				}
			}
			s = next
		}
	}
	if shared < 400*20 {
		t.Errorf("only %d of %d services were shared", shared, 400*20*8)
	}
}

func TestIndexIsSplitAndJoined(t *testing.T) {
	var x Index[int, int]
	for _, n := range []int{1, 100, 10_000, 200, 3} {
		e := x.Edit(n)
		for i := range n {
			e.Set(i, n+i)
		}
		for k := range x.All() {
			if k >= n {
				e.Delete(k)
			}
		}
		before, old := x.Len(), maps.Collect(x.All())
		next := e.Done()
		if next.Len() != n || next.At(n-1) != 2*n-1 || next.At(n) != 0 {
			t.Errorf("%d entries: Len %d, At(last) %d, At(beyond) %d", n, next.Len(), next.At(n-1), next.At(n))
		}
		if x.Len() != before || !maps.Equal(old, maps.Collect(x.All())) {
			t.Errorf("an edit to %d entries changed the Index that it began from", n)
		}
		x = next
	}
	if n := len(x.parts); n > 8 {
		t.Errorf("%d entries are in %d parts", x.Len(), n)
	}
}
