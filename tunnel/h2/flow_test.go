package h2

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// sizes adds up the DATA sent since the last look, per stream, and returns the
// other frames as well.
func (s *script) sizes() (n map[uint32]int, other []string) {
	s.Helper()
	n = map[uint32]int{}
	for _, f := range s.sent() {
		var id uint32
		var k int
		if c, _ := fmt.Sscanf(f, "DATA %d %d", &id, &k); c == 2 {
			n[id] += k
		} else {
			other = append(other, f)
		}
		if strings.HasSuffix(f, " end") {
			other = append(other, fmt.Sprintf("end %d", id))
		}
	}
	return n, other
}

func (s *script) wantSizes(want map[uint32]int) {
	s.Helper()
	got, _ := s.sizes()
	if len(got) != len(want) {
		s.Fatalf("sent %v, want %v", got, want)
	}
	for id, n := range want {
		if got[id] != n {
			s.Fatalf("sent %v, want %v", got, want)
		}
	}
}

// posted opens a request stream that stays open for the response.
func (s *script) posted(id uint32) *Stream {
	s.Helper()
	s.send(s.post(id))
	s.log = nil
	return s.last
}

func TestStreamWindow(t *testing.T) {
	s := start(t, Options{})
	s.send(window(0, 1<<20))
	st := s.posted(1)
	s.write(st, 100000, true)
	s.wantSizes(map[uint32]int{1: 65535})
	s.send(window(1, 1000))
	s.wantSizes(map[uint32]int{1: 1000})
	s.send(window(1, 100000))
	n, other := s.sizes()
	if n[1] != 100000-66535 || len(other) != 1 || other[0] != "end 1" {
		t.Errorf("sent %v %q", n, other)
	}
}

func TestConnectionWindow(t *testing.T) {
	s := start(t, Options{})
	s.send(settings(settingInitialWindowSize, 1<<20))
	a, b := s.posted(1), s.posted(3)
	s.write(a, 60000, false)
	s.write(b, 60000, false)
	s.wantSizes(map[uint32]int{1: 60000, 3: 5535})
	s.write(b, 10, true)
	s.write(a, 10, false)
	s.wantSizes(map[uint32]int{})
	s.send(window(0, 1<<20))
	s.wantSizes(map[uint32]int{1: 10, 3: 60000 - 5535 + 10})
}

func TestNegativeWindow(t *testing.T) {
	s := start(t, Options{})
	s.send(window(0, 1<<20))
	st := s.posted(1)
	s.write(st, 50000, false)
	s.wantSizes(map[uint32]int{1: 50000})
	s.send(settings(settingInitialWindowSize, 1000))
	if st.sendWin != 1000-50000 {
		t.Errorf("window %d, want -49000", st.sendWin)
	}
	s.write(st, 30000, false)
	s.wantSizes(map[uint32]int{})
	s.send(window(1, 49000))
	s.wantSizes(map[uint32]int{})
	s.send(window(1, 1))
	s.wantSizes(map[uint32]int{1: 1})
	s.send(settings(settingInitialWindowSize, 2000))
	s.wantSizes(map[uint32]int{1: 1000})
	// Several changes in one frame count one after the other.
	s.send(settings(settingInitialWindowSize, 0, settingInitialWindowSize, 65535))
	s.wantSizes(map[uint32]int{1: 30000 - 1001})
}

func TestSettingsOverflowOpenWindow(t *testing.T) {
	s := start(t, Options{})
	s.posted(1)
	s.send(window(1, 1<<31-1-65535))
	s.sendFatal(FlowControlError, settings(settingInitialWindowSize, 65536))
}

func TestReceiveWindows(t *testing.T) {
	t.Run("stream-overrun", func(t *testing.T) {
		s := start(t, Options{Window: 65535})
		s.keep = true
		s.posted(1)
		for range 3 {
			s.send(data(1, 16384))
		}
		s.log = nil
		s.send(data(1, 16384))
		s.want("reset 1 FLOW_CONTROL_ERROR by us")
		s.wantSent("RST 1 FLOW_CONTROL_ERROR")
	})
	t.Run("connection-overrun", func(t *testing.T) {
		s := start(t, Options{ConnWindow: 65535, Budget: &Budget{Limit: -1}})
		s.posted(1)
		for range 3 {
			s.send(data(1, 16384))
		}
		s.sendFatal(FlowControlError, data(1, 16384))
	})
	t.Run("empty-at-zero", func(t *testing.T) {
		s := start(t, Options{Window: 65535})
		s.keep = true
		s.posted(1)
		s.send(data(1, 16384), data(1, 16384), data(1, 16384), data(1, 65535-3*16384), dataEnd(1, 0))
		s.wantSent()
	})
}

func TestConsumedGivesBack(t *testing.T) {
	s := start(t, Options{Window: 100000, MaxWindow: 100000})
	s.keep = true
	st := s.posted(1)
	for range 6 {
		s.send(data(1, 16384))
	}
	s.wantSent()
	s.turn(func(t *loop.Turn) { st.Consumed(t, 49999) })
	s.wantSent()
	s.turn(func(t *loop.Turn) { st.Consumed(t, 1) })
	s.wantSent("WINDOW 1 50000")
	s.send(dataEnd(1, 10))
	s.turn(func(t *loop.Turn) { st.Consumed(t, 48314) })
	s.wantSent() // nothing more can come
}

// Padding is nobody's to consume, and must not use the window up.
func TestPaddingIsCredited(t *testing.T) {
	s := start(t, Options{Window: 65535, MaxWindow: 65535})
	s.posted(1)
	p := append([]byte{255}, make([]byte, 255)...)
	for range 200 {
		s.send(raw(frameData, flagPadded, 1, p...))
	}
	if n, other := s.sizes(); len(other) != 1 || !strings.HasPrefix(other[0], "WINDOW 1 ") {
		t.Errorf("sent %v %q, want one window update", n, other)
	}
}

func TestWindowGrows(t *testing.T) {
	b := &Budget{Limit: 1000}
	s := start(t, Options{Window: 65536, MaxWindow: 150000, Budget: b})
	s.keep = true
	st := s.posted(1)
	use := func(n int) {
		for range n / 16384 {
			s.send(data(1, 16384))
		}
		s.turn(func(t *loop.Turn) { st.Consumed(t, n) })
	}
	use(65536) // all of it used before any came back: it was too small
	s.wantSent("WINDOW 1 131072")
	use(49152) // not half of it
	s.wantSent()
	use(16384) // half: given back, but it was not scarce
	s.wantSent("WINDOW 1 65536")
	b.add(2000)
	use(131072)
	s.wantSent("WINDOW 1 131072") // no growth while memory is short
	b.add(-2000)
	use(131072)
	s.wantSent("WINDOW 1 150000")
	use(147456)
	s.wantSent("WINDOW 1 147456")
	if st.recvWin != 150000 {
		t.Errorf("receive window %d, want 150000", st.recvWin)
	}
}

func TestConnectionWindowIsReturned(t *testing.T) {
	b := &Budget{Limit: 1000}
	s := start(t, Options{ConnWindow: 4 * 16384 * 2, Window: 1 << 20, Budget: b})
	s.keep = true
	s.posted(1)
	s.send(data(1, 16384))
	s.wantSent()
	s.send(data(1, 16384))
	s.wantSent("WINDOW 0 32768") // unconsumed: only the stream's window waits for the consumer
	b.add(2000)
	s.send(data(1, 16384), data(1, 16384))
	s.wantSent()
	b.add(-2000)
	s.turn(func(t *loop.Turn) { s.c.Tick(t) })
	s.wantSent("WINDOW 0 32768")
	// Over the budget for long, it still gets a trickle.
	b.add(2000)
	s.send(data(1, 16384), data(1, 16384))
	s.wantSent()
	s.turn(func(t *loop.Turn) { s.c.Tick(t) })
	s.wantSent("WINDOW 0 32768")
	b.add(-2000)
	// Data of streams that are gone counts as well.
	s.turn(func(t *loop.Turn) { s.last.Reset(t, Cancel) })
	s.send(data(1, 16384), data(1, 16384))
	s.wantSent("RST 1 CANCEL", "WINDOW 0 32768")
}

func TestCongestedAndWritable(t *testing.T) {
	b := &Budget{Limit: 1 << 20}
	s := start(t, Options{Budget: b})
	st := s.posted(1)
	s.write(st, 65535+highPending-1, false)
	if st.Congested() {
		t.Error("congested below the mark")
	}
	s.write(st, 1, false)
	for range 2 {
		if !st.Congested() {
			t.Error("not congested at the mark")
		}
	}
	if b.Used() != highPending {
		t.Errorf("budget %d, want %d", b.Used(), highPending)
	}
	s.send(window(0, 1<<20))
	s.want()
	s.send(window(1, highPending-lowPending-1))
	s.want()
	s.send(window(1, 1))
	s.want("writable 1")
	s.send(window(1, 1000))
	s.want() // once
	s.send(window(1, 1<<20))
	s.want()
	if b.Used() != 0 {
		t.Errorf("budget %d when all is sent", b.Used())
	}
	// It also comes by SETTINGS and by the connection's window.
	s.send(settings(settingInitialWindowSize, 0))
	three := s.posted(3)
	s.write(three, highPending, false)
	three.Congested()
	s.send(settings(settingInitialWindowSize, 1<<20))
	s.want("writable 3")
	five := s.posted(5)
	s.send(window(5, 1<<29))
	s.write(five, 4<<20, false)
	five.Congested()
	s.send(window(0, 1<<29))
	s.want("writable 5")
	if b.Used() != 0 {
		t.Errorf("budget %d when all is sent", b.Used())
	}
}

func TestBudgetOfResetStreams(t *testing.T) {
	b := &Budget{Limit: 1}
	s := start(t, Options{Budget: b})
	for i, end := range []func(st *Stream){
		func(st *Stream) { s.turn(func(t *loop.Turn) { st.Reset(t, Cancel) }) },
		func(st *Stream) { s.send(rst(st.ID, Cancel)) },
		func(st *Stream) { s.send(window(st.ID, 0)) },
		func(*Stream) { s.turn(func(t *loop.Turn) { s.c.Closed(t, ErrClosed) }) },
	} {
		st := s.posted(uint32(2*i + 1))
		s.write(st, 100000, true)
		if b.Used() == 0 {
			t.Fatalf("%d: nothing waits", i)
		}
		end(st)
		if b.Used() != 0 {
			t.Errorf("%d: budget %d after the stream's end", i, b.Used())
		}
	}
}

// Streams that wait for the connection's window take turns.
func TestFairness(t *testing.T) {
	s := start(t, Options{})
	s.send(settings(settingInitialWindowSize, 1<<30))
	var ss []*Stream
	for id := uint32(1); id < 20; id += 2 {
		ss = append(ss, s.posted(id))
	}
	for _, st := range ss {
		s.write(st, 1<<20, false)
	}
	s.sizes()
	// Each has its turn; one that the queue's mark interrupts is a bit short.
	fair := func(open int) {
		s.Helper()
		s.send(window(0, uint32(open*quantum)))
		got, _ := s.sizes()
		for id, n := range got {
			if n < quantum-maxFrameSize || n > quantum+maxFrameSize {
				s.Errorf("stream %d sent %d bytes, want about %d", id, n, quantum)
			}
		}
		if len(got) != open {
			s.Errorf("%d streams had a turn, want %d", len(got), open)
		}
	}
	fair(len(ss))
	// One that is reset leaves the line.
	s.send(rst(1, Cancel), rst(7, Cancel))
	s.log = nil
	if n := len(s.c.blocked); n != len(ss)-2 {
		t.Errorf("%d streams in line, want %d", n, len(ss)-2)
	}
	fair(len(ss) - 2)
}

// The line must not grow by streams that come and go.
func TestLineDoesNotGrow(t *testing.T) {
	s := start(t, Options{})
	st := s.posted(1)
	s.write(st, 65535, true) // the connection's window
	for i := range uint32(1500) {
		s.write(s.posted(2*i+3), 100, true)
		s.send(rst(2*i+3, Cancel))
	}
	if n := len(s.c.blocked); n != 0 {
		t.Errorf("%d streams in line, none is open", n)
	}
}

// A carrier that takes nothing holds back data at the high-water mark, and
// what waits goes on when it has drained.
func TestStuckCarrier(t *testing.T) {
	s := start(t, Options{})
	s.send(settings(settingInitialWindowSize, 1<<30), window(0, 1<<30))
	a, b := s.posted(1), s.posted(3)
	s.sent()
	s.w.stuck = true
	s.write(a, 4<<20, true)
	s.write(b, 4<<20, false)
	if n := s.w.q.Size(); n < loop.HighWater || n > loop.HighWater+maxFrameSize {
		t.Errorf("%d bytes queued, want %d", n, loop.HighWater)
	}
	s.turn(func(t *loop.Turn) { b.WriteTrailers(t, []hpack.HeaderField{{Name: "t", Value: "u"}}) })
	s.send(window(1, 1), window(0, 1), settings(settingInitialWindowSize, 1<<30+1), ping("12345678"))
	if n := s.w.q.Size(); n > loop.HighWater+2*maxFrameSize {
		t.Errorf("%d bytes queued by frames that allow more", n)
	}
	s.w.stuck = false
	s.turn(func(t *loop.Turn) { s.w.Flush(t) })
	n, other := s.sizes()
	if n[1] != 4<<20 || n[3] != 4<<20 {
		t.Errorf("sent %v, want 4 MiB each", n)
	}
	if got := strings.Join(other, ","); !strings.Contains(got, "end 1") || !strings.Contains(got, "t=u end") {
		t.Errorf("sent also %q, want both ends", got)
	}
}

// Pending bytes are not held after they were sent.
func TestPendingMemory(t *testing.T) {
	s := start(t, Options{})
	st := s.posted(1)
	s.write(st, 65535, false)
	s.write(st, 60000, false)
	for range 400 {
		s.write(st, 10000, false)
		s.send(window(0, 10000), window(1, 10000))
	}
	if st.pend.n != 60000 || len(st.pend.chunks) > 60000/pendChunk+3 {
		t.Errorf("%d bytes wait in %d chunks", st.pend.n, len(st.pend.chunks))
	}
	s.send(window(0, 1<<20), window(1, 1<<20))
	if st.pend.n != 0 || len(st.pend.chunks) != 0 || cap(st.pend.chunks) > 16 {
		t.Errorf("%d bytes wait in %d chunks when all is sent", st.pend.n, len(st.pend.chunks))
	}
	// A short response takes a short piece of memory.
	s.send(settings(settingInitialWindowSize, 0))
	st = s.posted(3)
	s.write(st, 100, false)
	if c := cap(st.pend.chunks[0]); c > 1024 {
		t.Errorf("100 bytes wait in a chunk of %d", c)
	}
}

func TestPendingQueue(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var p pending
	var want []byte
	for range 20000 {
		if rng.IntN(3) > 0 {
			b := slab[rng.IntN(1000):][:rng.IntN(1+rng.IntN(50000))]
			p.push(b)
			want = append(want, b...)
		}
		for range rng.IntN(4) {
			if p.front() == 0 {
				break
			}
			k := 1 + rng.IntN(p.front())
			b := p.take(k)
			if !bytes.Equal(b, want[:k]) {
				t.Fatal("the bytes do not come out as they went in")
			}
			want = want[k:]
			p.taken(k)
		}
		if p.n != len(want) {
			t.Fatalf("%d bytes wait, want %d", p.n, len(want))
		}
		if len(want) > 1<<20 {
			p.clear()
			want = nil
		}
	}
}
