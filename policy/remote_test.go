package policy

import (
	"net/netip"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

func TestRemoteAddr(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fields []string
		n      uint8
		want   string // of the peer 10.0.0.9
	}{
		{"untrusted", []string{"1.1.1.1"}, 0, "10.0.0.9"},
		{"none", nil, 1, "10.0.0.9"},
		{"one", []string{"1.1.1.1"}, 1, "1.1.1.1"},
		{"claimed-before", []string{"9.9.9.9, 1.1.1.1"}, 1, "1.1.1.1"},
		{"two", []string{"9.9.9.9,2.2.2.2,1.1.1.1"}, 2, "2.2.2.2"},
		{"two-fields", []string{"9.9.9.9, 2.2.2.2", "1.1.1.1"}, 2, "2.2.2.2"},
		{"too-few", []string{"1.1.1.1"}, 2, "10.0.0.9"},
		{"empty", []string{""}, 1, "10.0.0.9"},
		{"empty-element", []string{"1.1.1.1,"}, 1, "10.0.0.9"},
		{"empty-element-counts", []string{"1.1.1.1,"}, 2, "1.1.1.1"},
		{"ipv6", []string{"2001:db8::1"}, 1, "2001:db8::1"},
		{"mapped", []string{"::ffff:1.1.1.1"}, 1, "1.1.1.1"},
		{"zone", []string{"fe80::1%eth0"}, 1, "10.0.0.9"},
		{"port", []string{"1.1.1.1:80"}, 1, "10.0.0.9"},
		{"name", []string{"unknown"}, 1, "10.0.0.9"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := &mesh.Request{Peer: mesh.Peer{Addr: netip.MustParseAddrPort("10.0.0.9:1")}}
			for _, v := range tt.fields {
				req.Fields.Add("x-forwarded-for", v)
			}
			w := &mesh.Waypoint{Name: mesh.Name{Namespace: "a", Name: "wp"}, Reading: mesh.Reading{TrustedProxies: tt.n}}
			for _, rule := range []mesh.AuthzRule{
				{From: []mesh.AuthzSource{{RemoteIPBlocks: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(tt.want), netip.MustParseAddr(tt.want).BitLen())}}}},
				{When: []mesh.AuthzCondition{{Key: "remote.ip", Values: []string{tt.want}}}},
			} {
				p := &mesh.AuthorizationPolicy{Name: mesh.Name{Namespace: "a", Name: "p"}, TargetRefs: []mesh.TargetRef{{Group: "gateway.networking.k8s.io", Kind: "Gateway", Name: "wp"}}, Rules: []mesh.AuthzRule{rule}}
				a := NewAttachments(mesh.NewSnapshot(1, mesh.Parts{Waypoints: []*mesh.Waypoint{w}, Policies: []*mesh.AuthorizationPolicy{p}}), w)
				if v := a.Compile(a.Of(nil)).Decide(req); !v.Allowed {
					t.Errorf("remote.ip is not %s", tt.want)
				}
			}
			// source.ip is the peer, whatever is claimed.
			p := &mesh.AuthorizationPolicy{Rules: []mesh.AuthzRule{{When: []mesh.AuthzCondition{{Key: "source.ip", Values: []string{"10.0.0.9"}}}}}}
			if v := CompileL7([]*mesh.AuthorizationPolicy{p}).Decide(req); !v.Allowed {
				t.Error("source.ip is not the peer's")
			}
		})
	}
}

func FuzzRemoteAddr(f *testing.F) {
	f.Add("1.1.1.1, 2.2.2.2", "::1", 2)
	f.Fuzz(func(t *testing.T, a, b string, n int) {
		one, two := mesh.Fields{{Name: "x-forwarded-for", Value: a}, {Name: "x-forwarded-for", Value: b}}, mesh.Fields{{Name: "x-forwarded-for", Value: a + "," + b}}
		if x, y := remoteAddr(one, n), remoteAddr(two, n); x != y {
			t.Errorf("%q and %q: %v as two fields, %v as one", a, b, x, y)
		}
	})
}
