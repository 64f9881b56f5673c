package loop

import "sync"

// ChunkSize is the capacity of the pieces that a Queue grows by. It holds four
// full DATA frames whose frame and header fill one TLS record each.
const ChunkSize = 64 << 10

// HighWater is the Size at which whoever fills a Queue should hold back what
// is not urgent, and LowWater the Size at which it goes on.
const (
	HighWater = 256 << 10
	LowWater  = 64 << 10
)

// chunk is the memory of one: a byte more than it carries, for the content type
// that TLS puts behind what it seals.
type chunk [ChunkSize + 1]byte

// chunkPool holds arrays: a pointer to one goes in and out without an allocation.
var chunkPool = sync.Pool{New: func() any { return new(chunk) }}

func getChunk() []byte { return chunkPool.Get().(*chunk)[:0] }

func putChunk(b []byte) {
	if cap(b) == len(chunk{}) {
		chunkPool.Put((*chunk)(b[:len(chunk{})]))
	}
}

// room is how much a chunk still takes.
func room(b []byte) int { return cap(b) - 1 - len(b) }

// Queue is the output of one connection: a list of chunks, never one growing
// slice, so that nothing is copied twice and memory goes back piece by piece.
//
// All methods but Init want the mutex held.
type Queue struct {
	sync.Mutex
	owner Flusher
	full  [][]byte
	cur   []byte
	size  int // bytes in full
	dirty bool
	fin   bool // after the last byte, end the output

	// WantDrained asks the carrier to call its handler's Drained once Size is
	// at most LowWater. It is cleared by the call.
	WantDrained bool
}

// Init names who flushes the queue. It is called once, before use.
func (q *Queue) Init(owner Flusher) { q.owner = owner }

// Mark makes the turn flush the queue at its end.
func (q *Queue) Mark(t *Turn) {
	if !q.dirty {
		q.dirty = true
		t.mark(q.owner)
	}
}

// Reserve returns the chunk to append to, with room for n more bytes
// (n ≤ ChunkSize), and marks the queue.
func (q *Queue) Reserve(t *Turn, n int) *[]byte {
	q.Mark(t)
	if q.cur == nil {
		q.cur = getChunk()
	} else if room(q.cur) < n {
		q.full = append(q.full, q.cur)
		q.size += len(q.cur)
		q.cur = getChunk()
	}
	return &q.cur
}

// Append copies b, of any length, into the queue.
func (q *Queue) Append(t *Turn, b []byte) {
	for len(b) > 0 {
		p := q.Reserve(t, 1)
		n := min(len(b), room(*p))
		*p = append(*p, b[:n]...)
		b = b[n:]
	}
}

// Size is the number of bytes queued and not yet given to the carrier.
func (q *Queue) Size() int { return q.size + len(q.cur) }

// End asks for the output to be ended (FIN, close_notify) after the last byte.
func (q *Queue) End(t *Turn) {
	q.fin = true
	q.Mark(t)
}

// Take removes and returns the next chunk, or nil. The caller gives it back
// with Release.
func (q *Queue) Take() []byte {
	if len(q.full) > 0 {
		b := q.full[0]
		n := copy(q.full, q.full[1:])
		q.full[n] = nil
		q.full = q.full[:n]
		q.size -= len(b)
		return b
	}
	b := q.cur
	q.cur = nil
	return b
}

// Flushed clears the mark; the owner's Flush calls it first.
func (q *Queue) Flushed() { q.dirty = false }

// Ended reports whether End was called.
func (q *Queue) Ended() bool { return q.fin }

// Release gives a chunk from Take back. It needs no lock.
func (q *Queue) Release(b []byte) { putChunk(b) }

// Drop discards everything that is queued.
func (q *Queue) Drop() {
	for b := q.Take(); b != nil; b = q.Take() {
		putChunk(b)
	}
}
