package h2

import (
	"slices"

	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// StreamHandler gets the events of one stream. After Reset, or after both
// halves ended, no more come.
type StreamHandler interface {
	// Headers is called for a response head, informational ones included, and for trailers.
	Headers(t *loop.Turn, s *Stream, h *Head)
	// Data is called with borrowed bytes, valid until it returns. Whoever has
	// used them up calls Stream.Consumed.
	Data(t *loop.Turn, s *Stream, b []byte, end bool)
	// Reset is called when the stream ends before both halves did: err is a
	// *StreamError, or why the connection ended.
	Reset(t *loop.Turn, s *Stream, err error)
	// Writable is called, once, after Congested said yes and the backlog is gone.
	Writable(t *loop.Turn, s *Stream)
}

// Stream is one HTTP/2 stream. Its methods may be called from any goroutine
// within a turn; a stream that has ended ignores them.
type Stream struct {
	ID uint32
	// User is for the stream's owner; this package does not touch it.
	User any
	c    *Conn

	// Guarded by c.q.
	handler  StreamHandler
	sendWin  int64
	recvWin  int64
	window   int64 // what recvWin is filled up to
	unacked  int64 // consumed and not yet given back
	pend     pending
	trailers []hpack.HeaderField

	gotHead      bool // client: the final response head; server: the request
	localEnd     bool // END_STREAM was queued
	remoteEnd    bool // END_STREAM was received
	pendEnd      bool // END_STREAM is to follow what is pending
	gone         bool // closed or reset
	blocked      bool // in c.blocked
	wantWritable bool
	stop         bool // reset with NO_ERROR once our half has ended
}

// A stream counts as congested from highPending bytes on, and as writable
// again at lowPending.
const (
	highPending = 64 << 10
	lowPending  = 16 << 10
)

// Conn is the connection that the stream belongs to.
func (s *Stream) Conn() *Conn { return s.c }

// Handle sets who gets the stream's events.
func (s *Stream) Handle(h StreamHandler) {
	s.c.q.Lock()
	s.handler = h
	s.c.q.Unlock()
}

// take returns the handler and forgets it: nothing comes after.
func (s *Stream) take() StreamHandler {
	s.c.q.Lock()
	defer s.c.q.Unlock()
	h := s.handler
	s.handler = nil
	return h
}

func (s *Stream) get() StreamHandler {
	s.c.q.Lock()
	defer s.c.q.Unlock()
	return s.handler
}

// waiting reports whether something is to be sent when windows allow.
func (s *Stream) waiting() bool { return s.pend.n > 0 || (s.pendEnd && !s.localEnd) }

// Write sends a copy of b, as far as windows allow; the rest waits. With end,
// our half of the stream ends behind it.
func (s *Stream) Write(t *loop.Turn, b []byte, end bool) {
	s.c.q.Lock()
	s.write(t, b, end)
	s.c.q.Unlock()
}

// Write2 sends a and b, in one frame when they are small: a message head and
// the beginning of its body.
func (s *Stream) Write2(t *loop.Turn, a, b []byte, end bool) {
	c := s.c
	c.q.Lock()
	defer c.q.Unlock()
	n := len(a) + len(b)
	if s.gone || s.pendEnd || s.localEnd || s.waiting() || n == 0 || c.sendable(s, int64(n)) < int64(n) {
		s.write(t, a, end && len(b) == 0)
		if len(b) > 0 {
			s.write(t, b, end)
		}
		return
	}
	p := c.q.Reserve(t, frameHeaderLen+n)
	flags := byte(0)
	if end {
		flags = flagEndStream
	}
	*p = appendFrame(*p, n, frameData, flags, s.ID)
	*p = append(append(*p, a...), b...)
	s.sendWin -= int64(n)
	c.sendWin -= int64(n)
	if end {
		s.pendEnd = true
		c.endLocal(t, s)
	}
	c.pass(t, n)
}

// write does Write with q held.
func (s *Stream) write(t *loop.Turn, b []byte, end bool) {
	c := s.c
	if s.gone || s.pendEnd || s.localEnd {
		return
	}
	if s.pend.n == 0 {
		for len(b) > 0 {
			n := c.sendable(s, int64(len(b)))
			if n <= 0 {
				break
			}
			last := int(n) == len(b)
			if last && end {
				s.pendEnd = true
			}
			c.appendData(t, s, b[:n], last && end)
			c.pass(t, int(n))
			b = b[n:]
			if last {
				return
			}
		}
		if len(b) == 0 {
			if end {
				s.pendEnd = true
				c.flushEnd(t, s)
			}
			return
		}
	}
	s.pend.push(b)
	c.o.Budget.add(len(b))
	s.pendEnd = s.pendEnd || end
	if s.sendWin > 0 {
		c.block(s)
	}
}

// WriteHeaders sends a response head. With end, our half of the stream ends
// with it.
func (s *Stream) WriteHeaders(t *loop.Turn, fields []hpack.HeaderField, end bool) {
	c := s.c
	c.q.Lock()
	defer c.q.Unlock()
	if s.gone || s.localEnd || s.pendEnd {
		return
	}
	c.writeHeaders(t, s.ID, fields, end)
	if end {
		s.pendEnd = true
		c.endLocal(t, s)
	}
}

// WriteTrailers ends our half of the stream with a trailer section, behind
// everything written. fields is copied.
func (s *Stream) WriteTrailers(t *loop.Turn, fields []hpack.HeaderField) {
	c := s.c
	c.q.Lock()
	defer c.q.Unlock()
	if s.gone || s.localEnd || s.pendEnd {
		return
	}
	s.pendEnd = true
	if s.pend.n > 0 {
		s.trailers = slices.Clone(fields)
		return
	}
	c.writeHeaders(t, s.ID, fields, true)
	c.endLocal(t, s)
}

// Consumed gives n bytes of receive window back to the peer. The window grows
// while the peer uses it up faster than it comes back.
func (s *Stream) Consumed(t *loop.Turn, n int) {
	c := s.c
	c.q.Lock()
	defer c.q.Unlock()
	c.giveBack(t, s, int64(n))
}

// Congested reports whether so much waits on this stream that its producer
// should stop. If so, the handler's Writable is called when it may go on.
func (s *Stream) Congested() bool {
	s.c.q.Lock()
	defer s.c.q.Unlock()
	if s.gone || s.pend.n < highPending {
		return false
	}
	s.wantWritable = true
	return true
}

// Reset ends the stream at once with RST_STREAM. The handler hears no more.
func (s *Stream) Reset(t *loop.Turn, code ErrCode) {
	c := s.c
	c.q.Lock()
	defer c.q.Unlock()
	s.handler = nil
	if s.gone {
		return
	}
	c.remove(s)
	c.appendReset(t, s.ID, code)
	c.endIfDone(t)
}

// StopReading tells the peer, after our half has ended, that the rest of its
// half is not wanted (RFC 9113 section 8.1). What waits to be sent is sent first.
func (s *Stream) StopReading(t *loop.Turn) {
	c := s.c
	c.q.Lock()
	defer c.q.Unlock()
	s.stop = true
	if s.localEnd && !s.gone {
		c.stopReading(t, s)
	}
}

// Ended reports which halves have ended; both are true for a stream that is gone.
func (s *Stream) Ended() (local, remote bool) {
	s.c.q.Lock()
	defer s.c.q.Unlock()
	return s.localEnd || s.gone, s.remoteEnd || s.gone
}
