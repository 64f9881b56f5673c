package hbone

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	frameHead     = 9
	streamWindow  = 4 << 20
	connWindow    = 16 << 20
	maxFrame      = 16 << 10
	defaultWindow = 65535
	maxStreams    = 1000 // what the sink allows on one connection
)

// handler is what a client or the sink does with the frames of a stream. Its
// methods run on the connection's reader with c.mu held, and must not keep
// the bytes they are given.
type handler interface {
	headers(c *conn, s *stream, fields []hpack.HeaderField, end bool) error
	data(c *conn, s *stream, p []byte, end bool) error
	reset(c *conn, s *stream, code http2.ErrCode)
}

// stream is one CONNECT stream. Its fields are guarded by conn.mu.
type stream struct {
	id      uint32
	credit  int64  // how much we may still send
	used    int64  // how much we received and did not give back yet
	pending []byte // what waits for credit
	closing bool   // END_STREAM follows pending
	owner   any    // the state of the client or sink
}

// conn is one HTTP/2 connection over a transport.
type conn struct {
	t       *transport
	h       handler
	client  bool
	hpack   *hpack.Decoder
	partial []byte    // a frame whose end has not arrived; owned by the reader
	greeted bool      // a server has seen the preface; owned by the reader
	now     time.Time // when the reader got what it is handling; owned by the reader

	mu         sync.Mutex // guards what follows
	streams    map[uint32]*stream
	nextID     uint32
	out        []byte // frames to send with the next flush
	credit     int64  // how much we may still send, all streams
	used       int64  // how much we received and did not give back yet
	peerWindow int64  // the peer's SETTINGS_INITIAL_WINDOW_SIZE
	peerFrame  int
	block      []byte // header block under assembly
	blockID    uint32
	blockEnd   bool
	fields     []hpack.HeaderField
	blocked    []*stream // streams with pending bytes, oldest first
	peerMax    uint32    // the peer's SETTINGS_MAX_CONCURRENT_STREAMS
	settled    chan struct{}

	goaway atomic.Bool
}

func newConn(t *transport, h handler, client bool) *conn {
	c := &conn{
		t: t, h: h, client: client, streams: map[uint32]*stream{}, nextID: 1,
		credit: defaultWindow, peerWindow: defaultWindow, peerFrame: maxFrame,
		peerMax: 1 << 30, settled: make(chan struct{}),
	}
	c.hpack = hpack.NewDecoder(4096, func(f hpack.HeaderField) { c.fields = append(c.fields, f) })
	if client {
		c.out = append(c.out, http2.ClientPreface...)
	}
	settings := []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: streamWindow}}
	if client {
		settings = append(settings, http2.Setting{ID: http2.SettingEnablePush, Val: 0})
	} else {
		settings = append(settings, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: maxStreams})
	}
	c.out = appendHead(c.out, 6*len(settings), http2.FrameSettings, 0, 0)
	for _, s := range settings {
		c.out = binary.BigEndian.AppendUint16(c.out, uint16(s.ID))
		c.out = binary.BigEndian.AppendUint32(c.out, s.Val)
	}
	c.windowUpdate(0, connWindow-defaultWindow)
	return c
}

// run carries the connection until it ends.
func (c *conn) run() error {
	if err := c.flushBatch(); err != nil {
		return err
	}
	return c.t.serve(c.feed, c.flushBatch)
}

func (c *conn) flushBatch() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flush()
}

// flush sends what is queued. The caller holds c.mu.
func (c *conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	err := c.t.write(c.out)
	c.out = c.out[:0]
	return err
}

// feed takes decrypted bytes, completes frames and handles them.
func (c *conn) feed(p []byte) error {
	c.now = time.Now()
	if len(c.partial) > 0 {
		c.partial = append(c.partial, p...)
		rest, err := c.frames(c.partial)
		n := copy(c.partial, rest)
		c.partial = c.partial[:n]
		return err
	}
	rest, err := c.frames(p)
	c.partial = append(c.partial[:0], rest...)
	return err
}

// frames handles every complete frame of p and returns what is left.
func (c *conn) frames(p []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.client && !c.greeted {
		if len(p) < len(http2.ClientPreface) {
			return p, nil
		}
		if !bytes.HasPrefix(p, []byte(http2.ClientPreface)) {
			return nil, errors.New("no HTTP/2 preface")
		}
		c.greeted = true
		p = p[len(http2.ClientPreface):]
	}
	for len(p) >= frameHead {
		n := int(p[0])<<16 | int(p[1])<<8 | int(p[2])
		if n > maxFrame {
			return nil, fmt.Errorf("frame of %d bytes, allowed are %d", n, maxFrame)
		}
		if len(p) < frameHead+n {
			return p, nil
		}
		id := binary.BigEndian.Uint32(p[5:]) & (1<<31 - 1)
		if err := c.frame(http2.FrameType(p[3]), http2.Flags(p[4]), id, p[frameHead:frameHead+n]); err != nil {
			return nil, err
		}
		p = p[frameHead+n:]
	}
	return p, nil
}

func (c *conn) frame(kind http2.FrameType, flags http2.Flags, id uint32, p []byte) error {
	if c.blockID != 0 && kind != http2.FrameContinuation {
		return fmt.Errorf("%v inside a header block", kind)
	}
	// A frame of another type is ignored (RFC 9113 section 4.1).
	//exhaustive:ignore
	switch kind {
	case http2.FrameData:
		return c.onData(flags, id, p)
	case http2.FrameHeaders:
		return c.onHeaders(flags, id, p)
	case http2.FrameContinuation:
		if c.blockID != id || id == 0 {
			return errors.New("CONTINUATION without HEADERS")
		}
		c.block = append(c.block, p...)
		if flags.Has(http2.FlagContinuationEndHeaders) {
			return c.endBlock()
		}
	case http2.FrameRSTStream:
		if s := c.streams[id]; s != nil && len(p) == 4 {
			delete(c.streams, id)
			c.h.reset(c, s, http2.ErrCode(binary.BigEndian.Uint32(p)))
		}
	case http2.FrameSettings:
		return c.onSettings(flags, p)
	case http2.FramePing:
		if !flags.Has(http2.FlagPingAck) && len(p) == 8 {
			c.out = appendHead(c.out, 8, http2.FramePing, http2.FlagPingAck, 0)
			c.out = append(c.out, p...)
		}
	case http2.FrameGoAway:
		c.goaway.Store(true)
		if len(p) >= 8 {
			if code := http2.ErrCode(binary.BigEndian.Uint32(p[4:])); code != http2.ErrCodeNo {
				return fmt.Errorf("peer went away: %v %q", code, p[8:])
			}
		}
	case http2.FrameWindowUpdate:
		return c.onWindow(id, p)
	case http2.FramePushPromise:
		return errors.New("PUSH_PROMISE")
	}
	return nil
}

func (c *conn) onData(flags http2.Flags, id uint32, p []byte) error {
	size := int64(len(p))
	if flags.Has(http2.FlagDataPadded) {
		if len(p) < 1 || int(p[0]) >= len(p) {
			return errors.New("padding longer than its frame")
		}
		p = p[1 : len(p)-int(p[0])]
	}
	if c.used += size; c.used >= connWindow/2 {
		c.windowUpdate(0, c.used)
		c.used = 0
	}
	s := c.streams[id]
	if s == nil {
		return nil // closed by us; late data is legal
	}
	end := flags.Has(http2.FlagDataEndStream)
	if s.used += size; s.used >= streamWindow/2 && !end {
		c.windowUpdate(id, s.used)
		s.used = 0
	}
	return c.h.data(c, s, p, end)
}

func (c *conn) onHeaders(flags http2.Flags, id uint32, p []byte) error {
	pad := 0
	if flags.Has(http2.FlagHeadersPadded) {
		if len(p) < 1 {
			return errors.New("padding longer than its frame")
		}
		pad, p = int(p[0]), p[1:]
	}
	if flags.Has(http2.FlagHeadersPriority) {
		if len(p) < 5 {
			return errors.New("HEADERS too short")
		}
		p = p[5:]
	}
	if pad > len(p) {
		return errors.New("padding longer than its frame")
	}
	c.block = append(c.block[:0], p[:len(p)-pad]...)
	c.blockID, c.blockEnd = id, flags.Has(http2.FlagHeadersEndStream)
	if flags.Has(http2.FlagHeadersEndHeaders) {
		return c.endBlock()
	}
	return nil
}

// endBlock decodes the assembled header block and hands it on.
func (c *conn) endBlock() error {
	id := c.blockID
	c.blockID = 0
	c.fields = c.fields[:0]
	if _, err := c.hpack.Write(c.block); err != nil {
		return fmt.Errorf("decoding headers: %w", err)
	}
	if err := c.hpack.Close(); err != nil {
		return fmt.Errorf("decoding headers: %w", err)
	}
	s := c.streams[id]
	if s == nil {
		if c.client {
			return nil
		}
		s = &stream{id: id, credit: c.peerWindow}
		c.streams[id] = s
	}
	return c.h.headers(c, s, c.fields, c.blockEnd)
}

func (c *conn) onSettings(flags http2.Flags, p []byte) error {
	if flags.Has(http2.FlagSettingsAck) {
		return nil
	}
	for ; len(p) >= 6; p = p[6:] {
		val := binary.BigEndian.Uint32(p[2:])
		//exhaustive:ignore
		switch http2.SettingID(binary.BigEndian.Uint16(p)) {
		case http2.SettingInitialWindowSize:
			diff := int64(val) - c.peerWindow
			c.peerWindow = int64(val)
			for _, s := range c.streams {
				s.credit += diff
			}
		case http2.SettingMaxFrameSize:
			c.peerFrame = min(int(val), maxFrame)
		case http2.SettingMaxConcurrentStreams:
			c.peerMax = val
		}
	}
	c.out = appendHead(c.out, 0, http2.FrameSettings, http2.FlagSettingsAck, 0)
	select {
	case <-c.settled:
	default:
		close(c.settled)
	}
	c.drain()
	return nil
}

func (c *conn) onWindow(id uint32, p []byte) error {
	if len(p) != 4 {
		return errors.New("WINDOW_UPDATE of a wrong length")
	}
	n := int64(binary.BigEndian.Uint32(p) & (1<<31 - 1))
	if id == 0 {
		c.credit += n
	} else if s := c.streams[id]; s != nil {
		s.credit += n
	}
	c.drain()
	return nil
}

// open starts a CONNECT stream to authority. The caller holds c.mu.
func (c *conn) open(authority string, owner any) *stream {
	s := &stream{id: c.nextID, credit: c.peerWindow, owner: owner}
	c.nextID += 2
	c.streams[s.id] = s
	// Literals without indexing: the block depends on no table, so that it
	// could be made once and sent often.
	block := appendLiteral(nil, ":method", "CONNECT")
	block = appendLiteral(block, ":authority", authority)
	c.out = appendHead(c.out, len(block), http2.FrameHeaders, http2.FlagHeadersEndHeaders, s.id)
	c.out = append(c.out, block...)
	return s
}

// respond answers a CONNECT with a status. The caller holds c.mu.
func (c *conn) respond(s *stream, status int, end bool) {
	flags := http2.FlagHeadersEndHeaders
	if end {
		flags |= http2.FlagHeadersEndStream
	}
	block := []byte{0x88} // RFC 7541 appendix A: index 8 is ":status 200"
	if status != 200 {
		block = appendLiteral(nil, ":status", strconv.Itoa(status))
	}
	c.out = appendHead(c.out, len(block), http2.FrameHeaders, flags, s.id)
	c.out = append(c.out, block...)
	if end {
		delete(c.streams, s.id)
	}
}

// send queues stream bytes as DATA, as far as the windows allow; the rest
// follows when the peer gives credit. The caller holds c.mu.
func (c *conn) send(s *stream, p []byte) {
	if len(s.pending) > 0 {
		s.pending = append(s.pending, p...)
		return
	}
	n := c.emit(s, p)
	if n < len(p) {
		s.pending = append(s.pending, p[n:]...)
		c.blocked = append(c.blocked, s)
	}
}

// finish ends our direction of the stream after what is pending.
func (c *conn) finish(s *stream) {
	s.closing = true
	if len(s.pending) == 0 {
		c.out = appendHead(c.out, 0, http2.FrameData, http2.FlagDataEndStream, s.id)
	}
}

// emit writes as much of p as the windows allow, and returns how much.
func (c *conn) emit(s *stream, p []byte) int {
	sent := 0
	for sent < len(p) {
		n := min(len(p)-sent, c.peerFrame, int(s.credit), int(c.credit))
		if n <= 0 {
			break
		}
		c.out = appendHead(c.out, n, http2.FrameData, 0, s.id)
		c.out = append(c.out, p[sent:sent+n]...)
		s.credit -= int64(n)
		c.credit -= int64(n)
		sent += n
	}
	return sent
}

// drain sends what waits for credit, oldest stream first.
func (c *conn) drain() {
	kept := c.blocked[:0]
	for _, s := range c.blocked {
		n := c.emit(s, s.pending)
		s.pending = s.pending[:copy(s.pending, s.pending[n:])]
		if len(s.pending) > 0 {
			kept = append(kept, s)
		} else if s.closing {
			c.finish(s)
		}
	}
	c.blocked = kept
}

func (c *conn) windowUpdate(id uint32, n int64) {
	c.out = appendHead(c.out, 4, http2.FrameWindowUpdate, 0, id)
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(n))
}

// resetStream ends a stream with an error code.
func (c *conn) resetStream(s *stream, code http2.ErrCode) {
	delete(c.streams, s.id)
	c.out = appendHead(c.out, 4, http2.FrameRSTStream, 0, s.id)
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(code))
}

func (c *conn) close() { c.t.mem.Close() }

func appendHead(b []byte, n int, kind http2.FrameType, flags http2.Flags, id uint32) []byte {
	b = append(b, byte(n>>16), byte(n>>8), byte(n), byte(kind), byte(flags))
	return binary.BigEndian.AppendUint32(b, id)
}

// appendLiteral adds a field as a literal without indexing, new name
// (RFC 7541 section 6.2.2). Names and values are shorter than 127 bytes.
func appendLiteral(b []byte, name, value string) []byte {
	b = append(b, 0, byte(len(name)))
	b = append(b, name...)
	b = append(b, byte(len(value)))
	return append(b, value...)
}
