package host

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Start runs cmd in the pod: in its network, with its /etc/resolv.conf. The
// process is killed when this one dies. Start returns once it runs.
func (p *Pod) Start(cmd *exec.Cmd) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	proc := &Process{Cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go p.supervise(proc, started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s in pod %s: %w", cmd.Path, p.Name, err)
	}
	return proc, nil
}

// supervise owns one thread for the life of the process. The thread is in the
// pod's network and in a mount namespace of its own, which cannot be left, and
// the kernel counts its end as the death of the child's parent (prctl(2),
// PR_SET_PDEATHSIG): so it stays locked, waits, and ends with the goroutine.
func (p *Pod) supervise(proc *Process, started chan<- error) {
	defer close(proc.done)
	runtime.LockOSThread()
	if err := unix.Setns(p.ns.FD(), unix.CLONE_NEWNET); err != nil {
		started <- permission("entering the pod's network", err)
		return
	}
	if p.resolvConf != "" {
		if err := mountResolvConf(p.resolvConf); err != nil {
			started <- err
			return
		}
	}
	err := proc.Cmd.Start()
	started <- err
	if err == nil {
		proc.err = proc.Cmd.Wait()
	}
}

// mountResolvConf puts content in the place of /etc/resolv.conf for the calling
// thread and its children. The file that it mounts has no name any more when
// it returns.
func mountResolvConf(content string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return permission("making a mount namespace", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	f, err := os.CreateTemp("", "resolv.conf-*")
	if err != nil {
		return fmt.Errorf("writing a resolv.conf: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return fmt.Errorf("writing a resolv.conf: %w", err)
	}
	if err := unix.Mount(f.Name(), "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting a resolv.conf: %w", err)
	}
	return nil
}
