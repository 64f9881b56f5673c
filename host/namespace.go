package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
)

// ErrUnsupported is returned for what this machine's operating system lacks.
var ErrUnsupported = errors.New("network namespaces need Linux")

// ErrPermission is returned when namespaces exist but may not be made or entered.
var ErrPermission = errors.New("network namespaces need root (CAP_SYS_ADMIN, CAP_NET_ADMIN): run with sudo")

// Namespace is a network namespace, held by a file descriptor. A nil
// *Namespace stands for the process's own.
type Namespace struct {
	file *os.File
}

// FD returns the file descriptor, which stays the Namespace's; -1 for nil.
func (n *Namespace) FD() int {
	if n == nil {
		return -1
	}
	return int(n.file.Fd())
}

// Close lets go of the namespace. It ends when no process and no socket is left in it.
func (n *Namespace) Close() error {
	if n == nil {
		return nil
	}
	return n.file.Close()
}

// Do runs f in the namespace, on a thread of its own. f must not start
// goroutines that expect to be in the namespace too.
func (n *Namespace) Do(f func() error) error {
	if n == nil {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		leave, err := n.enter()
		if err != nil {
			done <- err
			return
		}
		err = f()
		done <- errors.Join(err, leave())
	}()
	return <-done
}

// Control prepares a socket before it is bound or connected.
type Control func(fd int) error

// ListenTCP listens on addr inside the namespace.
func (n *Namespace) ListenTCP(ctx context.Context, addr netip.AddrPort, control Control) (*net.TCPListener, error) {
	lc := net.ListenConfig{Control: control.raw(), KeepAlive: -1}
	lc.SetMultipathTCP(false)
	var ln net.Listener
	err := n.Do(func() (err error) {
		ln, err = lc.Listen(ctx, "tcp", addr.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", addr, err)
	}
	return ln.(*net.TCPListener), nil
}

// ListenUDP binds a UDP socket to addr inside the namespace.
func (n *Namespace) ListenUDP(ctx context.Context, addr netip.AddrPort, control Control) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: control.raw()}
	var pc net.PacketConn
	err := n.Do(func() (err error) {
		pc, err = lc.ListenPacket(ctx, "udp", addr.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listening on udp %s: %w", addr, err)
	}
	return pc.(*net.UDPConn), nil
}

// DialTCP connects to remote from inside the namespace. local may be invalid,
// or have port 0. Only the making of the socket holds a thread in the
// namespace; the wait for the peer does not.
func (n *Namespace) DialTCP(ctx context.Context, local, remote netip.AddrPort, control Control) (*net.TCPConn, error) {
	if n == nil {
		return dialer(control.raw()).DialTCP(ctx, "tcp", local, remote)
	}
	type result struct {
		conn *net.TCPConn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		leave, err := n.enter()
		if err != nil {
			done <- result{err: err}
			return
		}
		left := false
		d := dialer(func(network, address string, c syscall.RawConn) error {
			// The socket exists and belongs to the namespace: go home before connecting.
			err := control.apply(c)
			left = true
			return errors.Join(err, leave())
		})
		conn, err := d.DialTCP(ctx, "tcp", local, remote)
		if !left {
			err = errors.Join(err, leave())
		}
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

func dialer(control func(string, string, syscall.RawConn) error) *net.Dialer {
	d := &net.Dialer{Control: control, KeepAlive: -1}
	d.SetMultipathTCP(false)
	return d
}

func (c Control) raw() func(string, string, syscall.RawConn) error {
	if c == nil {
		return nil
	}
	return func(_, _ string, rc syscall.RawConn) error { return c.apply(rc) }
}

func (c Control) apply(rc syscall.RawConn) error {
	if c == nil {
		return nil
	}
	var err error
	if e := rc.Control(func(fd uintptr) { err = c(int(fd)) }); e != nil {
		return e
	}
	return err
}
