package telemetry

import "sync/atomic"

// TCPSeries counts the connections of one label set. ztunnel's way of using
// it: opened and bytes are counted, live, on the series with response flags
// "-"; closed and failed on the one with the final flags (see With).
type TCPSeries struct {
	opened, closed, failed atomic.Uint64
	sent, received         atomic.Uint64

	_      [64]byte
	table  *table[TCPLabels, TCPSeries]
	labels TCPLabels
}

func newTCPSeries(t *table[TCPLabels, TCPSeries], l TCPLabels) *TCPSeries {
	return &TCPSeries{table: t, labels: l}
}

// Opened counts a connection that was accepted, even if its destination then
// cannot be reached.
func (s *TCPSeries) Opened() { s.opened.Add(1) }

// Closed counts a connection that has ended.
func (s *TCPSeries) Closed() { s.closed.Add(1) }

// Failed counts a connection that could not be served.
func (s *TCPSeries) Failed() { s.failed.Add(1) }

// Sent counts bytes from the server to the client ("response" bytes), for
// every reporter alike.
func (s *TCPSeries) Sent(n uint64) { s.sent.Add(n) }

// Received counts bytes from the client to the server ("request" bytes).
func (s *TCPSeries) Received(n uint64) { s.received.Add(n) }

// With returns the series with other response flags.
func (s *TCPSeries) With(flags string) *TCPSeries {
	if flags == s.labels.ResponseFlags || flags == "" && s.labels.ResponseFlags == NoFlags {
		return s
	}
	l := s.labels
	l.ResponseFlags = flags
	return s.table.get(l)
}

// Labels returns the label set, as it is exposed.
func (s *TCPSeries) Labels() TCPLabels { return s.labels }
