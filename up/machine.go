package up

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
)

// machine is where pods live: all in this network namespace, told apart by
// loopback addresses, or each in one of its own. Methods but start and the dials are
// called from one goroutine.
type machine interface {
	// addPod makes the place that p will run in; p is new.
	addPod(p Pod) error
	// removePod takes it away again.
	removePod(p Pod)
	// namespace returns a descriptor of p's network namespace, which stays the
	// machine's, or -1 if it has none of its own.
	namespace(p Pod) (fd int, err error)
	// start starts a program in the place of p.
	start(cmd *exec.Cmd, p Pod) (wait func() error, err error)
	// dial connects to p as its node would.
	dial(ctx context.Context, p Pod, to netip.AddrPort) (net.Conn, error)
	// dialInside connects as a program in the place of p would.
	dialInside(ctx context.Context, p Pod, to netip.AddrPort) (net.Conn, error)
	// close takes everything down; the pods' programs have ended.
	close()
}

// loopback is the machine that needs no privileges.
type loopback struct {
	spawner *spawner
	dialer  net.Dialer
	stop    context.CancelFunc
	stopped chan struct{}
}

func newLoopbackMachine() *loopback {
	ctx, cancel := context.WithCancel(context.Background())
	m := &loopback{spawner: newSpawner(), stop: cancel, stopped: make(chan struct{})}
	go func() {
		defer close(m.stopped)
		m.spawner.run(ctx)
	}()
	return m
}

func (m *loopback) addPod(Pod) error { return nil }
func (m *loopback) removePod(Pod)    {}

func (m *loopback) namespace(Pod) (int, error) { return -1, nil }

func (m *loopback) start(cmd *exec.Cmd, _ Pod) (func() error, error) {
	if err := m.spawner.start(cmd); err != nil {
		return nil, err
	}
	return cmd.Wait, nil
}

func (m *loopback) dial(ctx context.Context, _ Pod, to netip.AddrPort) (net.Conn, error) {
	c, err := m.dialer.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", to, err)
	}
	return c, nil
}

func (m *loopback) dialInside(ctx context.Context, p Pod, to netip.AddrPort) (net.Conn, error) {
	return m.dial(ctx, p, to)
}

func (m *loopback) close() {
	m.stop()
	<-m.stopped
}
