package node

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ErrReset is what a Conn reads when its stream was reset rather than ended.
var ErrReset = errors.New("the stream was reset")

// Conn is the application's end of a stream.
type Conn struct {
	*net.UnixConn
	local, remote net.Addr
	broken        atomic.Pointer[error] // why the stream did not end well
	reset         func()
}

// Read is UnixConn's, but tells a reset from an end.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.UnixConn.Read(p)
	if errors.Is(err, io.EOF) {
		if why := c.broken.Load(); why != nil {
			return n, *why
		}
	}
	return n, err
}

// LocalAddr is the address that the stream leads to.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the peer's.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// Reset ends the stream with RST_STREAM, as a TCP connection that is reset
// becomes on HBONE.
func (c *Conn) Reset() {
	c.reset()
	c.UnixConn.Close()
}

func (c *Conn) fail(err error) {
	err = fmt.Errorf("%w: %w", ErrReset, err)
	c.broken.CompareAndSwap(nil, &err)
}

// pair returns two sockets that are connected.
func pair() (a, b *net.UnixConn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a pair of sockets: %w", err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "stream")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			return nil, nil, fmt.Errorf("making a pair of sockets: %w", err)
		}
		conns[i] = c.(*net.UnixConn)
	}
	return conns[0], conns[1], nil
}
