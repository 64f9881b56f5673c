package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what a process has cost since it began.
type Usage struct {
	At     time.Time
	CPU    time.Duration // user and system time of all threads, ended ones included
	Waited time.Duration // time its living threads were ready to run and had no core
}

// Usage reads the costs so far.
func (p *Process) Usage() (Usage, error) { return UsageOf(p.Pid) }

// UsageOf reads the costs of any process; pid 0 is this one.
func UsageOf(pid int) (Usage, error) {
	if pid == 0 {
		pid = os.Getpid()
	}
	u := Usage{At: time.Now()}
	// The CPU clock of another process (clock_getcpuclockid): nanoseconds,
	// where /proc/PID/stat counts hundredths of a second.
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		return u, fmt.Errorf("reading the CPU clock of process %d: %w", pid, err)
	}
	u.CPU = time.Duration(ts.Nano())
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(stats) == 0 {
		return u, fmt.Errorf("reading the run delay of process %d: no schedstat", pid)
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread ended
		}
		// "time on a core, time waiting for one, slices", in nanoseconds.
		fields := strings.Fields(string(text))
		if len(fields) < 2 {
			return u, fmt.Errorf("reading %s: %q", path, text)
		}
		n, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return u, fmt.Errorf("reading %s: %w", path, err)
		}
		u.Waited += time.Duration(n)
	}
	return u, nil
}

// RSS returns the resident memory in bytes.
func (p *Process) RSS() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid))
	if err != nil {
		return 0, fmt.Errorf("reading the resident memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("reading the resident memory: %w", err)
			}
			return kb << 10, nil
		}
	}
	return 0, fmt.Errorf("reading the resident memory: process %d states none", p.Pid)
}
