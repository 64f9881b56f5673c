package ratelimit

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/filters/filterstest"
	"cairnproxy.dev/cairn/mesh"
)

var policyName = mesh.Name{Namespace: "shop", Name: "limits"}

func chain(t testing.TB, r *Registry, p *mesh.RateLimit) filters.Chain {
	t.Helper()
	p.Policy = policyName
	c, err := filters.Compile([]filters.Spec{Spec(r)}, filters.BuildContext{Level: filters.LevelRule, Requests: &mesh.RequestPolicy{RateLimit: p}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func request(fields ...string) *mesh.Request {
	r := &mesh.Request{Method: "GET", Path: "/a", Authority: "a", Host: "a", Proto: 2, Peer: mesh.Peer{Principal: "cluster.local/ns/shop/sa/web", Addr: netip.MustParseAddrPort("10.0.0.1:1")}}
	for i := 0; i < len(fields); i += 2 {
		r.Fields.Add(fields[i], fields[i+1])
	}
	return r
}

// counts counts by "LIMIT result".
type counts map[string]int

type countOf struct {
	c    counts
	name string
}

func (c countOf) Inc() { c.c[c.name]++ }

func (c counts) counter(_ mesh.Name, limit, result string) Counter {
	return countOf{c, strings.TrimSpace(limit + " " + result)}
}

// results runs requests one after another: "." passes, else the status.
func results(c filters.Chain, n int, r func(i int) *mesh.Request) string {
	var out strings.Builder
	for i := range n {
		x := filterstest.Exchange(r(i))
		if filterstest.Run(x, c) == filters.Continue {
			out.WriteString(".")
		} else {
			fmt.Fprintf(&out, "[%d]", x.Reply.Status)
		}
	}
	return out.String()
}

func TestLocal(t *testing.T) {
	plain := func(int) *mesh.Request { return request() }
	tests := []struct {
		name   string
		limits []mesh.LocalLimit
		n      int
		r      func(int) *mesh.Request
		want   string
	}{
		{"one", []mesh.LocalLimit{{Name: "a", Requests: 2, Per: time.Minute}}, 4, plain, "..[429][429]"},
		{"burst", []mesh.LocalLimit{{Name: "a", Requests: 2, Per: time.Minute, Burst: 3}}, 4, plain, "...[429]"},
		{"status", []mesh.LocalLimit{{Name: "a", Requests: 1, Per: time.Minute, Status: 503}}, 2, plain, ".[503]"},
		{"two", []mesh.LocalLimit{{Name: "a", Requests: 3, Per: time.Minute}, {Name: "b", Requests: 1, Per: time.Minute}}, 3, plain, ".[429][429]"},
		{"when", []mesh.LocalLimit{{Name: "a", Requests: 1, Per: time.Minute, When: "'x-a' in request.headers"}}, 4, func(i int) *mesh.Request {
			if i < 2 {
				return request()
			}
			return request("x-a", "1")
		}, "...[429]"},
		{"when_fails", []mesh.LocalLimit{{Name: "a", Requests: 1, Per: time.Minute, When: "request.headers['x-a'] == 'a'"}}, 2, plain, ".[429]"},
		{"key", []mesh.LocalLimit{{Name: "a", Requests: 1, Per: time.Minute, Key: []string{"request.headers['x-user']"}}}, 6, func(i int) *mesh.Request {
			return request("x-user", string("abcabb"[i]))
		}, "...[429][429][429]"},
		{"key_missing", []mesh.LocalLimit{{Name: "a", Requests: 1, Per: time.Minute, Key: []string{"request.headers['x-user']"}}}, 2, plain, ".[429]"},
		{"two_keys", []mesh.LocalLimit{{Name: "a", Requests: 1, Per: time.Minute, Key: []string{"request.headers['x-a']", "request.headers['x-b']"}}}, 4, func(i int) *mesh.Request {
			return [...]*mesh.Request{request("x-a", "ab", "x-b", "c"), request("x-a", "a", "x-b", "bc"), request("x-a", "ab", "x-b", "c"), request("x-b", "abc")}[i]
		}, "..[429]."},
		{"cost", []mesh.LocalLimit{{Name: "a", Requests: 10, Per: time.Minute, Cost: "request.method == 'GET' ? 4 : 1"}}, 4, plain, "..[429][429]"},
		{"cost_zero", []mesh.LocalLimit{{Name: "a", Requests: 1, Per: time.Minute, Cost: "0 - 5"}}, 3, plain, "..."},
		{"cost_fails", []mesh.LocalLimit{{Name: "a", Requests: 1, Per: time.Minute, Cost: "int(request.headers['x-cost'])"}}, 2, plain, ".[429]"},
		{"dry_run", []mesh.LocalLimit{{Name: "a", Requests: 1, Per: time.Minute, DryRun: true}}, 3, plain, "..."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := chain(t, NewRegistry(nil, nil), &mesh.RateLimit{Local: tt.limits})
				if got := results(c, tt.n, tt.r); got != tt.want {
					t.Errorf("%s, want %s", got, tt.want)
				}
			})
		})
	}
}

// TestAllOrNone: what one limit gave comes back when another refuses.
func TestAllOrNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry(nil, nil)
		c := chain(t, r, &mesh.RateLimit{Local: []mesh.LocalLimit{
			{Name: "all", Requests: 3, Per: time.Hour}, {Name: "user", Requests: 1, Per: time.Hour, Key: []string{"request.headers['x-user']"}},
		}})
		if got := results(c, 7, func(i int) *mesh.Request { return request("x-user", string("aaaabcd"[i])) }); got != ".[429][429][429]..[429]" {
			t.Errorf("%s: those refused have used up what is for all", got)
		}
	})
}

func TestRefill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := chain(t, NewRegistry(nil, nil), &mesh.RateLimit{Local: []mesh.LocalLimit{{Name: "a", Requests: 60, Per: time.Minute, Burst: 1}}})
		got := ""
		for range 5 {
			got += results(c, 2, func(int) *mesh.Request { return request() })
			time.Sleep(time.Second)
		}
		if got != strings.Repeat(".[429]", 5) {
			t.Error(got)
		}
	})
}

func TestLocalReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		count := counts{}
		c := chain(t, NewRegistry(nil, count.counter), &mesh.RateLimit{Local: []mesh.LocalLimit{
			{Name: "wide", Requests: 100, Per: time.Hour},
			{Name: "narrow", Requests: 2, Per: 10 * time.Second, Burst: 1},
			{Name: "dry", Requests: 1, Per: time.Hour, DryRun: true},
		}})
		x := filterstest.Exchange(request())
		if got := filterstest.Run(x, c); got != filters.Continue {
			t.Fatal(got)
		}
		resp := filterstest.Response(x, c, mesh.Field{Name: "server", Value: "x"})
		if got, want := fmt.Sprint(resp.Fields), "[{server x} {ratelimit-limit 1, 2;w=10;burst=1} {ratelimit-remaining 0} {ratelimit-reset 5}]"; got != want {
			t.Errorf("passed: %s, want %s", got, want)
		}
		x = filterstest.Exchange(request())
		if got := filterstest.Run(x, c); got != filters.Replied {
			t.Fatal(got)
		}
		if p := x.Reply; p.Status != 429 || p.Flag != "RL" || p.Details != "local_rate_limited" || p.Body != "local_rate_limited" || p.GRPCStatus != "8" {
			t.Errorf("%+v", p)
		}
		if got, want := fmt.Sprint(filterstest.Local(x, c).Fields), "[{ratelimit-limit 1, 2;w=10;burst=1} {ratelimit-remaining 0} {ratelimit-reset 5} {retry-after 5}]"; got != want {
			t.Errorf("refused: %s, want %s", got, want)
		}
		time.Sleep(5 * time.Second)
		x = filterstest.Exchange(request())
		if got := filterstest.Run(x, c); got != filters.Continue || x.Noted().WouldLimit != "shop/limits/dry" {
			t.Errorf("%v, %+v: a limit in dry run did not say so", got, x.Noted())
		}
		own := filterstest.Response(x, c, mesh.Field{Name: "ratelimit-limit", Value: "7"})
		if fmt.Sprint(own.Fields) != "[{ratelimit-limit 7}]" {
			t.Errorf("the endpoint's own: %v", own.Fields)
		}
		if got := fmt.Sprint(count); got != "map[dry dry_run:1 narrow limited:1]" {
			t.Errorf("counted %s", got)
		}
	})
}

// TestLive: a changed policy goes on where the one before was.
func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry(nil, nil)
		plain := func(int) *mesh.Request { return request() }
		old := chain(t, r, &mesh.RateLimit{Local: []mesh.LocalLimit{{Name: "a", Requests: 3, Per: time.Hour}}})
		if got := results(old, 2, plain); got != ".." {
			t.Fatal(got)
		}
		same := chain(t, r, &mesh.RateLimit{Local: []mesh.LocalLimit{{Name: "a", Requests: 3, Per: time.Hour}}})
		if got := results(same, 2, plain); got != ".[429]" {
			t.Errorf("the same again: %s", got)
		}
		more := chain(t, r, &mesh.RateLimit{Local: []mesh.LocalLimit{{Name: "a", Requests: 5, Per: time.Hour}}})
		if got := results(more, 3, plain); got != "..[429]" {
			t.Errorf("raised from 3 to 5 with 3 used: %s", got)
		}
		if got := results(old, 1, plain); got != "[429]" {
			t.Errorf("the old configuration has a count of its own: %s", got)
		}
		keyed := chain(t, r, &mesh.RateLimit{Local: []mesh.LocalLimit{{Name: "a", Requests: 5, Per: time.Hour, Key: []string{"request.method"}}}})
		if got := results(keyed, 1, plain); got != "." {
			t.Errorf("by another key: %s", got)
		}
		rekeyed := chain(t, r, &mesh.RateLimit{Local: []mesh.LocalLimit{{Name: "a", Requests: 2, Per: time.Hour, Key: []string{"request.method"}}}})
		if got := results(rekeyed, 2, plain); got != ".[429]" {
			t.Errorf("lowered from 5 to 2 with 1 used: %s", got)
		}
		for _, c := range []filters.Chain{old, same, more, keyed} {
			_ = c[0]
		}
	})
}

func TestBad(t *testing.T) {
	global := func(g mesh.GlobalLimit) *mesh.RateLimit { return &mesh.RateLimit{Global: &g} }
	entry := mesh.DescriptorEntry{Key: "k", Value: "v"}
	tests := []struct {
		name string
		p    *mesh.RateLimit
		want string
	}{
		{"no_rate", &mesh.RateLimit{Local: []mesh.LocalLimit{{Name: "a"}}}, `local limit "a": 0 requests in 0s are no rate`},
		{"when", &mesh.RateLimit{Local: []mesh.LocalLimit{{Name: "a", Requests: 1, Per: 1, When: "1"}}}, "when: expression"},
		{"key", &mesh.RateLimit{Local: []mesh.LocalLimit{{Name: "a", Requests: 1, Per: 1, Key: []string{"x"}}}}, "key 0: expression"},
		{"cost", &mesh.RateLimit{Local: []mesh.LocalLimit{{Name: "a", Requests: 1, Per: 1, Cost: "'a'"}}}, "cost: expression"},
		{"many", &mesh.RateLimit{Local: make([]mesh.LocalLimit, 33)}, "at most 32"},
		{"domain", global(mesh.GlobalLimit{Descriptors: []mesh.Descriptor{{Entries: []mesh.DescriptorEntry{entry}}}}), "no domain"},
		{"descriptors", global(mesh.GlobalLimit{Domain: "d"}), "no descriptors"},
		{"many_descriptors", global(mesh.GlobalLimit{Domain: "d", Descriptors: make([]mesh.Descriptor, 33)}), "at most 32"},
		{"entries", global(mesh.GlobalLimit{Domain: "d", Descriptors: []mesh.Descriptor{{}}}), "descriptor 0: it has 0 entries"},
		{"entry_key", global(mesh.GlobalLimit{Domain: "d", Descriptors: []mesh.Descriptor{{Entries: []mesh.DescriptorEntry{{Value: "v"}}}}}), "has no key"},
		{"entry_value", global(mesh.GlobalLimit{Domain: "d", Descriptors: []mesh.Descriptor{{Entries: []mesh.DescriptorEntry{{Key: "k"}}}}}), "neither a value"},
		{"entry_expr", global(mesh.GlobalLimit{Domain: "d", Descriptors: []mesh.Descriptor{{Entries: []mesh.DescriptorEntry{{Key: "k", Expr: "request.headers"}}}}}), `entry "k": expression`},
	}
	for _, tt := range tests {
		tt.p.Policy = policyName
		_, err := filters.Compile([]filters.Spec{Spec(NewRegistry(nil, nil))}, filters.BuildContext{Level: filters.LevelRule, Requests: &mesh.RequestPolicy{RateLimit: tt.p}})
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "policy shop/limits") {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// Whoever asks for it tells clients of their quota only when they are over it, or never.
func TestQuotaFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			fields          mesh.QuotaFields
			passed, refused string
		}{
			{mesh.QuotaAlways, "[{ratelimit-limit 1, 1;w=10} {ratelimit-remaining 0} {ratelimit-reset 10}]", "[{ratelimit-limit 1, 1;w=10} {ratelimit-remaining 0} {ratelimit-reset 10} {retry-after 10}]"},
			{mesh.QuotaRefused, "[]", "[{ratelimit-limit 1, 1;w=10} {ratelimit-remaining 0} {ratelimit-reset 10} {retry-after 10}]"},
			{mesh.QuotaNever, "[]", "[]"},
		} {
			c := chain(t, NewRegistry(nil, nil), &mesh.RateLimit{Fields: tt.fields, Local: []mesh.LocalLimit{{Name: "a", Requests: 1, Per: 10 * time.Second}}})
			x := filterstest.Exchange(request())
			if got := filterstest.Run(x, c); got != filters.Continue {
				t.Fatal(got)
			}
			if got := fmt.Sprint(filterstest.Response(x, c).Fields); got != tt.passed {
				t.Errorf("%d: passed: %s, want %s", tt.fields, got, tt.passed)
			}
			x = filterstest.Exchange(request())
			if got := filterstest.Run(x, c); got != filters.Replied {
				t.Fatal(got)
			}
			if got := fmt.Sprint(filterstest.Local(x, c).Fields); got != tt.refused {
				t.Errorf("%d: refused: %s, want %s", tt.fields, got, tt.refused)
			}
		}
	})
}

func TestSteps(t *testing.T) {
	with := &mesh.RequestPolicy{RateLimit: &mesh.RateLimit{Local: []mesh.LocalLimit{{Requests: 1, Per: 1}}}}
	r := NewRegistry(nil, nil)
	for _, tt := range []struct {
		name  string
		r     *Registry
		level filters.Level
		p     *mesh.RequestPolicy
		want  int
	}{
		{"rule", r, filters.LevelRule, with, 1},
		{"service", r, filters.LevelService, with, 0},
		{"backend", r, filters.LevelBackend, with, 0},
		{"no_policy", r, filters.LevelRule, nil, 0},
		{"empty", r, filters.LevelRule, &mesh.RequestPolicy{RateLimit: &mesh.RateLimit{}}, 0},
		{"no_registry", nil, filters.LevelRule, with, 0},
	} {
		c, err := filters.Compile([]filters.Spec{Spec(tt.r)}, filters.BuildContext{Level: tt.level, Requests: tt.p})
		if err != nil || len(c) != tt.want {
			t.Errorf("%s: %d steps, %v", tt.name, len(c), err)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	c := chain(t, NewRegistry(nil, nil), &mesh.RateLimit{Local: []mesh.LocalLimit{
		{Name: "a", Requests: 1e9, Per: time.Second},
		{Name: "b", Requests: 1e9, Per: time.Second, Key: []string{"request.headers['x-user']", "request.method"}},
		{Name: "c", Requests: 1, Per: time.Hour, When: "'x-none' in request.headers"},
	}})
	x := filterstest.Exchange(request("x-user", "jane"))
	req, resp, fields := x.Req, &mesh.Response{Status: 200}, make(mesh.Fields, 0, 8)
	n := testing.AllocsPerRun(100, func() {
		now := x.Now
		x.Reset()
		x.Req, x.Now, x.Resp = req, now, resp
		if r, _ := c.Request(x, 0); r != filters.Continue {
			t.Fatal(r)
		}
		resp.Fields = fields[:0]
		c.Response(x, 0)
	})
	if n != 0 {
		t.Errorf("a request allocates %v times, want 0", n)
	}
}

func BenchmarkLocal(b *testing.B) {
	for _, bb := range []struct {
		name  string
		limit mesh.LocalLimit
	}{
		{"one_bucket", mesh.LocalLimit{Requests: 1e9, Per: time.Second}},
		{"by_header", mesh.LocalLimit{Requests: 1e9, Per: time.Second, Key: []string{"request.headers['x-user']"}}},
		{"not_for_it", mesh.LocalLimit{Requests: 1, Per: time.Hour, When: "'x-none' in request.headers"}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			c := chain(b, NewRegistry(nil, nil), &mesh.RateLimit{Local: []mesh.LocalLimit{bb.limit}})
			x := filterstest.Exchange(request("x-user", "jane"))
			req, now, resp, fields := x.Req, x.Now, &mesh.Response{Status: 200}, make(mesh.Fields, 0, 8)
			b.ReportAllocs()
			for b.Loop() {
				x.Reset()
				x.Req, x.Now, x.Resp = req, now, resp
				now = now.Add(time.Microsecond)
				if r, _ := c.Request(x, 0); r != filters.Continue {
					b.Fatal(r)
				}
				resp.Fields = fields[:0]
				c.Response(x, 0)
			}
		})
	}
}

// TestForgotten: what no configuration uses any more is let go.
func TestForgotten(t *testing.T) {
	r := NewRegistry(nowhere{}, nil)
	defer r.Close()
	both := byPath(nil)
	both.Local = []mesh.LocalLimit{{Name: "a", Requests: 1, Per: time.Hour}}
	c := chain(t, r, both)
	held := func() (n int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, p := range r.limits {
			if p.Value() != nil {
				n++
			}
		}
		return n
	}
	runtime.GC()
	if n := held(); n != 1 {
		t.Errorf("%d limits are kept for a configuration in force, want one", n)
	}
	runtime.KeepAlive(c)
	c = nil //nolint:ineffassign // the collector is to see it
	for range 100 {
		if runtime.GC(); held() == 0 {
			return
		}
	}
	t.Errorf("%d things are kept for no configuration", held())
}
