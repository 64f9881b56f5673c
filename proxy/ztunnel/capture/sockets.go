// Package capture makes the node proxy's sockets: listeners that take a pod's
// redirected connections, dialers whose packets the redirection rules let pass,
// and the original destination of what was captured.
//
// The sockets live in the network namespace of the pod that they serve. They
// are marked, so that the pod's rules (host.Redirection) tell them from the
// pod's own; and a connection to the pod's application may carry the client's
// address as its source, so that the application sees who called it.
package capture

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"cairnproxy.dev/cairn/host"
)

// Spoof says whether connections to the application carry the client's address.
type Spoof uint8

const (
	// SpoofAuto does where the system permits it.
	SpoofAuto Spoof = iota
	// SpoofNever uses the pod's own address.
	SpoofNever
	// SpoofRequired fails where it is not permitted.
	SpoofRequired
)

// Sockets makes sockets in one network namespace. The zero value makes plain
// ones in the process's own. It may be used from several goroutines once set up.
type Sockets struct {
	// Namespace is where the sockets live; nil means the process's own.
	Namespace *host.Namespace
	// Mark is the packet mark (SO_MARK); 0 sets none.
	Mark uint32
	// ReusePort lets a successor listen before the predecessor has gone.
	ReusePort bool
	// Spoof is for DialApp.
	Spoof Spoof
	// IPv4Only leaves IPv6 alone.
	IPv4Only bool
	// KeepAlive of accepted and dialled connections; see DefaultKeepAlive.
	KeepAlive net.KeepAliveConfig
	// UserTimeout is TCP_USER_TIMEOUT; 0 leaves the system's.
	UserTimeout time.Duration
}

// DefaultKeepAlive finds dead peers within half an hour, as ztunnel does.
var DefaultKeepAlive = net.KeepAliveConfig{Enable: true, Idle: 180 * time.Second, Interval: 180 * time.Second, Count: 9}

// Listen listens on a port of every address, IPv6 too unless the namespace
// has none.
func (s *Sockets) Listen(ctx context.Context, port uint16) (*net.TCPListener, error) {
	if !s.IPv4Only {
		if ln, err := s.ListenOn(ctx, netip.AddrPortFrom(netip.IPv6Unspecified(), port)); err == nil {
			return ln, nil
		}
	}
	return s.ListenOn(ctx, netip.AddrPortFrom(netip.IPv4Unspecified(), port))
}

// ListenOn listens on one address.
func (s *Sockets) ListenOn(ctx context.Context, addr netip.AddrPort) (*net.TCPListener, error) {
	return s.Namespace.ListenTCP(ctx, addr, s.listenControl(addr.Addr()))
}

// ListenUDP binds a UDP socket.
func (s *Sockets) ListenUDP(ctx context.Context, addr netip.AddrPort) (*net.UDPConn, error) {
	return s.Namespace.ListenUDP(ctx, addr, s.listenControl(addr.Addr()))
}

// Dial connects to an address of the mesh. source may be the zero Addr.
func (s *Sockets) Dial(ctx context.Context, source netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
	conn, err := s.Namespace.DialTCP(ctx, netip.AddrPortFrom(source, 0), to, s.dialControl(source, false))
	if err != nil {
		return nil, err
	}
	s.Tune(conn)
	return conn, nil
}

// DialApp connects to the application at to on behalf of client. The
// connection carries the client's address where that is possible, asked for
// and different from to's; spoofed says whether it does.
func (s *Sockets) DialApp(ctx context.Context, client netip.Addr, to netip.AddrPort) (conn *net.TCPConn, spoofed bool, err error) {
	if s.Spoof != SpoofNever && client.IsValid() && client != to.Addr() && client.Is4() == to.Addr().Is4() {
		conn, err = s.Namespace.DialTCP(ctx, netip.AddrPortFrom(client, 0), to, s.dialControl(client, true))
		if err == nil {
			s.Tune(conn)
			return conn, true, nil
		}
		if s.Spoof == SpoofRequired || !isBindError(err) {
			return nil, false, err
		}
	}
	conn, err = s.Dial(ctx, netip.Addr{}, to)
	return conn, false, err
}

// Tune sets the keepalive of an accepted connection.
func (s *Sockets) Tune(conn *net.TCPConn) {
	if s.KeepAlive.Enable {
		_ = conn.SetKeepAliveConfig(s.KeepAlive)
	}
	if s.UserTimeout > 0 {
		setUserTimeout(conn, s.UserTimeout)
	}
}

// Check verifies that sockets can be made as configured, and says what is missing.
func (s *Sockets) Check(ctx context.Context) error {
	ln, err := s.ListenOn(ctx, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0))
	if err != nil {
		return fmt.Errorf("checking the network namespace: %w", err)
	}
	defer ln.Close()
	if s.Spoof == SpoofRequired {
		if err := checkTransparent(ln); err != nil {
			return fmt.Errorf("keeping the clients' source addresses needs CAP_NET_ADMIN (or set ENABLE_ORIG_SRC=false): %w", err)
		}
	}
	return nil
}

// AddrPort returns a TCP address with IPv4 in its own form.
func AddrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// DialUDP makes a UDP socket that is connected to a nameserver.
func (s *Sockets) DialUDP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	any := netip.IPv4Unspecified()
	if to.Addr().Is6() {
		any = netip.IPv6Unspecified()
	}
	plain := *s
	plain.ReusePort = false
	conn, err := plain.ListenUDP(ctx, netip.AddrPortFrom(any, 0))
	if err != nil {
		return nil, err
	}
	return &connectedUDP{conn, to}, nil
}

// connectedUDP is a UDP socket with one peer.
type connectedUDP struct {
	*net.UDPConn
	peer netip.AddrPort
}

// Write sends to the peer.
func (c *connectedUDP) Write(b []byte) (int, error) { return c.WriteToUDPAddrPort(b, c.peer) }

// Read receives from the peer and ignores everybody else.
func (c *connectedUDP) Read(b []byte) (int, error) {
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil || netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) == c.peer {
			return n, err
		}
	}
}
