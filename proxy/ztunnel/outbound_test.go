package ztunnel

import (
	"context"
	"errors"
	"testing"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/tunnel"
)

// TestClassify: the response flag says whose fault it was that a connect failed.
func TestClassify(t *testing.T) {
	handshake := func(err error) error { return &tunnel.TLSError{Err: &identity.PeerError{Err: err}} }
	tests := []struct {
		name string
		err  error
		flag string
	}{
		{"refused", errors.New("connection refused"), flagConnect},
		{"policy", &tunnel.StatusError{Code: 401}, flagDeny},
		{"unavailable", &tunnel.StatusError{Code: 503}, flagConnect},
		{"stranger", handshake(errors.New("another identity")), flagTLS},
		{"revoked", handshake(&identity.RevokedError{Serial: "0x1"}), flagRevoked},
		{"tls", &tunnel.TLSError{Err: errors.New("bad record")}, flagTLS},
		{"no_certificate", &tunnel.TLSError{Err: &identity.UnavailableError{Err: errors.New("no CA")}}, flagIdentity},
		{"silence", context.DeadlineExceeded, flagNetworkPolicy},
		{"known", &Refusal{Flag: flagDeny}, flagDeny},
		{"none", nil, flagNone},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := flagOf(classify(Hop{Protocol: ProtocolHBONE}, tt.err)); got != tt.flag {
				t.Errorf("flag %s, want %s", got, tt.flag)
			}
		})
	}
}
