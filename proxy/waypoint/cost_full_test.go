package waypoint

import (
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/telemetry"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// everything is what the waypoint can be asked to do for a request, all at
// once: policies that look at the client, the method and the path, routes of
// which the last matches, both timeouts, a rewrite, and header filters for rule
// and backend in both directions. The access log and the metrics are always on.
func everything(parts *mesh.Parts, v *mesh.Service) {
	edits := func(name string) *mesh.HeaderEdits {
		return &mesh.HeaderEdits{
			Set: []mesh.Field{{Name: name + "-set", Value: "1"}},
			Add: []mesh.Field{{Name: name + "-add", Value: "2"}}, Remove: []string{name + "-remove"},
		}
	}
	backend := to(v, 1)
	backend.Filters = mesh.RouteFilters{RequestHeaders: edits("x-b"), ResponseHeaders: edits("x-rb")}
	full := mesh.Route{
		Matches:  []mesh.RouteMatch{pathMatch(mesh.MatchPrefix, "/api"), pathMatch(mesh.MatchPrefix, "/pkg.Service")},
		Requests: timeoutPolicy(1e10, 5e9), Backends: []mesh.Backend{backend},
		Filters: mesh.RouteFilters{
			RequestHeaders: edits("x-q"), ResponseHeaders: edits("x-r"),
			Rewrite: &mesh.Rewrite{Hostname: "inner", Path: &mesh.PathEdit{Prefix: true, Value: "/v2"}},
		},
	}
	canary := mesh.Route{
		Matches:  []mesh.RouteMatch{{Headers: []mesh.NamedMatch{{Name: "x-canary", StringMatch: mesh.StringMatch{Value: "true"}}}}},
		Backends: []mesh.Backend{to(v, 1)},
	}
	parts.Attachments = []mesh.RouteAttachment{route("canary", 1, v, canary), route("full", 2, v, full)}
	ref := []mesh.TargetRef{{Kind: "Service", Name: v.Name}}
	parts.Policies = []*mesh.AuthorizationPolicy{
		{
			Name: mesh.Name{Namespace: "app", Name: "allow"}, Action: mesh.ActionAllow, TargetRefs: ref,
			Rules: []mesh.AuthzRule{
				{From: []mesh.AuthzSource{{Principals: []string{"cluster.local/ns/other/sa/x"}}}},
				{
					From: []mesh.AuthzSource{{Principals: []string{"cluster.local/ns/app/sa/c*"}, Namespaces: []string{"app"}}},
					To:   []mesh.AuthzOperation{{Methods: []string{"GET", "POST"}, Paths: []string{"/api*", "/pkg.Service/*"}}},
				},
			},
		},
		{
			Name: mesh.Name{Namespace: "app", Name: "deny"}, Action: mesh.ActionDeny, TargetRefs: ref,
			Rules: []mesh.AuthzRule{{To: []mesh.AuthzOperation{{Methods: []string{"DELETE"}}}}, {To: []mesh.AuthzOperation{{Paths: []string{"*/secret"}}}}},
		},
	}
}

// formats are the two forms of the access log. Lines are formatted, and find no room.
var formats = map[string]telemetry.WriterOptions{
	"text": {MaxBuffered: 1},
	"json": {MaxBuffered: 1, JSON: true},
}

// allocations counts what one round allocates once everything is warm. A round
// that carries nothing would be cheap: both directions must have moved enough.
func allocations(t *testing.T, round func() (out, back int), least int) float64 {
	t.Helper()
	check := func() {
		if out, back := round(); out < 50 || back < least {
			t.Fatalf("%d bytes went to the workload and %d came back", out, back)
		}
	}
	for range 200 {
		check()
	}
	n := testing.AllocsPerRun(1000, func() { round() })
	check()
	return n
}

// With everything on, a small request on warm connections allocates nothing
// over HTTP/1.1, and a bounded number of times as a gRPC call.
func TestAllocationsWithEverythingOn(t *testing.T) {
	if raceDetector {
		t.Skip("pools forget under the race detector")
	}
	body := strings.Repeat("x", 1024)
	for name, format := range formats {
		t.Run("http1/"+name, func(t *testing.T) {
			b := newBench(t, benchRequest, benchResponse+body, everything)
			b.p.o.AccessLog = telemetry.NewWriter(io.Discard, format)
			if n := allocations(t, b.round, 1100); n > mostHTTP1 {
				t.Errorf("%v allocations per request, want at most %v", n, mostHTTP1)
			}
			b.wantEdited(t)
		})
		t.Run("grpc/"+name, func(t *testing.T) {
			b := newH2Bench(t, everything)
			b.p.o.AccessLog = telemetry.NewWriter(io.Discard, format)
			n := allocations(t, b.round, h2BodyLen)
			if t.Logf("%v allocations", n); n > mostGRPC {
				t.Errorf("%v allocations per call, want at most %v", n, mostGRPC)
			}
		})
		t.Run("connect/"+name, func(t *testing.T) {
			b := newConnectBench(t, everything)
			b.p.o.AccessLog = telemetry.NewWriter(io.Discard, format)
			n := allocations(t, b.round, 1100)
			if t.Logf("%v allocations", n); n > mostConnect {
				t.Errorf("%v allocations per CONNECT with a request, want at most %v", n, mostConnect)
			}
			if n := b.p.tunnels.Load(); n != 1 {
				t.Errorf("%d tunnels are open, want the first one alone", n)
			}
		})
	}
}

// What a request may allocate: for gRPC the structs of its stream and call and
// the strings of two header sections, for CONNECT those of a tunnel. Whoever
// makes it less lowers the figure.
const (
	mostHTTP1   = 0.0
	mostGRPC    = 16.0
	mostConnect = 42.0
)

// wantEdited checks that the filters were at work on what was measured.
func (b *bench) wantEdited(t *testing.T) {
	t.Helper()
	b.do(b.ask)
	out := string(b.up.take())
	b.do(b.answer)
	back := string(b.down.take())
	b.up.discard()
	for _, want := range []string{"GET /v2/items?page=2 HTTP/1.1", "host: inner", "x-q-set: 1", "x-q-add: 2", "x-b-set: 1"} {
		if !strings.Contains(out, want) {
			t.Errorf("the workload's request lacks %q: %q", want, out)
		}
	}
	for _, want := range []string{"HTTP/1.1 200 OK", "x-r-set: 1", "x-rb-add: 2"} {
		if !strings.Contains(back, want) {
			t.Errorf("the client's response lacks %q: %.300q", want, back)
		}
	}
}

// take empties a connection's output and returns it.
func (w *wire) take() []byte {
	w.q.Lock()
	defer w.q.Unlock()
	var all []byte
	for b := w.q.Take(); b != nil; b = w.q.Take() {
		all = append(all, b...)
		w.q.Release(b)
	}
	return all
}

// connectBench makes a tunnel of its own for each request. The connection to
// the workload is the one of before. The server's part of a CONNECT is the
// lab's; TestAllocationsOverSockets has tunnel's own.
type connectBench struct {
	*bench
	connect, end []byte // the client's frames around the request
	id           uint32
}

func newConnectBench(t testing.TB, change func(*mesh.Parts, *mesh.Service)) *connectBench {
	b := newBench(t, benchRequest, benchResponse+strings.Repeat("x", 1024), change)
	v := b.parts.Services[0]
	head := headersFrame(false, [][2]string{
		{":method", "CONNECT"},
		{":authority", vip(v)},
		{"forwarded", "for=10.1.2.3:40000"},
		{"baggage", "k8s.namespace.name=app,k8s.pod.name=client-1,service.name=client,service.version=v1"},
	})
	return &connectBench{bench: b, connect: head, end: []byte{0, 0, 0, 0, 1, 0, 0, 0, 0}, id: binary.BigEndian.Uint32(b.request[5:])}
}

func (c *connectBench) round() (out, back int) {
	c.id += 2
	for _, f := range [][]byte{c.connect, c.request, c.end} {
		binary.BigEndian.PutUint32(f[5:], c.id)
	}
	c.do(c.begin)
	out = c.up.discard()
	c.do(c.answer)
	back = c.down.discard()
	c.do(c.finish)
	c.down.discard()
	c.up.discard()
	return out, back
}

func (c *connectBench) begin(t *loop.Turn) {
	_, _ = c.down.conn.Data(t, c.connect)
	_, _ = c.down.conn.Data(t, c.request)
}

func (c *connectBench) finish(t *loop.Turn) { _, _ = c.down.conn.Data(t, c.end) }
