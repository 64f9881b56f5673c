package h2

import (
	"bytes"
	"encoding/binary"
	"slices"

	"cairnproxy.dev/cairn/tunnel/loop"
)

func newBuffer() *bytes.Buffer { return new(bytes.Buffer) }

func (c *Conn) onData(t *loop.Turn, flags byte, id uint32, p []byte) error {
	if id == 0 {
		return connErr(ProtocolError, "DATA without a stream")
	}
	n := int64(len(p))
	b, err := unpad(flags, p)
	if err != nil {
		return err
	}
	end := flags&flagEndStream != 0
	if len(b) == 0 && !end {
		if err := c.rate.other(t.Now); err != nil {
			return err
		}
	}
	c.q.Lock()
	if c.recvWin -= n; c.recvWin < 0 {
		c.q.Unlock()
		return connErr(FlowControlError, "connection window overrun")
	}
	c.unacked += n
	c.returnWindow(t)
	s := c.streams[id]
	if s == nil {
		return c.strayLocked(t, id, "DATA", false)
	}
	if s.remoteEnd {
		c.q.Unlock()
		return c.streamFail(t, id, StreamClosed, "DATA on a half-closed stream")
	}
	if s.recvWin -= n; s.recvWin < 0 {
		c.q.Unlock()
		return c.streamFail(t, id, FlowControlError, "stream window overrun")
	}
	if !s.gotHead {
		c.q.Unlock()
		return c.streamFail(t, id, ProtocolError, "DATA before the response head")
	}
	h := s.handler
	c.endRemote(t, s, end)
	if pad := n - int64(len(b)); pad > 0 {
		c.giveBack(t, s, pad) // nobody else consumes it
	}
	c.q.Unlock()
	if h != nil {
		h.Data(t, s, b, end)
	}
	return nil
}

// giveBack returns n bytes of a stream's window, once half of it is used. q is held.
func (c *Conn) giveBack(t *loop.Turn, s *Stream, n int64) {
	if s.gone || s.remoteEnd {
		return
	}
	s.unacked += n
	if s.unacked < s.window/2 {
		return
	}
	give := s.unacked
	if s.recvWin < s.window/4 && s.window < c.o.MaxWindow && !c.o.Budget.Over() {
		grown := min(2*s.window, c.o.MaxWindow)
		give += grown - s.window
		s.window = grown
	}
	s.recvWin += give
	s.unacked = 0
	c.appendWindow(t, s.ID, give)
}

// returnWindow gives the connection's window back once a quarter is used,
// unless too many bytes wait already. q is held.
func (c *Conn) returnWindow(t *loop.Turn) {
	if !c.o.Budget.Over() {
		c.returnUpTo(t, c.unacked)
	}
}

// trickle is what a connection gets back per Tick all the same while the
// budget is overdrawn. What waits may wait for a peer whose own budget is
// overdrawn by what waits for us (or that shares ours): somebody must go on.
const trickle = 64 << 10

func (c *Conn) returnUpTo(t *loop.Turn, n int64) {
	if c.unacked < c.o.ConnWindow/4 {
		return
	}
	c.appendWindow(t, 0, n)
	c.recvWin += n
	c.unacked -= n
}

func (c *Conn) appendWindow(t *loop.Turn, id uint32, n int64) {
	p := c.q.Reserve(t, frameHeaderLen+4)
	*p = appendFrame(*p, 4, frameWindowUpdate, 0, id)
	*p = binary.BigEndian.AppendUint32(*p, uint32(n))
}

func (c *Conn) onWindowUpdate(t *loop.Turn, id uint32, p []byte) error {
	if len(p) != 4 {
		return connErr(FrameSizeError, "WINDOW_UPDATE of wrong length")
	}
	n := int64(binary.BigEndian.Uint32(p) & maxWindow)
	if n == 0 {
		if id == 0 {
			return connErr(ProtocolError, "WINDOW_UPDATE of 0")
		}
		return c.streamFail(t, id, ProtocolError, "WINDOW_UPDATE of 0")
	}
	c.q.Lock()
	if id == 0 {
		c.sendWin += n
		if c.sendWin > maxWindow {
			c.q.Unlock()
			return connErr(FlowControlError, "connection window overflow")
		}
		w := c.kickBlocked(t)
		c.q.Unlock()
		tellWritable(t, w)
		return nil
	}
	s := c.streams[id]
	if s == nil {
		idle := c.idle(id)
		c.q.Unlock()
		if idle {
			return connErr(ProtocolError, "WINDOW_UPDATE on an idle stream")
		}
		return nil
	}
	s.sendWin += n
	if s.sendWin > maxWindow {
		c.q.Unlock()
		return c.streamFail(t, id, FlowControlError, "stream window overflow")
	}
	writable := s.waiting() && c.drain(t, s, noQuantum)
	c.q.Unlock()
	if writable {
		if h := s.get(); h != nil {
			h.Writable(t, s)
		}
	}
	return nil
}

// noQuantum lets drain send all that the windows allow.
const noQuantum = 1 << 62

// quantum is what one stream may send before the next one's turn when several wait.
const quantum = 32 << 10

// kickBlocked sends, in turns, for the streams that wait for the connection's
// window or its output queue. It returns those that became writable. q is held.
func (c *Conn) kickBlocked(t *loop.Turn) (writable []*Stream) {
	for c.canKick() {
		if s := c.kickFirst(t); s != nil {
			writable = append(writable, s)
		}
	}
	if len(c.blocked) > 0 && c.sendWin > 0 {
		c.q.WantDrained = true
	}
	return writable
}

// canKick reports whether a stream waits in line that could send. q is held.
func (c *Conn) canKick() bool {
	return len(c.blocked) > 0 && c.sendWin > 0 && c.q.Size() < loop.HighWater
}

// kickFirst gives the first stream in line its turn, and returns it if it
// became writable. q is held.
func (c *Conn) kickFirst(t *loop.Turn) (writable *Stream) {
	s := c.blocked[0]
	n := copy(c.blocked, c.blocked[1:])
	c.blocked[n] = nil
	c.blocked = c.blocked[:n]
	s.blocked = false
	if !s.gone && s.waiting() && c.drain(t, s, quantum) {
		return s
	}
	return nil
}

// pass notes that a stream sent n bytes without standing in line, as one may
// that had nothing waiting when there was room: short messages need not wait for
// the queue to run low. Those in line get a turn for each quantum that goes
// past them, else a queue that never runs low would leave them there for ever.
// q is held.
func (c *Conn) pass(t *loop.Turn, n int) {
	if len(c.blocked) == 0 {
		return
	}
	if c.passed += int64(n); c.passed < quantum || !c.canKick() {
		return
	}
	c.passed = 0
	if s := c.kickFirst(t); s != nil {
		t.Defer(func(t *loop.Turn) { tellWritable(t, []*Stream{s}) })
	}
}

// block puts a stream in line for the connection's window or queue. q is held.
func (c *Conn) block(s *Stream) {
	if !s.blocked {
		s.blocked = true
		c.blocked = append(c.blocked, s)
	}
	if c.q.Size() >= loop.HighWater {
		c.q.WantDrained = true
	}
}

// tellWritable calls the handlers of streams that drained. No lock is held.
func tellWritable(t *loop.Turn, ss []*Stream) {
	for _, s := range ss {
		if h := s.get(); h != nil {
			h.Writable(t, s)
		}
	}
}

// drain sends what waits in s, at most limit bytes. It reports whether the
// handler wants to be told that there is room again. q is held.
func (c *Conn) drain(t *loop.Turn, s *Stream, limit int64) bool {
	for limit > 0 && s.pend.n > 0 {
		n := c.sendable(s, int64(s.pend.front()))
		if n = min(n, limit); n <= 0 {
			break
		}
		limit -= n
		b := s.pend.take(int(n))
		// Accounted for first: with its end sent, the stream may be removed.
		c.o.Budget.add(-len(b))
		c.appendData(t, s, b, s.pend.n == 0 && s.pendEnd && s.trailers == nil)
		s.pend.taken(len(b))
	}
	if s.pend.n == 0 {
		c.flushEnd(t, s)
	} else if s.sendWin > 0 {
		c.block(s) // the connection is what it waits for
	}
	if s.wantWritable && s.pend.n <= lowPending {
		s.wantWritable = false
		return true
	}
	return false
}

// flushEnd sends the end that waited behind the pending bytes. q is held.
func (c *Conn) flushEnd(t *loop.Turn, s *Stream) {
	if !s.pendEnd || s.localEnd {
		return
	}
	if s.trailers != nil {
		c.writeHeaders(t, s.ID, s.trailers, true)
		s.trailers = nil
	} else {
		p := c.q.Reserve(t, frameHeaderLen)
		*p = appendFrame(*p, 0, frameData, flagEndStream, s.ID)
	}
	c.endLocal(t, s)
}

// sendable is how much of n may go out now in one frame. q is held.
func (c *Conn) sendable(s *Stream, n int64) int64 {
	n = min(n, s.sendWin, c.sendWin, maxDataLen, int64(c.peerFrame))
	if c.q.Size() >= loop.HighWater {
		return 0
	}
	return n
}

// appendData queues one DATA frame. q is held.
func (c *Conn) appendData(t *loop.Turn, s *Stream, b []byte, end bool) {
	p := c.q.Reserve(t, frameHeaderLen+len(b))
	flags := byte(0)
	if end {
		flags = flagEndStream
	}
	*p = appendFrame(*p, len(b), frameData, flags, s.ID)
	*p = append(*p, b...)
	s.sendWin -= int64(len(b))
	c.sendWin -= int64(len(b))
	if end {
		c.endLocal(t, s)
	}
}

// endLocal notes that our half ended. q is held.
func (c *Conn) endLocal(t *loop.Turn, s *Stream) {
	s.localEnd = true
	switch {
	case s.remoteEnd:
		c.remove(s)
		c.ended.add(s.ID)
		c.endIfDone(t)
	case s.stop:
		c.stopReading(t, s)
	}
}

// stopReading resets a stream that we have ended in good order. q is held.
func (c *Conn) stopReading(t *loop.Turn, s *Stream) {
	s.handler = nil
	c.remove(s)
	c.appendReset(t, s.ID, NoError)
	c.endIfDone(t)
}

// endRemote notes that the peer's half ended. q is held.
func (c *Conn) endRemote(t *loop.Turn, s *Stream, end bool) {
	if !end {
		return
	}
	s.remoteEnd = true
	if s.localEnd {
		c.remove(s)
		c.ended.add(s.ID)
		c.endIfDone(t)
	}
}

// remove forgets a stream. q is held.
func (c *Conn) remove(s *Stream) {
	delete(c.streams, s.ID)
	s.gone = true
	if s.blocked {
		// A peer that opens and resets streams must not make the line grow.
		i := slices.Index(c.blocked, s)
		c.blocked = slices.Delete(c.blocked, i, i+1)
		s.blocked = false
	}
	c.dropPending(s)
}

func (c *Conn) dropPending(s *Stream) {
	c.o.Budget.add(-s.pend.n)
	s.pend.clear()
	s.trailers = nil
}
