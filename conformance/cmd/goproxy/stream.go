package main

import (
	"io"
	"net"
	"sync"
	"time"
)

// stream is one CONNECT stream as a connection.
type stream struct {
	in    io.ReadCloser
	out   io.Writer
	flush func() error // nil: writes go out by themselves
	peer  string       // SPIFFE URI of the client

	once sync.Once
	done chan struct{} // closed by Close
}

func (s *stream) Read(p []byte) (int, error) { return s.in.Read(p) }

func (s *stream) Write(p []byte) (int, error) {
	n, err := s.out.Write(p)
	if err == nil && s.flush != nil {
		err = s.flush()
	}
	return n, err
}

func (s *stream) Close() error {
	s.once.Do(func() { close(s.done) })
	return s.in.Close()
}

// Deadlines are not kept: nothing here sets one that matters. net/http sets a
// past one to end its background read when a handler has answered, which goes
// on here until the next request's first byte.
func (s *stream) SetDeadline(time.Time) error      { return nil }
func (s *stream) SetReadDeadline(time.Time) error  { return nil }
func (s *stream) SetWriteDeadline(time.Time) error { return nil }

func (s *stream) LocalAddr() net.Addr  { return streamAddr{} }
func (s *stream) RemoteAddr() net.Addr { return streamAddr{} }

type streamAddr struct{}

func (streamAddr) Network() string { return "hbone" }
func (streamAddr) String() string  { return "0.0.0.0:0" }

// Accept returns the next stream; inner is a listener.
func (in *inner) Accept() (net.Conn, error) { return <-in.conns, nil }
func (in *inner) Close() error              { return nil }
func (in *inner) Addr() net.Addr            { return streamAddr{} }
