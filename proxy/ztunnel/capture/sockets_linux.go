package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"cairnproxy.dev/cairn/host"
	"golang.org/x/sys/unix"
)

func (s *Sockets) listenControl(addr netip.Addr) host.Control {
	return func(fd int) error {
		if err := s.mark(fd); err != nil {
			return err
		}
		if s.ReusePort {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
				return fmt.Errorf("setting SO_REUSEPORT: %w", err)
			}
		}
		if s.Mark != 0 {
			// Needed where connections come by TPROXY; without the permission they do not.
			_ = transparent(fd, addr)
		}
		return nil
	}
}

func (s *Sockets) dialControl(source netip.Addr, spoof bool) host.Control {
	return func(fd int) error {
		if err := s.mark(fd); err != nil {
			return err
		}
		if !source.IsValid() {
			return nil
		}
		// With an address but no port to bind, choose the port at connect: then
		// it need only be unique together with the destination.
		_ = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		if !spoof {
			return nil
		}
		if err := transparent(fd, source); err != nil {
			return &bindError{fmt.Errorf("making the socket transparent: %w", err)}
		}
		return nil
	}
}

func (s *Sockets) mark(fd int) error {
	if s.Mark == 0 {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(s.Mark)); err != nil {
		return fmt.Errorf("setting packet mark %#x (needs CAP_NET_ADMIN): %w", s.Mark, err)
	}
	return nil
}

// transparent permits fd to be bound to an address that is not the host's.
func transparent(fd int, addr netip.Addr) error {
	if addr.Is4() {
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1), unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1))
	}
	return errors.Join(unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1), unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1))
}

// bindError says that the source address, not the destination, was the problem.
type bindError struct{ err error }

func (e *bindError) Error() string { return e.err.Error() }
func (e *bindError) Unwrap() error { return e.err }

func isBindError(err error) bool {
	var b *bindError
	return errors.As(err, &b) || errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EPERM)
}

func setUserTimeout(conn *net.TCPConn, d time.Duration) {
	_ = control(conn, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
}

func checkTransparent(ln *net.TCPListener) error {
	rc, err := ln.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := rc.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1) }); err != nil {
		return err
	}
	return serr
}

func control(conn *net.TCPConn, f func(fd int) error) error {
	rc, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := rc.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// ip6OriginalDst is IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv6/ip6_tables.h.
const ip6OriginalDst = 80

// OriginalDst returns where a redirected connection was going: what conntrack
// remembers, or, for a connection that came by TPROXY or without redirection,
// its local address.
func OriginalDst(conn *net.TCPConn) (netip.AddrPort, error) {
	local := AddrPort(conn.LocalAddr())
	var dst netip.AddrPort
	err := control(conn, func(fd int) error {
		if local.Addr().Is4() {
			// The kernel writes a sockaddr_in; Mreq is a buffer of its size.
			sa, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, unix.SO_ORIGINAL_DST)
			if err == nil {
				b := sa.Multiaddr
				dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3]))
			}
			return err
		}
		// MTUInfo begins with a sockaddr_in6.
		info, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, ip6OriginalDst)
		if err == nil {
			port := binary.NativeEndian.AppendUint16(nil, info.Addr.Port) // it is in network order
			dst = netip.AddrPortFrom(netip.AddrFrom16(info.Addr.Addr).Unmap(), binary.BigEndian.Uint16(port))
		}
		return err
	})
	switch {
	case err == nil:
		return dst, nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOPROTOOPT), errors.Is(err, unix.EOPNOTSUPP):
		return local, nil
	}
	return netip.AddrPort{}, fmt.Errorf("asking for the original destination: %w", err)
}
