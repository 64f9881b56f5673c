package ztunnel

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/proxy/ztunnel/capture"
	"cairnproxy.dev/cairn/tunnel"
)

// Limits of the connect phase. Until the first byte has flowed another
// endpoint may be tried without anybody noticing.
const maxAttempts = 4

// patience is how long an attempt may take while there is an alternative.
func (p *Proxy) patience() time.Duration { return min(3*time.Second, p.o.ConnectTimeout/3) }

// captured serves a connection that redirection brought to 15001.
func (s *site) captured(conn *net.TCPConn) {
	source := capture.AddrPort(conn.RemoteAddr())
	target, err := capture.OriginalDst(conn)
	if err == nil && target.Port() == PortOutbound && target == capture.AddrPort(conn.LocalAddr()) {
		err = refuse(0, flagDeny, "attempted recursive call to ourselves: %s", target)
	}
	var w *mesh.Workload
	if err == nil {
		w, err = s.awaitLocal()
	}
	if err != nil {
		s.p.logEarly("outbound", source, target, err)
		reset(conn)
		return
	}
	s.outbound(conn, w, source, target)
}

// outbound carries a connection that the workload w opened.
func (s *site) outbound(conn *net.TCPConn, w *mesh.Workload, source, target netip.AddrPort) {
	c := &connection{site: s, outbound: true, src: source, original: target.String(), started: time.Now()}
	c.onAbort(func(error) { reset(conn) })
	s.p.conns.add(c)
	up, hop, err := s.connect(w, source, target)
	c.goesTo(hop.Protocol, hop.Addr)
	if err == nil {
		c.around = hop.Around
	}
	dest := hop.Workload
	if hop.Waypoint {
		dest = s.p.snapshot().WorkloadAt(w.Network, hop.Addr.Addr())
	}
	c.open(s.p.tcp, s.p.tcp.outbound(w, dest, hop))
	end := func(err error) { s.p.end(c, err, record{source: w, dest: dest, service: hop.Service, hop: &hop}) }
	switch {
	case err != nil:
		reset(conn)
		end(err)
	case up.conn != nil:
		end(relayTCP(conn, up.conn, c))
	default:
		s.relayStream(conn, up.stream, c, end)
	}
}

// upstream is the other side of an outbound connection: a stream or a socket.
type upstream struct {
	stream *tunnel.Stream
	conn   *net.TCPConn
}

// connect establishes the way to target, at another endpoint if the first
// cannot be reached. The hop is the last one tried; it is returned with an
// error too.
func (s *site) connect(w *mesh.Workload, source, target netip.AddrPort) (up upstream, hop Hop, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.p.o.ConnectTimeout)
	defer cancel()
	req := OutboundRequest{Source: w, SourceAddr: source.Addr(), Target: target, Closed: s.closed, Rand: random}
	for range maxAttempts {
		next, derr := DecideOutbound(s.p.snapshot(), req)
		if derr != nil {
			if err == nil {
				err = derr // nothing was tried: this is the reason
			}
			return up, hop, classify(hop, err)
		}
		hop = next
		req.Tried = append(req.Tried, hop.Addr)
		if up, err = s.attempt(ctx, req, hop, source); err == nil {
			return up, hop, nil
		}
		if ctx.Err() != nil || !retriable(err) {
			break
		}
	}
	return up, hop, classify(hop, err)
}

// attempt makes one connection to hop. It gives up early when it takes long
// and there is something else to try.
func (s *site) attempt(ctx context.Context, req OutboundRequest, hop Hop, source netip.AddrPort) (upstream, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	impatient := time.AfterFunc(s.p.patience(), func() {
		if _, err := DecideOutbound(s.p.snapshot(), req); err == nil {
			cancel(errPatience)
		}
	})
	defer impatient.Stop()
	if hop.Protocol == ProtocolTCP {
		to, err := resolve(ctx, hop)
		if err != nil {
			return upstream{}, err
		}
		conn, err := s.dialPeer(ctx, s.sourceFor(source.Addr(), to.Addr()), to)
		if err != nil {
			return upstream{}, fmt.Errorf("connecting to %s: %w", to, err)
		}
		return upstream{conn: conn}, nil
	}
	if !hop.Addr.Addr().IsValid() {
		return upstream{}, refuse(0, flagConnect, "workload %s is reached by name, which HBONE cannot do", hop.Hostname)
	}
	stream, err := s.pool.Dial(ctx, tunnel.Target{
		Addr: hop.Addr, Own: req.Source.Identity(), Expect: hop.Expect, Source: s.sourceFor(source.Addr(), hop.Addr.Addr()),
	}, tunnel.Request{Authority: hop.Authority, Fields: connectFields(req.Source, source, hop.Service)})
	return upstream{stream: stream}, err
}

var errPatience = errors.New("no answer while there is another endpoint to try")

// sourceFor is the address to connect from: the client's where the site asks
// for it and it can reach to.
func (s *site) sourceFor(client, to netip.Addr) netip.Addr {
	if s.bindSource && client.IsLoopback() && to.IsLoopback() && client.Is4() == to.Is4() {
		return client
	}
	return netip.Addr{}
}

// resolve returns the address of a hop that may be known by name only.
func resolve(ctx context.Context, hop Hop) (netip.AddrPort, error) {
	if hop.Hostname == "" {
		return hop.Addr, nil
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", hop.Hostname)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("resolving %s: %w", hop.Hostname, err)
	}
	return netip.AddrPortFrom(addrs[random(uint64(len(addrs)))].Unmap(), hop.Addr.Port()), nil
}

// connectFields are the headers that tell the peer whose connection this is.
func connectFields(w *mesh.Workload, source netip.AddrPort, svc *mesh.Service) mesh.Fields {
	host := ""
	if svc != nil {
		host = svc.Key.Hostname
	}
	return mesh.Fields{
		{Name: "baggage", Value: string(tunnel.AppendBaggage(nil, w))},
		{Name: "forwarded", Value: string(tunnel.AppendForwarded(nil, source, host))},
		{Name: "traceparent", Value: string(tunnel.AppendTraceparent(nil))},
	}
}

// retriable reports whether another endpoint may do better. Not so a peer that
// said no to this client.
func retriable(err error) bool {
	if s, ok := errors.AsType[*tunnel.StatusError](err); ok {
		return s.Code == 503 || s.Code == 400
	}
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Flag == flagConnect
	}
	return true
}

// classify gives a failed connect its response flag.
func classify(hop Hop, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*Refusal](err); ok {
		return err
	}
	r := &Refusal{Flag: flagConnect, Reason: "destination could not be reached", Cause: err}
	if hop.Waypoint {
		r.Reason = "waypoint could not be reached, and traffic is not passed around it"
	}
	status, isStatus := errors.AsType[*tunnel.StatusError](err)
	_, isPeer := errors.AsType[*identity.PeerError](err)
	_, isRevoked := errors.AsType[*identity.RevokedError](err)
	_, isCert := errors.AsType[*identity.UnavailableError](err)
	_, isX509 := errors.AsType[x509.CertificateInvalidError](err)
	_, isTLS := errors.AsType[*tunnel.TLSError](err)
	switch {
	case isStatus && status.Code == 401:
		r.Flag = flagDeny
	case isStatus:
	case isCert:
		r.Flag = flagIdentity
	case isRevoked:
		r.Flag = flagRevoked
	case isPeer, isX509:
		r.Flag = flagTLS
	case hop.Protocol == ProtocolHBONE && isTimeout(err):
		r.Flag = flagNetworkPolicy
		r.Reason = fmt.Sprintf("connection to %s timed out, maybe a NetworkPolicy is blocking HBONE port %d", hop.Addr, hop.Addr.Port())
	case isTLS:
		r.Flag = flagTLS
	}
	return r
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errPatience) || errors.As(err, &ne) && ne.Timeout()
}
