// Package memnet is a network in memory, for tests: connections with buffers,
// back-pressure, deadlines, half-close and reset, without ports or sockets.
//
//	ln := memnet.Listen(netip.MustParseAddrPort("10.0.0.1:80"), 0)
//	go serve(ln)
//	c, err := ln.Dial(ctx, netip.MustParseAddrPort("10.0.0.2:1234"))
//
// Everything blocks in ways that testing/synctest understands, so within a
// bubble deadlines pass in no time and synctest.Wait returns when each side
// waits for the other.
//
// A Conn behaves as a TCP connection does: a write returns as soon as the bytes
// fit into the peer's receive buffer, Close leaves what was written for the
// peer to read, and Reset throws it away.
//
// # Concurrency
//
// All methods may be called by several goroutines at once.
package memnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
)

// DefaultBuffer is the size of a receive buffer when none is named.
const DefaultBuffer = 64 << 10

// Listener accepts connections that Dial makes.
type Listener struct {
	addr   netip.AddrPort
	buffer int

	conns  chan *Conn
	closed chan struct{}
	once   sync.Once
}

var _ net.Listener = (*Listener)(nil)

// Listen makes a listener that calls itself addr. buffer is the size in bytes of
// the receive buffers on both sides of its connections; 0 is DefaultBuffer.
func Listen(addr netip.AddrPort, buffer int) *Listener {
	return &Listener{addr: addr, buffer: buffer, conns: make(chan *Conn), closed: make(chan struct{})}
}

// Accept returns the next connection, or net.ErrClosed after Close.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
}

// Dial connects from the named source address. It waits until the connection is
// accepted, the listener is closed or ctx is done.
func (l *Listener) Dial(ctx context.Context, from netip.AddrPort) (*Conn, error) {
	client, server := Pipe(from, l.addr, l.buffer)
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, fmt.Errorf("dialing %s in memory: %w", l.addr, net.ErrClosed)
	case <-ctx.Done():
		return nil, fmt.Errorf("dialing %s in memory: %w", l.addr, ctx.Err())
	}
}

// DialContext has the form that http.Transport wants; network and address are
// ignored, and the source address is 127.0.0.1:1.
func (l *Listener) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	c, err := l.Dial(ctx, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 1))
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Close makes Accept and Dial fail. Connections live on.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr returns the listener's address as a *net.TCPAddr.
func (l *Listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }
