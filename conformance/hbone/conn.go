package hbone

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	frameHead     = 9
	maxPayload    = 16375 // of a DATA frame, which then fills one TLS record
	chunkSize     = 64 << 10
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
	reset(c *conn, s *stream, code http2.ErrCode) error
}

// stream is one stream of a conn. Its fields are guarded by conn.mu.
type stream struct {
	id      uint32
	credit  int64  // how much we may still send
	used    int64  // how much we received and did not give back yet
	lent    []byte // what waits for credit or for its turn: bytes that nobody changes,
	own     []byte // and, after them, bytes that were copied
	waiting bool   // on conn.blocked
	closing bool   // the end follows what waits
	endSent bool
	endSeen bool
	gone    bool     // ended by a reset: nothing more is sent
	message int      // the largest payload of a DATA frame; 0 is as large as the peer takes
	trailer []*field // what ends the stream, in place of the last DATA frame
	owner   any      // the state of the client or sink
}

// carrier is what the frames of a conn travel on: a TLS transport, or a tunnel
// of another conn.
type carrier interface {
	// write sends p at once, as far as that goes without waiting; kept says that some of it is left.
	write(p []byte) (kept bool, err error)
	// wait sends what write kept.
	wait() error
	close()
}

// conn is one HTTP/2 connection over a carrier.
type conn struct {
	carrier carrier
	h       handler
	client  bool
	chunk   int   // how much is sent at a time before others get their turn
	window  int64 // what a stream's peer may send at first
	hpack   *hpack.Decoder
	partial []byte    // a frame whose end has not arrived; owned by the reader
	greeted bool      // a server has seen the preface; owned by the reader
	now     time.Time // when what the reader is handling arrived; owned by the reader
	writers sync.WaitGroup

	mu         sync.Mutex // guards what follows
	streams    map[uint32]*stream
	free       []*stream // for streams to come
	nextID     uint32
	out        []byte // frames to send with the next flush
	writing    bool   // a writer is at work
	stuck      bool   // the carrier keeps what it could not send; the writer waits for it
	ended      bool   // no writer may start
	broken     error  // why the writer gave up
	credit     int64  // how much we may still send, all streams
	used       int64  // how much we received and did not give back yet
	peerWindow int64  // the peer's SETTINGS_INITIAL_WINDOW_SIZE
	peerFrame  int
	dataLeft   int // how much of a DATA frame is missing
	dataID     uint32
	dataEnd    bool
	block      []byte // header block under assembly
	blockID    uint32
	blockEnd   bool
	fields     []hpack.HeaderField
	blocked    []*stream // streams whose bytes wait
	turn       int       // the next of blocked to send
	inserted   int       // fields in the peer's dynamic table
	slow       bool      // stream credit is given by hand
	peerMax    uint32    // the peer's SETTINGS_MAX_CONCURRENT_STREAMS
	settled    chan struct{}

	goaway atomic.Bool
}

// newConn makes a conn whose first bytes are queued.
func newConn(on carrier, h handler, client bool, window int64) *conn {
	c := &conn{
		carrier: on, h: h, client: client, chunk: chunkSize, window: window, streams: map[uint32]*stream{}, nextID: 1,
		credit: defaultWindow, peerWindow: defaultWindow, peerFrame: maxPayload,
		peerMax: 1 << 30, settled: make(chan struct{}),
	}
	c.hpack = hpack.NewDecoder(4096, func(f hpack.HeaderField) { c.fields = append(c.fields, f) })
	if client {
		c.out = append(c.out, http2.ClientPreface...)
	}
	settings := []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: uint32(window)}}
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

// run carries the connection over a transport until it ends, and closes that.
func (c *conn) run(t *transport) error {
	err := c.flushBatch()
	if err == nil {
		err = t.serve(c.feed, c.flushBatch)
	}
	c.mu.Lock()
	c.ended = true
	if c.broken != nil {
		err = c.broken
	}
	c.mu.Unlock()
	c.carrier.close()
	c.writers.Wait()
	t.mem.Close()
	return err
}

func (c *conn) flushBatch() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flush()
}

// feed takes bytes that arrived at a time, and handles what they complete.
func (c *conn) feed(p []byte, at time.Time) error {
	c.now = at
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

// frames handles every complete frame of p, and of a DATA frame what there is
// of it. It returns what is left.
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
	for {
		if c.dataLeft > 0 {
			n := min(len(p), c.dataLeft)
			if n == 0 {
				return nil, nil
			}
			c.dataLeft -= n
			if err := c.onData(c.dataID, p[:n], n, c.dataEnd && c.dataLeft == 0); err != nil {
				return nil, err
			}
			p = p[n:]
			continue
		}
		if len(p) < frameHead {
			return p, nil
		}
		n := int(p[0])<<16 | int(p[1])<<8 | int(p[2])
		if n > maxFrame {
			return nil, fmt.Errorf("frame of %d bytes, allowed are %d", n, maxFrame)
		}
		kind, flags, id := http2.FrameType(p[3]), http2.Flags(p[4]), binary.BigEndian.Uint32(p[5:])&(1<<31-1)
		if kind == http2.FrameData && n > 0 && !flags.Has(http2.FlagDataPadded) && c.blockID == 0 {
			c.dataLeft, c.dataID, c.dataEnd = n, id, flags.Has(http2.FlagDataEndStream)
			p = p[frameHead:]
			continue
		}
		if len(p) < frameHead+n {
			return p, nil
		}
		if err := c.frame(kind, flags, id, p[frameHead:frameHead+n]); err != nil {
			return nil, err
		}
		p = p[frameHead+n:]
	}
}

func (c *conn) frame(kind http2.FrameType, flags http2.Flags, id uint32, p []byte) error {
	if c.blockID != 0 && kind != http2.FrameContinuation {
		return fmt.Errorf("%v inside a header block", kind)
	}
	// A frame of another type is ignored (RFC 9113 section 4.1).
	//exhaustive:ignore
	switch kind {
	case http2.FrameData:
		return c.onWholeData(flags, id, p)
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
			c.drop(s)
			return c.h.reset(c, s, http2.ErrCode(binary.BigEndian.Uint32(p)))
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

// onWholeData takes a DATA frame that is padded or empty.
func (c *conn) onWholeData(flags http2.Flags, id uint32, p []byte) error {
	size := len(p)
	if flags.Has(http2.FlagDataPadded) {
		if len(p) < 1 || int(p[0]) >= len(p) {
			return errors.New("padding longer than its frame")
		}
		p = p[1 : len(p)-int(p[0])]
	}
	return c.onData(id, p, size, flags.Has(http2.FlagDataEndStream))
}

// onData takes payload, which used up size of the windows.
func (c *conn) onData(id uint32, p []byte, size int, end bool) error {
	if c.used += int64(size); c.used >= connWindow/2 {
		c.windowUpdate(0, c.used)
		c.used = 0
	}
	s := c.streams[id]
	if s == nil {
		return nil // closed by us; late data is legal
	}
	if s.used += int64(size); s.used >= c.window/2 && !end && !c.slow {
		c.windowUpdate(id, s.used)
		s.used = 0
	}
	if err := c.h.data(c, s, p, end); err != nil || !end {
		return err
	}
	c.seen(s)
	return nil
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
		s = c.newStream(id, nil)
	}
	if err := c.h.headers(c, s, c.fields, c.blockEnd); err != nil || !c.blockEnd {
		return err
	}
	c.seen(s)
	return nil
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
			c.peerFrame = min(int(val), maxPayload)
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
	// What waits for credit leaves with the next flush.
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
	return nil
}
