package waypoint

import (
	"encoding/hex"
	"math/rand/v2"
	"unsafe"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/router"
	"cairnproxy.dev/cairn/tunnel/h1"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// route finds what the request is for and starts it on its way through the
// chains, to an endpoint or to an answer of our own.
func (x *exchange) route(t *loop.Turn) {
	x.req.Peer, x.req.Destination = x.tun.peer, x.tun.dst
	x.keepPath()
	x.rt, x.port = x.tun.current()
	x.identify()
	if x.port == nil {
		x.flag = flagNoRoute
		x.reply(t, 404, "")
		return
	}
	x.req.Destination = x.tun.destination(x.port)
	if x.req.Authority == "" {
		x.supplyHost()
	}
	x.fx.Reset()
	x.fx.Req, x.fx.Resp, x.fx.Host, x.fx.Now, x.fx.Service = &x.req, nil, x, t.Now, x.port.service
	if x.rt.heads != nil && !x.rt.heads.apply(t, x) {
		return
	}
	x.proceed(t, stageService, 0)
}

// matchRule finds the rule for the request, and starts its time. It reports
// false when the request was answered.
func (x *exchange) matchRule(t *loop.Turn) bool {
	var m router.Match
	x.rule = x.port.match(&x.req, &m)
	if x.rule == nil {
		x.flag, x.details = flagNoRoute, "route_not_found"
		x.reply(t, 404, "")
		return false
	}
	x.fx.MatchedPrefix = m.Prefix
	if x.rule.broken != "" {
		x.details = "invalid_route"
		x.replyNowhere(t)
		return false
	}
	x.startTimes(t)
	return true
}

// chooseBackend picks one of the rule's backends. It reports false when the request
// was answered.
func (x *exchange) chooseBackend(t *loop.Turn) bool {
	i := -1
	if x.rule.session != nil {
		i = x.session(t)
	}
	if i < 0 {
		i = x.rule.split.Pick()
	}
	if i < 0 {
		x.details = "no_backend"
		x.replyNowhere(t)
		return false
	}
	x.backend = x.rule.backends[i]
	if x.backend.broken != "" {
		x.details = "invalid_backend"
		x.replyNowhere(t)
		return false
	}
	return true
}

// filterResponse applies the response steps, the innermost first. It reports
// false when one has an answer of its own: x.fx.Reply goes out instead.
func (x *exchange) filterResponse(t *loop.Turn) bool {
	x.fx.Resp, x.fx.Now = &x.resp, t.Now
	for _, c := range [...]filters.Chain{x.backend.chain, x.rule.chain, x.port.chain} {
		if len(c) == 0 {
			continue
		}
		switch res, _ := c.Response(&x.fx, 0); res {
		case filters.Continue:
		case filters.Replied:
			return false
		default: // there is no waiting here
			x.unpark()
			x.fx.Answer(500, "", "filter_parked", "")
			return false
		}
	}
	return true
}

// supplyHost gives a host to a request of HTTP/1.0 without one: what goes on is
// HTTP/1.1 or 2, where there must be one, and policies see what the endpoint sees.
func (x *exchange) supplyHost() {
	if v := x.port.service; v != nil {
		x.req.Authority, x.req.Host = v.Key.Hostname, v.Key.Hostname
		return
	}
	x.req.Authority, x.req.Host = x.req.Destination.String(), x.req.Destination.Addr().String()
}

// keepPath keeps the client's path for the log, before filters rewrite it.
func (x *exchange) keepPath() {
	x.path = append(x.path[:0], x.req.Path...)
	if x.req.HasQuery {
		x.path = append(append(x.path, '?'), x.req.Query...)
	}
}

const clientCert = "x-forwarded-client-cert"

// identify gives the request an id, says what the client used, and removes
// what a client must not claim.
func (x *exchange) identify() {
	f := &x.req.Fields
	id, proto, claims, timeout := "", false, false, ""
	for i := range *f {
		switch (*f)[i].Name {
		case "x-request-id":
			id = (*f)[i].Value
		case "x-forwarded-proto":
			proto = true
		case "grpc-timeout":
			timeout = (*f)[i].Value
		case "x-forwarded-for": // common, and nobody's claim
		default:
			if name := (*f)[i].Name; name != "" && name[0] == 'x' { // as all claims do
				claims = claims || h1.ClaimsIdentity(name) || h1.ClaimsAddress(name)
			}
		}
	}
	if timeout != "" && isGRPC(&x.req) {
		x.grpcTimeout = parseGRPCTimeout(timeout)
	}
	if claims {
		*f = x.rt.heads.disown(*f)
	}
	if id == "" || len(id) > 128 {
		x.requestID = appendUUID(x.requestID[:0])
		f.Set("x-request-id", viewString(x.requestID))
	} else {
		x.requestID = append(x.requestID[:0], id...)
	}
	if !proto {
		*f = append(*f, mesh.Field{Name: "x-forwarded-proto", Value: "http"})
	}
}

// appendUUID appends a random UUID, version 4.
func appendUUID(b []byte) []byte {
	var u [16]byte
	hi, lo := rand.Uint64(), rand.Uint64()
	for i := range 8 {
		u[i], u[8+i] = byte(hi>>(8*i)), byte(lo>>(8*i))
	}
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	for i, part := range [...][]byte{u[:4], u[4:6], u[6:8], u[8:10], u[10:]} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, part)
	}
	return b
}

// viewString is b as a string without a copy; b must not change while it is used.
func viewString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// useHTTP2 decides how to speak to an endpoint: as its port says, else as the
// client speaks. gRPC needs HTTP/2 wherever it goes.
func (x *exchange) useHTTP2(p mesh.AppProtocol, d *destination) bool {
	if x.useHTTP1 {
		return false
	}
	switch p {
	case mesh.ProtocolHTTP2, mesh.ProtocolGRPC:
		return true
	case mesh.ProtocolHTTP:
		return x.req.Proto == 2 && isGRPC(&x.req)
	default:
		if v := d.version(); v != 0 && !isGRPC(&x.req) {
			return v == 2
		}
		return x.req.Proto == 2
	}
}

func isGRPC(r *mesh.Request) bool {
	ct, _ := r.Fields.Get("content-type")
	const grpc = "application/grpc"
	return len(ct) >= len(grpc) && ct[:len(grpc)] == grpc && (len(ct) == len(grpc) || ct[len(grpc)] == '+' || ct[len(grpc)] == ';')
}
