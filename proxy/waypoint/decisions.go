package waypoint

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"cairnproxy.dev/cairn/telemetry/decision"
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
	s.Service, s.Rule, s.Cluster = "", "", ""
	if x.port != nil && x.port.service != nil {
		s.Service = x.port.service.Key.Hostname
	}
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
	s.Texts(viewString(x.requestID), x.req.Method, x.req.Authority, x.publicPath())
	if x.port != nil && x.port.told != nil {
		s.Fields(x.port.told, x.req.Fields)
	}
	s.End()
}

// fieldsToTell are the header fields that records of requests to sp tell of: those that its policies and routes look at, as
// far as they hold no secrets and there is room. nil is for none.
func fieldsToTell(sp *servicePort) *decision.Fields {
	names := sp.authz.Fields()
	for i, a := range sp.routes {
		for _, m := range a.Route.Matches {
			for _, h := range m.Headers {
				names = append(names, strings.ToLower(h.Name))
			}
		}
		if ru := sp.rules[i]; ru.authz != nil {
			names = append(names, ru.authz.set.Fields()...)
		}
	}
	var tokens []string // where they stand, or what they say
	for _, p := range sp.policies.Tokens {
		for _, r := range p.Rules {
			tokens = append(tokens, strings.ToLower(r.OutputPayloadToHeader))
			for _, h := range r.FromHeaders {
				tokens = append(tokens, strings.ToLower(h.Name))
			}
		}
	}
	slices.Sort(names)
	var out decision.Fields
	n := 0
	for _, name := range slices.Compact(names) {
		if n < len(out) && !secret(name) && !slices.Contains(tokens, name) {
			out[n] = name
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return &out
}

// secret reports whether a header field of that name may hold what nobody is to read: credentials and cookies by
// their names, and what is no name.
func secret(name string) bool {
	return strings.ContainsAny(name, "(:") || slices.ContainsFunc(
		[]string{"auth", "cookie", "token", "secret", "passw", "key", "session", "signature", "credential", "jwt", "cert", "otp"},
		func(part string) bool { return strings.Contains(name, part) })
}
