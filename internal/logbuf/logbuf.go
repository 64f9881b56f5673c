// Package logbuf keeps in memory what a program or a logger under test writes, for tests that
// read it meanwhile.
package logbuf

import (
	"bytes"
	"sync"
)

// Buffer is a buffer that several goroutines may write and read. Its zero value is empty.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends p. It does not fail.
func (l *Buffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String returns all that was written so far.
func (l *Buffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
