package h2

import (
	"bytes"
	"testing"
	"time"

	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// FuzzFrames feeds arbitrary bytes to a server or client in arbitrary pieces.
// It must not panic, hold more than it says, or do anything that depends on
// where the bytes were split. The first byte of knobs chooses the role, the
// second whether the bytes follow a good beginning, the third the carrier's
// mood, and the others the pieces.
func FuzzFrames(f *testing.F) {
	s := &script{w: newWire()}
	s.enc = hpack.NewEncoder(&s.hbuf)
	seed := func(knobs string, frames ...[]byte) { f.Add([]byte(knobs), bytes.Join(frames, nil)) }
	seed("\x00\x01\x00\x07", s.get(1), s.post(3), data(3, 100), dataEnd(3, 5), window(0, 100), window(3, 7), ping("12345678"))
	seed("\x00\x01\x01\x30\x05", s.post(5), settings(settingInitialWindowSize, 10, settingHeaderTableSize, 0), rst(5, Cancel), goAway(0, NoError))
	seed("\x01\x01\x00\x03", s.status(1, "200", false), data(1, 9), s.headers(1, true, "t", "u"), goAway(3, NoError), pingAck("cairnbye"))
	seed("\x01\x01\x01", s.status(1, "103", false), raw(framePushPromise, 4, 1, 0, 0, 0, 2))
	seed("\x00\x00\x00\x01", []byte(preface), settings(), raw(frameHeaders, 0, 1, 0x82), raw(frameContinuation, flagEndHeaders, 1, 0x84))
	seed("\x00\x01\x00\x01", raw(frameHeaders, flagEndHeaders|flagPadded|flagPriority, 1, 1, 0, 0, 0, 3, 9, 0x82, 0), raw(0x99, 1, 1, 1, 2))
	f.Fuzz(func(t *testing.T, knobs, b []byte) {
		if len(knobs) > 64 || len(b) > 1<<18 {
			t.Skip("more says no more")
		}
		knob := func(i int) byte {
			if i < len(knobs) {
				return knobs[i]
			}
			return 0
		}
		whole := newPeerOf(t, knob(0)&1 == 1, knob(1)&1 == 1, knob(2)&1 == 1)
		whole.feed(b, func(int) int { return len(b) })
		pieces := newPeerOf(t, knob(0)&1 == 1, knob(1)&1 == 1, knob(2)&1 == 1)
		pieces.feed(b, func(i int) int { return 1 + int(knob(3+i%max(1, len(knobs)-3)))*int(knob(3+i%max(1, len(knobs)-3))) })
		whole.compare(pieces)
	})
}

// peerOf is a connection whose handlers do a bit of everything.
type peerOf struct {
	*script
	streams []*Stream
	err     error
	budget  Budget
}

func newPeerOf(t *testing.T, client, begun, stuck bool) *peerOf {
	t.Helper()
	p := &peerOf{script: &script{T: t, w: newWire(), now: time.Unix(1, 0)}}
	p.budget.Limit = 1 << 20
	p.w.stuck = stuck
	p.turn(func(t *loop.Turn) {
		p.c = New(t, p.w, p, Options{Client: client, MaxStreams: 20, MaxHeaderList: 8 << 10, Budget: &p.budget})
		if client {
			for range 3 {
				p.streams = append(p.streams, p.c.Open(t, p, status200, false))
			}
		}
	})
	p.w.conn = p.c
	if begun && !client {
		p.feed([]byte(preface), func(int) int { return len(preface) })
	}
	if begun {
		p.feed(settings(), func(int) int { return 9 })
	}
	return p
}

func (p *peerOf) feed(b []byte, size func(i int) int) {
	p.Helper()
	var rest []byte
	for i := 0; len(b) > 0 && p.err == nil; i++ {
		n := min(len(b), size(i))
		rest = append(rest, b[:n]...)
		b = b[n:]
		p.turn(func(t *loop.Turn) {
			used, err := p.c.Data(t, rest)
			if used > len(rest) {
				p.Fatalf("consumed %d of %d bytes", used, len(rest))
			}
			rest, p.err = rest[used:], err
		})
		p.bounds(len(rest))
	}
}

// bounds holds what a peer may make us keep.
func (p *peerOf) bounds(rest int) {
	p.Helper()
	c := p.c
	waiting := 0
	for _, s := range c.streams {
		waiting += s.pend.n
	}
	switch {
	case p.err == nil && rest >= frameHeaderLen+maxFrameSize:
		p.Fatalf("%d bytes are not consumed", rest)
	case len(c.streams) > 20, len(c.blocked) > len(c.streams):
		p.Fatalf("%d streams, %d in line", len(c.streams), len(c.blocked))
	case len(c.hblock.buf) > maxBlockLen || !c.hblock.open && c.hblock.buf != nil && cap(c.hblock.buf) > maxFrameSize:
		p.Fatalf("%d bytes of a header block", len(c.hblock.buf))
	case c.q.Size() > maxOutput+1<<20:
		p.Fatalf("%d bytes are queued", c.q.Size())
	case int64(waiting) != p.budget.Used():
		p.Fatalf("%d bytes wait, the budget says %d", waiting, p.budget.Used())
	case c.recvWin < 0 && p.err == nil, c.sendWin < 0:
		p.Fatalf("windows %d, %d", c.recvWin, c.sendWin)
	}
	if len(p.w.out) > 1<<20 {
		p.w.out = p.w.out[:0]
	}
}

// compare holds that two connections did the same.
func (p *peerOf) compare(o *peerOf) {
	p.Helper()
	if (p.err == nil) != (o.err == nil) || p.err != nil && p.err.Error() != o.err.Error() {
		p.Errorf("in one piece: %v; in several: %v", p.err, o.err)
	}
	if len(p.log) != len(o.log) {
		p.Fatalf("in one piece: %q\nin several: %q", p.log, o.log)
	}
	for i := range p.log {
		if p.log[i] != o.log[i] {
			p.Fatalf("event %d in one piece: %q; in several: %q", i, p.log[i], o.log[i])
		}
	}
	if !p.w.stuck && !bytes.Equal(p.w.out, o.w.out) {
		p.Error("what is sent depends on where the bytes were split")
	}
	for _, x := range []*peerOf{p, o} {
		x.turn(func(t *loop.Turn) { x.c.Closed(t, ErrClosed) })
		if x.budget.Used() != 0 || x.c.Streams() != 0 {
			p.Errorf("%d bytes, %d streams are held after the end", x.budget.Used(), x.c.Streams())
		}
	}
}

// Open implements Handler: some streams are answered, some refused.
func (p *peerOf) Open(t *loop.Turn, st *Stream, h *Head) {
	p.script.Open(t, st, h)
	st.Handle(p)
	switch st.ID % 14 {
	case 3:
		st.Reset(t, RefusedStream)
	case 5:
		st.WriteHeaders(t, status200, true)
		st.StopReading(t)
	case 7:
		st.WriteHeaders(t, status200, false)
		st.Write(t, make([]byte, 100<<10), false)
		st.WriteTrailers(t, status200)
	default:
		st.WriteHeaders(t, status200, false)
		if h.End {
			st.Write2(t, []byte("hello"), []byte("world"), true)
		}
	}
}

// Data implements StreamHandler: an echo, while the peer takes it.
func (p *peerOf) Data(t *loop.Turn, st *Stream, b []byte, end bool) {
	p.script.keep = st.Congested()
	p.script.Data(t, st, b, end)
	if !p.script.keep {
		st.Write(t, b, end)
	}
}
