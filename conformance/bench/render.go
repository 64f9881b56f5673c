package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The lines of a document between which the report stands.
const (
	beginMark = "<!-- bench:begin -->"
	endMark   = "<!-- bench:end -->"
)

// render prints a saved report, or puts it into a document, with the plot as
// a file of the same name beside it.
func render(from, into string) error {
	r, err := loadReport(from)
	if err != nil {
		return err
	}
	r.judge()
	if into == "" {
		r.print(os.Stdout)
		return nil
	}
	text, err := os.ReadFile(into)
	if err != nil {
		return fmt.Errorf("rendering: %w", err)
	}
	plot := strings.TrimSuffix(into, filepath.Ext(into)) + ".svg"
	var b strings.Builder
	r.body(&b)
	fresh, err := between(string(text), fmt.Sprintf("![How many times better Cairn is than the reference, by case](%s)\n\n%s", filepath.Base(plot), b.String()))
	if err != nil {
		return fmt.Errorf("rendering into %s: %w", into, err)
	}
	return errors.Join(os.WriteFile(into, []byte(fresh), 0o644), os.WriteFile(plot, []byte(r.plot()), 0o644))
}

// between replaces what stands between the marks.
func between(text, what string) (string, error) {
	head, rest, found := strings.Cut(text, beginMark+"\n")
	_, tail, closed := strings.Cut(rest, endMark)
	if !found || !closed {
		return "", fmt.Errorf("it has no lines %s and %s", beginMark, endMark)
	}
	return head + beginMark + "\n" + what + endMark + tail, nil
}
