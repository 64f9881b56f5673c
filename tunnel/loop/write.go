package loop

import "syscall"

// Write queues a copy of b.
func (s *Socket) Write(t *Turn, b []byte) {
	s.q.Lock()
	s.q.Append(t, b)
	s.q.Unlock()
}

// Borrow sends b without copying it when the socket is plain and idle. b must
// stay valid until the turn ends, and only one goroutine at a time may Borrow.
func (s *Socket) Borrow(t *Turn, b []byte) {
	s.q.Lock()
	if len(b) == 0 || s.failed {
		s.q.Unlock()
		return
	}
	if s.tls != nil || s.flushing || s.q.Size() > 0 {
		s.q.Append(t, b)
	} else {
		s.borrowed = append(s.borrowed, b)
		s.q.Mark(t)
	}
	s.q.Unlock()
}

// CloseWrite ends the output after what is queued.
func (s *Socket) CloseWrite(t *Turn) {
	s.q.Lock()
	s.q.End(t)
	s.q.Unlock()
}

// Backlog reports how many bytes wait because the peer or the kernel does not
// take them.
func (s *Socket) Backlog() int {
	s.q.Lock()
	defer s.q.Unlock()
	return s.q.Size()
}

// Flush implements Flusher. It writes until nothing is queued or the kernel
// takes no more; then a writer goroutine goes on.
func (s *Socket) Flush(t *Turn) {
	s.q.Lock()
	s.q.Flushed()
	if s.flushing || s.failed {
		s.q.Unlock()
		return
	}
	s.flushing = true
	borrowed := s.borrowed
	s.q.Unlock()

	ob := outPool.Get().(*[]byte)
	var rest []byte
	var err error
	if len(borrowed) > 0 {
		rest, err = s.writev(ob, borrowed)
	}
	done := false
	if err == nil && len(rest) == 0 {
		done, rest, err = s.flushLoop(ob, s.tryWrite)
	}
	if err == nil && !done {
		go s.writeBacklog(ob, rest)
		return
	}
	outPool.Put(ob)
	if err != nil {
		s.fail(err)
		return
	}
	s.tellDrained(t)
}

// writeBacklog is the temporary writer: it blocks in place of the reader.
func (s *Socket) writeBacklog(ob *[]byte, rest []byte) {
	write := func(b []byte) ([]byte, error) {
		_, err := s.nc.Write(b)
		if err == nil {
			Run(s.tellDrained)
		}
		return nil, err
	}
	_, err := write(rest)
	if err == nil {
		_, _, err = s.flushLoop(ob, write)
	}
	outPool.Put(ob)
	if err != nil {
		s.fail(err)
		return
	}
	Run(s.tellDrained)
}

// tellDrained calls the handler if it asked to know and there is room again.
func (s *Socket) tellDrained(t *Turn) {
	s.q.Lock()
	want := s.q.WantDrained && s.q.Size() <= LowWater
	if want {
		s.q.WantDrained = false
	}
	s.q.Unlock()
	if want {
		s.h.Drained(t)
	}
}

func (s *Socket) fail(err error) {
	s.q.Lock()
	if !s.failed && !s.aborted.Load() {
		s.failure = err
	}
	s.failed = true
	s.flushing = false
	s.idle.Broadcast()
	s.q.Drop()
	s.q.Unlock()
	s.Abort()
}

// flushLoop seals and writes chunk after chunk with write, which returns what
// it could not write. When the queue is empty, done is true and s.flushing cleared.
func (s *Socket) flushLoop(ob *[]byte, write func([]byte) ([]byte, error)) (done bool, rest []byte, err error) {
	for {
		s.q.Lock()
		b := s.q.Take()
		fin := b == nil && (s.q.fin || s.ending)
		if b == nil && !fin && (s.tls == nil || s.tls.pending() == 0) {
			s.flushing = false
			s.idle.Broadcast()
			s.q.Unlock()
			return true, nil, nil
		}
		if fin {
			s.q.fin = false
		}
		s.q.Unlock()
		switch {
		case s.over: // too late: a PING's answer after the last stream, say
			s.discard(b)
		case fin:
			rest, err = s.finish(write)
		case s.tls == nil:
			if rest, err = write(b); len(rest) > 0 {
				rest = append((*ob)[:0], rest...)
			}
			putChunk(b)
		default:
			rest, err = s.seal(ob, b, write)
		}
		if err != nil || len(rest) > 0 {
			return false, rest, err
		}
	}
}

// seal encrypts a chunk (nil: only what TLS itself has to say) and writes it.
func (s *Socket) seal(ob *[]byte, b []byte, write func([]byte) ([]byte, error)) ([]byte, error) {
	o, err := s.tls.seal((*ob)[:0], b)
	if b != nil {
		putChunk(b)
	}
	if err != nil {
		return nil, err
	}
	if cap(o) > cap(*ob) {
		*ob = o
	}
	return write(o)
}

// finish ends the output: close_notify for TLS, then FIN. When the kernel does
// not take all of the close_notify it returns the rest, and is called again.
func (s *Socket) finish(write func([]byte) ([]byte, error)) (rest []byte, err error) {
	if s.tls != nil && !s.ending {
		s.ending = true
		if bye, err := s.tls.finish(nil); err == nil {
			if rest, err := write(bye); err != nil || len(rest) > 0 {
				return rest, err
			}
		}
	}
	s.ending, s.over = false, true
	return nil, s.nc.CloseWrite()
}

// discard drops a chunk and what TLS has to say after the end of the output.
func (s *Socket) discard(b []byte) {
	if b != nil {
		putChunk(b)
	}
	if s.tls != nil {
		_, _ = s.tls.seal(nil, nil) // not sent
	}
}

// writing is the argument and result of one write on the descriptor.
type writing struct {
	b    []byte   // for write(2)
	bufs [][]byte // for writev(2), if not nil
	n    int      // how much writev took
	iov  []syscall.Iovec
	err  error
}

func (w *writing) run(fd uintptr) {
	if w.bufs != nil {
		w.n, w.err = writev(fd, &w.iov, w.bufs)
		return
	}
	for len(w.b) > 0 {
		n, e := rawWrite(fd, w.b)
		if n > 0 {
			w.b = w.b[n:]
			continue
		}
		if e == syscall.EINTR {
			continue
		}
		if e != syscall.EAGAIN && e != 0 {
			w.err = e
		}
		return
	}
}

// tryWrite writes without blocking and returns what the kernel did not take.
func (s *Socket) tryWrite(b []byte) ([]byte, error) {
	s.w.b, s.w.err = b, nil
	if err := s.rc.Control(s.wFunc); err != nil {
		return nil, err
	}
	rest, err := s.w.b, s.w.err
	s.w.b = nil
	return rest, err
}

// writev writes borrowed slices with one system call and returns a copy of
// what the kernel did not take.
func (s *Socket) writev(ob *[]byte, bufs [][]byte) ([]byte, error) {
	var n int
	var err error
	if len(bufs) == 1 {
		var rest []byte
		rest, err = s.tryWrite(bufs[0])
		n = len(bufs[0]) - len(rest)
	} else {
		n, err = s.tryWritev(bufs)
	}
	rest := (*ob)[:0]
	for i, b := range bufs {
		if n >= len(b) {
			n -= len(b)
		} else {
			rest = append(rest, b[n:]...)
			n = 0
		}
		bufs[i] = nil
	}
	if cap(rest) > cap(*ob) {
		*ob = rest
	}
	s.q.Lock()
	s.borrowed = s.borrowed[:0]
	s.q.Unlock()
	return rest, err
}

// tryWritev writes without blocking and returns how much the kernel took.
func (s *Socket) tryWritev(bufs [][]byte) (n int, err error) {
	s.w.bufs, s.w.n, s.w.err = bufs, 0, nil
	err = s.rc.Control(s.wFunc)
	s.w.bufs = nil
	if err == nil {
		err = s.w.err
	}
	return s.w.n, err
}

// writev is one writev(2) without blocking; EAGAIN counts as nothing written.
func writev(fd uintptr, iov *[]syscall.Iovec, bufs [][]byte) (int, error) {
	const maxIov = 1024
	v := (*iov)[:0]
	for _, b := range bufs[:min(len(bufs), maxIov)] {
		e := syscall.Iovec{Base: &b[0]}
		e.SetLen(len(b))
		v = append(v, e)
	}
	n, e := rawWritev(fd, v)
	clear(v)
	*iov = v[:0]
	switch {
	case e == 0:
		return n, nil
	case e == syscall.EAGAIN || e == syscall.EINTR:
		return 0, nil
	}
	return 0, e
}
