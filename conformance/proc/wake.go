package proc

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// WakeTime measures how long a thread that is woken on a core waits until it
// runs, though nobody has the core: the interrupt and the way out of the idle
// state, microseconds in a virtual machine. That time counts as run delay, and
// a program that is woken for each request would seem to be held up by others.
//
// It is the lower quartile of those of a thousand wake-ups that took any time:
// others disturb these least. Where somebody was at work on the core there is
// no idle state to leave, and mostly no time at all.
func WakeTime(core int) (time.Duration, error) {
	const wakes = 1000
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return 0, fmt.Errorf("measuring a wake-up: %w", err)
	}
	delays := make(chan time.Duration, wakes)
	result := make(chan error, 1)
	go func() {
		defer unix.Close(pipe[0])
		result <- sleeper(core, pipe[0], delays)
	}()
	// A byte wakes the sleeper; the pause lets its core become idle again.
	pause := unix.NsecToTimespec((200 * time.Microsecond).Nanoseconds())
	for range wakes {
		_ = unix.Nanosleep(&pause, nil) // a signal makes it shorter
		if _, err := unix.Write(pipe[1], []byte{0}); err != nil {
			unix.Close(pipe[1])
			return 0, fmt.Errorf("measuring a wake-up: %w", err)
		}
	}
	unix.Close(pipe[1])
	if err := <-result; err != nil {
		return 0, fmt.Errorf("measuring a wake-up: %w", err)
	}
	var all []time.Duration
	for d := range delays {
		if d > 0 {
			all = append(all, d)
		}
	}
	if len(all) == 0 {
		return 0, nil
	}
	slices.Sort(all)
	return all[len(all)/4], nil
}

// sleeper reads bytes on the core until there are no more, and tells after
// each sleep how long its thread has waited to run. The thread ends with it, because
// it stays bound to the core.
func sleeper(core, fd int, delays chan<- time.Duration) error {
	runtime.LockOSThread()
	defer close(delays)
	if err := Pin(0, core); err != nil {
		return err
	}
	path := fmt.Sprintf("/proc/self/task/%d/schedstat", unix.Gettid())
	var before thread
	if err := before.read(path); err != nil {
		return err
	}
	for b := make([]byte, 1); ; {
		n, err := unix.Read(fd, b)
		if n == 0 || err != nil {
			return err
		}
		var now thread
		if err := now.read(path); err != nil {
			return err
		}
		if now.slices > before.slices { // it slept
			delays <- (now.waited - before.waited) / time.Duration(now.slices-before.slices)
		}
		before = now
	}
}

// read takes what the kernel says of a thread: "time on a core, time waiting
// for one, slices", in nanoseconds.
func (t *thread) read(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading a run delay: %w", err)
	}
	if _, err := fmt.Sscan(string(text), (*int64)(&t.cpu), (*int64)(&t.waited), &t.slices); err != nil {
		return fmt.Errorf("reading %s: %q: %w", path, text, err)
	}
	return nil
}
