package ztunnel

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/tunnel"
)

// bindingCase is a mesh of one pod, local, with what serves it. It is described by
// lines of "NAME:PORT WAYPOINT FLAGS" for its services.
type bindingCase struct {
	services []string
	pod      string // "WAYPOINT FLAGS" of the pod itself
}

// bindingMesh builds it. There are the waypoints wp and wp2 (Gateways), one behind the service wpsvc
// and one, lone, that is known by its address alone; gone does not exist.
func bindingMesh(c bindingCase) (*mesh.Snapshot, *mesh.Workload) {
	local := pod("ns", "local", "10.0.0.1")
	wpPod, lone := pod("ns", "by-service", "10.0.2.4"), pod("ns", "lone", "10.0.2.5")
	wpPod.IsWaypoint = true
	p := mesh.Parts{
		Workloads: []*mesh.Workload{local, wpPod, lone, pod("ns", "client", "10.0.0.9")},
		Waypoints: []*mesh.Waypoint{gateway("ns", "wp", "10.0.2.1"), gateway("other", "wp2", "10.0.2.2"), gateway("ns", "notready")},
	}
	wpSvc := svcOf("ns", "wpsvc", "10.96.1.1", wpPod)
	p.Services = append(p.Services, wpSvc)
	ref := func(name string) *mesh.WaypointRef {
		switch name {
		case "-":
			return nil
		case "wpsvc":
			return &mesh.WaypointRef{Service: wpSvc.Key}
		case "vip":
			return &mesh.WaypointRef{Address: ip("10.96.1.1")}
		case "lone":
			return &mesh.WaypointRef{Address: ip("10.0.2.5")}
		case "address":
			return &mesh.WaypointRef{Address: ip("10.0.2.1")}
		case "wp2":
			return wpRef("other", "wp2")
		}
		return wpRef("ns", name)
	}
	for i, line := range c.services {
		f := strings.Fields(line)
		name, port, _ := strings.Cut(f[0], ":")
		vip := netip.AddrFrom4([4]byte{10, 96, 0, byte(1 + i)}).String()
		if strings.Contains(line, "headless") {
			vip = ""
		}
		v := svcOf("ns", name, vip, local)
		target := ap("1.1.1.1:" + port).Port()
		v.Ports[0].TargetPort = target
		local.Services[v.Key] = map[uint16]uint16{80: target}
		if strings.Contains(line, "named") { // the endpoint alone knows the port
			v.Ports[0].TargetPort = 0
		}
		v.Waypoint, v.WaypointOptional = ref(f[1]), strings.Contains(line, "permissive")
		p.Services = append(p.Services, v)
	}
	if c.pod != "" {
		local.Waypoint = ref(strings.Fields(c.pod)[0])
		local.WaypointOptional, local.ServiceAccountWaypoint = strings.Contains(c.pod, "permissive"), strings.Contains(c.pod, "account")
		local.IsWaypoint = strings.Contains(c.pod, "instance")
		if strings.Contains(c.pod, "as-wp") {
			local.ServiceAccount = "wp"
		}
		if strings.Contains(c.pod, "at-wp") {
			local.Addresses = append(local.Addresses, ip("10.0.2.1"))
		}
	}
	return mesh.NewSnapshot(1, p), local
}

func TestBinding(t *testing.T) {
	wp, wp2, svcWP, lone := spiffe("ns", "wp"), spiffe("other", "wp2"), spiffe("ns", "by-service"), spiffe("ns", "lone")
	client := spiffe("ns", "client")
	tests := []struct {
		name string
		bindingCase
		port  uint16
		good  []string // identities that may connect
		wrong []string // and those that may not; "" is plain text
		says  []string // of the refusals
	}{
		{"unbound", bindingCase{services: []string{"a:8080 -"}}, 8080, []string{client, wp, ""}, nil, nil},
		{"no-service", bindingCase{}, 8080, []string{client, ""}, nil, nil},
		{
			"bound",
			bindingCase{services: []string{"a:8080 wp"}},
			8080,
			[]string{wp},
			[]string{client, wp2, ""},
			[]string{"port 8080", "service ns/a.ns.svc.cluster.local is bound to waypoint ns/wp", wp, "policy.cairnproxy.dev/waypoint-binding: permissive"},
		},
		{"other-trust-domain", bindingCase{services: []string{"a:8080 wp"}}, 8080, nil, []string{"spiffe://evil/ns/ns/sa/wp"}, []string{"from spiffe://evil/ns/ns/sa/wp"}},
		{"plain-text", bindingCase{services: []string{"a:8080 wp"}}, 8080, nil, []string{""}, []string{"in plain text"}},
		{"other-port", bindingCase{services: []string{"a:8080 wp"}}, 9090, []string{client, ""}, nil, nil},
		{"named-port", bindingCase{services: []string{"a:8081 wp named"}}, 8081, []string{wp}, []string{client, ""}, nil},
		{"service-port-is-not-the-pods", bindingCase{services: []string{"a:8080 wp"}}, 80, []string{client, ""}, nil, nil},
		{"opted-out", bindingCase{services: []string{"a:8080 wp permissive"}}, 8080, []string{wp, client, ""}, nil, nil},
		{"headless", bindingCase{services: []string{"a:8080 wp headless"}}, 8080, []string{client, ""}, nil, nil},
		{"headless-beside-bound", bindingCase{services: []string{"a:8080 wp", "b:8080 wp2 headless"}}, 8080, []string{wp}, []string{wp2, client, ""}, nil},
		{"two-waypoints", bindingCase{services: []string{"a:8080 wp", "b:8080 wp2"}}, 8080, []string{wp, wp2}, []string{client, ""}, []string{wp + " or " + wp2}},
		{"two-ports", bindingCase{services: []string{"a:8080 wp", "b:8081 wp2"}}, 8081, []string{wp2}, []string{wp, client, ""}, []string{"service ns/b."}},
		{"beside-unbound", bindingCase{services: []string{"a:8080 wp", "b:8080 -"}}, 8080, []string{wp}, []string{client, ""}, []string{"service ns/a."}},
		{"beside-opted-out", bindingCase{services: []string{"a:8080 wp permissive", "b:8080 wp2"}}, 8080, []string{wp, wp2}, []string{client, ""}, []string{"service ns/b."}},
		{"all-opted-out", bindingCase{services: []string{"a:8080 wp permissive", "b:8080 wp2 permissive"}}, 8080, []string{wp, client, ""}, nil, nil},
		{"not-ready", bindingCase{services: []string{"a:8080 notready"}}, 8080, []string{spiffe("ns", "notready")}, []string{client, ""}, nil},
		{"absent", bindingCase{services: []string{"a:8080 gone"}}, 8080, nil, []string{spiffe("ns", "gone"), client, ""}, []string{"waypoint ns/gone", "does it exist?"}},
		{"absent-opted-out", bindingCase{services: []string{"a:8080 gone permissive"}}, 8080, []string{client, ""}, nil, nil},
		{"by-service", bindingCase{services: []string{"a:8080 wpsvc"}}, 8080, []string{svcWP}, []string{client, wp, ""}, []string{"ns/wpsvc.ns.svc.cluster.local"}},
		{"by-vip", bindingCase{services: []string{"a:8080 vip"}}, 8080, []string{svcWP}, []string{client, wp, ""}, []string{"10.96.1.1"}},
		{"by-address", bindingCase{services: []string{"a:8080 address"}}, 8080, []string{wp}, []string{client, ""}, nil},
		{"by-pod-address", bindingCase{services: []string{"a:8080 lone"}}, 8080, []string{lone}, []string{client, ""}, nil},
		{"waypoint-pod", bindingCase{services: []string{"a:8080 wp"}, pod: "- instance"}, 8080, []string{client, ""}, nil, nil},
		{"waypoints-account", bindingCase{services: []string{"a:8080 wp"}, pod: "- as-wp"}, 8080, []string{wp}, []string{client, ""}, []string{"service ns/a."}},
		{"waypoints-account-and-address", bindingCase{services: []string{"a:8080 address"}, pod: "- as-wp at-wp"}, 8080, []string{client, ""}, nil, nil},
		{"serves-as-waypoint", bindingCase{services: []string{"wpsvc:8080 wpsvc"}}, 8080, []string{client, ""}, nil, nil},
		{"workload", bindingCase{pod: "wp"}, 9090, []string{wp}, []string{client, ""}, []string{"workload ns/local is bound to waypoint ns/wp"}},
		{"workload-opted-out", bindingCase{pod: "wp permissive"}, 9090, []string{wp, client, ""}, nil, nil},
		{"workload-of-unbound-service", bindingCase{services: []string{"a:8080 -"}, pod: "wp"}, 8080, []string{client, ""}, nil, nil},
		{"workload-beside-its-service", bindingCase{services: []string{"a:8080 -"}, pod: "wp"}, 8081, []string{wp}, []string{client, ""}, nil},
		{"workload-of-headless", bindingCase{services: []string{"a:8080 - headless"}, pod: "wp"}, 8080, []string{wp}, []string{client, ""}, nil},
		{"workload-and-service", bindingCase{services: []string{"a:8080 wp2"}, pod: "wp"}, 8080, []string{wp, wp2}, []string{client, ""}, nil},
		{"workload-of-opted-out-service", bindingCase{services: []string{"a:8080 wp2 permissive"}, pod: "wp"}, 8080, []string{client, ""}, nil, nil},
		{"workload-itself-waypoint", bindingCase{pod: "wp as-wp at-wp"}, 8080, []string{client}, nil, nil},
		{"workload-of-waypoints-account", bindingCase{pod: "wp as-wp"}, 8080, []string{wp}, []string{client, ""}, nil},
		{"account", bindingCase{services: []string{"a:8080 -"}, pod: "wp account"}, 8080, []string{wp}, []string{client, ""}, []string{"workload ns/local"}},
		{"account-other-port", bindingCase{services: []string{"a:8080 -"}, pod: "wp account"}, 8081, []string{wp}, []string{client, ""}, nil},
		{"account-and-service", bindingCase{services: []string{"a:8080 wp2"}, pod: "wp account"}, 8080, []string{wp, wp2}, []string{client, ""}, nil},
		{"account-of-opted-out-service", bindingCase{services: []string{"a:8080 wp2 permissive"}, pod: "wp account"}, 8080, []string{wp, wp2}, []string{client, ""}, []string{"workload ns/local is bound to waypoint ns/wp"}},
		{"account-unknown", bindingCase{services: []string{"a:8080 -"}, pod: "- account"}, 8080, nil, []string{wp, client, ""}, []string{"waypoint of its service account"}},
		{"account-opted-out", bindingCase{services: []string{"a:8080 -"}, pod: "wp account permissive"}, 8080, []string{wp, client, ""}, nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, local := bindingMesh(tt.bindingCase)
			b := bindingOf(s, local)
			parse := func(uri string) (id mesh.Identity) {
				if uri != "" {
					var err error
					if id, err = mesh.ParseIdentity(uri); err != nil {
						t.Fatal(err)
					}
				}
				return id
			}
			for _, uri := range tt.good {
				if r := b.refusal(tt.port, parse(uri)); r != nil {
					t.Errorf("%q was refused: %v", uri, r)
				}
			}
			for _, uri := range tt.wrong {
				r := b.refusal(tt.port, parse(uri))
				if r == nil {
					t.Errorf("%q was let in", uri)
					continue
				}
				if r.Status != 401 || r.Flag != flagBinding {
					t.Errorf("%q: status %d, flag %s", uri, r.Status, r.Flag)
				}
				for _, want := range tt.says {
					if !strings.Contains(r.Reason, want) {
						t.Errorf("%q: the refusal %q lacks %q", uri, r.Reason, want)
					}
				}
			}
		})
	}
}

// TestAround tells who went around a waypoint, where anybody may.
func TestAround(t *testing.T) {
	client, wp := mesh.Identity{TrustDomain: "cluster.local", Namespace: "ns", ServiceAccount: "client"}, mesh.Identity{TrustDomain: "cluster.local", Namespace: "ns", ServiceAccount: "wp"}
	for _, tt := range []struct {
		name string
		bindingCase
		port uint16
		peer mesh.Identity
		want string
	}{
		{"client", bindingCase{services: []string{"a:8080 wp permissive"}}, 8080, client, "ns/wp"},
		{"plain", bindingCase{services: []string{"a:8080 wp permissive"}}, 8080, mesh.Identity{}, "ns/wp"},
		{"waypoint", bindingCase{services: []string{"a:8080 wp permissive"}}, 8080, wp, ""},
		{"gone", bindingCase{services: []string{"a:8080 gone permissive"}}, 8080, client, "ns/gone"},
		{"other_port", bindingCase{services: []string{"a:8080 wp permissive"}}, 8081, client, ""},
		{"unbound", bindingCase{services: []string{"a:8080 -"}}, 8080, client, ""},
		{"strict", bindingCase{services: []string{"a:8080 wp"}}, 8080, wp, ""},
		{"pod", bindingCase{pod: "wp permissive"}, 8080, client, "ns/wp"},
		{"pod_free_port", bindingCase{services: []string{"a:8080 -"}, pod: "wp permissive"}, 8080, client, ""},
		{"own", bindingCase{services: []string{"a:8080 address permissive"}, pod: "- as-wp at-wp"}, 8080, client, ""},
	} {
		s, local := bindingMesh(tt.bindingCase)
		b := bindingOf(s, local)
		if r := b.refusal(tt.port, tt.peer); r != nil {
			t.Errorf("%s: refused: %v", tt.name, r)
		}
		if got := b.around(tt.port, tt.peer); got != tt.want {
			t.Errorf("%s: around %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestBindingAlias has a waypoint whose certificate is still of the mesh's former name.
func TestBindingAlias(t *testing.T) {
	local := pod("ns", "local", "10.0.0.1")
	v := svcOf("ns", "a", "10.96.0.1", local)
	v.Waypoint = wpRef("ns", "wp")
	s := mesh.NewSnapshot(1, mesh.Parts{
		TrustDomainAliases: []string{"old.local"},
		Workloads:          []*mesh.Workload{local}, Services: []*mesh.Service{v}, Waypoints: []*mesh.Waypoint{gateway("ns", "wp", "10.0.2.1")},
	})
	b := bindingOf(s, local)
	for domain, want := range map[string]bool{"cluster.local": true, "old.local": true, "other.local": false} {
		if r := b.refusal(8080, mesh.Identity{TrustDomain: domain, Namespace: "ns", ServiceAccount: "wp"}); (r == nil) != want {
			t.Errorf("the waypoint of %s: %v", domain, r)
		}
	}
}

// TestPermissive asks where to go when there is no way through the waypoint.
func TestPermissive(t *testing.T) {
	tests := []struct {
		name   string
		c      bindingCase
		target string
		tried  string
		want   string // the hop, or
		refuse string // why there is none
	}{
		{"ready", bindingCase{services: []string{"a:8080 wp permissive"}}, "10.96.0.1:80", "", "10.0.2.1:15008", ""},
		{"strict-absent", bindingCase{services: []string{"a:8080 gone"}}, "10.96.0.1:80", "", "", "waypoint ns/gone, to which service ns/a.ns.svc.cluster.local is bound, is not known; traffic is not passed around it (the label policy.cairnproxy.dev/waypoint-binding"},
		{"strict-not-ready", bindingCase{services: []string{"a:8080 notready"}}, "10.96.0.1:80", "", "", "has no ready instance"},
		{"strict-tried", bindingCase{services: []string{"a:8080 wp"}}, "10.96.0.1:80", "10.0.2.1:15008", "", "could not be reached"},
		{"absent", bindingCase{services: []string{"a:8080 gone permissive"}}, "10.96.0.1:80", "", "10.0.0.1:15008", ""},
		{"not-ready", bindingCase{services: []string{"a:8080 notready permissive"}}, "10.96.0.1:80", "", "10.0.0.1:15008", ""},
		{"tried", bindingCase{services: []string{"a:8080 wp permissive"}}, "10.96.0.1:80", "10.0.2.1:15008", "10.0.0.1:15008", ""},
		{"account-strict", bindingCase{services: []string{"a:8080 - "}, pod: "gone account"}, "10.96.0.1:80", "", "", "waypoint ns/gone"},
		{"account", bindingCase{services: []string{"a:8080 -"}, pod: "gone account permissive"}, "10.96.0.1:80", "", "10.0.0.1:15008", ""},
		{"account-of-permissive", bindingCase{services: []string{"a:8080 gone permissive"}, pod: "wp account"}, "10.96.0.1:80", "", "10.0.2.1:15008", ""},
		{"workload-strict", bindingCase{pod: "gone"}, "10.0.0.1:8080", "", "", "workload 10.0.0.1"},
		{"workload", bindingCase{pod: "gone permissive"}, "10.0.0.1:8080", "", "10.0.0.1:15008", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, _ := bindingMesh(tt.c)
			req := OutboundRequest{Source: s.WorkloadAt("", ip("10.0.0.9")), SourceAddr: ip("10.0.0.9"), Target: ap(tt.target), Rand: newRand(1)}
			if tt.tried != "" {
				req.Tried = []netip.AddrPort{ap(tt.tried)}
			}
			h, err := DecideOutbound(s, req)
			if tt.refuse != "" {
				var r *Refusal
				if !errors.As(err, &r) || r.Flag != flagBinding || !strings.Contains(r.Reason, tt.refuse) {
					t.Fatalf("got %+v, %v; want a refusal that says %q", viewOf(h), err, tt.refuse)
				}
				return
			}
			if err != nil || h.Addr.String() != tt.want {
				t.Fatalf("got %v, %v; want %s", h.Addr, err, tt.want)
			}
			if (h.Around != "") == h.Waypoint {
				t.Errorf("the hop %v, a waypoint: %v, goes around %q", h.Addr, h.Waypoint, h.Around)
			}
		})
	}
}

// dialAs makes a CONNECT to the world's server, as any peer could, and returns its status.
func (w *world) dialAs(t *testing.T, ns, sa, authority string) int {
	t.Helper()
	pool := tunnel.NewPool(tunnel.PoolOptions{
		Dial: func(ctx context.Context, source netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
			return new(net.Dialer).DialTCP(ctx, "tcp", netip.AddrPortFrom(source, 0), to)
		},
		TLS: w.certs.Client,
	})
	defer pool.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	s, err := pool.Dial(ctx, tunnel.Target{
		Addr: ap(w.addr(2) + ":15008"), Own: mesh.Identity{TrustDomain: "cluster.local", Namespace: ns, ServiceAccount: sa},
		Expect: []string{spiffe("ns", "server")}, Source: ip(w.addr(1)),
	}, tunnel.Request{Authority: authority})
	if status, ok := errors.AsType[*tunnel.StatusError](err); ok {
		return status.Code
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Abandon()
	return 200
}

// TestBoundService goes around a waypoint by HBONE, straight to the pod, while the binding
// changes.
func TestBoundService(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.parts.Waypoints = []*mesh.Waypoint{gateway("ns", "wp", w.addr(50))}
	})
	w.listen(w.addr(2)+":8080", echo)
	w.listen(w.addr(2)+":8081", echo)
	bound, other := w.addr(2)+":8080", w.addr(2)+":8081"
	check := func(when string, ns, sa, authority string, want int) {
		t.Helper()
		if got := w.dialAs(t, ns, sa, authority); got != want {
			t.Errorf("%s: CONNECT %s as %s: %d, want %d", when, authority, sa, got, want)
		}
	}
	check("unbound", "ns", "client", bound, 200)
	svc := *w.parts.Services[0]
	svc.Waypoint = wpRef("ns", "wp")
	w.parts.Services = []*mesh.Service{&svc}
	w.publish(w.parts)
	check("bound", "ns", "client", bound, 401)
	check("bound", "ns", "client", "echo.ns.svc.cluster.local:8000", 401)
	check("bound", "ns", "wp", bound, 200)
	check("bound", "else", "wp", bound, 401)
	check("bound", "ns", "client", other, 200)
	opted := svc
	opted.WaypointOptional = true
	w.parts.Services = []*mesh.Service{&opted}
	w.publish(w.parts)
	check("opted out", "ns", "client", bound, 200)
	check("opted out", "ns", "client", other, 200)
	check("opted out", "ns", "wp", bound, 200)
	w.close()
	var text strings.Builder
	if err := w.m.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	const counted = `cairn_waypoint_bypassed_total{reporter="destination",waypoint="ns/wp"} 1`
	if n := strings.Count(w.logged(), `around_waypoint="ns/wp"`); n != 1 || !strings.Contains(text.String(), counted) {
		t.Errorf("%d connections are marked as going around the waypoint, want 1; the metrics lack %s:\n%s", n, counted, w.logged())
	}
	if log := w.logged(); !strings.Contains(log, "did not come through it: service ns/echo.ns.svc.cluster.local is bound to waypoint ns/wp") {
		t.Errorf("the access log does not say why:\n%s", log)
	}
}

// TestBoundLater closes the connections that go around a waypoint from the moment on in which
// there is one, and not those that came through a waypoint.
func TestBoundLater(t *testing.T) {
	local := pod("ns", "local", "10.0.0.1")
	v := svcOf("ns", "a", "10.96.0.1", local)
	v.Waypoint = wpRef("ns", "wp")
	s := mesh.NewSnapshot(1, mesh.Parts{
		Workloads: []*mesh.Workload{local}, Services: []*mesh.Service{v},
		Waypoints: []*mesh.Waypoint{gateway("ns", "wp", "10.0.2.1"), gateway("ns", "before", "10.0.2.2")},
	})
	p, err := New(Options{Snapshots: source.NewStore(), Certificates: identity.NewCache(nil, identity.CacheOptions{})})
	if err != nil {
		t.Fatal(err)
	}
	st := &site{p: p, local: func(s *mesh.Snapshot) *mesh.Workload { return local }}
	for sa, want := range map[string]error{"client": errBindingChange, "wp": nil, "before": nil} {
		c := &connection{site: st}
		c.facts.Peer = mesh.Identity{TrustDomain: "cluster.local", Namespace: "ns", ServiceAccount: sa}
		c.facts.Destination = ap("10.0.0.1:8080")
		got := p.recheck(s, c)
		if want == nil && got != nil || want != nil && !errors.Is(got, want) {
			t.Errorf("the connection of %s: %v, want %v", sa, got, want)
		}
	}
}

// TestBoundMeanwhile: a connection is judged by what its destination is when it is judged, and
// not by what that was when it came.
func TestBoundMeanwhile(t *testing.T) {
	before, now := pod("ns", "local", "10.0.0.1"), pod("ns", "local", "10.0.0.1")
	v := svcOf("ns", "a", "10.96.0.1", now)
	v.Waypoint = wpRef("ns", "wp")
	store := source.NewStore()
	store.Publish(mesh.Parts{Workloads: []*mesh.Workload{now}, Services: []*mesh.Service{v}, Waypoints: []*mesh.Waypoint{gateway("ns", "wp", "10.0.2.1")}})
	p, err := New(Options{Snapshots: store, Certificates: identity.NewCache(nil, identity.CacheOptions{})})
	if err != nil {
		t.Fatal(err)
	}
	c := &connection{site: &site{p: p, local: func(s *mesh.Snapshot) *mesh.Workload { return s.Workload(now.UID) }}}
	c.facts.Peer = mesh.Identity{TrustDomain: "cluster.local", Namespace: "ns", ServiceAccount: "client"}
	c.facts.Destination = ap("10.0.0.1:8080")
	if r := p.decide(before, c); r == nil || r.Flag != flagBinding {
		t.Errorf("decided %v by the workload of a state that is over", r)
	}
}

func BenchmarkBinding(b *testing.B) {
	s, local := bindingMesh(bindingCase{services: []string{"a:8080 wp", "b:8081 wp2"}})
	bound := bindingOf(s, local)
	peer := s.Waypoint(mesh.Name{Namespace: "ns", Name: "wp"}).Identity
	b.ReportAllocs()
	for b.Loop() {
		if bound.refusal(8080, peer) != nil || bound.refusal(9090, peer) != nil {
			b.Fatal("refused")
		}
	}
}
