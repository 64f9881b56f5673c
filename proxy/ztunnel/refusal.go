package ztunnel

import (
	"errors"
	"fmt"

	"cairnproxy.dev/cairn/tunnel"
)

// Response flags of the L4 metrics and the access log, in ztunnel's spelling.
const (
	flagNone          = "-"
	flagDeny          = "DENY"
	flagConnect       = "CONNECT"
	flagTLS           = "TLS_FAILURE"
	flagHTTP2         = "H2_HANDSHAKE_FAILURE"
	flagNetworkPolicy = "NETWORK_POLICY"
	flagIdentity      = "IDENTITY_ERROR"
	flagRevoked       = "CERT_REVOKED"
	flagBinding       = "WAYPOINT_BINDING" // ours: it would have gone around a waypoint
)

// Refusal is why a connection was not carried. It is made where the decision
// falls and read in one place each for the peer (Status), the metrics (Flag)
// and the access log (Reason).
type Refusal struct {
	// Status is the answer to a CONNECT; 0 for connections that are not HTTP.
	Status int
	// Flag is the response flag.
	Flag string
	// Reason says in words what was wrong.
	Reason string
	// Cause is the error underneath, or nil.
	Cause error
}

// Error returns the reason and the cause.
func (r *Refusal) Error() string {
	if r.Cause != nil {
		return r.Reason + ": " + r.Cause.Error()
	}
	return r.Reason
}

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Cause }

func refuse(status int, flag, format string, args ...any) *Refusal {
	return &Refusal{Status: status, Flag: flag, Reason: fmt.Sprintf(format, args...)}
}

// flagOf returns the response flag of err: "-" for nil, CONNECT when nothing
// better is known.
func flagOf(err error) string {
	if err == nil {
		return flagNone
	}
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Flag
	}
	if errors.Is(err, tunnel.ErrReset) {
		return flagNone // it was served; that an end was rough is the peers' business
	}
	return flagConnect
}
