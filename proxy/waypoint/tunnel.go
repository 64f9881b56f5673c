package waypoint

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
	"cairnproxy.dev/cairn/telemetry"
	"cairnproxy.dev/cairn/tunnel"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// clientTunnel is one CONNECT stream from a client: who it is, and what it
// asked for. The codecs inside it share it.
type clientTunnel struct {
	p            *Proxy
	peer         mesh.Peer
	principalURI string
	cert         *tunnel.Certificate // nil in tests without TLS
	dst          netip.AddrPort      // as dialled; invalid when it was a name
	host         string
	port         uint16
	client       netip.AddrPort // the first client, as its node proxy says
	baggage      tunnel.Baggage
	shard        uint32
	seen         atomic.Pointer[resolved]
	ended        atomic.Bool

	seriesMu    sync.Mutex
	seriesCache [4]seriesEntry                      // the first ones, which often are all
	seriesMore  map[seriesKey]*telemetry.HTTPSeries // the others
	seriesAt    uint64                              // the Runtime in which seriesOf was looked up
	seriesOf    *mesh.Workload                      // the client, in all of them; nil where it is not known
}

// resolved remembers what the tunnel's destination is in one Runtime. It names
// the Runtime and does not point to it: an idle tunnel must not keep a whole
// configuration of the past alive.
type resolved struct {
	runtime uint64
	port    *servicePort
}

// current returns the configuration in force and what the tunnel is for in it,
// nil when that is no longer served.
func (tun *clientTunnel) current() (*Runtime, *servicePort) {
	rt := tun.p.runtime.Load()
	r := tun.seen.Load()
	if r == nil || r.runtime != rt.id {
		r = &resolved{rt.id, tun.p.find(rt, tun.dst, tun.host, tun.port)}
		tun.seen.Store(r)
	}
	return rt, r.port
}

// closed is called when the tunnel's stream is over, perhaps more than once.
func (tun *clientTunnel) closed() {
	if !tun.ended.Swap(true) {
		tun.p.tunnels.Add(-1)
	}
}

// incoming is a CONNECT that waits for its answer: *tunnel.Connect.
type incoming interface {
	AcceptInline(t *loop.Turn, h h2.StreamHandler, fields ...mesh.Field) *h2.Stream
	RejectInline(t *loop.Turn, status int)
	Stream() *h2.Stream
}

// connect serves a CONNECT. It runs on the connection's reader.
func (p *Proxy) connect(t *loop.Turn, c *tunnel.Connect) {
	tun := &clientTunnel{p: p, peer: c.Peer, principalURI: "spiffe://" + c.Peer.Principal, cert: c.Certificate, dst: c.Dst, host: c.Host, port: c.Port, shard: p.nextShard.Add(1)}
	tun.client, _ = tunnel.ParseForwarded(c.Forwarded)
	tun.baggage = tunnel.ParseBaggage(c.Baggage)
	p.serve(t, tun, c)
}

// serve answers a CONNECT and hands its stream to a codec.
func (p *Proxy) serve(t *loop.Turn, tun *clientTunnel, c incoming) {
	_, sp := tun.current()
	switch {
	case p.draining.Load():
		c.RejectInline(t, 503)
		return
	case sp == nil:
		p.o.Log.Debug("refused a tunnel to a destination that is not served here", "host", tun.host, "port", tun.port, "peer", tun.peer.Principal)
		c.RejectInline(t, 400)
		return
	}
	if _, ended := c.Stream().Ended(); ended { // a tunnel that nothing will come through
		c.RejectInline(t, 400)
		return
	}
	p.tunnels.Add(1)
	switch sp.protocol {
	case mesh.ProtocolTCP, mesh.ProtocolTLS:
		p.connectTCP(t, tun, c, sp)
	default:
		s := &sniffer{tun: tun, http: sp.protocol.IsHTTP()}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.st = c.AcceptInline(t, s)
		if !s.http {
			p.timers.start(&s.timer, tun.shard, t.Now, sniffTimeout, s.timedOut)
		}
	}
}

func (tun *clientTunnel) l4Facts(sp *servicePort) policy.L4Facts {
	return policy.L4Facts{Peer: tun.peer.Identity, Principal: tun.peer.Principal, Source: tun.peer.Addr.Addr(), Destination: tun.destination(sp), Service: sp.service}
}

// destination is the address that policies look at: the one that was dialled.
// A client that dialled a name is judged as if it had dialled the service's
// address: the name must not be a way around policies on ports.
func (tun *clientTunnel) destination(sp *servicePort) netip.AddrPort {
	if tun.dst.IsValid() {
		return tun.dst
	}
	var a netip.Addr
	if sp.service != nil && len(sp.service.VIPs) > 0 {
		a = sp.service.VIPs[0]
	}
	return netip.AddrPortFrom(a, tun.port)
}

// sniffer looks at the first bytes of a tunnel and hands it to the codec that
// understands them.
type sniffer struct {
	tun  *clientTunnel
	http bool // it is HTTP for certain, of either version

	mu    sync.Mutex
	st    *h2.Stream
	got   []byte
	next  h2.StreamHandler // who the stream was handed to
	ended bool
	timer timer
}

const clientPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// kind is what the first bytes are.
type kind uint8

const (
	kindUnknown kind = iota // more bytes are needed
	kindHTTP1
	kindHTTP2
	kindBytes
)

// sniff looks at the first bytes. http says that it must be one of the two.
func sniff(b []byte, http bool) kind {
	n := min(len(b), len(clientPreface))
	if string(b[:n]) == clientPreface[:n] {
		if n == len(clientPreface) {
			return kindHTTP2
		}
		return kindUnknown
	}
	if http {
		return kindHTTP1
	}
	// A request line: a method of capitals, a space, a target.
	for i, c := range b {
		switch {
		case c >= 'A' && c <= 'Z' || i > 0 && c == '-':
			if i >= 16 {
				return kindBytes
			}
		case c == ' ' && i > 0:
			if i+1 == len(b) {
				return kindUnknown
			}
			if c := b[i+1]; c == '/' || c == '*' || c == 'h' {
				return kindHTTP1
			}
			return kindBytes
		default:
			return kindBytes
		}
	}
	return kindUnknown
}

// Headers implements h2.StreamHandler.
func (s *sniffer) Headers(t *loop.Turn, st *h2.Stream, h *h2.Head) {
	if h.End {
		s.Data(t, st, nil, true)
	}
}

// Data implements h2.StreamHandler.
func (s *sniffer) Data(t *loop.Turn, st *h2.Stream, b []byte, end bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != nil { // it was handed over while this was on its way to us
		s.next.Data(t, st, b, end)
		return
	}
	if s.ended {
		return
	}
	if len(s.got) > 0 {
		s.got = append(s.got, b...)
		b = s.got
	}
	k := sniff(b, s.http)
	if k == kindUnknown {
		if !end {
			if len(s.got) == 0 {
				s.got = append(s.got, b...)
			}
			return
		}
		k = kindBytes
		if s.http {
			k = kindHTTP1
		}
	}
	s.hand(t, k, b, end)
}

// hand gives the stream to a codec.
func (s *sniffer) hand(t *loop.Turn, k kind, b []byte, end bool) {
	s.timer.stop()
	switch k {
	case kindHTTP2:
		h := newH2Server(t, s.tun, s.st)
		s.tun.p.addH2Server(h)
		if s.tun.p.draining.Load() {
			h.drain(t)
		}
		s.next = h
	case kindHTTP1:
		s.next = newH1Server(s.tun, s.st)
	default:
		s.next = s.tun.p.relayTCP(t, s.tun, s.st)
	}
	// What came first goes first: until Handle, later events come to s and
	// wait for its lock.
	s.next.Data(t, s.st, b, end)
	s.st.Handle(s.next)
	s.got = nil
}

// sniffTimeout is how long a client may stay silent before it is taken for one
// that waits for the server to speak first.
const sniffTimeout = 5 * time.Second

func (s *sniffer) timedOut(t *loop.Turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer.expired() && s.next == nil && !s.ended {
		s.hand(t, kindBytes, s.got, false)
	}
}

// Reset implements h2.StreamHandler.
func (s *sniffer) Reset(t *loop.Turn, st *h2.Stream, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != nil {
		s.next.Reset(t, st, err)
		return
	}
	s.ended = true
	s.timer.stop()
	s.tun.closed()
}

// drain ends a tunnel through which nothing has come yet.
func (s *sniffer) drain(t *loop.Turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != nil || s.ended || len(s.got) > 0 {
		return
	}
	s.ended = true
	s.timer.stop()
	s.st.Write(t, nil, true)
	s.st.StopReading(t)
	s.tun.closed()
}

// Writable implements h2.StreamHandler.
func (s *sniffer) Writable(t *loop.Turn, st *h2.Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != nil {
		s.next.Writable(t, st)
	}
}
