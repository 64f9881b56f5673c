package waypoint

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// The size to think of: 10,000 services with a route and ten pods each.
const (
	manyServices = 10_000
	podsEach     = 10
)

func manyParts() mesh.Parts {
	p := mesh.Parts{Waypoints: []*mesh.Waypoint{labWaypoint}}
	for i := range manyServices {
		v := labService(0, mesh.ProtocolHTTP)
		v.Name = fmt.Sprintf("s%d", i)
		v.Key.Hostname = v.Name + ".app.svc.cluster.local"
		v.VIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})}
		p.Services = append(p.Services, v)
		p.Attachments = append(p.Attachments, mesh.RouteAttachment{Service: v.Key, Route: &mesh.Route{
			Object: mesh.Name{Namespace: "app", Name: v.Name}, Backends: []mesh.Backend{{Service: v.Key, Port: 80, Weight: 1}},
		}})
		for j := range podsEach {
			w := labWorkload(0)
			k := i*podsEach + j
			w.Name = fmt.Sprintf("%s-%d", v.Name, j)
			w.UID, w.ServiceAccount = "Kubernetes//Pod/app/"+w.Name, v.Name
			w.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{10, byte(128 + k>>16), byte(k >> 8), byte(k)})}
			w.Services = map[mesh.ServiceKey]map[uint16]uint16{v.Key: {80: 8080}}
			p.Workloads = append(p.Workloads, w)
		}
	}
	return p
}

// BenchmarkChange is what one changed object costs from the parts of a mesh to
// the configuration in force: the snapshot, and a waypoint's Runtime of it.
func BenchmarkChange(b *testing.B) {
	parts := manyParts()
	pods := slices.Clone(parts.Workloads)
	changes := []struct {
		name string
		make func(p *mesh.Parts, i int)
	}{
		{"pod", func(p *mesh.Parts, i int) {
			w := *pods[5555]
			w.Node = fmt.Sprint(i)
			p.Workloads = slices.Clone(p.Workloads)
			p.Workloads[5555] = &w
		}},
		{"service", func(p *mesh.Parts, i int) {
			v := *p.Services[5555]
			v.Ports = slices.Clone(v.Ports)
			v.Ports[0].Name = fmt.Sprint(i)
			p.Services = slices.Clone(p.Services)
			p.Services[5555] = &v
		}},
		{"route", func(p *mesh.Parts, i int) {
			a := p.Attachments[5555]
			r := *a.Route
			r.Requests = timeoutPolicy(time.Duration(i), 0)
			a.Route = &r
			p.Attachments = slices.Clone(p.Attachments)
			p.Attachments[5555] = a
		}},
		{"policy", func(p *mesh.Parts, i int) {
			p.Policies = []*mesh.AuthorizationPolicy{{
				Name:       mesh.Name{Namespace: "app", Name: fmt.Sprint(i)},
				TargetRefs: []mesh.TargetRef{{Kind: "Service", Name: "s5555"}},
			}}
		}},
	}
	for _, c := range changes {
		b.Run(c.name, func(b *testing.B) {
			l := newLab(b, mesh.Parts{})
			snap := mesh.NewSnapshot(1, parts)
			l.p.apply(snap)
			if n := l.p.runtime.Load().services.Len(); n != manyServices {
				b.Fatalf("%d services", n)
			}
			var publish time.Duration
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				p := parts
				c.make(&p, i+1)
				t := time.Now()
				snap = snap.Next(p)
				publish += time.Since(t)
				l.p.apply(snap)
			}
			b.ReportMetric(float64(publish.Nanoseconds())/float64(b.N), "publish-ns/op")
		})
	}
}
