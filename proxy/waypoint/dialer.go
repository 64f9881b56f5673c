package waypoint

import (
	"context"
	"fmt"
	"net"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"cairnproxy.dev/cairn/upstream"
)

// DialService implements ratelimit.Dialer: it connects to an endpoint of a service as requests do,
// with the waypoint's identity. The configuration in force says where the endpoints are.
func (p *Proxy) DialService(ctx context.Context, key mesh.ServiceKey, port uint16) (net.Conn, error) {
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
	var origin *originTLS
	if b := v.Port(port).Backend; b != nil {
		origin = newOriginTLS(b.TLS, key.Hostname, mesh.ProtocolGRPC)
	}
	cl := upstream.ForService(rt.snapshot, v, port, upstream.Options{Registry: &p.registry})
	var hint upstream.Hint
	var failed error
	for range maxAttempts {
		ep := cl.Pick(&hint)
		if ep == nil {
			break
		}
		c, err := p.dialEndpoint(ctx, ep, origin)
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

// dialEndpoint opens a connection to an endpoint, for clients that block: through its
// node proxy, or as plain TCP to one outside the mesh; with TLS inside where it is asked for.
func (p *Proxy) dialEndpoint(ctx context.Context, ep *upstream.Endpoint, origin *originTLS) (net.Conn, error) {
	c, err := p.dialBytes(ctx, ep)
	if err != nil || origin == nil {
		return c, err
	}
	tc, err := origin.client(ctx, c, "h2")
	if err != nil {
		return nil, err
	}
	return tc, nil
}

func (p *Proxy) dialBytes(ctx context.Context, ep *upstream.Endpoint) (net.Conn, error) {
	cl := &cluster{} // without TLS: it comes on top
	d := newDestination(p, cl.destKey(ep), cl, ep)
	if d.peer == nil {
		return d.dialTCP(ctx)
	}
	c, err := d.dialStream(ctx)
	if err != nil {
		return nil, err // not c, a nil pointer in an interface
	}
	return c, nil
}

// Opened implements tunnel.Opener.
func (c *streamConn) Opened(t *loop.Turn, st *h2.Stream, err error) {
	if err != nil {
		c.opened(t, nil, err)
		return
	}
	c.opened(t, st, nil)
}

func (c *streamConn) opened(t *loop.Turn, out pipe, err error) {
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
