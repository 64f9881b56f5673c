package up

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
)

func testParts() mesh.Parts {
	key := mesh.ServiceKey{Namespace: "ns", Hostname: "a.ns.svc.cluster.local"}
	route := &mesh.Route{
		Object:   mesh.Name{Namespace: "ns", Name: "r"},
		Matches:  []mesh.RouteMatch{{Path: &mesh.StringMatch{}}, {Method: "GET"}},
		Filters:  mesh.RouteFilters{RequestHeaders: &mesh.HeaderEdits{Set: []mesh.Field{{Name: "a", Value: "b"}}}},
		Backends: []mesh.Backend{{Service: key, Port: 80, Weight: 1}},
		Requests: &mesh.RequestPolicy{Timeouts: &mesh.Timeouts{Request: time.Second}},
	}
	return mesh.Parts{
		TrustDomain: "td",
		Services: []*mesh.Service{{
			Key: key, Name: "a", VIPs: []netip.Addr{netip.MustParseAddr("127.64.0.1")},
			Ports: []mesh.ServicePort{{Name: "http", Port: 80, TargetPort: 8080, Protocol: mesh.ProtocolHTTP}}, Waypoint: &mesh.WaypointRef{Port: 15008},
		}},
		Workloads: []*mesh.Workload{{
			UID: "k//Pod/ns/a", Name: "a", Namespace: "ns", Ready: true, Addresses: []netip.Addr{netip.MustParseAddr("127.96.0.1")},
			Services: map[mesh.ServiceKey]map[uint16]uint16{key: {80: 8080}},
		}},
		Attachments: []mesh.RouteAttachment{{Service: key, Route: route}},
		Policies: []*mesh.AuthorizationPolicy{{
			Name:  mesh.Name{Namespace: "ns", Name: "p"},
			Rules: []mesh.AuthzRule{{From: []mesh.AuthzSource{{IPBlocks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}}},
		}},
		L4Policies: []*mesh.L4Policy{{Rules: [][][]mesh.L4Match{{{}}, {{{DestinationPorts: []uint16{1}}}}}}},
	}
}

// linked runs both ends of a link over an in-memory connection.
func linked(t *testing.T, parent *parentEnd) (*childEnd, net.Conn) {
	t.Helper()
	a, b := net.Pipe()
	child := newChildEnd(b)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- parent.run(ctx, a) }()
	go func() { done <- child.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; <-done })
	return child, a
}

func TestLinkSnapshots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := source.NewStore()
		store.Publish(testParts())
		child, _ := linked(t, &parentEnd{store: store})
		synctest.Wait()
		want := store.Current().Parts
		if d := cmp.Diff(want, child.store.Current().Parts, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("the child's parts differ (-parent +child):\n%s", d)
		}
		first := child.store.Current().Services[0]
		p := testParts()
		p.Policies = nil
		store.Publish(p)
		synctest.Wait()
		got := child.store.Current()
		if len(got.Policies) != 0 {
			t.Errorf("the child still has %d policies after they were removed", len(got.Policies))
		}
		if got.Services[0] != first {
			t.Error("an unchanged service came as a new object: everything would be compiled anew")
		}
		if want := store.Current().Version; got.Version != want {
			t.Errorf("the child serves by version %d of the parent's %d: what it reports as applied means something else", got.Version, want)
		}
	})
}

func TestLinkCertificates(t *testing.T) {
	ca, err := identity.NewCA("td")
	if err != nil {
		t.Fatal(err)
	}
	child, _ := linked(t, &parentEnd{store: source.NewStore(), issuer: ca.Issuer(0)})
	id := mesh.Identity{TrustDomain: "td", Namespace: "ns", ServiceAccount: "a"}
	c, err := child.Issue(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if c.Identity != id {
		t.Errorf("issued for %s, want %s", c.Identity, id)
	}
	other := mesh.Identity{TrustDomain: "elsewhere", Namespace: "ns", ServiceAccount: "a"}
	if _, err := child.Issue(t.Context(), other); err == nil {
		t.Error("a certificate of another trust domain was issued")
	}
}

func TestLinkServing(t *testing.T) {
	got := make(chan serving, 1)
	child, _ := linked(t, &parentEnd{store: source.NewStore(), serving: func(s serving) { got <- s }})
	want := serving{Bound: boundPorts{netip.MustParseAddrPort("127.64.0.1:80"): 10080}}
	if err := child.serving(want); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, <-got, cmpopts.EquateComparable(netip.AddrPort{})); d != "" {
		t.Errorf("-sent +received:\n%s", d)
	}
}

func TestLinkApplied(t *testing.T) {
	got := make(chan uint64, 1)
	child, _ := linked(t, &parentEnd{store: source.NewStore(), applied: func(version uint64) { got <- version }})
	if err := child.applied(7); err != nil {
		t.Fatal(err)
	}
	if version := <-got; version != 7 {
		t.Errorf("the parent heard of version %d, want 7", version)
	}
}

// What is told to be ready is what the very next request meets.
func TestAwaitApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRunningProxy(spec{}, Pod{})
		ctx, cancel := context.WithTimeout(t.Context(), applyWithin)
		defer cancel()
		var held atomic.Int32
		await := func(version uint64) {
			go func() {
				if p.awaitApplied(ctx, version) {
					held.Add(1)
				}
			}()
		}
		await(2)
		await(3)
		for _, step := range []struct {
			version uint64
			want    int32
		}{{1, 0}, {2, 1}, {2, 1}, {4, 2}} {
			p.setApplied(step.version)
			synctest.Wait()
			if held.Load() != step.want {
				t.Fatalf("after version %d, %d of the waits for 2 and 3 are over, want %d", step.version, held.Load(), step.want)
			}
		}
		if p.awaitApplied(ctx, 9) {
			t.Error("a version that never came counts as applied")
		}
		close(p.done)
		if p.awaitApplied(t.Context(), 9) {
			t.Error("a proxy that has ended applied a version")
		}
	})
}

func TestLinkParentGone(t *testing.T) {
	stuck := identity.IssuerFunc(func(ctx context.Context, _ mesh.Identity) (*identity.Cert, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	child, conn := linked(t, &parentEnd{store: source.NewStore(), issuer: stuck})
	failed := make(chan error)
	go func() {
		_, err := child.Issue(t.Context(), mesh.Identity{TrustDomain: "td", Namespace: "ns", ServiceAccount: "a"})
		failed <- err
	}()
	conn.Close()
	if err := <-failed; err == nil {
		t.Error("a certificate came from a parent that is gone")
	}
	if _, err := child.Issue(t.Context(), mesh.Identity{}); err == nil && !errors.Is(err, errParentGone) {
		t.Errorf("error %v, want %v", err, errParentGone)
	}
}
