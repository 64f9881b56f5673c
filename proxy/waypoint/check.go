package waypoint

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/upstream"
)

// checks asks the endpoints of a cluster for their health, the way that requests
// go: through HBONE to the endpoint's node proxy, as the waypoint. Each check has a connection of
// its own. An endpoint is used until it is found unhealthy.
type checks struct {
	cl     *cluster
	policy mesh.HealthCheck // with defaults filled in
}

// maxChecks bounds the checks under way at once, of all clusters of a proxy.
const maxChecks = 32

func newChecks(cl *cluster, h *mesh.HealthCheck) *checks {
	c := &checks{cl: cl, policy: *h}
	if c.policy.Timeout <= 0 {
		c.policy.Timeout = time.Second
	}
	if c.policy.Path == "" {
		c.policy.Path = "/"
	}
	if c.policy.Host == "" {
		c.policy.Host = cl.key.service.Hostname
	}
	if len(c.policy.Statuses) == 0 {
		c.policy.Statuses = [][2]int{{200, 299}}
	}
	return c
}

// tend begins the checks that are due, and returns when the next one is.
func (c *checks) tend(p *Proxy, now time.Time) time.Time {
	due, next := c.cl.c.DueChecks(now, c.policy.Interval, maxChecks-int(p.checking.Load()))
	for _, ep := range due {
		p.checking.Add(1)
		p.wg.Add(1)
		go c.check(p, ep)
	}
	return next
}

// check asks one endpoint.
func (c *checks) check(p *Proxy, ep *upstream.Endpoint) {
	defer p.wg.Done()
	ctx, cancel := context.WithTimeout(p.ctx, c.policy.Timeout)
	detail := ""
	if err := c.ask(ctx, p, ep); err != nil {
		detail = err.Error()
	}
	cancel()
	p.checking.Add(-1)
	if p.ctx.Err() == nil && c.cl.c.Checked(ep, &c.policy, detail) {
		p.watch.kick(c.cl.adm.state)
	}
}

func (c *checks) ask(ctx context.Context, p *Proxy, ep *upstream.Endpoint) error {
	conn, err := c.dial(ctx, p, ep)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	switch c.policy.Kind {
	case mesh.HealthTCP:
		return nil // it was accepted
	case mesh.HealthGRPC:
		return c.askGRPC(ctx, conn)
	case mesh.HealthHTTP:
	}
	return c.askHTTP(ctx, conn)
}

// over is a transport with one connection.
func over(conn net.Conn, http2 bool) *http.Transport {
	tr := &http.Transport{
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		DisableKeepAlives: !http2, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10, Protocols: new(http.Protocols),
	}
	tr.Protocols.SetHTTP1(!http2)
	tr.Protocols.SetUnencryptedHTTP2(http2)
	return tr
}

func (c *checks) askHTTP(ctx context.Context, conn net.Conn) error {
	u, err := url.Parse(c.policy.Path)
	if err != nil {
		return err
	}
	u.Scheme, u.Host = "http", c.policy.Host
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "Cairn/HC")
	tr := over(conn, c.http2())
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	for _, s := range c.policy.Statuses {
		if resp.StatusCode >= s[0] && resp.StatusCode <= s[1] {
			return nil
		}
	}
	return fmt.Errorf("answered %d", resp.StatusCode)
}

// askGRPC calls grpc.health.v1.Health/Check. The messages are small enough to be
// written and read here: a request has the service's name as field 1, a response
// the status, in which 1 is SERVING.
func (c *checks) askGRPC(ctx context.Context, conn net.Conn) error {
	var msg []byte
	if s := c.policy.Service; s != "" {
		msg = append(binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(s))), s...)
	}
	body := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(msg))), msg...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.policy.Host+"/grpc.health.v1.Health/Check", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "User-Agent": {"Cairn/HC"}}
	tr := over(conn, true)
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("answered %d", resp.StatusCode)
	}
	status := resp.Trailer.Get("grpc-status")
	if status == "" {
		status = resp.Header.Get("grpc-status")
	}
	if status != "0" {
		return fmt.Errorf("answered with the gRPC status %.8q", status)
	}
	if !serving(got) {
		return errors.New("not serving")
	}
	return nil
}

// serving reads a HealthCheckResponse in its gRPC frame.
func serving(b []byte) bool {
	if len(b) < 5 || b[0] != 0 || uint64(binary.BigEndian.Uint32(b[1:])) != uint64(len(b)-5) {
		return false
	}
	status := uint64(0)
	for b = b[5:]; len(b) > 0; {
		tag, n := binary.Uvarint(b)
		if n <= 0 || tag&7 != 0 { // there are only numbers in it
			return false
		}
		b = b[n:]
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return false
		}
		b = b[n:]
		if tag>>3 == 1 {
			status = v
		}
	}
	return status == 1
}

// dial connects to an endpoint as requests do, with TLS where they have it.
func (c *checks) dial(ctx context.Context, p *Proxy, ep *upstream.Endpoint) (net.Conn, error) {
	d, port := newDestination(p, c.cl.destKey(ep), c.cl, ep), c.policy.Port
	switch {
	case port == 0:
	case d.addr.IsValid():
		d.addr = netip.AddrPortFrom(d.addr.Addr(), port)
		d.authority = d.addr.String()
	default:
		d.authority = net.JoinHostPort(ep.Hostname, strconv.Itoa(int(port)))
	}
	switch {
	case c.policy.Kind == mesh.HealthTCP:
		return d.dial(ctx)
	case c.policy.Kind == mesh.HealthGRPC || c.http2():
		return d.dial(ctx, "h2")
	}
	return d.dial(ctx, "http/1.1")
}

// http2 reports whether the endpoints' port is for HTTP/2.
func (c *checks) http2() bool {
	return c.cl.protocol == mesh.ProtocolHTTP2 || c.cl.protocol == mesh.ProtocolGRPC
}
