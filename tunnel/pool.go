package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// PoolOptions configures a Pool.
type PoolOptions struct {
	// Dial connects over TCP; source is Target.Source.
	Dial func(ctx context.Context, source netip.Addr, to netip.AddrPort) (*net.TCPConn, error)
	// TLS gives the client configuration: identity.Cache.Client.
	TLS func(own mesh.Identity, expect []string) *tls.Config
	Log *slog.Logger
	// MaxStreams per connection; 0 means 100.
	MaxStreams int
	// IdleTimeout closes a connection without streams; 0 means 5 minutes.
	IdleTimeout time.Duration
	// DialTimeout covers TCP connect and handshake; 0 means 10 s.
	DialTimeout time.Duration
	// Keepalive is the silence after which a peer is pinged, and
	// KeepaliveTimeout how long its answer may take; 0 means 10 s and 20 s.
	Keepalive, KeepaliveTimeout time.Duration
	Budget                      *h2.Budget
	// Revocations, if set, says which peers are to be cut off.
	Revocations Revocations
}

// Target is a peer to tunnel to. Connections are shared between equal targets:
// same identities on both ends, same address.
type Target struct {
	Addr netip.AddrPort
	// Own is the identity to present, Expect the SPIFFE URIs of which the peer
	// must present one.
	Own    mesh.Identity
	Expect []string
	// Source is the local address to connect from; the zero Addr leaves it to the system.
	Source netip.Addr
}

// Request is a CONNECT to send.
type Request struct {
	Authority string
	// Fields are further headers: baggage, forwarded, traceparent.
	Fields mesh.Fields
}

// Pool keeps HBONE connections. Its methods may be called from any goroutine.
type Pool struct {
	o PoolOptions

	mu      sync.Mutex
	peers   map[peerKey]*Peer
	live    map[*Peer]struct{} // those with connections
	ticking bool
	looked  uint64 // revision of the revocations; the ticker's
	closed  bool
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

type peerKey struct {
	addr   netip.AddrPort
	own    mesh.Identity
	expect string
	source netip.Addr
}

// NewPool returns an empty pool. It starts nothing before the first dial.
func NewPool(o PoolOptions) *Pool {
	if o.MaxStreams == 0 {
		o.MaxStreams = 100
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = 5 * time.Minute
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Pool{o: o, peers: map[peerKey]*Peer{}, live: map[*Peer]struct{}{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Close ends all connections at once and waits for their readers.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	for _, pe := range p.livePeers() {
		pe.abort()
	}
	p.wg.Wait()
}

// Peer returns the pool's entry for a target. Callers on a hot path keep it.
func (p *Pool) Peer(tg Target) *Peer {
	k := peerKey{tg.Addr, tg.Own, strings.Join(tg.Expect, ","), tg.Source}
	p.mu.Lock()
	defer p.mu.Unlock()
	pe := p.peers[k]
	if pe == nil {
		pe = &Peer{p: p, key: k, tg: tg}
		p.peers[k] = pe
	}
	return pe
}

// Dial opens a stream to a target and waits for the peer's answer. It returns
// a *StatusError when that is not 200. A stream that the peer refused to look
// at (GOAWAY, REFUSED_STREAM) is tried again on another connection.
func (p *Pool) Dial(ctx context.Context, tg Target, req Request) (*Stream, error) {
	const tries = 3
	for n := 1; ; n++ {
		s, err := p.dialOnce(ctx, tg, req)
		var se *h2.StreamError
		if err == nil || n == tries || !errors.As(err, &se) || !se.Remote || se.Code != h2.RefusedStream {
			return s, err
		}
	}
}

func (p *Pool) dialOnce(ctx context.Context, tg Target, req Request) (*Stream, error) {
	d := &dialing{stream: newStream(nil), answer: make(chan error, 1)}
	loop.Run(func(t *loop.Turn) {
		pe := p.Peer(tg)
		if st := pe.TryOpen(t, req, d); st != nil {
			d.Opened(t, st, nil)
		} else {
			pe.Open(t, req, d)
		}
	})
	select {
	case err := <-d.answer:
		if err != nil {
			return nil, err
		}
		return d.stream, nil
	case <-ctx.Done():
		d.abandon()
		return nil, fmt.Errorf("connecting to %s over hbone: %w", tg.Addr, context.Cause(ctx))
	}
}

// dialing is a stream that waits for its 200.
type dialing struct {
	stream *Stream
	answer chan error

	mu        sync.Mutex
	abandoned bool
	answered  bool
}

func (d *dialing) abandon() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.abandoned = true
	if d.stream.st != nil {
		loop.Run(func(t *loop.Turn) { d.stream.st.Reset(t, h2.Cancel) })
	}
}

// Opened implements Opener.
func (d *dialing) Opened(t *loop.Turn, st *h2.Stream, err error) {
	if err != nil {
		d.answer <- err
		return
	}
	if d.take(st) {
		st.Reset(t, h2.Cancel)
	}
}

// take notes the stream, and reports whether nobody waits for it any more.
func (d *dialing) take(st *h2.Stream) (abandoned bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stream.st = st
	return d.abandoned
}

func (d *dialing) Headers(t *loop.Turn, s *h2.Stream, h *h2.Head) {
	if d.answered {
		d.stream.Headers(t, s, h)
		return
	}
	status := Status(h)
	if status/100 == 1 {
		return
	}
	d.answered = true
	d.take(s) // the answer may come before Opened
	if status != 200 {
		s.Reset(t, h2.NoError)
		d.answer <- &StatusError{Code: status}
		return
	}
	if h.End {
		d.stream.buffer(nil, true)
	}
	s.Handle(d.stream)
	d.answer <- nil
}

func (d *dialing) Data(t *loop.Turn, s *h2.Stream, b []byte, end bool) {
	d.stream.Data(t, s, b, end)
}

func (d *dialing) Reset(_ *loop.Turn, _ *h2.Stream, err error) {
	if !d.answered {
		d.answered = true
		d.answer <- fmt.Errorf("waiting for the tunnel's answer: %w", err)
	}
}

func (d *dialing) Writable(*loop.Turn, *h2.Stream) {}

// Status returns the :status of a response head, or 0.
func Status(h *h2.Head) int {
	if len(h.Fields) == 0 || h.Fields[0].Name != ":status" || len(h.Fields[0].Value) != 3 {
		return 0
	}
	n := 0
	for _, c := range []byte(h.Fields[0].Value) {
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// Opener is told about a stream that Peer.Open opened: it is its handler from
// then on. Or it is told why there is none.
type Opener interface {
	h2.StreamHandler
	// Opened is called once, after Open has returned. With a stream, the
	// CONNECT was sent and Headers brings the answer; what is written before
	// it must wait for it (RFC 9113 section 8.5).
	Opened(t *loop.Turn, s *h2.Stream, err error)
}

// Peer is a pool's connections to one target.
type Peer struct {
	p   *Pool
	key peerKey
	tg  Target

	mu      sync.Mutex
	conns   []*clientConn
	dials   int
	waiting []waiter
}

type waiter struct {
	req Request
	o   Opener
}

// Target returns what the peer was made for.
func (pe *Peer) Target() Target { return pe.tg }

// Open dials a connection and sends a CONNECT on it. It does not block. It is
// for callers whose TryOpen found no connection with room.
func (pe *Peer) Open(t *loop.Turn, req Request, o Opener) {
	pe.mu.Lock()
	pe.waiting = append(pe.waiting, waiter{req, o})
	// As many dials as the waiters will fill connections: a burst does not
	// queue up behind one handshake, and a black hole fails them all at once.
	need := (len(pe.waiting) + pe.p.o.MaxStreams - 1) / pe.p.o.MaxStreams
	start := pe.dials < need
	if start {
		pe.dials++
	}
	pe.mu.Unlock()
	if start {
		pe.p.mu.Lock()
		closed := pe.p.closed
		if !closed {
			pe.p.wg.Add(1)
		}
		pe.p.mu.Unlock()
		if closed {
			t.Defer(func(t *loop.Turn) { pe.dialed(t, nil, net.ErrClosed) })
			return
		}
		go pe.dial()
	}
}

// TryOpen sends a CONNECT on the first connection with room, or returns nil:
// the oldest ones fill up, so that the youngest fall idle and close. h's
// Headers brings the answer, as for Opener.
func (pe *Peer) TryOpen(t *loop.Turn, req Request, h h2.StreamHandler) *h2.Stream {
	pe.mu.Lock()
	defer pe.mu.Unlock()
	for _, c := range pe.conns {
		if ok, _ := c.h2.CanOpen(pe.p.o.MaxStreams); !ok {
			continue
		}
		if st := c.open(t, req, h); st != nil {
			return st
		}
	}
	return nil
}

func (c *clientConn) open(t *loop.Turn, req Request, h h2.StreamHandler) *h2.Stream {
	c.idleSince = time.Time{}
	var buf [8]hpack.HeaderField
	f := append(buf[:0], hpack.HeaderField{Name: ":method", Value: "CONNECT"},
		hpack.HeaderField{Name: ":authority", Value: req.Authority})
	for _, x := range req.Fields {
		// These differ from stream to stream: kept out of the compression table.
		f = append(f, hpack.HeaderField{Name: x.Name, Value: x.Value, Sensitive: x.Name == "forwarded" || x.Name == "traceparent"})
	}
	return c.h2.Open(t, h, f, false)
}

// dial makes one connection, and becomes its reader.
func (pe *Peer) dial() {
	defer pe.p.wg.Done()
	c, err := pe.connect()
	if err != nil {
		loop.Run(func(t *loop.Turn) { pe.dialed(t, nil, err) })
		pe.p.mu.Lock()
		pe.p.forgetUnused(pe)
		pe.p.mu.Unlock()
		return
	}
	loop.Run(func(t *loop.Turn) { pe.dialed(t, c, nil) })
	pe.p.keepTicking(pe)
	// It may have been revoked between its handshake and being registered.
	c.cutRevoked()
	_ = c.sock.Serve(c.h2, false)
}

func (pe *Peer) connect() (*clientConn, error) {
	ctx, cancel := context.WithTimeout(pe.p.ctx, pe.p.o.DialTimeout)
	defer cancel()
	nc, err := pe.p.o.Dial(ctx, pe.tg.Source, pe.tg.Addr)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			return nil, fmt.Errorf("connecting to %s: timed out; maybe a NetworkPolicy blocks HBONE port %d: %w", pe.tg.Addr, pe.tg.Addr.Port(), err)
		}
		return nil, fmt.Errorf("connecting to %s: %w", pe.tg.Addr, err)
	}
	sock, err := loop.NewTLS(ctx, nc, pe.p.o.TLS(pe.tg.Own, pe.tg.Expect), true, pe.p.o.DialTimeout)
	if err != nil {
		return nil, &TLSError{fmt.Errorf("connecting to %s: %w", pe.tg.Addr, err)}
	}
	c := &clientConn{pe: pe, sock: sock}
	cs, _ := sock.TLS()
	if c.peer, err = identity.PeerOf(cs); err != nil {
		sock.Close()
		return nil, &TLSError{err}
	}
	loop.Run(func(t *loop.Turn) {
		c.h2 = h2.New(t, sock, c, h2.Options{
			Client: true, Budget: pe.p.o.Budget,
			Keepalive: pe.p.o.Keepalive, Timeout: pe.p.o.KeepaliveTimeout,
		})
	})
	sock.Start(c.h2)
	return c, nil
}

// TLSError is a failed handshake, as opposed to a failed connect.
type TLSError struct{ Err error }

// Error implements error.
func (e *TLSError) Error() string { return e.Err.Error() }

// Unwrap implements errors' Unwrap.
func (e *TLSError) Unwrap() error { return e.Err }

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// dialed serves those who waited: with c, as many as it takes; with an error,
// all of those that no other dial is on its way for.
func (pe *Peer) dialed(t *loop.Turn, c *clientConn, err error) {
	type opened struct {
		w  waiter
		st *h2.Stream
	}
	var done []opened
	pe.mu.Lock()
	pe.dials--
	if err != nil {
		for _, w := range pe.waiting {
			done = append(done, opened{w, nil})
		}
		pe.waiting = nil
	} else {
		pe.conns = append(pe.conns, c)
		for len(pe.waiting) > 0 {
			if ok, _ := c.h2.CanOpen(pe.p.o.MaxStreams); !ok {
				break
			}
			w := pe.waiting[0]
			st := c.open(t, w.req, w.o)
			if st == nil {
				break
			}
			pe.waiting = pe.waiting[1:]
			done = append(done, opened{w, st})
		}
	}
	redial := len(pe.waiting) > 0 && pe.dials == 0
	if redial {
		pe.dials++
	}
	pe.mu.Unlock()
	for _, d := range done {
		if d.st == nil {
			d.w.o.Opened(t, nil, err)
		} else {
			d.w.o.Opened(t, d.st, nil)
		}
	}
	if redial {
		pe.p.wg.Add(1)
		go pe.dial()
	}
}

func (pe *Peer) abort() {
	pe.mu.Lock()
	defer pe.mu.Unlock()
	for _, c := range pe.conns {
		c.h2.Abort()
	}
}

// Drain closes the peer's connections as their streams end: for a workload
// that went away or changed.
func (pe *Peer) Drain() {
	pe.mu.Lock()
	conns := slices.Clone(pe.conns) // they stay, for keepalive, until they are closed
	pe.mu.Unlock()
	for _, c := range conns {
		loop.Run(c.h2.Drain)
	}
}

// Conns is the number of open connections, those that drain included.
func (pe *Peer) Conns() int {
	pe.mu.Lock()
	defer pe.mu.Unlock()
	return len(pe.conns)
}

func (p *Pool) livePeers() []*Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*Peer, 0, len(p.live))
	for pe := range p.live {
		out = append(out, pe)
	}
	return out
}

// keepTicking makes the ticker look after pe. The ticker starts with the first
// connection and stops by itself after the last.
func (p *Pool) keepTicking(pe *Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		pe.abort()
		return
	}
	p.live[pe] = struct{}{}
	if p.ticking {
		return
	}
	p.ticking = true
	p.wg.Add(1)
	go p.tick()
}

func (p *Pool) tick() {
	defer p.wg.Done()
	tk := time.NewTicker(time.Second)
	defer tk.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-tk.C:
		}
		if !p.tickOnce() {
			return
		}
	}
}

// tickOnce pings, closes what is idle, and forgets peers without connections.
// It reports whether any is left.
func (p *Pool) tickOnce() bool {
	peers := p.livePeers()
	loop.Run(func(t *loop.Turn) {
		for _, pe := range peers {
			pe.tick(t)
		}
	})
	if now := revision(p.o.Revocations); now != p.looked {
		p.looked = now
		for _, pe := range peers {
			pe.cutRevoked()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for pe := range p.live {
		p.forgetUnused(pe)
	}
	p.ticking = len(p.live) > 0
	return p.ticking
}

// forgetUnused forgets a peer without connections. p.mu is held.
func (p *Pool) forgetUnused(pe *Peer) {
	pe.mu.Lock()
	defer pe.mu.Unlock()
	if len(pe.conns) > 0 || pe.dials > 0 || len(pe.waiting) > 0 {
		return
	}
	delete(p.live, pe)
	if p.peers[pe.key] == pe {
		delete(p.peers, pe.key) // a caller that kept it may go on using it
	}
}

// tick looks after every connection until it is closed. One that drains and
// whose peer does not close it is ended by its keepalive: after our own end no
// ping goes out, so none is answered.
func (pe *Peer) tick(t *loop.Turn) {
	pe.mu.Lock()
	defer pe.mu.Unlock()
	for _, c := range pe.conns {
		c.h2.Tick(t)
		switch {
		case c.h2.Streams() > 0:
			c.idleSince = time.Time{}
		case c.idleSince.IsZero():
			c.idleSince = t.Now
		case t.Now.Sub(c.idleSince) >= pe.p.o.IdleTimeout:
			c.h2.Drain(t)
		}
	}
}

// clientConn is one HBONE connection to a peer.
type clientConn struct {
	pe        *Peer
	sock      *loop.Socket
	h2        *h2.Conn
	peer      mesh.Identity
	idleSince time.Time // guarded by pe.mu
}

// Open implements h2.Handler; a client connection has no requests coming in.
func (c *clientConn) Open(t *loop.Turn, s *h2.Stream, _ *h2.Head) { s.Reset(t, h2.ProtocolError) }

// Closed implements h2.Handler.
func (c *clientConn) Closed(*loop.Turn, error) {
	c.pe.mu.Lock()
	defer c.pe.mu.Unlock()
	for i, x := range c.pe.conns {
		if x == c {
			c.pe.conns = append(c.pe.conns[:i], c.pe.conns[i+1:]...)
			return
		}
	}
}
