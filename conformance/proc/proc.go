// Package proc starts the programs under test as processes of their own,
// pinned to a core where that is asked for, and reads from /proc what they
// cost: CPU time, resident memory, and how long they waited for a core.
package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options say how a program is started.
type Options struct {
	Path string
	Args []string
	Env  []string // added to this process's environment
	Dir  string   // working directory
	Log  string   // file that receives stdout and stderr; required
	Out  string   // file that receives stdout alone, when set
	Core int      // core to pin to, counted from 1; 0 means wherever the kernel likes
	Nice int      // scheduling priority, -20 to 19; ignored when not permitted
	// Netns is the network namespace to run in, by its name for `ip netns`.
	Netns string
}

// A Process is a running program. Its methods may be called from any
// goroutine, but Stop only once.
type Process struct {
	Pid  int
	Log  string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // why it ended; readable after done
}

// Start runs the program.
func Start(opts Options) (*Process, error) {
	log, err := os.Create(opts.Log)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", opts.Path, err)
	}
	defer log.Close()
	cmd := exec.Command(opts.Path, opts.Args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = opts.Dir, log, log
	cmd.Env = append(os.Environ(), opts.Env...)
	// A test that dies must not leave the program behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if opts.Out != "" {
		out, err := os.Create(opts.Out)
		if err != nil {
			return nil, fmt.Errorf("starting %s: %w", opts.Path, err)
		}
		defer out.Close()
		cmd.Stdout = out
	}
	p := &Process{Log: opts.Log, cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go p.own(opts, started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", opts.Path, err)
	}
	p.Pid = cmd.Process.Pid
	return p, nil
}

// own starts the program from a thread of its own and waits for it. The
// child inherits that thread's core, priority and network namespace, so it counts the right
// number of processors at its start; and Pdeathsig fires when the thread that
// forked ends, so the thread has to stay. It is never given back.
func (p *Process) own(opts Options, started chan<- error) {
	runtime.LockOSThread()
	if opts.Core > 0 {
		if err := Pin(0, opts.Core); err != nil {
			started <- err
			return
		}
	}
	if opts.Nice != 0 {
		// Without the right to raise it the priority stays: the report
		// tells by its own measure how long the process waited.
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, opts.Nice)
	}
	if opts.Netns != "" {
		if err := enter(opts.Netns); err != nil {
			started <- err
			return
		}
	}
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	p.err = p.cmd.Wait()
	close(p.done)
}

// Pin binds the thread (0: the calling one) to a core, counted from 1.
func Pin(tid, core int) error {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return fmt.Errorf("reading the cores: %w", err)
	}
	set.Zero()
	set.Set(core - 1)
	if err := unix.SchedSetaffinity(tid, &set); err != nil {
		return fmt.Errorf("pinning to core %d: %w", core, err)
	}
	return nil
}

// PinSelf binds every thread of this process, present and to come, to a core
// and gives them a priority when that is permitted.
func PinSelf(core, nice int) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("pinning this process: %w", err)
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := Pin(tid, core); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
		if nice != 0 {
			_ = unix.Setpriority(unix.PRIO_PROCESS, tid, nice)
		}
	}
	return nil
}

// Favour gives this session's processes a priority among the sessions of the
// machine, when that is permitted, and returns what takes it back. Where the
// kernel groups processes by session, the priority of a process counts only
// within its group; and the group, a terminal's shell and all that is started
// from it, outlives this process.
func Favour(nice int) (undo func()) {
	const path = "/proc/self/autogroup"
	text, err := os.ReadFile(path)
	if err != nil || nice == 0 {
		return func() {}
	}
	_, before, ok := strings.Cut(strings.TrimSpace(string(text)), "nice ")
	if !ok || os.WriteFile(path, []byte(strconv.Itoa(nice)), 0o644) != nil {
		return func() {}
	}
	return func() { _ = os.WriteFile(path, []byte(before), 0o644) } // it was permitted a moment ago
}

// Ended is closed when the program has ended.
func (p *Process) Ended() <-chan struct{} { return p.done }

// Err returns nil while the program runs, and afterwards an error with the
// last lines of its log.
func (p *Process) Err() error {
	select {
	case <-p.done:
		how := "exit status 0"
		if p.err != nil {
			how = p.err.Error()
		}
		return fmt.Errorf("%s ended (%s): %s", filepath.Base(p.cmd.Path), how, p.Tail(12))
	default:
		return nil
	}
}

// Signal sends a signal to the program.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Stop asks the program to end, and after grace kills it. It returns how it
// ended: nil for exit code 0.
func (p *Process) Stop(grace time.Duration) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.err
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not end within %v of SIGTERM", filepath.Base(p.cmd.Path), grace)
	}
}

// Await calls ready until it returns nil, the program ends, or ctx does.
func (p *Process) Await(ctx context.Context, ready func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return p.Err()
		case <-ctx.Done():
			return fmt.Errorf("%s was not ready in time (%w): %s", filepath.Base(p.cmd.Path), err, p.Tail(12))
		case <-tick.C:
		}
	}
}

// Tail returns the last n lines of the log, joined.
func (p *Process) Tail(n int) string {
	text, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
