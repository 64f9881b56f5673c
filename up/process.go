package up

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/source"
)

// ProxyCommand is the hidden command of cmd/cairn that runs RunProxy.
const ProxyCommand = "up-proxy"

// linkFD is the descriptor at which a proxy's process finds its link.
const linkFD = 3

// process runs one proxy in a process of its own and starts it again when it dies.
type process struct {
	spec      spec
	self      string
	args      []string // further arguments of the command
	store     *source.Store
	issuer    identity.Issuer
	accessLog io.Writer
	stderr    io.Writer
	log       *slog.Logger
	place     Pod
	start     startFunc
	serving   func(boundPorts)
	applied   func(version uint64)
}

// run keeps the process running until ctx ends, and then waits for it to drain.
// It returns then, and also when the process has ended in order by itself: it
// was told to.
func (p *process) run(ctx context.Context) {
	delay := time.Duration(0)
	for ctx.Err() == nil {
		began := time.Now()
		err := p.once(ctx)
		if ctx.Err() != nil || err == nil {
			return
		}
		delay = nextDelay(delay, time.Since(began))
		p.log.Error("a proxy's process ended; starting it again", "proxy", p.spec.String(), "in", delay.String(), "error", err)
		t := time.NewTimer(delay)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// once starts the process and waits for its end.
func (p *process) once(ctx context.Context) error {
	ours, theirs, err := linkPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	arg, err := json.Marshal(p.spec)
	if err != nil {
		ours.Close()
		return fmt.Errorf("encoding what to run: %w", err)
	}
	cmd := exec.CommandContext(ctx, p.self, append([]string{ProxyCommand, string(arg)}, p.args...)...)
	cmd.Env, cmd.ExtraFiles = inherited(), []*os.File{theirs}
	cmd.Stdout, cmd.Stderr = p.accessLog, p.stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = drainWithin + killAfter
	wait, err := p.start(cmd, p.place)
	if err != nil {
		ours.Close()
		return fmt.Errorf("starting the process of %s: %w", p.spec, err)
	}
	theirs.Close()
	// The link outlives ctx: a proxy that drains may need a certificate.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	linked := make(chan struct{})
	go func() {
		defer close(linked)
		parent := &parentEnd{store: p.store, issuer: p.issuer, serving: func(s serving) { p.serving(s.Bound) }, applied: p.applied}
		// Its error is the process's, which wait tells.
		_ = parent.run(life, ours)
	}()
	err = wait()
	end()
	<-linked
	return err
}

// linkPair returns the ends of a new link: the parent's, and the file that a
// child inherits.
func linkPair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a link to a proxy's process: %w", err)
	}
	for _, fd := range fds {
		syscall.CloseOnExec(fd)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "link"), os.NewFile(uintptr(fds[1]), "link")
	conn, err := net.FileConn(ours)
	ours.Close() // FileConn has a duplicate
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("making a link to a proxy's process: %w", err)
	}
	return conn, theirs, nil
}

// RunProxy runs the proxy that arg describes, fed by the parent process over
// the inherited link, until ctx ends or the parent is gone. accessLog may be nil.
func RunProxy(ctx context.Context, arg string, accessLog io.Writer, log *slog.Logger) error {
	var s spec
	if err := json.Unmarshal([]byte(arg), &s); err != nil {
		return fmt.Errorf("reading what to run: %w; this command is for `cairn up` alone", err)
	}
	conn, err := net.FileConn(os.NewFile(linkFD, "link"))
	if err != nil {
		return fmt.Errorf("opening the link to the parent: %w; this command is for `cairn up` alone", err)
	}
	child := newChildEnd(conn)
	told, last := false, boundPorts(nil)
	b, err := build(s, deps{
		store: child.store, issuer: child, accessLog: accessLog, log: log,
		serving: func(b boundPorts) {
			if !told || !maps.Equal(last, b) {
				told, last = true, b
				_ = child.serving(serving{b}) // the parent is gone: run sees it too
			}
		},
		applied: func(version uint64) { _ = child.applied(version) }, // as above
	})
	if err != nil {
		return err
	}
	run, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	linked := make(chan struct{})
	go func() {
		defer close(linked)
		if err := child.run(life); err != nil {
			stop(err)
		}
	}()
	err = b.run(run)
	end()
	<-linked
	if err == nil && ctx.Err() == nil {
		err = context.Cause(run)
	}
	return err
}
