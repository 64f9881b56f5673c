package waypoint

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/tunnel"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"cairnproxy.dev/cairn/upstream"
)

// destination is one port of one workload as we connect to it: the idle
// HTTP/1.1 connections and the HTTP/2 connections inside CONNECT streams. It
// outlives configurations for as long as one of them names it.
type destination struct {
	p         *Proxy
	key       destKey
	authority string
	addr      netip.AddrPort // of the workload's port
	peer      peer           // nil: outside the mesh, plain TCP or TLS to addr
	tls       *originTLS     // nil: no TLS of ours
	spoken    spoken         // by TLS, where the port does not tell
	resolved  atomic.Pointer[resolution]

	users    int // slots of clusters in force that hold it; under Proxy.mu
	mu       sync.Mutex
	settings atomic.Pointer[connSettings]
	idle     []idleClient // the one used last is last
	h2s      []*h2Client
	retired  bool
	lines    [2]line
}

// peer opens CONNECT streams to a node proxy: *tunnel.Peer.
type peer interface {
	TryOpen(t *loop.Turn, req tunnel.Request, h h2.StreamHandler) *h2.Stream
	Open(t *loop.Turn, req tunnel.Request, o tunnel.Opener)
}

type destKey struct {
	workload  string
	authority string
	expect    string
	tunnelled bool
}

type idleClient struct {
	c     *h1Client
	since time.Time
}

// idleTimeout closes connections to applications that nobody has used for so long.
const idleTimeout = 60 * time.Second

// maxIdle bounds the idle connections of one destination.
const maxIdle = 1024

// newDestination makes the destination of an endpoint.
func newDestination(p *Proxy, key destKey, cl *cluster, ep *upstream.Endpoint) *destination {
	a := ep.At(netip.Addr{})
	d := &destination{p: p, key: key, authority: a.Authority, addr: a.Addr, tls: cl.tls}
	d.settings.Store(plainSettings)
	if key.tunnelled {
		d.peer = p.peer(tunnel.Target{Addr: netip.AddrPortFrom(a.Tunnel.Addr(), p.o.HBONEPort), Own: p.o.Identity, Expect: ep.Expect, Source: p.o.Source})
	}
	return d
}

// callHTTP1 gives the exchange a connection that speaks HTTP/1.1.
func (d *destination) callHTTP1(t *loop.Turn, x *exchange, a *attempt) {
	// When one idle connection turned out to be dead, the others are likely to
	// be, too: the next try goes out on a fresh one.
	if !x.stale || a.taken&heldTight != 0 {
		for c := d.unpark(); c != nil; c = d.unpark() {
			if c.attach(x) {
				a.up, a.idleReuse = c, true
				x.upstreamReady(t, a)
				return
			}
		}
	}
	switch d.room(t, x, a, lineHTTP1) {
	case roomLater:
		return
	case roomAgain:
		d.callHTTP1(t, x, a)
		return
	case roomNow:
	}
	c := &h1Client{d: d, x: x, adm: x.adm()}
	a.up = c
	d.p.timers.start(&c.connectTimer, x.tun.shard, t.Now, d.settings.Load().connect, c.connectTimedOut)
	d.open(t, c, func(out pipe) { c.out = out }, c.ready)
}

// opener is a handler that Peer.Open can tell.
type opener interface{ tunnel.Opener }

// versionOf is which version of HTTP h will speak; 0 is for bytes.
func versionOf(h opener) uint32 {
	switch h.(type) {
	case *h1Client:
		return 1
	case *h2Client:
		return 2
	}
	return 0
}

// open asks for a byte stream to the workload. opened gets it at once when
// there is a connection in the mesh; ready gets any other, when it is made.
func (d *destination) open(t *loop.Turn, h opener, opened func(pipe), ready func(t *loop.Turn, out pipe)) {
	switch {
	case d.peer == nil:
		d.p.wg.Add(1)
		go d.dialPlain(h, ready)
	case d.tls != nil:
		d.p.wg.Add(1)
		go d.dialInner(h, ready)
	default:
		d.openStream(t, h, opened)
	}
}

// openStream is open for a stream through the workload's node proxy.
func (d *destination) openStream(t *loop.Turn, h opener, opened func(pipe)) {
	req := tunnel.Request{Authority: d.authority}
	if st := d.peer.TryOpen(t, req, h); st != nil {
		opened(st)
		return
	}
	d.peer.Open(t, req, h)
}

// dialPlain connects to a workload outside the mesh, and is the connection's reader.
func (d *destination) dialPlain(h opener, ready func(t *loop.Turn, out pipe)) {
	defer d.p.wg.Done()
	ctx, cancel := context.WithTimeout(d.p.ctx, dialTimeout)
	defer cancel()
	var sock *loop.Socket
	nc, err := d.dialTCP(ctx)
	switch {
	case err != nil:
	case d.tls != nil:
		sock, err = d.secure(ctx, nc, versionOf(h))
	default:
		sock, err = loop.New(nc)
	}
	if err != nil {
		loop.Run(func(t *loop.Turn) { h.Opened(t, nil, err) })
		return
	}
	out := newPlainPipe(sock, h)
	sock.Start(out)
	loop.Run(func(t *loop.Turn) { ready(t, out) })
	stop := context.AfterFunc(d.p.ctx, sock.Abort)
	defer stop()
	out.serve(d.p.ctx)
}

const dialTimeout = 10 * time.Second

func (d *destination) dialTCP(ctx context.Context) (*net.TCPConn, error) {
	if !d.addr.IsValid() {
		return d.dialName(ctx)
	}
	return d.p.o.Dial(ctx, d.p.o.Source, d.addr)
}

// unpark returns the idle connection that was used last, or nil.
func (d *destination) unpark() *h1Client {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.idle)
	if n == 0 {
		return nil
	}
	c := d.idle[n-1].c
	d.idle[n-1] = idleClient{}
	d.idle = d.idle[:n-1]
	return c
}

// park keeps a connection for the next exchange.
func (d *destination) park(t *loop.Turn, c *h1Client) {
	d.mu.Lock()
	keep := !d.retired && len(d.idle) < maxIdle
	if keep {
		d.idle = append(d.idle, idleClient{c, t.Now})
	}
	d.mu.Unlock()
	if !keep {
		c.dropIdle(t)
	}
	d.wake(t, lineHTTP1)
}

// forget takes a connection that has ended out of the idle ones.
func (d *destination) forget(c *h1Client) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle = slices.DeleteFunc(d.idle, func(i idleClient) bool { return i.c == c })
}

// closeIdle closes what has been idle since before, or everything.
func (d *destination) closeIdle(t *loop.Turn, before time.Time) {
	d.mu.Lock()
	n := 0
	for n < len(d.idle) && d.idle[n].since.Before(before) {
		n++
	}
	old := slices.Clone(d.idle[:n])
	d.idle = slices.Delete(d.idle, 0, n)
	d.mu.Unlock()
	for _, i := range old {
		i.c.dropIdle(t)
	}
}

// closeIdleH2 does the same for HTTP/2 connections.
func (d *destination) closeIdleH2(t *loop.Turn, before time.Time) {
	d.mu.Lock()
	all := slices.Clone(d.h2s)
	d.mu.Unlock()
	for _, c := range all {
		c.tick(t)
		if c.idle(t, before) {
			d.forgetH2(c)
			c.drain(t)
		}
	}
}

// retire lets the destination run out: no configuration names it any more.
func (d *destination) retire(t *loop.Turn) {
	d.mu.Lock()
	d.retired = true
	h2s := d.h2s
	d.h2s = nil
	d.mu.Unlock()
	d.closeIdle(t, t.Now.Add(time.Hour))
	for _, c := range h2s {
		c.drain(t)
	}
}

// callHTTP2 gives the exchange a call on a connection that speaks HTTP/2.
func (d *destination) callHTTP2(t *loop.Turn, x *exchange, a *attempt) {
	call := &h2Call{x: x, connects: x.webSocket()}
	a.up = call
	d.mu.Lock()
	for _, c := range d.h2s {
		switch c.submit(call) {
		case submitNow:
			d.mu.Unlock()
			call.c = c
			x.upstreamReady(t, a)
			return
		case submitLater:
			d.mu.Unlock()
			x.awaits(t, a)
			return
		case submitFull:
		}
	}
	if x.adm() != nil {
		d.mu.Unlock()
		a.up = nil
		switch d.room(t, x, a, lineHTTP2) {
		case roomLater:
			return
		case roomAgain:
			d.callHTTP2(t, x, a)
			return
		case roomNow:
		}
		a.up = call
		d.mu.Lock()
	}
	c := newH2Client(d)
	c.adm = x.adm()
	c.waiting = append(c.waiting, call)
	if c.draining = d.retired; !d.retired {
		d.h2s = append(d.h2s, c)
	}
	d.mu.Unlock()
	c.mu.Lock()
	d.p.timers.start(&c.timer, x.tun.shard, t.Now, d.settings.Load().connect, c.connectTimedOut)
	c.mu.Unlock()
	d.open(t, c, func(out pipe) { c.opened(t, out) }, c.established)
}

// forgetH2 takes a connection that has ended out of use.
func (d *destination) forgetH2(c *h2Client) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.h2s = slices.DeleteFunc(d.h2s, func(o *h2Client) bool { return o == c })
}

var _ pipe = (*h2.Stream)(nil)
