package waypoint

import (
	"errors"
	"net/http"
	"strconv"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel"
	"cairnproxy.dev/cairn/tunnel/h1"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// Envoy's response flags, as far as they occur here.
const (
	flagNoRoute               = "NR"    // no route found
	flagNoCluster             = "NC"    // no upstream cluster found
	flagNoHealthy             = "UH"    // no healthy upstream
	flagOverflow              = "UO"    // upstream overflow: the circuit breaker is open
	flagConnectFailure        = "UF"    // upstream connection failure
	flagConnectionTermination = "UC"    // upstream connection termination
	flagRemoteReset           = "UR"    // upstream remote reset
	flagTimeout               = "UT"    // upstream request timeout
	flagProtocolError         = "UPE"   // upstream protocol error
	flagDownstreamGone        = "DC"    // downstream connection termination
	flagDownstreamProtocol    = "DPE"   // downstream protocol error
	flagIdleTimeout           = "SI"    // stream idle timeout
	flagDelayed               = "DI"    // delayed by a fault
	flagMaxDuration           = "UMSDR" // max stream duration reached
	flagRetryLimit            = "URX"   // retry limit exceeded
)

// reply answers a request ourselves, with text or nothing. A gRPC call gets a
// gRPC status that follows from status and x.flag, and the text as its message.
func (x *exchange) reply(t *loop.Turn, status int, body string) {
	x.replyFields(t, status, "", body, nil)
}

// replyNowhere replies where a rule or its backend leads to nothing: 500, and to gRPC
// UNAVAILABLE, as Gateway API's GRPCRoute has it (backendRefs).
func (x *exchange) replyNowhere(t *loop.Turn) {
	x.replyFields(t, 500, "14", "", nil)
}

// answer replies with what a filter says.
func (x *exchange) answer(t *loop.Turn, r *filters.Reply) {
	x.flag, x.details = r.Flag, r.Details
	x.replyFields(t, r.Status, r.GRPCStatus, r.Body, r.Fields)
}

// replyFields is the one place in which we answer ourselves. grpc is the status
// for a gRPC call, "" for the one that follows from status.
func (x *exchange) replyFields(t *loop.Turn, status int, grpc, body string, fields mesh.Fields) {
	x.resp.Status = status
	x.resp.Fields = append(x.resp.Fields[:0], fields...)
	x.fx.Resp = &x.resp
	if (status == 401 || status == 403) && len(x.requestID) > 0 {
		// Who is refused learns nothing but this, to ask somebody who may run cairn explain.
		x.resp.Fields.Set("x-request-id", viewString(x.requestID))
	}
	if x.rule != nil {
		x.rule.chain.Local(&x.fx)
	}
	if x.port != nil {
		x.port.chain.Local(&x.fx)
	}
	if isGRPC(&x.req) {
		x.replyGRPC(t, status, grpc, body)
		return
	}
	x.respF = h1.Framing{Length: int64(len(body)), NoBody: x.req.Method == http.MethodHead}
	if body != "" && !x.resp.Fields.Has("content-type") {
		x.resp.Fields.Add("content-type", "text/plain")
	}
	if x.respF.NoBody {
		x.respF.HasDeclared, x.respF.Declared = true, int64(len(body))
		x.respF.Length, body = 0, ""
	}
	x.send(t, body)
}

// replyGRPC answers a gRPC call as its clients understand it: HTTP's 200 and
// nothing but a head, in which what would be trailers stand ("Trailers-Only"
// in gRPC's PROTOCOL-HTTP2). The client's HTTP version makes no difference.
func (x *exchange) replyGRPC(t *loop.Turn, status int, grpc, body string) {
	if grpc == "" {
		grpc = grpcStatusOf(status, x.flag)
	}
	x.grpcStatus = ""
	x.setGRPCStatus(grpc)
	x.resp.Status = 200
	x.resp.Fields.Set("content-type", "application/grpc")
	x.resp.Fields.Set("grpc-status", grpc)
	if body != "" {
		x.resp.Fields.Set("grpc-message", grpcMessage(body))
	}
	// HTTP/1.1 clients must be told that nothing follows; for HTTP/2 the end of
	// the stream says so.
	x.respF = h1.Framing{NoBody: x.req.Proto == 2 || x.req.Method == http.MethodHead}
	x.send(t, "")
}

// grpcStatusOf maps an HTTP status as gRPC's documentation has it
// (http-grpc-status-mapping); Envoy does the same. Our own timeouts are
// DEADLINE_EXCEEDED, though: the client's deadline and ours mean the same to it.
func grpcStatusOf(status int, flag string) string {
	switch status {
	case 400:
		return "13" // INTERNAL
	case 401:
		return "16" // UNAUTHENTICATED
	case 403:
		return "7" // PERMISSION_DENIED
	case 404:
		return "12" // UNIMPLEMENTED
	case 408, 504:
		if flag == flagTimeout || flag == flagIdleTimeout || flag == flagMaxDuration {
			return "4" // DEADLINE_EXCEEDED
		}
		return "14" // UNAVAILABLE
	case 429, 502, 503:
		return "14" // UNAVAILABLE
	}
	return "2" // UNKNOWN
}

// grpcMessage percent-encodes what may not stand in grpc-message.
func grpcMessage(s string) string {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] > '~' || s[i] == '%' {
			out := make([]byte, 0, len(s)+8)
			for j := 0; j < len(s); j++ {
				if c := s[j]; c < ' ' || c > '~' || c == '%' {
					out = append(out, '%', "0123456789ABCDEF"[c>>4], "0123456789ABCDEF"[c&15])
				} else {
					out = append(out, c)
				}
			}
			return string(out)
		}
	}
	return s
}

// send ends the exchange with the response in x.resp and x.respF.
func (x *exchange) send(t *loop.Turn, body string) {
	x.phase = open
	x.respStarted = true
	x.bytesOut = uint64(len(body))
	x.local = true
	x.down.sendHead(t, []byte(body), true)
	x.abortTries(t)
	x.finish(t)
}

// replyFailure answers for an endpoint that did not.
func (x *exchange) replyFailure(t *loop.Turn, f failure) {
	if f.late {
		x.details = f.details
		x.reply(t, f.status, "upstream request timeout")
		return
	}
	x.details = "upstream_reset_before_response_started{" + f.reason + "}"
	status := f.status
	if status == 0 {
		status = 503
	}
	if f.text != "" {
		x.reply(t, status, f.text)
		return
	}
	if status == 502 {
		x.reply(t, status, "upstream connect error or disconnect/reset before headers. reset reason: protocol error")
		return
	}
	x.reply(t, status, "upstream connect error or disconnect/reset before headers. reset reason: "+f.reason)
}

// localError answers what was not a request that could be understood. Nothing
// of x.req is to be trusted.
func (x *exchange) localError(t *loop.Turn, status int, details string) {
	x.req.Method, x.req.Path, x.req.Query, x.req.HasQuery, x.req.Authority, x.req.Host = "", "", "", false, "", ""
	x.req.Fields = x.req.Fields[:0]
	x.req.Peer, x.req.Destination = x.tun.peer, x.tun.dst
	if x.req.Proto != 2 {
		x.req.Proto, x.req.MinorVersion = 1, 1
	}
	x.requestID, x.path = x.requestID[:0], x.path[:0]
	x.flag, x.details = flagDownstreamProtocol, details
	x.reply(t, status, "")
}

// brokenRequest ends an exchange whose request turned out malformed on the way.
func (x *exchange) brokenRequest(t *loop.Turn, status int, details string) {
	x.abortTries(t)
	x.flag, x.details = flagDownstreamProtocol, details
	if x.respStarted {
		x.down.abort(t)
		x.abandon(t)
		return
	}
	x.reply(t, status, "")
}

// connectFailure describes an error of tunnel.Peer.Open or an answer to CONNECT.
func connectFailure(err error) failure {
	f := failure{flag: flagConnectFailure, reason: "connection failure", cause: err.Error()}
	if se, ok := errors.AsType[*tunnel.StatusError](err); ok {
		f.cause = "node proxy answered " + strconv.Itoa(se.Code)
	}
	return f
}
