package up

import (
	"context"
	"os/exec"
	"runtime"
)

// spawner starts child processes from one thread that lives as long as it
// does. The kernel ties "kill the child when its parent dies" to the parent's
// thread, and the Go runtime ends threads as it likes.
type spawner struct {
	jobs chan spawnJob
}

type spawnJob struct {
	cmd  *exec.Cmd
	done chan<- error
}

func newSpawner() *spawner { return &spawner{jobs: make(chan spawnJob)} }

// run serves start until ctx ends. Children must have ended by then: with the
// thread goes what ties them to this process.
func (s *spawner) run(ctx context.Context) {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	for {
		select {
		case <-ctx.Done():
			return
		case j := <-s.jobs:
			j.done <- j.cmd.Start()
		}
	}
}

// start starts cmd as a child that dies with this process, in a process group
// of its own: Ctrl-C reaches this process only, which ends its children in order.
func (s *spawner) start(cmd *exec.Cmd) error {
	tieToParent(cmd)
	done := make(chan error, 1)
	s.jobs <- spawnJob{cmd, done}
	return <-done
}
