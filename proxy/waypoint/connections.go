package waypoint

import (
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// connSettings are those of connections to endpoints (mesh.ConnectionSettings), with
// their defaults filled in. A destination has those of the cluster that came to it last:
// where backends with policies of their own share a workload's port, they share its connections.
type connSettings struct {
	connect     time.Duration // for a connection to be made
	idle        time.Duration // after which one that nothing uses is closed; negative: never
	maxRequests uint32        // after which one is closed; 0: never
}

var plainSettings = &connSettings{connect: connectTimeout, idle: idleTimeout}

// settingsOf compiles a policy.
func settingsOf(p *mesh.BackendPolicy) *connSettings {
	if p == nil || p.Connection == nil {
		return plainSettings
	}
	c := p.Connection
	s := &connSettings{connect: connectTimeout, idle: idleTimeout, maxRequests: c.MaxRequests}
	if c.ConnectTimeout > 0 {
		s.connect = c.ConnectTimeout
	}
	if c.IdleTimeout != 0 {
		s.idle = c.IdleTimeout
	}
	return s
}

// speaks is the protocol of the cluster's endpoints, for a request: that of their port, but
// for HTTP/2 where the policy wants it. Upgrades stay with what they are.
func (cl *cluster) speaks(x *exchange) mesh.AppProtocol {
	if p := cl.policy; p != nil && p.Connection != nil && p.Connection.HTTP2 && x.reqF.Upgrade == "" {
		return mesh.ProtocolHTTP2
	}
	return cl.protocol
}

// expire closes connections that nothing has used for long. It is called about once a second.
func (d *destination) expire(t *loop.Turn) {
	var before time.Time // nothing is older
	if idle := d.settings.Load().idle; idle >= 0 {
		before = t.Now.Add(-idle)
	}
	d.closeIdle(t, before)
	d.closeIdleH2(t, before)
}

// used counts a request of an HTTP/1.1 connection, and reports whether it was the last
// that it may have.
func (c *h1Client) used() (last bool) {
	c.requests++
	most := c.d.settings.Load().maxRequests
	return most > 0 && c.requests >= most
}

// used does the same for an HTTP/2 connection. Several may call it at once.
func (c *h2Client) used() (last bool) {
	most := c.d.settings.Load().maxRequests
	return most > 0 && c.requests.Add(1) == most
}
