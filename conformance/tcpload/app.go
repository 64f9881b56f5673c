package tcpload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
)

// BlockSize is the unit of bulk data: large, so that its acknowledgements do
// not count.
const BlockSize = 4 << 20

const bulk = 'b'

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// block is what bulk streams carry, again and again, and blockSum its sum.
var block, blockSum = func() ([]byte, uint32) {
	b := make([]byte, BlockSize)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b) // it cannot fail
	return b, crc32.Checksum(b, castagnoli)
}()

// App answers the connections of a Load. The zero value is ready.
type App struct {
	received atomic.Int64 // bytes of bulk streams

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
	err    error
	wg     sync.WaitGroup
}

// Serve accepts connections until the listener is closed, then closes those
// that are open and waits for their goroutines. It returns the first failure.
func (a *App) Serve(ln net.Listener) error {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			break
		}
		if err != nil {
			a.note(fmt.Errorf("accepting: %w", err))
			break
		}
		if a.add(conn) {
			a.wg.Go(func() {
				a.note(a.answer(conn))
				a.remove(conn)
			})
		}
	}
	a.mu.Lock()
	a.closed = true
	for conn := range a.conns {
		conn.Close()
	}
	a.mu.Unlock()
	a.wg.Wait()
	return a.Err()
}

// Err returns the first failure so far.
func (a *App) Err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

func (a *App) note(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil && err != nil && !a.closed {
		a.err = fmt.Errorf("application: %w", err)
	}
}

func (a *App) add(conn net.Conn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		conn.Close()
		return false
	}
	if a.conns == nil {
		a.conns = map[net.Conn]struct{}{}
	}
	a.conns[conn] = struct{}{}
	return true
}

func (a *App) remove(conn net.Conn) {
	conn.Close()
	a.mu.Lock()
	delete(a.conns, conn)
	a.mu.Unlock()
}

// answer serves one connection until its client ends it.
func (a *App) answer(conn net.Conn) error {
	buf := make([]byte, 2<<10)
	for first := true; ; first = false {
		n, err := conn.Read(buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading: %w", err)
		}
		if first && buf[0] == bulk {
			return a.receive(conn, buf[1:n])
		}
		if _, err := conn.Write(buf[:n]); err != nil {
			return fmt.Errorf("echoing: %w", err)
		}
	}
}

// receive checks the blocks of a bulk stream, which begins with what was read
// already, and acknowledges each.
func (a *App) receive(conn net.Conn, early []byte) error {
	buf := make([]byte, 256<<10)
	sum, left, blocks := uint32(0), BlockSize, uint64(0)
	r := io.MultiReader(bytes.NewReader(early), conn)
	for {
		n, err := r.Read(buf[:min(len(buf), left)])
		a.received.Add(int64(n))
		sum = crc32.Update(sum, castagnoli, buf[:n])
		if left -= n; left == 0 {
			if sum != blockSum {
				return fmt.Errorf("block %d of a bulk stream has a wrong checksum", blocks)
			}
			sum, left = 0, BlockSize
			blocks++
			if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, blocks)); err != nil {
				return fmt.Errorf("acknowledging: %w", err)
			}
		}
		switch {
		case errors.Is(err, io.EOF) && left == BlockSize:
			return nil
		case err != nil:
			return fmt.Errorf("reading block %d of a bulk stream, %d bytes short: %w", blocks, left, err)
		}
	}
}
