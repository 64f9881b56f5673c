package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// benchstat writes the samples in the format of Go benchmarks, a file for
// each contender, so that golang.org/x/perf/cmd/benchstat says which
// differences are more than noise.
func (r *report) benchstat(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing for benchstat: %w", err)
	}
	for name := range r.Versions {
		if err := os.WriteFile(filepath.Join(dir, name+".txt"), []byte(r.benchmarks(name)), 0o644); err != nil {
			return fmt.Errorf("writing for benchstat: %w", err)
		}
	}
	return nil
}

func (r *report) benchmarks(contender string) string {
	var units, lines strings.Builder
	seen := map[string]bool{}
	for _, c := range r.Cases {
		for _, m := range c.Metrics {
			if u := m.statUnit(); m.Better != neither && !seen[u] {
				seen[u] = true
				better := "higher"
				if m.Better == less {
					better = "lower"
				}
				fmt.Fprintf(&units, "Unit %s better=%s\n", u, better)
			}
		}
		for _, s := range r.Samples {
			if s.Case != c.Name || s.Contender != contender {
				continue
			}
			fmt.Fprintf(&lines, "Benchmark%s 1", strings.ToUpper(c.Name[:1])+c.Name[1:])
			for _, m := range c.Metrics {
				if v, ok := s.Values[m.Name]; ok && m.Better != neither {
					fmt.Fprintf(&lines, " %g %s", v, m.statUnit())
				}
			}
			lines.WriteString("\n")
		}
	}
	return units.String() + lines.String()
}

// statUnit is the metric as one word.
func (m metricInfo) statUnit() string {
	return strings.ReplaceAll(strings.TrimSpace(m.Name+" "+m.Unit), " ", "-")
}
