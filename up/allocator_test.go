package up

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestLoopbackStable(t *testing.T) {
	a, b := newTestLoopback(t, "127.64.0.0/10"), newTestLoopback(t, "127.64.0.0/10")
	for _, n := range []string{"productpage", "details", "reviews", "ratings"} {
		assign(t, b, KindPod, "other-"+n, "")
		got, want := assign(t, a, KindService, n, ""), assign(t, b, KindService, n, "")
		if got != want {
			t.Errorf("%s: address %s in one run, %s in another", n, got, want)
		}
		if again := assign(t, a, KindService, n, ""); again != got {
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
		got := assign(t, a, KindPod, n, "")
		if old, dup := seen[got]; dup {
			t.Fatalf("%s and %s both have %s", old, n, got)
		}
		if b := got.As4()[3]; b == 0 || b == 255 {
			t.Errorf("%s has %s", n, got)
		}
		seen[got] = n
	}
	if got, err := a.Assign(KindPod, "ns", "one-too-many", netip.Addr{}); err == nil {
		t.Errorf("the 255th of 254 addresses is %s, want an error", got)
	}
}

func TestGivenAddresses(t *testing.T) {
	a := newTestLoopback(t, "127.64.0.0/10")
	if got := assign(t, a, KindService, "a", "127.5.0.1"); got != netip.MustParseAddr("127.5.0.1") {
		t.Errorf("given 127.5.0.1, got %s", got)
	}
	_, err := a.Assign(KindPod, "ns", "b", netip.MustParseAddr("127.5.0.1"))
	if err == nil || !strings.Contains(err.Error(), "Service ns/a") {
		t.Errorf("the same address twice: error %v, want one that names Service ns/a", err)
	}
	if got := assign(t, a, KindService, "c", "10.96.0.10"); !DefaultRange.Contains(got) {
		t.Errorf("an address of a cluster became %s, want one in %s", got, DefaultRange)
	}
	moved := assign(t, a, KindService, "c", "127.5.0.2")
	if moved != netip.MustParseAddr("127.5.0.2") {
		t.Errorf("an address given later is %s, want 127.5.0.2", moved)
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

func assign(t *testing.T, a *Allocator, k Kind, name, given string) netip.Addr {
	t.Helper()
	var g netip.Addr
	if given != "" {
		g = netip.MustParseAddr(given)
	}
	got, err := a.Assign(k, "ns", name, g)
	if err != nil {
		t.Fatalf("Assign(%s, %s, %s): %v", k, name, given, err)
	}
	return got
}
