package tunnel

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"slices"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// Revocations says which peers are not to be talked to any more, though their
// handshakes went well: *identity.Cache. Connections are asked about once a
// second, and only after Revision has changed.
type Revocations interface {
	// Revision changes whenever the answers of Revoked may have.
	Revision() uint64
	// Revoked returns why the peer of a connection is to be cut off, or nil.
	Revoked(cs *tls.ConnectionState) error
}

// revision is r's, or 0 where there is none.
func revision(r Revocations) uint64 {
	if r == nil {
		return 0
	}
	return r.Revision()
}

// cutRevoked ends a connection at once if its peer was revoked: its streams are
// reset and its reader ends.
func cutRevoked(r Revocations, log *slog.Logger, side string, sock *loop.Socket, peer mesh.Identity, remote netip.AddrPort) {
	if r == nil {
		return
	}
	cs, ok := sock.TLS()
	if !ok {
		return
	}
	err := r.Revoked(&cs)
	if err == nil {
		return
	}
	attrs := []any{"side", side, "peer", remote, "identity", peer.String(), "error", err}
	if e, ok := errors.AsType[*identity.RevokedError](err); ok {
		attrs = append(attrs, "serial", e.Serial)
	}
	log.Warn("cutting the tunnels of a revoked peer", attrs...)
	sock.Abort()
}

// cutRevoked ends the connection if its peer was revoked.
func (c *serverConn) cutRevoked() {
	cutRevoked(c.s.o.Revocations, c.s.o.Log, "server", c.sock, c.peer.Identity, c.peer.Addr)
}

// cutRevoked ends the connections whose peer was revoked.
func (pe *Peer) cutRevoked() {
	pe.mu.Lock()
	conns := slices.Clone(pe.conns)
	pe.mu.Unlock()
	for _, c := range conns {
		c.cutRevoked()
	}
}

func (c *clientConn) cutRevoked() {
	cutRevoked(c.pe.p.o.Revocations, c.pe.p.o.Log, "client", c.sock, c.peer, c.pe.tg.Addr)
}
