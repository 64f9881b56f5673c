package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// bar is one figure beside the reference's: above 1 the contender under test
// is ahead, whichever direction is the good one.
type bar struct {
	group     string
	label     string
	detail    string // the metric
	reference string
	ratio     float64
	low, high float64 // of the rounds
	goal      float64 // 0: none that this scale can show
}

// bars are the figures that have goals; of a case without one, the first
// that can be good or bad.
func (r *report) bars() []bar {
	var all []bar
	for _, c := range r.Cases {
		for i, m := range c.plotted() {
			b, ok := r.bar(c, m)
			if !ok {
				continue
			}
			if i == 0 {
				b.label = c.Name
			}
			all = append(all, b)
		}
	}
	return all
}

func (c caseInfo) plotted() []metricInfo {
	var goals, directed []metricInfo
	for _, m := range c.Metrics {
		if m.Goal != nil {
			goals = append(goals, m)
		}
		if m.Better != neither {
			directed = append(directed, m)
		}
	}
	if len(goals) > 0 {
		return goals
	}
	return directed[:min(1, len(directed))]
}

func (r *report) bar(c caseInfo, m metricInfo) (bar, bool) {
	own, ref := r.find(c.Name, c.Own, m.Name), r.find(c.Name, c.Reference, m.Name)
	if own.Median <= 0 || ref.Median <= 0 || m.Better == neither {
		return bar{}, false
	}
	ahead := func(ratio float64) float64 {
		if m.Better == less {
			return 1 / ratio
		}
		return ratio
	}
	b := bar{group: c.Group, detail: m.Name, reference: c.Reference, ratio: ahead(own.Median / ref.Median)}
	b.low, b.high = b.ratio, b.ratio
	for _, x := range r.ratios(m.Name, c.Own, c.Name, c.Reference, c.Name) {
		if x > 0 {
			b.low, b.high = min(b.low, ahead(x)), max(b.high, ahead(x))
		}
	}
	if g := m.Goal; g != nil && g.Against == theReference {
		b.goal = ahead(g.Bound)
	} else if g != nil && g.Against == nothing {
		b.goal = ahead(g.Bound / ref.Median)
	}
	return b, true
}

// The plot's measures, in pixels.
const (
	plotWidth  = 900
	plotLeft   = 270 // where the axis begins
	plotRight  = 70  // room for the value after the longest bar
	rowHeight  = 22
	headHeight = 54
	valueWidth = 52
)

// plotStyle has one set of colours for a light page and one for a dark one.
const plotStyle = `<style>
svg { font: 13px system-ui, sans-serif; }
.page { fill: #ffffff; } text { fill: #1f2328; } .faint { fill: #59636e; } .grid { stroke: #d1d9e0; } .one { stroke: #59636e; }
.ahead { fill: #0969da; } .behind { fill: #bc4c00; } .spread { stroke: #1f2328; stroke-opacity: .55; } .goal { stroke: #1a7f37; stroke-width: 3; } .halo { stroke: #ffffff; stroke-width: 7; }
@media (prefers-color-scheme: dark) {
.page { fill: #0d1117; } text { fill: #e6edf3; } .faint { fill: #9198a1; } .grid { stroke: #30363d; } .one { stroke: #9198a1; }
.ahead { fill: #4493f8; } .behind { fill: #db6d28; } .spread { stroke: #e6edf3; } .goal { stroke: #3fb950; } .halo { stroke: #0d1117; }
}
</style>
`

// scale maps ratios to pixels, by their logarithm.
type scale struct{ low, high float64 }

func (s scale) x(ratio float64) float64 {
	at := math.Log(ratio/s.low) / math.Log(s.high/s.low)
	return plotLeft + at*(plotWidth-plotLeft-plotRight)
}

// scaleOf is the least span of powers of two that shows all bars.
func scaleOf(bars []bar) scale {
	s := scale{0.5, 2}
	for _, b := range bars {
		for _, v := range []float64{b.low, b.high, b.goal} {
			if v > 0 {
				s.low, s.high = min(s.low, math.Exp2(math.Floor(math.Log2(v)))), max(s.high, math.Exp2(math.Ceil(math.Log2(v))))
			}
		}
	}
	return s
}

// plot draws the bars as SVG.
func (r *report) plot() string {
	bars := r.bars()
	s := scaleOf(bars)
	var rows strings.Builder
	y := float64(headHeight)
	for i, b := range bars {
		if i == 0 || bars[i-1].group != b.group {
			fmt.Fprintf(&rows, "<text x=\"12\" y=\"%.0f\" font-weight=\"bold\">%s, beside %s</text>\n", y+16, html.EscapeString(b.group), html.EscapeString(b.reference))
			y += rowHeight + 4
		}
		b.draw(&rows, s, y)
		y += rowHeight
	}
	var out strings.Builder
	fmt.Fprintf(&out, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %.0f\" width=\"%d\" height=\"%.0f\" role=\"img\" aria-label=\"Cairn beside the reference, by case\">\n", plotWidth, y+12, plotWidth, y+12)
	fmt.Fprintf(&out, "%s<rect class=\"page\" width=\"100%%\" height=\"100%%\"/>\n", plotStyle)
	out.WriteString("<text x=\"12\" y=\"20\" class=\"faint\">How many times better, median of the rounds; thin line: lowest to highest; green: the goal. Logarithmic.</text>\n")
	s.grid(&out, y)
	out.WriteString(rows.String())
	out.WriteString("</svg>\n")
	return out.String()
}

// grid draws a line for each power of two.
func (s scale) grid(w *strings.Builder, bottom float64) {
	for v := s.low; v <= s.high; v *= 2 {
		class := "grid"
		if v == 1 {
			class = "one"
		}
		x := s.x(v)
		fmt.Fprintf(w, "<line class=\"%s\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%.0f\"/>\n", class, x, x, headHeight-4, bottom)
		fmt.Fprintf(w, "<text class=\"faint\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g×</text>\n", x, headHeight-10, v)
	}
}

// draw draws one bar, from the line of equality to its ratio.
func (b bar) draw(w *strings.Builder, s scale, y float64) {
	class, from, to := "ahead", s.x(1), s.x(b.ratio)
	if b.ratio < 1 {
		class, from, to = "behind", to, from
	}
	middle := y + rowHeight/2
	fmt.Fprintf(w, "<text x=\"12\" y=\"%.0f\">%s</text>\n", y+16, html.EscapeString(b.label))
	fmt.Fprintf(w, "<text x=\"%d\" y=\"%.0f\" class=\"faint\" text-anchor=\"end\">%s</text>\n", plotLeft-8, y+16, html.EscapeString(b.detail))
	fmt.Fprintf(w, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%d\"/>\n", class, from, y+4, max(to-from, 1), rowHeight-8)
	fmt.Fprintf(w, "<line class=\"spread\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n", s.x(b.low), s.x(b.high), middle, middle)
	end := max(s.x(b.high), s.x(1))
	if b.goal > 0 {
		x := s.x(b.goal)
		for _, class := range []string{"halo", "goal"} {
			fmt.Fprintf(w, "<line class=\"%s\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n", class, x, x, y+1, y+rowHeight-1)
		}
		if x > end-6 && x < end+valueWidth {
			end = x // the value stands beside the bar or, where the goal is in its way, behind that
		}
	}
	fmt.Fprintf(w, "<text x=\"%.1f\" y=\"%.0f\">%s×</text>\n", end+6, y+16, significant(b.ratio))
}

// significant writes a ratio with two or three digits that mean something.
func significant(v float64) string {
	if v < 10 {
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.1f", v)
}
