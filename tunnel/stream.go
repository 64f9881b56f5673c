package tunnel

import (
	"fmt"
	"sync"

	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// Stream is a CONNECT stream in its blocking form, to be joined with a TCP
// connection by Relay.
//
// What arrives before Relay is kept, without credit: the peer can send at most
// one initial window of it.
type Stream struct {
	st    *h2.Stream
	reset chan struct{} // closed by Reset

	mu    sync.Mutex
	early []byte
	end   bool // the peer's half ended
	err   error
	relay *relay
}

func newStream(st *h2.Stream) *Stream { return &Stream{st: st, reset: make(chan struct{})} }

// Abandon resets the stream: for callers that do not come to Relay it.
func (s *Stream) Abandon() {
	loop.Run(func(t *loop.Turn) { s.st.Reset(t, h2.Cancel) })
}

// Headers implements h2.StreamHandler; CONNECT streams have no trailers that matter.
func (s *Stream) Headers(t *loop.Turn, _ *h2.Stream, h *h2.Head) {
	if h.End {
		s.Data(t, s.st, nil, true)
	}
}

// Data implements h2.StreamHandler.
func (s *Stream) Data(t *loop.Turn, _ *h2.Stream, b []byte, end bool) {
	s.mu.Lock()
	r := s.relay
	if r == nil {
		s.bufferLocked(b, end)
	}
	s.mu.Unlock()
	if r != nil {
		r.fromStream(t, b, end)
	}
}

func (s *Stream) buffer(b []byte, end bool) {
	s.mu.Lock()
	s.bufferLocked(b, end)
	s.mu.Unlock()
}

func (s *Stream) bufferLocked(b []byte, end bool) {
	s.early = append(s.early, b...)
	s.end = s.end || end
}

// Reset implements h2.StreamHandler.
func (s *Stream) Reset(_ *loop.Turn, _ *h2.Stream, err error) {
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = err
	}
	r := s.relay
	s.mu.Unlock()
	if first {
		close(s.reset)
	}
	if r != nil {
		r.streamReset(err)
	}
}

// Writable implements h2.StreamHandler.
func (s *Stream) Writable(*loop.Turn, *h2.Stream) {
	s.mu.Lock()
	r := s.relay
	s.mu.Unlock()
	if r != nil {
		r.sock.Resume()
	}
}

// StatusError is a peer's answer to a CONNECT other than 200.
type StatusError struct{ Code int }

// Error implements error.
func (e *StatusError) Error() string {
	switch e.Code {
	case 401:
		return "peer refused the connection: 401 (authorization policy or waypoint binding)"
	case 400:
		return "peer refused the connection: 400 (it does not serve this destination)"
	case 503:
		return "peer refused the connection: 503 (it has no way to the destination)"
	}
	return fmt.Sprintf("peer refused the connection: status %d", e.Code)
}
