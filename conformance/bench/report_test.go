package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fakeReport has a case with one goal and these samples per contender.
func fakeReport(rounds int, samples map[string][]float64) *report {
	m := metric{name: "work", unit: "s", format: "%.0f"}
	r := &report{
		Rounds: rounds, Started: time.Unix(0, 0), Finished: time.Unix(60, 0), Versions: map[string]string{"cairn": "a", "envoy": "b"},
		cases: []benchCase{{name: "case", title: "a case", on: []string{"cairn", "envoy"}, metrics: []metric{
			m.with("at least twice", func(own, ref float64) bool { return own >= 2*ref }),
		}}},
	}
	for contender, values := range samples {
		for i, v := range values {
			r.Samples = append(r.Samples, sample{Case: "case", Contender: contender, Round: i + 1, Values: map[string]float64{"work": v}})
		}
	}
	return r
}

func TestReport(t *testing.T) {
	for _, test := range []struct {
		name    string
		samples map[string][]float64
		want    []string
	}{
		{"holds", map[string][]float64{"cairn": {30, 10, 20}, "envoy": {9, 11, 10}}, []string{
			"| | cairn | envoy | ratio |\n|---|---|---|---|\n| work, s | 20 (10–30) | 10 (9–11) | 2.00 |",
			"| case | work | at least twice | 20.0 | 10.0 | yes |",
		}},
		{"even", map[string][]float64{"cairn": {10, 20}, "envoy": {10, 10, 10}}, []string{
			"| work, s | 15 (10–20) of 2 | 10 (10–10) | 1.50 |", "| 15.0 | 10.0 | **no** |",
		}},
		{"weak", map[string][]float64{"cairn": {100}, "envoy": {10, 10, 10}}, []string{"too few rounds counted"}},
		{"none", map[string][]float64{"envoy": {10, 10, 10}}, []string{"none counted", "too few rounds counted"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := fakeReport(3, test.samples)
			r.judge()
			var b strings.Builder
			r.print(&b)
			for _, want := range test.want {
				if !strings.Contains(b.String(), want) {
					t.Errorf("the report lacks %q:\n%s", want, b.String())
				}
			}
			path, err := r.save(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), `"Goal": "at least twice"`) {
				t.Errorf("saved as %s (%v)", text, err)
			}
		})
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
