package ztunnel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"cairnproxy.dev/cairn/tunnel"
)

// relayStream joins conn with an HBONE stream. done is called when both have
// ended, later if the connection falls quiet.
func (s *site) relayStream(conn *net.TCPConn, stream *tunnel.Stream, c *connection, done func(error)) {
	// To the relay it looks as if the peer had reset the stream: it resets conn
	// and tells the peer.
	c.onAbort(func(reason error) { stream.Reset(nil, nil, reason) })
	s.wg.Add(1) // the caller is one of those that wg waits for
	tunnel.RelayIn(&s.p.lot, conn, stream, &c.bytes, func(err error) {
		defer s.wg.Done()
		done(err)
	})
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// relayTCP joins two TCP connections until both directions have ended, and
// closes them. The end of one direction is passed on and leaves the other
// open; a reset of one connection resets the other. client is the one that
// FromConn counts the bytes of.
func relayTCP(client, server *net.TCPConn, c *connection) error {
	c.onAbort(func(error) { reset(client); reset(server) })
	back := make(chan error, 1)
	go func() { back <- copyTCP(client, server, &c.bytes.ToConn) }()
	err := copyTCP(server, client, &c.bytes.FromConn)
	err = errors.Join(err, <-back)
	if err != nil {
		reset(client)
		reset(server)
		return fmt.Errorf("%w: %w", tunnel.ErrReset, err)
	}
	return errors.Join(client.Close(), server.Close())
}

// copyTCP copies src to dst until src ends, then ends dst's input. If either
// fails, both are reset, which ends the other direction too.
func copyTCP(dst, src *net.TCPConn, n *atomic.Uint64) error {
	bp := buffers.Get().(*[]byte)
	defer buffers.Put(bp)
	for {
		k, err := src.Read(*bp)
		if k > 0 {
			n.Add(uint64(k))
			if _, werr := dst.Write((*bp)[:k]); werr != nil {
				err = werr
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			_ = dst.CloseWrite()
			return nil
		default:
			reset(src)
			reset(dst)
			return err
		}
	}
}
