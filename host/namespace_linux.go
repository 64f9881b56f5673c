package host

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// home is the namespace that the process was started in.
var home = sync.OnceValues(func() (*os.File, error) {
	return os.Open("/proc/self/ns/net")
})

// NewNamespace makes an empty network namespace.
func NewNamespace() (*Namespace, error) {
	own, err := home()
	if err != nil {
		return nil, fmt.Errorf("opening the process's network namespace: %w", err)
	}
	type result struct {
		file *os.File
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- result{nil, permission("making a network namespace", err)}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- result{f, err}
	}()
	r := <-done
	if r.err != nil {
		return nil, r.err
	}
	return &Namespace{file: r.file}, nil
}

// OpenNamespace holds the network namespace that fd refers to, through a
// descriptor of its own. fd stays the caller's.
func OpenNamespace(fd int) (*Namespace, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicating network namespace descriptor %d: %w", fd, err)
	}
	return &Namespace{file: os.NewFile(uintptr(dup), "netns")}, nil
}

// Same reports whether both are the same namespace.
func (n *Namespace) Same(o *Namespace) bool {
	if n == nil || o == nil {
		return n == o
	}
	a, errA := n.file.Stat()
	b, errB := o.file.Stat()
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// enter locks the goroutine to its thread and moves that into the namespace.
// leave undoes it. If going home fails the thread stays locked: it ends with
// the goroutine, which must do nothing else.
func (n *Namespace) enter() (leave func() error, err error) {
	own, err := home()
	if err != nil {
		return nil, fmt.Errorf("opening the process's network namespace: %w", err)
	}
	runtime.LockOSThread()
	if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, permission("entering a network namespace", err)
	}
	return func() error {
		if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("leaving a network namespace: %w", err)
		}
		runtime.UnlockOSThread()
		return nil
	}, nil
}

func permission(doing string, err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%s: %w", doing, ErrPermission)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
