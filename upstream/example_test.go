package upstream_test

import (
	"fmt"
	"net/netip"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/upstream"
)

func ExampleForService() {
	key := mesh.ServiceKey{Namespace: "bookinfo", Hostname: "reviews.bookinfo.svc.cluster.local"}
	service := &mesh.Service{Key: key, Name: "reviews", Ports: []mesh.ServicePort{{Port: 80, TargetPort: 9080}}}
	snapshot := mesh.NewSnapshot(1, mesh.Parts{
		Services: []*mesh.Service{service},
		Workloads: []*mesh.Workload{{
			UID: "Kubernetes//Pod/bookinfo/reviews-v1", Namespace: "bookinfo", ServiceAccount: "reviews", TrustDomain: "cluster.local",
			Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.7")}, Ready: true, Capacity: 1,
			Services: map[mesh.ServiceKey]map[uint16]uint16{key: {}},
		}},
	})
	var registry upstream.Registry // one per process
	cluster := upstream.ForService(snapshot, service, 80, upstream.Options{Registry: &registry})

	e := cluster.Pick(nil)
	e.Acquire()
	defer e.Release()
	fmt.Println(e.Authority(), e.Expect, e.Active())
	// Output:
	// 10.0.0.7:9080 [spiffe://cluster.local/ns/bookinfo/sa/reviews] 1
}
