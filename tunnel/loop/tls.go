package loop

import (
	"errors"
	"net"
	"sync"
	"time"
)

// memConn is the net.Conn beneath crypto/tls. During the handshake it is the
// socket itself; afterwards it is two buffers, and a read that finds nothing
// returns errAgain, which crypto/tls treats as temporary and survives.
type memConn struct {
	net.Conn // the socket: handshake, addresses, deadlines
	memory   bool
	in       []byte // ciphertext that was read from the socket, borrowed

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
		return m.Conn.Read(p)
	}
	if len(m.in) == 0 {
		return 0, errAgain
	}
	n := copy(p, m.in)
	m.in = m.in[n:]
	return n, nil
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
