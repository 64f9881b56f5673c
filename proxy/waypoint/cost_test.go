package waypoint

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/telemetry"
	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// bench is a waypoint between a client's tunnel and a workload's, whose frames
// are made beforehand: what is measured is the waypoint's own work, HTTP/2 of
// the tunnels included, TLS and sockets not.
type bench struct {
	*script
	down, up          *wire // the waypoint's ends
	request, response []byte
}

// frames returns data as DATA frames of a stream.
func frames(id uint32, data string) []byte {
	var b []byte
	for len(data) > 0 {
		n := min(len(data), 16384)
		b = append(b, byte(n>>16), byte(n>>8), byte(n), 0, 0)
		b = binary.BigEndian.AppendUint32(b, id)
		b = append(b, data[:n]...)
		data = data[n:]
	}
	return b
}

func newBench(t testing.TB, request, response string, change func(*mesh.Parts, *mesh.Service)) *bench {
	parts, v := oneService(mesh.ProtocolHTTP)
	if change != nil {
		change(&parts, v)
	}
	s := newScript(t, parts)
	s.p.o.AccessLog = telemetry.NewWriter(io.Discard, telemetry.WriterOptions{MaxBuffered: 1}) // formats, and has no room
	s.window = 1<<31 - 1
	s.w = s.client()
	c := s.tunnel(vip(v), true)
	s.send(c, request, false)
	s.send(s.works[0], response, false)
	s.want(c.take(), "HTTP/1.1 200")
	return &bench{
		script: s, down: s.w.to, up: s.peers[dialOf(parts.Workloads[0])].conns[0],
		request: frames(c.st.ID, request), response: frames(s.works[0].st.ID, response),
	}
}

// discard empties a connection's output, as a socket that takes all of it.
func (w *wire) discard() (n int) {
	w.q.Lock()
	defer w.q.Unlock()
	for b := w.q.Take(); b != nil; b = w.q.Take() {
		n += len(b)
		w.q.Release(b)
	}
	return n
}

// round takes one request there and one response back.
func (b *bench) round() (out, back int) {
	b.do(b.ask)
	out = b.up.discard()
	b.do(b.answer)
	back = b.down.discard()
	b.up.discard()
	return out, back
}

func (b *bench) ask(t *loop.Turn)    { _, _ = b.down.conn.Data(t, b.request) }
func (b *bench) answer(t *loop.Turn) { _, _ = b.up.conn.Data(t, b.response) }

const (
	benchRequest  = "GET /api/items?page=2 HTTP/1.1\r\nHost: web.app.svc.cluster.local\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\nX-Forwarded-For: 10.1.2.3\r\n\r\n"
	benchResponse = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Mon, 02 Jan 2006 15:04:05 GMT\r\nContent-Length: 1024\r\n\r\n"
)

func benchRoutes(parts *mesh.Parts, v *mesh.Service) {
	parts.Attachments = []mesh.RouteAttachment{route("r", 1, v, mesh.Route{Matches: []mesh.RouteMatch{pathMatch(mesh.MatchPrefix, "/api")}, Requests: timeoutPolicy(1e10, 0), Backends: []mesh.Backend{to(v, 1)}})}
	parts.Policies = []*mesh.AuthorizationPolicy{{
		Name: mesh.Name{Namespace: "app", Name: "p"}, Action: mesh.ActionAllow, TargetRefs: []mesh.TargetRef{{Kind: "Service", Name: v.Name}},
		Rules: []mesh.AuthzRule{{From: []mesh.AuthzSource{{Principals: []string{clientID.Principal()}}}, To: []mesh.AuthzOperation{{Methods: []string{"GET"}, Paths: []string{"/api*"}}}}},
	}}
}

// resilient is all that can be said of times and tries, and does not happen.
func resilient(parts *mesh.Parts, v *mesh.Service) {
	benchRoutes(parts, v)
	v.Ports[0].Requests = &mesh.RequestPolicy{
		Timeouts: &mesh.Timeouts{Request: 10 * time.Second, PerTry: 5 * time.Second, Idle: time.Minute, MaxDuration: time.Hour},
		Retry:    &mesh.Retry{Attempts: 3, Codes: []int{502, 503}, GRPCStatuses: []int{14}, On: mesh.RetryReset, BodyLimit: 128 << 10},
		Hedging:  &mesh.Hedging{Delay: time.Second, Max: 2},
	}
	v.Ports[0].Backend = &mesh.BackendPolicy{Budget: &mesh.RetryBudget{Percent: 20, Interval: 10 * time.Second, MinRate: 10, MinRateInterval: time.Second}}
}

// A small request on warm connections allocates nothing, with a route, its
// timeout and a policy neither, nor with retries, budgets and hedges that it could have.
func TestAllocationsPerRequest(t *testing.T) {
	if raceDetector {
		t.Skip("pools forget under the race detector")
	}
	body := strings.Repeat("x", 1024)
	for _, tc := range []struct {
		name   string
		change func(*mesh.Parts, *mesh.Service)
		most   float64
	}{
		{"plain", nil, 0},
		{"routed", benchRoutes, 0},
		{"resilient", resilient, 0},
		{"idle", idleFeatures, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, benchRequest, benchResponse+body, tc.change)
			if out, back := b.round(); out < 100 || back < 1100 {
				t.Fatalf("%d bytes went to the workload and %d came back", out, back)
			}
			for range 100 {
				b.round()
			}
			if n := testing.AllocsPerRun(2000, func() { b.round() }); n > tc.most {
				t.Errorf("%v allocations per request, want at most %v", n, tc.most)
			}
			if out, back := b.round(); out < 100 || back < 1100 {
				t.Fatalf("in the end %d bytes went to the workload and %d came back", out, back)
			}
		})
	}
}

func BenchmarkRequest(b *testing.B) {
	body := strings.Repeat("x", 1024)
	for _, tc := range []struct {
		name   string
		change func(*mesh.Parts, *mesh.Service)
	}{{"plain", nil}, {"routed", benchRoutes}, {"resilient", resilient}, {"idle", idleFeatures}} {
		b.Run(tc.name, func(b *testing.B) {
			x := newBench(b, benchRequest, benchResponse+body, tc.change)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				x.round()
				if i%4096 == 4095 { // windows
					x.open()
				}
			}
		})
	}
}

// h2bench is a bench whose client and workload speak HTTP/2 inside the tunnels.
type h2bench struct {
	*bench
	ask, answer []byte // frames with places for stream identifiers
	id          uint32
}

const h2BodyLen = 1024

func newH2Bench(t testing.TB, change func(*mesh.Parts, *mesh.Service)) *h2bench {
	parts, v := oneService(mesh.ProtocolHTTP2)
	if change != nil {
		change(&parts, v)
	}
	s := newScript(t, parts)
	s.p.o.AccessLog = telemetry.NewWriter(io.Discard, telemetry.WriterOptions{MaxBuffered: 1})
	s.window = 1<<31 - 1
	s.w = s.client()
	c := s.tunnel(vip(v), true)
	const settings = "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x7f\xff\xff\xff" + "\x00\x00\x04\x08\x00\x00\x00\x00\x00\x70\x00\x00\x00"
	s.send(c, clientPreface+settings, false)
	b := &h2bench{bench: &bench{script: s, down: s.w.to}}
	b.ask = b.wrap(c.st.ID, headersFrame(true, [][2]string{
		{":method", "POST"},
		{":scheme", "http"},
		{":authority", "web.app.svc.cluster.local"},
		{":path", "/pkg.Service/Method"},
		{"content-type", "application/grpc"},
		{"user-agent", "grpc-go/1.60"},
		{"te", "trailers"},
	}))
	b.id = 1
	s.send(c, string(b.place(b.ask, 1)[9:]), false)
	s.send(s.works[0], settings, false)
	b.up = s.peers[dialOf(parts.Workloads[0])].conns[0]
	content := frames(1, strings.Repeat("x", h2BodyLen))
	b.answer = b.wrap(s.works[0].st.ID, headersFrame(false, [][2]string{{":status", "200"}, {"content-type", "application/grpc"}}), content,
		headersFrame(true, [][2]string{{"grpc-status", "0"}}))
	s.send(s.works[0], string(b.place(b.answer, 1)[9:]), false)
	s.flow()
	b.down.discard()
	b.up.discard()
	return b
}

// headersFrame is a HEADERS frame of literals that enter no table.
func headersFrame(end bool, fields [][2]string) []byte {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range fields {
		_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true})
	}
	flags := byte(4)
	if end {
		flags = 5
	}
	return append([]byte{0, byte(block.Len() >> 8), byte(block.Len()), 1, flags, 0, 0, 0, 0}, block.Bytes()...)
}

// wrap makes one DATA frame of a tunnel of inner frames.
func (*h2bench) wrap(tunnel uint32, inner ...[]byte) []byte {
	return frames(tunnel, string(bytes.Join(inner, nil)))
}

// place sets the stream of all inner frames.
func (*h2bench) place(b []byte, id uint32) []byte {
	for at := 9; at < len(b); {
		binary.BigEndian.PutUint32(b[at+5:], id)
		at += 9 + int(b[at])<<16 + int(b[at+1])<<8 + int(b[at+2])
	}
	return b
}

func (b *h2bench) round() (out, back int) {
	b.id += 2
	b.do(b.askH2)
	out = b.up.discard()
	b.do(b.answerH2)
	back = b.down.discard()
	b.up.discard()
	return out, back
}

func (b *h2bench) askH2(t *loop.Turn)    { _, _ = b.down.conn.Data(t, b.place(b.ask, b.id)) }
func (b *h2bench) answerH2(t *loop.Turn) { _, _ = b.up.conn.Data(t, b.place(b.answer, b.id)) }

func TestAllocationsPerHTTP2Request(t *testing.T) {
	if raceDetector {
		t.Skip("pools forget under the race detector")
	}
	b := newH2Bench(t, nil)
	for range 100 {
		if out, back := b.round(); out < 50 || back < h2BodyLen {
			t.Fatalf("%d bytes went to the workload and %d came back", out, back)
		}
	}
	n := testing.AllocsPerRun(2000, func() { b.round() })
	if t.Logf("%v allocations", n); n > 16 {
		t.Errorf("%v allocations per request", n)
	}
	if out, back := b.round(); out < 50 || back < h2BodyLen {
		t.Fatalf("in the end %d bytes went to the workload and %d came back", out, back)
	}
}

func BenchmarkHTTP2Request(b *testing.B) {
	x := newH2Bench(b, nil)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		x.round()
		if i%4096 == 4095 {
			x.open()
		}
	}
}

// open gives the waypoint's ends their connection windows back.
func (b *bench) open() {
	const update = "\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x70\x00\x00"
	b.do(func(t *loop.Turn) {
		_, _ = b.down.conn.Data(t, []byte(update))
		_, _ = b.up.conn.Data(t, []byte(update))
	})
}

// What each open tunnel costs must stay small: there are thousands.
func TestSizes(t *testing.T) {
	for _, tc := range []struct {
		name       string
		size, most uintptr
	}{
		{"clientTunnel", unsafe.Sizeof(clientTunnel{}), 640},
		{"exchange", unsafe.Sizeof(exchange{}), 1400},
		{"h1Server", unsafe.Sizeof(h1Server{}), 1800},
		{"h2Server", unsafe.Sizeof(h2Server{}), 512},
		{"h2Request", unsafe.Sizeof(h2Request{}), 1500},
		{"h1Client", unsafe.Sizeof(h1Client{}), 420},
		{"h2Call", unsafe.Sizeof(h2Call{}), 96},
	} {
		if t.Logf("%s: %d bytes", tc.name, tc.size); tc.size > tc.most {
			t.Errorf("%s has grown to %d bytes, more than %d", tc.name, tc.size, tc.most)
		}
	}
}

// A tunnel to a service of many endpoints finds its series as fast as one to few.
func BenchmarkSeriesOfManyEndpoints(b *testing.B) {
	var works []*mesh.Workload
	for i := range 12 {
		works = append(works, labWorkload(i+1))
	}
	v := labService(1, mesh.ProtocolHTTP, works...)
	l := newLab(b, mesh.Parts{Workloads: works, Services: []*mesh.Service{v}})
	tun := &clientTunnel{p: l.p, dst: netip.MustParseAddrPort(vip(v))}
	rt, port := tun.current()
	var xs []*exchange
	for _, w := range works {
		x := &exchange{tun: tun, rt: rt, port: port}
		x.backend = port.fallback.backends[0]
		for _, ep := range x.backend.cluster.c.Endpoints() {
			if ep.Workload == w {
				x.dest = l.p.dest(x.backend.cluster, ep)
			}
		}
		xs = append(xs, x)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		tun.series(xs[i%len(xs)], false)
	}
}

// What an idle tunnel holds, both ends of its stream included, after a request
// with a large head and a large body.
func TestMemoryOfIdleTunnels(t *testing.T) {
	if raceDetector {
		t.Skip("memory is another under the race detector")
	}
	parts, v := oneService(mesh.ProtocolHTTP)
	s := newScript(t, parts)
	s.p.o.AccessLog = nil
	request := "POST /" + strings.Repeat("p", 20_000) + " HTTP/1.1\r\nHost: a\r\nX-Large: " + strings.Repeat("x", 20_000) + "\r\nContent-Length: 50000\r\n\r\n" + strings.Repeat("b", 50_000)
	response := "HTTP/1.1 200 OK\r\nX-Large: " + strings.Repeat("x", 20_000) + "\r\nContent-Length: 50000\r\n\r\n" + strings.Repeat("b", 50_000)
	const n = 150
	var taps []*tap
	open := func() {
		c := s.tunnel(vip(v), true)
		s.send(c, request, false)
		s.works[0].take()
		s.send(s.works[0], response, false)
		s.want(c.take(), "HTTP/1.1 200")
		c.got = bytes.Buffer{}
		taps = append(taps, c)
	}
	open()
	before := liveHeap()
	for range n {
		open()
	}
	per := int64(liveHeap()-before) / n
	if t.Logf("%d bytes per idle tunnel", per); per > 6<<10 {
		t.Errorf("an idle tunnel holds %d bytes", per)
	}
	runtime.KeepAlive(taps)
	runtime.KeepAlive(s)
}

func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
