package waypoint

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

func balancer(b mesh.Balancer) *mesh.BackendPolicy { return &mesh.BackendPolicy{Balancer: &b} }

func TestHashedRequests(t *testing.T) {
	for _, kind := range []mesh.BalancerPolicy{mesh.BalanceRingHash, mesh.BalanceMaglev, mesh.BalanceRendezvous} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			parts, v := several(8)
			v.Ports[0].Backend = balancer(mesh.Balancer{Kind: kind, Hash: []mesh.HashKey{{Kind: mesh.HashHeader, Name: "x-user"}, {Kind: mesh.HashQuery, Name: "tenant"}}})
			s, other := newStickyLab(t, parts), newStickyLab(t, parts)
			seen := map[string]bool{}
			for i := range 30 {
				who, resp := s.ask(v, "/?tenant=a%20b", fmt.Sprint("X-User: u", i))
				if cookie(resp) != nil {
					t.Fatal("a cookie that nobody asked for")
				}
				seen[who] = true
				for _, l := range []*stickyLab{s, other} {
					if again, _ := l.ask(v, "/path?x=y&tenant=a+b", fmt.Sprint("X-User: u", i)); again != who {
						t.Fatalf("user %d goes to %s and to %s", i, who, again)
					}
				}
			}
			if len(seen) < 5 {
				t.Errorf("30 users go to %d endpoints of 8", len(seen))
			}
			clear(seen)
			for range 60 { // without a key
				who, _ := s.ask(v, "/")
				seen[who] = true
			}
			if len(seen) < 5 {
				t.Errorf("60 requests without a key go to %d endpoints of 8", len(seen))
			}
		})
	}
}

func TestHashCookieIsMade(t *testing.T) {
	parts, v := several(8)
	v.Ports[0].Backend = balancer(mesh.Balancer{Kind: mesh.BalanceRingHash, Hash: []mesh.HashKey{{Kind: mesh.HashCookie, Name: "route", Path: "/app", TTL: 90 * time.Second}}})
	s := newStickyLab(t, parts)
	for range 10 {
		who, resp := s.ask(v, "/app/x")
		c := cookie(resp)
		if c == nil || c.Name != "route" || c.Path != "/app" || c.MaxAge != 90 || !c.HttpOnly {
			t.Fatalf("cookie %v", c)
		}
		for range 3 {
			again, resp := s.ask(v, "/app/y", bring(c))
			if again != who || cookie(resp) != nil {
				t.Fatalf("%s answers after %s and sets %v", again, who, cookie(resp))
			}
		}
	}
	v.Ports[0].Backend = balancer(mesh.Balancer{Kind: mesh.BalanceRingHash, Hash: []mesh.HashKey{{Kind: mesh.HashCookie, Name: "route", Session: true}}})
	s = newStickyLab(t, parts)
	if _, resp := s.ask(v, "/"); cookie(resp) == nil || cookie(resp).MaxAge != 0 || cookie(resp).Path != "" {
		t.Errorf("cookie %v, want one without a lifetime", cookie(resp))
	}
}

// TestBalancerEdited: another balancer for the same service finds the same counters and
// connections, and one with more endpoints the place in its round.
func TestBalancerEdited(t *testing.T) {
	parts, v := several(4)
	s := newStickyLab(t, parts)
	for range 40 {
		s.ask(v, "/")
	}
	conns := len(s.peers)
	if conns != 4 {
		t.Fatalf("40 requests reached %d workloads of 4", conns)
	}
	edit := func(b mesh.Balancer) *mesh.Service {
		v2 := *v
		v2.Ports = append([]mesh.ServicePort(nil), v.Ports...)
		v2.Ports[0].Backend = balancer(b)
		s.parts.Services = []*mesh.Service{&v2}
		s.publish()
		return &v2
	}
	opened := func() (n int) {
		for _, p := range s.peers {
			n += len(p.conns)
		}
		return n
	}
	before := opened()
	v2 := edit(mesh.Balancer{Kind: mesh.BalanceRoundRobin})
	var order []string
	for range 8 {
		who, _ := s.ask(v2, "/")
		order = append(order, who)
	}
	for i := range 4 {
		if order[i] != order[i+4] || i > 0 && order[i] == order[0] {
			t.Errorf("round robin went %v", order)
			break
		}
	}
	v3 := edit(mesh.Balancer{Kind: mesh.BalanceRendezvous, Hash: []mesh.HashKey{{Kind: mesh.HashSource}}})
	who, _ := s.ask(v3, "/")
	for range 10 {
		if again, _ := s.ask(v3, "/"); again != who {
			t.Fatalf("one client goes to %s and %s", who, again)
		}
	}
	if n := opened(); n != before {
		t.Errorf("%d HBONE connections after edits, %d before", n, before)
	}
	for cl := range s.p.runtime.Load().allClusters() {
		for _, ep := range cl.c.Endpoints() {
			if ep.Active() != 0 {
				t.Errorf("%s has %d requests in flight", ep.Authority(), ep.Active())
			}
		}
	}
}

// TestOwnPlace: preferences for near endpoints are from where the waypoint is.
func TestOwnPlace(t *testing.T) {
	parts, v := several(6)
	for i, w := range parts.Workloads {
		w.Region, w.Zone = "r", []string{"a", "b", "c"}[i/2]
	}
	v.Locality, v.RoutingPreferences = mesh.LocalityFailover, []string{"NETWORK", "REGION", "ZONE"}
	self := func(zone string) *mesh.Workload {
		w := labWorkload(200)
		w.Addresses, w.IsWaypoint, w.Region, w.Zone = labWaypoint.Addresses, true, "r", zone
		return w
	}
	works := parts.Workloads
	zoneOf := func(who string) string {
		for _, w := range works {
			if strings.HasPrefix(who, w.Addresses[0].String()+":") || who == w.Addresses[0].String() {
				return w.Zone
			}
		}
		return who
	}
	s := newStickyLab(t, parts)
	zones := func() map[string]int {
		n := map[string]int{}
		for range 60 {
			who, _ := s.ask(v, "/")
			n[zoneOf(who)]++
		}
		return n
	}
	if n := zones(); len(n) != 3 {
		t.Errorf("where the waypoint's place is not known: %v, want all zones", n)
	}
	for _, zone := range []string{"b", "c"} {
		s.parts.Workloads = append([]*mesh.Workload{self(zone)}, works...)
		s.publish()
		if n := zones(); n[zone] != 60 {
			t.Errorf("a waypoint in %s sends to %v", zone, n)
		}
	}
	s.parts.Workloads = append([]*mesh.Workload{self("c")}, works[:4]...) // nothing in c
	s.publish()
	if n := zones(); n["a"] == 0 || n["b"] == 0 {
		t.Errorf("with nothing in its zone it sends to %v", n)
	}
}

// TestConnectionsAreHashed: bytes that are not HTTP go by the client's address.
func TestConnectionsAreHashed(t *testing.T) {
	parts, v := several(8)
	v.Ports[0].Protocol = mesh.ProtocolTCP
	v.Ports[0].Backend = balancer(mesh.Balancer{Kind: mesh.BalanceMaglev, Hash: []mesh.HashKey{{Kind: mesh.HashHeader, Name: "x"}, {Kind: mesh.HashSource}}})
	s := newScript(t, parts)
	for range 12 {
		c := s.tunnel(vip(v), true)
		s.send(c, "hello", false)
	}
	used := 0
	for _, p := range s.peers {
		if len(p.conns) > 0 {
			used++
		}
	}
	if used != 1 || len(s.works) != 12 {
		t.Errorf("12 connections of one client went to %d workloads on %d streams", used, len(s.works))
	}
}

// TestWarming: a new endpoint's weight rises by the waypoint's own clockwork, and a
// service that has gone is forgotten.
func TestWarming(t *testing.T) {
	parts, v := several(4)
	v.Ports[0].Backend = balancer(mesh.Balancer{Kind: mesh.BalanceRoundRobin, SlowStart: &mesh.SlowStart{Window: time.Hour, MinPercent: 1}})
	all := parts.Workloads
	parts.Workloads = all[:3]
	s := newStickyLab(t, parts)
	s.parts.Workloads = all
	s.publish()
	s.p.warm()
	newcomer := 0
	for range 90 {
		if who, _ := s.ask(v, "/"); strings.HasPrefix(who, all[3].Addresses[0].String()+":") {
			newcomer++
		}
	}
	if newcomer > 3 {
		t.Errorf("the new one of four has %d of 90 requests", newcomer)
	}
	if n := len(s.p.warming); n != 1 {
		t.Errorf("%d clusters warm up, want the one in force", n)
	}
	s.parts.Services = nil
	s.publish()
	if n := len(s.p.warming); n != 0 {
		t.Errorf("%d clusters warm up after their service has gone", n)
	}
}

// Sessions, hash keys and peak EWMA cost no allocation.
func TestAllocationsWithAffinity(t *testing.T) {
	if raceDetector {
		t.Skip("pools forget under the race detector")
	}
	hashed := func(kind mesh.BalancerPolicy, k mesh.HashKey) func(*mesh.Service) {
		return func(v *mesh.Service) {
			v.Ports[0].Backend = balancer(mesh.Balancer{Kind: kind, Hash: []mesh.HashKey{k}})
		}
	}
	cases := map[string]func(*mesh.Service){
		"session":        func(v *mesh.Service) { v.Ports[0].Requests = sessionOf(mesh.Session{Name: "sid"}) },
		"session_header": func(v *mesh.Service) { v.Ports[0].Requests = sessionOf(mesh.Session{Name: "x-sid", Header: true}) },
		"maglev_cookie":  hashed(mesh.BalanceMaglev, mesh.HashKey{Kind: mesh.HashCookie, Name: "sid", TTL: time.Hour}),
		"ring_query":     hashed(mesh.BalanceRingHash, mesh.HashKey{Kind: mesh.HashQuery, Name: "page"}),
		"source":         hashed(mesh.BalanceRendezvous, mesh.HashKey{Kind: mesh.HashSource}),
		"ewma":           func(v *mesh.Service) { v.Ports[0].Backend = balancer(mesh.Balancer{Kind: mesh.BalancePeakEWMA}) },
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			parts, v := oneService(mesh.ProtocolHTTP)
			v.Ports[0].Requests = sessionOf(mesh.Session{Name: "sid"})
			_, resp := newStickyLab(t, parts).ask(v, "/")
			request := strings.Replace(benchRequest, "Accept:", bring(cookie(resp))+"\r\nAccept:", 1)
			b := newBench(t, request, benchResponse+strings.Repeat("x", 1024), func(_ *mesh.Parts, v *mesh.Service) { change(v) })
			if n := allocations(t, b.round, 1100); n > 0 {
				t.Errorf("%v allocations per request, want none", n)
			}
		})
	}
}

func TestPlaceIsOurAddress(t *testing.T) {
	w := labWorkload(7)
	w.Addresses = []netip.Addr{netip.MustParseAddr("10.9.9.9")}
	c := &compiler{p: &Proxy{o: Options{Addresses: []netip.Addr{netip.MustParseAddr("::ffff:10.9.9.9")}}}, snap: mesh.NewSnapshot(1, mesh.Parts{Workloads: []*mesh.Workload{w}})}
	if got := c.place(); got == nil || got.UID != w.UID {
		t.Errorf("our place is %v, want %s", got, w.UID)
	}
	if describe(nil) != "" || describe(w) == describe(&mesh.Workload{Zone: "z"}) {
		t.Error("places are not told apart")
	}
}
