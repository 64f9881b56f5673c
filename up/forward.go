package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// A waypoint in a network namespace has its servers there, where the user is
// not: its admin server even on the loopback interface, so that no pod reaches
// it. A forwarder gives them addresses on this machine.
//
// It carries bytes and knows nothing of them. Its goroutines are one per
// listener, and two per connection; close ends all of them.
type forwarder struct {
	dial func(ctx context.Context, to netip.AddrPort) (net.Conn, error)

	ctx       context.Context
	cancel    context.CancelFunc
	listeners []net.Listener
	wg        sync.WaitGroup
}

func newForwarder(dial func(ctx context.Context, to netip.AddrPort) (net.Conn, error)) *forwarder {
	f := &forwarder{dial: dial}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

// forward begins to accept at an address, for another.
func (f *forwarder) forward(at, to netip.AddrPort) error {
	ln, err := new(net.ListenConfig).Listen(f.ctx, "tcp", at.String())
	if err != nil {
		return fmt.Errorf("listening on %s: %w; choose other addresses with --range", at, err)
	}
	f.listeners = append(f.listeners, ln)
	f.wg.Go(func() { f.accept(ln, to) })
	return nil
}

func (f *forwarder) accept(ln net.Listener, to netip.AddrPort) {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, say
			time.Sleep(50 * time.Millisecond)
			continue
		}
		f.wg.Go(func() { f.carry(conn, to) })
	}
}

// carry copies both ways until either side ends.
func (f *forwarder) carry(conn net.Conn, to netip.AddrPort) {
	defer conn.Close()
	peer, err := f.dial(f.ctx, to)
	if err != nil {
		return // the client sees the end: as if nobody listened
	}
	defer peer.Close()
	stop := context.AfterFunc(f.ctx, func() {
		conn.Close()
		peer.Close()
	})
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		copyHalf(peer, conn)
	}()
	copyHalf(conn, peer)
	// The servers behind it speak HTTP: after the answer nothing follows.
	conn.Close()
	peer.Close()
	<-done
}

// copyHalf copies one direction, and its end. An error is an end, too.
func copyHalf(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	if tcp, ok := to.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
}

// close ends everything and returns when it has ended.
func (f *forwarder) close() {
	f.cancel()
	for _, ln := range f.listeners {
		ln.Close()
	}
	f.wg.Wait()
}
