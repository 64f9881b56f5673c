package upstream

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/upstream/lb"
)

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func TestHashKeys(t *testing.T) {
	header := mesh.HashKey{Kind: mesh.HashHeader, Name: "x-user"}
	cookie := mesh.HashKey{Kind: mesh.HashCookie, Name: "id"}
	query := mesh.HashKey{Kind: mesh.HashQuery, Name: "user"}
	source := mesh.HashKey{Kind: mesh.HashSource}
	terminal := func(k mesh.HashKey) mesh.HashKey { k.Terminal = true; return k }
	all := &mesh.Request{
		Fields: mesh.Fields{{Name: "cookie", Value: "a=b; id=c1"}, {Name: "x-user", Value: "u1"}},
		Query:  "x=1&user=q1", HasQuery: true, Peer: mesh.Peer{Addr: addrPort("10.0.0.9:1234")},
	}
	sum := func(s ...string) uint64 {
		k := lb.Hash(s[0])
		for _, x := range s[1:] {
			k = lb.Mix(k, lb.Hash(x))
		}
		return k
	}
	a16 := netip.MustParseAddr("10.0.0.9").As16()
	addr := string(a16[:])
	tests := []struct {
		name string
		keys []mesh.HashKey
		req  *mesh.Request
		want uint64
		none bool
	}{
		{"header", []mesh.HashKey{header}, all, sum("u1"), false},
		{"cookie", []mesh.HashKey{cookie}, all, sum("c1"), false},
		{"query", []mesh.HashKey{query}, all, sum("q1"), false},
		{"source", []mesh.HashKey{source}, all, sum(addr), false},
		{"mixed", []mesh.HashKey{header, cookie}, all, sum("u1", "c1"), false},
		{"terminal", []mesh.HashKey{terminal(header), cookie}, all, sum("u1"), false},
		{"terminal_absent", []mesh.HashKey{terminal(mesh.HashKey{Kind: mesh.HashHeader, Name: "x-none"}), cookie}, all, sum("c1"), false},
		{"absent", []mesh.HashKey{header, cookie, query}, &mesh.Request{}, 0, true},
		{"nothing_said", nil, all, 0, true},
		{"two_values", []mesh.HashKey{header}, &mesh.Request{Fields: mesh.Fields{{Name: "x-user", Value: "a"}, {Name: "x-user", Value: "b"}}}, sum("a", "b"), false},
		{"query_escaped", []mesh.HashKey{query}, &mesh.Request{Query: "%75ser=q%31"}, sum("q1"), false},
		{"query_empty", []mesh.HashKey{query}, &mesh.Request{Query: "user"}, sum(""), false},
		{"query_bad_escape", []mesh.HashKey{query}, &mesh.Request{Query: "user=%zz"}, sum("%zz"), false},
		{"cookie_empty", []mesh.HashKey{cookie}, &mesh.Request{Fields: mesh.Fields{{Name: "cookie", Value: "id="}}}, 0, true},
		{"mapped_source", []mesh.HashKey{source}, &mesh.Request{Peer: mesh.Peer{Addr: addrPort("[::ffff:10.0.0.9]:99")}}, sum(addr), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok, made := newHashKeys(tt.keys).of(tt.req)
			if ok == tt.none || got != tt.want || made != nil {
				t.Errorf("key %#x, %v, cookie %v; want %#x, %v", got, ok, made, tt.want, !tt.none)
			}
		})
	}
}

// TestMadeCookie: the request that has no cookie goes where those will go that bring it.
func TestMadeCookie(t *testing.T) {
	k := mesh.HashKey{Kind: mesh.HashCookie, Name: "id", TTL: time.Hour, Path: "/app"}
	p := balance(mesh.BalanceRendezvous)
	p.Balancer.Hash = []mesh.HashKey{k}
	_, list := near()
	v := service(nil)
	c := ForService(snapshot(v, list...), v, 9080, Options{Backend: p})
	values := map[string]bool{}
	for range 50 {
		var first, second Hint
		made := c.Fill(&first, &mesh.Request{}, time.Time{})
		if made == nil || made.Key.Name != "id" || made.Key.Path != "/app" {
			t.Fatalf("cookie %+v", made)
		}
		values[string(made.Value[:])] = true
		back := &mesh.Request{Fields: mesh.Fields{{Name: "cookie", Value: "x=y;id=" + string(made.Value[:])}}}
		if again := c.Fill(&second, back, time.Time{}); again != nil {
			t.Fatal("a client that has its cookie gets another")
		}
		if a, b := c.Pick(&first), c.Pick(&second); a != b {
			t.Fatalf("the first request goes to %s, the next to %s", a.Workload.Name, b.Workload.Name)
		}
		// Another try does not make another cookie.
		if c.Fill(&first, &mesh.Request{}, time.Time{}) != nil {
			t.Fatal("a second cookie for one request")
		}
	}
	if len(values) != 50 {
		t.Errorf("50 clients have %d cookies", len(values))
	}
	without := balance(mesh.BalanceRendezvous)
	without.Balancer.Hash = []mesh.HashKey{{Kind: mesh.HashCookie, Name: "id"}}
	var h Hint
	if c := ForService(snapshot(v, list...), v, 9080, Options{Backend: without}); c.Fill(&h, &mesh.Request{}, time.Time{}) != nil {
		t.Error("a cookie is made that nobody asked for")
	}
}

// TestNoKey: without a key, requests spread.
func TestNoKey(t *testing.T) {
	for _, kind := range []mesh.BalancerPolicy{mesh.BalanceRingHash, mesh.BalanceMaglev, mesh.BalanceRendezvous} {
		p := balance(kind)
		p.Balancer.Hash = []mesh.HashKey{{Kind: mesh.HashHeader, Name: "x-user"}}
		_, list := near()
		v := service(nil)
		c := ForService(snapshot(v, list...), v, 9080, Options{Backend: p})
		seen := map[string]bool{}
		for range 300 {
			var h Hint
			c.Fill(&h, &mesh.Request{}, time.Time{})
			seen[c.Pick(&h).Workload.Name] = true
		}
		if len(seen) != len(list) {
			t.Errorf("policy %d: requests without a key go to %d endpoints of %d", kind, len(seen), len(list))
		}
	}
}

func FuzzHashKeys(f *testing.F) {
	f.Add("a=b; id=\"c\"", "user=%41+&&=", "u")
	f.Fuzz(func(t *testing.T, cookie, query, header string) {
		r := &mesh.Request{Query: query, Fields: mesh.Fields{{Name: "cookie", Value: cookie}, {Name: "x-user", Value: header}}}
		k := newHashKeys([]mesh.HashKey{
			{Kind: mesh.HashHeader, Name: "x-user"}, {Kind: mesh.HashCookie, Name: "id"}, {Kind: mesh.HashQuery, Name: "user"}, {Kind: mesh.HashSource},
		})
		a, ok, _ := k.of(r)
		b, _, _ := k.of(r)
		if !ok || a != b {
			t.Errorf("keys %d and %d, %v", a, b, ok)
		}
		if v, ok := r.Fields.Cookie("id"); ok && !strings.Contains(cookie, v) {
			t.Errorf("cookie %q has no %q", cookie, v)
		}
	})
}
