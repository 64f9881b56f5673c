package waypoint

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

func TestDestinationByName(t *testing.T) {
	srv := serveHTTP(named("ext"))
	var calls atomic.Int64
	var answer atomic.Pointer[[]netip.Addr]
	var v *mesh.Service
	var good netip.Addr
	r := newRig(t, func(r *rig) mesh.Parts {
		w := r.outside("ext", 8080, srv)
		good = w.Addresses[0]
		w.Addresses, w.Hostname = nil, "ext.example.com"
		v = r.service("ext", 80, mesh.ProtocolHTTP, w)
		return mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{v}}
	})
	r.proxy.o.Resolve = func(_ context.Context, host string) ([]netip.Addr, error) {
		calls.Add(1)
		if host != "ext.example.com" {
			t.Errorf("asked for %q", host)
		}
		if p := answer.Load(); p != nil {
			return *p, nil
		}
		return nil, errors.New("no such host")
	}
	c := r.client(v, false)
	if status, body, _ := get(t, c, "http://ext.example.com/"); status != 503 || !strings.Contains(body, "connection failure") {
		t.Errorf("before the name is known: %d %q", status, body)
	}
	dead := r.address()
	answer.Store(&[]netip.Addr{dead, netip.MustParseAddr("::ffff:127.0.0.9"), good})
	asked := calls.Load()
	for range 3 {
		c := r.client(v, false)
		if status, _, _ := get(t, c, "http://ext.example.com/"); status != 200 {
			t.Fatalf("with several addresses: %d", status)
		}
	}
	if n := calls.Load() - asked; n != 1 {
		t.Errorf("%d questions, want 1", n)
	}
	r.stop()
	if !strings.Contains(r.log.String(), "resolving ext.example.com: no such host") {
		t.Errorf("access log %q", r.log)
	}
}

func TestInTurn(t *testing.T) {
	parse := func(s string) (out []netip.Addr) {
		for _, f := range strings.Fields(s) {
			out = append(out, netip.MustParseAddr(f))
		}
		return out
	}
	for in, want := range map[string]string{
		"::1 ::2 1.1.1.1 ::3 1.1.1.2": "[::1 1.1.1.1 ::2 1.1.1.2 ::3]",
		"1.1.1.1 ::ffff:1.1.1.2":      "[1.1.1.1 1.1.1.2]",
		"1.1.1.1 ::1":                 "[1.1.1.1 ::1]",
	} {
		if got := fmt.Sprint(inTurn(parse(in))); got != want {
			t.Errorf("inTurn(%s) = %s, want %s", in, got, want)
		}
	}
	if n := len(inTurn(make([]netip.Addr, 100))); n > maxResolved {
		t.Errorf("%d addresses", n)
	}
}
