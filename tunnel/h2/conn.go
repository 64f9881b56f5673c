package h2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// Carrier takes a connection's bytes to the peer.
type Carrier interface {
	// Queue is the output; its mutex guards the connection's state as well.
	Queue() *loop.Queue
	// Abort ends the carrier at once.
	Abort()
}

// Handler gets the events of a connection.
type Handler interface {
	// Open is called on a server for each new request stream. It must set the
	// stream's handler (Stream.Handle) before it returns, or reset the stream.
	Open(t *loop.Turn, s *Stream, h *Head)
	// Closed is called once, last, after every stream was reset.
	Closed(t *loop.Turn, err error)
}

// Head is a header or trailer section as it came off the wire. Fields is
// borrowed until the call returns; its strings may be kept.
type Head struct {
	Fields []hpack.HeaderField
	// End is true when the peer's half of the stream ends with it.
	End bool
	// TooLarge is true when the section passed Options.MaxHeaderList; Fields
	// holds what came before.
	TooLarge bool
	// Trailer is true for a section after the first final one.
	Trailer bool
}

// Options configures a connection. The zero value is a server with the defaults.
type Options struct {
	Client bool
	// MaxStreams is what a server lets its peer open at once; 0 means 100.
	MaxStreams uint32
	// Window is a stream's receive window at the start, MaxWindow the size it
	// may grow to; 0 means 256 KiB and 1 MiB. Less than HTTP/2's own 65,535
	// counts as that: the peer may use it before it knows of another.
	Window, MaxWindow int64
	// ConnWindow is the connection's receive window; 0 means 16 MiB, and
	// 65,535 is the least.
	ConnWindow int64
	// MaxHeaderList bounds a header section (RFC 9113 section 6.5.2); 0 means 60 KiB.
	MaxHeaderList int
	// ExtendedConnect announces RFC 8441.
	ExtendedConnect bool
	// OnSettings, if set, is called on the reader after settings of the peer's have
	// taken effect.
	OnSettings func(t *loop.Turn)
	// Budget bounds what waits on all connections that share it; nil: none.
	Budget *Budget
	// Keepalive is the silence after which the peer is pinged, and Timeout how
	// long the answer may take; 0 means 10 s and 20 s.
	Keepalive, Timeout time.Duration
}

func (o Options) withDefaults() Options {
	def := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	def(&o.Window, 256<<10)
	def(&o.MaxWindow, 1<<20)
	def(&o.ConnWindow, 16<<20)
	def((*int64)(&o.Keepalive), int64(10*time.Second))
	def((*int64)(&o.Timeout), int64(20*time.Second))
	o.Window = max(o.Window, initialWindow)
	o.MaxWindow = max(o.MaxWindow, o.Window)
	o.ConnWindow = max(o.ConnWindow, initialWindow)
	if o.MaxStreams == 0 {
		o.MaxStreams = 100
	}
	if o.MaxHeaderList == 0 {
		o.MaxHeaderList = 60 << 10
	}
	return o
}

// Budget bounds the bytes that wait in streams, over all connections that
// share it. While it is overdrawn, stream windows do not grow and connections
// get little of their windows back.
type Budget struct {
	Limit int64
	used  atomic.Int64
}

// Used is the number of bytes that wait now.
func (b *Budget) Used() int64 {
	if b == nil {
		return 0
	}
	return b.used.Load()
}

// Add counts n more bytes (fewer, if negative) that the owner of streams holds
// back for them.
func (b *Budget) Add(n int) { b.add(n) }

func (b *Budget) add(n int) {
	if b != nil {
		b.used.Add(int64(n))
	}
}

// Over reports whether more than Limit bytes wait. A nil Budget never is over.
func (b *Budget) Over() bool { return b != nil && b.used.Load() > b.Limit }

// Conn is one HTTP/2 connection.
type Conn struct {
	carrier Carrier
	q       *loop.Queue
	h       Handler
	o       Options

	// Reader only.
	hdec     *hpack.Decoder
	head     Head
	headSize int
	hblock   headerBlock
	preface  int // bytes of the client preface still expected
	gotFirst bool
	rate     rateLimit

	// Guarded by q.
	streams   map[uint32]*Stream
	blocked   []*Stream
	passed    int64 // bytes that were sent past blocked since one of it had a turn
	henc      *hpack.Encoder
	hbuf      bytes.Buffer
	peerInit  int64 // the peer's SETTINGS_INITIAL_WINDOW_SIZE
	peerMax   uint32
	peerFrame int
	settled   bool // the peer's settings have come
	connects  bool // it takes extended CONNECT
	sendWin   int64
	recvWin   int64
	unacked   int64
	nextID    uint32 // client: the next stream
	lastID    uint32 // server: the highest stream seen
	goAwayID  uint32 // server: streams above are ignored after our final GOAWAY
	draining  bool   // we sent GOAWAY
	refusing  bool   // the peer sent GOAWAY
	closed    bool
	resets    idRing // streams that we reset lately: their late frames are ignored
	ended     idRing // streams that ended lately otherwise
	ping      keepalive
}

// New makes a connection on carrier and queues its preface and settings. The
// caller then feeds Data, and calls Closed when the carrier ended.
func New(t *loop.Turn, carrier Carrier, h Handler, o Options) *Conn {
	c := &Conn{carrier: carrier, q: carrier.Queue(), h: h, o: o.withDefaults()}
	c.hdec = hpack.NewDecoder(4096, c.emit)
	// One field larger than all may be is a 431, not a broken connection: the
	// header block's own bound is the one that holds.
	c.hdec.SetMaxStringLength(2 * maxBlockLen)
	c.streams = map[uint32]*Stream{}
	c.henc = hpack.NewEncoder(&c.hbuf)
	c.peerInit, c.peerMax, c.peerFrame = initialWindow, 100, maxFrameSize
	c.sendWin, c.recvWin = initialWindow, c.o.ConnWindow
	c.goAwayID = maxWindow
	c.ping.heard(t.Now, true, true)
	c.q.Lock()
	defer c.q.Unlock()
	p := c.q.Reserve(t, 256)
	if c.o.Client {
		c.nextID = 1
		*p = append(*p, preface...)
	} else {
		c.preface = len(preface)
	}
	*p = c.appendSettings(*p)
	if more := c.o.ConnWindow - initialWindow; more > 0 {
		*p = appendFrame(*p, 4, frameWindowUpdate, 0, 0)
		*p = binary.BigEndian.AppendUint32(*p, uint32(more))
	}
	return c
}

func (c *Conn) appendSettings(b []byte) []byte {
	var s []byte
	s = appendSetting(s, settingInitialWindowSize, uint32(c.o.Window))
	s = appendSetting(s, settingMaxHeaderListSize, uint32(c.o.MaxHeaderList))
	if c.o.Client {
		s = appendSetting(s, settingEnablePush, 0)
	} else {
		s = appendSetting(s, settingMaxConcurrentStreams, c.o.MaxStreams)
		if c.o.ExtendedConnect {
			s = appendSetting(s, settingEnableConnect, 1)
		}
	}
	b = appendFrame(b, len(s), frameSettings, 0, 0)
	return append(b, s...)
}

// ErrClosed is the error of operations on a connection that has ended.
var ErrClosed = errors.New("http2 connection closed")

// ErrHTTP1 ends a client's connection to a server that knows HTTP/1.1 alone: it
// has taken the preface for a request of that version, and answers it.
var ErrHTTP1 = connErr(ProtocolError, "the peer speaks HTTP/1.1, where HTTP/2 was expected")

// Data feeds received bytes: see loop.Handler. It consumes whole frames. On an
// error it has queued a GOAWAY, and the carrier is to be closed after the turn.
func (c *Conn) Data(t *loop.Turn, b []byte) (int, error) {
	off := 0
	if err := c.outputBound(); err != nil {
		return 0, c.fail(t, err)
	}
	if c.preface > 0 {
		n := min(len(b), c.preface)
		start := len(preface) - c.preface
		if string(b[:n]) != preface[start:start+n] {
			return 0, c.fail(t, connErr(ProtocolError, "not an HTTP/2 preface"))
		}
		c.preface -= n
		off = n
	}
	if c.o.Client && !c.gotFirst && len(b) >= 5 && string(b[:5]) == "HTTP/" {
		return 0, c.fail(t, ErrHTTP1)
	}
	block, whole := c.hblock.seq, false
	for len(b)-off >= frameHeaderLen {
		h := b[off : off+frameHeaderLen]
		n := int(h[0])<<16 | int(h[1])<<8 | int(h[2])
		if n > maxFrameSize {
			return off, c.fail(t, connErr(FrameSizeError, "frame larger than announced"))
		}
		if len(b)-off-frameHeaderLen < n {
			break
		}
		id := binary.BigEndian.Uint32(h[5:]) & maxWindow
		p := b[off+frameHeaderLen : off+frameHeaderLen+n]
		off += frameHeaderLen + n
		whole = true
		if err := c.frame(t, h[3], h[4], id, p); err != nil {
			return off, c.fail(t, err)
		}
	}
	if whole && c.hblock.open && c.hblock.seq == block {
		whole = false // still the header block of before
	}
	c.ping.heard(t.Now, off < len(b) || c.hblock.open || !c.gotFirst, whole)
	return off, nil
}

// maxOutput bounds what a peer can make us queue by frames that want an answer
// (requests, PING, SETTINGS) while it does not read. Data stops at HighWater;
// a hundred streams' heads fit into the rest.
const maxOutput = loop.HighWater + 4<<20

func (c *Conn) outputBound() error {
	c.q.Lock()
	defer c.q.Unlock()
	if c.q.Size() > maxOutput {
		return connErr(EnhanceYourCalm, "answers are asked for and not read")
	}
	return nil
}

func (c *Conn) frame(t *loop.Turn, typ, flags byte, id uint32, p []byte) error {
	if c.hblock.open && (typ != frameContinuation || id != c.hblock.id) {
		return connErr(ProtocolError, "header block interrupted")
	}
	if !c.gotFirst {
		if typ != frameSettings || flags&flagAck != 0 {
			return connErr(ProtocolError, "the first frame is not SETTINGS")
		}
		c.gotFirst = true
	}
	switch typ {
	case frameData:
		return c.onData(t, flags, id, p)
	case frameHeaders:
		return c.onHeaders(t, flags, id, p)
	case frameContinuation:
		return c.onContinuation(t, flags, id, p)
	case framePriority:
		return c.onPriority(t, id, p)
	case frameRSTStream:
		return c.onReset(t, id, p)
	case frameSettings:
		return c.onSettings(t, flags, id, p)
	case framePushPromise:
		return connErr(ProtocolError, "PUSH_PROMISE where push is off")
	case framePing:
		return c.onPing(t, flags, id, p)
	case frameGoAway:
		return c.onGoAway(t, id, p)
	case frameWindowUpdate:
		return c.onWindowUpdate(t, id, p)
	}
	return c.rate.other(t.Now) // unknown frames are ignored, RFC 9113 section 4.1
}

// fail queues GOAWAY for a connection error and returns err.
func (c *Conn) fail(t *loop.Turn, err error) error {
	code := InternalError
	reason := ""
	if ce, ok := errors.AsType[*ConnError](err); ok {
		code, reason = ce.Code, ce.Reason
	}
	c.q.Lock()
	c.appendGoAway(t, c.lastID, code, reason)
	c.q.Unlock()
	return err
}

func (c *Conn) appendGoAway(t *loop.Turn, last uint32, code ErrCode, reason string) {
	p := c.q.Reserve(t, frameHeaderLen+8+len(reason))
	*p = appendFrame(*p, 8+len(reason), frameGoAway, 0, 0)
	*p = binary.BigEndian.AppendUint32(*p, last)
	*p = binary.BigEndian.AppendUint32(*p, uint32(code))
	*p = append(*p, reason...)
}

// Closed ends every stream and tells the handler. The carrier's reader calls
// it once, after the last Data.
func (c *Conn) Closed(t *loop.Turn, err error) {
	c.q.Lock()
	if c.closed {
		c.q.Unlock()
		return
	}
	c.closed = true
	ss := c.streams
	c.streams = map[uint32]*Stream{}
	c.blocked = nil
	for _, s := range ss {
		c.dropPending(s)
		s.gone = true
	}
	c.q.Unlock()
	for _, s := range ss {
		if h := s.take(); h != nil {
			h.Reset(t, s, err)
		}
	}
	c.h.Closed(t, err)
}

// Drained goes on sending what was held back: see loop.Handler.
func (c *Conn) Drained(t *loop.Turn) {
	c.q.Lock()
	w := c.kickBlocked(t)
	c.q.Unlock()
	tellWritable(t, w)
}

// Abort ends the connection at once, from any goroutine.
func (c *Conn) Abort() { c.carrier.Abort() }

// Streams is the number of streams that are open.
func (c *Conn) Streams() int {
	c.q.Lock()
	defer c.q.Unlock()
	return len(c.streams)
}

// CanOpen reports whether a client may open one more stream, given its own
// limit, and how many are open.
func (c *Conn) CanOpen(limit int) (ok bool, open int) {
	c.q.Lock()
	defer c.q.Unlock()
	open = len(c.streams)
	ok = !c.closed && !c.refusing && !c.draining && open < limit && open < int(c.peerMax) && c.nextID < 1<<30
	return ok, open
}

// PeerConnect reports whether the peer's settings have come, and whether they
// allow extended CONNECT (RFC 8441 section 3).
func (c *Conn) PeerConnect() (known, allowed bool) {
	c.q.Lock()
	defer c.q.Unlock()
	return c.settled, c.connects
}

// Usable reports whether new streams can be opened at all, now or later.
func (c *Conn) Usable() bool {
	c.q.Lock()
	defer c.q.Unlock()
	return !c.closed && !c.refusing && !c.draining && c.nextID < 1<<30
}

// drainToken is the PING by which a draining server learns that the peer has
// seen its first GOAWAY.
var drainToken = [8]byte{'c', 'a', 'i', 'r', 'n', 'b', 'y', 'e'}

// Drain begins a graceful end: GOAWAY first announces that it is coming, so
// that no request in flight is lost, and names the last stream after a round
// trip; open streams go on. The carrier's output ends with the last of them.
func (c *Conn) Drain(t *loop.Turn) {
	c.q.Lock()
	defer c.q.Unlock()
	if c.draining || c.closed {
		return
	}
	c.draining = true
	if c.o.Client {
		c.appendGoAway(t, 0, NoError, "")
		c.endIfDone(t)
		return
	}
	c.appendGoAway(t, maxWindow, NoError, "")
	p := c.q.Reserve(t, frameHeaderLen+8)
	*p = appendFrame(*p, 8, framePing, 0, 0)
	*p = append(*p, drainToken[:]...)
}

// endIfDone ends a drained connection's output. q is held.
func (c *Conn) endIfDone(t *loop.Turn) {
	if len(c.streams) > 0 {
		return
	}
	if (c.draining && (c.o.Client || c.goAwayID != maxWindow)) || (c.refusing && c.o.Client) {
		c.q.End(t)
	}
}
