package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"github.com/miekg/dns"
)

// ttl is the life of an answer in seconds, as ztunnel gives it.
const ttl = 30

// Limits of one server.
const (
	maxUDPQueries = 512
	maxTCPConns   = 256
	tcpIdle       = 5 * time.Second
	maxMessage    = 65535
)

// Options configures a Server.
type Options struct {
	// Snapshot returns the current state of the mesh. Required.
	Snapshot func() *mesh.Snapshot
	// Client returns the workload that asks, or nil while it is not known:
	// then everything is answered with SERVFAIL. Required.
	Client func() *mesh.Workload
	// Search lists the client's search domains; nil means those of a pod.
	Search []string
	// Upstreams are the nameservers for what is not of the mesh. With none,
	// such names do not exist (NXDOMAIN).
	Upstreams []netip.AddrPort
	// Dial connects to a nameserver ("udp" or "tcp"); nil means net.Dialer.
	Dial func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)
	// Timeout of one attempt at a nameserver; 0 means 2 s. There are two per
	// nameserver, as with resolv.conf's default.
	Timeout time.Duration
	// Asked, if set, is told of each query when it was answered.
	Asked func(Query)
	Log   *slog.Logger
}

// Query describes an answered query, for metrics.
type Query struct {
	Type     string // "A", "AAAA", …
	Protocol string // "udp" or "tcp"
	Name     string
	// Upstream is true when a nameserver was asked, Failed when none answered.
	Upstream, Failed bool
	Duration         time.Duration
}

// Server answers queries.
type Server struct {
	o   Options
	udp chan struct{} // one token per query
	tcp chan struct{} // one token per connection
	wg  sync.WaitGroup
}

// NewServer returns a server that listens nowhere yet.
func NewServer(o Options) *Server {
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, to.String())
		}
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{o: o, udp: make(chan struct{}, maxUDPQueries), tcp: make(chan struct{}, maxTCPConns)}
}

// Serve answers on both sockets until ctx ends or one of them is closed, then
// closes them and returns once all that was under way has ended.
func (s *Server) Serve(ctx context.Context, udp *net.UDPConn, tcp *net.TCPListener) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		udp.Close()
		tcp.Close()
	})
	defer stop()
	// Each ends when its socket is closed, which ends the other too.
	var listeners sync.WaitGroup
	listeners.Go(func() { defer cancel(); s.serveUDP(ctx, udp) })
	listeners.Go(func() { defer cancel(); s.serveTCP(ctx, tcp) })
	listeners.Wait()
	s.wg.Wait()
}

func (s *Server) serveUDP(ctx context.Context, conn *net.UDPConn) {
	buf := make([]byte, maxMessage)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier answer is reported here and is nobody's fault
		}
		select {
		case s.udp <- struct{}{}:
		default:
			continue // the client asks again
		}
		query := append([]byte(nil), buf[:n]...)
		s.wg.Go(func() {
			defer func() { <-s.udp }()
			if answer := s.answer(ctx, query, "udp"); answer != nil {
				_, _ = conn.WriteToUDPAddrPort(answer, from)
			}
		})
	}
}

func (s *Server) serveTCP(ctx context.Context, ln *net.TCPListener) {
	for {
		conn, err := ln.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.NewTimer(10 * time.Millisecond).C: // out of descriptors: wait for some
			}
			continue
		}
		select {
		case s.tcp <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		s.wg.Go(func() {
			defer func() { <-s.tcp }()
			s.serveConn(ctx, conn)
		})
	}
}

// serveConn answers one query after the other (RFC 7766 section 6.2.1).
func (s *Server) serveConn(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	for {
		_ = conn.SetDeadline(time.Now().Add(tcpIdle))
		query, err := readTCP(conn)
		if err != nil {
			return
		}
		answer := s.answer(ctx, query, "tcp")
		if answer == nil || writeTCP(conn, answer) != nil {
			return
		}
	}
}

func readTCP(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeTCP(w io.Writer, msg []byte) error {
	b := binary.BigEndian.AppendUint16(make([]byte, 0, len(msg)+2), uint16(len(msg)))
	_, err := w.Write(append(b, msg...))
	return err
}

// answer returns the answer to a query, or nil when none is due.
func (s *Server) answer(ctx context.Context, query []byte, network string) []byte {
	var q dns.Msg
	if len(query) < 12 {
		return nil // not even a header
	}
	if err := q.Unpack(query); err != nil || len(q.Question) != 1 {
		return refusal(query, dns.RcodeFormatError)
	}
	switch {
	case q.Response:
		return nil // answering answers makes loops
	case q.Opcode != dns.OpcodeQuery:
		return refusal(query, dns.RcodeNotImplemented)
	}
	start := time.Now()
	report := Query{Type: dns.TypeToString[q.Question[0].Qtype], Protocol: network, Name: q.Question[0].Name}
	out := s.local(&q, network)
	if out == nil {
		report.Upstream = len(s.o.Upstreams) > 0
		out, report.Failed = s.forward(ctx, &q, query, network)
	}
	report.Duration = time.Since(start)
	if s.o.Asked != nil {
		s.o.Asked(report)
	}
	return out
}

// local answers for the mesh; nil means that the name is not the mesh's.
func (s *Server) local(q *dns.Msg, network string) []byte {
	client := s.o.Client()
	if client == nil {
		return pack(q, reply(q, dns.RcodeServerFailure), network)
	}
	question := q.Question[0]
	if question.Qclass != dns.ClassINET || (question.Qtype != dns.TypeA && question.Qtype != dns.TypeAAAA) {
		return nil
	}
	snap := s.o.Snapshot()
	search := s.o.Search
	if search == nil {
		search = SearchDomains(client.Namespace, snap.ClusterDomain)
	}
	name := strings.ToLower(strings.TrimSuffix(question.Name, "."))
	a, ok := Lookup(snap, client, search, name, question.Qtype == dns.TypeAAAA)
	if !ok {
		return nil
	}
	m := reply(q, dns.RcodeSuccess)
	m.Authoritative = true
	owner := question.Name
	if a.Canonical != "" && len(a.Addrs) > 0 {
		owner = dns.Fqdn(a.Canonical)
		m.Answer = append(m.Answer, &dns.CNAME{Hdr: header(question.Name, dns.TypeCNAME), Target: owner})
	}
	rand.Shuffle(len(a.Addrs), func(i, j int) { a.Addrs[i], a.Addrs[j] = a.Addrs[j], a.Addrs[i] })
	for _, addr := range a.Addrs {
		if addr.Is4() {
			m.Answer = append(m.Answer, &dns.A{Hdr: header(owner, dns.TypeA), A: addr.AsSlice()})
		} else {
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: header(owner, dns.TypeAAAA), AAAA: addr.AsSlice()})
		}
	}
	return pack(q, m, network)
}

func header(name string, typ uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: typ, Class: dns.ClassINET, Ttl: ttl}
}

// reply starts an answer to q.
func reply(q *dns.Msg, rcode int) *dns.Msg {
	m := new(dns.Msg).SetRcode(q, rcode)
	m.RecursionAvailable = true
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(max(opt.UDPSize(), dns.MinMsgSize), opt.Do())
	}
	return m
}

// pack encodes m, cut to what the client of q can take.
func pack(q, m *dns.Msg, network string) []byte {
	size := dns.MaxMsgSize
	if network == "udp" {
		size = dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = max(size, int(opt.UDPSize()))
		}
	}
	m.Compress = true
	m.Truncate(size)
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

// refusal answers a query that could not be read with its header alone.
func refusal(query []byte, rcode int) []byte {
	out := make([]byte, 12)
	copy(out, query[:2])
	out[2] = 0x80 | query[2]&0x79 // response; opcode and RD as asked
	out[3] = 0x80 | byte(rcode)
	return out
}
