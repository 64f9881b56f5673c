package upstream

import (
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

func TestSessionIDs(t *testing.T) {
	_, list := near()
	v := service(nil)
	c := ForService(snapshot(v, list...), v, 9080, Options{})
	c.Sessions()
	seen := map[SessionID]bool{}
	for _, e := range c.Endpoints() {
		id := c.SessionID(e)
		if c.Find(id) != e {
			t.Errorf("%s is not found by its id", e.Workload.Name)
		}
		seen[id] = true
	}
	if len(seen) != len(list) || c.Find(SessionID{}) != nil {
		t.Errorf("%d ids of %d endpoints", len(seen), len(list))
	}
	// Another process, another configuration, another balancer: the same ids.
	v2 := service(nil)
	c2 := ForService(snapshot(v2, list[:5]...), v2, 9080, Options{Backend: balance(mesh.BalanceMaglev)})
	c2.Sessions()
	for i, e := range c.Endpoints() {
		if found := c2.Find(c.SessionID(e)); (found != nil) != (i < 5) || found != nil && found.Workload != e.Workload {
			t.Errorf("elsewhere %s is %v", e.Workload.Name, found)
		}
	}
	other := service(func(v *mesh.Service) { v.Key.Namespace = "elsewhere" })
	for _, w := range list {
		w.Services[other.Key] = map[uint16]uint16{}
	}
	c3 := ForService(snapshot(other, list...), other, 9080, Options{})
	c3.Sessions()
	if len(c3.Endpoints()) == 0 || c3.Find(c.SessionID(c.Endpoints()[0])) != nil {
		t.Error("another service knows the id")
	}
}

func TestWant(t *testing.T) {
	_, list := near()
	for _, kind := range everyKind() {
		c := newCounted(t, service(nil), balance(kind), nil, list...)
		e := c.Endpoints()[4]
		var h Hint
		h.SetKey(7)
		h.Want(e)
		for range 20 {
			if c.Pick(&h) != e {
				t.Fatalf("policy %d: the wanted endpoint is not picked", kind)
			}
		}
		c.flag(busy, true, "b1")
		if c.Pick(&h) != e {
			t.Errorf("policy %d: a session leaves an endpoint that is only busy", kind)
		}
		c.flag(ejected, true, "b1")
		if c.Pick(&h) == e {
			t.Errorf("policy %d: an ejected endpoint is picked", kind)
		}
		c.flag(ejected, false, "b1")
		h.Exclude(e)
		if c.Pick(&h) == e {
			t.Errorf("policy %d: an excluded endpoint is picked", kind)
		}
		var elsewhere Hint
		elsewhere.Want(newCounted(t, service(nil), balance(kind), nil, list...).Endpoints()[9])
		if got := c.Pick(&elsewhere); !c.has(got) {
			t.Errorf("policy %d: another cluster's endpoint is picked", kind)
		}
	}
}

func TestUsable(t *testing.T) {
	_, list := near()
	c := newCounted(t, service(nil), nil, nil, list[:2]...)
	if !c.Usable() {
		t.Error("not usable")
	}
	c.flag(ejected, true, "a1", "a2")
	if c.Usable() || c.Pick(nil) != nil {
		t.Error("usable with nothing available")
	}
}
