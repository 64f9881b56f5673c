package telemetry

import (
	"net/netip"
	"strconv"
	"time"
)

// Record is what the access log says of one HTTP request, under Envoy's names.
// Empty strings and invalid addresses are "not known": "-" in text, null in
// JSON. Its strings may be views of memory that is reused after the append.
type Record struct {
	Start    time.Time
	Method   string
	Path     string // as the client sent it, with the query
	Protocol string // "HTTP/1.1", "HTTP/2"

	ResponseCode        int    // 0 when no response was sent
	ResponseFlags       string // Envoy's short flags, joined by commas
	ResponseCodeDetails string // "via_upstream", "rbac_access_denied_matched_policy[…]", …
	// GRPCStatus is the status of a gRPC call, a number in decimal. Istio's text
	// format has no place for it; JSON has it as grpc_status, where there is one.
	GRPCStatus string
	// DryRun is what policies in dry run would have done: "limited by NAMESPACE/POLICY/LIMIT". Istio's
	// text format has no place for it; JSON has it as dry_run, where there is something.
	DryRun string

	ConnectionTerminationDetails   string
	UpstreamTransportFailureReason string

	BytesReceived uint64 // of the request's body
	BytesSent     uint64 // of the response's body
	Duration      time.Duration
	// UpstreamServiceTime is from the last byte of the request to the first of
	// the response's head; negative if there was none.
	UpstreamServiceTime time.Duration

	ForwardedFor string // x-forwarded-for
	UserAgent    string
	RequestID    string
	Authority    string

	UpstreamHost            netip.AddrPort
	UpstreamCluster         string
	UpstreamLocalAddress    netip.AddrPort
	DownstreamLocalAddress  netip.AddrPort
	DownstreamRemoteAddress netip.AddrPort

	RequestedServerName string
	RouteName           string
	// SourcePrincipal is the client's SPIFFE URI. Istio's text format has no
	// place for it; JSON has it as source_principal.
	SourcePrincipal string
}

// hasServiceTime: without an upstream there is nothing to tell.
func (r *Record) hasServiceTime() bool { return r.UpstreamServiceTime >= 0 && r.UpstreamHost.IsValid() }

// AppendRecord appends r as one line in Istio's default text format.
func AppendRecord(dst []byte, r *Record) []byte {
	dst = append(dst, '[')
	dst = appendTime(dst, r.Start, 3)
	dst = append(dst, `] "`...)
	dst = appendToken(dst, r.Method)
	dst = append(dst, ' ')
	dst = appendToken(dst, r.Path)
	dst = append(dst, ' ')
	dst = appendToken(dst, r.Protocol)
	dst = append(dst, `" `...)
	dst = strconv.AppendInt(dst, int64(r.ResponseCode), 10)
	dst = append(dst, ' ')
	dst = appendToken(dst, r.ResponseFlags)
	dst = append(dst, ' ')
	dst = appendToken(dst, r.ResponseCodeDetails)
	dst = append(dst, ' ')
	dst = appendToken(dst, r.ConnectionTerminationDetails)
	dst = append(dst, ' ')
	dst = appendQuoted(dst, r.UpstreamTransportFailureReason)
	dst = append(dst, ' ')
	dst = strconv.AppendUint(dst, r.BytesReceived, 10)
	dst = append(dst, ' ')
	dst = strconv.AppendUint(dst, r.BytesSent, 10)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, r.Duration.Milliseconds(), 10)
	dst = append(dst, ' ')
	if r.hasServiceTime() {
		dst = strconv.AppendInt(dst, r.UpstreamServiceTime.Milliseconds(), 10)
	} else {
		dst = append(dst, '-')
	}
	dst = append(dst, ' ')
	dst = appendQuoted(dst, r.ForwardedFor)
	dst = append(dst, ' ')
	dst = appendQuoted(dst, r.UserAgent)
	dst = append(dst, ' ')
	dst = appendQuoted(dst, r.RequestID)
	dst = append(dst, ' ')
	dst = appendQuoted(dst, r.Authority)
	dst = append(dst, ` "`...)
	dst = appendAddr(dst, r.UpstreamHost)
	dst = append(dst, `" `...)
	dst = appendToken(dst, r.UpstreamCluster)
	dst = append(dst, ' ')
	dst = appendAddr(dst, r.UpstreamLocalAddress)
	dst = append(dst, ' ')
	dst = appendAddr(dst, r.DownstreamLocalAddress)
	dst = append(dst, ' ')
	dst = appendAddr(dst, r.DownstreamRemoteAddress)
	dst = append(dst, ' ')
	dst = appendToken(dst, r.RequestedServerName)
	dst = append(dst, ' ')
	dst = appendToken(dst, r.RouteName)
	return append(dst, '\n')
}

// AppendRecordJSON appends r as one line of JSON with Istio's keys, in order of
// the alphabet as Envoy writes them.
func AppendRecordJSON(dst []byte, r *Record) []byte {
	dst = append(dst, `{"authority":`...)
	dst = appendJSONOrNull(dst, r.Authority)
	dst = append(dst, `,"bytes_received":`...)
	dst = strconv.AppendUint(dst, r.BytesReceived, 10)
	dst = append(dst, `,"bytes_sent":`...)
	dst = strconv.AppendUint(dst, r.BytesSent, 10)
	dst = append(dst, `,"connection_termination_details":`...)
	dst = appendJSONOrNull(dst, r.ConnectionTerminationDetails)
	dst = append(dst, `,"downstream_local_address":`...)
	dst = appendAddrJSON(dst, r.DownstreamLocalAddress)
	dst = append(dst, `,"downstream_remote_address":`...)
	dst = appendAddrJSON(dst, r.DownstreamRemoteAddress)
	dst = append(dst, `,"duration":`...)
	dst = strconv.AppendInt(dst, r.Duration.Milliseconds(), 10)
	if r.DryRun != "" {
		dst = append(dst, `,"dry_run":`...)
		dst = appendJSON(dst, r.DryRun)
	}
	if r.GRPCStatus != "" {
		dst = append(dst, `,"grpc_status":`...)
		dst = appendJSON(dst, r.GRPCStatus)
	}
	dst = append(dst, `,"method":`...)
	dst = appendJSONOrNull(dst, r.Method)
	dst = append(dst, `,"path":`...)
	dst = appendJSONOrNull(dst, r.Path)
	dst = append(dst, `,"protocol":`...)
	dst = appendJSONOrNull(dst, r.Protocol)
	dst = append(dst, `,"request_id":`...)
	dst = appendJSONOrNull(dst, r.RequestID)
	dst = append(dst, `,"requested_server_name":`...)
	dst = appendJSONOrNull(dst, r.RequestedServerName)
	dst = append(dst, `,"response_code":`...)
	dst = strconv.AppendInt(dst, int64(r.ResponseCode), 10)
	dst = append(dst, `,"response_code_details":`...)
	dst = appendJSONOrNull(dst, r.ResponseCodeDetails)
	dst = append(dst, `,"response_flags":`...)
	if r.ResponseFlags == "" {
		dst = append(dst, `"-"`...)
	} else {
		dst = appendJSON(dst, r.ResponseFlags)
	}
	dst = append(dst, `,"route_name":`...)
	dst = appendJSONOrNull(dst, r.RouteName)
	dst = append(dst, `,"source_principal":`...)
	dst = appendJSONOrNull(dst, r.SourcePrincipal)
	dst = append(dst, `,"start_time":"`...)
	dst = appendTime(dst, r.Start, 3)
	dst = append(dst, `","upstream_cluster":`...)
	return append(r.appendUpstreamJSON(dst), '}', '\n')
}

// appendUpstreamJSON appends the values from upstream_cluster to the last key.
func (r *Record) appendUpstreamJSON(dst []byte) []byte {
	dst = appendJSONOrNull(dst, r.UpstreamCluster)
	dst = append(dst, `,"upstream_host":`...)
	dst = appendAddrJSON(dst, r.UpstreamHost)
	dst = append(dst, `,"upstream_local_address":`...)
	dst = appendAddrJSON(dst, r.UpstreamLocalAddress)
	dst = append(dst, `,"upstream_service_time":`...)
	if r.hasServiceTime() {
		// A string: in Envoy it is the value of a header.
		dst = append(dst, '"')
		dst = strconv.AppendInt(dst, r.UpstreamServiceTime.Milliseconds(), 10)
		dst = append(dst, '"')
	} else {
		dst = append(dst, "null"...)
	}
	dst = append(dst, `,"upstream_transport_failure_reason":`...)
	dst = appendJSONOrNull(dst, r.UpstreamTransportFailureReason)
	dst = append(dst, `,"user_agent":`...)
	dst = appendJSONOrNull(dst, r.UserAgent)
	dst = append(dst, `,"x_forwarded_for":`...)
	return appendJSONOrNull(dst, r.ForwardedFor)
}

// appendAddr appends an address without its zone, which is this machine's affair.
func appendAddr(dst []byte, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return append(dst, '-')
	}
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port()).AppendTo(dst)
}

func appendAddrJSON(dst []byte, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return append(dst, "null"...)
	}
	dst = append(dst, '"')
	return append(appendAddr(dst, a), '"')
}
