package up

import (
	"fmt"
	"net/netip"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

func TestLoopbackStable(t *testing.T) {
	a, b := newTestLoopback(t, "127.64.0.0/10"), newTestLoopback(t, "127.64.0.0/10")
	for _, n := range []string{"productpage", "details", "reviews", "ratings"} {
		name := mesh.Name{Namespace: "ns", Name: n}
		b.Pod(name)
		got, want := a.Service(name), b.Service(name)
		if got != want {
			t.Errorf("%s: address %s in one run, %s in another", n, got, want)
		}
		if again := a.Service(name); again != got {
			t.Errorf("%s: second question answered %s, want %s", n, again, got)
		}
		if !netip.MustParsePrefix("127.64.0.0/11").Contains(got) {
			t.Errorf("%s: service address %s not in the lower half", n, got)
		}
	}
}

func TestLoopbackDistinct(t *testing.T) {
	a := newTestLoopback(t, "127.70.0.0/23")
	seen := map[netip.Addr]string{}
	for i := range 254 {
		n := fmt.Sprintf("p%d", i)
		got := a.Pod(mesh.Name{Name: n})
		if old, dup := seen[got]; dup {
			t.Fatalf("%s and %s both have %s", old, n, got)
		}
		if b := got.As4()[3]; b == 0 || b == 255 {
			t.Errorf("%s has %s", n, got)
		}
		seen[got] = n
	}
	if got := a.Waypoint(mesh.Name{Name: "one-too-many"}); got.IsValid() {
		t.Errorf("the 255th of 254 addresses is %s, want none", got)
	}
}

func TestLoopbackRange(t *testing.T) {
	for _, r := range []string{"10.0.0.0/8", "127.0.0.0/24", "::1/128", "126.0.0.0/7"} {
		if _, err := NewLoopback(netip.MustParsePrefix(r)); err == nil {
			t.Errorf("range %s accepted", r)
		}
	}
}

func newTestLoopback(t *testing.T, r string) *Allocator {
	t.Helper()
	a, err := NewLoopback(netip.MustParsePrefix(r))
	if err != nil {
		t.Fatal(err)
	}
	return a
}
