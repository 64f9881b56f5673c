package h2

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/tunnel/loop"
)

func (c *Conn) onSettings(t *loop.Turn, flags byte, id uint32, p []byte) error {
	if id != 0 {
		return connErr(ProtocolError, "SETTINGS on a stream")
	}
	if flags&flagAck != 0 {
		if len(p) != 0 {
			return connErr(FrameSizeError, "SETTINGS ack with payload")
		}
		return c.rate.other(t.Now)
	}
	if len(p)%6 != 0 {
		return connErr(FrameSizeError, "SETTINGS of odd length")
	}
	if err := c.rate.control(t.Now); err != nil {
		return err
	}
	c.q.Lock()
	before := c.peerInit
	for ; len(p) > 0; p = p[6:] {
		err := c.rate.other(t.Now)
		if err == nil {
			err = c.applySetting(binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:]))
		}
		if err != nil {
			c.q.Unlock()
			return err
		}
	}
	c.settled = true
	b := c.q.Reserve(t, frameHeaderLen)
	*b = appendFrame(*b, 0, frameSettings, flagAck, 0)
	var w []*Stream
	if c.peerInit > before {
		// Behind the ack, with which the peer knows of its windows; the oldest first.
		for _, id := range slices.Sorted(maps.Keys(c.streams)) {
			if s := c.streams[id]; s != nil && s.waiting() && c.drain(t, s, noQuantum) {
				w = append(w, s)
			}
		}
	}
	c.q.Unlock()
	tellWritable(t, w)
	if c.o.OnSettings != nil {
		c.o.OnSettings(t)
	}
	return nil
}

// applySetting obeys one setting of the peer's. q is held.
func (c *Conn) applySetting(id uint16, v uint32) error {
	switch id {
	case settingHeaderTableSize:
		c.henc.SetMaxDynamicTableSizeLimit(min(v, 4096))
	case settingEnablePush:
		if v > 1 || (v == 1 && c.o.Client) {
			return connErr(ProtocolError, "bad ENABLE_PUSH")
		}
	case settingMaxConcurrentStreams:
		c.peerMax = v
	case settingInitialWindowSize:
		if v > maxWindow {
			return connErr(FlowControlError, "INITIAL_WINDOW_SIZE too large")
		}
		d := int64(v) - c.peerInit
		c.peerInit = int64(v)
		for _, s := range c.streams {
			if s.sendWin += d; s.sendWin > maxWindow {
				return connErr(FlowControlError, "window overflow by INITIAL_WINDOW_SIZE")
			}
		}
	case settingMaxFrameSize:
		if v < maxFrameSize || v > 1<<24-1 {
			return connErr(ProtocolError, "bad MAX_FRAME_SIZE")
		}
		c.peerFrame = int(v)
	case settingEnableConnect:
		if v > 1 {
			return connErr(ProtocolError, "bad ENABLE_CONNECT_PROTOCOL")
		}
		if v == 0 && c.connects {
			return connErr(ProtocolError, "ENABLE_CONNECT_PROTOCOL taken back") // RFC 8441 section 3
		}
		c.connects = v == 1
	}
	return nil
}

func (c *Conn) onPing(t *loop.Turn, flags byte, id uint32, p []byte) error {
	if id != 0 {
		return connErr(ProtocolError, "PING on a stream")
	}
	if len(p) != 8 {
		return connErr(FrameSizeError, "PING of wrong length")
	}
	c.q.Lock()
	defer c.q.Unlock()
	if flags&flagAck != 0 {
		c.ping.sent = time.Time{}
		if string(p) == string(drainToken[:]) && c.draining && c.goAwayID == maxWindow {
			c.goAwayID = c.lastID
			c.appendGoAway(t, c.lastID, NoError, "")
			c.endIfDone(t)
		}
		return nil
	}
	if err := c.rate.control(t.Now); err != nil {
		return err
	}
	b := c.q.Reserve(t, frameHeaderLen+8)
	*b = appendFrame(*b, 8, framePing, flagAck, 0)
	*b = append(*b, p...)
	return nil
}

func (c *Conn) onGoAway(t *loop.Turn, id uint32, p []byte) error {
	if id != 0 {
		return connErr(ProtocolError, "GOAWAY on a stream")
	}
	if len(p) < 8 {
		return connErr(FrameSizeError, "GOAWAY too short")
	}
	last := binary.BigEndian.Uint32(p) & maxWindow
	code := ErrCode(binary.BigEndian.Uint32(p[4:]))
	c.q.Lock()
	c.refusing = true
	var refused []*Stream
	if c.o.Client {
		for _, id := range slices.Sorted(maps.Keys(c.streams)) {
			if id > last {
				refused = append(refused, c.streams[id])
				c.remove(c.streams[id])
			}
		}
		c.endIfDone(t)
	}
	c.q.Unlock()
	for _, s := range refused {
		if h := s.take(); h != nil {
			h.Reset(t, s, &StreamError{Code: RefusedStream, Remote: true, Reason: "GOAWAY " + code.String()})
		}
	}
	return nil
}

func (c *Conn) onPriority(t *loop.Turn, id uint32, p []byte) error {
	if id == 0 {
		return connErr(ProtocolError, "PRIORITY without a stream")
	}
	if len(p) != 5 {
		return c.streamFail(t, id, FrameSizeError, "PRIORITY of wrong length")
	}
	if binary.BigEndian.Uint32(p)&maxWindow == id {
		return c.streamFail(t, id, ProtocolError, "stream depends on itself")
	}
	return c.rate.other(t.Now)
}

// streamFail resets a stream for a fault of the peer's and tells its handler.
func (c *Conn) streamFail(t *loop.Turn, id uint32, code ErrCode, reason string) error {
	c.q.Lock()
	s := c.streams[id]
	if s != nil {
		c.remove(s)
	} else if c.idle(id) {
		c.q.Unlock()
		return connErr(code, reason)
	}
	c.appendReset(t, id, code)
	c.endIfDone(t)
	c.q.Unlock()
	if s != nil {
		if h := s.take(); h != nil {
			h.Reset(t, s, &StreamError{Code: code, Reason: reason})
		}
	}
	return c.rate.reset(t.Now)
}

// appendReset queues RST_STREAM and remembers the stream. q is held.
func (c *Conn) appendReset(t *loop.Turn, id uint32, code ErrCode) {
	b := c.q.Reserve(t, frameHeaderLen+4)
	*b = appendFrame(*b, 4, frameRSTStream, 0, id)
	*b = binary.BigEndian.AppendUint32(*b, uint32(code))
	c.resets.add(id)
}

// idle reports whether the peer has not opened the stream yet. q is held.
func (c *Conn) idle(id uint32) bool {
	if c.o.Client {
		return id%2 == 0 || id >= c.nextID
	}
	return id%2 == 0 || id > c.lastID
}

// idRing remembers the last stream identifiers put into it.
type idRing struct {
	ids [128]uint32
	n   int
}

func (r *idRing) add(id uint32) {
	r.ids[r.n%len(r.ids)] = id
	r.n++
}

func (r *idRing) has(id uint32) bool { return slices.Contains(r.ids[:], id) }

func (c *Conn) onReset(t *loop.Turn, id uint32, p []byte) error {
	if id == 0 {
		return connErr(ProtocolError, "RST_STREAM without a stream")
	}
	if len(p) != 4 {
		return connErr(FrameSizeError, "RST_STREAM of wrong length")
	}
	c.q.Lock()
	s := c.streams[id]
	if s == nil && c.idle(id) {
		c.q.Unlock()
		return connErr(ProtocolError, "RST_STREAM on an idle stream")
	}
	// One that crossed our end, or comes behind it, has cost us nothing.
	early := s != nil && !s.localEnd
	if s != nil {
		c.remove(s)
		c.ended.add(id)
		c.endIfDone(t)
	}
	c.q.Unlock()
	if s != nil {
		if h := s.take(); h != nil {
			h.Reset(t, s, &StreamError{Code: ErrCode(binary.BigEndian.Uint32(p)), Remote: true})
		}
	}
	if c.o.Client {
		return nil
	}
	if !early {
		return c.rate.other(t.Now)
	}
	return c.rate.reset(t.Now)
}

// rateLimit counts, per second, frames that cost us more than they cost the
// peer: rapid reset (CVE-2023-44487), PING and SETTINGS floods, empty frames.
type rateLimit struct {
	since                    time.Time
	resets, controls, others int
}

// The limits per second and connection. An honest peer stays far below: a
// waypoint's peer has at most a hundred streams to reset.
const (
	maxResets   = 2000
	maxControls = 1000
	maxOthers   = 20000
)

func (r *rateLimit) roll(now time.Time) {
	if now.Sub(r.since) >= time.Second {
		*r = rateLimit{since: now}
	}
}

func (r *rateLimit) reset(now time.Time) error {
	r.roll(now)
	if r.resets++; r.resets > maxResets {
		return connErr(EnhanceYourCalm, "too many streams reset")
	}
	return nil
}

func (r *rateLimit) control(now time.Time) error {
	r.roll(now)
	if r.controls++; r.controls > maxControls {
		return connErr(EnhanceYourCalm, "too many PING or SETTINGS frames")
	}
	return nil
}

func (r *rateLimit) other(now time.Time) error {
	r.roll(now)
	if r.others++; r.others > maxOthers {
		return connErr(EnhanceYourCalm, "too many frames that carry nothing")
	}
	return nil
}

// keepalive knows when the peer was last heard.
type keepalive struct {
	// Unix nanoseconds, written by the reader: the last bytes, and when a frame
	// or header block began that has not ended (0: none).
	lastRecv, partialSince atomic.Int64
	sent                   time.Time // guarded by q; zero when no PING is out
}

// heard notes received bytes: whether they end within a frame or header block,
// and whether something was completed before, so that this one is new.
func (k *keepalive) heard(now time.Time, partial, fresh bool) {
	n := now.UnixNano()
	k.lastRecv.Store(n)
	if !partial {
		k.partialSince.Store(0)
	} else if fresh || k.partialSince.Load() == 0 {
		k.partialSince.Store(n)
	}
}

// ErrSilent is why Tick aborted a connection.
var ErrSilent = errors.New("peer did not answer a ping in time")

// Tick is called about once a second, on any goroutine. It pings a silent
// peer, and aborts the connection of one that does not answer or that takes
// longer than the ping timeout over a single frame, header block or preface.
// It reports whether it aborted.
func (c *Conn) Tick(t *loop.Turn) bool {
	now := t.Now
	last := time.Unix(0, c.ping.lastRecv.Load())
	dead := false
	if p := c.ping.partialSince.Load(); p != 0 && now.Sub(time.Unix(0, p)) > c.o.Timeout {
		dead = true
	}
	c.q.Lock()
	switch {
	case dead || c.closed:
	case !c.ping.sent.IsZero() && last.After(c.ping.sent):
		c.ping.sent = time.Time{}
	case !c.ping.sent.IsZero() && now.Sub(c.ping.sent) >= c.o.Timeout:
		dead = true
	case c.ping.sent.IsZero() && now.Sub(last) >= c.o.Keepalive:
		c.ping.sent = now
		b := c.q.Reserve(t, frameHeaderLen+8)
		*b = appendFrame(*b, 8, framePing, 0, 0)
		*b = append(*b, "cairn\x00\x00\x00"...)
	}
	if !dead && !c.closed {
		c.returnWindow(t)
		c.returnUpTo(t, min(c.unacked, trickle))
	}
	c.q.Unlock()
	if dead {
		c.Abort() // without the lock: a carrier may be a stream of another connection
	}
	return dead
}
