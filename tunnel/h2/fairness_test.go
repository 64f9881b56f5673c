package h2

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// slowLink is the carrier of a server whose peer takes one chunk of output at a
// time, as a congested socket does. It has windows without end: what is under
// test is the order in which streams get their turn at the output.
type slowLink struct {
	q       loop.Queue
	turn    *loop.Turn
	conn    *Conn
	streams map[uint32]*Stream
	got     map[uint32]int // payload that the peer has received, by stream
	total   int            // everything that it has
}

func (l *slowLink) Queue() *loop.Queue { return &l.q }
func (l *slowLink) Abort()             {}
func (l *slowLink) Flush(*loop.Turn) {
	l.q.Lock()
	l.q.Flushed()
	l.q.Unlock()
}

func (l *slowLink) Open(t *loop.Turn, s *Stream, _ *Head) {
	s.Handle(l)
	l.streams[s.ID] = s
	s.WriteHeaders(t, status200, false)
}
func (l *slowLink) Closed(*loop.Turn, error)               {}
func (l *slowLink) Headers(*loop.Turn, *Stream, *Head)     {}
func (l *slowLink) Data(*loop.Turn, *Stream, []byte, bool) {}
func (l *slowLink) Reset(*loop.Turn, *Stream, error)       {}
func (l *slowLink) Writable(*loop.Turn, *Stream)           {}
func (l *slowLink) write(s *Stream, n int)                 { s.Write(l.turn, make([]byte, n), false); l.turn.End() }

func newSlowLink(t *testing.T, streams int) *slowLink {
	t.Helper()
	l := &slowLink{turn: &loop.Turn{Now: time.Unix(1, 0)}, streams: map[uint32]*Stream{}, got: map[uint32]int{}}
	l.q.Init(l)
	l.conn = New(l.turn, l, l, Options{MaxStreams: uint32(streams)})
	b := []byte(preface + "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x7f\xff\xff\xff" + "\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\x00\x00\x00")
	for i := range streams {
		var h bytes.Buffer
		enc := hpack.NewEncoder(&h)
		for _, f := range [][2]string{{":method", "CONNECT"}, {":authority", "a:1"}} {
			if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true}); err != nil {
				t.Fatal(err)
			}
		}
		b = append(appendFrame(b, h.Len(), frameHeaders, flagEndHeaders, uint32(2*i+1)), h.Bytes()...)
	}
	if _, err := l.conn.Data(l.turn, b); err != nil {
		t.Fatal(err)
	}
	l.turn.End()
	for l.take() {
	}
	return l
}

// take gives the peer the next chunk, and reports whether there was one.
func (l *slowLink) take() bool {
	l.q.Lock()
	c := l.q.Take()
	drained := l.q.WantDrained && l.q.Size() <= loop.LowWater
	if drained {
		l.q.WantDrained = false
	}
	l.q.Unlock()
	for b := c; len(b) > 0; {
		n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		if b[3] == frameData {
			l.got[binary.BigEndian.Uint32(b[5:])] += n
		}
		b = b[frameHeaderLen+n:]
		l.total += frameHeaderLen + n
	}
	l.q.Release(c)
	if drained {
		l.conn.Drained(l.turn)
		l.turn.End()
	}
	return c != nil
}

// A small message on a congested connection waits behind the output queue and
// one turn of each stream that was in line before it, however much those have
// to send.
func TestSmallMessageBesideBulk(t *testing.T) {
	for _, bulk := range []int{1, 4, 16} {
		l := newSlowLink(t, bulk+1)
		small := uint32(2*bulk + 1)
		for i := range bulk {
			l.write(l.streams[uint32(2*i+1)], 8<<20)
		}
		for step := range 40 {
			before, sent := l.total, l.got[small]
			l.write(l.streams[small], 100)
			for l.got[small] == sent {
				if !l.take() {
					t.Fatalf("%d streams: a small message does not come out", bulk)
				}
			}
			most := loop.HighWater + 2*loop.ChunkSize + bulk*(quantum+maxFrameSize)
			if n := l.total - before; n > most {
				t.Fatalf("%d streams: message %d came after %d bytes, want at most %d", bulk, step, n, most)
			}
			l.take() // at another moment of the queue's life each time
		}
	}
}

// A stream with much to send goes on beside others whose short messages keep the
// output busy.
func TestBulkBesideSmallMessages(t *testing.T) {
	const others, size = 30, 8 << 10
	l := newSlowLink(t, others+1)
	bulk := uint32(2*others + 1)
	l.write(l.streams[bulk], 8<<20)
	sent := map[uint32]int{}
	refill := func() { // each of them has one message under way
		for i := range others {
			if id := uint32(2*i + 1); l.got[id] == sent[id] {
				sent[id] += size
				l.write(l.streams[id], size)
			}
		}
	}
	for l.total < 2<<20 { // until what the bulk stream queued first is gone
		refill()
		l.take()
	}
	before, total := l.got[bulk], l.total
	for l.total-total < 8<<20 {
		refill()
		l.take()
	}
	share := 100 * float64(l.got[bulk]-before) / float64(l.total-total)
	t.Logf("the bulk stream got %.1f%% of the output", share)
	if share < 100.0/(others+1)/2 {
		t.Errorf("one stream of %d that has much to send got %.1f%% of the output", others+1, share)
	}
}
