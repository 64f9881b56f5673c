package decision

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"cairnproxy.dev/cairn/mesh"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var equalAddrs = cmpopts.EquateComparable(netip.AddrPort{})

func typical(id string) Record {
	return Record{
		Start: time.Date(2026, 11, 27, 10, 0, 0, 5000, time.UTC), Duration: 1234 * time.Microsecond, Config: 3,
		RequestID: id, Method: "GET", Host: "reviews.shop.svc.cluster.local:9080", Path: "/reviews/7?page=2", Proto: 2,
		Principal: "cluster.local/ns/shop/sa/web", Source: netip.MustParseAddrPort("127.64.0.3:4122"),
		Destination: netip.MustParseAddrPort("127.80.1.1:9080"), Endpoint: netip.MustParseAddrPort("[fd00::7]:9080"),
		Service: "reviews.shop.svc.cluster.local", Status: 200, Rule: "shop/reviews/canary", Cluster: "outbound|9080||reviews-v2.shop.svc.cluster.local",
	}
}

// put keeps r as a proxy does.
func (g *Ring) put(shard uint32, r *Record) {
	s := g.Begin(shard)
	if s == nil {
		return
	}
	s.Start, s.Duration, s.Config, s.Status, s.Local, s.Proto = r.Start.UnixNano(), r.Duration, uint32(r.Config), uint16(r.Status), r.Local, r.Proto
	s.Principal, s.Service, s.Rule, s.Cluster, s.Flags, s.Details, s.Dry = r.Principal, r.Service, r.Rule, r.Cluster, r.Flags, r.Details, r.DryRun
	s.Addresses(r.Source, r.Destination, r.Endpoint)
	s.Texts(r.RequestID, r.Method, r.Host, r.Path)
	if r.Headers != nil {
		names, all, i := Fields{}, mesh.Fields{}, 0
		for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
			names[i] = name
			if v := r.Headers[name]; v != nil {
				all.Add(name, *v)
			}
			i++
		}
		s.Fields(&names, all)
	}
	s.End()
}

func TestSize(t *testing.T) {
	if n := unsafe.Sizeof(Slot{}); n != slotSize {
		t.Errorf("a slot has %d bytes, want %d", n, slotSize)
	}
	if n := Capacity * slotSize; n > 4<<20 {
		t.Errorf("all slots are %d bytes, want 4 MiB at most", n)
	}
}

func TestRoundTrip(t *testing.T) {
	refused := typical("b")
	refused.Status, refused.Local, refused.Endpoint, refused.Cluster = 403, true, netip.AddrPort{}, ""
	refused.Details, refused.DryRun, refused.Flags = "rbac_access_denied_matched_policy[ns[shop]-policy[readers]-rule[0]]", "denied by shop/next", "DI"
	foreign := typical("c")
	foreign.Principal, foreign.Host, foreign.Cluster = "other.example/ns/a/sa/b", "example.com", "outbound|443||example.com"
	a, empty := "acme", ""
	refused.Headers = map[string]*string{"x-tenant": &a, "x-none": nil, "x-empty": &empty}
	for _, want := range []Record{typical("550e8400-e29b-41d4-a716-446655440000"), refused, foreign, {Start: time.Unix(1, 0).UTC(), Proto: 1}} {
		var g Ring
		g.put(7, &want)
		got := g.Find(want.RequestID)
		if len(got) != 1 {
			t.Fatalf("%d records, want one", len(got))
		}
		if diff := cmp.Diff(want, got[0], equalAddrs); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}

// TestLong: whatever is long is cut, nothing is written beyond a slot, and the path keeps some room.
func TestLong(t *testing.T) {
	long := strings.Repeat("x", 300)
	r := Record{
		Start: time.Unix(5, 0).UTC(), RequestID: long, Method: long, Host: long, Path: "/" + long, Principal: long, Flags: long, Details: long,
		DryRun: long, Rule: long, Cluster: long, Source: netip.MustParseAddrPort("[fd00::1]:1"),
		Destination: netip.MustParseAddrPort("[fd00::2]:2"), Endpoint: netip.MustParseAddrPort("[fd00::3]:3"),
	}
	var g Ring
	g.put(0, &r)
	got := g.Find(long)
	if len(got) != 1 || !got[0].Cut {
		t.Fatalf("%+v, want one record that is cut", got)
	}
	if len(got[0].Path) < 8 || !strings.HasPrefix(r.Path, got[0].Path) || got[0].Endpoint != r.Endpoint {
		t.Errorf("%+v, want the beginning of the path, and the addresses", got[0])
	}
}

// TestFieldsWithoutRoom: a value that does not fit is not known, and is not taken for one that was not there.
func TestFieldsWithoutRoom(t *testing.T) {
	long, a := strings.Repeat("y", 200), "a"
	r := typical("x")
	r.Headers = map[string]*string{"b-long": &long, "c": &a, "d": nil}
	var g Ring
	g.put(0, &r)
	got := g.Find("x")[0].Headers
	if diff := cmp.Diff(map[string]*string{"c": &a, "d": nil}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestNewestStay(t *testing.T) {
	var g Ring
	const n = 3 * Capacity
	for i := range n {
		r := typical(fmt.Sprint("id-", i))
		r.Start = r.Start.Add(time.Duration(i) * time.Millisecond)
		g.put(uint32(i), &r)
	}
	all := g.Last(0, nil)
	if len(all) != Capacity || all[0].RequestID != fmt.Sprint("id-", n-1) || all[len(all)-1].RequestID != fmt.Sprint("id-", n-Capacity) {
		t.Errorf("%d records from %s to %s", len(all), all[0].RequestID, all[len(all)-1].RequestID)
	}
	if got := g.Find("id-0"); got != nil {
		t.Errorf("the first is still there: %v", got)
	}
	odd := g.Last(3, func(r *Record) bool { return strings.HasSuffix(r.RequestID, "9") })
	if len(odd) != 3 || odd[0].RequestID != fmt.Sprint("id-", n-1) {
		t.Errorf("the last three of them: %v", odd)
	}
}

// TestSameID: a client may use one id again and again.
func TestSameID(t *testing.T) {
	var g Ring
	for i := range 3 {
		r := typical("same")
		r.Start = r.Start.Add(time.Duration(i) * time.Second)
		g.put(uint32(i), &r)
	}
	if got := g.Find("same"); len(got) != 3 || !got[0].Start.After(got[2].Start) {
		t.Errorf("%v, want three, the newest first", got)
	}
}

func TestConcurrent(t *testing.T) {
	var g Ring
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, r := range g.Last(0, nil) {
				if r.Path != "/"+r.RequestID || r.Host != r.RequestID+".svc" {
					t.Errorf("torn: %+v", r)
					return
				}
			}
		}
	})
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := range 5000 {
				id := fmt.Sprintf("%d-%d", w, i)
				g.put(uint32(w%2), &Record{Start: time.Unix(int64(i), 0), RequestID: id, Path: "/" + id, Host: id + ".svc"})
			}
		})
	}
	writers.Wait()
	close(stop)
	wg.Wait()
}

func TestJSON(t *testing.T) {
	want := []Record{typical("a"), typical("b")}
	want[1].Cut, want[1].Local, want[1].Flags = true, true, "UH"
	var b bytes.Buffer
	if err := Write(&b, want); err != nil {
		t.Fatal(err)
	}
	var got []Record
	if err := Read(&b, func(r Record) error { got = append(got, r); return nil }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, equalAddrs); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestAccessLog: a line of the access log is a record, too.
func TestAccessLog(t *testing.T) {
	const log = `{"authority":"a:80","bytes_received":0,"bytes_sent":19,"connection_termination_details":null,"downstream_local_address":"127.80.1.1:80","downstream_remote_address":"127.64.0.3:4122","duration":2,"method":"GET","path":"/x","protocol":"HTTP/1.1","request_id":"r","requested_server_name":null,"response_code":403,"response_code_details":"rbac_access_denied_matched_policy[none]","response_flags":"-","route_name":null,"source_principal":"spiffe://cluster.local/ns/a/sa/b","start_time":"2026-11-27T10:00:00.000Z","upstream_cluster":null,"upstream_host":null,"upstream_local_address":null,"upstream_service_time":null,"upstream_transport_failure_reason":null,"user_agent":"curl","x_forwarded_for":null}

`
	var got []Record
	if err := Read(strings.NewReader(log), func(r Record) error { got = append(got, r); return nil }); err != nil {
		t.Fatal(err)
	}
	want := Record{
		Start: time.Date(2026, 11, 27, 10, 0, 0, 0, time.UTC), Duration: 2 * time.Millisecond, RequestID: "r", Method: "GET", Host: "a:80", Path: "/x", Proto: 1,
		Principal: "cluster.local/ns/a/sa/b", Source: netip.MustParseAddrPort("127.64.0.3:4122"), Destination: netip.MustParseAddrPort("127.80.1.1:80"),
		Status: 403, Details: "rbac_access_denied_matched_policy[none]",
	}
	if diff := cmp.Diff([]Record{want}, got, equalAddrs); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestReadRefuses(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"text", "[2026-11-27T10:00:00.000Z] \"GET / HTTP/1.1\" 200\n", "line 1: "},
		{"no path", "\n{\"method\":\"GET\"}\n", "line 2: neither a decision record"},
		{"address", `{"method":"GET","path":"/","upstream_host":"x"}`, "line 1: upstream_host"},
		{"long", strings.Repeat("x", maxLine+1), "line 1: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := Read(strings.NewReader(tt.text), func(Record) error { return nil })
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	_ = Write(&b, []Record{typical("a")})
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		_ = Read(bytes.NewReader(in), func(r Record) error {
			var g Ring
			g.put(0, &r)
			if got := g.Last(0, nil); len(got) != 1 || !strings.HasPrefix(r.RequestID, got[0].RequestID) {
				t.Errorf("%+v became %+v", r, got)
			}
			return nil
		})
	})
}

func BenchmarkPut(b *testing.B) {
	var g Ring
	r := typical("550e8400-e29b-41d4-a716-446655440000")
	for range 2 * Capacity {
		g.put(0, &r)
	}
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			g.put(0, &r)
		}
	})
	b.Run("spread", func(b *testing.B) {
		b.ReportAllocs()
		for i := uint32(0); b.Loop(); i++ {
			g.put(i, &r)
		}
	})
}
