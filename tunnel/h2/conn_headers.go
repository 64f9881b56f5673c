package h2

import (
	"encoding/binary"

	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// headerBlock is a header section that is still coming (RFC 9113 section 4.3).
type headerBlock struct {
	open   bool
	seq    uint32 // tells one block from the next
	id     uint32
	end    bool // END_STREAM was on the HEADERS frame
	self   bool // its priority says that the stream depends on itself
	frames int
	buf    []byte
}

// A header block may take this many CONTINUATION frames and this many
// compressed bytes. Without a bound a peer can keep one open forever.
const (
	maxContinuations = 16
	maxBlockLen      = 96 << 10
)

func (c *Conn) onHeaders(t *loop.Turn, flags byte, id uint32, p []byte) error {
	if id == 0 {
		return connErr(ProtocolError, "HEADERS without a stream")
	}
	p, err := unpad(flags, p)
	if err != nil {
		return err
	}
	self := false
	if flags&flagPriority != 0 {
		if len(p) < 5 {
			return connErr(FrameSizeError, "HEADERS too short for its priority")
		}
		self = binary.BigEndian.Uint32(p)&maxWindow == id
		p = p[5:]
	}
	end := flags&flagEndStream != 0
	if flags&flagEndHeaders == 0 {
		c.hblock = headerBlock{open: true, seq: c.hblock.seq + 1, id: id, end: end, self: self, buf: append(c.hblock.buf[:0], p...)}
		return nil
	}
	return c.section(t, id, p, end, self)
}

func (c *Conn) onContinuation(t *loop.Turn, flags byte, id uint32, p []byte) error {
	b := &c.hblock
	if !b.open {
		return connErr(ProtocolError, "CONTINUATION without HEADERS")
	}
	b.frames++
	if b.frames > maxContinuations || len(b.buf)+len(p) > maxBlockLen {
		return connErr(EnhanceYourCalm, "header block too long")
	}
	b.buf = append(b.buf, p...)
	if flags&flagEndHeaders == 0 {
		return nil
	}
	b.open = false
	err := c.section(t, id, b.buf, b.end, b.self)
	c.hblock.buf = nil
	return err
}

// unpad strips padding (RFC 9113 section 6.1).
func unpad(flags byte, p []byte) ([]byte, error) {
	if flags&flagPadded == 0 {
		return p, nil
	}
	if len(p) == 0 || int(p[0]) >= len(p) {
		return nil, connErr(ProtocolError, "padding longer than the frame")
	}
	return p[1 : len(p)-int(p[0])], nil
}

// emit collects one decoded field.
func (c *Conn) emit(f hpack.HeaderField) {
	c.headSize += int(f.Size())
	if c.headSize > c.o.MaxHeaderList {
		c.head.TooLarge = true
		return
	}
	c.head.Fields = append(c.head.Fields, f)
}

// section decodes a complete header block and gives it to whom it is for.
// Decoding comes first, always: the compression state is the connection's.
func (c *Conn) section(t *loop.Turn, id uint32, p []byte, end, self bool) error {
	h := &c.head
	h.Fields, h.End, h.TooLarge, h.Trailer = h.Fields[:0], end, false, false
	c.headSize = 0
	if _, err := c.hdec.Write(p); err != nil {
		return connErr(CompressionError, "bad header block")
	}
	if err := c.hdec.Close(); err != nil {
		return connErr(CompressionError, "truncated header block")
	}
	defer c.forgetFields()
	if self {
		return c.streamFail(t, id, ProtocolError, "stream depends on itself")
	}
	c.q.Lock()
	s := c.streams[id]
	if s == nil {
		if c.o.Client || id <= c.lastID || id%2 == 0 {
			return c.strayLocked(t, id, "HEADERS", !c.o.Client && isRequest(h.Fields))
		}
		return c.openLocked(t, id, h)
	}
	if s.remoteEnd {
		c.q.Unlock()
		return connErr(StreamClosed, "HEADERS on a half-closed stream")
	}
	if s.gotHead {
		h.Trailer = true
		if !end {
			c.q.Unlock()
			return c.streamFail(t, id, ProtocolError, "trailers that do not end the stream")
		}
	} else if c.o.Client && !informational(h.Fields) {
		s.gotHead = true
	} else if c.o.Client && end {
		c.q.Unlock()
		return c.streamFail(t, id, ProtocolError, "informational response that ends the stream")
	}
	hd := s.handler
	c.endRemote(t, s, end)
	c.q.Unlock()
	if hd != nil {
		hd.Headers(t, s, h)
	}
	return nil
}

// forgetFields lets go of a section's strings, which a quiet connection would
// otherwise hold.
func (c *Conn) forgetFields() {
	if cap(c.head.Fields) > 256 {
		c.head.Fields = nil
		return
	}
	clear(c.head.Fields)
}

// informational reports whether a response head is a 1xx one.
func informational(f []hpack.HeaderField) bool {
	return len(f) > 0 && f[0].Name == ":status" && len(f[0].Value) == 3 && f[0].Value[0] == '1'
}

// isRequest reports whether a section is a request's head, not trailers.
func isRequest(f []hpack.HeaderField) bool { return len(f) > 0 && f[0].IsPseudo() }

// strayLocked judges a frame for a stream that is not open, and unlocks q.
// request says that it would open one.
func (c *Conn) strayLocked(t *loop.Turn, id uint32, what string, request bool) error {
	idle, ours, ended := c.idle(id), c.resets.has(id), c.ended.has(id)
	c.q.Unlock()
	switch {
	case idle:
		return connErr(ProtocolError, what+" on an idle stream")
	case ours:
		return nil // crossed our RST_STREAM on the way
	case ended:
		return connErr(StreamClosed, what+" on a closed stream")
	case request:
		// Opening a stream closes all idle ones below it, RFC 9113 section 5.1.1.
		return connErr(ProtocolError, what+" on a stream that was skipped")
	}
	// Long ago we knew; it may be one that we reset. Ending the connection over
	// it would take down streams that did nothing wrong.
	return c.rate.other(t.Now)
}

// openLocked accepts a new request stream, and unlocks q.
func (c *Conn) openLocked(t *loop.Turn, id uint32, h *Head) error {
	c.lastID = id
	if id > c.goAwayID {
		c.resets.add(id) // its frames are ignored
		c.q.Unlock()
		return nil // after our final GOAWAY: the peer will try elsewhere
	}
	if len(c.streams) >= int(c.o.MaxStreams) {
		c.appendReset(t, id, RefusedStream)
		c.q.Unlock()
		return c.rate.reset(t.Now)
	}
	s := &Stream{ID: id, c: c, sendWin: c.peerInit, recvWin: c.o.Window, window: c.o.Window, gotHead: true}
	c.streams[id] = s
	c.endRemote(t, s, h.End)
	c.q.Unlock()
	c.h.Open(t, s, h)
	return nil
}

// Open starts a request stream on a client connection. It returns nil when
// the connection takes no more streams; the caller then uses another.
func (c *Conn) Open(t *loop.Turn, h StreamHandler, fields []hpack.HeaderField, end bool) *Stream {
	c.q.Lock()
	defer c.q.Unlock()
	if c.closed || c.refusing || c.draining || len(c.streams) >= int(c.peerMax) || c.nextID >= 1<<30 {
		return nil
	}
	s := &Stream{ID: c.nextID, c: c, sendWin: c.peerInit, recvWin: c.o.Window, window: c.o.Window, handler: h}
	c.nextID += 2
	c.streams[s.ID] = s
	c.writeHeaders(t, s.ID, fields, end)
	if end {
		s.localEnd = true
	}
	return s
}

// writeHeaders encodes a section and queues its frames. q is held.
func (c *Conn) writeHeaders(t *loop.Turn, id uint32, fields []hpack.HeaderField, end bool) {
	c.hbuf.Reset()
	for i := range fields {
		_ = c.henc.WriteField(fields[i]) // a bytes.Buffer does not fail
	}
	b := c.hbuf.Bytes()
	typ, flags := byte(frameHeaders), byte(0)
	if end {
		flags = flagEndStream
	}
	for {
		n := min(len(b), c.peerFrame, loop.ChunkSize-frameHeaderLen)
		if n == len(b) {
			flags |= flagEndHeaders
		}
		p := c.q.Reserve(t, frameHeaderLen+n)
		*p = appendFrame(*p, n, typ, flags, id)
		*p = append(*p, b[:n]...)
		if b = b[n:]; len(b) == 0 {
			break
		}
		typ, flags = frameContinuation, 0
	}
	if c.hbuf.Cap() > 16<<10 {
		c.hbuf = *newBuffer()
	}
}
