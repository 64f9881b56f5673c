package websocket

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"unicode/utf8"
)

// header is what stands before a frame's payload (section 5.2):
//
//	 0 1 2 3 4 5 6 7   0 1 2 3 4 5 6 7
//	+-+-+-+-+-------+ +-+-------------+
//	|F|R|R|R| op    | |M| length      |  126: 2 more bytes, 127: 8 more
//	+-+-+-+-+-------+ +-+-------------+  then 4 bytes of mask
type header struct {
	fin    bool
	op     byte
	length uint64
	mask   [4]byte
}

// readHeader reads the header of a client's frame. What section 5 forbids
// within a single header is a violation.
func readHeader(r *bufio.Reader) (header, error) {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:2]); err != nil {
		return header{}, fmt.Errorf("reading a frame: %w", err)
	}
	h := header{fin: b[0]&0x80 != 0, op: b[0] & 0x0f, length: uint64(b[1] & 0x7f)}
	switch {
	case b[0]&0x70 != 0:
		return h, violation("a reserved bit is set")
	case h.op > opBinary && h.op < opClose, h.op > opPong:
		return h, violation("an unknown opcode")
	case b[1]&0x80 == 0:
		return h, violation("a client's frame is not masked")
	case h.op >= opClose && (!h.fin || h.length > maxControl):
		return h, violation("a control frame is fragmented or too long")
	}
	var least uint64 // the shortest length that needs this many bytes
	switch h.length {
	case 126:
		if _, err := io.ReadFull(r, b[:2]); err != nil {
			return h, fmt.Errorf("reading a frame: %w", err)
		}
		h.length, least = uint64(binary.BigEndian.Uint16(b[:])), 126
	case 127:
		if _, err := io.ReadFull(r, b[:8]); err != nil {
			return h, fmt.Errorf("reading a frame: %w", err)
		}
		h.length, least = binary.BigEndian.Uint64(b[:]), 1<<16
	}
	if h.length < least || h.length>>63 != 0 {
		return h, violation("a length in the wrong form")
	}
	if _, err := io.ReadFull(r, h.mask[:]); err != nil {
		return h, fmt.Errorf("reading a frame: %w", err)
	}
	return h, nil
}

// unmask takes the mask off p, whose first byte is at offset at of the payload
// modulo four, and returns the offset behind p.
func unmask(mask [4]byte, at int, p []byte) int {
	for i := range p {
		p[i] ^= mask[(at+i)&3]
	}
	return (at + len(p)) & 3
}

// utf8Check checks text that arrives in pieces, as soon as it can be known to
// be wrong.
type utf8Check struct {
	rest [utf8.UTFMax]byte // the beginning of a rune that p cut
	n    int
}

// write reports whether the text so far, with p, may be UTF-8; and if last,
// whether it is.
func (u *utf8Check) write(p []byte, last bool) bool {
	if u.n > 0 {
		k := copy(u.rest[u.n:], p)
		whole := u.rest[:u.n+k]
		if !utf8.FullRune(whole) {
			u.n += k
			return !last // p ended before the rune did
		}
		r, size := utf8.DecodeRune(whole)
		if r == utf8.RuneError && size <= 1 {
			return false
		}
		p = p[size-u.n:]
		u.n = 0
	}
	// At most the last three bytes may begin a rune that is not whole.
	for i := max(0, len(p)-utf8.UTFMax+1); i < len(p); i++ {
		if utf8.RuneStart(p[i]) && !utf8.FullRune(p[i:]) {
			u.n = copy(u.rest[:], p[i:])
			p = p[:i]
			break
		}
	}
	return utf8.Valid(p) && (!last || u.n == 0)
}
