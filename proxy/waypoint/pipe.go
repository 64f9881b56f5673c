package waypoint

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// pipe is one byte stream, to a client or to an endpoint: a CONNECT stream, or
// a plain TCP connection. *h2.Stream is one.
type pipe interface {
	Write(t *loop.Turn, b []byte, end bool)
	Write2(t *loop.Turn, a, b []byte, end bool)
	// Congested reports whether the producer should stop; if so, the
	// handler's Writable follows.
	Congested() bool
	// Consumed returns credit for received bytes.
	Consumed(t *loop.Turn, n int)
	// StopReading ends the other half too once ours has ended in good order.
	StopReading(t *loop.Turn)
	Reset(t *loop.Turn, code h2.ErrCode)
}

// plainPipe is a pipe over a TCP connection of its own, for endpoints outside
// the mesh. Its events go to an h2.StreamHandler with a nil stream.
type plainPipe struct {
	sock    *loop.Socket
	h       h2.StreamHandler
	waiting atomic.Int64  // received bytes that are not Consumed
	once    sync.Once     // of done
	done    chan struct{} // closed when the output was ended or reset
}

func newPlainPipe(sock *loop.Socket, h h2.StreamHandler) *plainPipe {
	return &plainPipe{sock: sock, h: h, done: make(chan struct{})}
}

// serve is the connection's reader, until both directions have ended or ctx has.
func (p *plainPipe) serve(ctx context.Context) {
	if err := p.sock.Serve(p, true); errors.Is(err, io.EOF) {
		select {
		case <-p.done:
			p.sock.WaitFlushed()
		case <-ctx.Done():
		}
	}
	p.sock.Close()
}

// plainWindow is how many bytes of an endpoint may wait in a plain connection's
// exchange; with more, its socket is not read. At plainResume it is again.
const (
	plainWindow = 256 << 10
	plainResume = plainWindow / 2
)

// Data implements loop.Handler.
func (p *plainPipe) Data(t *loop.Turn, b []byte) (int, error) {
	p.waiting.Add(int64(len(b)))
	p.h.Data(t, nil, b, false)
	if p.waiting.Load() > plainWindow {
		p.sock.Pause()
	}
	return len(b), nil
}

// Closed implements loop.Handler.
func (p *plainPipe) Closed(t *loop.Turn, err error) {
	if errors.Is(err, io.EOF) {
		p.h.Data(t, nil, nil, true)
		return
	}
	p.h.Reset(t, nil, err)
}

// Drained implements loop.Handler.
func (p *plainPipe) Drained(t *loop.Turn) { p.h.Writable(t, nil) }

func (p *plainPipe) Write(t *loop.Turn, b []byte, end bool) {
	p.sock.Write(t, b)
	if end {
		p.sock.CloseWrite(t)
		p.end()
	}
}

func (p *plainPipe) end() { p.once.Do(func() { close(p.done) }) }

func (p *plainPipe) Write2(t *loop.Turn, a, b []byte, end bool) {
	p.sock.Write(t, a)
	p.Write(t, b, end)
}

func (p *plainPipe) Congested() bool {
	q := p.sock.Queue()
	q.Lock()
	defer q.Unlock()
	if q.Size() < loop.LowWater {
		return false
	}
	q.WantDrained = true
	return true
}

// Consumed lets the reader go on when it was paused.
func (p *plainPipe) Consumed(_ *loop.Turn, n int) {
	if left := p.waiting.Add(-int64(n)); left <= plainResume && left+int64(n) > plainResume {
		p.sock.Resume()
	}
}

// StopReading gives the connection up: TCP cannot end the other half alone.
func (p *plainPipe) StopReading(t *loop.Turn) { p.Reset(t, h2.NoError) }

// Reset closes the connection, with RST unless it is no error.
func (p *plainPipe) Reset(_ *loop.Turn, code h2.ErrCode) {
	if code == h2.NoError {
		p.sock.Abort()
	} else {
		p.sock.Reset()
	}
	p.end()
}
