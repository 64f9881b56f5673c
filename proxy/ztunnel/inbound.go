package ztunnel

import (
	"context"
	"fmt"
	"net"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
	"cairnproxy.dev/cairn/proxy/ztunnel/capture"
	"cairnproxy.dev/cairn/tunnel"
)

// serveConnect answers one CONNECT: it finds out where to, asks the policies,
// connects to the application, and only then says 200.
func (s *site) serveConnect(req *tunnel.Connect) {
	c := &connection{site: s, protocol: ProtocolHBONE, src: req.Peer.Addr, original: req.Authority, started: time.Now()}
	// Initial phase: whose is it, and where does it go?
	local, err := s.awaitLocal()
	snap := s.p.snapshot()
	if err == nil {
		c.actual, err = DecideInbound(snap, local, InboundRequest{
			Authority: req.Authority, Host: req.Host, Port: req.Port, Dst: req.Dst, Local: req.Local.Addr().Unmap(),
		})
	}
	if err != nil {
		s.p.logEarly("inbound", req.Peer.Addr, req.Dst, err)
		req.Reject(statusOf(err))
		return
	}
	// From here on it is known well enough for metrics and the access log.
	src := peerOf(snap, local, req)
	_, asked := tunnel.ParseForwarded(req.Forwarded)
	svc := serviceOf(snap, local, asked, c.actual.Port())
	c.facts = policy.L4Facts{Peer: req.Peer.Identity, Principal: req.Peer.Principal, Source: c.src.Addr().Unmap(), Destination: c.actual}
	c.open(s.p.tcp, s.p.tcp.inbound(src, req.Peer.Identity, local, svc))
	// It is registered before it is checked: a policy that comes in between
	// finds it, or is found by the check.
	s.p.conns.add(c)
	end := func(err error) {
		s.p.end(c, err, record{source: src.workload, sourceID: c.facts.Peer, dest: local, service: svc})
	}
	app, err := s.reach(req, local, c)
	if err != nil {
		end(err)
		return
	}
	var fields mesh.Fields
	if !s.p.o.HideBaggage {
		fields = mesh.Fields{{Name: "baggage", Value: string(tunnel.AppendBaggage(nil, local))}}
	}
	s.relayStream(app, req.Accept(fields...), c, end)
}

// reach asks the policies and connects to the application, or rejects the request.
func (s *site) reach(req *tunnel.Connect, local *mesh.Workload, c *connection) (*net.TCPConn, error) {
	if r := s.p.decide(local, c); r != nil {
		req.Reject(r.Status)
		return nil, r
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.p.o.ConnectTimeout)
	defer cancel()
	gone := make(chan struct{})
	defer close(gone)
	go cancelWhen(req.Done(), gone, cancel)
	app, err := s.dialApp(ctx, c.src.Addr().Unmap(), c.actual)
	if err != nil {
		req.Reject(503)
		return nil, &Refusal{Status: 503, Flag: flagConnect, Reason: fmt.Sprintf("connecting to the application at %s", c.actual), Cause: err}
	}
	return app, nil
}

// cancelWhen calls cancel when done is closed before gone.
func cancelWhen(done, gone <-chan struct{}, cancel func()) {
	select {
	case <-done:
		cancel()
	case <-gone:
	}
}

// plaintext serves a connection that reached the pod unencrypted and that
// redirection brought to 15006.
func (s *site) plaintext(conn *net.TCPConn) {
	source := capture.AddrPort(conn.RemoteAddr())
	target, err := capture.OriginalDst(conn)
	if err == nil && illegalPort(target.Port()) {
		err = refuse(0, flagDeny, "attempted recursive call to ourselves: %s", target)
	}
	var local *mesh.Workload
	if err == nil {
		local, err = s.awaitLocal()
	}
	if err != nil {
		s.p.logEarly("inbound", source, target, err)
		reset(conn)
		return
	}
	c := &connection{site: s, protocol: ProtocolTCP, src: source, original: target.String(), actual: target, started: time.Now()}
	c.facts = policy.L4Facts{Source: source.Addr(), Destination: target}
	snap := s.p.snapshot()
	src := sourceOf(snap.WorkloadAt(local.Network, source.Addr()))
	svc := serviceOf(snap, local, "", target.Port())
	c.open(s.p.tcp, s.p.tcp.inbound(src, mesh.Identity{}, local, svc))
	c.onAbort(func(error) { reset(conn) })
	s.p.conns.add(c)
	s.p.end(c, s.passOn(conn, local, c), record{source: src.workload, dest: local, service: svc})
}

func (s *site) passOn(conn *net.TCPConn, local *mesh.Workload, c *connection) error {
	if r := s.p.decide(local, c); r != nil {
		reset(conn)
		return r
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.p.o.ConnectTimeout)
	defer cancel()
	app, err := s.dialApp(ctx, c.src.Addr(), c.actual)
	if err != nil {
		reset(conn)
		return &Refusal{Flag: flagConnect, Reason: fmt.Sprintf("connecting to the application at %s", c.actual), Cause: err}
	}
	return relayTCP(conn, app, c)
}
