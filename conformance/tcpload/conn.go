package tcpload

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Conn is a TCP connection over a socket that was made elsewhere: in another
// network namespace, whose threads are too dear to dial from one by one.
type Conn struct{ *os.File }

// Socket makes a socket for Connect in the calling thread's network namespace.
func Socket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("making a socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_NODELAY, 1); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("making a socket: %w", err)
	}
	return fd, nil
}

// Connect begins to connect a socket from Socket. The first read or write
// waits until the connection stands, or tells why it does not.
func Connect(fd int, to netip.AddrPort) (*Conn, error) {
	err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		unix.Close(fd)
		return nil, fmt.Errorf("connecting to %s: %w", to, err)
	}
	// The descriptor does not block, so the file waits in the runtime's poller.
	return &Conn{os.NewFile(uintptr(fd), "tcp:"+to.String())}, nil
}

// CloseWrite ends the output.
func (c *Conn) CloseWrite() error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("ending the output: %w", err)
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.Shutdown(int(fd), unix.SHUT_WR) }); err != nil {
		serr = err
	}
	if serr != nil {
		return fmt.Errorf("ending the output: %w", serr)
	}
	return nil
}
