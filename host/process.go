package host

import "os/exec"

// Process is a program that runs in a pod.
type Process struct {
	// Cmd is the started command.
	Cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Wait returns when the process has ended, with what Cmd.Wait said. It may be
// called any number of times, from any goroutine; Cmd.Wait must not be called.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }
