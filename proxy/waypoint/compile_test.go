package waypoint

import (
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

func TestRoutesOfConsumersAndOfOtherWaypoints(t *testing.T) {
	var v *mesh.Service
	var parts mesh.Parts
	r := newRig(t, func(r *rig) mesh.Parts {
		a, b := r.endpoint("a", named("a"), false), r.endpoint("b", named("b"), false)
		va, vb := r.service("a", 80, mesh.ProtocolHTTP, a), r.service("b", 80, mesh.ProtocolHTTP, b)
		v = r.service("web", 80, mesh.ProtocolHTTP)
		all := route("all", 1, v, mesh.Route{Backends: []mesh.Backend{to(va, 1)}})
		elsewhere := route("elsewhere", 0, v, mesh.Route{Backends: []mesh.Backend{to(vb, 1)}})
		elsewhere.Waypoint = mesh.Name{Namespace: "app", Name: "other"}
		others := route("others", 0, v, mesh.Route{Backends: []mesh.Backend{to(vb, 1)}})
		others.ConsumerNamespace = "not-app"
		parts = mesh.Parts{Workloads: []*mesh.Workload{a, b}, Services: []*mesh.Service{v, va, vb}, Attachments: []mesh.RouteAttachment{elsewhere, others, all}}
		return parts
	})
	c := r.client(v, false)
	if _, body, _ := get(t, c, "http://web/"); !strings.HasPrefix(body, "a ") {
		t.Errorf("routes that are not for this client were used: %q", body)
	}
	own := parts.Attachments[1]
	own.ConsumerNamespace = clientID.Namespace
	own.Route = &mesh.Route{Object: own.Route.Object, Matches: []mesh.RouteMatch{pathMatch(mesh.MatchPrefix, "/mine")}, Backends: own.Route.Backends}
	parts.Attachments = []mesh.RouteAttachment{parts.Attachments[2], own}
	parts.Waypoints = r.snapshots.Current().Waypoints
	rt := r.proxy.compile(mesh.NewSnapshot(2, parts), nil)
	r.proxy.runtime.Store(rt)
	if _, body, _ := get(t, c, "http://web/mine"); !strings.HasPrefix(body, "b ") {
		t.Errorf("the consumer's own route was not used: %q", body)
	}
	if status, _, _ := get(t, c, "http://web/"); status != 404 {
		t.Errorf("a consumer's routes replace the producer's: got %d, want 404", status)
	}
}
