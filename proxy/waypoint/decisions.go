package waypoint

import (
	"net/netip"
	"time"
)

// keepDecision keeps what was decided about the exchange, for who asks afterwards (explain.go).
func (x *exchange) keepDecision(status int, d time.Duration, flags, dryRun string) {
	s := x.tun.p.decisions.Begin(x.tun.shard)
	if s == nil {
		return
	}
	s.Start, s.Duration, s.Config = x.start.UnixNano(), d, 0
	if x.rt != nil {
		s.Config = uint32(x.rt.snapshot.Version)
	}
	s.Principal, s.Flags, s.Details, s.Dry = x.tun.peer.Principal, flags, x.details, dryRun
	s.Status, s.Local, s.Proto = uint16(status), x.local, x.req.Proto
	s.Rule, s.Cluster = "", ""
	if x.rule != nil {
		s.Rule = x.rule.name
	}
	if x.backend != nil && x.backend.cluster != nil {
		s.Cluster = x.backend.cluster.name
	}
	var endpoint netip.AddrPort
	if x.dest != nil {
		endpoint = x.dest.addr
	}
	s.Addresses(x.tun.peer.Addr, x.req.Destination, endpoint)
	s.Texts(viewString(x.requestID), x.req.Method, x.req.Authority, viewString(x.path))
	s.End()
}
