package h1

import (
	"encoding/binary"
	"math/bits"
	"unsafe"
)

// lower maps each byte of a token (RFC 9110, 5.6.2) to its lower-case form and
// every other byte to 0.
var lower = func() (t [256]byte) {
	for c := range 256 {
		switch b := byte(c); {
		case b >= 'A' && b <= 'Z':
			t[c] = b | 0x20
		case b >= 'a' && b <= 'z', b >= '0' && b <= '9':
			t[c] = b
		}
	}
	for _, b := range []byte("!#$%&'*+-.^_`|~") {
		t[b] = b
	}
	return t
}()

// Classes of bytes in a request target and an authority.
const (
	// classPath: printable ASCII that may stand in a path or query. It includes
	// what RFC 3986 excludes but clients send and nobody misreads: " < > ^ ` { | }.
	classPath = 1 << iota
	// classSpecial: a path with one of these needs a closer look ('%', '\\', '.').
	classSpecial
	// classUnreserved: RFC 3986, 2.3.
	classUnreserved
	// classHost: may stand in a reg-name. Percent escapes and the comma, which
	// some would read as two hosts, are left out.
	classHost
)

var class = func() (t [256]byte) {
	for c := 0x21; c < 0x7f; c++ {
		t[c] = classPath
	}
	t['#'], t['?'] = 0, 0
	t['%'] |= classSpecial
	t['\\'] |= classSpecial
	t['.'] |= classSpecial
	for c := range t {
		if l := lower[c]; l >= 'a' && l <= 'z' || l >= '0' && l <= '9' {
			t[c] |= classUnreserved | classHost
		}
	}
	for _, b := range []byte("-._~") {
		t[b] |= classUnreserved | classHost
	}
	for _, b := range []byte("!$&'()*+;=") {
		t[b] |= classHost
	}
	return t
}()

// specialLengths has, for each first letter, a bit for each length of the names
// that headParser.special and isFraming know, so that most fields are told to be
// ordinary by one look.
var specialLengths = func() (t [256]uint32) {
	for _, name := range []string{
		"host", "connection", "content-length", "transfer-encoding", "te", "upgrade", "expect",
		"keep-alive", "proxy-connection", "http2-settings", "content_length", "transfer_encoding",
	} {
		t[name[0]] |= 1 << len(name)
	}
	return t
}()

// maybeSpecial reports whether name, which is not empty, may be one of those.
func maybeSpecial(name []byte) bool {
	return specialLengths[name[0]]>>len(name)&1 != 0
}

// hexValue maps a hexadecimal digit to its value and other bytes to 0xff.
var hexValue = func() (t [256]byte) {
	for c := range t {
		t[c] = 0xff
	}
	for i := range byte(10) {
		t['0'+i] = i
	}
	for i := range byte(6) {
		t['a'+i], t['A'+i] = 10+i, 10+i
	}
	return t
}()

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// indexControl returns the index of the first byte of b at or after i that is
// below 0x20 or is 0x7f, or len(b). It looks at eight bytes at a time: one pass
// finds the end of a line and proves that nothing illegal stands before it.
func indexControl(b []byte, i int) int {
	for ; i+32 <= len(b); i += 32 {
		p := b[i : i+32]
		if (controlMarks(binary.LittleEndian.Uint64(p)) | controlMarks(binary.LittleEndian.Uint64(p[8:])) |
			controlMarks(binary.LittleEndian.Uint64(p[16:])) | controlMarks(binary.LittleEndian.Uint64(p[24:]))) != 0 {
			break
		}
	}
	for ; i+8 <= len(b); i += 8 {
		if m := controlMarks(binary.LittleEndian.Uint64(b[i:])); m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
	}
	for ; i < len(b); i++ {
		if b[i] < 0x20 || b[i] == 0x7f {
			return i
		}
	}
	return i
}

// hasControl reports whether b holds a byte below 0x20 or 0x7f. Its last look
// overlaps the one before, which saves the loop over single bytes.
func hasControl(b []byte) bool {
	if len(b) < 8 {
		return indexControl(b, 0) < len(b)
	}
	var m uint64
	for i := 0; i+8 < len(b); i += 8 {
		m |= controlMarks(binary.LittleEndian.Uint64(b[i:]))
	}
	return m|controlMarks(binary.LittleEndian.Uint64(b[len(b)-8:])) != 0
}

// controlMarks has the high bit set in the lowest byte of x that is below 0x20
// or is 0x7f, and no bit set below it. (Above it a borrow may set false ones.)
func controlMarks(x uint64) uint64 {
	y := x ^ 0x7f*ones
	return ((x-0x20*ones)&^x | (y-ones)&^y) & highs
}

// indexNotVisible returns the index of the first byte of b at or after i that
// is not visible ASCII (0x21 to 0x7e), or len(b).
func indexNotVisible(b []byte, i int) int {
	for i+8 <= len(b) {
		x := binary.LittleEndian.Uint64(b[i:])
		y := x ^ 0x7f*ones
		if m := ((x-0x21*ones)&^x | (y-ones)&^y | x) & highs; m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
		i += 8
	}
	for ; i < len(b); i++ {
		if b[i] <= 0x20 || b[i] >= 0x7f {
			return i
		}
	}
	return i
}

// view returns b as a string that shares its memory.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// bytesOf returns the bytes of s, which must not be written to.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// isToken reports whether s is a token.
func isToken[T string | []byte](s T) bool {
	for i := range len(s) {
		if lower[s[i]] == 0 {
			return false
		}
	}
	return len(s) > 0
}

// equalFold reports whether b is word, which is in lower case, in any case.
func equalFold(b []byte, word string) bool {
	if len(b) != len(word) {
		return false
	}
	for i := range b {
		if lower[b[i]] != word[i] {
			return false
		}
	}
	return true
}

// toLower rewrites the ASCII letters of b in lower case, in place.
func toLower(b []byte) {
	for i, c := range b {
		if c-'A' < 26 {
			b[i] = c | 0x20
		}
	}
}

// trimSpace cuts optional white space (SP, HTAB) from both ends.
func trimSpace(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}
