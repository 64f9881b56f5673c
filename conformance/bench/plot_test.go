package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBars(t *testing.T) {
	for _, test := range []struct {
		name       string
		metric     metric
		own, ref   []float64
		want, goal float64
	}{
		{"more", work.atLeast(8), []float64{160}, []float64{10}, 16, 8},
		{"behind", work.atLeast(2), []float64{5}, []float64{10}, 0.5, 2},
		{"less", work.atMost(0.5), []float64{2}, []float64{10}, 5, 2},
		{"by-itself", work.below(25), []float64{20}, []float64{100}, 5, 4},
		{"other-case", work.atLeastOf("case", 0.9), []float64{20}, []float64{10}, 2, 0},
		{"no-goal", work, []float64{20}, []float64{10}, 2, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := fakeReport(1, oneCase(test.metric), map[string]map[string][]float64{"case": {"cairn": test.own, "envoy": test.ref}})
			bars := r.bars()
			if len(bars) != 1 || bars[0].ratio != test.want || bars[0].goal != test.goal || bars[0].label != "case" {
				t.Errorf("got %+v, want ratio %v and goal %v", bars, test.want, test.goal)
			}
		})
	}
	r := fakeReport(1, oneCase(work), map[string]map[string][]float64{"case": {"cairn": {1}}})
	if bars := r.bars(); len(bars) != 0 {
		t.Errorf("a bar without a reference: %+v", bars)
	}
}

func TestScale(t *testing.T) {
	s := scaleOf([]bar{{low: 0.3, high: 20, goal: 40}})
	if s.low != 0.25 || s.high != 64 {
		t.Errorf("the scale is %+v", s)
	}
	if left, right, middle := s.x(0.25), s.x(64), s.x(4); left != plotLeft || right != plotWidth-plotRight || math.Abs(middle-(left+right)/2) > 0.01 {
		t.Errorf("ends at %v and %v, its middle is %v", left, right, middle)
	}
}

// TestPlot: the picture is well-formed, and says in text what it shows.
func TestPlot(t *testing.T) {
	cases := oneCase(work.atLeast(8))
	cases[0].name = "a<b"
	r := fakeReport(3, cases, map[string]map[string][]float64{"a<b": {"cairn": {100, 110, 120}, "envoy": {10, 10, 10}}})
	svg := r.plot()
	d := xml.NewDecoder(strings.NewReader(svg))
	var text strings.Builder
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
		if chars, ok := token.(xml.CharData); ok {
			text.Write(chars)
		}
	}
	for _, want := range []string{"a<b", "work", "11.0×", "8×", "waypoint, beside envoy"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the plot does not say %q: %s", want, text.String())
		}
	}
}

func TestRender(t *testing.T) {
	dir := t.TempDir()
	r := fakeReport(1, oneCase(work.atLeast(2)), map[string]map[string][]float64{"case": {"cairn": {30}, "envoy": {10}}})
	saved, err := r.save(dir)
	if err != nil {
		t.Fatal(err)
	}
	doc := filepath.Join(dir, "doc.md")
	if err := os.WriteFile(doc, []byte("before\n"+beginMark+"\nstale\n"+endMark+"\nafter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time finds the marks where they were
		if err := render(saved, doc); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	got := string(text)
	if !strings.HasPrefix(got, "before\n"+beginMark+"\n![") || !strings.HasSuffix(got, endMark+"\nafter\n") || strings.Contains(got, "stale") ||
		!strings.Contains(got, "](doc.svg)") || !strings.Contains(got, "| work, s | 30 (30–30) | 10 (10–10) | 3.00 |") {
		t.Errorf("rendered\n%s", got)
	}
	if svg, err := os.ReadFile(filepath.Join(dir, "doc.svg")); err != nil || !strings.HasPrefix(string(svg), "<svg ") {
		t.Errorf("the plot is %.20q, %v", svg, err)
	}
	if err := os.WriteFile(doc, []byte("no marks"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := render(saved, doc); err == nil {
		t.Error("rendered into a document without marks")
	}
}
