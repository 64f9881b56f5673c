package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report is everything that one run of the benchmark says.
type report struct {
	Command   string
	Started   time.Time
	Finished  time.Time
	Machine   machine
	Versions  map[string]string // by contender
	Rounds    int
	Rejected  []rejection // runs thrown away and repeated
	Samples   []sample
	Summaries []summary
	Goals     []verdict

	cases []benchCase
}

type machine struct {
	CPU    string
	Cores  int
	Kernel string
	Go     string
	Load   string // /proc/loadavg before the run
}

// sample is one counted run of a case on a contender.
type sample struct {
	Case      string
	Contender string
	Round     int
	Values    map[string]float64
}

// rejection is one run that did not count.
type rejection struct {
	Case      string
	Contender string
	Round     int
	Reason    string
}

// summary is one metric of one contender over its rounds.
type summary struct {
	Case      string
	Contender string
	Metric    string
	Unit      string
	Median    float64
	Low, High float64
	N         int
}

// verdict is one goal.
type verdict struct {
	Case   string
	Metric string
	Goal   string
	Own    float64
	Ref    float64
	Ratio  float64 // own / reference
	Met    bool
	Weak   bool // fewer than half of the rounds counted: no verdict
}

func newReport(ctx context.Context, o options, l *lab) (*report, error) {
	r := &report{
		Command: strings.Join(os.Args, " "), Started: time.Now(), Rounds: o.rounds,
		Versions: map[string]string{}, cases: l.cases,
		Machine: machine{CPU: firstMatch("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), Go: runtime.Version()},
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, fmt.Errorf("naming the kernel: %w", err)
	}
	r.Machine.Kernel = unix.ByteSliceToString(u.Release[:])
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		r.Machine.Load = strings.TrimSpace(string(text))
	}
	for name, x := range l.contenders {
		v, err := x.version(ctx)
		if err != nil {
			return nil, err
		}
		r.Versions[name] = v
	}
	return r, nil
}

// firstMatch returns the value of the first "key : value" line.
func firstMatch(path, key string) string {
	f, err := os.Open(path)
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

// line is a sample on one line, for the progress output.
func (s sample) line(c benchCase) string {
	var b strings.Builder
	for _, m := range c.metrics {
		fmt.Fprintf(&b, "%s "+m.format+"%s  ", m.name, s.Values[m.name], m.unit)
	}
	return b.String()
}

// judge computes the summaries and compares them with the goals.
func (r *report) judge() {
	for _, c := range r.cases {
		for _, m := range c.metrics {
			for _, x := range c.on {
				r.Summaries = append(r.Summaries, r.summarize(c, m, x))
			}
			if m.goal == nil || len(c.on) < 2 {
				continue
			}
			own, ref := r.find(c.name, c.on[0], m.name), r.find(c.name, c.on[1], m.name)
			v := verdict{Case: c.name, Metric: m.name, Goal: m.goal.text, Own: own.Median, Ref: ref.Median, Met: m.goal.met(own.Median, ref.Median)}
			v.Weak = 2*min(own.N, ref.N) < r.Rounds
			if ref.Median > 0 {
				v.Ratio = own.Median / ref.Median
			}
			r.Goals = append(r.Goals, v)
		}
	}
}

func (r *report) summarize(c benchCase, m metric, contender string) summary {
	s := summary{Case: c.name, Contender: contender, Metric: m.name, Unit: m.unit}
	var values []float64
	for _, x := range r.Samples {
		if x.Case == c.name && x.Contender == contender {
			values = append(values, x.Values[m.name])
		}
	}
	if s.N = len(values); s.N == 0 {
		return s
	}
	slices.Sort(values)
	s.Low, s.High = values[0], values[s.N-1]
	s.Median = (values[(s.N-1)/2] + values[s.N/2]) / 2
	return s
}

func (r *report) find(caseName, contender, metric string) summary {
	for _, s := range r.Summaries {
		if s.Case == caseName && s.Contender == contender && s.Metric == metric {
			return s
		}
	}
	return summary{}
}

// save writes the report as JSON and returns its path.
func (r *report) save(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("saving the report: %w", err)
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", fmt.Errorf("saving the report: %w", err)
	}
	path := filepath.Join(dir, "bench-"+r.Started.UTC().Format("20060102-150405")+".json")
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return "", fmt.Errorf("saving the report: %w", err)
	}
	return path, nil
}

// print writes the report as Markdown.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "# Cairn's waypoint beside Envoy\n\n")
	fmt.Fprintf(w, "%s, %d cores, Linux %s, load before %s. Median of %d rounds (lowest–highest), %d runs thrown away and repeated, %s.\n\n",
		r.Machine.CPU, r.Machine.Cores, r.Machine.Kernel, r.Machine.Load, r.Rounds, len(r.Rejected), r.Finished.Sub(r.Started).Round(time.Second))
	for _, x := range slices.Sorted(maps.Keys(r.Versions)) {
		fmt.Fprintf(w, "- %s: %s\n", x, strings.ReplaceAll(r.Versions[x], "\n", "; "))
	}
	for _, c := range r.cases {
		head := "| | " + strings.Join(c.on, " | ") + " |"
		both := len(c.on) == 2
		if both {
			head += " ratio |"
		}
		fmt.Fprintf(w, "\n## %s: %s\n\n%s\n|---|%s\n", c.name, c.title, head, strings.Repeat("---|", strings.Count(head, "|")-2))
		for _, m := range c.metrics {
			r.row(w, c, m, both)
		}
		r.notes(w, c)
	}
	if len(r.Goals) == 0 {
		return
	}
	fmt.Fprintf(w, "\n## Goals\n\n| case | figure | goal | cairn | envoy | holds |\n|---|---|---|---|---|---|\n")
	for _, g := range r.Goals {
		fmt.Fprintf(w, "| %s | %s | %s | %.1f | %.1f | %s |\n", g.Case, g.Metric, g.Goal, g.Own, g.Ref, g.verdict())
	}
}

func (v verdict) verdict() string {
	switch {
	case v.Weak:
		return "too few rounds counted"
	case v.Met:
		return "yes"
	default:
		return "**no**"
	}
}

func (r *report) row(w io.Writer, c benchCase, m metric, both bool) {
	name := m.name
	if m.unit != "" {
		name += ", " + m.unit
	}
	fmt.Fprintf(w, "| %s |", name)
	for _, x := range c.on {
		s := r.find(c.name, x, m.name)
		if s.N == 0 {
			fmt.Fprint(w, " none counted |")
			continue
		}
		fmt.Fprintf(w, " "+m.format+" ("+m.format+"–"+m.format+")", s.Median, s.Low, s.High)
		if s.N < r.Rounds {
			fmt.Fprintf(w, " of %d", s.N)
		}
		fmt.Fprint(w, " |")
	}
	if both {
		own, ref := r.find(c.name, c.on[0], m.name), r.find(c.name, c.on[1], m.name)
		if ref.Median != 0 && own.N > 0 {
			fmt.Fprintf(w, " %.2f |", own.Median/ref.Median)
		} else {
			fmt.Fprint(w, " |")
		}
	}
	fmt.Fprintln(w)
}

// notes says where something other than the proxy set the figures.
func (r *report) notes(w io.Writer, c benchCase) {
	for _, x := range c.on {
		proxy, load := r.find(c.name, x, busy.name), r.find(c.name, x, loadBusy.name)
		if load.Median > 90 && proxy.Median < 90 {
			fmt.Fprintf(w, "\nThe load and the sink were the limit for %s, not the proxy: its core was busy %.0f%% of the time, theirs %.0f%%.\n", x, proxy.Median, load.Median)
		}
	}
}
