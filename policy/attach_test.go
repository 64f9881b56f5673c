package policy

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

// Attachments gives each service what AttachedTo finds by looking at all policies.
func TestAttachmentsAreThoseOfAttachedTo(t *testing.T) {
	refs := []mesh.TargetRef{
		{Kind: "Service", Name: "a"},
		{Group: "core", Kind: "Service", Name: "b"},
		{Group: "other", Kind: "Service", Name: "a"},
		{Group: groupIstioNetwork, Kind: "ServiceEntry", Name: "a"},
		{Group: groupGateway, Kind: "Gateway", Name: "w"},
		{Group: groupGateway, Kind: "Gateway", Name: "x"},
		{Group: groupGateway, Kind: "GatewayClass", Name: "c"},
	}
	w := &mesh.Waypoint{Name: mesh.Name{Namespace: "n", Name: "w"}, Class: "c"}
	found := 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 5))
		p := mesh.Parts{RootNamespace: "m"}
		for i := range 8 {
			x := &mesh.AuthorizationPolicy{Name: mesh.Name{Namespace: []string{"n", "m"}[r.IntN(2)], Name: fmt.Sprint(i)}}
			for range r.IntN(3) {
				x.TargetRefs = append(x.TargetRefs, refs[r.IntN(len(refs))])
			}
			p.Policies = append(p.Policies, x)
		}
		s := mesh.NewSnapshot(1, p)
		a := NewAttachments(s, w)
		services := []*mesh.Service{nil}
		for _, ns := range []string{"n", "m"} {
			for _, name := range []string{"a", "b", "c"} {
				services = append(services,
					&mesh.Service{Key: mesh.ServiceKey{Namespace: ns, Hostname: name + "." + ns + ".svc.cluster.local"}, Name: name},
					&mesh.Service{Key: mesh.ServiceKey{Namespace: ns, Hostname: "x.example"}, Name: name})
			}
		}
		for _, v := range services {
			want, got := AttachedTo(s, v, w), a.Of(v)
			if !want.Equal(got) {
				t.Fatalf("seed %d, service %+v: got %v, want %v", seed, v, got, want)
			}
			found += len(got.Authorization)
		}
	}
	if found == 0 {
		t.Error("nothing was attached to anything")
	}
}
