package loop

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestMain holds that no reader or writer goroutine outlives its connection.
func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	code := m.Run()
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); n > before && code == 0 {
		buf := make([]byte, 1<<20)
		fmt.Printf("%d goroutines are left, %d at the start:\n%s\n", n, before, buf[:runtime.Stack(buf, true)])
		code = 1
	}
	os.Exit(code)
}

// within fails the test unless f returns in good time.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		t.Fatalf("%s takes too long", what)
	}
}

func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// plainPair is a socket and its peer.
func plainPair(t testing.TB) (*Socket, *net.TCPConn) {
	t.Helper()
	nc, peer := tcpPair(t)
	s, err := New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return s, peer
}

// handler is a Handler from functions.
type handler struct {
	data    func(t *Turn, b []byte) (int, error)
	drained func(t *Turn)
	closed  chan error // has room for one
}

func newHandler(data func(t *Turn, b []byte) (int, error)) *handler {
	return &handler{data: data, closed: make(chan error, 1)}
}

func (h *handler) Data(t *Turn, b []byte) (int, error) {
	if h.data == nil {
		return len(b), nil
	}
	return h.data(t, b)
}

func (h *handler) Closed(_ *Turn, err error) { h.closed <- err }

func (h *handler) Drained(t *Turn) {
	if h.drained != nil {
		h.drained(t)
	}
}

// serve runs the reader, and waits for it at the test's end.
func serve(t testing.TB, s *Socket, h Handler, keepWriting bool) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(h, keepWriting)
	}()
	t.Cleanup(func() {
		s.Abort()
		<-done
		s.Close()
	})
}

func random(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// leftover is how much an echo may leave unconsumed until more comes.
const leftover = 5000

// echoTo is a handler that consumes and sends back in random pieces, by every
// way there is to write.
func echoTo(s *Socket, seed uint64) *handler {
	rng := rand.New(rand.NewPCG(seed, 2))
	return newHandler(func(t *Turn, b []byte) (int, error) {
		used := 0
		end := len(b)
		if rng.IntN(2) == 0 {
			end = max(0, end-rng.IntN(leftover)) // the rest comes again
		}
		for used < end {
			n := min(end-used, 1+rng.IntN(20000))
			p := b[used : used+n]
			switch rng.IntN(3) {
			case 0:
				s.Borrow(t, p)
			case 1:
				s.Write(t, p)
			case 2:
				s.Queue().Lock()
				s.Queue().Append(t, p)
				s.Queue().Unlock()
			}
			used += n
		}
		s.Queue().Lock()
		if s.Queue().Size() > HighWater {
			s.Queue().WantDrained = true
			s.Pause()
		}
		s.Queue().Unlock()
		return used, nil
	})
}

func TestPlainEcho(t *testing.T) {
	for seed := range uint64(20) {
		s, peer := plainPair(t)
		if seed%2 == 0 { // EAGAIN all the time
			_ = s.nc.SetWriteBuffer(32 << 10)
		}
		h := echoTo(s, seed)
		h.drained = func(*Turn) { s.Resume() }
		serve(t, s, h, true)
		exchange(t, peer, random(seed, 1<<20))
		if err := <-h.closed; err != io.EOF {
			t.Errorf("closed with %v, want EOF", err)
		}
	}
}

// exchange sends data in pieces and checks that all of it comes back. The echo
// may hold the last of it until more comes, so there is more.
func exchange(t *testing.T, peer io.ReadWriter, data []byte) {
	t.Helper()
	go func() {
		rest := data
		rng := rand.New(rand.NewPCG(uint64(len(data)), 3))
		for len(rest) > 0 {
			n := min(len(rest), 1+rng.IntN(100000))
			if _, err := peer.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
		if _, err := peer.Write(make([]byte, leftover)); err != nil {
			return
		}
		if c, ok := peer.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite()
		}
	}()
	got := make([]byte, len(data))
	within(t, "the echo", func() {
		if _, err := io.ReadFull(peer, got); err != nil {
			t.Errorf("reading the echo: %v", err)
		}
	})
	if !bytes.Equal(got, data) {
		t.Error("the echo differs")
	}
}

// Borrowed slices, what the kernel does not take of them, and what is queued
// behind go out in order.
func TestBorrowOrder(t *testing.T) {
	for seed := range uint64(10) {
		s, peer := plainPair(t)
		_ = s.nc.SetWriteBuffer(32 << 10)
		s.Start(newHandler(nil))
		rng := rand.New(rand.NewPCG(seed, 4))
		want := random(seed, 3<<20)
		go func() {
			rest := want
			for len(rest) > 0 {
				Run(func(t *Turn) {
					for range 1 + rng.IntN(1500) { // more than one writev takes
						n := min(len(rest), rng.IntN(300))
						if rng.IntN(100) == 0 {
							s.Write(t, rest[:n])
						} else {
							s.Borrow(t, rest[:n])
						}
						rest = rest[n:]
					}
				})
			}
			Run(s.CloseWrite)
			s.WaitFlushed()
		}()
		within(t, "reading", func() {
			got, err := io.ReadAll(peer)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("seed %d: got %d bytes, %v; want %d equal ones", seed, len(got), err, len(want))
			}
		})
		s.Close()
	}
}

func TestPauseAndResume(t *testing.T) {
	s, peer := plainPair(t)
	got := make(chan int, 100)
	h := newHandler(func(_ *Turn, b []byte) (int, error) {
		s.Pause()
		got <- len(b)
		return len(b), nil
	})
	s.Resume() // early: counts once
	serve(t, s, h, false)
	peer.Write([]byte("a"))
	<-got
	peer.Write([]byte("bb"))
	if n := <-got; n != 2 {
		t.Fatalf("got %d bytes, want 2", n)
	}
	peer.Write([]byte("ccc"))
	peer.Write([]byte("dddd"))
	peer.CloseWrite()
	select {
	case n := <-got:
		t.Fatalf("a paused reader got %d bytes", n)
	case err := <-h.closed:
		t.Fatalf("a paused reader ended: %v", err)
	default:
	}
	for sum := 0; sum < 7; {
		s.Resume()
		sum += <-got
	}
	within(t, "the end", func() {
		s.Resume()
		if err := <-h.closed; err != io.EOF {
			t.Errorf("closed: %v", err)
		}
	})
}

func TestAbortOfPausedReader(t *testing.T) {
	s, peer := plainPair(t)
	paused := make(chan struct{})
	h := newHandler(func(_ *Turn, b []byte) (int, error) {
		s.Pause()
		close(paused)
		return len(b), nil
	})
	serve(t, s, h, false)
	peer.Write([]byte("a"))
	<-paused
	s.Abort()
	s.Abort()
	within(t, "the end", func() {
		if err := <-h.closed; err != ErrAborted {
			t.Errorf("closed: %v", err)
		}
	})
}

// A sender that leaves the reader no pause does not keep it from ending.
func TestAbortUnderFlood(t *testing.T) {
	s, peer := plainPair(t)
	var n atomic.Int64
	h := newHandler(func(_ *Turn, b []byte) (int, error) {
		n.Add(int64(len(b)))
		return len(b), nil
	})
	serve(t, s, h, false)
	go func() {
		buf := make([]byte, 1<<20)
		for {
			if _, err := peer.Write(buf); err != nil {
				return
			}
		}
	}()
	within(t, "the flood", func() {
		for n.Load() < 8<<20 {
			runtime.Gosched()
		}
		s.Abort()
		if err := <-h.closed; err != ErrAborted {
			t.Errorf("closed: %v", err)
		}
	})
}

func TestHalfClose(t *testing.T) {
	s, peer := plainPair(t)
	h := newHandler(nil)
	served := make(chan error)
	go func() { served <- s.Serve(h, true) }()
	peer.Write([]byte("x"))
	peer.CloseWrite()
	if err := <-served; err != io.EOF {
		t.Fatalf("Serve: %v", err)
	}
	data := random(1, 4<<20)
	Run(func(t *Turn) {
		s.Write(t, data)
		s.CloseWrite(t)
		s.CloseWrite(t)
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		s.WaitFlushed()
		s.Close()
	})
	within(t, "the answer", func() {
		got, err := io.ReadAll(peer)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("got %d bytes, %v; want %d", len(got), err, len(data))
		}
		wg.Wait()
	})
	// After the end everything is refused in silence.
	Run(func(t *Turn) {
		s.Write(t, data)
		s.Borrow(t, data)
		s.CloseWrite(t)
	})
	s.WaitFlushed()
	s.Abort()
}

func TestReset(t *testing.T) {
	s, peer := plainPair(t)
	h := newHandler(nil)
	serve(t, s, h, false)
	s.Reset()
	within(t, "the reset", func() {
		_, err := peer.Read(make([]byte, 1))
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the peer read %v, want a reset", err)
		}
		if err := <-h.closed; err != ErrAborted {
			t.Errorf("closed: %v", err)
		}
	})
}

func TestPeerReset(t *testing.T) {
	s, peer := plainPair(t)
	h := newHandler(nil)
	serve(t, s, h, true)
	peer.SetLinger(0)
	peer.Close()
	within(t, "the reset", func() {
		if err := <-h.closed; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("closed: %v, want a reset", err)
		}
	})
}

// The reason of a failed write is what the connection ended of.
func TestFailedWrite(t *testing.T) {
	s, peer := plainPair(t)
	paused := make(chan struct{})
	h := newHandler(func(_ *Turn, b []byte) (int, error) {
		s.Pause() // so that the reader does not see it first
		close(paused)
		return len(b), nil
	})
	serve(t, s, h, false)
	peer.Write([]byte("x"))
	<-paused
	peer.SetLinger(0)
	peer.Close()
	within(t, "the end", func() {
		for {
			Run(func(t *Turn) { s.Write(t, []byte("y")) })
			select {
			case err := <-h.closed:
				if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
					t.Errorf("closed: %v", err)
				}
				return
			default:
				runtime.Gosched()
			}
		}
	})
}

func TestHandlerErrorEnds(t *testing.T) {
	s, peer := plainPair(t)
	bad := errors.New("bad input")
	h := newHandler(func(t *Turn, _ []byte) (int, error) {
		s.Write(t, []byte("bye"))
		return 0, bad
	})
	serve(t, s, h, false)
	peer.Write([]byte("x"))
	within(t, "the end", func() {
		if b, err := io.ReadAll(peer); err != nil || string(b) != "bye" {
			t.Errorf("the peer read %q, %v", b, err)
		}
		if err := <-h.closed; err != bad {
			t.Errorf("closed: %v", err)
		}
	})
}

func TestWaitFlushed(t *testing.T) {
	fill := func(t *testing.T) (*Socket, *net.TCPConn, chan struct{}) {
		t.Helper()
		s, peer := plainPair(t)
		s.Start(newHandler(nil))
		Run(func(t *Turn) { s.Write(t, make([]byte, 32<<20)) })
		flushed := make(chan struct{})
		go func() {
			s.WaitFlushed()
			close(flushed)
		}()
		return s, peer, flushed
	}
	t.Run("reader", func(t *testing.T) {
		s, peer, flushed := fill(t)
		select {
		case <-flushed:
			t.Fatal("32 MiB are said to be flushed that nobody has read")
		default:
		}
		within(t, "the flush", func() {
			io.CopyN(io.Discard, peer, 32<<20)
			<-flushed
		})
		s.Close()
	})
	t.Run("aborted", func(t *testing.T) {
		s, _, flushed := fill(t)
		s.Abort()
		within(t, "the abort", func() { <-flushed })
		s.Close()
	})
	t.Run("closed", func(t *testing.T) {
		s, _, flushed := fill(t)
		s.Close()
		within(t, "the close", func() { <-flushed })
	})
	t.Run("gone", func(t *testing.T) {
		s, peer, flushed := fill(t)
		peer.Close()
		within(t, "the reset", func() { <-flushed })
		s.Close()
	})
}

func TestDrained(t *testing.T) {
	s, peer := plainPair(t)
	h := newHandler(nil)
	size := make(chan int, 10)
	h.drained = func(*Turn) { size <- s.Backlog() }
	s.Start(h)
	Run(func(t *Turn) {
		s.Write(t, make([]byte, 32<<20))
		s.Queue().Lock()
		s.Queue().WantDrained = true
		s.Queue().Unlock()
	})
	select {
	case n := <-size:
		t.Fatalf("drained with %d bytes", n)
	default:
	}
	within(t, "draining", func() {
		io.CopyN(io.Discard, peer, 32<<20)
		if n := <-size; n > LowWater {
			t.Errorf("drained with %d bytes", n)
		}
	})
	if len(size) > 0 {
		t.Error("drained twice")
	}
	s.Close()
}

func TestAwaitReset(t *testing.T) {
	half := func(t *testing.T) (*Socket, *net.TCPConn) {
		t.Helper()
		s, peer := plainPair(t)
		peer.CloseWrite()
		if err := s.Serve(newHandler(nil), true); err != io.EOF {
			t.Fatalf("Serve: %v", err)
		}
		t.Cleanup(s.Close)
		return s, peer
	}
	t.Run("reset", func(t *testing.T) {
		s, peer := half(t)
		got := make(chan error, 1)
		go func() { got <- s.AwaitReset() }()
		peer.SetLinger(0)
		peer.Close()
		within(t, "the reset", func() {
			if err := <-got; err == nil || err == ErrAborted {
				t.Errorf("got %v, want the reset", err)
			}
		})
	})
	t.Run("reset-before", func(t *testing.T) {
		s, peer := half(t)
		peer.SetLinger(0)
		peer.Close()
		within(t, "the reset", func() {
			if err := s.AwaitReset(); err == nil || err == ErrAborted {
				t.Errorf("got %v, want the reset", err)
			}
		})
	})
	t.Run("write", func(t *testing.T) {
		s, peer := half(t)
		got := make(chan error, 1)
		go func() { got <- s.AwaitReset() }()
		peer.Close()
		within(t, "the answer to a write", func() {
			for len(got) == 0 {
				Run(func(t *Turn) { s.Write(t, []byte("x")) })
				runtime.Gosched()
			}
			if err := <-got; err == nil || err == ErrAborted {
				t.Errorf("got %v, want what the write met", err)
			}
		})
	})
	t.Run("stop", func(t *testing.T) {
		s, peer := half(t)
		s.StopAwait()
		if err := s.AwaitReset(); err != nil {
			t.Errorf("got %v", err)
		}
		Run(func(t *Turn) { s.Write(t, []byte("still")); s.CloseWrite(t) })
		if b, err := io.ReadAll(peer); string(b) != "still" {
			t.Errorf("the peer read %q, %v", b, err)
		}
	})
	t.Run("abort", func(t *testing.T) {
		s, _ := half(t)
		go s.Abort()
		within(t, "the abort", func() {
			if err := s.AwaitReset(); err != ErrAborted {
				t.Errorf("got %v", err)
			}
		})
	})
}

// A reader that waits for the rest of a message does not hold a large buffer.
func TestSmallRest(t *testing.T) {
	r := &reader{}
	big := make([]byte, 0, readSize+32<<10)
	big = append(big, random(1, 100<<10)...)
	want := bytes.Clone(big[len(big)-1000:])
	r.leave(&big, 1000)
	if !bytes.Equal(*r.rest, want) || cap(*r.rest) > 4<<10 {
		t.Fatalf("%d bytes are kept in a buffer of %d", len(*r.rest), cap(*r.rest))
	}
	pp := r.takeRest()
	if !bytes.Equal(*pp, want) || cap(*pp) < readSize || r.rest != nil {
		t.Fatalf("%d bytes come back in a buffer of %d", len(*pp), cap(*pp))
	}
	*pp = append(*pp, want...)
	r.leave(pp, 2000)
	if !bytes.Equal(*r.rest, append(want, want...)) {
		t.Error("the rest is not what was left")
	}
	if pp := r.takeRest(); len(*pp) != 2000 {
		t.Errorf("%d bytes", len(*pp))
	}
	if pp := r.takeRest(); len(*pp) != 0 || cap(*pp) < readSize || r.keep != nil {
		t.Errorf("%d bytes of %d, %d kept", len(*pp), cap(*pp), cap(r.keep))
	}
}

// writeCycle is what a relay does per batch.
func writeCycle(t testing.TB, s *Socket, n int) func() {
	t.Helper()
	b := make([]byte, n)
	turn := &Turn{}
	return func() {
		s.Write(turn, b)
		turn.End()
	}
}

func TestWriteAllocates(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, secure := range []bool{false, true} {
		s, peer := plainPair(t)
		var r io.Reader = peer
		if secure {
			s, r = tlsPair(t)
		}
		s.Start(newHandler(nil))
		go io.Copy(io.Discard, r)
		f := writeCycle(t, s, 1000)
		if n := testing.AllocsPerRun(200, f); n > 0 {
			t.Errorf("tls %v: %v allocations per write and flush, want none", secure, n)
		}
		s.Close()
	}
}

func BenchmarkWriteFlush(b *testing.B) {
	for _, secure := range []bool{false, true} {
		b.Run(fmt.Sprintf("tls=%v", secure), func(b *testing.B) {
			s, peer := plainPair(b)
			var r io.Reader = peer
			if secure {
				s, r = tlsPair(b)
			}
			s.Start(newHandler(nil))
			go io.Copy(io.Discard, r)
			f := writeCycle(b, s, 16<<10)
			b.SetBytes(16 << 10)
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
			s.WaitFlushed()
			s.Close()
		})
	}
}
