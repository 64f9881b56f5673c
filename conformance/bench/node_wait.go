package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cairnproxy.dev/cairn/conformance/proc"
)

// pressure tells how long a group of processes waited for its core because of
// others. Two proxies on one core wait for each other, which is no
// disturbance and which the run delay of their threads does not tell apart;
// the kernel's pressure-stall figures do: a control group's CPU pressure is
// "full" while some thread of it could run and none did.
//
// The kernel brings the figure up to date every two seconds, so a window of
// some seconds is known with an edge of that size.
type pressure struct {
	dir   string
	group proc.Group
}

// stall is what pressure has read.
type stall struct {
	time  time.Duration // in which the group could run and did not
	wakes int           // how often a thread of it was woken
}

// wakeTime is what a wake-up takes by itself, in which a thread counts as
// stalled though nobody has its core: the interrupt and the way out of the idle
// state, which in a virtual machine is long. Pairs at real-time priority, which
// nobody can hold up, were measured at 4 to 9 µs on a machine with two cores.
const wakeTime = 9 * time.Microsecond

// byOthers is for how long others held the group up since an earlier reading.
func (s stall) byOthers(earlier stall) time.Duration {
	return max(0, s.time-earlier.time-time.Duration(s.wakes-earlier.wakes)*wakeTime)
}

// newPressure puts the processes into a control group of their own. Without
// pressure figures (CONFIG_PSI, cgroup v2) it returns nil, which reads
// nothing: then only what proc knows can reject a run.
func newPressure(g proc.Group) *pressure {
	root, err := cgroup2()
	if err != nil {
		return nil
	}
	p := &pressure{filepath.Join(root, fmt.Sprintf("cairn-bench-%d", os.Getpid())), g}
	if err := os.Mkdir(p.dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil
	}
	for _, x := range g {
		err = errors.Join(err, os.WriteFile(filepath.Join(p.dir, "cgroup.procs"), []byte(strconv.Itoa(x.Pid)), 0o644))
	}
	if _, rerr := p.read(); err != nil || rerr != nil {
		return nil
	}
	return p
}

// cgroup2 is the folder of this process's control group.
func cgroup2() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			_, path, ok := strings.Cut(string(own), "0::")
			if !ok {
				break
			}
			path, _, _ = strings.Cut(path, "\n")
			return filepath.Join(f[1], path), nil
		}
	}
	return "", errors.New("no control groups of version 2")
}

// read tells how long the group was stalled since it was made.
func (p *pressure) read() (s stall, err error) {
	if p == nil {
		return s, nil
	}
	text, err := os.ReadFile(filepath.Join(p.dir, "cpu.pressure"))
	if err != nil {
		return s, fmt.Errorf("reading the pressure on the proxies' core: %w", err)
	}
	_, full, _ := strings.Cut(string(text), "\nfull ")
	_, digits, _ := strings.Cut(full, "total=")
	us, err := strconv.Atoi(strings.TrimSpace(digits))
	if err != nil {
		return s, fmt.Errorf("reading the pressure on the proxies' core: %q: %w", text, err)
	}
	s.time = time.Duration(us) * time.Microsecond
	for _, x := range p.group {
		n, err := wakes(x.Pid)
		if err != nil {
			return s, err
		}
		s.wakes += n
	}
	return s, nil
}

// wakes is how often the living threads of a process have slept and were woken.
func wakes(pid int) (n int, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return 0, fmt.Errorf("counting wake-ups of process %d: %w", pid, err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread ended
		}
		_, count, _ := strings.Cut(string(text), "\nvoluntary_ctxt_switches:")
		count, _, _ = strings.Cut(count, "\n")
		k, err := strconv.Atoi(strings.TrimSpace(count))
		if err != nil {
			return 0, fmt.Errorf("counting wake-ups of process %d: %w", pid, err)
		}
		n += k
	}
	return n, nil
}

// close removes the group, once its processes have ended.
func (p *pressure) close() {
	if p != nil {
		_ = os.Remove(p.dir) // an empty group left behind does no harm
	}
}
