package waypoint

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var rounds = flag.Int("rounds", 0, "run so many requests of TestInstructionsPerRequest and do not count their instructions")

// TestInstructionsPerRequest counts the instructions of a request through the
// pipeline, HTTP/2 of the tunnels included, TLS and sockets not. Unlike time, the
// count is the same on a busy machine. It runs itself under valgrind for some
// requests and for more: the difference has neither start nor warming up in it.
// Virtual machines hide the processor's own counter, so that is not tried.
//
// The bounds leave some percent for compilers; whoever makes a request cheaper
// lowers them.
func TestInstructionsPerRequest(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector's instructions are not ours")
	}
	body := strings.Repeat("x", 1024)
	for _, tc := range []struct {
		name  string
		round func(t *testing.T) func()
		most  float64
	}{
		{"plain", func(t *testing.T) func() {
			b := newBench(t, benchRequest, benchResponse+body, nil)
			return func() { b.round() }
		}, 24_000},
		{"resilient", func(t *testing.T) func() {
			b := newBench(t, benchRequest, benchResponse+body, resilient)
			return func() { b.round() }
		}, 27_500},
		{"idle", func(t *testing.T) func() {
			b := newBench(t, benchRequest, benchResponse+body, idleFeatures)
			return func() { b.round() }
		}, 28_000},
		{"limits", func(t *testing.T) func() {
			b := newBench(t, benchRequest, benchResponse+body, idleLimits)
			return func() { b.round() }
		}, 28_500},
		{"everything", func(t *testing.T) func() {
			b := newBench(t, benchRequest, benchResponse+body, everything)
			return func() { b.round() }
		}, 32_500},
		{"guarded", func(t *testing.T) func() {
			b := newBench(t, benchRequest, benchResponse+body, guarded)
			return func() { b.round() }
		}, 25_000},
		{"grpc", func(t *testing.T) func() {
			b := newH2Bench(t, everything)
			return func() { b.round() }
		}, 68_000},
		{"connect", func(t *testing.T) func() {
			b := newConnectBench(t, everything)
			return func() { b.round() }
		}, 75_000},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if *rounds > 0 {
				f := tc.round(t)
				for range *rounds {
					f()
				}
				return
			}
			const few, many = 500, 1500
			per := float64(instructions(t, many)-instructions(t, few)) / (many - few)
			if t.Logf("%.0f instructions per request", per); per > tc.most {
				t.Errorf("%.0f instructions per request, want at most %.0f", per, tc.most)
			}
		})
	}
}

var collected = regexp.MustCompile(`Collected : (\d+)`)

// instructions runs this very test in a process of its own, for n requests, and
// returns how many instructions that took. Goroutines have to take turns on one
// thread and without signals, or valgrind loses track of their stacks.
func instructions(t *testing.T, n int) int64 {
	t.Helper()
	valgrind, err := exec.LookPath("valgrind")
	if err != nil {
		t.Skip("valgrind is not installed: instructions were not counted")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.CommandContext(t.Context(), valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-file="+log,
		self, "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$", "-test.v", fmt.Sprint("-rounds=", n))
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=off", "GODEBUG=asyncpreemptoff=1")
	out, err := cmd.CombinedOutput()
	report, _ := os.ReadFile(log)
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Fatalf("%s: %v\n%s\n%s", cmd, err, out, report)
	}
	m := collected.FindSubmatch(report)
	if m == nil {
		t.Fatalf("valgrind does not say how much it counted: %s", report)
	}
	count, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return count
}
