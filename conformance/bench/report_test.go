package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fakeReport has these cases, and these samples of a metric "work" per case
// and contender.
func fakeReport(rounds int, cases []benchCase, samples map[string]map[string][]float64) *report {
	r := &report{
		Rounds: rounds, Started: time.Unix(0, 0), Finished: time.Unix(60, 0), Command: "make bench",
		Versions: map[string]string{"cairn": "a", "envoy": "b"},
	}
	for _, c := range cases {
		c.group, c.on, c.own, c.reference = "waypoint", []string{"cairn", "envoy"}, "cairn", "envoy"
		r.Cases = append(r.Cases, c.info())
		for contender, values := range samples[c.name] {
			for i, v := range values {
				if v >= 0 { // else that round has none
					r.Samples = append(r.Samples, sample{Case: c.name, Contender: contender, Round: i + 1, Values: map[string]float64{"work": v}})
				}
			}
		}
	}
	r.judge()
	return r
}

var work = metric{name: "work", unit: "s", format: "%.0f", better: more}

func oneCase(m metric) []benchCase {
	return []benchCase{{name: "case", title: "a case", metrics: []metric{m}}}
}

func printed(t *testing.T, r *report, want ...string) {
	t.Helper()
	var b strings.Builder
	r.print(&b)
	for _, w := range want {
		if !strings.Contains(b.String(), w) {
			t.Errorf("the report lacks %q:\n%s", w, b.String())
		}
	}
}

func TestReport(t *testing.T) {
	for _, test := range []struct {
		name    string
		metric  metric
		samples map[string][]float64
		want    []string
	}{
		{"holds", work.atLeast(2), map[string][]float64{"cairn": {30, 10, 20}, "envoy": {9, 11, 10}}, []string{
			"1 of 1 goals hold", "| | cairn | envoy | ratio | goal |\n|---|---|---|---|---|\n| **case**: a case | | | | |\n" +
				"| work, s | 20 (10–30) | 10 (9–11) | 2.00 | at least 2 × envoy: yes |",
		}},
		{"even", work.atLeast(2), map[string][]float64{"cairn": {10, 20}, "envoy": {10, 10, 10}}, []string{
			"0 of 1 goals hold", "## Goals that do not hold\n\n- case: work is 15 s, wanted is at least 2 × envoy, which has 10 s: 1.50\n",
			"| work, s | 15 (10–20) of 2 | 10 (10–10) | 1.50 | at least 2 × envoy: **no** |",
		}},
		{"less", work.atMost(0.5), map[string][]float64{"cairn": {4, 5, 6}, "envoy": {10, 10, 10}}, []string{"at most 0.5 × envoy: yes"}},
		{"by-itself", work.below(25), map[string][]float64{"cairn": {26, 26, 26}, "envoy": {10, 10, 10}}, []string{"work is 26 s, wanted is at most 25 s\n"}},
		{"weak", work.atLeast(2), map[string][]float64{"cairn": {100}, "envoy": {10, 10, 10}}, []string{"at least 2 × envoy: too few rounds counted", "no verdict"}},
		{"none", work.atLeast(2), map[string][]float64{"envoy": {10, 10, 10}}, []string{"**No run counted**, after 5 attempts in each round: case on cairn.", "| none counted |"}},
		{"loss", work, map[string][]float64{"cairn": {9, 9, 9}, "envoy": {10, 10, 10}}, []string{
			"## Other figures in which the reference is ahead\n\n- case: work is 9 s, envoy has 10 s\n",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := fakeReport(3, oneCase(test.metric), map[string]map[string][]float64{"case": test.samples})
			printed(t, r, test.want...)
			path, err := r.save(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			again, err := loadReport(path)
			if err != nil {
				t.Fatal(err)
			}
			again.judge()
			printed(t, again, test.want...)
		})
	}
}

// TestNoLoss: what is ahead, or says how a run went, is no loss.
func TestNoLoss(t *testing.T) {
	for _, m := range []metric{work, {name: "work", format: "%.0f"}} {
		r := fakeReport(1, oneCase(m), map[string]map[string][]float64{"case": {"cairn": {11}, "envoy": {10}}})
		if m.better == neither {
			r = fakeReport(1, oneCase(m), map[string]map[string][]float64{"case": {"cairn": {9}, "envoy": {10}}})
		}
		if goals, others := r.losses(); len(goals)+len(others) > 0 {
			t.Errorf("losses %v, %v", goals, others)
		}
	}
}

// TestOtherCase: a goal against the contender's own figures in another case
// is judged round by round, so that a machine that slows down between the
// rounds does no harm.
func TestOtherCase(t *testing.T) {
	cases := []benchCase{
		{name: "few", title: "few", metrics: []metric{work}},
		{name: "many", title: "many", metrics: []metric{work.atLeastOf("few", 0.95)}},
	}
	for _, test := range []struct {
		name      string
		few, many []float64
		met, weak bool
	}{
		{"steady", []float64{100, 100, 100}, []float64{96, 96, 96}, true, false},
		{"drift", []float64{100, 50, 25}, []float64{96, 49, 24}, true, false},
		{"loss", []float64{100, 50, 25}, []float64{90, 45, 24}, false, false},
		{"no-pairs", []float64{100, -1, -1}, []float64{-1, 100, 100}, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := fakeReport(3, cases, map[string]map[string][]float64{"few": {"cairn": test.few}, "many": {"cairn": test.many}})
			if len(r.Goals) != 1 || r.Goals[0].Met != test.met || r.Goals[0].Weak != test.weak {
				t.Errorf("judged %+v", r.Goals)
			}
		})
	}
	r := fakeReport(1, cases[1:], map[string]map[string][]float64{"many": {"cairn": {1}}})
	if len(r.Goals) != 0 {
		t.Errorf("judged against a case that did not run: %+v", r.Goals)
	}
}

func TestLogged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("a\nb\nc\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := logged(path, 3); err != nil {
		t.Error(err)
	}
	if err := logged(path, 4); err == nil {
		t.Error("three lines were enough for four requests")
	}
}

func TestSelectCases(t *testing.T) {
	all, err := selectCases(options{})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, c := range all {
		if names[c.name] {
			t.Errorf("two cases are named %s", c.name)
		}
		names[c.name] = true
		for _, m := range c.metrics {
			if m.goal != nil && m.goal.Against == anotherCase && !names[m.goal.Of] {
				t.Errorf("%s is measured against %q, which does not run before it", c.name, m.goal.Of)
			}
		}
	}
	for name := range strings.SplitSeq(quickCases, ",") {
		if !names[name] {
			t.Errorf("-quick runs %q, which is no case", name)
		}
	}
	if quick, err := selectCases(options{quick: true}); err != nil || len(quick) != strings.Count(quickCases, ",")+1 {
		t.Errorf("-quick runs %d cases, %v", len(quick), err)
	}
	compared, err := selectCases(options{base: "x", only: "small-4x16"})
	if err != nil || len(compared) != 1 || strings.Join(compared[0].on, ",") != "cairn,base" || compared[0].reference != "base" {
		t.Errorf("compared with another build: %+v, %v", compared, err)
	}
	some, err := selectCases(options{only: "rate-1000,small-4x16", contenders: "envoy", group: "waypoint"})
	if err != nil || len(some) != 2 || some[0].name != "small-4x16" || len(some[0].on) != 1 || some[0].own != "cairn" || some[0].reference != "envoy" {
		t.Errorf("selected %+v, %v", some, err)
	}
	for _, o := range []options{{only: "nothing"}, {group: "nothing"}, {contenders: "nothing"}} {
		if _, err := selectCases(o); err == nil {
			t.Errorf("%+v selected something", o)
		}
	}
}

// TestBenchstat: each round is a line, in words that benchstat takes.
func TestBenchstat(t *testing.T) {
	m := metric{name: "the work", unit: "µs", format: "%.0f", better: less}
	r := fakeReport(2, oneCase(m), nil)
	for i, v := range []float64{10, 12.5} {
		r.Samples = append(r.Samples, sample{Case: "case", Contender: "cairn", Round: i + 1, Values: map[string]float64{"the work": v, "other": 1}})
	}
	dir := t.TempDir()
	if err := r.benchstat(dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "cairn.txt"))
	want := "Unit the-work-µs better=lower\nBenchmarkCase 1 10 the-work-µs\nBenchmarkCase 1 12.5 the-work-µs\n"
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

// TestContenders: whom a case names is there, under a name of its own.
func TestContenders(t *testing.T) {
	there := map[string]bool{}
	for _, x := range allContenders(&lab{}) {
		if x.name() == "" || there[x.name()] {
			t.Errorf("contender %q is unnamed or there twice", x.name())
		}
		there[x.name()] = true
	}
	cases, err := selectCases(options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		for _, name := range c.on {
			if !there[name] {
				t.Errorf("%s runs on %q, which is no contender", c.name, name)
			}
		}
	}
}
