package dns

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func service(ns, hostname string, vips ...string) *mesh.Service {
	v := &mesh.Service{Key: mesh.ServiceKey{Namespace: ns, Hostname: hostname}, Name: hostname, Canonical: strings.HasSuffix(hostname, ".cluster.local")}
	for _, a := range vips {
		v.VIPs = append(v.VIPs, netip.MustParseAddr(a))
	}
	return v
}

// testMesh has services of each kind and a client in namespace ns1.
func testMesh() (*mesh.Snapshot, *mesh.Workload) {
	client := &mesh.Workload{UID: "client", Namespace: "ns1", Ready: true}
	headless := service("ns1", "headless.ns1.svc.cluster.local")
	endpoint := func(uid string, ready bool, addrs ...string) *mesh.Workload {
		w := &mesh.Workload{UID: uid, Namespace: "ns1", Ready: ready, Services: map[mesh.ServiceKey]map[uint16]uint16{headless.Key: {80: 80}}}
		for _, a := range addrs {
			w.Addresses = append(w.Addresses, netip.MustParseAddr(a))
		}
		return w
	}
	other := service("ns1", "far.ns1.svc.cluster.local", "10.96.9.9")
	other.Network = "other"
	return mesh.NewSnapshot(1, mesh.Parts{
		Workloads: []*mesh.Workload{client, endpoint("a", true, "10.0.0.1", "fd00::1"), endpoint("b", true, "10.0.0.2"), endpoint("c", false, "10.0.0.3")},
		Services: []*mesh.Service{
			service("ns1", "reviews.ns1.svc.cluster.local", "10.96.0.1"),
			service("ns2", "reviews.ns2.svc.cluster.local", "10.96.0.2"),
			service("ns1", "dual.ns1.svc.cluster.local", "10.96.0.3", "fd96::3"),
			headless, other,
			service("ns1", "example.com", "10.96.0.4"),
			service("ns2", "example.com", "10.96.0.5"),
			service("ns1", "*.wild.com", "10.96.0.6"),
			service("ns1", "novip.com"),
			service("ns2", "only2.com", "10.96.0.7"),
			service("ns1", "a.b.c", "10.96.0.8"),
		},
	}), client
}

func TestLookup(t *testing.T) {
	s, client := testMesh()
	tests := []struct {
		name  string
		ask   string
		v6    bool
		want  []string // nil: unknown
		cname string
	}{
		{name: "short", ask: "reviews", want: []string{"10.96.0.1"}},
		{name: "namespace", ask: "reviews.ns2", want: []string{"10.96.0.2"}},
		{name: "namespace-svc", ask: "reviews.ns2.svc", want: []string{"10.96.0.2"}},
		{name: "full", ask: "reviews.ns2.svc.cluster.local", want: []string{"10.96.0.2"}},
		{name: "searched-short", ask: "reviews.ns1.svc.cluster.local", want: []string{"10.96.0.1"}},
		{name: "searched-namespace", ask: "reviews.ns2.ns1.svc.cluster.local", want: []string{"10.96.0.2"}, cname: "reviews.ns2"},
		{name: "searched-svc", ask: "reviews.ns2.svc.svc.cluster.local", want: []string{"10.96.0.2"}, cname: "reviews.ns2.svc"},
		{name: "searched-full", ask: "reviews.ns2.svc.cluster.local.ns1.svc.cluster.local", want: []string{"10.96.0.2"}, cname: "reviews.ns2.svc.cluster.local"},
		{name: "searched-external", ask: "example.com.svc.cluster.local", want: []string{"10.96.0.4"}, cname: "example.com"},
		{name: "other-namespace-short", ask: "nope", want: nil},
		{name: "external", ask: "example.com", want: []string{"10.96.0.4"}},
		{name: "external-other-namespace", ask: "only2.com", want: []string{"10.96.0.7"}},
		{name: "wildcard", ask: "x.wild.com", want: []string{"10.96.0.6"}},
		{name: "wildcard-deep", ask: "x.y.wild.com", want: []string{"10.96.0.6"}},
		{name: "wildcard-itself", ask: "wild.com", want: nil},
		{name: "wildcard-searched", ask: "x.wild.com.cluster.local", want: []string{"10.96.0.6"}},
		{name: "without-vip", ask: "novip.com", want: nil},
		{name: "v4-only", ask: "reviews", v6: true, want: []string{}},
		{name: "dual-v4", ask: "dual", want: []string{"10.96.0.3"}},
		{name: "dual-v6", ask: "dual", v6: true, want: []string{"fd96::3"}},
		{name: "headless", ask: "headless", want: []string{"10.0.0.1", "10.0.0.2"}},
		{name: "headless-v6", ask: "headless", v6: true, want: []string{"fd00::1"}},
		{name: "other-network", ask: "far", want: []string{}},
		{name: "three-labels", ask: "a.b.c", want: []string{"10.96.0.8"}},
		{name: "unknown", ask: "unknown.example.org", want: nil},
		{name: "root", ask: "", want: nil},
		{name: "cluster-domain", ask: "cluster.local", want: nil},
		{name: "search-domain", ask: "ns1.svc.cluster.local", want: nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, ok := Lookup(s, client, SearchDomains("ns1", "cluster.local"), tt.ask, tt.v6)
			if ok != (tt.want != nil) {
				t.Fatalf("known: got %v (%+v), want %v", ok, a, !ok)
			}
			got := []string{}
			for _, x := range a.Addrs {
				got = append(got, x.String())
			}
			slices.Sort(got)
			if ok && !cmp.Equal(got, tt.want) || a.Canonical != tt.cname {
				t.Errorf("got %v canonical %q, want %v canonical %q", got, a.Canonical, tt.want, tt.cname)
			}
		})
	}
}

// upstream is a nameserver that answers everything with one TXT record and an
// additional one, and returns its address.
func upstream(t *testing.T) netip.AddrPort {
	t.Helper()
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		txt := func(s string) dns.RR {
			return &dns.TXT{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 7}, Txt: []string{s}}
		}
		m.Answer, m.Extra = []dns.RR{txt("answer")}, []dns.RR{txt("additional")}
		_ = w.WriteMsg(m)
	})
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", pc.LocalAddr().String())
	if err != nil {
		t.Skipf("skipped: the port is taken for tcp: %v", err)
	}
	for _, srv := range []*dns.Server{{PacketConn: pc, Handler: h}, {Listener: ln, Handler: h}} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		go srv.ActivateAndServe()
		<-started
		t.Cleanup(func() { srv.Shutdown() })
	}
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

// serve starts a server and returns its address.
func serve(t *testing.T, o Options) string {
	t.Helper()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: udp.LocalAddr().(*net.UDPAddr).Port})
	if err != nil {
		t.Skipf("skipped: the port is taken for tcp: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		NewServer(o).Serve(ctx, udp, tcp)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return udp.LocalAddr().String()
}

func TestServer(t *testing.T) {
	s, client := testMesh()
	var mu sync.Mutex
	var asked []Query
	o := Options{
		Snapshot: func() *mesh.Snapshot { return s }, Client: func() *mesh.Workload { return client },
		Upstreams: []netip.AddrPort{upstream(t)}, Asked: func(q Query) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, q)
		},
	}
	addr := serve(t, o)
	tests := []struct {
		name, ask     string
		typ           uint16
		rcode         int
		answers       int
		authoritative bool
		extra         int
	}{
		{"local", "reviews.", dns.TypeA, dns.RcodeSuccess, 1, true, 0},
		{"local-upper", "REVIEWS.NS1.svc.cluster.LOCAL.", dns.TypeA, dns.RcodeSuccess, 1, true, 0},
		{"cname", "example.com.ns1.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, 2, true, 0},
		{"empty-not-nxdomain", "reviews.", dns.TypeAAAA, dns.RcodeSuccess, 0, true, 0},
		{"headless", "headless.", dns.TypeA, dns.RcodeSuccess, 2, true, 0},
		{"forwarded", "elsewhere.org.", dns.TypeA, dns.RcodeSuccess, 1, false, 1},
		{"forwarded-type", "reviews.", dns.TypeSRV, dns.RcodeSuccess, 1, false, 1},
	}
	for _, network := range []string{"udp", "tcp"} {
		for _, tt := range tests {
			t.Run(network+"-"+tt.name, func(t *testing.T) {
				r := exchange(t, network, addr, tt.ask, tt.typ)
				if r.Rcode != tt.rcode || len(r.Answer) != tt.answers || r.Authoritative != tt.authoritative || len(r.Extra) != tt.extra {
					t.Errorf("got %v", r)
				}
				for _, rr := range r.Answer {
					if tt.authoritative && rr.Header().Ttl != ttl {
						t.Errorf("ttl %d, want %d", rr.Header().Ttl, ttl)
					}
				}
			})
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != 2*len(tests) {
		t.Errorf("%d queries reported, want %d", len(asked), 2*len(tests))
	}
}

func exchange(t *testing.T, network, addr, name string, typ uint16) *dns.Msg {
	t.Helper()
	c := &dns.Client{Net: network, Timeout: 5 * time.Second}
	r, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, typ), addr)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestServerWithoutUpstream(t *testing.T) {
	s, client := testMesh()
	var known atomic.Pointer[mesh.Workload]
	addr := serve(t, Options{Snapshot: func() *mesh.Snapshot { return s }, Client: known.Load})
	if r := exchange(t, "udp", addr, "reviews.", dns.TypeA); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("unknown client: rcode %d, want SERVFAIL", r.Rcode)
	}
	known.Store(client)
	if r := exchange(t, "udp", addr, "elsewhere.org.", dns.TypeA); r.Rcode != dns.RcodeNameError {
		t.Errorf("no upstream: rcode %d, want NXDOMAIN", r.Rcode)
	}
}

func TestServerUpstreamSilent(t *testing.T) {
	s, client := testMesh()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0") // reads nothing, answers nothing
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	addr := serve(t, Options{
		Snapshot: func() *mesh.Snapshot { return s }, Client: func() *mesh.Workload { return client },
		Upstreams: []netip.AddrPort{pc.LocalAddr().(*net.UDPAddr).AddrPort()}, Timeout: 20 * time.Millisecond,
	})
	if r := exchange(t, "udp", addr, "elsewhere.org.", dns.TypeA); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("rcode %d, want SERVFAIL", r.Rcode)
	}
}

func TestAnswerMalformed(t *testing.T) {
	s, client := testMesh()
	srv := NewServer(Options{Snapshot: func() *mesh.Snapshot { return s }, Client: func() *mesh.Workload { return client }})
	msg := func(f func(*dns.Msg)) []byte {
		m := new(dns.Msg).SetQuestion("reviews.", dns.TypeA)
		f(m)
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	tests := []struct {
		name  string
		query []byte
		rcode int // -1: no answer
	}{
		{"short", []byte{1, 2, 3}, -1},
		{"header-only", make([]byte, 12), dns.RcodeFormatError},
		{"garbage", []byte("GET / HTTP/1.1\r\n\r\n"), dns.RcodeFormatError},
		{"response", msg(func(m *dns.Msg) { m.Response = true }), -1},
		{"opcode", msg(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), dns.RcodeNotImplemented},
		{"two-questions", msg(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), dns.RcodeFormatError},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := srv.answer(t.Context(), tt.query, "udp")
			if tt.rcode < 0 {
				if b != nil {
					t.Errorf("answered %x", b)
				}
				return
			}
			var m dns.Msg
			if err := m.Unpack(b); err != nil || m.Rcode != tt.rcode || !m.Response {
				t.Errorf("got %v (%v), want rcode %d", m, err, tt.rcode)
			}
		})
	}
}

func TestTruncation(t *testing.T) {
	client := &mesh.Workload{UID: "client", Namespace: "ns"}
	big := service("ns", "big.ns.svc.cluster.local")
	for i := range 200 {
		big.VIPs = append(big.VIPs, netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}))
	}
	s := mesh.NewSnapshot(1, mesh.Parts{Services: []*mesh.Service{big}})
	srv := NewServer(Options{Snapshot: func() *mesh.Snapshot { return s }, Client: func() *mesh.Workload { return client }})
	q := new(dns.Msg).SetQuestion("big.", dns.TypeA)
	for _, tt := range []struct {
		network string
		edns    uint16
		limit   int
		cut     bool
	}{{"udp", 0, 512, true}, {"udp", 1232, 1232, true}, {"udp", 16, 512, true}, {"tcp", 0, 65535, false}} {
		m := q.Copy()
		if tt.edns > 0 {
			m.SetEdns0(tt.edns, false)
		}
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		var got dns.Msg
		answer := srv.answer(t.Context(), b, tt.network)
		if err := got.Unpack(answer); err != nil || got.Truncated != tt.cut || len(answer) > tt.limit {
			t.Errorf("%s with %d: %d bytes, truncated %v (%v); want at most %d, %v", tt.network, tt.edns, len(answer), got.Truncated, err, tt.limit, tt.cut)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	s, client := testMesh()
	srv := NewServer(Options{Snapshot: func() *mesh.Snapshot { return s }, Client: func() *mesh.Workload { return client }})
	b, err := new(dns.Msg).SetQuestion("reviews.ns1.svc.cluster.local.", dns.TypeA).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(make([]byte, 12))
	f.Fuzz(func(t *testing.T, query []byte) {
		for _, network := range []string{"udp", "tcp"} {
			out := srv.answer(context.Background(), query, network)
			if out == nil {
				continue
			}
			if len(out) < 12 || out[0] != query[0] || out[1] != query[1] || out[2]&0x80 == 0 {
				t.Fatalf("answer %x to %x is none", out, query)
			}
			answers(out, query)
		}
	})
}

func TestParseResolvConf(t *testing.T) {
	servers, search := ParseResolvConf("# made by hand\ndomain old\nnameserver 10.0.0.1\nnameserver fe80::1%eth0 ; local\nnameserver nonsense\nsearch A.b. c\noptions ndots:5\nnameserver")
	wantServers := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:53"), netip.MustParseAddrPort("[fe80::1%eth0]:53")}
	if !slices.Equal(servers, wantServers) || !slices.Equal(search, []string{"a.b", "c"}) {
		t.Errorf("got %v, %v", servers, search)
	}
}
