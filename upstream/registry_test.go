package upstream

import (
	"runtime"
	"testing"
	"weak"
)

// What holds a registry and its values, as a proxy does, is let go when nobody uses it.
func TestRegistryLetsItsOwnerGo(t *testing.T) {
	type owner struct {
		r Registry
		s *ClusterState
		l *live
	}
	o := &owner{}
	o.s, o.l = o.r.State(StateKey{}), o.r.get(endpointKey{uid: "a"})
	left := weak.Make(o)
	runtime.KeepAlive(o)
	o = nil
	for range 3 {
		runtime.GC()
	}
	if left.Value() != nil {
		t.Error("the owner is still there")
	}
}
