package h2

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

var (
	seedFlag  = flag.Int64("seed", -1, "run this one schedule of TestRandomSchedules, and say what happens")
	seedsFlag = flag.Int("seeds", 2000, "how many schedules TestRandomSchedules runs")
)

// TestRandomSchedules lets a client and a server talk over carriers that split,
// delay and hold back bytes at random, with consumers that are slow at random,
// and streams that are reset at random. Every byte must arrive in order, no
// stream may get stuck, and nothing may be held in the end.
func TestRandomSchedules(t *testing.T) {
	if *seedFlag >= 0 {
		newWorld(t, uint64(*seedFlag)).run()
		return
	}
	n := *seedsFlag
	if testing.Short() || raceEnabled {
		n /= 10
	}
	for seed := range n {
		w := newWorld(t, uint64(seed))
		w.run()
		if t.Failed() {
			t.Fatalf("again: go test -run RandomSchedules -seed %d", seed)
		}
	}
}

// world is one schedule.
type world struct {
	*testing.T
	rng     *rand.Rand
	now     time.Time
	budget  Budget
	ends    [2]*end // client, server
	shrunk  bool    // SETTINGS made windows smaller, so they may be negative
	opening int     // requests still to be sent
	total   int     // streams that were opened
}

// end is one side's connection and its application.
type end struct {
	w       *world
	name    string
	wire    *wire
	c       *Conn
	peer    *end
	rest    []byte // received and not consumed
	streams map[uint32]*talker
	closing bool
}

// talker is an application's end of a stream.
type talker struct {
	e            *end
	st           *Stream
	want         int // bytes that are to come; -1: not known yet
	size, sent   int // bytes to send
	got, owed    int // bytes received, and not given back
	ended, over  bool
	headed, wait bool
	stopped      bool // the server's: it does not care for the rest
	trailers     bool
}

// slab is what streams carry: each from an offset of its own.
var slab = func() []byte {
	b := make([]byte, 1<<20)
	rng := rand.New(rand.NewPCG(7, 7))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}()

func slabAt(id uint32, server bool, off, n int) []byte {
	start := int(id)*997 + off
	if server {
		start += 400000
	}
	return slab[start : start+n]
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{T: t, rng: rand.New(rand.NewPCG(seed, 99)), now: time.Unix(5000, 0)}
	w.budget.Limit = int64(w.pick(1, 50000, 1<<30))
	w.opening = w.rng.IntN(20)
	for i, name := range []string{"client", "server"} {
		e := &end{w: w, name: name, wire: newWire(), streams: map[uint32]*talker{}}
		o := Options{
			Client: i == 0, Budget: &w.budget, MaxStreams: uint32(w.pick(2, 100)),
			Window: int64(w.pick(1, 100000)), MaxWindow: int64(w.pick(1, 200000, 1<<20)), ConnWindow: int64(w.pick(1, 1<<20)),
		}
		w.turn(func(t *loop.Turn) { e.c = New(t, e.wire, e, o) })
		e.wire.conn = e.c
		w.ends[i] = e
	}
	w.ends[0].peer, w.ends[1].peer = w.ends[1], w.ends[0]
	return w
}

func (w *world) pick(of ...int) int { return of[w.rng.IntN(len(of))] }

func (w *world) say(format string, args ...any) {
	if *seedFlag >= 0 {
		w.Logf(format, args...)
	}
}

func (w *world) turn(f func(t *loop.Turn)) {
	t := &loop.Turn{Now: w.now}
	f(t)
	t.End()
}

// size is how much a stream carries: mostly little.
func (w *world) size() int {
	switch w.rng.IntN(10) {
	case 0, 1:
		return 0
	case 2:
		return w.rng.IntN(300000)
	}
	return w.rng.IntN(20000)
}

func (w *world) run() {
	w.Helper()
	for range 200 + w.rng.IntN(3000) {
		w.now = w.now.Add(time.Duration(w.rng.IntN(2000)) * time.Microsecond)
		e := w.ends[w.rng.IntN(2)]
		w.step(e)
		w.check(e)
		if w.Failed() {
			return
		}
	}
	w.finish()
}

func (w *world) step(e *end) {
	w.Helper()
	switch n := w.rng.IntN(100); {
	case n < 45:
		e.receive(1 + w.rng.IntN(w.pick(10, 1000, 40000, 300000)))
	case n < 55:
		w.open()
	case n < 70:
		if tk := e.any(); tk != nil {
			e.w.turn(tk.send)
		}
	case n < 90:
		if tk := e.any(); tk != nil {
			w.turn(func(t *loop.Turn) { tk.consume(t, w.rng.IntN(tk.owed+1)) })
		}
	case n < 92:
		if tk := e.any(); tk != nil && w.rng.IntN(3) == 0 {
			w.say("%s resets %d", e.name, tk.st.ID)
			tk.over = true
			w.turn(func(t *loop.Turn) { tk.st.Reset(t, Cancel) })
		}
	case n < 93:
		if tk := e.any(); tk != nil && e.name == "server" && tk.sent == tk.size && tk.headed {
			w.say("server stops reading %d", tk.st.ID)
			tk.stopped = true
			w.turn(tk.st.StopReading)
		}
	case n < 95:
		e.wire.stuck = !e.wire.stuck
		w.turn(e.wire.Flush)
	case n < 97:
		// As if the peer had changed its mind about its window, downwards.
		v := uint32(w.rng.IntN(65536))
		w.say("%s sees INITIAL_WINDOW_SIZE %d", e.peer.name, v)
		w.shrunk = true
		if !e.wire.stuck {
			e.wire.out = append(e.wire.out, settings(settingInitialWindowSize, v)...)
		}
	case n < 99:
		w.turn(func(t *loop.Turn) {
			if e.c.Tick(t) {
				w.Errorf("%s: a tick aborted the connection", e.name)
			}
		})
	default:
		if w.rng.IntN(10) == 0 && !e.closing {
			w.say("%s drains", e.name)
			e.closing = true
			w.turn(e.c.Drain)
		}
	}
}

// open starts a request, or two in one turn.
func (w *world) open() {
	w.Helper()
	e := w.ends[0]
	w.turn(func(t *loop.Turn) {
		for ; w.opening > 0; w.opening-- {
			if ok, _ := e.c.CanOpen(100); !ok {
				return
			}
			tk := &talker{e: e, size: w.size(), want: w.size(), headed: true, trailers: w.rng.IntN(4) == 0}
			fields := []hpack.HeaderField{
				{Name: ":method", Value: "POST"},
				{Name: "up", Value: fmt.Sprint(tk.size)},
				{Name: "down", Value: fmt.Sprint(tk.want)},
			}
			tk.st = e.c.Open(t, tk, fields, false)
			if tk.st == nil {
				w.Error("CanOpen said yes, Open no")
				return
			}
			w.total++
			e.streams[tk.st.ID] = tk
			if w.rng.IntN(2) == 0 {
				tk.send(t)
			}
			if w.rng.IntN(2) == 0 {
				w.opening--
				return
			}
		}
	})
}

// any is a stream that is not over, if there is one. Maps are random by
// themselves, which a seed must not depend on.
func (e *end) any() *talker {
	var ids []uint32
	for id := uint32(1); id < 100; id += 2 {
		if tk := e.streams[id]; tk != nil && !tk.over {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return e.streams[ids[e.w.rng.IntN(len(ids))]]
}

// receive moves n bytes from the peer's output into the connection.
func (e *end) receive(n int) {
	e.w.Helper()
	n = min(n, len(e.peer.wire.out))
	if n == 0 {
		return
	}
	b := append(e.rest, e.peer.wire.out[:n]...)
	e.peer.wire.out = e.peer.wire.out[n:]
	e.w.turn(func(t *loop.Turn) {
		used, err := e.c.Data(t, b)
		if err != nil {
			e.w.Errorf("%s: %v", e.name, err)
		}
		e.rest = bytes.Clone(b[used:])
	})
}

// send writes some of what a stream has to say.
func (tk *talker) send(t *loop.Turn) {
	w := tk.e.w
	for tk.sent < tk.size || !tk.ended && tk.headed {
		if tk.over || tk.ended || tk.wait || !tk.headed {
			return
		}
		n := min(tk.size-tk.sent, w.rng.IntN(w.pick(100, 5000, 100000)))
		b := slabAt(tk.st.ID, tk.e.name == "server", tk.sent, n)
		last := tk.sent+n == tk.size
		switch {
		case last && tk.trailers:
			tk.st.Write(t, b, false)
			tk.st.WriteTrailers(t, []hpack.HeaderField{{Name: "t", Value: "u"}})
		case w.rng.IntN(2) == 0:
			k := w.rng.IntN(n + 1)
			tk.st.Write2(t, b[:k], b[k:], last)
			if n == 0 && last {
				tk.st.Write(t, nil, true)
			}
		default:
			tk.st.Write(t, b, last)
		}
		tk.sent += n
		tk.ended = last
		if tk.st.Congested() {
			tk.wait = true
		}
		if w.rng.IntN(3) == 0 {
			return
		}
	}
}

func (tk *talker) consume(t *loop.Turn, n int) {
	tk.owed -= n
	tk.st.Consumed(t, n)
}

// Open implements Handler.
func (e *end) Open(t *loop.Turn, st *Stream, h *Head) {
	tk := &talker{e: e, st: st, headed: true, trailers: e.w.rng.IntN(4) == 0}
	fmt.Sscan(h.Fields[1].Value, &tk.want)
	fmt.Sscan(h.Fields[2].Value, &tk.size)
	e.streams[st.ID] = tk
	st.Handle(tk)
	st.WriteHeaders(t, status200, false)
}

// Closed implements Handler.
func (e *end) Closed(*loop.Turn, error) {}

// Headers implements StreamHandler.
func (tk *talker) Headers(t *loop.Turn, _ *Stream, h *Head) {
	if h.End {
		tk.Data(t, tk.st, nil, true)
	}
}

// Data implements StreamHandler.
func (tk *talker) Data(t *loop.Turn, _ *Stream, b []byte, end bool) {
	w := tk.e.w
	if tk.over {
		w.Errorf("%s: stream %d got data after its end", tk.e.name, tk.st.ID)
		return
	}
	if !bytes.Equal(b, slabAt(tk.st.ID, tk.e.name == "client", tk.got, len(b))) {
		w.Errorf("%s: stream %d got other bytes than were sent", tk.e.name, tk.st.ID)
	}
	tk.got += len(b)
	tk.owed += len(b)
	if end && tk.got != tk.want {
		w.Errorf("%s: stream %d ended after %d bytes of %d", tk.e.name, tk.st.ID, tk.got, tk.want)
	}
	if end {
		tk.want = -1
	}
	if w.rng.IntN(3) > 0 {
		tk.consume(t, tk.owed)
	}
}

// Reset implements StreamHandler.
func (tk *talker) Reset(_ *loop.Turn, _ *Stream, err error) {
	tk.e.w.say("%s: %d: %v", tk.e.name, tk.st.ID, err)
	if tk.over {
		tk.e.w.Errorf("%s: stream %d was reset after its end", tk.e.name, tk.st.ID)
	}
	tk.over = true
}

// Writable implements StreamHandler.
func (tk *talker) Writable(t *loop.Turn, _ *Stream) {
	if !tk.wait {
		tk.e.w.Errorf("%s: stream %d is writable and was not congested", tk.e.name, tk.st.ID)
	}
	tk.wait = false
	if tk.e.w.rng.IntN(2) == 0 {
		tk.send(t)
	}
}

// check holds the invariants.
func (w *world) check(e *end) {
	w.Helper()
	c := e.c
	if c.sendWin < 0 || c.recvWin < 0 {
		w.Errorf("%s: connection windows %d, %d", e.name, c.sendWin, c.recvWin)
	}
	var waiting int64
	for _, e := range w.ends {
		for _, s := range e.c.streams {
			waiting += int64(s.pend.n)
			if s.recvWin < 0 || s.recvWin > s.window || s.sendWin < 0 && !w.shrunk || s.sendWin < -1<<21 {
				w.Errorf("%s: stream %d has windows %d, %d", e.name, s.ID, s.sendWin, s.recvWin)
			}
		}
	}
	if w.budget.Used() != waiting {
		w.Errorf("the budget says %d bytes wait, streams hold %d", w.budget.Used(), waiting)
	}
	if n := e.wire.q.Size(); n > loop.HighWater+256<<10 {
		w.Errorf("%s: %d bytes are queued", e.name, n)
	}
	if e.wire.aborted {
		w.Errorf("%s: the connection was aborted", e.name)
	}
}

// finish lets everything go its way, and looks whether it came to an end.
func (w *world) finish() {
	w.Helper()
	for _, e := range w.ends {
		e.wire.stuck = false
		w.turn(e.wire.Flush)
		// The true window, at last.
		e.wire.out = append(e.wire.out, settings(settingInitialWindowSize, uint32(e.c.o.Window))...)
	}
	for range 20000 {
		w.now = w.now.Add(5 * time.Millisecond)
		w.open()
		for _, e := range w.ends {
			e.receive(1 << 20)
			w.turn(func(t *loop.Turn) {
				for id := uint32(1); id < 100; id += 2 {
					if tk := e.streams[id]; tk != nil && !tk.over {
						tk.send(t)
						tk.consume(t, tk.owed)
					}
				}
				e.c.Tick(t)
			})
			w.check(e)
		}
		if w.Failed() {
			return
		}
		if w.quiet() {
			break
		}
	}
	w.verdict()
}

func (w *world) quiet() bool {
	for _, e := range w.ends {
		if len(e.c.streams) > 0 || len(e.wire.out) > 0 {
			return false
		}
	}
	ok, _ := w.ends[0].c.CanOpen(100)
	return w.opening <= 0 || !ok
}

func (w *world) verdict() {
	w.Helper()
	for _, e := range w.ends {
		for id, tk := range e.streams {
			other := e.peer.streams[id]
			switch {
			case tk.over || tk.stopped:
			case other == nil:
				w.Errorf("%s: stream %d has no other side", e.name, id)
			case !tk.ended || tk.sent != tk.size:
				w.Errorf("%s: stream %d could send %d of %d bytes (waits %v)", e.name, id, tk.sent, tk.size, tk.wait)
			case tk.want != -1:
				w.Errorf("%s: stream %d got %d of %d bytes", e.name, id, tk.got, tk.want)
			}
		}
		if n := len(e.c.streams); n > 0 {
			w.Errorf("%s: %d streams are open", e.name, n)
		}
		if n := len(e.c.blocked); n > 0 {
			w.Errorf("%s: %d streams are in line", e.name, n)
		}
		if len(e.rest) > 0 {
			w.Errorf("%s: %d bytes are left over", e.name, len(e.rest))
		}
		if e.closing && !e.wire.ended {
			w.Errorf("%s: drained, and its output has not ended", e.name)
		}
	}
	if n := w.budget.Used(); n != 0 {
		w.Errorf("%d bytes of the budget are used in the end", n)
	}
}
