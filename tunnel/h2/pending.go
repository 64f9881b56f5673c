package h2

import "sync"

// pendChunk is the capacity of the pieces that pending bytes wait in: two of
// the DATA frames that we send, so that they leave as whole ones.
const pendChunk = 2 * maxDataLen

var pendPool = sync.Pool{New: func() any { return new([pendChunk]byte) }}

// pending holds the bytes that a stream may not send yet, in pooled chunks:
// nothing is copied twice, and memory goes back piece by piece.
type pending struct {
	chunks [][]byte
	off    int // how much of the first was sent
	n      int // bytes that wait
}

// push adds a copy of b.
func (p *pending) push(b []byte) {
	p.n += len(b)
	for len(b) > 0 {
		k := len(p.chunks) - 1
		if k < 0 || len(p.chunks[k]) == cap(p.chunks[k]) {
			k++
			p.chunks = append(p.chunks, p.chunk(len(b)))
		}
		c := p.chunks[k]
		m := min(len(b), cap(c)-len(c))
		p.chunks[k] = append(c, b[:m]...)
		b = b[m:]
	}
}

// chunk is memory for n bytes or the first of them. Little takes little: there
// may be many streams in which a short response waits.
func (p *pending) chunk(n int) []byte {
	if n <= 1024 && len(p.chunks) == 0 {
		return make([]byte, 0, n)
	}
	return pendPool.Get().(*[pendChunk]byte)[:0]
}

// front is how many bytes take can return at once; 0 when none wait.
func (p *pending) front() int {
	if p.n == 0 {
		return 0
	}
	return len(p.chunks[0]) - p.off
}

// take returns the next k bytes, of at most front. They no longer count as
// waiting, and are valid until taken.
func (p *pending) take(k int) []byte {
	p.n -= k
	return p.chunks[0][p.off:][:k]
}

// taken gives back the memory of what take returned, if it is still there.
func (p *pending) taken(k int) {
	if len(p.chunks) == 0 {
		return // cleared meanwhile
	}
	p.off += k
	if c := p.chunks[0]; p.off == len(c) {
		free(c)
		k := copy(p.chunks, p.chunks[1:])
		p.chunks[k] = nil
		p.chunks, p.off = p.chunks[:k], 0
		if k == 0 && cap(p.chunks) > 16 {
			p.chunks = nil
		}
	}
}

// clear forgets everything.
func (p *pending) clear() {
	for _, c := range p.chunks {
		free(c)
	}
	*p = pending{}
}

func free(c []byte) {
	if cap(c) == pendChunk {
		pendPool.Put((*[pendChunk]byte)(c[:pendChunk]))
	}
}
