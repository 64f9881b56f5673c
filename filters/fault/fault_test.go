package fault

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/filters/filterstest"
	"cairnproxy.dev/cairn/mesh"
)

func chain(t testing.TB, a *Active, list ...mesh.Fault) filters.Chain {
	t.Helper()
	c, err := compileChain(a, list...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func compileChain(a *Active, list ...mesh.Fault) (filters.Chain, error) {
	p := &mesh.Faults{Policy: mesh.Name{Namespace: "shop", Name: "chaos"}, List: list}
	return filters.Compile([]filters.Spec{Spec(a)}, filters.BuildContext{Level: filters.LevelRule, Requests: &mesh.RequestPolicy{Faults: p}})
}

func get(fields ...string) *filters.Exchange {
	r := &mesh.Request{Method: "GET", Path: "/a", Proto: 2}
	for i := 0; i < len(fields); i += 2 {
		r.Fields.Add(fields[i], fields[i+1])
	}
	return filterstest.Exchange(r)
}

func delay(d time.Duration) mesh.Fault {
	return mesh.Fault{Delay: d, DelayPPM: million, GRPCStatus: -1}
}

func abort(status int) mesh.Fault {
	return mesh.Fault{Status: status, AbortPPM: million, GRPCStatus: -1}
}

func with(f mesh.Fault, edit func(*mesh.Fault)) mesh.Fault {
	edit(&f)
	return f
}

func named(name string, kind mesh.MatchKind, value string) func(*mesh.Fault) {
	return func(f *mesh.Fault) {
		f.Headers = append(f.Headers, mesh.NamedMatch{Name: name, StringMatch: mesh.StringMatch{Kind: kind, Value: value}})
	}
}

func TestFaults(t *testing.T) {
	when := func(s string) func(*mesh.Fault) { return func(f *mesh.Fault) { f.When = s } }
	tests := []struct {
		name   string
		faults []mesh.Fault
		fields []string
		status int // 0: passed
		grpc   string
		after  time.Duration
	}{
		{"delay", []mesh.Fault{delay(time.Second)}, nil, 0, "", time.Second},
		{"abort", []mesh.Fault{abort(503)}, nil, 503, "", 0},
		{"both", []mesh.Fault{with(abort(503), func(f *mesh.Fault) { f.Delay, f.DelayPPM = time.Second, million })}, nil, 503, "", time.Second},
		{"delays_add_up", []mesh.Fault{delay(time.Second), delay(2 * time.Second)}, nil, 0, "", 3 * time.Second},
		{"first_abort", []mesh.Fault{abort(503), delay(time.Second), abort(429)}, nil, 503, "", time.Second},
		{"grpc", []mesh.Fault{{GRPCStatus: 14, AbortPPM: million}}, nil, 503, "14", 0},
		{"grpc_and_http", []mesh.Fault{{GRPCStatus: 8, Status: 418, AbortPPM: million}}, nil, 418, "8", 0},
		{"never", []mesh.Fault{with(abort(503), func(f *mesh.Fault) { f.AbortPPM = 0 }), with(delay(1), func(f *mesh.Fault) { f.DelayPPM = 0 }), abort(418)}, nil, 418, "", 0},
		{"header", []mesh.Fault{with(abort(503), named("x-fault", mesh.MatchExact, "yes"))}, []string{"x-fault", "yes"}, 503, "", 0},
		{"header_other", []mesh.Fault{with(abort(503), named("x-fault", mesh.MatchExact, "yes"))}, []string{"x-fault", "no"}, 0, "", 0},
		{"header_missing", []mesh.Fault{with(abort(503), named("x-fault", mesh.MatchRegex, ".*"))}, nil, 0, "", 0},
		{"header_prefix", []mesh.Fault{with(abort(503), named("x-fault", mesh.MatchPrefix, "ye"))}, []string{"x-fault", "yes"}, 503, "", 0},
		{"header_regex_is_whole", []mesh.Fault{with(abort(503), named("x-fault", mesh.MatchRegex, "y|e"))}, []string{"x-fault", "yes"}, 0, "", 0},
		{"when", []mesh.Fault{with(abort(503), when("request.method == 'GET'"))}, nil, 503, "", 0},
		{"when_not", []mesh.Fault{with(abort(503), when("request.method == 'PUT'"))}, nil, 0, "", 0},
		{"when_fails", []mesh.Fault{with(abort(503), when("request.headers['x'] == ''"))}, nil, 0, "", 0},
		{"header_and_when", []mesh.Fault{with(with(abort(503), named("x", mesh.MatchExact, "1")), when("request.method == 'PUT'"))}, []string{"x", "1"}, 0, "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := chain(t, nil, tt.faults...)
				x, begin := get(tt.fields...), time.Now()
				res := filterstest.Run(x, c)
				if took := time.Since(begin); took != tt.after {
					t.Errorf("after %v, want %v", took, tt.after)
				}
				if got := x.Noted() != nil && x.Noted().Delayed; got != (tt.after > 0) {
					t.Errorf("said to be delayed: %v", got)
				}
				if tt.status == 0 {
					if res != filters.Continue {
						t.Errorf("%v, %+v, want it passed", res, x.Reply)
					}
					return
				}
				if r := x.Reply; res != filters.Replied || r.Status != tt.status || r.GRPCStatus != tt.grpc || r.Flag != "FI" || r.Details != "fault_filter_abort" || r.Body != "fault filter abort" {
					t.Errorf("%v, %+v", res, r)
				}
			})
		})
	}
}

func TestFractions(t *testing.T) {
	const n = 200_000
	for _, ppm := range []uint32{1, 100_000, 500_000, 999_999} {
		c := chain(t, nil, with(abort(503), func(f *mesh.Fault) { f.AbortPPM = ppm }))
		x, aborted := get(), 0
		for range n {
			if r, _ := c.Request(x, 0); r == filters.Replied {
				aborted++
			}
		}
		// Five standard deviations: once in two million runs it is beyond by chance.
		p := float64(ppm) / million
		if want, spread := p*n, 5*n*p*(1-p); (float64(aborted)-want)*(float64(aborted)-want) > 5*spread+25 {
			t.Errorf("%d of a million: %d of %d, want %v", ppm, aborted, n, want)
		}
	}
}

// TestMaxActive: no more than so many are under a delay at once, over configurations.
func TestMaxActive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Active
		f := with(delay(time.Second), func(f *mesh.Fault) { f.MaxActive = 2 })
		old, c := chain(t, &a, f), chain(t, &a, f)
		first, second, third := get(), get(), get()
		if r1, r2 := filterstest.Start(first, old), filterstest.Start(second, c); r1 != filters.Park || r2 != filters.Park {
			t.Fatal(r1, r2)
		}
		if r := filterstest.Start(third, c); r != filters.Continue || third.Noted() != nil {
			t.Errorf("the third: %v, %+v", r, third.Noted())
		}
		filterstest.Cancel(first)
		if r := filterstest.Start(get(), c); r != filters.Park {
			t.Errorf("after a client went away: %v", r)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := c[0].OnRequest.(*step).active.Load(); n != 0 {
			t.Errorf("%d are under a delay at the end", n)
		}
		if r := filterstest.Run(get(), old); r != filters.Continue {
			t.Error(r)
		}
	})
}

func TestBad(t *testing.T) {
	tests := []struct {
		name string
		f    mesh.Fault
		want string
	}{
		{"ppm", with(abort(503), func(f *mesh.Fault) { f.AbortPPM++ }), "1000001 of a million"},
		{"delay_ppm", with(delay(1), func(f *mesh.Fault) { f.DelayPPM++ }), "1000001 of a million"},
		{"long", delay(2 * time.Hour), "longer than 1h0m0s"},
		{"no_status", abort(0), "needs a status"},
		{"status", abort(600), "status 600 is not one"},
		{"interim", abort(100), "status 100 is not one"},
		{"grpc", mesh.Fault{GRPCStatus: 17, AbortPPM: 1}, "gRPC status 17"},
		{"regex", with(abort(503), named("x", mesh.MatchRegex, "(")), `header "x"`},
		{"when", with(abort(503), func(f *mesh.Fault) { f.When = "request.method" }), "when: expression"},
	}
	for _, tt := range tests {
		_, err := compileChain(nil, abort(503), tt.f)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "policy shop/chaos, fault 1") {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestSteps(t *testing.T) {
	some := &mesh.RequestPolicy{Faults: &mesh.Faults{List: []mesh.Fault{abort(503)}}}
	nothing := &mesh.RequestPolicy{Faults: &mesh.Faults{List: []mesh.Fault{{GRPCStatus: -1}}}}
	for _, tt := range []struct {
		name  string
		level filters.Level
		p     *mesh.RequestPolicy
		want  int
	}{
		{"rule", filters.LevelRule, some, 1},
		{"service", filters.LevelService, some, 0},
		{"backend", filters.LevelBackend, some, 0},
		{"no_policy", filters.LevelRule, nil, 0},
		{"no_faults", filters.LevelRule, &mesh.RequestPolicy{}, 0},
		{"nothing", filters.LevelRule, nothing, 0},
	} {
		c, err := filters.Compile([]filters.Spec{Spec(nil)}, filters.BuildContext{Level: tt.level, Requests: tt.p})
		if err != nil || len(c) != tt.want {
			t.Errorf("%s: %d steps, %v, want %d", tt.name, len(c), err, tt.want)
		}
	}
}

// idle is a chain whose fault looks at the request and is not for it.
func idle(t testing.TB) filters.Chain {
	return chain(t, nil, with(with(abort(503), named("x-fault", mesh.MatchExact, "yes")), func(f *mesh.Fault) { f.When = "source.namespace == 'test'" }))
}

func TestNoAllocation(t *testing.T) {
	c, x := idle(t), get("x-fault", "yes")
	if n := testing.AllocsPerRun(100, func() {
		if r, _ := c.Request(x, 0); r != filters.Continue {
			t.Fatal(r)
		}
	}); n != 0 {
		t.Errorf("a request allocates %v times, want 0", n)
	}
}

func BenchmarkFault(b *testing.B) {
	for _, bb := range []struct {
		name string
		c    filters.Chain
	}{
		{"not_for_it", idle(b)},
		{"rare", chain(b, nil, with(abort(503), func(f *mesh.Fault) { f.AbortPPM = 1 }))},
	} {
		b.Run(bb.name, func(b *testing.B) {
			x := get("x-fault", "no")
			b.ReportAllocs()
			for b.Loop() {
				bb.c.Request(x, 0)
			}
		})
	}
}
