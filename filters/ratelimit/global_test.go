package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"cairnproxy.dev/cairn/expr"
	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/filters/filterstest"
	"cairnproxy.dev/cairn/filters/ratelimit/ratelimittest"
	"cairnproxy.dev/cairn/filters/remote"
	"cairnproxy.dev/cairn/mesh"
)

// patient is a timeout that a loaded machine keeps.
const patient = 20 * time.Second

func byPath(edit func(*mesh.GlobalLimit)) *mesh.RateLimit {
	g := &mesh.GlobalLimit{
		Service: mesh.ServiceKey{Namespace: "limits", Hostname: "ratelimit.limits.svc"}, Port: 8081, Domain: "shop", Timeout: patient,
		Descriptors: []mesh.Descriptor{{Entries: []mesh.DescriptorEntry{{Key: "path", Expr: "request.path"}}}},
	}
	if edit != nil {
		edit(g)
	}
	return &mesh.RateLimit{Global: g}
}

// text is a descriptor on one line.
func text(d *ratelimitv3.RateLimitDescriptor) string {
	var out []string
	for _, e := range d.GetEntries() {
		out = append(out, e.GetKey()+"="+e.GetValue())
	}
	s := strings.Join(out, ",")
	if h := d.GetHitsAddend(); h != nil {
		s += fmt.Sprintf("*%d", h.GetValue())
	}
	return s
}

func TestQuestion(t *testing.T) {
	val, ex := func(k, v string) mesh.DescriptorEntry { return mesh.DescriptorEntry{Key: k, Value: v} }, func(k, e string) mesh.DescriptorEntry { return mesh.DescriptorEntry{Key: k, Expr: e} }
	one := func(e ...mesh.DescriptorEntry) mesh.Descriptor { return mesh.Descriptor{Entries: e} }
	tests := []struct {
		name string
		list []mesh.Descriptor
		want string
	}{
		{"fixed", []mesh.Descriptor{one(val("k", "v"))}, "k=v"},
		{"identity", []mesh.Descriptor{one(val("kind", "a"), ex("who", "source.principal"))}, "kind=a,who=cluster.local/ns/shop/sa/web"},
		{"number", []mesh.Descriptor{one(ex("n", "size(request.path)")), one(ex("b", "request.method == 'GET'"))}, "n=2 b=true"},
		{"missing", []mesh.Descriptor{one(ex("h", "request.headers['x-none']")), one(val("k", "v"))}, "k=v"},
		{"empty", []mesh.Descriptor{one(ex("h", "request.headers['x-empty']"))}, "nothing"},
		{"when", []mesh.Descriptor{{Entries: []mesh.DescriptorEntry{val("a", "1")}, When: "request.method == 'PUT'"}, {Entries: []mesh.DescriptorEntry{val("b", "1")}, When: "request.method == 'GET'"}}, "b=1"},
		{"when_fails", []mesh.Descriptor{{Entries: []mesh.DescriptorEntry{val("a", "1")}, When: "request.headers['x-none'] == ''"}}, "a=1"},
		{"cost", []mesh.Descriptor{{Entries: []mesh.DescriptorEntry{val("a", "1")}, Cost: "5"}}, "a=1*5 +5"},
		{"cost_zero", []mesh.Descriptor{{Entries: []mesh.DescriptorEntry{val("a", "1")}, Cost: "0"}}, "a=1*0"},
		{"costs", []mesh.Descriptor{{Entries: []mesh.DescriptorEntry{val("a", "1")}, Cost: "5"}, one(val("b", "1"))}, "a=1*5 b=1"},
		{"not_utf8", []mesh.Descriptor{one(ex("h", "request.headers['x-bytes']"))}, "h=a\ufffdb"},
		{"long", []mesh.Descriptor{one(ex("h", "request.headers['x-long']"))}, "h=" + strings.Repeat("a", maxValue)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g, err := buildGlobal(NewRegistry(nil, nil), byPath(func(g *mesh.GlobalLimit) { g.Descriptors = tt.list }))
			if err != nil {
				t.Fatal(err)
			}
			q := g.question(&expr.Input{Req: request("x-empty", "", "x-bytes", "a\xffb", "x-long", strings.Repeat("a", 5000))})
			got := "nothing"
			if q != nil {
				var list []string
				for _, d := range q.GetDescriptors() {
					list = append(list, text(d))
				}
				if got = strings.Join(list, " "); q.GetHitsAddend() != 0 {
					got += fmt.Sprintf(" +%d", q.GetHitsAddend())
				}
			}
			if got != tt.want {
				t.Errorf("asked %s, want %s", got, tt.want)
			}
		})
	}
}

func status(code rls.RateLimitResponse_Code, perMinute, left uint32, reset time.Duration) *rls.RateLimitResponse_DescriptorStatus {
	return &rls.RateLimitResponse_DescriptorStatus{
		Code: code, LimitRemaining: left, DurationUntilReset: durationpb.New(reset),
		CurrentLimit: &rls.RateLimitResponse_RateLimit{RequestsPerUnit: perMinute, Unit: rls.RateLimitResponse_RateLimit_MINUTE},
	}
}

const ok, over = rls.RateLimitResponse_OK, rls.RateLimitResponse_OVER_LIMIT

func TestAnswers(t *testing.T) {
	value := func(k, v string) *corev3.HeaderValue { return &corev3.HeaderValue{Key: k, Value: v} }
	tests := []struct {
		name   string
		edit   func(*mesh.GlobalLimit)
		answer *rls.RateLimitResponse
		err    error
		want   string // the reply, or the request's fields where it passes
		fields string // of the response
		counts string
	}{
		{
			"ok", nil, &rls.RateLimitResponse{OverallCode: ok, Statuses: []*rls.RateLimitResponse_DescriptorStatus{status(ok, 10, 4, 30*time.Second), status(ok, 5, 2, 7*time.Second)}}, nil,
			"passed []", "[{ratelimit-limit 5, 5;w=60} {ratelimit-remaining 2} {ratelimit-reset 7}]", "map[asked:1]",
		},
		{"unknown_code", nil, &rls.RateLimitResponse{}, nil, "passed []", "[]", "map[asked:1]"},
		{
			"over", nil, &rls.RateLimitResponse{OverallCode: over, Statuses: []*rls.RateLimitResponse_DescriptorStatus{status(ok, 10, 0, 3*time.Second), status(over, 5, 0, 7*time.Second)}, RawBody: []byte("slow down")}, nil,
			"429 RL request_rate_limited 8 slow down", "[{x-envoy-ratelimited true} {ratelimit-limit 5, 5;w=60} {ratelimit-remaining 0} {ratelimit-reset 7} {retry-after 7}]", "map[asked:1 limited:1]",
		},
		{"status", func(g *mesh.GlobalLimit) { g.Status = 503 }, &rls.RateLimitResponse{OverallCode: over}, nil, "503 RL request_rate_limited 8 ", "[{x-envoy-ratelimited true}]", "map[asked:1 limited:1]"},
		{"fields", nil, &rls.RateLimitResponse{
			OverallCode: ok, RequestHeadersToAdd: []*corev3.HeaderValue{value("X-Tier", "gold"), value("Host", "evil"), value(":path", "/evil")},
			ResponseHeadersToAdd: []*corev3.HeaderValue{value("X-Left", "1"), value("transfer-encoding", "chunked"), value("a b", "c"), value("x-c", "a\r\nb: c"), {Key: "x-raw", RawValue: []byte("r")}},
		}, nil, "passed [{x-tier gold}]", "[{x-left 1} {x-raw r}]", "map[asked:1]"},
		{
			"over_fields", nil, &rls.RateLimitResponse{OverallCode: over, ResponseHeadersToAdd: []*corev3.HeaderValue{value("x-why", "a")}}, nil,
			"429 RL request_rate_limited 8 ", "[{x-why a} {x-envoy-ratelimited true}]", "map[asked:1 limited:1]",
		},
		{"dry_run", func(g *mesh.GlobalLimit) { g.DryRun = true }, &rls.RateLimitResponse{OverallCode: over}, nil, "passed [] would limit shop/limits", "[]", "map[asked:1 dry_run:1]"},
		{"error_closed", nil, nil, errors.New("no"), "500 RLSE rate_limiter_error 14 ", "[]", "map[asked:1 unanswered:1]"},
		{"error_open", func(g *mesh.GlobalLimit) { g.FailOpen = true }, nil, errors.New("no"), "passed []", "[]", "map[asked:1 unanswered:1]"},
		{"error_dry_run", func(g *mesh.GlobalLimit) { g.DryRun = true }, nil, errors.New("no"), "passed []", "[]", "map[asked:1 unanswered:1]"},
		{"broken_closed", func(g *mesh.GlobalLimit) { g.Broken = "no such service" }, nil, nil, "500 RLSE rate_limiter_error 14 ", "[]", "map[asked:1 unanswered:1]"},
		{"broken_open", func(g *mesh.GlobalLimit) { g.Broken, g.FailOpen = "no such service", true }, nil, nil, "passed []", "[]", "map[asked:1 unanswered:1]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := ratelimittest.Start(t, func(context.Context, *rls.RateLimitRequest) (*rls.RateLimitResponse, error) { return tt.answer, tt.err })
			count := counts{}
			r := NewRegistry(s, count.counter)
			defer r.Close()
			c := chain(t, r, byPath(tt.edit))
			x := filterstest.Exchange(request())
			got, resp := "", (*mesh.Response)(nil)
			if filterstest.Run(x, c) == filters.Replied {
				p := x.Reply
				got = fmt.Sprintf("%d %s %s %s %s", p.Status, p.Flag, p.Details, p.GRPCStatus, p.Body)
				resp = filterstest.Local(x, c)
			} else {
				got = fmt.Sprintf("passed %v", x.Req.Fields)
				if n := x.Noted(); n != nil && n.WouldLimit != "" {
					got += " would limit " + n.WouldLimit
				}
				resp = filterstest.Response(x, c)
			}
			r.Close()
			if got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			if f := fmt.Sprint(resp.Fields); f != tt.fields {
				t.Errorf("response %s, want %s", f, tt.fields)
			}
			if n := fmt.Sprint(count); n != tt.counts {
				t.Errorf("counted %s, want %s", n, tt.counts)
			}
		})
	}
}

func TestNothingToAsk(t *testing.T) {
	s := ratelimittest.Start(t, nil)
	r := NewRegistry(s, nil)
	defer r.Close()
	c := chain(t, r, byPath(func(g *mesh.GlobalLimit) { g.Descriptors[0].When = "false" }))
	if got := filterstest.Run(filterstest.Exchange(request()), c); got != filters.Continue || len(s.Asked()) != 0 || s.Dials() != 0 {
		t.Errorf("%v after %d questions", got, len(s.Asked()))
	}
}

// TestOneConnection: policies and configurations share the connection.
func TestOneConnection(t *testing.T) {
	s := ratelimittest.Start(t, nil)
	r := NewRegistry(s, nil)
	defer r.Close()
	a, b := chain(t, r, byPath(nil)), chain(t, r, byPath(func(g *mesh.GlobalLimit) { g.Domain = "other" }))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for _, c := range []filters.Chain{a, b} {
				if got := filterstest.Run(filterstest.Exchange(request()), c); got != filters.Continue {
					t.Error(got)
				}
			}
		})
	}
	wg.Wait()
	if s.Dials() != 1 || len(s.Asked()) != 40 {
		t.Errorf("%d connections for %d questions, want 1 for 40", s.Dials(), len(s.Asked()))
	}
}

func TestTimeout(t *testing.T) {
	s := ratelimittest.Start(t, func(ctx context.Context, _ *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	r := NewRegistry(s, nil)
	defer r.Close()
	c := chain(t, r, byPath(func(g *mesh.GlobalLimit) { g.Timeout = 10 * time.Millisecond }))
	x := filterstest.Exchange(request())
	if got := filterstest.Run(x, c); got != filters.Replied || x.Reply.Flag != "RLSE" {
		t.Errorf("%v, %+v", got, x.Reply)
	}
}

// TestClientGone: who waits for the exchange's answer ends with it.
func TestClientGone(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	s := ratelimittest.Start(t, func(ctx context.Context, _ *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
		close(begun)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	})
	r := NewRegistry(s, nil)
	defer r.Close()
	x := filterstest.Exchange(request())
	c := chain(t, r, byPath(nil))
	if got := filterstest.Start(x, c); got != filters.Park {
		t.Fatal(got)
	}
	<-begun
	if !filterstest.Cancel(x) {
		t.Error("the exchange was not parked")
	}
	<-ended
}

// TestClose ends what waits.
func TestClose(t *testing.T) {
	begun := make(chan struct{})
	s := ratelimittest.Start(t, func(ctx context.Context, _ *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
		close(begun)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	r := NewRegistry(s, nil)
	c := chain(t, r, byPath(nil))
	x := filterstest.Exchange(request())
	done := make(chan filters.Result)
	go func() { done <- filterstest.Run(x, c) }()
	<-begun
	r.Close()
	if got := <-done; got != filters.Replied || x.Reply.Flag != "RLSE" {
		t.Errorf("%v, %+v", got, x.Reply)
	}
	x = filterstest.Exchange(request())
	if got := filterstest.Run(x, c); got != filters.Replied || x.Reply.Flag != "RLSE" {
		t.Errorf("after the end: %v, %+v", got, x.Reply)
	}
}

type nowhere struct{}

func (nowhere) DialService(context.Context, mesh.ServiceKey, uint16, string) (net.Conn, error) {
	return nil, errors.New("there is no endpoint")
}

// TestAway: a service that is away is not asked by everybody.
func TestAway(t *testing.T) {
	count := counts{}
	r := NewRegistry(nowhere{}, count.counter)
	defer r.Close()
	c := chain(t, r, byPath(func(g *mesh.GlobalLimit) { g.FailOpen = true }))
	for range 3 * remote.MaxFailures {
		if got := filterstest.Run(filterstest.Exchange(request()), c); got != filters.Continue {
			t.Fatal(got)
		}
	}
	if count["unanswered"] != 3*remote.MaxFailures {
		t.Errorf("counted %v", count)
	}
}

func FuzzAcceptable(f *testing.F) {
	f.Add("X-A", "b")
	f.Add(":path", "/")
	f.Add("a", "b\r\nc: d")
	f.Fuzz(func(t *testing.T, name, value string) {
		field, ok := acceptable(name, value)
		if ok && (strings.ContainsAny(field.Value, "\r\n\x00") || field.Name == "" || strings.ContainsAny(field.Name, ": \r\n\x00") || field.Name != strings.ToLower(field.Name)) {
			t.Fatalf("%q: %q became %v", name, value, field)
		}
	})
}

func BenchmarkGlobal(b *testing.B) {
	s := ratelimittest.Start(b, nil)
	r := NewRegistry(s, nil)
	defer r.Close()
	c := chain(b, r, byPath(nil))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		x := filterstest.Exchange(request())
		for pb.Next() {
			if filterstest.Run(x, c) != filters.Continue {
				b.Error("not answered")
			}
		}
	})
}
