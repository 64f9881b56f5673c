package h2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/tunnel/loop"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2/hpack"
)

// wire is a Carrier in memory: what the connection sends collects in out.
type wire struct {
	q       loop.Queue
	conn    *Conn
	out     []byte
	stuck   bool // take nothing, as a peer does that does not read
	ended   bool // the output was ended
	aborted bool
}

func newWire() *wire {
	w := &wire{}
	w.q.Init(w)
	return w
}

func (w *wire) Queue() *loop.Queue { return &w.q }

func (w *wire) Abort() { w.aborted = true }

func (w *wire) Flush(t *loop.Turn) {
	w.q.Lock()
	w.q.Flushed()
	if w.stuck {
		w.q.Unlock()
		return
	}
	for b := w.q.Take(); b != nil; b = w.q.Take() {
		w.out = append(w.out, b...)
		w.q.Release(b)
	}
	w.ended = w.ended || w.q.Ended()
	drained := w.q.WantDrained
	w.q.WantDrained = false
	w.q.Unlock()
	if drained {
		w.conn.Drained(t)
	}
}

// script drives one Conn by hand-built frames, in order, and records what it
// does: each step names what the handlers and the peer must have seen.
type script struct {
	*testing.T
	w    *wire
	c    *Conn
	now  time.Time
	log  []string // what handlers were told
	keep bool     // handlers do not consume
	last *Stream  // opened last

	hbuf bytes.Buffer
	enc  *hpack.Encoder
	dec  *hpack.Decoder
}

// start makes a connection and checks its first flight. The peer's settings
// are sent unless the test starts raw.
func start(t *testing.T, o Options) *script {
	t.Helper()
	s := startRaw(t, o)
	if !o.Client {
		s.send([]byte(preface))
	}
	s.send(settings())
	s.wantSent("SETTINGS ack")
	return s
}

func startRaw(t *testing.T, o Options) *script {
	t.Helper()
	s := &script{T: t, w: newWire(), now: time.Unix(1000, 0)}
	s.enc = hpack.NewEncoder(&s.hbuf)
	s.dec = hpack.NewDecoder(4096, nil)
	s.turn(func(t *loop.Turn) { s.c = New(t, s.w, s, o) })
	s.w.conn = s.c
	if o.Client {
		if !bytes.HasPrefix(s.w.out, []byte(preface)) {
			t.Fatal("the client's first bytes are not the preface")
		}
		s.w.out = s.w.out[len(preface):]
	}
	if got := s.sent(); !strings.HasPrefix(got[0], "SETTINGS ") {
		t.Fatalf("the first frame is %s, want SETTINGS", got[0])
	}
	return s
}

// turn runs f at the script's time.
func (s *script) turn(f func(t *loop.Turn)) {
	t := &loop.Turn{Now: s.now}
	f(t)
	t.End()
}

// try feeds frames in one piece and returns the connection's error.
func (s *script) try(frames ...[]byte) error {
	b := bytes.Join(frames, nil)
	var err error
	s.turn(func(t *loop.Turn) {
		var n int
		n, err = s.c.Data(t, b)
		if err == nil && n != len(b) {
			s.Errorf("consumed %d of %d bytes of whole frames", n, len(b))
		}
	})
	return err
}

func (s *script) send(frames ...[]byte) {
	s.Helper()
	if err := s.try(frames...); err != nil {
		s.Fatalf("connection error: %v", err)
	}
}

// sendFatal feeds frames that must end the connection with GOAWAY and code.
func (s *script) sendFatal(code ErrCode, frames ...[]byte) {
	s.Helper()
	err := s.try(frames...)
	ce, ok := err.(*ConnError)
	if !ok || ce.Code != code {
		s.Fatalf("got %v, want connection error %v", err, code)
	}
	sent := s.sent()
	if len(sent) == 0 || !strings.HasPrefix(sent[len(sent)-1], "GOAWAY ") || !strings.Contains(sent[len(sent)-1], code.String()) {
		s.Errorf("sent %q, want a GOAWAY with %v last", sent, code)
	}
}

// want compares what handlers were told since the last call.
func (s *script) want(events ...string) {
	s.Helper()
	if d := cmp.Diff(events, s.log); d != "" && len(events)+len(s.log) > 0 {
		s.Fatalf("handlers were told (-want +got):\n%s", d)
	}
	s.log = nil
}

// wantSent compares the frames sent since the last look.
func (s *script) wantSent(frames ...string) {
	s.Helper()
	if got := s.sent(); len(frames)+len(got) > 0 {
		if d := cmp.Diff(frames, got); d != "" {
			s.Fatalf("frames sent (-want +got):\n%s", d)
		}
	}
}

// sent takes what was sent and describes each frame.
func (s *script) sent() []string {
	s.Helper()
	var out []string
	b := s.w.out
	s.w.out = nil
	for len(b) > 0 {
		f, rest, err := cutFrame(b)
		if err != nil {
			s.Fatalf("sent bytes that are no frame: %v", err)
		}
		b = rest
		out = append(out, s.describe(f))
	}
	return out
}

type rawFrame struct {
	typ, flags byte
	id         uint32
	p          []byte
}

func cutFrame(b []byte) (f rawFrame, rest []byte, err error) {
	if len(b) < frameHeaderLen {
		return f, nil, fmt.Errorf("%d bytes left", len(b))
	}
	n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	f = rawFrame{typ: b[3], flags: b[4], id: binary.BigEndian.Uint32(b[5:])}
	b = b[frameHeaderLen:]
	if len(b) < n {
		return f, nil, fmt.Errorf("frame of %d bytes in %d", n, len(b))
	}
	f.p = b[:n]
	return f, b[n:], nil
}

func (s *script) describe(f rawFrame) string {
	s.Helper()
	end := ""
	if f.flags&flagEndStream != 0 {
		end = " end"
	}
	switch f.typ {
	case frameData:
		return fmt.Sprintf("DATA %d %d%s", f.id, len(f.p), end)
	case frameHeaders:
		fields, err := s.dec.DecodeFull(f.p)
		if err != nil {
			s.Fatalf("sent a header block that does not decode: %v", err)
		}
		return fmt.Sprintf("HEADERS %d%s%s", f.id, fieldText(fields), end)
	case frameRSTStream:
		return fmt.Sprintf("RST %d %v", f.id, ErrCode(binary.BigEndian.Uint32(f.p)))
	case frameSettings:
		if f.flags&flagAck != 0 {
			return "SETTINGS ack"
		}
		text := "SETTINGS"
		for p := f.p; len(p) > 0; p = p[6:] {
			text += fmt.Sprintf(" %d=%d", binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:]))
		}
		return text
	case framePing:
		if f.flags&flagAck != 0 {
			return fmt.Sprintf("PING ack %q", f.p)
		}
		return fmt.Sprintf("PING %q", f.p)
	case frameGoAway:
		return fmt.Sprintf("GOAWAY %d %v", binary.BigEndian.Uint32(f.p), ErrCode(binary.BigEndian.Uint32(f.p[4:])))
	case frameWindowUpdate:
		return fmt.Sprintf("WINDOW %d %d", f.id, binary.BigEndian.Uint32(f.p))
	}
	return fmt.Sprintf("frame type %d", f.typ)
}

func fieldText(fields []hpack.HeaderField) string {
	var b strings.Builder
	for _, f := range fields {
		fmt.Fprintf(&b, " %s=%s", f.Name, f.Value)
	}
	return b.String()
}

func (s *script) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

// Open implements Handler.
func (s *script) Open(_ *loop.Turn, st *Stream, h *Head) {
	s.last = st
	st.Handle(s)
	s.note("open %d%s", st.ID, headText(h))
}

func headText(h *Head) string {
	text := fieldText(h.Fields)
	if len(text) > 200 {
		text = fmt.Sprintf(" %d fields", len(h.Fields))
	}
	if h.TooLarge {
		text = " too large"
	}
	if h.Trailer {
		text += " trailer"
	}
	if h.End {
		text += " end"
	}
	return text
}

// Closed implements Handler.
func (s *script) Closed(_ *loop.Turn, err error) { s.note("closed: %v", err) }

// Headers implements StreamHandler.
func (s *script) Headers(_ *loop.Turn, st *Stream, h *Head) {
	s.note("headers %d%s", st.ID, headText(h))
}

// Data implements StreamHandler.
func (s *script) Data(t *loop.Turn, st *Stream, b []byte, end bool) {
	e := ""
	if end {
		e = " end"
	}
	s.note("data %d %d%s", st.ID, len(b), e)
	if !s.keep {
		st.Consumed(t, len(b))
	}
}

// Reset implements StreamHandler.
func (s *script) Reset(_ *loop.Turn, st *Stream, err error) {
	if se, ok := err.(*StreamError); ok {
		who := "us"
		if se.Remote {
			who = "peer"
		}
		s.note("reset %d %v by %s", st.ID, se.Code, who)
		return
	}
	s.note("reset %d: %v", st.ID, err)
}

// Writable implements StreamHandler.
func (s *script) Writable(_ *loop.Turn, st *Stream) { s.note("writable %d", st.ID) }

// Frames, as a peer would build them.

func raw(typ, flags byte, id uint32, p ...byte) []byte {
	return append(appendFrame(nil, len(p), typ, flags, id), p...)
}

func u32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func settings(kv ...uint32) []byte {
	var p []byte
	for i := 0; i < len(kv); i += 2 {
		p = appendSetting(p, uint16(kv[i]), kv[i+1])
	}
	return raw(frameSettings, 0, 0, p...)
}

func settingsAck() []byte { return raw(frameSettings, flagAck, 0) }

func window(id, n uint32) []byte { return raw(frameWindowUpdate, 0, id, u32(n)...) }

func rst(id uint32, code ErrCode) []byte { return raw(frameRSTStream, 0, id, u32(uint32(code))...) }

func ping(text string) []byte { return raw(framePing, 0, 0, []byte(text)...) }

func pingAck(text string) []byte { return raw(framePing, flagAck, 0, []byte(text)...) }

func goAway(last uint32, code ErrCode) []byte {
	return raw(frameGoAway, 0, 0, append(u32(last), u32(uint32(code))...)...)
}

func data(id uint32, n int) []byte { return raw(frameData, 0, id, make([]byte, n)...) }

func dataEnd(id uint32, n int) []byte { return raw(frameData, flagEndStream, id, make([]byte, n)...) }

// block encodes a header section; it must be sent, because the compression
// table remembers it.
func (s *script) block(kv ...string) []byte {
	s.hbuf.Reset()
	for i := 0; i < len(kv); i += 2 {
		if err := s.enc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]}); err != nil {
			s.Fatal(err)
		}
	}
	return bytes.Clone(s.hbuf.Bytes())
}

func (s *script) headers(id uint32, end bool, kv ...string) []byte {
	flags := byte(flagEndHeaders)
	if end {
		flags |= flagEndStream
	}
	return raw(frameHeaders, flags, id, s.block(kv...)...)
}

func (s *script) get(id uint32) []byte { return s.headers(id, true, ":method", "GET") }

func (s *script) post(id uint32) []byte { return s.headers(id, false, ":method", "POST") }

func (s *script) status(id uint32, code string, end bool) []byte {
	return s.headers(id, end, ":status", code)
}

// opened starts a client's stream.
func (s *script) opened(end bool) *Stream {
	s.Helper()
	var st *Stream
	s.turn(func(t *loop.Turn) {
		st = s.c.Open(t, s, []hpack.HeaderField{{Name: ":method", Value: "CONNECT"}}, end)
	})
	if st == nil {
		s.Fatal("Open returned no stream")
	}
	return st
}

var status200 = []hpack.HeaderField{{Name: ":status", Value: "200"}}

// respond sends a response head on the stream opened last.
func (s *script) respond(end bool) {
	s.turn(func(t *loop.Turn) { s.last.WriteHeaders(t, status200, end) })
}

func (s *script) write(st *Stream, n int, end bool) {
	s.turn(func(t *loop.Turn) { st.Write(t, make([]byte, n), end) })
}
