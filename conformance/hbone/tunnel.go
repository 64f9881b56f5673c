package hbone

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// tunnel is one CONNECT stream of the client, or with Options.Fresh the place
// of one after the other.
type tunnel struct {
	s        *stream
	job      *job
	accepted bool
	broken   bool
	ending   bool        // the answer is there, and both directions are to end
	grpc     *grpcTunnel // with Options.GRPC: then what follows is not used
	response message
	busy     bool
	started  time.Time   // when the request was sent, or should have been
	queue    []time.Time // due times of requests that wait for their turn
}

// newTunnel makes a tunnel and opens it, unless every request has its own
// stream. The caller holds conn.mu and flushes.
func (lc *loadConn) newTunnel(j *job) *tunnel {
	t := &tunnel{job: j}
	if !lc.load.opts.Fresh {
		lc.waiting++
		t.s = lc.conn.open(lc.load.opts.Authority, t)
	}
	return t
}

// isBulk says that what the tunnel carries is not counted with the rest.
func (lc *loadConn) isBulk(t *tunnel) bool { return t.job == lc.load.bulk }

// headers, data and reset are called by the connection's reader with conn.mu
// held.
func (lc *loadConn) headers(c *conn, s *stream, fields []hpack.HeaderField, end bool) error {
	t := s.owner.(*tunnel)
	switch {
	case t.broken:
	case !t.accepted:
		lc.connected(t, fields, end)
	case end:
		lc.ended(t)
	}
	return nil
}

// connected handles the answer to CONNECT.
func (lc *loadConn) connected(t *tunnel, fields []hpack.HeaderField, end bool) {
	status := ""
	for _, f := range fields {
		if f.Name == ":status" {
			status = f.Value
		}
	}
	t.accepted = true
	if status != "200" || end {
		lc.fail(t, fmt.Errorf("CONNECT %s was answered with %q", lc.load.opts.Authority, status))
	}
	switch {
	case lc.load.opts.GRPC && !t.broken && !lc.isBulk(t):
		t.grpc = newGRPCTunnel(lc, t)
		t.grpc.arrived(nil) // its first bytes leave
	case !lc.load.opts.Fresh:
		lc.accepted(1)
	case !t.broken:
		lc.conn.send(t.s, t.job.request)
	}
}

func (lc *loadConn) data(c *conn, s *stream, p []byte, end bool) error {
	t := s.owner.(*tunnel)
	lc.received += uint64(len(p))
	switch {
	case t.broken:
	case t.grpc != nil:
		t.grpc.arrived(p)
	default:
		lc.http1(t, p)
	}
	if end && !t.broken {
		lc.ended(t)
	}
	return nil
}

// http1 takes the bytes of HTTP/1.1 answers.
func (lc *loadConn) http1(t *tunnel, p []byte) {
	for len(p) > 0 && !t.broken {
		if !t.busy || t.ending {
			lc.fail(t, errors.New("bytes without a request"))
			return
		}
		rest, done, err := t.job.take(&t.response, p)
		if err != nil {
			lc.fail(t, err)
			return
		}
		if done {
			lc.complete(t)
		}
		p = rest
	}
}

func (lc *loadConn) reset(c *conn, s *stream, code http2.ErrCode) error {
	t := s.owner.(*tunnel)
	switch {
	case t.broken:
		return nil
	case t.ending && code == http2.ErrCodeNo:
		lc.ended(t) // a server may say so that it is done (RFC 9113 section 8.1)
		return nil
	case !lc.load.opts.Fresh && (!t.accepted || t.grpc != nil && !t.grpc.ready):
		lc.accepted(1)
	}
	t.accepted = true
	lc.fail(t, fmt.Errorf("the tunnel was reset: %v", code))
	return nil
}

// ended handles the end of the proxy's direction.
func (lc *loadConn) ended(t *tunnel) {
	if !t.ending {
		lc.fail(t, errors.New("the proxy ended the tunnel"))
		return
	}
	t.ending = false
	lc.next(t)
}

// complete is for an answer that is all right.
func (lc *loadConn) complete(t *tunnel) {
	if lc.load.opts.Fresh {
		t.ending = true
		lc.conn.finish(t.s)
		return
	}
	lc.next(t)
}

// next counts a request that is over and sends what comes next.
func (lc *loadConn) next(t *tunnel) {
	now := lc.conn.now
	took := now.Sub(t.started) - t.response.took
	t.busy = false
	if lc.isBulk(t) {
		lc.bulkDone++
		lc.bulkFlight--
		if lc.bulking {
			lc.send(t, now)
		}
		return
	}
	lc.counted(took)
	switch {
	case lc.closed:
		lc.send(t, now)
	case len(t.queue) > 0:
		due := t.queue[0]
		t.queue = t.queue[:copy(t.queue, t.queue[1:])]
		lc.inFlight-- // it was counted when it was queued
		lc.send(t, due)
	}
}

// counted notes a request that is over.
func (lc *loadConn) counted(took time.Duration) {
	lc.latencies.Add(took)
	lc.done++
	lc.inFlight--
}

// start sends what an idle tunnel has in flight at a time. The caller holds
// conn.mu and flushes.
func (lc *loadConn) start(t *tunnel, now time.Time) {
	switch {
	case t.broken || t.busy:
	case t.grpc == nil:
		lc.send(t, now)
	default:
		if err := t.grpc.start(max(1, lc.load.opts.Calls)-t.grpc.calls, now); err != nil {
			lc.fail(t, err)
		}
	}
}

// send puts a request on an idle tunnel. The caller holds conn.mu and flushes.
func (lc *loadConn) send(t *tunnel, start time.Time) {
	t.busy, t.started = true, start
	if lc.isBulk(t) {
		lc.bulkFlight++
	} else {
		lc.inFlight++
	}
	if lc.load.opts.Fresh {
		t.accepted = false
		t.s = lc.conn.open(lc.load.opts.Authority, t) // the request follows the answer
		return
	}
	lc.conn.send(t.s, t.job.request)
}

// fail counts a failure and gives the tunnel up.
func (lc *loadConn) fail(t *tunnel, err error) {
	lc.load.note(err)
	lc.failed++
	lc.abandon(t)
}

// abandon takes a tunnel out of use.
func (lc *loadConn) abandon(t *tunnel) {
	if t.broken {
		return
	}
	t.broken = true
	switch {
	case t.busy && lc.isBulk(t):
		lc.bulkFlight--
	case t.busy:
		lc.inFlight--
	}
	if t.grpc != nil {
		lc.inFlight -= t.grpc.calls
		t.grpc.calls = 0
	}
	lc.inFlight -= len(t.queue)
	lc.failed += uint64(len(t.queue))
	t.busy, t.queue = false, nil
}
