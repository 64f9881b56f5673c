package hbone

import (
	"encoding/binary"
	"runtime"
	"slices"
	"strconv"

	"golang.org/x/net/http2"
)

// newStream registers a stream. The caller holds c.mu.
func (c *conn) newStream(id uint32, owner any) *stream {
	var s *stream
	if n := len(c.free); n > 0 {
		s, c.free = c.free[n-1], c.free[:n-1]
		*s = stream{own: s.own[:0]}
	} else {
		s = &stream{}
	}
	s.id, s.credit, s.owner = id, c.peerWindow, owner
	c.streams[id] = s
	return s
}

// drop forgets a stream; what it had to send is not sent. The caller holds c.mu.
func (c *conn) drop(s *stream) {
	s.gone = true
	delete(c.streams, s.id)
}

// seen notes that the peer has ended its direction of the stream.
func (c *conn) seen(s *stream) {
	s.endSeen = true
	c.release(s)
}

// release forgets a stream that ended both ways. It may serve again.
func (c *conn) release(s *stream) {
	if s.endSeen && s.endSent && !s.gone {
		delete(c.streams, s.id)
		c.free = append(c.free, s)
	}
}

// open starts a CONNECT stream to authority. The caller holds c.mu.
func (c *conn) open(authority string, owner any) *stream {
	s := c.newStream(c.nextID, owner)
	c.nextID += 2
	// Literals without indexing: the block depends on no table.
	at := c.beginBlock(http2.FlagHeadersEndHeaders, s.id)
	c.out = appendLiteral(c.out, ":method", "CONNECT")
	c.out = appendLiteral(c.out, ":authority", authority)
	c.endHead(at)
	return s
}

// respond answers a CONNECT with a status. The caller holds c.mu.
func (c *conn) respond(s *stream, status int, end bool) {
	flags := http2.FlagHeadersEndHeaders
	if end {
		flags |= http2.FlagHeadersEndStream
	}
	at := c.beginBlock(flags, s.id)
	if status == 200 {
		c.out = append(c.out, 0x88) // RFC 7541 appendix A: index 8 is ":status 200"
	} else {
		c.out = appendLiteral(c.out, ":status", strconv.Itoa(status))
	}
	c.endHead(at)
	if end {
		c.drop(s)
	}
}

// send queues bytes that nobody changes any more as DATA. The caller holds c.mu.
func (c *conn) send(s *stream, p []byte) {
	if s.waiting {
		s.own = append(s.own, p...)
		return
	}
	s.lent = p
	c.queue(s)
}

// sendLast is send for a stream's last bytes.
func (c *conn) sendLast(s *stream, p []byte) {
	s.closing = true
	c.send(s, p)
}

// sendCopy queues bytes that the caller will change. The caller holds c.mu.
func (c *conn) sendCopy(s *stream, p []byte) {
	if s.waiting {
		s.own = append(s.own, p...)
		return
	}
	// What can leave at once is copied once, into the frames.
	s.lent = p
	for c.emit(s) {
	}
	s.own, s.lent = append(s.own[:0], s.lent...), nil
	c.queue(s)
}

// queue sends a little at once; more waits for its turn.
func (c *conn) queue(s *stream) {
	if len(s.lent) <= maxPayload {
		for c.emit(s) {
		}
	}
	if len(s.lent)+len(s.own) > 0 {
		s.waiting = true
		c.blocked = append(c.blocked, s)
		return
	}
	c.settle(s)
}

// finish ends our direction of the stream after what waits. The caller holds c.mu.
func (c *conn) finish(s *stream) {
	s.closing = true
	c.end(s)
}

// settle is for a stream of which nothing waits any more.
func (c *conn) settle(s *stream) {
	if s.endSent {
		c.release(s) // the last DATA frame said it
		return
	}
	c.end(s)
}

// end writes the end of a stream that is to end, if nothing waits.
func (c *conn) end(s *stream) {
	if !s.closing || s.endSent || s.waiting || s.gone {
		return
	}
	if s.trailer == nil {
		c.out = appendHead(c.out, 0, http2.FrameData, http2.FlagDataEndStream, s.id)
	} else {
		c.writeFields(s, s.trailer, true)
	}
	s.endSent = true
	c.release(s)
}

// emit writes one DATA frame, if the windows allow, and tells whether it did.
func (c *conn) emit(s *stream) bool {
	p := &s.lent
	if len(*p) == 0 {
		p = &s.own
	}
	n := min(len(*p), c.peerFrame, int(s.credit), int(c.credit))
	if s.message > 0 {
		n = min(n, s.message)
	}
	if n <= 0 {
		return false
	}
	var flags http2.Flags
	if s.closing && s.trailer == nil && n == len(s.lent)+len(s.own) {
		flags, s.endSent = http2.FlagDataEndStream, true
	}
	c.out = appendHead(c.out, n, http2.FrameData, flags, s.id)
	c.out = append(c.out, (*p)[:n]...)
	*p = (*p)[n:]
	s.credit -= int64(n)
	c.credit -= int64(n)
	return true
}

// fill writes what waits, a frame of each stream in turn, up to a chunk. more
// says that it stopped for the chunk's sake.
func (c *conn) fill() (more bool) {
	for idle := 0; idle < len(c.blocked); {
		if len(c.out) >= c.chunk {
			return true
		}
		if c.turn >= len(c.blocked) {
			c.turn = 0
		}
		s := c.blocked[c.turn]
		switch {
		case !s.gone && !c.emit(s):
			idle++
			c.turn++
		case s.gone || len(s.lent)+len(s.own) == 0:
			c.blocked = slices.Delete(c.blocked, c.turn, c.turn+1)
			s.waiting, s.lent, idle = false, nil, 0
			c.settle(s)
		default:
			idle = 0
			c.turn++
		}
	}
	return false
}

// flush sends a chunk of what is queued and leaves the rest to a writer. The
// caller holds c.mu.
func (c *conn) flush() error {
	if c.stuck || c.broken != nil {
		return c.broken
	}
	more, err := c.push()
	if more && err == nil && !c.writing && !c.ended {
		c.writing = true
		c.writers.Go(c.write)
	}
	return err
}

// push sends one chunk. more says that there is more to send than that. The
// caller holds c.mu, and the carrier has kept nothing.
func (c *conn) push() (more bool, err error) {
	more = c.fill()
	if len(c.out) == 0 {
		return false, nil
	}
	c.stuck, err = c.carrier.write(c.out)
	c.out = c.out[:0]
	return more || c.stuck, err
}

// write is the goroutine that sends what was too much for one flush. It ends
// when nothing is left. Between two chunks everybody else has a turn.
func (c *conn) write() {
	for more := true; more; runtime.Gosched() {
		c.mu.Lock()
		stuck := c.stuck
		c.mu.Unlock()
		var err error
		if stuck {
			err = c.carrier.wait()
		}
		c.mu.Lock()
		if stuck {
			c.stuck = false
		}
		if err == nil && !c.stuck {
			more, err = c.push()
		}
		if err != nil {
			c.broken, more = err, false
			c.carrier.close() // the reader ends, and tells why
		}
		c.writing = more
		c.mu.Unlock()
	}
}

func (c *conn) windowUpdate(id uint32, n int64) {
	c.out = appendHead(c.out, 4, http2.FrameWindowUpdate, 0, id)
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(n))
}

// resetStream ends a stream with an error code.
func (c *conn) resetStream(s *stream, code http2.ErrCode) {
	c.drop(s)
	c.out = appendHead(c.out, 4, http2.FrameRSTStream, 0, s.id)
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(code))
}

func appendHead(b []byte, n int, kind http2.FrameType, flags http2.Flags, id uint32) []byte {
	b = append(b, byte(n>>16), byte(n>>8), byte(n), byte(kind), byte(flags))
	return binary.BigEndian.AppendUint32(b, id)
}

// beginBlock starts a HEADERS frame, whose length endHead fills in.
func (c *conn) beginBlock(flags http2.Flags, id uint32) int {
	at := len(c.out)
	c.out = appendHead(c.out, 0, http2.FrameHeaders, flags, id)
	return at
}

func (c *conn) endHead(at int) {
	n := len(c.out) - at - frameHead
	c.out[at], c.out[at+1], c.out[at+2] = byte(n>>16), byte(n>>8), byte(n)
}

// appendLiteral adds a field as a literal without indexing, new name
// (RFC 7541 section 6.2.2). Names and values are shorter than 127 bytes.
func appendLiteral(b []byte, name, value string) []byte {
	return appendStrings(append(b, 0), name, value)
}

func appendStrings(b []byte, name, value string) []byte {
	b = append(b, byte(len(name)))
	b = append(b, name...)
	b = append(b, byte(len(value)))
	return append(b, value...)
}

// field is a header field that one conn sends again and again: the first time
// it enters the peer's dynamic table, afterwards it is a byte.
type field struct {
	name, value string
	static      byte // its index in the static table (RFC 7541 appendix A), if it is there
	pos         int  // how many fields had been inserted after this one was
}

// writeFields writes a HEADERS frame. The caller holds c.mu.
func (c *conn) writeFields(s *stream, fields []*field, end bool) {
	flags := http2.FlagHeadersEndHeaders
	if end {
		flags |= http2.FlagHeadersEndStream
	}
	at := c.beginBlock(flags, s.id)
	for _, f := range fields {
		switch {
		case f.static != 0:
			c.out = append(c.out, 0x80|f.static)
		case f.pos > 0:
			c.out = append(c.out, 0x80|byte(62+c.inserted-f.pos))
		default:
			c.out = appendStrings(append(c.out, 0x40), f.name, f.value)
			c.inserted++
			f.pos = c.inserted
		}
	}
	c.endHead(at)
}
