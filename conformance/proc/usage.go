package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what a process, or a Group of them, has cost since it began.
type Usage struct {
	At        time.Time
	CPU       time.Duration // user and system time of all threads, ended ones included
	processes []process
}

// process is the share of one process.
type process struct {
	cpu     time.Duration
	threads map[string]thread
}

// thread is what one living thread has cost.
type thread struct {
	cpu    time.Duration
	waited time.Duration // ready to run, without a core
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
	threads := map[string]thread{}
	u.processes = []process{{u.CPU, threads}}
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(stats) == 0 {
		return u, fmt.Errorf("reading the run delay of process %d: no schedstat", pid)
	}
	for _, path := range stats {
		var t thread
		err := t.read(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // the thread ended
		}
		if err != nil {
			return u, err
		}
		threads[path] = t
	}
	return u, nil
}

// Cost is what a process cost between two readings.
type Cost struct {
	Wall   time.Duration
	CPU    time.Duration
	Waited time.Duration // for its core, because others had it
}

// Since returns the cost from an earlier reading to this one.
//
// Processes that share a core wait for each other, which is their own affair:
// what a process waited beyond the time that the others ran is the least that
// somebody else had its core. Waited is the most that befell any of them.
func (u Usage) Since(earlier Usage) Cost {
	c := Cost{Wall: u.At.Sub(earlier.At), CPU: u.CPU - earlier.CPU}
	for i, now := range u.processes {
		if i >= len(earlier.processes) {
			break
		}
		own := now.since(earlier.processes[i])
		c.Waited = max(c.Waited, own.Waited-(c.CPU-own.CPU))
	}
	return c
}

// since returns what one process cost and how long it waited.
//
// That is the run delay of the thread that did most of the work, scaled to
// the work of all. The plain sum over threads would also count how long the
// threads of one process waited for each other: a Go program's monitor thread
// wakes some thousand times a second and waits each time until the worker
// sleeps.
func (p process) since(earlier process) Cost {
	c := Cost{CPU: p.cpu - earlier.cpu}
	var busiest thread
	for path, now := range p.threads {
		before := earlier.threads[path]
		if ran := now.cpu - before.cpu; ran > busiest.cpu {
			busiest = thread{ran, now.waited - before.waited}
		}
	}
	if busiest.cpu > 0 {
		c.Waited = time.Duration(float64(busiest.waited) * float64(c.CPU) / float64(busiest.cpu))
	}
	return c
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

// read takes what the kernel says of a thread: "time on a core, time waiting
// for one, slices", in nanoseconds.
func (t *thread) read(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading a run delay: %w", err)
	}
	if _, err := fmt.Sscan(string(text), (*int64)(&t.cpu), (*int64)(&t.waited)); err != nil {
		return fmt.Errorf("reading %s: %q: %w", path, text, err)
	}
	return nil
}
