package loop

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
)

// parkedPair is an echoing socket in a lot, its peer, and what it ended with.
func parkedPair(t testing.TB, l *Lot) (s *Socket, peer *net.TCPConn, ended <-chan error) {
	t.Helper()
	nc, peer := tcpPair(t)
	s, err := New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s.ParkIn(l)
	h := newHandler(nil)
	h.data = func(turn *Turn, b []byte) (int, error) {
		s.Borrow(turn, b)
		return len(b), nil
	}
	end := make(chan error, 2) // a second one would be a mistake
	go s.ServeParked(h, true, func(err error) { end <- err })
	return s, peer, end
}

// newLot is closed at the test's end, when its sockets have ended.
func newLot(t testing.TB) *Lot {
	l := &Lot{}
	t.Cleanup(l.Close)
	return l
}

// allParked makes every socket of the lot park: what it waits for is that the
// readers go.
func allParked(t *testing.T, l *Lot) {
	t.Helper()
	within(t, "parking", func() {
		for {
			l.sweep()
			if n, _ := l.Readers(); n == 0 {
				return
			}
			runtime.Gosched()
		}
	})
}

func echoed(t *testing.T, peer net.Conn, text string) {
	t.Helper()
	within(t, "the echo", func() {
		got := make([]byte, len(text))
		if _, err := io.WriteString(peer, text); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(peer, got); err != nil || string(got) != text {
			t.Errorf("echo %q, %v", got, err)
		}
	})
}

func TestParkedWakes(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(s *Socket, peer *net.TCPConn)
		want func(error) bool
	}{
		{"fin", func(_ *Socket, peer *net.TCPConn) { peer.CloseWrite() }, func(err error) bool { return err == io.EOF }},
		{"reset", func(_ *Socket, peer *net.TCPConn) { peer.SetLinger(0); peer.Close() }, func(err error) bool { return errors.Is(err, syscall.ECONNRESET) }},
		{"abort", func(s *Socket, _ *net.TCPConn) { s.Abort() }, func(err error) bool { return err == ErrAborted }},
		{"our-reset", func(s *Socket, _ *net.TCPConn) { s.Reset() }, func(err error) bool { return err == ErrAborted }},
		{"data-and-fin", func(_ *Socket, peer *net.TCPConn) { io.WriteString(peer, "x"); peer.CloseWrite() }, func(err error) bool { return err == io.EOF }},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLot(t)
			s, peer, ended := parkedPair(t, l)
			echoed(t, peer, "hello")
			for range 3 { // it may park again and again
				allParked(t, l)
				echoed(t, peer, "still there?")
			}
			allParked(t, l)
			test.do(s, peer)
			within(t, "the end", func() {
				if err := <-ended; !test.want(err) {
					t.Errorf("ended with %v", err)
				}
			})
			s.Close()
			if n, _ := l.Readers(); n != 0 {
				t.Errorf("%d readers are left", n)
			}
			select {
			case err := <-ended:
				t.Errorf("ended a second time: %v", err)
			default:
			}
		})
	}
}

// A parked socket has no goroutine.
func TestParkedCostsNoGoroutine(t *testing.T) {
	const sockets = 100
	l := newLot(t)
	before := runtime.NumGoroutine()
	var socks []*Socket
	var ends []<-chan error
	for range sockets {
		s, peer, ended := parkedPair(t, l)
		echoed(t, peer, "hello")
		socks, ends = append(socks, s), append(ends, ended)
	}
	if _, peak := l.Readers(); peak != sockets {
		t.Errorf("at most %d had readers, want %d", peak, sockets)
	}
	allParked(t, l)
	within(t, "the goroutines' end", func() {
		for runtime.NumGoroutine() > before+10 {
			runtime.Gosched()
		}
	})
	for i, s := range socks {
		s.Abort()
		<-ends[i]
	}
}

// A sweep that asks a reader to go when it has just ended must not wake AwaitReset.
func TestAskedTooLate(t *testing.T) {
	l := newLot(t)
	nc, peer := tcpPair(t)
	s, err := New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s.ParkIn(l)
	h := newHandler(nil)
	h.data = func(_ *Turn, b []byte) (int, error) {
		s.park.active.Store(false)
		l.sweep() // while the reader is about to find the FIN
		return len(b), nil
	}
	io.WriteString(peer, "x")
	peer.CloseWrite()
	waited := make(chan error, 1)
	go s.ServeParked(h, true, func(err error) {
		if err != io.EOF {
			t.Errorf("ended with %v", err)
		}
		waited <- s.AwaitReset()
	})
	within(t, "the FIN", func() { <-h.closed })
	for range 1000 {
		runtime.Gosched()
	}
	select {
	case err := <-waited:
		t.Errorf("AwaitReset returned before it was to: %v", err)
	default:
	}
	s.StopAwait()
	within(t, "AwaitReset", func() {
		if err := <-waited; err != nil {
			t.Error(err)
		}
	})
	s.Close()
}

// Sockets park at every possible and impossible moment, and not a byte is lost.
func TestParkingUnderTraffic(t *testing.T) {
	const sockets, rounds = 16, 150
	l := newLot(t)
	stop, swept := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(swept)
		for {
			select {
			case <-stop:
				return
			default:
				l.sweep()
				runtime.Gosched()
			}
		}
	}()
	var wg sync.WaitGroup
	for i := range sockets {
		s, peer, ended := parkedPair(t, l)
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			for n := range rounds {
				data := random(uint64(n), 1+rng.IntN(3000))
				got := make([]byte, len(data))
				peer.Write(data)
				if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, data) {
					t.Errorf("socket %d, message %d of %d bytes: not echoed: %v", i, n, len(data), err)
					break
				}
			}
			want := io.EOF
			if i%2 == 0 {
				peer.CloseWrite()
			} else {
				want = ErrAborted
				s.Abort()
			}
			if err := <-ended; err != want {
				t.Errorf("socket %d ended with %v, want %v", i, err, want)
			}
			s.Close()
		})
	}
	within(t, "the traffic", wg.Wait)
	close(stop)
	<-swept
}
