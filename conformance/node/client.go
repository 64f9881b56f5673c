package node

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"

	"cairnproxy.dev/cairn/conformance/ca"
)

// Client is the node proxy of one client: an identity, and the address that
// its connections come from. It keeps one connection to a waypoint while that
// has room. Its methods may be called from any goroutine.
type Client struct {
	waypoint netip.AddrPort
	tr       *http.Transport
}

// NewClient returns a client of a waypoint, whose SPIFFE URI must be expect.
// from is the address to connect from; the zero address is any.
func NewClient(waypoint netip.AddrPort, leaf *ca.Leaf, expect string, from netip.Addr) *Client {
	d := &net.Dialer{}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	cfg := leaf.Client(expect)
	tr := &http.Transport{
		Protocols: new(http.Protocols),
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return (&tls.Dialer{NetDialer: d, Config: cfg}).DialContext(ctx, network, addr)
		},
	}
	tr.Protocols.SetHTTP2(true)
	return &Client{waypoint, tr}
}

// Close ends what is idle.
func (c *Client) Close() { c.tr.CloseIdleConnections() }

// A Refusal is an answer to CONNECT other than 200.
type Refusal struct {
	Authority string
	Status    int
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("CONNECT %s was answered with %d", r.Authority, r.Status)
}

// Dial opens a stream to an authority. ctx bounds the opening.
func (c *Client) Dial(ctx context.Context, authority string) (*Conn, error) {
	app, inner, err := pair()
	if err != nil {
		return nil, err
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	body := &readSide{conn: inner, done: make(chan struct{})}
	req := (&http.Request{
		Method: http.MethodConnect, Host: authority, Body: body, ContentLength: -1,
		URL: &url.URL{Scheme: "https", Host: c.waypoint.String()}, Header: http.Header{},
	}).WithContext(life)
	resp, err := c.tr.RoundTrip(req) //nolint:bodyclose // the goroutine below does
	stop()
	if err == nil && resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		err = &Refusal{authority, resp.StatusCode}
	}
	if err != nil {
		cancel()
		app.Close()
		inner.Close()
		return nil, fmt.Errorf("dialing %s by hbone: %w", authority, err)
	}
	remote := net.TCPAddrFromAddrPort(c.waypoint)
	if to, err := netip.ParseAddrPort(authority); err == nil {
		remote = net.TCPAddrFromAddrPort(to)
	}
	conn := &Conn{UnixConn: app, local: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, remote: remote, reset: cancel}
	go func() {
		defer cancel()
		defer inner.Close()
		if _, err := io.Copy(inner, resp.Body); err != nil {
			conn.fail(err)
		}
		resp.Body.Close()
		_ = inner.CloseWrite() // the application may have gone
		if conn.broken.Load() == nil {
			<-body.done // the other direction may go on
		}
	}()
	return conn, nil
}

// readSide is the body of CONNECT: what the application writes.
type readSide struct {
	conn *net.UnixConn
	once sync.Once
	done chan struct{}
}

func (r *readSide) Read(p []byte) (int, error) { return r.conn.Read(p) }

// Close is called by the transport when the stream is over in this direction.
func (r *readSide) Close() error {
	r.once.Do(func() { close(r.done) })
	return r.conn.CloseRead()
}
