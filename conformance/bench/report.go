package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report is everything that one run of the benchmark says. What is printed,
// plotted and judged follows from it alone, so that a saved one can be
// rendered again.
type report struct {
	Command   string
	Started   time.Time
	Finished  time.Time
	Machine   machine
	Versions  map[string]string // by contender
	Rounds    int
	Cases     []caseInfo
	Rejected  []rejection // runs thrown away and repeated
	Broken    []rejection // what could not run at all
	Samples   []sample
	Summaries []summary
	Goals     []verdict
}

type machine struct {
	CPU    string
	Cores  int
	Kernel string
	Go     string
	Load   string // /proc/loadavg before the run
}

// caseInfo is a case without what runs it.
type caseInfo struct {
	Name       string
	Title      string
	Group      string
	Contenders []string
	Own        string // the contender under test
	Reference  string // the one that it is measured against; empty: none
	Metrics    []metricInfo
}

// metricInfo is a metric, with names that JSON keeps.
type metricInfo struct {
	Name   string
	Unit   string `json:",omitempty"`
	Format string
	Better direction
	Goal   *goal `json:",omitempty"`
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

func newReport(ctx context.Context, o options, l *lab) (*report, error) {
	r := &report{
		Command: "make bench", Started: time.Now(), Rounds: o.rounds, Versions: map[string]string{},
		Machine: machine{CPU: firstMatch("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), Go: runtime.Version()},
	}
	if args := os.Args[1:]; len(args) > 0 {
		r.Command = fmt.Sprintf("make bench ARGS=%q", strings.Join(args, " "))
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
	for _, c := range l.cases {
		r.Cases = append(r.Cases, c.info())
	}
	return r, nil
}

func (c benchCase) info() caseInfo {
	i := caseInfo{Name: c.name, Title: c.title, Group: c.group, Contenders: c.on, Own: c.own, Reference: c.reference}
	for _, m := range c.metrics {
		i.Metrics = append(i.Metrics, metricInfo{Name: m.name, Unit: m.unit, Format: m.format, Better: m.better, Goal: m.goal})
	}
	return i
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
		if v, ok := s.Values[m.name]; ok {
			fmt.Fprintf(&b, "%s "+m.format+"%s  ", m.name, v, m.unit)
		}
	}
	return b.String()
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

// loadReport reads what save wrote.
func loadReport(path string) (*report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading a report: %w", err)
	}
	r := &report{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("reading the report %s: %w", path, err)
	}
	return r, nil
}
