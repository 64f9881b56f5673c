package waypoint

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// tlsPipe is a pipe that speaks TLS inside a CONNECT stream, for endpoints of the mesh that
// want TLS of their own. It is the one kind of connection that has two goroutines,
// a reader and a writer, because crypto/tls blocks on what it is given; there is little
// of it, since the mesh has encrypted the way already.
type tlsPipe struct {
	tc  *tls.Conn
	raw *streamConn
	h   h2.StreamHandler

	mu      sync.Mutex
	changed sync.Cond // broadcast for reader and writer alike
	out     []byte    // to be written
	end     bool      // and behind it the end
	dead    bool      // Reset, or an error
	want    bool      // Writable is owed
	waiting int       // received and not Consumed
}

func newTLSPipe(tc *tls.Conn, raw *streamConn, h h2.StreamHandler) *tlsPipe {
	p := &tlsPipe{tc: tc, raw: raw, h: h}
	p.changed.L = &p.mu
	return p
}

// dialInner opens a stream to the endpoint with TLS inside, and is its reader.
func (d *destination) dialInner(h opener, ready func(t *loop.Turn, out pipe)) {
	defer d.p.wg.Done()
	ctx, cancel := context.WithTimeout(d.p.ctx, dialTimeout)
	defer cancel()
	version := versionOf(h)
	protos := d.offer(version)
	var tc *tls.Conn
	raw, err := dialStream(ctx, d.peer, d.authority, d.addr)
	if err == nil {
		tc, err = d.tls.client(ctx, raw, protos...)
	}
	if err == nil && len(protos) > 1 && d.learn(tc.ConnectionState().NegotiatedProtocol) != version {
		raw.Close()
		err = errOtherVersion
	}
	if err != nil {
		loop.Run(func(t *loop.Turn) { h.Opened(t, nil, err) })
		return
	}
	p := newTLSPipe(tc, raw, h)
	loop.Run(func(t *loop.Turn) { ready(t, p) })
	stop := context.AfterFunc(d.p.ctx, p.kill)
	defer stop()
	var wg sync.WaitGroup
	wg.Go(p.write)
	p.read()
	wg.Wait()
	p.leave()
}

// read takes what comes to the handler.
func (p *tlsPipe) read() {
	buf := make([]byte, 16<<10)
	for {
		n, err := p.tc.Read(buf)
		p.mu.Lock()
		p.waiting += n
		dead := p.dead
		p.mu.Unlock()
		switch {
		case dead:
			loop.Run(func(t *loop.Turn) { p.h.Reset(t, nil, loop.ErrAborted) })
			return
		case n > 0:
			loop.Run(func(t *loop.Turn) { p.h.Data(t, nil, buf[:n], false) })
		}
		switch {
		case errors.Is(err, io.EOF):
			loop.Run(func(t *loop.Turn) { p.h.Data(t, nil, nil, true) })
			return
		case err != nil:
			p.kill()
			loop.Run(func(t *loop.Turn) { p.h.Reset(t, nil, err) })
			return
		}
		p.mu.Lock()
		for p.waiting > plainWindow && !p.dead {
			p.changed.Wait()
		}
		p.mu.Unlock()
	}
}

// write writes what was queued, until its end.
func (p *tlsPipe) write() {
	var b []byte
	for {
		p.mu.Lock()
		for len(p.out) == 0 && !p.end && !p.dead {
			p.changed.Wait()
		}
		if p.dead {
			p.mu.Unlock()
			return
		}
		b, p.out = p.out, b[:0]
		end, want := p.end && len(b) == 0, p.want
		p.want = false
		p.mu.Unlock()
		if end {
			_ = p.tc.CloseWrite() // what fails here, the reader learns
			return
		}
		if _, err := p.tc.Write(b); err != nil {
			p.kill()
			return
		}
		if cap(b) > 2*loop.LowWater {
			b = nil
		}
		if want {
			loop.Run(func(t *loop.Turn) { p.h.Writable(t, nil) })
		}
	}
}

// leave ends the stream in good order, if nothing went wrong before.
func (p *tlsPipe) leave() {
	p.mu.Lock()
	dead := p.dead
	p.mu.Unlock()
	if dead {
		return
	}
	p.raw.closeWrite()
	_ = p.raw.SetReadDeadline(time.Now().Add(lingerTimeout))
	_, _ = io.Copy(io.Discard, p.raw)
	p.raw.Close()
}

// kill ends both goroutines and the stream. It may be called with locks held.
func (p *tlsPipe) kill() {
	p.mu.Lock()
	first := !p.dead
	p.dead, p.out = true, nil
	p.changed.Broadcast()
	p.mu.Unlock()
	if first {
		go p.raw.Close()
	}
}

// Write implements pipe.
func (p *tlsPipe) Write(_ *loop.Turn, b []byte, end bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead || p.end {
		return
	}
	p.out = append(p.out, b...)
	p.end = end
	p.changed.Broadcast()
}

// Write2 implements pipe.
func (p *tlsPipe) Write2(t *loop.Turn, a, b []byte, end bool) {
	p.Write(t, a, false)
	p.Write(t, b, end)
}

// Congested implements pipe.
func (p *tlsPipe) Congested() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.out) < loop.LowWater || p.dead {
		return false
	}
	p.want = true
	return true
}

// Consumed implements pipe.
func (p *tlsPipe) Consumed(_ *loop.Turn, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting -= n
	p.changed.Broadcast()
}

// StopReading implements pipe.
func (p *tlsPipe) StopReading(*loop.Turn) { p.kill() }

// Reset implements pipe.
func (p *tlsPipe) Reset(*loop.Turn, h2.ErrCode) { p.kill() }

// closeWrite ends our half of the stream behind what was written.
func (c *streamConn) closeWrite() {
	c.mu.Lock()
	out, closed := c.out, c.closed
	c.mu.Unlock()
	if !closed {
		loop.Run(func(t *loop.Turn) { out.Write(t, nil, true) })
	}
}

var _ net.Conn = (*streamConn)(nil)
