package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// settled waits until cond holds: for what another goroutine is about to do.
func settled(t *testing.T, what string, cond func() bool) {
	t.Helper()
	within(t, what, func() {
		for !cond() {
			runtime.Gosched()
		}
	})
}

// hold accepts streams and keeps them until the test ends.
func hold(t *testing.T) (handler func(*Connect), streams <-chan *Stream) {
	ch := make(chan *Stream, 2000)
	return func(c *Connect) { ch <- c.Accept() }, ch
}

func (r *rig) mustDial(t *testing.T) *Stream {
	t.Helper()
	s, err := r.dial(t, "10.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// h2Conn is the pool's only connection to the rig.
func (r *rig) conn(t *testing.T) *clientConn {
	t.Helper()
	pe := r.pool.Peer(r.target())
	pe.mu.Lock()
	defer pe.mu.Unlock()
	if len(pe.conns) != 1 {
		t.Fatalf("%d connections, want 1", len(pe.conns))
	}
	return pe.conns[0]
}

func TestGoAwayMovesToAnotherConnection(t *testing.T) {
	handler, streams := hold(t)
	r := newRig(t, handler)
	old := r.mustDial(t)
	oldServer := <-streams
	first := r.conn(t)
	// The server drains this one connection.
	for _, c := range r.server.snapshot() {
		loop.Run(c.h2.Drain)
	}
	settled(t, "GOAWAY", func() bool { return !first.h2.Usable() })
	r.mustDial(t)
	<-streams
	if n := r.server.Conns(); n != 2 {
		t.Errorf("%d connections, want a new one beside the old", n)
	}
	// The old stream goes on, and the connection ends with it.
	app, proxy := tcpPair(t)
	capp, cproxy := tcpPair(t)
	relayed := make(chan error, 2)
	go func() { relayed <- Relay(proxy, oldServer, nil) }()
	go func() { relayed <- Relay(cproxy, old, nil) }()
	capp.Write([]byte("still here"))
	capp.CloseWrite()
	within(t, "the old stream", func() {
		if b, err := io.ReadAll(app); err != nil || string(b) != "still here" {
			t.Errorf("read %q, %v on the draining connection", b, err)
		}
		app.CloseWrite()
		for range 2 {
			if err := <-relayed; err != nil {
				t.Errorf("relay: %v", err)
			}
		}
	})
	settled(t, "the old connection's end", func() bool { return r.server.Conns() == 1 && r.pool.Peer(r.target()).Conns() == 1 })
}

// A stream that the server did not look at any more is tried elsewhere.
func TestRefusedStreamIsTriedAgain(t *testing.T) {
	var mu sync.Mutex
	n := 0
	r := newRig(t, func(c *Connect) {
		mu.Lock()
		n++
		first := n == 1
		mu.Unlock()
		if first {
			loop.Run(func(t *loop.Turn) { c.st.Reset(t, h2.RefusedStream) })
			return
		}
		c.Accept()
	})
	r.mustDial(t)
	if n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

func TestRefusedForGood(t *testing.T) {
	r := newRig(t, func(c *Connect) {
		loop.Run(func(t *loop.Turn) { c.st.Reset(t, h2.RefusedStream) })
	})
	_, err := r.dial(t, "10.0.0.1:80")
	var se *h2.StreamError
	if !errors.As(err, &se) || se.Code != h2.RefusedStream {
		t.Errorf("dial: %v", err)
	}
}

func TestIdleConnectionCloses(t *testing.T) {
	handler, streams := hold(t)
	r := newRig(t, handler)
	r.pool.o.IdleTimeout = 1
	s := r.mustDial(t)
	srv := <-streams
	for range 3 {
		r.pool.tickOnce()
	}
	if r.server.Conns() != 1 || !r.conn(t).h2.Usable() {
		t.Fatal("a connection with a stream was closed")
	}
	s.Abandon()
	settled(t, "the stream's end", func() bool { return isClosed(srv.reset) })
	settled(t, "the idle connection's end", func() bool {
		more := r.pool.tickOnce()
		return r.server.Conns() == 0 && !more
	})
	if n := len(r.pool.peers); n != 0 {
		t.Errorf("%d peers are remembered, want none", n)
	}
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// blackHole is a TCP proxy that can stop to forward.
type blackHole struct {
	ln   net.Listener
	mu   sync.Mutex
	cond *sync.Cond
	stop bool
}

func newBlackHole(t *testing.T, to netip.AddrPort) *blackHole {
	b := &blackHole{ln: listen(t)}
	b.cond = sync.NewCond(&b.mu)
	pass := func(dst, src net.Conn) {
		buf := make([]byte, 32<<10)
		for {
			n, err := src.Read(buf)
			b.mu.Lock()
			stop := b.stop
			b.mu.Unlock()
			if err != nil && !stop {
				dst.Close()
				return
			}
			if err != nil {
				return
			}
			if !stop {
				dst.Write(buf[:n])
			}
		}
	}
	go func() {
		for {
			c, err := b.ln.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", to.String())
			if err != nil {
				c.Close()
				continue
			}
			t.Cleanup(func() { c.Close(); s.Close() })
			go pass(s, c)
			go pass(c, s)
		}
	}()
	return b
}

func (b *blackHole) swallow() {
	b.mu.Lock()
	b.stop = true
	b.mu.Unlock()
}

// A peer behind a path that swallows everything is found out by pings, on
// either side, also on a connection that is draining.
func TestKeepaliveEndsBlackHole(t *testing.T) {
	for _, drain := range []bool{false, true} {
		name := "in-use"
		if drain {
			name = "draining"
		}
		t.Run(name, func(t *testing.T) {
			handler, streams := hold(t)
			r := newRig(t, handler)
			hole := newBlackHole(t, r.addr)
			p := NewPool(PoolOptions{Dial: dialTCP, TLS: r.cache.Client, Keepalive: 1, KeepaliveTimeout: 50 * time.Millisecond})
			defer p.Close()
			tg := r.target()
			tg.Addr = addrPort(hole.ln.Addr())
			s, err := p.Dial(t.Context(), tg, Request{Authority: "10.0.0.1:80"})
			if err != nil {
				t.Fatal(err)
			}
			<-streams
			hole.swallow()
			if drain {
				p.Peer(tg).Drain()
			}
			settled(t, "the keepalive", func() bool {
				p.tickOnce()
				return isClosed(s.reset)
			})
			settled(t, "the connection's end", func() bool { return !p.tickOnce() })
		})
	}
}

func TestServerKeepaliveEndsBlackHole(t *testing.T) {
	handler, streams := hold(t)
	r := newRig(t, handler, func(o *ServerOptions) { o.Keepalive, o.KeepaliveTimeout = 1, time.Millisecond })
	hole := newBlackHole(t, r.addr)
	tg := r.target()
	tg.Addr = addrPort(hole.ln.Addr())
	if _, err := r.pool.Dial(t.Context(), tg, Request{Authority: "10.0.0.1:80"}); err != nil {
		t.Fatal(err)
	}
	s := <-streams
	hole.swallow()
	within(t, "the keepalive", func() { <-s.reset })
	settled(t, "the connection's end", func() bool { return r.server.Conns() == 0 })
}

// A target that cannot be reached is not remembered.
func TestFailedDialIsForgotten(t *testing.T) {
	p := NewPool(PoolOptions{Dial: func(context.Context, netip.Addr, netip.AddrPort) (*net.TCPConn, error) {
		return nil, errors.New("no way")
	}})
	defer p.Close()
	for i := range uint16(20) {
		tg := Target{Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), i+1)}
		if _, err := p.Dial(t.Context(), tg, Request{Authority: "10.0.0.1:80"}); err == nil {
			t.Fatal("dial succeeded")
		}
	}
	settled(t, "forgetting", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.peers) == 0
	})
}

func TestClosedPool(t *testing.T) {
	r := newRig(t, func(c *Connect) { c.Accept() })
	r.mustDial(t)
	r.pool.Close()
	if _, err := r.dial(t, "10.0.0.1:80"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial: %v, want %v", err, net.ErrClosed)
	}
	settled(t, "the connection's end", func() bool { return r.server.Conns() == 0 })
}

// What a stream that has nothing to say costs, on both sides together, its
// part of the connection included.
func TestIdleStreamMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector uses memory of its own")
	}
	handler, streams := hold(t)
	r := newRig(t, handler)
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	const n = 1000
	var keep []*Stream
	keep = append(keep, r.mustDial(t), <-streams)
	before := heap()
	for range n {
		keep = append(keep, r.mustDial(t), <-streams)
	}
	after := heap()
	per := int64(after-before) / n
	t.Logf("%d bytes per idle stream, both ends, over %d connections", per, r.server.Conns())
	if per > 2*2048 {
		t.Errorf("%d bytes per idle stream and both its ends, want at most 4096", per)
	}
	runtime.KeepAlive(keep)
}

// What a connection without streams costs, both ends and their goroutines.
func TestIdleConnectionMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector uses memory of its own")
	}
	r := newRig(t, func(c *Connect) { c.Reject(503) })
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	const n = 200
	open := func(i int) {
		tg := r.target() // each is another one to the pool
		tg.Expect = append(tg.Expect, fmt.Sprintf("spiffe://cluster.local/ns/ns/sa/other-%d", i))
		if _, err := r.pool.Dial(t.Context(), tg, Request{Authority: "10.0.0.1:80"}); err == nil {
			t.Fatal("not refused")
		}
	}
	open(n)
	before := heap()
	for i := range n {
		open(i)
	}
	per := int64(heap()-before) / n
	t.Logf("%d bytes per idle connection, both ends", per)
	if per > 46<<10 {
		t.Errorf("%d bytes per idle connection and both its ends, want at most 46 KiB", per)
	}
}

func TestConnectionsLeaveNothing(t *testing.T) {
	r := newRig(t, func(c *Connect) { c.Accept().Abandon() })
	before := runtime.NumGoroutine()
	for i := range 200 {
		p := NewPool(PoolOptions{Dial: dialTCP, TLS: r.cache.Client})
		if _, err := p.Dial(t.Context(), r.target(), Request{Authority: "10.0.0.1:80"}); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		p.Close()
	}
	settled(t, "the connections' end", func() bool { return r.server.Conns() == 0 })
	settled(t, "the goroutines' end", func() bool { return runtime.NumGoroutine() <= before+2 }) // the server's ticker
}

// Pools and servers that end in the middle of everything leave nothing behind
// and do not hang.
func TestEndsInTheMiddle(t *testing.T) {
	for i := range 12 {
		ca, err := identity.NewCA("cluster.local")
		if err != nil {
			t.Fatal(err)
		}
		cache := identity.NewCache(ca.Issuer(time.Hour), identity.CacheOptions{})
		srv := NewServer(ServerOptions{TLS: cache.Server(serverID), Handler: func(c *Connect) {
			s := c.Accept()
			<-s.reset
		}})
		ln := listen(t)
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := srv.Serve(ln); err != nil {
				t.Errorf("Serve: %v", err)
			}
		})
		p := NewPool(PoolOptions{Dial: dialTCP, TLS: cache.Client})
		tg := Target{Addr: addrPort(ln.Addr()), Own: mesh.Identity{TrustDomain: "cluster.local", Namespace: "n", ServiceAccount: "a"}, Expect: []string{serverID.String()}}
		opened := make(chan struct{}, 100)
		for range 8 {
			wg.Go(func() {
				for {
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					s, err := p.Dial(ctx, tg, Request{Authority: "10.0.0.1:80"})
					cancel()
					if err != nil {
						return
					}
					select {
					case opened <- struct{}{}:
					default:
						s.Abandon()
					}
				}
			})
		}
		for range 10 * i {
			<-opened
		}
		within(t, "the end", func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*time.Millisecond)
			defer cancel()
			var ends sync.WaitGroup
			ends.Go(func() { _ = srv.Shutdown(ctx) })
			ends.Go(func() { srv.Close() })
			if i%2 == 0 {
				ends.Go(p.Close)
			}
			ends.Wait()
			p.Close()
			wg.Wait()
		})
	}
}
