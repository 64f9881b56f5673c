package memnet

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// Conn is one side of a connection.
type Conn struct {
	local, remote netip.AddrPort
	in, out       *half
}

var _ net.Conn = (*Conn)(nil)

// Pipe returns the two sides of a new connection between two addresses. buffer
// is the size in bytes of both receive buffers; 0 is DefaultBuffer.
func Pipe(a, b netip.AddrPort, buffer int) (*Conn, *Conn) {
	if buffer <= 0 {
		buffer = DefaultBuffer
	}
	ab, ba := newHalf(buffer), newHalf(buffer)
	return &Conn{local: a, remote: b, in: ba, out: ab}, &Conn{local: b, remote: a, in: ab, out: ba}
}

// Read reads what the peer has written. It returns io.EOF after the peer's
// Close or CloseWrite once everything is read, syscall.ECONNRESET after its
// Reset, and os.ErrDeadlineExceeded.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.in.read(b)
	return n, c.wrap("read", err)
}

// Write writes b into the peer's receive buffer and waits while that is full. It
// returns syscall.EPIPE when the peer has closed, syscall.ECONNRESET after its
// Reset, and os.ErrDeadlineExceeded; n says how much was written.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.out.write(b)
	return n, c.wrap("write", err)
}

// Close ends both directions. The peer can read what was written before.
func (c *Conn) Close() error {
	c.out.closeWrite(true)
	c.in.closeRead(nil, true)
	return nil
}

// CloseWrite ends this side's direction alone.
func (c *Conn) CloseWrite() error {
	c.out.closeWrite(false)
	return nil
}

// CloseRead drops what comes from the peer, whose writes then fail.
func (c *Conn) CloseRead() error {
	c.in.closeRead(nil, false)
	return nil
}

// Reset ends both directions at once, as a TCP reset does: what is unread is
// lost, and the peer sees syscall.ECONNRESET.
func (c *Conn) Reset() {
	c.out.reset()
	c.in.closeRead(syscall.ECONNRESET, true)
}

// SetReadBuffer sets how many bytes the peer may have written that are not read
// yet. A smaller buffer holds its bytes, but takes no more until they are read.
func (c *Conn) SetReadBuffer(bytes int) error {
	c.in.setLimit(bytes)
	return nil
}

// Unread returns how many bytes wait to be read.
func (c *Conn) Unread() int { return c.in.size() }

// SetDeadline sets both deadlines; zero means none.
func (c *Conn) SetDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readDeadline, t)
	c.out.setDeadline(&c.out.writeDeadline, t)
	return nil
}

// SetReadDeadline sets when Read gives up.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readDeadline, t)
	return nil
}

// SetWriteDeadline sets when Write gives up.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.writeDeadline, t)
	return nil
}

// LocalAddr returns this side's address as a *net.TCPAddr.
func (c *Conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr returns the peer's address as a *net.TCPAddr.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

func (c *Conn) wrap(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// half is one direction: bytes from a writer to a reader.
type half struct {
	mu   sync.Mutex
	cond *sync.Cond // any change below

	buf   []byte
	limit int

	writeClosed bool  // no more bytes will come
	writeDone   error // what the writer gets from now on
	readDone    error // what the reader gets from now on, unread bytes or not

	readDeadline, writeDeadline deadline
}

// deadline wakes those who wait when it passes.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func newHalf(limit int) *half {
	h := &half{limit: limit}
	h.cond = sync.NewCond(&h.mu)
	return h
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (h *half) read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.readDone != nil:
			return 0, h.readDone
		case h.readDeadline.passed():
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case len(h.buf) > 0:
			n := copy(b, h.buf)
			h.buf = h.buf[n:]
			h.cond.Broadcast()
			return n, nil
		case h.writeClosed:
			return 0, io.EOF
		}
		h.cond.Wait()
	}
}

func (h *half) write(b []byte) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.writeDone != nil:
			return n, h.writeDone
		case h.writeDeadline.passed():
			return n, os.ErrDeadlineExceeded
		case len(b) == 0:
			return n, nil
		}
		if room := h.limit - len(h.buf); room > 0 {
			m := min(room, len(b))
			h.buf = append(h.buf, b[:m]...)
			b, n = b[m:], n+m
			h.cond.Broadcast()
			continue
		}
		h.cond.Wait()
	}
}

// closeWrite is called by the writer's side; final when its Conn is closed.
func (h *half) closeWrite(final bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writeClosed = true
	if final {
		h.writeDone = net.ErrClosed
		h.writeDeadline.stop()
	} else if h.writeDone == nil {
		h.writeDone = syscall.EPIPE
	}
	h.cond.Broadcast()
}

// closeRead is called by the reader's side; final when its Conn is closed.
// writers is what the peer's writes return, EPIPE by default.
func (h *half) closeRead(writers error, final bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf = nil
	if writers == nil {
		writers = syscall.EPIPE
	}
	if h.writeDone == nil {
		h.writeDone = writers
	}
	if final {
		h.readDone = net.ErrClosed
		h.readDeadline.stop()
	} else if h.readDone == nil {
		h.readDone = io.EOF
	}
	h.cond.Broadcast()
}

// reset is called by the writer's side.
func (h *half) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf, h.writeClosed, h.writeDone = nil, true, net.ErrClosed
	if h.readDone == nil {
		h.readDone = syscall.ECONNRESET
	}
	h.writeDeadline.stop()
	h.cond.Broadcast()
}

func (h *half) setLimit(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.limit = max(n, 1)
	h.cond.Broadcast()
}

func (h *half) size() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.buf)
}

// setDeadline sets d, one of h's two.
func (h *half) setDeadline(d *deadline, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d.stop()
	d.at = t
	if wait := time.Until(t); !t.IsZero() && wait > 0 {
		d.timer = time.AfterFunc(wait, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.cond.Broadcast()
		})
	}
	h.cond.Broadcast()
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
