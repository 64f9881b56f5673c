package tunnel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/loop"
)

var (
	clientID = mesh.Identity{TrustDomain: "cluster.local", Namespace: "ns", ServiceAccount: "client"}
	serverID = mesh.Identity{TrustDomain: "cluster.local", Namespace: "ns", ServiceAccount: "server"}
)

// rig is an HBONE server on loopback and a pool that may dial it.
type rig struct {
	cache  *identity.Cache
	server *Server
	addr   netip.AddrPort
	pool   *Pool
}

func newRig(t testing.TB, handler func(*Connect), options ...func(*ServerOptions)) *rig {
	t.Helper()
	ca, err := identity.NewCA("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{cache: identity.NewCache(ca.Issuer(time.Hour), identity.CacheOptions{})}
	o := ServerOptions{TLS: r.cache.Server(serverID), Handler: handler}
	for _, set := range options {
		set(&o)
	}
	r.server = NewServer(o)
	ln := listen(t)
	r.addr = addrPort(ln.Addr())
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(ln) }()
	r.pool = NewPool(PoolOptions{Dial: dialTCP, TLS: r.cache.Client})
	t.Cleanup(func() {
		r.pool.Close()
		r.server.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return r
}

func (r *rig) target() Target {
	return Target{Addr: r.addr, Own: clientID, Expect: []string{serverID.String()}}
}

func (r *rig) dial(t testing.TB, authority string) (*Stream, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return r.pool.Dial(ctx, r.target(), Request{Authority: authority})
}

func dialTCP(ctx context.Context, _ netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// tcpPair returns both ends of a TCP connection on loopback.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	ln := listen(t)
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := ln.Accept()
		accepted <- c
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := <-accepted
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// relayer returns Relay in the form of RelayIn, in a lot of its own: all that
// holds for the one holds for the other.
func relayer(t testing.TB) func(conn *net.TCPConn, s *Stream) error {
	lot := &loop.Lot{}
	t.Cleanup(lot.Close)
	return func(conn *net.TCPConn, s *Stream) error {
		done := make(chan error, 1)
		RelayIn(lot, conn, s, nil, func(err error) { done <- err })
		return <-done
	}
}

// forward accepts and relays to a TCP server.
func forward(t testing.TB, to net.Addr) func(*Connect) {
	relay := relayer(t)
	return func(c *Connect) {
		conn, err := dialTCP(t.Context(), netip.Addr{}, addrPort(to))
		if err != nil {
			c.Reject(503)
			return
		}
		_ = relay(conn, c.Accept())
	}
}

// through returns an application's connection that is relayed over the rig.
func (r *rig) through(t testing.TB, authority string) (app *net.TCPConn, relayed chan error) {
	t.Helper()
	app, proxy := tcpPair(t)
	st, err := r.dial(t, authority)
	if err != nil {
		t.Fatal(err)
	}
	relayed = make(chan error, 1)
	relay := relayer(t)
	go func() { relayed <- relay(proxy, st) }()
	return app, relayed
}

func echoServer(t testing.TB) net.Listener {
	ln := listen(t)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return ln
}

func TestRelayCarriesEveryByte(t *testing.T) {
	r := newRig(t, forward(t, echoServer(t).Addr()))
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			app, relayed := r.through(t, "10.0.0.1:80")
			data := make([]byte, 1<<20+i*4097)
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			for j := range data {
				data[j] = byte(rng.Uint32())
			}
			go func() {
				rest := data
				for len(rest) > 0 {
					n := min(len(rest), 1+rng.IntN(50000))
					app.Write(rest[:n])
					rest = rest[n:]
				}
				app.CloseWrite()
			}()
			got, err := io.ReadAll(app)
			if err != nil {
				t.Errorf("reading the echo: %v", err)
			}
			if sha256.Sum256(got) != sha256.Sum256(data) {
				t.Errorf("stream %d: got %d bytes back, want %d equal ones", i, len(got), len(data))
			}
			if err := <-relayed; err != nil {
				t.Errorf("relay: %v", err)
			}
		}()
	}
	wg.Wait()
	if n := r.server.Conns(); n != 1 {
		t.Errorf("20 streams used %d connections, want 1", n)
	}
}

func TestHalfCloseOfTheServerSide(t *testing.T) {
	ln := listen(t)
	got := make(chan []byte, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.Write([]byte("hello"))
		c.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(c)
		got <- b
	}()
	r := newRig(t, forward(t, ln.Addr()))
	app, relayed := r.through(t, "10.0.0.1:80")
	b, err := io.ReadAll(app)
	if err != nil || string(b) != "hello" {
		t.Fatalf("read %q, %v; want hello and EOF", b, err)
	}
	app.Write([]byte("late"))
	app.CloseWrite()
	if b := <-got; string(b) != "late" {
		t.Errorf("server got %q after its own FIN, want late", b)
	}
	if err := <-relayed; err != nil {
		t.Errorf("relay: %v", err)
	}
}

func TestResetReachesTheOtherSide(t *testing.T) {
	ln := listen(t)
	ended := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		c.Write([]byte("x"))
		_, err = io.ReadAll(c)
		ended <- err
	}()
	r := newRig(t, forward(t, ln.Addr()))
	app, relayed := r.through(t, "10.0.0.1:80")
	io.ReadFull(app, make([]byte, 1))
	app.SetLinger(0)
	app.Close()
	if err := <-ended; err == nil {
		t.Error("the server saw an orderly end, want a reset")
	}
	if err := <-relayed; !errors.Is(err, ErrReset) {
		t.Errorf("relay returned %v, want ErrReset", err)
	}
}

func TestStatusOfRefusal(t *testing.T) {
	r := newRig(t, func(c *Connect) {
		switch c.Port {
		case 401:
			c.Reject(401)
		default:
			c.Reject(503)
		}
	})
	for authority, want := range map[string]int{
		"10.0.0.1:401": 401, "10.0.0.1:503": 503, "nonsense": 400, "10.0.0.1:0": 400, "u@h:80": 400, "[fd00::1]:503": 503,
	} {
		_, err := r.dial(t, authority)
		var se *StatusError
		if !errors.As(err, &se) || se.Code != want {
			t.Errorf("dial %s: %v, want status %d", authority, err, want)
		}
	}
}

func TestConnectTellsWhatWasSent(t *testing.T) {
	got := make(chan *Connect, 1)
	r := newRig(t, func(c *Connect) {
		got <- c
		c.Reject(503)
	})
	req := Request{Authority: "web.ns.svc.cluster.local:8080", Fields: mesh.Fields{
		{Name: "baggage", Value: "service.name=a"},
		{Name: "forwarded", Value: `for="10.1.1.1:5"`},
		{Name: "traceparent", Value: string(AppendTraceparent(nil))},
	}}
	_, _ = r.pool.Dial(t.Context(), r.target(), req)
	c := <-got
	if c.Host != "web.ns.svc.cluster.local" || c.Port != 8080 || c.Dst.IsValid() {
		t.Errorf("host %q port %d dst %v", c.Host, c.Port, c.Dst)
	}
	if c.Peer.Identity != clientID {
		t.Errorf("peer %v, want %v", c.Peer.Identity, clientID)
	}
	if c.Baggage != "service.name=a" || c.Forwarded != `for="10.1.1.1:5"` || c.Traceparent != req.Fields[2].Value {
		t.Errorf("headers %q %q %q", c.Baggage, c.Forwarded, c.Traceparent)
	}
}

func TestWrongIdentityIsRefused(t *testing.T) {
	r := newRig(t, func(c *Connect) { c.Reject(503) })
	tg := r.target()
	tg.Expect = []string{"spiffe://cluster.local/ns/ns/sa/other"}
	_, err := r.pool.Dial(t.Context(), tg, Request{Authority: "10.0.0.1:80"})
	var te *TLSError
	if !errors.As(err, &te) {
		t.Errorf("dial: %v, want a TLS error", err)
	}
}

func TestBlackHoleFailsAllWaitersAtOnce(t *testing.T) {
	dials := 0
	var mu sync.Mutex
	p := NewPool(PoolOptions{
		Dial: func(ctx context.Context, _ netip.Addr, _ netip.AddrPort) (*net.TCPConn, error) {
			mu.Lock()
			dials++
			mu.Unlock()
			<-ctx.Done()
			return nil, ctx.Err()
		},
		DialTimeout: 100 * time.Millisecond,
	})
	defer p.Close()
	start := time.Now()
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, err := p.Dial(t.Context(), Target{Addr: netip.MustParseAddrPort("127.0.0.1:1")}, Request{Authority: "10.0.0.1:80"})
			if err == nil {
				t.Error("dial succeeded")
			}
		}()
	}
	wg.Wait()
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("8 dials to a black hole took %v", d)
	}
	if dials > 2 {
		t.Errorf("8 waiters made %d dials, want them shared", dials)
	}
}

func TestSecondConnectionAtTheStreamLimit(t *testing.T) {
	hold := make(chan struct{})
	r := newRig(t, func(c *Connect) {
		s := c.Accept()
		<-hold
		s.Abandon()
	})
	for range 150 {
		if _, err := r.dial(t, "10.0.0.1:80"); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.server.Conns(); n != 2 {
		t.Errorf("150 streams used %d connections, want 2", n)
	}
	close(hold)
}

func TestShutdownLetsStreamsEnd(t *testing.T) {
	r := newRig(t, forward(t, echoServer(t).Addr()))
	app, relayed := r.through(t, "10.0.0.1:80")
	app.Write([]byte("a"))
	io.ReadFull(app, make([]byte, 1))
	down := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		down <- r.server.Shutdown(ctx)
	}()
	// The stream goes on while the server drains.
	app.Write([]byte("b"))
	if b := make([]byte, 1); true {
		if _, err := io.ReadFull(app, b); err != nil || b[0] != 'b' {
			t.Fatalf("read %q, %v while draining", b, err)
		}
	}
	app.CloseWrite()
	io.ReadAll(app)
	if err := <-relayed; err != nil {
		t.Errorf("relay: %v", err)
	}
	if err := <-down; err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

// A reader that never reads must stop its sender, not fill our memory.
func TestSlowReaderStopsItsSender(t *testing.T) {
	ln := listen(t)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			c.(*net.TCPConn).SetReadBuffer(8 << 10)
			t.Cleanup(func() { c.Close() })
		}
	}()
	r := newRig(t, forward(t, ln.Addr()))
	app, _ := r.through(t, "10.0.0.1:80")
	app.SetWriteBuffer(16 << 10)
	app.SetWriteDeadline(time.Now().Add(2 * time.Second))
	total := 0
	buf := bytes.Repeat([]byte{1}, 64<<10)
	for {
		n, err := app.Write(buf)
		total += n
		if err != nil {
			break
		}
	}
	// Two windows, two queues and the kernel's buffers; without back-pressure
	// this is gigabytes.
	if total > 24<<20 {
		t.Errorf("sender got rid of %d MiB to a reader that never reads", total>>20)
	}
}

// A relay that is quiet waits without a goroutine, and nothing shows.
func TestQuietRelayParks(t *testing.T) {
	var lot loop.Lot
	t.Cleanup(lot.Close)
	r := newRig(t, forward(t, echoServer(t).Addr()))
	app, proxy := tcpPair(t)
	st, err := r.dial(t, "10.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	relayed, returned := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(returned)
		RelayIn(&lot, proxy, st, nil, func(err error) { relayed <- err })
	}()
	echo := func(text string) {
		t.Helper()
		got := make([]byte, len(text))
		app.Write([]byte(text))
		if _, err := io.ReadFull(app, got); err != nil || string(got) != text {
			t.Fatalf("echo %q, %v", got, err)
		}
	}
	echo("hello")
	within(t, "parking", func() { <-returned })
	if n, peak := lot.Readers(); n != 0 || peak != 1 {
		t.Errorf("%d readers, at most %d; want none now and one before", n, peak)
	}
	select {
	case err := <-relayed:
		t.Fatalf("the relay ended: %v", err)
	default:
	}
	echo("after a while")
	app.CloseWrite()
	if _, err := app.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the end of the echo: %v", err)
	}
	within(t, "the relay's end", func() {
		if err := <-relayed; err != nil {
			t.Error(err)
		}
	})
}
