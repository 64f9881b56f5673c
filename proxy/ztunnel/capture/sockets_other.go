//go:build !linux

package capture

import (
	"net"
	"net/netip"
	"time"

	"cairnproxy.dev/cairn/host"
)

func (s *Sockets) listenControl(netip.Addr) host.Control { return s.refuseMark() }

func (s *Sockets) dialControl(netip.Addr, bool) host.Control { return s.refuseMark() }

// refuseMark fails for sockets that would need a mark.
func (s *Sockets) refuseMark() host.Control {
	if s.Mark == 0 {
		return nil
	}
	return func(int) error { return host.ErrUnsupported }
}

func isBindError(error) bool { return true }

func setUserTimeout(*net.TCPConn, time.Duration) {}

func checkTransparent(*net.TCPListener) error { return host.ErrUnsupported }

// OriginalDst fails with host.ErrUnsupported: there is no redirection here.
func OriginalDst(*net.TCPConn) (netip.AddrPort, error) { return netip.AddrPort{}, host.ErrUnsupported }
