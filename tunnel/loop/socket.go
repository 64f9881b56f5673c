package loop

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// ErrAborted is what Handler.Closed gets after Abort.
var ErrAborted = errors.New("connection aborted")

// Handler is the protocol that speaks over a Socket. Its methods are called on
// the socket's reader, except Drained.
type Handler interface {
	// Data gets everything that was received and not consumed, and returns how
	// much it consumes; the rest comes again with more behind it. b is
	// borrowed: it is valid until the end of the turn. An error ends the
	// connection.
	Data(t *Turn, b []byte) (int, error)
	// Closed is called once, last: err is io.EOF when the peer ended its output.
	Closed(t *Turn, err error)
	// Drained is called after a backlog has been written out, on any goroutine.
	Drained(t *Turn)
}

// Socket is a TCP connection, plain or TLS, read by one goroutine (Serve) and
// written through its Queue by anybody.
type Socket struct {
	nc  *net.TCPConn
	rc  syscall.RawConn
	tls layer // nil: plain
	h   Handler
	// early is what came with the end of the handshake; for the reader.
	early []byte

	q        Queue
	flushing bool       // guarded by q: one flusher at a time
	borrowed [][]byte   // guarded by q until the flush
	failed   bool       // guarded by q: a write failed, or the socket is closed
	failure  error      // guarded by q: why the write failed
	ending   bool       // flusher only: close_notify was sealed, FIN is to follow
	over     bool       // flusher only: the output has ended
	idle     *sync.Cond // on q: broadcast when a flush has ended
	aborted  atomic.Bool
	stopped  atomic.Bool   // StopAwait was called
	paused   bool          // reader only
	resume   chan struct{} // has room for one
	park     *parking      // nil for one that always has a reader

	// One write at a time, by the flusher. The fd is used within rc.Control
	// only, which keeps it from being closed and given to another connection.
	w     writing
	wFunc func(fd uintptr)
}

// New wraps an established TCP connection as a plain socket. The caller must
// not use nc any more.
func New(nc *net.TCPConn) (*Socket, error) {
	rc, err := nc.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("taking over connection: %w", err)
	}
	s := &Socket{nc: nc, rc: rc, resume: make(chan struct{}, 1)}
	s.idle = sync.NewCond(&s.q.Mutex)
	s.wFunc = s.w.run
	s.q.Init(s)
	return s, nil
}

// Queue is the socket's output.
func (s *Socket) Queue() *Queue { return &s.q }

// TLS returns the state of the TLS connection; ok is false for plain sockets.
func (s *Socket) TLS() (cs tls.ConnectionState, ok bool) {
	if s.tls == nil {
		return cs, false
	}
	return s.tls.state(), true
}

// LocalAddr and RemoteAddr are the ends of the TCP connection.
func (s *Socket) LocalAddr() net.Addr { return s.nc.LocalAddr() }

// RemoteAddr is the peer's end of the TCP connection.
func (s *Socket) RemoteAddr() net.Addr { return s.nc.RemoteAddr() }

// Abort ends the connection at once; the reader then calls Handler.Closed. It
// may be called from anywhere, any number of times.
func (s *Socket) Abort() {
	if s.aborted.Swap(true) {
		return
	}
	// Close would wait for the reader, which may be our caller. A deadline in
	// the past wakes the reader, which closes; unlike shutdown(2) it sends
	// nothing, so that a reset stays one.
	_ = s.nc.SetDeadline(time.Unix(1, 0))
	s.Resume()
	if s.park != nil {
		s.park.lot.leave(s) // the reader may have gone
	}
}

// Pause makes the reader stop after the batch at hand. Only Handler.Data calls it.
func (s *Socket) Pause() { s.paused = true }

// Resume lets a paused reader go on. It may be called from anywhere, also
// before the reader has come to stop.
func (s *Socket) Resume() {
	select {
	case s.resume <- struct{}{}:
	default:
	}
}

// WaitFlushed blocks until everything queued was given to the kernel, or can
// no longer be.
func (s *Socket) WaitFlushed() {
	s.q.Lock()
	for (s.flushing || s.q.Size() > 0 || len(s.borrowed) > 0 || s.q.fin) && !s.failed {
		s.idle.Wait()
	}
	s.q.Unlock()
}

// Failure is why a write failed, and what was queued with it lost; nil if none did.
func (s *Socket) Failure() error {
	s.q.Lock()
	defer s.q.Unlock()
	return s.failure
}

// Reset makes the final close send RST instead of FIN, then aborts.
func (s *Socket) Reset() {
	_ = s.nc.SetLinger(0)
	s.Abort()
}

const readSize = 128 << 10

var (
	cipherPool = sync.Pool{New: func() any { b := make([]byte, readSize); return &b }}
	plainPool  = sync.Pool{New: func() any { b := make([]byte, 0, readSize+32<<10); return &b }}
	outPool    = sync.Pool{New: func() any { b := make([]byte, 0, ChunkSize+4<<10); return &b }}
)

// putPlain gives a buffer back, unless it has grown or shrunk too far.
func putPlain(pp *[]byte) {
	if pp != nil && cap(*pp) >= readSize && cap(*pp) <= 4*readSize {
		*pp = (*pp)[:0]
		plainPool.Put(pp)
	}
}

// reader is the state of Serve between batches.
type reader struct {
	turn Turn
	rest *[]byte // bytes that the handler did not consume
	keep []byte  // memory for a small rest
}

// takeRest returns a large buffer that begins with what the handler left.
func (r *reader) takeRest() *[]byte {
	pp := r.rest
	r.rest = nil
	if pp != nil && pp != &r.keep {
		return pp
	}
	bp := plainPool.Get().(*[]byte)
	*bp = (*bp)[:0]
	if pp != nil {
		*bp = append(*bp, r.keep...)
	} else {
		r.keep = nil
	}
	return bp
}

// leave keeps what the handler left over at the end of pp. A small rest moves
// into memory of its own: a slow peer does not hold a large buffer.
func (r *reader) leave(pp *[]byte, left int) {
	b := (*pp)[len(*pp)-left:]
	if left > cap(*pp)/4 {
		copy(*pp, b)
		*pp = (*pp)[:left]
		r.rest = pp
		return
	}
	if cap(r.keep) < left {
		r.keep = make([]byte, 0, left+left/4+512)
	}
	r.keep = append(r.keep[:0], b...)
	r.rest = &r.keep
	putPlain(pp)
}

// Serve reads until the connection ends. It calls h on this goroutine, and
// returns after Closed. With keepWriting, the socket stays open for output
// after the peer's FIN, and the caller must call Close; otherwise Serve closes it.
func (s *Socket) Serve(h Handler, keepWriting bool) error {
	if s.h == nil {
		s.h = h
	}
	r := &reader{}
	r.turn.Now = time.Now()
	return s.finished(r, s.serve(r), h, keepWriting)
}

// finished is the end of Serve, after the last read.
func (s *Socket) finished(r *reader, err error, h Handler, keepWriting bool) error {
	err = s.why(err)
	putPlain(r.rest)
	r.rest = nil
	r.turn.Now = time.Now()
	h.Closed(&r.turn, err)
	r.turn.End()
	if !keepWriting || !errors.Is(err, io.EOF) {
		s.Close()
	}
	return err
}

// why puts what ended the connection in the place of the reader's error, which
// after Abort is only how it was woken.
func (s *Socket) why(err error) error {
	if !s.aborted.Load() {
		return err
	}
	s.q.Lock()
	defer s.q.Unlock()
	if s.failure != nil {
		return fmt.Errorf("writing: %w", s.failure)
	}
	return ErrAborted
}

// AwaitReset is for the time after Serve returned io.EOF with keepWriting. A
// FIN alone does not tell whether the peer has closed its output or is gone:
// the reset that answers what we send does. AwaitReset blocks until that comes
// or a write fails, and returns why; StopAwait makes it return nil.
func (s *Socket) AwaitReset() error {
	var rerr error
	err := s.rc.Read(func(fd uintptr) bool {
		if s.aborted.Load() || s.stopped.Load() {
			return true
		}
		// After a FIN, read(2) goes on returning 0 whatever happens.
		code, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR)
		if err == nil && code != 0 {
			err = syscall.Errno(code)
		}
		if err != nil {
			rerr = fmt.Errorf("after the peer's FIN: %w", err)
			return true
		}
		return false
	})
	switch {
	case rerr != nil:
		return rerr
	case s.aborted.Load():
		return s.why(err)
	case s.stopped.Load():
		return nil
	}
	return err
}

// StopAwait makes AwaitReset return, now or when it is called.
func (s *Socket) StopAwait() {
	s.stopped.Store(true)
	_ = s.nc.SetReadDeadline(time.Unix(1, 0))
}

// Start makes h the handler without reading yet, and flushes what has been
// queued so far: a client's preface, a server's settings.
func (s *Socket) Start(h Handler) {
	s.h = h
	Run(func(t *Turn) { s.Flush(t) })
}

// Close closes the file descriptor. Only the goroutine that ran Serve calls it, after Serve.
func (s *Socket) Close() {
	s.aborted.Store(true)
	_ = s.nc.Close()
	s.q.Lock()
	s.failed = true
	s.q.Drop()
	s.idle.Broadcast()
	s.q.Unlock()
}

func (s *Socket) serve(r *reader) error {
	// The peer's first frames may have come with the end of the handshake.
	if s.tls != nil {
		early := s.early
		s.early = nil
		if err := s.batch(r, early); err != nil {
			return err
		}
	}
	for {
		if err := s.readAll(r); err != nil || !s.paused {
			return err
		}
		<-s.resume
		s.paused = false
		if s.aborted.Load() {
			return ErrAborted
		}
	}
}

// readAll reads until the end, an error, or a pause (which returns nil).
func (s *Socket) readAll(r *reader) error {
	var rerr error
	inRow := 0 // reads since the last pause
	// One RawConn.Read for the life of the connection: within the callback we
	// read until the kernel has no more and park by returning false.
	err := s.rc.Read(func(fd uintptr) bool {
		for {
			bp := cipherPool.Get().(*[]byte)
			n, e := rawRead(fd, *bp)
			if n <= 0 {
				cipherPool.Put(bp)
				switch {
				case e == syscall.EINTR:
					continue
				case e == syscall.EAGAIN:
					inRow = 0
					return false
				case e == 0:
					rerr = io.EOF
				default:
					rerr = fmt.Errorf("reading: %w", e)
				}
				return true
			}
			r.turn.Now = time.Now()
			if s.park != nil && !s.park.active.Load() {
				s.park.active.Store(true)
			}
			rerr = s.batch(r, (*bp)[:n])
			cipherPool.Put(bp)
			if rerr != nil || s.paused {
				return true
			}
			if s.aborted.Load() { // a peer that never pauses must not keep us
				rerr = ErrAborted
				return true
			}
			if inRow++; inRow == politeness || n == readSize { // or there is more than a buffer takes
				inRow = 0
				yield()
			}
			// A short read has emptied the socket, and still we look once more: a
			// FIN or reset that came in the same event is never announced
			// again, and the streams of a peer that was killed would hang
			// until a ping finds out.
		}
	})
	if rerr == nil {
		rerr = err
	}
	return rerr
}

// batch gives the handler what one read brought, and flushes.
func (s *Socket) batch(r *reader, b []byte) error {
	if s.tls == nil {
		err := s.deliver(r, b, nil)
		r.turn.End()
		return err
	}
	pp := r.takeRest()
	p, rerr := s.tls.open(*pp, b)
	*pp = p
	err := s.deliver(r, p, pp)
	pending := s.tls.pending()
	if pending > maxTLSAnswers && err == nil {
		err = errTLSAnswers
	}
	if pending > 0 {
		s.q.Lock()
		s.q.Mark(&r.turn)
		s.q.Unlock()
	}
	r.turn.End()
	if err != nil {
		return err
	}
	return rerr
}

// deliver calls the handler with b (for TLS the content of pp) behind what it
// left over, and keeps what it leaves now.
func (s *Socket) deliver(r *reader, b []byte, pp *[]byte) error {
	if pp == nil && r.rest != nil {
		pp = r.takeRest()
		*pp = append(*pp, b...)
		b = *pp
	}
	var n int
	var err error
	if len(b) > 0 {
		n, err = s.h.Data(&r.turn, b)
	}
	left := len(b) - n
	// Borrowed slices must be written out before their memory is reused.
	r.turn.End()
	switch {
	case err != nil || left == 0:
		putPlain(pp)
	case pp == nil:
		pp = r.takeRest()
		*pp = append(*pp, b[n:]...)
		r.leave(pp, left)
	default:
		r.leave(pp, left)
	}
	return err
}
