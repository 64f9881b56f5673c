package waypoint

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"cairnproxy.dev/cairn/upstream"
)

// ServiceOf implements jwt.Mesh: it returns the Service that a host name means, as the cluster's DNS
// has it for the waypoint's pod. A ServiceEntry is none, since anybody can write one for any host.
func (p *Proxy) ServiceOf(host string) (mesh.ServiceKey, bool) {
	rt := p.runtime.Load()
	if rt == nil {
		return mesh.ServiceKey{}, false
	}
	name, rest, _ := strings.Cut(strings.ToLower(strings.TrimSuffix(host, ".")), ".")
	ns, rest, _ := strings.Cut(rest, ".")
	if rest != "" && rest != "svc" && rest != "svc."+rt.snapshot.ClusterDomain {
		return mesh.ServiceKey{}, false
	}
	ns = cmp.Or(ns, p.o.Name.Namespace)
	key := mesh.ServiceKey{Namespace: ns, Hostname: name + "." + ns + ".svc." + rt.snapshot.ClusterDomain}
	v := rt.snapshot.Service(key)
	return key, v != nil && v.Canonical
}

// DialService implements remote.Dialer and jwt.Mesh: it connects to an endpoint of a service as requests do,
// with the waypoint's identity; alpn is offered where there is TLS inside, and "" leaves that out. The configuration in force
// says where the endpoints are.
func (p *Proxy) DialService(ctx context.Context, key mesh.ServiceKey, port uint16, alpn string) (net.Conn, error) {
	rt := p.runtime.Load()
	if rt == nil {
		return nil, fmt.Errorf("dialing service %s: there is no configuration yet", key)
	}
	v := rt.snapshot.Service(key)
	switch {
	case v == nil:
		return nil, fmt.Errorf("dialing service %s: it does not exist", key)
	case v.Port(port) == nil:
		return nil, fmt.Errorf("dialing service %s: it has no port %d", key, port)
	}
	target := &cluster{protocol: mesh.ProtocolGRPC}
	if b := v.Port(port).Backend; b != nil && alpn != "" {
		target.tls = newOriginTLS(b.TLS, key.Hostname, target.protocol)
	}
	cl := upstream.ForService(rt.snapshot, v, port, upstream.Options{Registry: &p.registry})
	var hint upstream.Hint
	var failed error
	var last *upstream.Endpoint
	for range maxAttempts {
		ep := cl.Pick(&hint)
		if ep == nil || ep == last {
			break
		}
		last = ep
		c, err := newDestination(p, target.destKey(ep), target, ep).dial(ctx, alpn)
		if err == nil {
			return c, nil
		}
		failed = fmt.Errorf("dialing service %s port %d: %w", key, port, err)
		if ctx.Err() != nil {
			break
		}
		hint.Exclude(ep)
	}
	if failed == nil {
		failed = fmt.Errorf("dialing service %s port %d: it has no endpoint", key, port)
	}
	return nil, failed
}

// dial opens a connection to the endpoint, for clients that block: through its node
// proxy, or as TCP to one outside the mesh; with TLS inside where there is to be
// some, that offers protos by ALPN.
func (d *destination) dial(ctx context.Context, protos ...string) (net.Conn, error) {
	c, err := d.dialBytes(ctx)
	if err != nil || d.tls == nil {
		return c, err
	}
	tc, err := d.tls.client(ctx, c, protos...)
	if err != nil {
		return nil, err // not tc, a nil pointer in an interface
	}
	return tc, nil
}

func (d *destination) dialBytes(ctx context.Context) (net.Conn, error) {
	if d.peer == nil {
		c, err := d.dialTCP(ctx)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	c, err := dialStream(ctx, d.peer, d.authority, d.addr)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// dialStream opens a CONNECT stream and waits for its answer.
func dialStream(ctx context.Context, pe peer, authority string, remote netip.AddrPort) (*streamConn, error) {
	c := newStreamConn(remote)
	loop.Run(func(t *loop.Turn) {
		req := tunnel.Request{Authority: authority}
		if st := pe.TryOpen(t, req, c); st != nil {
			c.Opened(t, st, nil)
		} else {
			pe.Open(t, req, c)
		}
	})
	select {
	case err := <-c.answer:
		if err != nil {
			return nil, err
		}
		return c, nil
	case <-ctx.Done():
		c.Close()
		return nil, context.Cause(ctx)
	}
}

// Opened implements tunnel.Opener.
func (c *streamConn) Opened(t *loop.Turn, out *h2.Stream, err error) {
	if err != nil {
		c.tell(err)
		return
	}
	c.mu.Lock()
	c.out = out
	closed := c.closed
	c.mu.Unlock()
	if closed {
		out.Reset(t, h2.Cancel)
	}
}

// tell gives the dial its result. What comes later is for the connection alone.
func (c *streamConn) tell(err error) {
	select {
	case c.answer <- err:
	default:
	}
}

// Headers implements h2.StreamHandler: the answer to CONNECT, and trailers.
func (c *streamConn) Headers(t *loop.Turn, st *h2.Stream, h *h2.Head) {
	status := tunnel.Status(h)
	switch {
	case status/100 == 1:
		return
	case c.accepted || status == 200:
		if !c.accepted {
			c.accepted = true
			c.mu.Lock()
			c.out = st // the answer may come before Opened
			c.mu.Unlock()
			c.tell(nil)
		}
		if h.End {
			c.Data(t, st, nil, true)
		}
		return
	}
	st.Reset(t, h2.NoError)
	c.tell(&tunnel.StatusError{Code: status})
}
