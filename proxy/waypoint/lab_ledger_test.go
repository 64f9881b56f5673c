package waypoint

import (
	"encoding/binary"

	"cairnproxy.dev/cairn/tunnel/h2"
)

// ledger is what one end of a connection has received: content, and credit for
// what it may send. Both are kept by stream, the connection's own as stream 0.
type ledger struct {
	preface      int // bytes of it that are still to come
	data, credit map[uint32]int64
	ended        map[uint32]bool // the peer's half
	window       int64           // a stream's at the start
	grow         int64           // by how much it may
	connGrow     int64           // and the connection's
}

func (l *ledger) open(o h2.Options) {
	l.data, l.credit, l.ended = map[uint32]int64{}, map[uint32]int64{}, map[uint32]bool{}
	l.window, l.grow, l.connGrow = 256<<10, 1<<20-256<<10, 16<<20-65535
	if !o.Client {
		l.preface = len(clientPreface)
	}
	if o.Window > 0 {
		l.window, l.grow = o.Window, o.MaxWindow-o.Window
	}
}

// note keeps the books: b are whole frames that w has taken. Nobody may be given
// credit for more than was sent, apart from what windows may grow by: a window
// that is too large is memory without bound.
func (w *wire) note(b []byte) {
	l, peer := &w.ledger, &w.to.ledger
	n := min(l.preface, len(b))
	l.preface -= n
	b = b[n:]
	for len(b) > 0 {
		n := 9 + int(b[0])<<16 + int(b[1])<<8 + int(b[2])
		f, typ, flags, id := b[9:n], b[3], b[4], binary.BigEndian.Uint32(b[5:])
		b = b[n:]
		switch typ {
		case 0: // DATA
			l.data[id] += int64(len(f))
			l.data[0] += int64(len(f))
			l.ended[id] = l.ended[id] || flags&1 != 0
		case 1: // HEADERS
			l.ended[id] = l.ended[id] || flags&1 != 0
		case 3: // RST_STREAM
			l.ended[id], peer.ended[id] = true, true
		case 8: // WINDOW_UPDATE
			l.credit[id] += int64(binary.BigEndian.Uint32(f))
			most := peer.data[id] + peer.grow
			if id == 0 {
				most = peer.data[0] + peer.connGrow
			}
			if l.credit[id] > most {
				w.l.t.Errorf("stream %d was given credit for %d bytes, of which only %d had come", id, l.credit[id], most)
			}
		}
	}
}

// unreturned is the largest part of a window that w keeps from a stream that is
// open and at rest. Credit is returned when half of a window is due, so this
// stays below half unless some was lost.
func (w *wire) unreturned() (most int64) {
	for id, n := range w.ledger.data {
		if id != 0 && !w.ledger.ended[id] {
			most = max(most, n-w.to.ledger.credit[id])
		}
	}
	return most
}
