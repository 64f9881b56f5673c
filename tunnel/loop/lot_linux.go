package loop

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

// Lot is where quiet sockets wait without a goroutine. A reader that waits
// keeps its stack, 8 KiB for a relay's, which is more than all the rest of an
// idle connection. So a reader that nothing has come for goes away, and the
// socket is watched by an epoll instance that all sockets of the lot share;
// the next event starts a new reader. Busy sockets never notice.
//
// The zero value is ready. Two goroutines belong to it: one waits for events,
// from the first socket that parks until Close, one looks for quiet sockets,
// while there are readers.
type Lot struct {
	mu       sync.Mutex
	reading  map[*Socket]struct{} // those with a reader
	peak     int                  // the most of them since Readers was called
	slots    []*Socket            // those without, by the number that their event carries
	free     []int32              // empty slots
	ep       *os.File             // nil before the first
	sweeping bool
	closed   bool
	stop     chan struct{} // made with the first sweep, closed by Close
	wg       sync.WaitGroup
}

// quiet is the pace of the sweeps. A socket parks when nothing has come from
// one sweep to the next.
const quiet = 250 * time.Millisecond

// Readers is the number of sockets that have a reader now, and the most that
// had one since the last call.
func (l *Lot) Readers() (now, peak int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, peak = len(l.reading), l.peak
	l.peak = now
	return now, peak
}

// Close ends the lot's goroutines. Its sockets must have ended.
func (l *Lot) Close() {
	l.mu.Lock()
	l.closed = true
	ep, stop := l.ep, l.stop
	l.ep, l.stop = nil, nil
	l.mu.Unlock()
	if ep != nil {
		_ = ep.Close() // which wakes its waiter
	}
	if stop != nil {
		close(stop)
	}
	l.wg.Wait()
}

// add notes a socket that has a reader.
func (l *Lot) add(s *Socket) {
	l.mu.Lock()
	l.addLocked(s)
	l.mu.Unlock()
}

func (l *Lot) addLocked(s *Socket) {
	if l.reading == nil {
		l.reading = map[*Socket]struct{}{}
	}
	l.reading[s] = struct{}{}
	l.peak = max(l.peak, len(l.reading))
	if l.sweeping || l.closed {
		return
	}
	l.sweeping = true
	if l.stop == nil {
		l.stop = make(chan struct{})
	}
	stop := l.stop
	l.wg.Go(func() { l.sweeps(stop) })
}

// remove forgets a socket whose reader ends for good.
func (l *Lot) remove(s *Socket) {
	l.mu.Lock()
	delete(l.reading, s)
	l.mu.Unlock()
}

func (l *Lot) sweeps(stop chan struct{}) {
	tick := time.NewTicker(quiet)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		if !l.sweep() {
			return
		}
	}
}

// sweep asks the readers of quiet sockets to go. It reports whether any reader is left.
func (l *Lot) sweep() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.reading {
		p := s.park
		if !p.active.Swap(false) && !p.asked.Swap(true) {
			_ = s.nc.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
		}
	}
	l.sweeping = len(l.reading) > 0
	return l.sweeping
}

// enter parks a socket, whose reader ends if it returns true. Another may have
// begun by then.
func (l *Lot) enter(s *Socket) bool {
	s.park.asked.Store(false)
	if err := s.nc.SetReadDeadline(time.Time{}); err != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// Abort sets this before it looks whether the socket is parked.
	if s.aborted.Load() || l.closed || l.open() != nil {
		return false
	}
	if len(l.free) == 0 {
		l.slots = append(l.slots, nil)
		l.free = append(l.free, int32(len(l.slots)-1))
	}
	slot := l.free[len(l.free)-1]
	if s.watch(l.ep, syscall.EPOLL_CTL_ADD, slot) != nil {
		return false
	}
	l.free = l.free[:len(l.free)-1]
	l.slots[slot], s.park.slot = s, slot
	delete(l.reading, s)
	return true
}

// leave starts a reader for a socket, if it is parked.
func (l *Lot) leave(s *Socket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	slot := s.park.slot
	if slot < 0 {
		return
	}
	_ = s.watch(l.ep, syscall.EPOLL_CTL_DEL, slot) // at worst it comes again, for nothing
	l.slots[slot], s.park.slot = nil, -1
	l.free = append(l.free, slot)
	l.addLocked(s)
	go s.readOn()
}

// watch adds or removes the socket's descriptor.
func (s *Socket) watch(ep *os.File, op int, slot int32) error {
	on, err := ep.SyscallConn()
	if err != nil {
		return err
	}
	ev := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP, Fd: slot}
	var cerr error
	err = s.rc.Control(func(fd uintptr) {
		if err := on.Control(func(epfd uintptr) { cerr = syscall.EpollCtl(int(epfd), op, int(fd), &ev) }); err != nil {
			cerr = err
		}
	})
	if err != nil {
		return err
	}
	return cerr
}

// open makes the epoll instance and starts its goroutine. l.mu is held.
func (l *Lot) open() error {
	if l.ep != nil {
		return nil
	}
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("making an epoll instance: %w", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		syscall.Close(fd)
		return fmt.Errorf("making an epoll instance: %w", err)
	}
	// An epoll instance can be polled itself, so the runtime's poller waits for
	// it and no thread does.
	l.ep = os.NewFile(uintptr(fd), "epoll")
	ep := l.ep
	l.wg.Go(func() { l.wait(ep) })
	return nil
}

// wait starts readers for the sockets that something has come for.
func (l *Lot) wait(ep *os.File) {
	rc, err := ep.SyscallConn()
	if err != nil {
		return // it is closed
	}
	events := make([]syscall.EpollEvent, 64)
	// It returns when the lot is closed.
	_ = rc.Read(func(fd uintptr) bool {
		for {
			n, err := syscall.EpollWait(int(fd), events, 0)
			if err == syscall.EINTR {
				continue
			}
			if n <= 0 {
				return err != nil
			}
			for _, e := range events[:n] {
				l.event(e.Fd)
			}
		}
	})
}

// event is about a slot, whose socket may have left since; then it is about
// the next one there, whose reader will find nothing and park again.
func (l *Lot) event(slot int32) {
	l.mu.Lock()
	s := l.slots[slot]
	l.mu.Unlock()
	if s != nil {
		l.leave(s)
	}
}
