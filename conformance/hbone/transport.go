package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// readSize is how much ciphertext one read of the socket may bring.
const readSize = 128 << 10

// errNoData is what the memory side of a TLS connection answers when its
// bytes are used up. It is temporary, which makes crypto/tls keep a partial
// record and go on from there at the next call.
type errNoData struct{}

func (errNoData) Error() string   { return "no data yet" }
func (errNoData) Timeout() bool   { return true }
func (errNoData) Temporary() bool { return true }

// memory is the net.Conn under a tls.Conn. During the handshake it passes
// everything to the socket; afterwards (detached) Read takes from in, which
// the reader goroutine fills, and Write collects in out until flush.
type memory struct {
	net.Conn // the socket: addresses, deadlines, Close
	detached bool

	in []byte // ciphertext that was read and not yet decrypted

	mu  sync.Mutex // guards out: crypto/tls may answer a key update while it reads
	out []byte     // ciphertext to send
}

func (m *memory) Read(p []byte) (int, error) {
	if !m.detached {
		return m.Conn.Read(p)
	}
	if len(m.in) == 0 {
		return 0, errNoData{}
	}
	n := copy(p, m.in)
	m.in = m.in[n:]
	return n, nil
}

func (m *memory) Write(p []byte) (int, error) {
	if !m.detached {
		return m.Conn.Write(p)
	}
	m.mu.Lock()
	m.out = append(m.out, p...)
	m.mu.Unlock()
	return len(p), nil
}

// SetWriteDeadline keeps the deadline of crypto/tls from the socket: after its
// last alert it lets nothing more be written, and that alert is still in out.
func (m *memory) SetWriteDeadline(at time.Time) error {
	if m.detached {
		return nil
	}
	return m.Conn.SetWriteDeadline(at)
}

// transport is a TLS connection that is read and written in batches.
type transport struct {
	mem *memory
	raw syscall.RawConn
	tls *tls.Conn

	ciphertext []byte // buffer of the reader goroutine
	control    []byte // buffer for the kernel's receive times; nil: our own

	// What the one who writes owns: the ciphertext under way, and the steps
	// that send it, made once because each is a closure.
	sending []byte
	sent    int
	failed  error
	try     func(fd uintptr) bool
	finish  func(fd uintptr) bool
}

// handshake completes TLS over the socket and detaches it. The peer must
// have chosen h2.
func handshake(ctx context.Context, sock net.Conn, wrap func(net.Conn) *tls.Conn) (*transport, error) {
	sc, ok := sock.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("%T is no socket", sock)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("reaching the socket: %w", err)
	}
	mem := &memory{Conn: sock}
	t := &transport{mem: mem, raw: raw, tls: wrap(mem)}
	if err := t.tls.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("handshaking with %s: %w", sock.RemoteAddr(), err)
	}
	if got := t.tls.ConnectionState().NegotiatedProtocol; got != "h2" {
		return nil, fmt.Errorf("handshaking with %s: ALPN %q, not h2", sock.RemoteAddr(), got)
	}
	mem.detached = true
	t.try = func(fd uintptr) bool { t.step(fd); return true }
	t.finish = t.step
	return t, nil
}

// serve reads the connection until it ends. handle is called with decrypted
// bytes, at most one record at a time, which are only valid during the call,
// and the time when the read brought them; batch is called when what one read brought is used up. serve returns nil
// when the peer closed in good order.
func (t *transport) serve(handle func([]byte, time.Time) error, batch func() error) error {
	t.ciphertext = make([]byte, readSize)
	plain := make([]byte, 32<<10)
	var failed error
	// The loop lives inside the callback: it returns false only after a read
	// found nothing, so the runtime parks without a probing read of its own.
	// A short read is no reason to park: the end of the stream may have come in
	// the same event, which the kernel tells but once.
	step := func(fd uintptr) bool {
		for {
			n, at, err := t.read(int(fd))
			switch {
			case errors.Is(err, syscall.EAGAIN):
				return false
			case errors.Is(err, syscall.EINTR):
				continue
			case err != nil:
				failed = fmt.Errorf("reading: %w", err)
				return true
			case n == 0:
				failed = io.EOF
				return true
			}
			t.mem.in = t.ciphertext[:n]
			if failed = t.decrypt(plain, at, handle); failed != nil {
				return true
			}
			if failed = batch(); failed != nil {
				return true
			}
		}
	}
	if err := t.raw.Read(step); err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	if errors.Is(failed, io.EOF) {
		return nil
	}
	return failed
}

// decrypt hands on every complete record of what was read.
func (t *transport) decrypt(plain []byte, at time.Time, handle func([]byte, time.Time) error) error {
	for {
		n, err := t.tls.Read(plain)
		if n > 0 {
			if err := handle(plain[:n], at); err != nil {
				return err
			}
		}
		if err == nil {
			continue
		}
		if errors.Is(err, errNoData{}) {
			return nil
		}
		return err
	}
}

// write encrypts p and sends what the socket takes at once. The caller
// serialises its calls with those of wait.
func (t *transport) write(p []byte) (kept bool, err error) {
	if _, err := t.tls.Write(p); err != nil {
		return false, fmt.Errorf("encrypting: %w", err)
	}
	err = t.transmit(t.try)
	return t.sent < len(t.sending), err
}

// wait sends what write kept, and waits for the socket when it is full.
func (t *transport) wait() error { return t.transmit(t.finish) }

func (t *transport) transmit(step func(uintptr) bool) error {
	if t.sent == len(t.sending) {
		t.mem.mu.Lock()
		t.sending, t.mem.out, t.sent = t.mem.out, t.sending[:0], 0
		t.mem.mu.Unlock()
	}
	if err := t.raw.Write(step); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return t.failed
}

// step writes to the socket, and tells whether it is done.
func (t *transport) step(fd uintptr) bool {
	for t.sent < len(t.sending) {
		n, err := syscall.Write(int(fd), t.sending[t.sent:])
		switch {
		case err == syscall.EAGAIN:
			return false
		case err == syscall.EINTR:
		case err != nil:
			t.failed = fmt.Errorf("writing: %w", err)
			return true
		default:
			t.sent += n
		}
	}
	return true
}

// close ends the connection for whoever reads and writes it; the socket is
// given back by the one who carries it. net.Conn's own Close waits until a
// reader has left its callback, and so must not be called with a lock that a
// reader may want.
func (t *transport) close() {
	_ = t.raw.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_RDWR) }) // ended already is as good
}

// dial connects to addr within ten seconds.
func dial(ctx context.Context, addr string, cfg *tls.Config) (*transport, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var d net.Dialer
	sock, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dialing %s: %w", addr, err)
	}
	t, err := handshake(ctx, sock, func(c net.Conn) *tls.Conn { return tls.Client(c, cfg) })
	if err != nil {
		sock.Close()
		return nil, err
	}
	return t, nil
}
