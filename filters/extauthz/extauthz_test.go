package extauthz

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/filters/extauthz/extauthztest"
	"cairnproxy.dev/cairn/filters/filterstest"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
)

var (
	authKey = mesh.ServiceKey{Namespace: "auth", Hostname: "auth.auth.svc"}
	own     = mesh.Identity{TrustDomain: "td", Namespace: "mesh", ServiceAccount: "waypoint"}
	client  = mesh.Identity{TrustDomain: "td", Namespace: "shop", ServiceAccount: "web"}
)

// patient is a timeout that a loaded machine keeps.
const patient = 20 * time.Second

func ext(grpc bool, edit func(*mesh.ExtAuthz)) *mesh.ExtAuthz {
	m := &mesh.ExtAuthz{Name: "p", Service: authKey, Port: 80, GRPC: grpc, Timeout: patient}
	if edit != nil {
		edit(m)
	}
	return m
}

func request(fields ...string) *mesh.Request {
	r := &mesh.Request{
		Method: "POST", Scheme: "http", Authority: "Shop.example:80", Host: "shop.example", Path: "/a/b", Query: "q=1&r=2", HasQuery: true, Proto: 2,
		Peer:        mesh.Peer{Identity: client, Principal: client.Principal(), Addr: netip.MustParseAddrPort("10.1.2.3:4567")},
		Destination: netip.MustParseAddrPort("10.96.0.1:80"),
		Fields:      mesh.Fields{{Name: "x-request-id", Value: "id-1"}},
	}
	for i := 0; i < len(fields); i += 2 {
		r.Fields.Add(fields[i], fields[i+1])
	}
	return r
}

// counts are the series of Metric by result.
type counts struct {
	mu sync.Mutex
	m  map[string]int
}

type count struct {
	c   *counts
	key string
}

func (c count) Inc() {
	c.c.mu.Lock()
	defer c.c.mu.Unlock()
	c.c.m[c.key]++
}

func (c *counts) counter(_ string, _ mesh.ServiceKey, result string) Counter { return count{c, result} }

func (c *counts) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, k := range slices.Sorted(maps.Keys(c.m)) {
		out = append(out, fmt.Sprintf("%s:%d", k, c.m[k]))
	}
	return strings.Join(out, " ")
}

func registry(t testing.TB, d *extauthztest.Server) (*Registry, *counts) {
	c := &counts{m: map[string]int{}}
	r := NewRegistry(d, own, c.counter)
	t.Cleanup(r.Close)
	return r, c
}

func routeChain(t testing.TB, r *Registry, m *mesh.ExtAuthz) filters.Chain {
	t.Helper()
	c, err := filters.Compile([]filters.Spec{Route(r)}, filters.BuildContext{Level: filters.LevelRule, Filters: &mesh.RouteFilters{ExternalAuth: m}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// outcome is what became of a request, in one text: the reply, or what the endpoint sees.
func outcome(x *filters.Exchange, c filters.Chain) string {
	if r := filterstest.Run(x, c); r == filters.Replied {
		return fmt.Sprintf("%d %s %s %q %v", x.Reply.Status, x.Reply.Flag, x.Reply.Details, x.Reply.Body, x.Reply.Fields)
	}
	out := fmt.Sprintf("%s %v", target(x.Req), x.Req.Fields[1:])
	if n := x.Noted(); n != nil {
		out += fmt.Sprintf(" > %v", filterstest.Response(x, c, mesh.Field{Name: "x-from", Value: "endpoint"}).Fields)
	}
	return out
}

func TestSteps(t *testing.T) {
	s := extauthztest.Start(t, nil, nil)
	r, _ := registry(t, s)
	asks := policy.CompileL7([]*mesh.AuthorizationPolicy{custom(ext(true, nil), "/a*")})
	for _, tt := range []struct {
		name  string
		spec  filters.Spec
		level filters.Level
		f     *mesh.RouteFilters
		want  int
	}{
		{"custom", Custom(asks, r), filters.LevelService, nil, 1},
		{"custom_rule", Custom(asks, r), filters.LevelRule, nil, 0},
		{"no_policies", Custom(policy.CompileL7(nil), r), filters.LevelService, nil, 0},
		{"not_compiled", Custom(nil, r), filters.LevelService, nil, 0}, // authz refuses everything
		{"looked_at", Custom(asks, nil), filters.LevelService, nil, 0},
		{"rule", Route(r), filters.LevelRule, &mesh.RouteFilters{ExternalAuth: ext(true, nil)}, 1},
		{"backend", Route(r), filters.LevelBackend, &mesh.RouteFilters{ExternalAuth: ext(true, nil)}, 1},
		{"rule_none", Route(r), filters.LevelRule, &mesh.RouteFilters{}, 0},
		{"service", Route(r), filters.LevelService, &mesh.RouteFilters{ExternalAuth: ext(true, nil)}, 0},
	} {
		c, err := filters.Compile([]filters.Spec{tt.spec}, filters.BuildContext{Level: tt.level, Filters: tt.f})
		if err != nil || len(c) != tt.want {
			t.Errorf("%s: %d steps, %v; want %d", tt.name, len(c), err, tt.want)
		}
	}
}

func custom(m *mesh.ExtAuthz, path string) *mesh.AuthorizationPolicy {
	return &mesh.AuthorizationPolicy{
		Name: mesh.Name{Namespace: "ns", Name: m.Name + path}, Action: mesh.ActionCustom, Provider: m,
		Rules: []mesh.AuthzRule{{To: []mesh.AuthzOperation{{Paths: []string{path}}}}},
	}
}

// TestCustom: only what a policy matches is asked about, by each provider whose policies match, in order.
func TestCustom(t *testing.T) {
	var mu sync.Mutex
	var order []string
	s := extauthztest.Start(t, func(_ context.Context, q *auth.CheckRequest) (*auth.CheckResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, "grpc")
		if q.GetAttributes().GetRequest().GetHttp().GetHeaders()["x-deny"] == "grpc" {
			return denial(401, "no"), nil
		}
		return &auth.CheckResponse{}, nil
	}, func(http.ResponseWriter, *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, "http")
	})
	r, _ := registry(t, s)
	p := policy.CompileL7([]*mesh.AuthorizationPolicy{
		custom(ext(true, nil), "/a*"), custom(ext(false, func(m *mesh.ExtAuthz) { m.Name = "q" }), "/a/b"),
	})
	c, err := filters.Compile([]filters.Spec{Custom(p, r)}, filters.BuildContext{Level: filters.LevelService})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path, deny string
		asked      []string
		want       filters.Result
	}{
		{"/free", "", nil, filters.Continue},
		{"/a", "", []string{"grpc"}, filters.Continue},
		{"/a/b", "", []string{"grpc", "http"}, filters.Continue},
		{"/a/b", "grpc", []string{"grpc"}, filters.Replied},
	} {
		order = nil
		req := request("x-deny", tt.deny)
		req.Path = tt.path
		x := filterstest.Exchange(req)
		got := filterstest.Run(x, c)
		mu.Lock()
		if got != tt.want || !slices.Equal(order, tt.asked) {
			t.Errorf("%s: %v, asked %v; want %v, %v", tt.path, got, order, tt.want, tt.asked)
		}
		mu.Unlock()
	}
}

// TestFailure: what happens when there is no answer.
func TestFailure(t *testing.T) {
	hang := func(ctx context.Context) { <-ctx.Done() }
	s := extauthztest.Start(t, func(ctx context.Context, q *auth.CheckRequest) (*auth.CheckResponse, error) {
		if q.GetAttributes().GetRequest().GetHttp().GetHeaders()["x-hang"] != "" {
			hang(ctx)
		}
		return nil, errors.New("cannot tell")
	}, func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("X-Do") {
		case "hang":
			hang(r.Context())
		case "long":
			_, _ = w.Write(make([]byte, 1<<20))
		case "break":
			panic(http.ErrAbortHandler)
		default:
			w.WriteHeader(503)
		}
	})
	for _, tt := range []struct {
		name   string
		m      *mesh.ExtAuthz
		fields []string
		want   string
		counts string
	}{
		{"grpc_error", ext(true, nil), nil, `403 UAEX ext_authz_error "" []`, "failed:1"},
		{"grpc_status", ext(true, func(m *mesh.ExtAuthz) { m.StatusOnError = 503 }), nil, `503 UAEX ext_authz_error "" []`, "failed:1"},
		{"grpc_open", ext(true, func(m *mesh.ExtAuthz) { m.FailOpen = true }), nil, "/a/b?q=1&r=2 []", "failed:1"},
		{"grpc_late", ext(true, func(m *mesh.ExtAuthz) { m.Timeout = 50 * time.Millisecond }), []string{"x-hang", "1"}, `403 UAEX ext_authz_error "" []`, "failed:1"},
		{"grpc_late_open", ext(true, func(m *mesh.ExtAuthz) { m.Timeout, m.FailOpen = 50*time.Millisecond, true }), []string{"x-hang", "1"}, "/a/b?q=1&r=2 [{x-hang 1}]", "failed:1"},
		{"http_5xx", ext(false, nil), nil, `403 UAEX ext_authz_error "" []`, "failed:1"},
		{"http_open", ext(false, func(m *mesh.ExtAuthz) { m.FailOpen = true }), nil, "/a/b?q=1&r=2 []", "failed:1"},
		{"http_late", ext(false, func(m *mesh.ExtAuthz) { m.Timeout, m.RequestHeaders = 50*time.Millisecond, []string{"x-do"} }), []string{"x-do", "hang"}, `403 UAEX ext_authz_error "" []`, "failed:1"},
		{"http_long", ext(false, func(m *mesh.ExtAuthz) { m.RequestHeaders = []string{"x-do"} }), []string{"x-do", "long"}, `403 UAEX ext_authz_error "" []`, "failed:1"},
		{"http_broken", ext(false, func(m *mesh.ExtAuthz) { m.RequestHeaders = []string{"x-do"} }), []string{"x-do", "break"}, `403 UAEX ext_authz_error "" []`, "failed:1"},
		{"no_provider", ext(true, func(m *mesh.ExtAuthz) { m.Broken = "it is not there" }), nil, `403 UAEX ext_authz_error "" []`, "failed:1"},
		{"no_provider_open", ext(true, func(m *mesh.ExtAuthz) { m.Broken, m.FailOpen = "it is not there", true }), nil, `403 UAEX ext_authz_error "" []`, "failed:1"},
		{"unsendable", ext(false, func(m *mesh.ExtAuthz) { m.RequestHeaders = []string{"x-*"} }), []string{"x-a", "a\x01b"}, `403 UAEX ext_authz_error "" []`, "failed:1"},
		// A client must not choose that nobody is asked.
		{"unsendable_open", ext(false, func(m *mesh.ExtAuthz) { m.RequestHeaders, m.FailOpen = []string{"x-*"}, true }), []string{"x-a", "a\x01b"}, `403 UAEX ext_authz_error "" []`, "failed:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, n := registry(t, s)
			if got := outcome(filterstest.Exchange(request(tt.fields...)), routeChain(t, r, tt.m)); got != tt.want {
				t.Errorf("%s\nwant %s", got, tt.want)
			}
			if n.String() != tt.counts {
				t.Errorf("counted %s, want %s", n, tt.counts)
			}
		})
	}
}

// TestClientGone: a client that goes away ends the question.
func TestClientGone(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	s := extauthztest.Start(t, func(ctx context.Context, _ *auth.CheckRequest) (*auth.CheckResponse, error) {
		close(begun)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}, nil)
	r, _ := registry(t, s)
	x := filterstest.Exchange(request())
	if got := filterstest.Start(x, routeChain(t, r, ext(true, nil))); got != filters.Park {
		t.Fatal(got)
	}
	<-begun
	if !filterstest.Cancel(x) {
		t.Error("the exchange was not parked")
	}
	<-ended
}

// TestClose: after the end nobody is asked.
func TestClose(t *testing.T) {
	r := NewRegistry(nowhere{}, own, nil)
	c := routeChain(t, r, ext(true, nil))
	r.Close()
	if got, want := outcome(filterstest.Exchange(request()), c), `403 UAEX ext_authz_error "" []`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

type nowhere struct{}

func (nowhere) DialService(context.Context, mesh.ServiceKey, uint16, string) (net.Conn, error) {
	return nil, errors.New("there is no endpoint")
}

// TestBody: how much of a body is sent along, and what is too much.
func TestBody(t *testing.T) {
	const data = "0123456789"
	bytes := func(m *mesh.ExtAuthz) { m.Body, m.PackAsBytes = 10, true }
	for _, tt := range []struct {
		name, body string
		cut        bool // more follows
		edit       func(*mesh.ExtAuthz)
		want       string // "body|raw|size|partial", or the refusal
	}{
		{"none", "", false, nil, "||-1|"},
		{"not_wanted", data, false, nil, "||-1|"},
		{"empty", "", false, func(m *mesh.ExtAuthz) { m.Body = 10 }, "||0|"},
		{"exact", data, false, func(m *mesh.ExtAuthz) { m.Body = 10 }, data + "||10|false"},
		{"bytes", data, false, bytes, "|" + data + "|10|false"},
		{"too_long", data + "a", false, func(m *mesh.ExtAuthz) { m.Body = 10 }, `413  request_payload_too_large "Payload Too Large" []`},
		{"partial", data + "abc", false, func(m *mesh.ExtAuthz) { m.Body, m.PartialBody = 10, true }, data + "||-1|true"},
		{"partial_more", data, true, func(m *mesh.ExtAuthz) { m.Body, m.PartialBody = 10, true }, data + "||-1|true"},
		{"partial_whole", data, false, func(m *mesh.ExtAuthz) { m.Body, m.PartialBody = 11, true }, data + "||10|false"},
		{"not_utf8", "a\xff\xfeb", false, func(m *mesh.ExtAuthz) { m.Body = 10 }, "a!!b||4|false"},
		{"not_utf8_bytes", "a\xff", false, bytes, "|a\xff|2|false"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := extauthztest.Start(t, nil, nil)
			r, _ := registry(t, s)
			for _, grpc := range []bool{true, false} {
				x := filterstest.Exchange(request())
				h := x.Host.(*filterstest.Host)
				h.RequestBody, h.Cut = []byte(tt.body), tt.cut
				got := outcome(x, routeChain(t, r, ext(grpc, tt.edit)))
				switch {
				case strings.HasPrefix(got, "413"):
				case grpc:
					q := s.Asked()[0].GetAttributes().GetRequest().GetHttp()
					got = fmt.Sprintf("%s|%s|%d|%s", q.GetBody(), q.GetRawBody(), q.GetSize(), q.GetHeaders()[partialBody])
				default: // the body as it is, and no size
					heard, bodies := s.Heard()
					want := strings.Split(tt.want, "|")
					if b := want[0] + want[1]; bodies[0] != strings.ReplaceAll(b, "a!!b", "a\xff\xfeb") || heard[0].Header.Get(partialBody) != want[3] {
						t.Errorf("by HTTP: %q, partial %s; want %s", bodies[0], heard[0].Header.Get(partialBody), tt.want)
					}
					continue
				}
				if got != tt.want {
					t.Errorf("%s, want %s", got, tt.want)
				}
			}
		})
	}
}

// TestUnmatched: what no CUSTOM policy matches costs no memory.
func TestUnmatched(t *testing.T) {
	r, _ := registry(t, extauthztest.Start(t, nil, nil))
	p := policy.CompileL7([]*mesh.AuthorizationPolicy{custom(ext(true, nil), "/a*")})
	c, err := filters.Compile([]filters.Spec{Custom(p, r)}, filters.BuildContext{Level: filters.LevelService})
	if err != nil {
		t.Fatal(err)
	}
	req := request()
	req.Path = "/free"
	x := filterstest.Exchange(req)
	if n := testing.AllocsPerRun(100, func() { c.Request(x, 0); c.Local(x) }); n != 0 {
		t.Errorf("a request allocates %v times, want 0", n)
	}
}

func BenchmarkUnmatched(b *testing.B) {
	r := NewRegistry(nowhere{}, own, nil)
	defer r.Close()
	p := policy.CompileL7([]*mesh.AuthorizationPolicy{custom(ext(true, nil), "/a*")})
	c, err := filters.Compile([]filters.Spec{Custom(p, r)}, filters.BuildContext{Level: filters.LevelService})
	if err != nil {
		b.Fatal(err)
	}
	req := request()
	req.Path = "/free"
	x := filterstest.Exchange(req)
	b.ReportAllocs()
	for b.Loop() {
		c.Request(x, 0)
	}
}

// BenchmarkAsk is a question over loopback, with the service's work in it.
func BenchmarkAsk(b *testing.B) {
	for _, grpc := range []bool{true, false} {
		b.Run(map[bool]string{true: "grpc", false: "http"}[grpc], func(b *testing.B) {
			r, _ := registry(b, extauthztest.Start(b, nil, nil))
			c := routeChain(b, r, ext(grpc, nil))
			b.ReportAllocs()
			for b.Loop() {
				if x := filterstest.Exchange(request()); filterstest.Run(x, c) != filters.Continue {
					b.Fatal(x.Reply)
				}
			}
		})
	}
}

func TestQuestion(t *testing.T) {
	s := extauthztest.Start(t, nil, nil)
	r, _ := registry(t, s)
	x := filterstest.Exchange(request("cookie", "a=1", "x-m", "1", "cookie", "b=2", "x-m", "2", "x-bytes", "a\xffb"))
	outcome(x, routeChain(t, r, ext(true, nil)))
	a := s.Asked()[0].GetAttributes()
	h := a.GetRequest().GetHttp()
	got := []string{
		a.GetSource().GetAddress().GetSocketAddress().GetAddress(), fmt.Sprint(a.GetSource().GetAddress().GetSocketAddress().GetPortValue()), a.GetSource().GetPrincipal(),
		a.GetDestination().GetAddress().GetSocketAddress().GetAddress(), a.GetDestination().GetPrincipal(),
		h.GetId(), h.GetMethod(), h.GetPath(), h.GetHost(), h.GetScheme(), h.GetProtocol(),
	}
	want := []string{
		"10.1.2.3", "4567", "spiffe://td/ns/shop/sa/web", "10.96.0.1", "spiffe://td/ns/mesh/sa/waypoint",
		"id-1", "POST", "/a/b?q=1&r=2", "Shop.example:80", "http", "HTTP/2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if !a.GetRequest().GetTime().AsTime().Equal(x.Now) && a.GetRequest().GetTime().AsTime().IsZero() {
		t.Error("the question has no time")
	}
	headers := map[string]string{
		":method": "POST", ":path": "/a/b?q=1&r=2", ":authority": "Shop.example:80", ":scheme": "http", "x-request-id": "id-1",
		"cookie": "a=1; b=2", "x-m": "1,2", "x-bytes": "a!b",
	}
	if diff := cmp.Diff(headers, h.GetHeaders()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	outcome(filterstest.Exchange(request("x-a", "1", "x-b", "2", "y", "3")), routeChain(t, r, ext(true, func(m *mesh.ExtAuthz) { m.RequestHeaders = []string{"x-a", ":path"} })))
	if diff := cmp.Diff(map[string]string{":path": "/a/b?q=1&r=2", "x-a": "1"}, s.Asked()[1].GetAttributes().GetRequest().GetHttp().GetHeaders()); diff != "" {
		t.Errorf("those that are listed: -want +got:\n%s", diff)
	}
}
