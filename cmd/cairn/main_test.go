package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain lets the test binary be cairn itself: called with anything but
// go test's flags, as tests and the pods that they start call it, it is main.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-test.") {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestExamples: nothing is wrong with the examples, and each of their policies is in force.
func TestExamples(t *testing.T) {
	dirs, err := filepath.Glob("../../examples/*")
	if err != nil || len(dirs) < 2 {
		t.Fatalf("examples: %v, %v", dirs, err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if got := run(t.Context(), []string{"check", "--status", dir}, &stdout, &stderr); got != exitGood || strings.Contains(stdout.String(), "=False") {
				t.Errorf("exit code %d:\n%s%s", got, &stdout, &stderr)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	tests := []struct {
		name   string
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{"no arguments", nil, exitGood, "Usage:", ""},
		{"help", []string{"--help"}, exitGood, "Examples:", ""},
		{"help of up", []string{"up", "--help"}, exitGood, "cairn up examples/bookinfo", ""},
		{"version", []string{"version"}, exitGood, "cairn ", ""},
		{"completion", []string{"completion", "bash"}, exitGood, "bash completion", ""},
		{"unknown command", []string{"upp"}, exitUsage, "", `unknown command "upp"`},
		{"suggestion", []string{"chekc"}, exitUsage, "", "did you mean check"},
		{"unknown flag", []string{"up", "--nope", "x"}, exitUsage, "", "unknown flag"},
		{"missing argument", []string{"up"}, exitUsage, "", "requires at least 1 arg"},
		{"surplus argument", []string{"version", "x"}, exitUsage, "", "unknown command \"x\""},
		{"bad log level", []string{"version", "--log-level", "loud"}, exitUsage, "", "--log-level"},
		{"bad range", []string{"up", "x", "--range", "1"}, exitUsage, "", "--range"},
		{"unknown sample", []string{"sample", "nginx"}, exitUsage, "", "nginx"},
		{"no such folder to check", []string{"check", "/nonexistent"}, exitFailed, "/nonexistent", ""},
		{"no such folder to run", []string{"up", "/nonexistent"}, exitFailed, "", "/nonexistent"},
		{"nobody at the admin port", []string{"config", "--admin", "127.0.0.1:1"}, exitFailed, "", "asking the proxy"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if got := run(t.Context(), tt.args, &stdout, &stderr); got != tt.code {
				t.Errorf("exit code %d, want %d; stderr: %s", got, tt.code, &stderr)
			}
			if !strings.Contains(stdout.String(), tt.stdout) {
				t.Errorf("stdout lacks %q:\n%s", tt.stdout, &stdout)
			}
			if !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("stderr lacks %q:\n%s", tt.stderr, &stderr)
			}
			if tt.code == exitFailed && strings.Count(stderr.String()+stdout.String(), "\n") != 1 {
				t.Errorf("a failure takes one line that says what to do, got:\n%s%s", &stdout, &stderr)
			}
		})
	}
}
