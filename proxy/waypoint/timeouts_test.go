package waypoint

import (
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

func timesOf(t mesh.Timeouts) *mesh.RequestPolicy { return &mesh.RequestPolicy{Timeouts: &t} }

// wantRecord checks that there is one record, with these flags.
func (s *script) wantRecord(parts ...string) {
	s.t.Helper()
	lines := s.lines()
	if len(lines) != 1 {
		s.t.Errorf("records %q, want one", lines)
		return
	}
	for _, p := range parts {
		if !strings.Contains(lines[0], p) {
			s.t.Errorf("record %q lacks %q", lines[0], p)
		}
	}
}

// Which timeout ends what, and how.
func TestTimeouts(t *testing.T) {
	const chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	const begun = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
	for _, tc := range []struct {
		name    string
		times   mesh.Timeouts
		request string
		respond string
		moves   string // who sends a byte every 600 ms
		after   time.Duration
		want    string // "" for a response that is broken off
		flag    string
	}{
		{"request", mesh.Timeouts{Request: 2 * time.Second}, getRequest, "", "", 2100 * time.Millisecond, "HTTP/1.1 504", "UT response_timeout"},
		{"request, in the response", mesh.Timeouts{Request: 2 * time.Second}, getRequest, begun, "workload", 2300 * time.Millisecond, "", "UT response_timeout"},
		{"idle", mesh.Timeouts{Idle: 2 * time.Second}, getRequest, "", "", 2100 * time.Millisecond, "HTTP/1.1 504", "SI stream_idle_timeout"},
		{"idle client", mesh.Timeouts{Idle: 2 * time.Second}, chunked, "", "", 2100 * time.Millisecond, "HTTP/1.1 408", "SI stream_idle_timeout"},
		{"idle, in the response", mesh.Timeouts{Idle: 2 * time.Second}, getRequest, begun, "", 2500 * time.Millisecond, "", "SI stream_idle_timeout"},
		{"not idle: request", mesh.Timeouts{Idle: 2 * time.Second}, chunked, "", "client", 10 * time.Second, "none", ""},
		{"not idle: response", mesh.Timeouts{Idle: 2 * time.Second}, getRequest, begun, "workload", 10 * time.Second, "going", ""},
		{"longest", mesh.Timeouts{MaxDuration: 3 * time.Second, Idle: time.Second}, getRequest, begun, "workload", 3500 * time.Millisecond, "", "UMSDR upstream_max_stream_duration_reached"},
		{"longest, no response", mesh.Timeouts{MaxDuration: 3 * time.Second}, getRequest, "", "", 3100 * time.Millisecond, "HTTP/1.1 504", "UMSDR upstream_max_stream_duration_reached"},
		{"upgraded: request", mesh.Timeouts{Request: 2 * time.Second, PerTry: time.Second}, upgradeRequest, "101", "workload", 10 * time.Second, "going", ""},
		{"upgraded: idle", mesh.Timeouts{Idle: 2 * time.Second}, upgradeRequest, "101", "", 2500 * time.Millisecond, "", "SI stream_idle_timeout"},
		{"upgraded: not idle", mesh.Timeouts{Idle: 2 * time.Second}, upgradeRequest, "101", "client", 10 * time.Second, "going", ""},
		{"upgraded: longest", mesh.Timeouts{MaxDuration: 3 * time.Second}, upgradeRequest, "101", "workload", 3500 * time.Millisecond, "", "UMSDR upstream_max_stream_duration_reached"},
		{"never", mesh.Timeouts{Request: mesh.Never, PerTry: mesh.Never, Idle: mesh.Never, MaxDuration: mesh.Never}, getRequest, "", "", time.Hour, "none", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, v := policied(t, 1, mesh.ProtocolHTTP, timesOf(tc.times), nil)
			c := s.tunnel(vip(v), true)
			s.send(c, tc.request, false)
			w := s.last()
			switch tc.respond {
			case "":
			case "101":
				s.send(w, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n", false)
			default:
				s.send(w, tc.respond, false)
			}
			over := func() bool { return w.err != nil }
			for end := s.now.Add(tc.after); s.now.Before(end) && !over(); {
				s.pass(min(end.Sub(s.now), 600*time.Millisecond))
				switch {
				case over():
				case tc.moves == "workload":
					s.send(w, "x", false)
				case tc.moves == "client" && tc.respond == "101":
					s.send(c, "x", false)
				case tc.moves == "client":
					s.send(c, "1\r\nx\r\n", false)
				}
			}
			if tc.flag == "" {
				if w.err != nil || c.err != nil || (tc.want == "none") != (c.got.Len() == 0) {
					t.Errorf("it ended: %v and %v, the client has %q", w.err, c.err, c.got.String())
				}
				s.do(func(t *loop.Turn) { c.st.Reset(t, h2.Cancel) })
				s.flow()
				return
			}
			if w.err == nil {
				t.Error("the workload was not told")
			}
			if tc.want == "" {
				if c.err == nil {
					t.Errorf("the response was not broken off: %q", c.got.String())
				}
			} else {
				s.want(c.take(), tc.want)
			}
			flag, details, _ := strings.Cut(tc.flag, " ")
			s.wantRecord(" "+flag+" ", details)
		})
	}
}

// A client's grpc-timeout takes the place of a longer timeout; the endpoint is told what is left.
func TestGRPCTimeout(t *testing.T) {
	for _, tc := range []struct {
		name, header string
		route        time.Duration
		wait         time.Duration // of a filter
		sent         string        // to the endpoint
		after        time.Duration
	}{
		{"alone", "2S", 0, 0, "2S", 2 * time.Second},
		{"shorter", "2S", 5 * time.Second, 0, "2S", 2 * time.Second},
		{"longer", "9S", 5 * time.Second, 0, "5000m", 5 * time.Second},
		{"after a wait", "2S", 0, time.Second, "1000m", time.Second},
		{"short", "500u", 0, 0, "500u", 20 * time.Millisecond},
		{"nonsense", "2s", 3 * time.Second, 0, "2s", 3 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, v := policied(t, 1, mesh.ProtocolGRPC, timesOf(mesh.Timeouts{Request: tc.route}), nil)
			if tc.wait > 0 {
				s.filter(stageRule, stepAfter(tc.wait))
			}
			sent, reset := "", false
			s.h2workload(func(t *loop.Turn, st *h2.Stream, h *h2.Head) {
				sent = fieldOf(h.Fields, "grpc-timeout")
				st.Handle(&onReset{func() { reset = true }})
			})
			r := s.callWithin(s.h2tunnel(vip(v)), tc.header)
			s.pass(tc.wait)
			if sent != tc.sent {
				t.Errorf("the endpoint got %q, want %q", sent, tc.sent)
			}
			s.pass(tc.after - 10*time.Millisecond)
			if tc.after > time.Second && r.status != 0 {
				t.Errorf("answered %d too early", r.status)
			}
			s.pass(100 * time.Millisecond)
			if got := fieldOf(r.fields, "grpc-status"); got != "4" || !reset {
				t.Errorf("status %q, endpoint told: %v, want 4 (DEADLINE_EXCEEDED)", got, reset)
			}
			s.wantRecord(" UT ")
		})
	}
}

// A client's header is no way to have a timeout without gRPC.
func TestGRPCTimeoutIsForGRPC(t *testing.T) {
	s, v := policied(t, 1, mesh.ProtocolHTTP, nil, nil)
	c := s.tunnel(vip(v), true)
	s.send(c, "GET / HTTP/1.1\r\nHost: a\r\ngrpc-timeout: 1S\r\n\r\n", false)
	s.pass(10 * time.Second)
	s.send(s.last(), okResponse, false)
	s.want(c.take(), "HTTP/1.1 200")
}

type onReset struct{ f func() }

func (*onReset) Headers(*loop.Turn, *h2.Stream, *h2.Head)    {}
func (*onReset) Data(*loop.Turn, *h2.Stream, []byte, bool)   {}
func (o *onReset) Reset(_ *loop.Turn, _ *h2.Stream, _ error) { o.f() }
func (*onReset) Writable(*loop.Turn, *h2.Stream)             {}

// callWithin begins a gRPC call with a timeout, and does not end its request.
func (s *script) callWithin(p *h2tap, timeout string) *tap {
	r := &tap{}
	f := []hpack.HeaderField{{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "a"}, {Name: ":path", Value: "/s/m"}, {Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"}}
	f = append(f, hpack.HeaderField{Name: "grpc-timeout", Value: timeout})
	s.do(func(t *loop.Turn) { r.st = p.inner.conn.Open(t, r, f, false) })
	s.flow()
	return r
}

func TestParseGRPCTimeout(t *testing.T) {
	for _, tc := range []struct {
		v    string
		want time.Duration
	}{
		{"1S", time.Second},
		{"20m", 20 * time.Millisecond},
		{"3u", 3 * time.Microsecond},
		{"4n", 4},
		{"2M", 2 * time.Minute},
		{"1H", time.Hour},
		{"99999999H", maxGRPCTimeout},
		{"99999999S", maxGRPCTimeout},
		{"0S", 1},
		{"0n", 1},
		{"", 0},
		{"S", 0},
		{"1", 0},
		{"1s", 0},
		{"-1S", 0},
		{"+1S", 0},
		{"1.5S", 0},
		{"123456789S", 0},
		{" 1S", 0},
		{"1SS", 0},
		{"1_0S", 0},
	} {
		if got := parseGRPCTimeout(tc.v); got != tc.want {
			t.Errorf("%q: %v, want %v", tc.v, got, tc.want)
		}
	}
}

func FuzzParseGRPCTimeout(f *testing.F) {
	f.Add("99999999H")
	f.Fuzz(func(t *testing.T, v string) {
		d := parseGRPCTimeout(v)
		if d < 0 || d > maxGRPCTimeout {
			t.Errorf("%q is %v", v, d)
		}
		if c := coarse(d); c < d || c-d > max(sweepInterval, d/100) || c%sweepInterval != 0 {
			t.Errorf("%v becomes %v", d, c)
		}
	})
}

// However many timeouts clients make up, the lists of timers stay few.
func TestClientsTimeoutsShareLists(t *testing.T) {
	seen := map[time.Duration]bool{}
	for d := time.Duration(1); d < maxGRPCTimeout; d += d/1000 + 1 {
		seen[coarse(d)] = true
	}
	if len(seen) > 4000 {
		t.Errorf("%d lists", len(seen))
	}
}

// Lists that a sweep let go of are not found again through those that were wanted last.
func TestTimerListsComeAndGo(t *testing.T) {
	now := time.Unix(1, 0)
	shards := make([]timerShard, 1)
	s, ms, fired := &shards[0], make([]timer, 100), 0
	for i := range ms {
		s.start(&ms[i], now, time.Duration(i+1)*time.Millisecond, func(*loop.Turn) { fired++ })
	}
	stopAll(&ms[98], &ms[99])
	sweepShards(&loop.Turn{Now: now.Add(time.Second)}, shards)
	if fired != 98 {
		t.Errorf("%d fired, want 98", fired)
	}
	s.start(&ms[97], now, 100*time.Millisecond, func(*loop.Turn) { fired++ })
	if sweepShards(&loop.Turn{Now: now.Add(time.Second)}, shards); fired != 99 {
		t.Errorf("%d fired, want 99: the list is not swept", fired)
	}
}
