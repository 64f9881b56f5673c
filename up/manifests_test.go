package up

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cairnproxy.dev/cairn/mesh"
)

// loadManifests reads text as `cairn up` would, for a user who may bind ports
// from 1024 on.
func loadManifests(t *testing.T, text string) *config {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "m.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	m := newManifests(Options{Paths: []string{dir}}, newTestLoopback(t, "127.64.0.0/10"), slog.New(slog.DiscardHandler))
	m.mayBind = func(at netip.AddrPort) bool { return at.Port() >= 1024 }
	u := m.load()
	if u.config == nil {
		t.Fatalf("problems: %v", u.problems)
	}
	return u.config
}

func TestForeignAddresses(t *testing.T) {
	c := loadManifests(t, `
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {clusterIP: 10.96.0.7, selector: {app: a}, ports: [{port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec: {clusterIP: 127.64.9.9, selector: {app: a}, ports: [{port: 9000}]}
---
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: a}}
spec: {containers: [{name: a, image: cairn/echo, ports: [{containerPort: 9000}]}]}
status: {podIP: 10.244.0.3, podIPs: [{ip: 10.244.0.3}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: w}
spec:
  gatewayClassName: cairn-waypoint
  addresses: [{type: IPAddress, value: 10.96.0.8}]
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
`)
	ours := netip.MustParsePrefix("127.64.0.0/10")
	s := mesh.NewSnapshot(1, c.parts)
	for _, v := range s.Services {
		if len(v.VIPs) != 1 || !ours.Contains(v.VIPs[0]) {
			t.Errorf("service %s has %v, want an address in %s", v.Name, v.VIPs, ours)
		}
		if v.Name == "b" && v.VIPs[0] != netip.MustParseAddr("127.64.9.9") {
			t.Errorf("the loopback address that the manifest gives became %s", v.VIPs[0])
		}
	}
	pod := c.pods[0]
	if !ours.Contains(pod.Address) || s.WorkloadAt("", pod.Address) == nil {
		t.Errorf("pod at %s, workload there %v", pod.Address, s.WorkloadAt("", pod.Address))
	}
	w := s.Waypoints[0]
	if len(w.Addresses) != 1 || !ours.Contains(w.Addresses[0]) {
		t.Fatalf("waypoint at %v, want an address in %s", w.Addresses, ours)
	}
	if inst := s.WorkloadAt("", w.Addresses[0]); inst == nil || !inst.IsWaypoint {
		t.Errorf("no waypoint instance at %s", w.Addresses[0])
	}
}

func TestLowPorts(t *testing.T) {
	c := loadManifests(t, `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}, {name: alt, port: 8000, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: web, image: kennethreitz/httpbin, ports: [{containerPort: 80}, {containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: free, labels: {app: free}}
spec: {containers: [{name: web, image: cairn/echo, ports: [{containerPort: 8080}]}]}
`)
	s := mesh.NewSnapshot(1, c.parts)
	svc := s.Services[0]
	eps := s.Endpoints(svc.Key)
	if len(eps) != 1 {
		t.Fatalf("%d endpoints, want 1", len(eps))
	}
	got := map[uint16]uint16{}
	for _, p := range svc.Ports {
		got[p.Port], _ = eps[0].TargetPort(svc, p.Port)
	}
	if d := cmp.Diff(map[uint16]uint16{80: 10080, 8000: 8080}, got); d != "" {
		t.Errorf("target ports (-want +got):\n%s", d)
	}
	ports := map[string][]uint16{}
	for _, p := range c.pods {
		ports[p.Name] = p.Containers[0].Ports
	}
	if d := cmp.Diff(map[string][]uint16{"web": {10080, 8080}, "free": {8080}}, ports); d != "" {
		t.Errorf("container ports (-want +got):\n%s", d)
	}
}
