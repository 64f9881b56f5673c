package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// print writes the report as Markdown.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "# Cairn beside others\n\n")
	r.body(w)
}

// body is the report without its title.
func (r *report) body(w io.Writer) {
	r.head(w)
	r.shortfalls(w)
	for _, group := range r.groups() {
		r.figures(w, group)
	}
	r.course(w)
}

func (r *report) head(w io.Writer) {
	fmt.Fprintf(w, "`%s` on %s: %s, %d cores, Linux %s, load before %s.\n", r.Command, r.Started.UTC().Format(time.DateOnly), r.Machine.CPU, r.Machine.Cores, r.Machine.Kernel, r.Machine.Load)
	fmt.Fprintf(w, "Medians of %d rounds, in brackets the lowest and the highest; %d runs were thrown away and repeated; %s in all.\n\n", r.Rounds, len(r.Rejected), r.Finished.Sub(r.Started).Round(time.Second))
	var names []string
	for name := range r.Versions {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, x := range names {
		fmt.Fprintf(w, "- %s: %s\n", x, strings.ReplaceAll(r.Versions[x], "\n", "; "))
	}
	fmt.Fprintf(w, "- the load and the benchmark: %s\n", r.Machine.Go)
}

// shortfalls says first what is not as it should be.
func (r *report) shortfalls(w io.Writer) {
	if silent := r.silent(); len(silent) > 0 {
		fmt.Fprintf(w, "\n**No run counted**, after %d attempts in each round: %s.\n", attempts, strings.Join(silent, ", "))
	}
	for _, b := range r.Broken {
		fmt.Fprintf(w, "\n**Broken** in round %d: %s on %s: %s\n", b.Round, b.Case, b.Contender, b.Reason)
	}
	goals, others := r.losses()
	met := 0
	for _, v := range r.Goals {
		if v.Met && !v.Weak {
			met++
		}
	}
	if len(r.Goals) > 0 {
		fmt.Fprintf(w, "\n%d of %d goals hold.\n", met, len(r.Goals))
	}
	list(w, "Goals that do not hold", goals)
	list(w, "Other figures in which the reference is ahead", others)
}

func list(w io.Writer, title string, losses []loss) {
	if len(losses) == 0 {
		return
	}
	fmt.Fprintf(w, "\n## %s\n\n", title)
	for _, l := range losses {
		fmt.Fprintf(w, "- %s: %s\n", l.caseInfo.Name, l.text)
	}
}

// groups returns the groups that ran, in order.
func (r *report) groups() []string {
	var all []string
	for _, c := range r.Cases {
		if !slices.Contains(all, c.Group) {
			all = append(all, c.Group)
		}
	}
	return all
}

// figures is the table of one group: a line that names each case, and under
// it one for every figure that can be good or bad.
func (r *report) figures(w io.Writer, group string) {
	var columns []string
	for _, c := range r.Cases {
		for _, x := range c.Contenders {
			if c.Group == group && !slices.Contains(columns, x) {
				columns = append(columns, x)
			}
		}
	}
	fmt.Fprintf(w, "\n## Figures: %s\n\n| | %s | ratio | goal |\n|---|%s---|---|\n", group, strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, c := range r.Cases {
		if c.Group != group {
			continue
		}
		fmt.Fprintf(w, "| **%s**: %s |%s | |\n", c.Name, c.Title, strings.Repeat(" |", len(columns)))
		for _, m := range c.Metrics {
			if m.Better != neither || !r.aboutTheRun(m) {
				r.row(w, c, m, columns)
			}
		}
	}
}

// aboutTheRun reports whether a metric says how a run went, not what came of
// it: those have a table of their own.
func (r *report) aboutTheRun(m metricInfo) bool {
	return slices.ContainsFunc(courseMetrics, func(x metric) bool { return x.name == m.Name })
}

var courseMetrics = []metric{busy, loadBusy, waited, loadWaited}

func (r *report) row(w io.Writer, c caseInfo, m metricInfo, columns []string) {
	name := m.Name
	if m.Unit != "" {
		name += ", " + m.Unit
	}
	fmt.Fprintf(w, "| %s |", name)
	for _, x := range columns {
		fmt.Fprintf(w, " %s |", r.cell(c, m, x))
	}
	ratio := ""
	if own, ref := r.find(c.Name, c.Own, m.Name), r.find(c.Name, c.Reference, m.Name); ref.Median != 0 && own.N > 0 {
		ratio = fmt.Sprintf("%.2f", own.Median/ref.Median)
	}
	fmt.Fprintf(w, " %s | %s |\n", ratio, r.goalCell(c, m))
}

// cell is the median and the spread of one contender.
func (r *report) cell(c caseInfo, m metricInfo, contender string) string {
	s := r.find(c.Name, contender, m.Name)
	counted := r.counted(c.Name, contender)
	switch {
	case !slices.Contains(c.Contenders, contender):
		return ""
	case counted == 0:
		return "none counted"
	case s.N == 0:
		return "–"
	}
	text := fmt.Sprintf(m.Format+" ("+m.Format+"–"+m.Format+")", s.Median, s.Low, s.High)
	if s.N < r.Rounds {
		text += fmt.Sprintf(" of %d", s.N)
	}
	return text
}

func (r *report) goalCell(c caseInfo, m metricInfo) string {
	for _, v := range r.Goals {
		if v.Case != c.Name || v.Metric != m.Name {
			continue
		}
		text := v.Goal
		if m.Goal.Against == anotherCase {
			text += fmt.Sprintf(" (%.2f)", v.Ratio)
		}
		switch {
		case v.Weak:
			return text + ": too few rounds counted"
		case v.Met:
			return text + ": yes"
		default:
			return text + ": **no**"
		}
	}
	return ""
}

// course tells how the runs went: where a figure was set by something else
// than the proxy, it shows here.
func (r *report) course(w io.Writer) {
	if !slices.ContainsFunc(r.Summaries, func(s summary) bool { return s.Metric == busy.name && s.N > 0 }) {
		return
	}
	fmt.Fprintf(w, "\n## How the runs went\n\n| case | contender | proxy's core busy | load's core busy | proxy waited | load waited | |\n|---|---|---|---|---|---|---|\n")
	for _, c := range r.Cases {
		for _, x := range c.Contenders {
			if r.find(c.Name, x, busy.name).N == 0 {
				continue
			}
			fmt.Fprintf(w, "| %s | %s |", c.Name, x)
			for _, m := range courseMetrics {
				fmt.Fprintf(w, " "+m.format+"%s |", r.find(c.Name, x, m.name).Median, m.unit)
			}
			note := ""
			if r.find(c.Name, x, loadBusy.name).Median > 90 && r.find(c.Name, x, busy.name).Median < 90 {
				note = "the load and the sink were the limit"
			}
			fmt.Fprintf(w, " %s |\n", note)
		}
	}
}
