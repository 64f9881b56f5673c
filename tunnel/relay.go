package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// Counters counts the bytes of a Relay while it runs.
type Counters struct{ FromConn, ToConn atomic.Uint64 }

// ErrReset is what Relay returns (wrapped) when either side was reset.
var ErrReset = errors.New("connection reset")

// relay joins a TCP socket and a stream. Bytes from the socket are written to
// the stream on the socket's reader, bytes from the stream to the socket on
// the HBONE connection's reader.
type relay struct {
	sock *loop.Socket
	s    *Stream
	c    *Counters

	mu        sync.Mutex
	owed      int   // stream bytes not credited, because the socket is behind
	err       error // why the stream was reset
	early     error // the stream was ended early, what it brought still counts
	ended     bool  // the stream's half ended or it was reset
	lingering bool  // the socket's half ended, its reader waits for ended
}

// Relay copies between conn and s until both directions have ended, and
// closes conn. An end of one direction is passed on and leaves the other open;
// a reset of one side resets the other. c may be nil. The caller's goroutine
// is used as the connection's reader.
//
// It returns nil when both directions ended in order, else why not.
func Relay(conn *net.TCPConn, s *Stream, c *Counters) error {
	r, err := newRelay(nil, conn, s, c)
	if err != nil {
		return err
	}
	return r.finish(r.sock.Serve(r, true))
}

// RelayIn is Relay for a connection that may be quiet for long: then it waits in
// the lot, without a goroutine. It returns when the relay has ended or waits;
// in either case done is called once, with what Relay returns.
func RelayIn(lot *loop.Lot, conn *net.TCPConn, s *Stream, c *Counters, done func(error)) {
	r, err := newRelay(lot, conn, s, c)
	if err != nil {
		done(err)
		return
	}
	r.sock.ServeParked(r, true, func(err error) { done(r.finish(err)) })
}

func newRelay(lot *loop.Lot, conn *net.TCPConn, s *Stream, c *Counters) (*relay, error) {
	if c == nil {
		c = new(Counters)
	}
	sock, err := loop.New(conn)
	if err != nil {
		conn.Close()
		s.Abandon()
		return nil, err
	}
	if lot != nil {
		sock.ParkIn(lot)
	}
	r := &relay{sock: sock, s: s, c: c}
	r.attach()
	return r, nil
}

// finish is what Relay returns, given how the reading of the connection ended.
func (r *relay) finish(err error) error {
	if errors.Is(err, io.EOF) {
		err = r.linger()
	}
	return r.outcome(err)
}

// linger waits, after the connection's FIN, for the stream's end, and closes
// the connection. It returns an error if that was reset meanwhile.
func (r *relay) linger() error {
	defer r.sock.Close()
	r.mu.Lock()
	r.lingering = true
	ended := r.ended
	r.mu.Unlock()
	if !ended {
		if err := r.sock.AwaitReset(); err != nil {
			// Who closed its connection sent a FIN first: the rest is for nobody.
			loop.Run(func(t *loop.Turn) { r.s.st.Reset(t, h2.ConnectError) })
			return err
		}
	}
	if reset, _ := r.reason(); reset != nil {
		// The stream's other half is still open if the reset came from Stream.Reset.
		loop.Run(func(t *loop.Turn) { r.s.st.Reset(t, h2.ConnectError) })
		return nil
	}
	r.sock.WaitFlushed()
	return r.sock.Failure()
}

// outcome is what Relay returns, given how the connection ended.
func (r *relay) outcome(err error) error {
	reset, early := r.reason()
	var se *h2.StreamError
	switch {
	case reset != nil:
		return fmt.Errorf("%w by the tunnel: %w", ErrReset, reset)
	case errors.As(early, &se) && se.Code == h2.NoError:
		return nil
	case early != nil:
		return fmt.Errorf("%w by the tunnel: %w", ErrReset, early)
	case err != nil:
		return fmt.Errorf("%w by the connection: %w", ErrReset, err)
	}
	return nil
}

// attach makes r the stream's receiver and passes on what came before it.
func (r *relay) attach() {
	loop.Run(func(t *loop.Turn) {
		r.sock.Start(r)
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		early, end, err := r.s.early, r.s.end, r.s.err
		r.s.early = nil
		if len(early) > 0 || end {
			r.deliver(t, early, end, false)
		}
		if err != nil {
			r.streamReset(err)
		}
		r.s.relay = r
	})
}

func (r *relay) reason() (reset, early error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err, r.early
}

// Data implements loop.Handler: bytes from the TCP connection.
func (r *relay) Data(t *loop.Turn, b []byte) (int, error) {
	r.c.FromConn.Add(uint64(len(b)))
	r.s.st.Write(t, b, false)
	if r.s.st.Congested() {
		r.sock.Pause()
	}
	return len(b), nil
}

// Closed implements loop.Handler: the TCP connection's reading half ended.
func (r *relay) Closed(t *loop.Turn, err error) {
	if errors.Is(err, io.EOF) {
		r.s.st.Write(t, nil, true)
		return
	}
	// RFC 9113 section 8.5: an error of the TCP connection is CONNECT_ERROR.
	r.s.st.Reset(t, h2.ConnectError)
}

// fromStream passes on bytes from the stream, on its connection's reader.
func (r *relay) fromStream(t *loop.Turn, b []byte, end bool) { r.deliver(t, b, end, true) }

func (r *relay) deliver(t *loop.Turn, b []byte, end, borrow bool) {
	if len(b) > 0 {
		r.c.ToConn.Add(uint64(len(b)))
		if borrow {
			r.sock.Borrow(t, b)
		} else {
			r.sock.Write(t, b)
		}
	}
	if end {
		r.sock.CloseWrite(t)
		r.done()
		return
	}
	r.mu.Lock()
	r.owed += len(b)
	r.mu.Unlock()
	r.credit(t)
}

// credit returns the stream's window while the socket keeps up.
func (r *relay) credit(t *loop.Turn) {
	q := r.sock.Queue()
	q.Lock()
	behind := q.Size() > loop.LowWater
	if behind {
		q.WantDrained = true
	}
	q.Unlock()
	if behind {
		return
	}
	r.mu.Lock()
	n := r.owed
	r.owed = 0
	r.mu.Unlock()
	if n > 0 {
		r.s.st.Consumed(t, n)
	}
}

// Drained implements loop.Handler.
func (r *relay) Drained(t *loop.Turn) { r.credit(t) }

// streamReset ends the socket when the stream was reset. NO_ERROR is an end in
// order that came early; CANCEL is how ztunnel drops a stream that it is done with.
func (r *relay) streamReset(err error) {
	var se *h2.StreamError
	if errors.As(err, &se) && (se.Code == h2.NoError || se.Code == h2.Cancel) {
		r.mu.Lock()
		r.early = err
		r.mu.Unlock()
		loop.Run(r.sock.CloseWrite)
		r.done()
		go func() { // the reader may be the one who tells us
			r.sock.WaitFlushed()
			r.sock.Abort()
		}()
		return
	}
	r.mu.Lock()
	r.err = err
	r.mu.Unlock()
	r.sock.Reset()
	r.done()
}

// done notes that no more comes from the stream.
func (r *relay) done() {
	r.mu.Lock()
	stop := r.lingering && !r.ended
	r.ended = true
	r.mu.Unlock()
	if stop {
		r.sock.StopAwait()
	}
}
