package ztunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel"
)

// TestConnectStatus speaks HBONE to a pod as any peer could, and looks at the
// answers to what should not be asked.
func TestConnectStatus(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.parts.Policies = []*mesh.AuthorizationPolicy{deny("no-other", "cluster.local/ns/ns/sa/other")}
	})
	w.listen(w.addr(2)+":8080", echo)
	pool := tunnel.NewPool(tunnel.PoolOptions{
		Dial: func(ctx context.Context, source netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
			return new(net.Dialer).DialTCP(ctx, "tcp", netip.AddrPortFrom(source, 0), to)
		},
		TLS: w.certs.Client,
	})
	defer pool.Close()
	tests := []struct {
		name, own, authority string
		status               int
	}{
		{"good", "client", w.addr(2) + ":8080", 200},
		{"by-service-name", "client", "echo.ns.svc.cluster.local:8000", 200},
		{"other-pod", "client", w.addr(3) + ":8080", 400},
		{"elsewhere", "client", "1.2.3.4:80", 400},
		{"localhost", "client", "127.0.0.1:8080", 400},
		{"vip", "client", w.service(), 400},
		{"garbage", "client", "not an authority", 400},
		{"no-port", "client", w.addr(2), 400},
		{"unknown-name", "client", "nope.example.com:80", 503},
		{"unknown-port", "client", "echo.ns.svc.cluster.local:1", 503},
		{"back-to-itself", "client", w.addr(2) + ":15008", 503},
		{"nobody-listens", "client", w.addr(2) + ":8081", 503},
		{"denied", "other", w.addr(2) + ":8080", 401},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			s, err := pool.Dial(ctx, tunnel.Target{
				Addr: ap(w.addr(2) + ":15008"), Own: mesh.Identity{TrustDomain: "cluster.local", Namespace: "ns", ServiceAccount: tt.own},
				Expect: []string{spiffe("ns", "server")}, Source: ip(w.addr(1)),
			}, tunnel.Request{Authority: tt.authority})
			got := 200
			if status, ok := errors.AsType[*tunnel.StatusError](err); ok {
				got = status.Code
			} else if err != nil {
				t.Fatal(err)
			} else {
				s.Abandon()
			}
			if got != tt.status {
				t.Errorf("CONNECT %s: status %d, want %d", tt.authority, got, tt.status)
			}
		})
	}
}

// TestStrangers connects to a pod with a certificate of another mesh: the
// connection ends in the handshake, and the access log says so.
func TestStrangers(t *testing.T) {
	w := newWorld(t, nil)
	stranger, err := identity.NewCA("other.domain")
	if err != nil {
		t.Fatal(err)
	}
	certs := identity.NewCache(stranger.Issuer(time.Hour), identity.CacheOptions{})
	pool := tunnel.NewPool(tunnel.PoolOptions{
		Dial: func(ctx context.Context, _ netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
			return new(net.Dialer).DialTCP(ctx, "tcp", netip.AddrPort{}, to)
		},
		TLS: certs.Client,
	})
	defer pool.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err = pool.Dial(ctx, tunnel.Target{
		Addr: ap(w.addr(2) + ":15008"),
		Own:  mesh.Identity{TrustDomain: "other.domain", Namespace: "a", ServiceAccount: "b"}, Expect: []string{spiffe("ns", "server")},
	},
		tunnel.Request{Authority: w.addr(2) + ":8080"})
	if err == nil {
		t.Fatal("a stranger was let in")
	}
	w.until(func() bool { return strings.Contains(w.logged(), "connection failed") })
}

// TestWorkloadChange closes a connection because its destination changed, not a policy.
func TestWorkloadChange(t *testing.T) {
	w := newWorld(t, func(w *world) {
		p := deny("later", "*")
		p.Selector = map[string]string{"locked": "yes"}
		w.parts.Policies = []*mesh.AuthorizationPolicy{p}
	})
	w.listen(w.addr(2)+":8080", lines)
	c, err := w.dial(1, w.service())
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "one\n")
	if _, err := c.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	locked := *w.parts.Workloads[1]
	locked.Labels = map[string]string{"locked": "yes"}
	w.parts.Workloads = []*mesh.Workload{w.parts.Workloads[0], &locked, w.parts.Workloads[2]}
	w.publish(w.parts)
	if n, err := c.Read(make([]byte, 4)); err == nil {
		t.Errorf("got %d bytes on a connection to a locked workload", n)
	}
}
