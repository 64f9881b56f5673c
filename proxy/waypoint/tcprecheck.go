package waypoint

import (
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// What a new policy forbids is closed, however old, as node proxies do it for their own policies: they cannot judge
// who comes through a waypoint. There is no list of connections to go through. Each looks, when bytes come, whether the
// Runtime is still the one whose policies let it pass, so that none gets through that is forbidden.

// stillAllowed reports whether the connection's bytes may pass, and closes it if not. s is locked.
func (s *tcpSession) stillAllowed(t *loop.Turn) bool {
	if s.tun.p.runtime.Load().id == s.judged {
		return true
	}
	rt, sp := s.tun.current()
	s.judged = rt.id
	if sp == nil || sp == s.sp { // what is not served any more ends with its endpoints
		return true
	}
	v := sp.authz.Connections().Decide(s.tun.l4Facts(sp))
	if v.Allowed {
		return true
	}
	s.flag, s.cause = "-", v.Details
	if s.up != nil && s.up.out != nil {
		s.up.out.Reset(t, h2.Cancel)
	}
	if s.accept != nil {
		s.accept.RejectInline(t, 401)
	} else {
		s.down.Reset(t, h2.ConnectError)
	}
	s.finish(t)
	return false
}
