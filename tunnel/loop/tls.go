package loop

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"cairnproxy.dev/cairn/tunnel/record"
)

// layer is the TLS of a connection after its handshake. open and the end of
// the connection belong to the reader, the rest to the flusher; pending may be
// called by both.
type layer interface {
	// open decrypts b, received and borrowed, and appends what it carries to
	// dst. It keeps an incomplete record. With an error, out holds what came before.
	open(dst, b []byte) (out []byte, err error)
	// seal encrypts b (nil: only what TLS itself has to say) into the memory of
	// dst, which is empty. The byte behind b may be used meanwhile.
	seal(dst, b []byte) ([]byte, error)
	// finish is seal for the end of the output.
	finish(dst []byte) ([]byte, error)
	// pending is how many bytes, about, TLS itself has to say.
	pending() int
	state() tls.ConnectionState
}

// NewTLS performs the handshake on nc, as client or server, blocking until it
// is done, ctx ends or the timeout has passed. On error nc is closed.
func NewTLS(ctx context.Context, nc *net.TCPConn, cfg *tls.Config, client bool, timeout time.Duration) (*Socket, error) {
	s, err := New(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := s.handshake(ctx, cfg, client); err != nil {
		nc.Close()
		return nil, fmt.Errorf("tls handshake with %s: %w", nc.RemoteAddr(), err)
	}
	return s, nil
}

// handshake leaves it to crypto/tls to find out who the peer is and to agree on
// keys, and then takes the records over where package record can serve them.
func (s *Socket) handshake(ctx context.Context, cfg *tls.Config, client bool) error {
	var secrets record.Secrets
	if record.Usable() {
		cfg = cfg.Clone()
		secrets.Next, cfg.KeyLogWriter = cfg.KeyLogWriter, &secrets
	}
	mem := &memConn{Conn: s.nc}
	wrap := tls.Server
	if client {
		wrap = tls.Client
	}
	c := wrap(mem, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	mem.memory = true
	s.early = mem.rest()
	cs := c.ConnectionState()
	o, w, ok, err := record.New(client, &cs, &secrets)
	switch {
	case err != nil:
		return err
	case ok:
		s.tls = &records{in: o, out: w, cs: cs}
	default:
		s.tls = &stdTLS{c: c, mem: mem}
	}
	return nil
}

// records is TLS by package record.
type records struct {
	in   *record.Opener
	part []byte // an incomplete record; the reader's
	out  *record.Sealer
	cs   tls.ConnectionState

	mu    sync.Mutex
	asked bool         // the peer wants our keys updated
	fatal bool         // it did something wrong,
	alert record.Alert // namely this
}

var recordPool = sync.Pool{New: func() any { return new([record.MaxRecord]byte) }}

func (r *records) state() tls.ConnectionState { return r.cs }

func (r *records) open(dst, b []byte) ([]byte, error) {
	var err error
	for len(r.part) > 0 && len(b) > 0 && err == nil {
		n := min(record.Size(r.part)-len(r.part), len(b))
		r.grow(n)
		r.part = append(r.part, b[:n]...)
		b = b[n:]
		var used int
		if dst, used, err = r.in.Open(dst, r.part); used > 0 {
			r.release()
		}
	}
	if len(r.part) == 0 && err == nil {
		var used int
		dst, used, err = r.in.Open(dst, b)
		if b = b[used:]; len(b) > 0 && err == nil {
			r.grow(min(record.Size(b), record.MaxRecord))
			r.part = append(r.part, b...)
		}
	}
	if r.in.Asked || err != nil {
		r.note(err)
	}
	return dst, err
}

// grow makes room for n more bytes of the incomplete record. One that is not
// large gets memory of its size: it may be long in coming.
func (r *records) grow(n int) {
	n += len(r.part)
	if n <= cap(r.part) {
		return
	}
	var b []byte
	if n <= 2048 {
		b = make([]byte, 0, n)
	} else {
		b = recordPool.Get().(*[record.MaxRecord]byte)[:0]
	}
	r.part = append(b, r.part...)
}

func (r *records) release() {
	if cap(r.part) == record.MaxRecord {
		recordPool.Put((*[record.MaxRecord]byte)(r.part[:record.MaxRecord]))
	}
	r.part = nil
}

// note keeps for the flusher what the peer is to be told.
func (r *records) note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = r.asked || r.in.Asked
	r.in.Asked = false
	if a, ok := errors.AsType[record.Alert](err); ok {
		r.alert, r.fatal = a, true
	}
}

func (r *records) pending() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asked || r.fatal {
		return record.Overhead
	}
	return 0
}

func (r *records) seal(dst, b []byte) ([]byte, error) {
	r.mu.Lock()
	asked, alert, fatal := r.asked, r.alert, r.fatal
	r.asked, r.fatal = false, false
	r.mu.Unlock()
	var err error
	// However often the peer asked, one answer will do (RFC 8446 section 4.6.3).
	if asked {
		dst, err = r.out.Update(dst)
	}
	if b != nil && err == nil {
		dst, err = r.out.Seal(dst, b)
	}
	if fatal && err == nil {
		dst, err = r.out.Alert(dst, alert)
	}
	return dst, err
}

func (r *records) finish(dst []byte) ([]byte, error) { return r.out.Close(dst) }

// stdTLS is TLS by crypto/tls, which reads and writes buffers in memory.
type stdTLS struct {
	c   *tls.Conn
	mem *memConn
}

func (s *stdTLS) state() tls.ConnectionState { return s.c.ConnectionState() }

func (s *stdTLS) open(dst, b []byte) ([]byte, error) {
	s.mem.in = b
	defer func() { s.mem.in = nil }()
	for {
		if cap(dst)-len(dst) < record.MaxPlain {
			dst = append(make([]byte, 0, 2*cap(dst)+record.MaxPlain), dst...)
		}
		n, err := s.c.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		if err != nil {
			if errors.Is(err, errAgain) {
				err = nil
			}
			return dst, err
		}
	}
}

func (s *stdTLS) seal(dst, b []byte) ([]byte, error) {
	s.mem.lend(dst)
	if b != nil {
		if _, err := s.c.Write(b); err != nil {
			return nil, err
		}
	}
	return s.mem.take(), nil
}

func (s *stdTLS) finish(dst []byte) ([]byte, error) {
	s.mem.lend(dst)
	err := s.c.CloseWrite()
	return s.mem.take(), err
}

func (s *stdTLS) pending() int { return s.mem.pending() }

// memConn is the net.Conn beneath crypto/tls. During the handshake it is the
// socket itself, but gives no more than the record at hand, so that crypto/tls
// holds nothing of what follows the handshake; afterwards it is two buffers, and a read
// that finds nothing returns errAgain, which crypto/tls treats as temporary and survives.
type memConn struct {
	net.Conn // the socket: handshake, addresses, deadlines
	memory   bool

	head  [5]byte // handshake: of the record at hand,
	have  int     // how much of it was passed on
	left  int     // how much of its body was not
	ahead []byte  // read from the socket and not passed on
	buf   []byte  // memory of ahead

	in []byte // ciphertext that was read from the socket, borrowed

	mu  sync.Mutex
	out []byte // ciphertext to write
}

type againError struct{}

func (againError) Error() string   { return "no more ciphertext" }
func (againError) Timeout() bool   { return true }
func (againError) Temporary() bool { return true }

var errAgain net.Error = againError{}

func (m *memConn) Read(p []byte) (int, error) {
	if !m.memory {
		return m.readRecord(p)
	}
	if len(m.in) == 0 {
		return 0, errAgain
	}
	n := copy(p, m.in)
	m.in = m.in[n:]
	return n, nil
}

// handshakeBuffer holds most flights of a handshake.
const handshakeBuffer = 4 << 10

// readRecord reads up to the end of the header or of the body of a record.
func (m *memConn) readRecord(p []byte) (int, error) {
	if len(m.ahead) == 0 {
		if m.buf == nil {
			m.buf = make([]byte, handshakeBuffer)
		}
		n, err := m.Conn.Read(m.buf)
		if n == 0 {
			return 0, err
		}
		m.ahead = m.buf[:n]
	}
	var n int
	if m.left > 0 {
		n = copy(p, m.ahead[:min(m.left, len(m.ahead))])
		m.left -= n
	} else {
		n = copy(p, m.ahead[:min(len(m.head)-m.have, len(m.ahead))])
		copy(m.head[m.have:], m.ahead[:n])
		if m.have += n; m.have == len(m.head) {
			m.have, m.left = 0, record.Size(m.head[:])-len(m.head)
		}
	}
	m.ahead = m.ahead[n:]
	return n, nil
}

// rest returns what was read beyond the handshake.
func (m *memConn) rest() []byte {
	b := m.ahead
	m.ahead, m.buf = nil, nil
	return b
}

// Write is called by the flusher, and by the reader when the peer asks for a
// key update; crypto/tls keeps the two in the order of their record numbers.
func (m *memConn) Write(p []byte) (int, error) {
	if !m.memory {
		return m.Conn.Write(p)
	}
	m.mu.Lock()
	m.out = append(m.out, p...)
	m.mu.Unlock()
	return len(p), nil
}

// SetWriteDeadline keeps crypto/tls off the socket's deadline: after a
// close_notify it sets one in the past, and what waits before it would be lost.
func (m *memConn) SetWriteDeadline(d time.Time) error {
	if m.memory {
		return nil
	}
	return m.Conn.SetWriteDeadline(d)
}

// lend gives spare, which is empty, to be filled with ciphertext. What had
// been written before stays in front.
func (m *memConn) lend(spare []byte) {
	m.mu.Lock()
	m.out = append(spare, m.out...)
	m.mu.Unlock()
}

// take returns the ciphertext to write.
func (m *memConn) take() []byte {
	m.mu.Lock()
	b := m.out
	m.out = nil
	m.mu.Unlock()
	return b
}

func (m *memConn) pending() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.out)
}

// maxTLSAnswers bounds what TLS itself has to say, which is answers to key
// updates, to a peer that does not read. A chunk that the flusher has sealed and
// not yet taken counts with it, so the bound is well above one chunk.
const maxTLSAnswers = 4 * ChunkSize

var errTLSAnswers = errors.New("tls: key updates are asked for and not read")
