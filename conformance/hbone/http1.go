package hbone

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"time"
)

// castagnoli is the checksum of bodies: processors compute it at tens of
// gigabytes per second.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Body returns the n bytes that the sink answers when asked for n: a pattern
// that repeats at no power of two, so that bytes lost, doubled or moved
// change the checksum.
func Body(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = "abcdefghijklmnopqrstuvwxyz0123456789-"[i%37]
	}
	return b
}

// Checksum returns the CRC-32C of the body.
func Checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// maxHead bounds a message head.
const maxHead = 16 << 10

// message is the reader of one direction of a tunnel's HTTP/1.1: heads and
// bodies of a stated length, one after the other. The zero value is ready.
type message struct {
	buf    []byte // the beginning of a head that is not complete
	body   int64  // how much of the body is missing
	inBody bool
	sum    uint32        // CRC-32C of the body so far
	length int64         // the whole body's length
	took   time.Duration // what the sink says that it took
	first  []byte        // the start line; valid until the next call
}

// next takes bytes and returns what follows the current message, and whether
// that message is complete. When it is not, nothing is left.
func (m *message) next(p []byte) (rest []byte, done bool, err error) {
	if !m.inBody {
		if len(m.buf) > 0 {
			m.buf = append(m.buf, p...)
			p = m.buf
		}
		end := bytes.Index(p, []byte("\r\n\r\n"))
		if end < 0 {
			if len(p) > maxHead {
				return nil, false, errors.New("message head over 16 KiB")
			}
			if len(m.buf) == 0 {
				m.buf = append(m.buf, p...)
			}
			return nil, false, nil
		}
		if err := m.head(p[:end+2]); err != nil {
			return nil, false, err
		}
		p = p[end+4:]
		m.buf = m.buf[:0] // p may lie in it: nothing is appended before p is used up
		m.inBody, m.body, m.sum = true, m.length, 0
	}
	n := min(int64(len(p)), m.body)
	m.sum = crc32.Update(m.sum, castagnoli, p[:n])
	if m.body -= n; m.body > 0 {
		return nil, false, nil
	}
	m.inBody = false
	return p[n:], true, nil
}

// head reads the start line and the length of the body.
func (m *message) head(p []byte) error {
	eol := bytes.IndexByte(p, '\n')
	m.first = p[:eol-1]
	m.length, m.took = 0, 0
	for p = p[eol+1:]; len(p) > 0; p = p[eol+1:] {
		eol = bytes.IndexByte(p, '\n')
		line := p[:eol-1]
		switch line[0] | 0x20 {
		case 'c':
			if value, ok := cutField(line, "content-length"); ok {
				n, err := strconv.ParseInt(string(value), 10, 63)
				if err != nil {
					return fmt.Errorf("content-length %q", value)
				}
				m.length = n
			}
		case 'x':
			if took, ok := cutTime(line); ok {
				m.took = took
			}
		case 't':
			if value, ok := cutField(line, "transfer-encoding"); ok {
				return fmt.Errorf("transfer-encoding %q where a length was expected", value)
			}
		}
	}
	return nil
}

// cutField returns the value of the header line when it has the name, which
// is in lower case.
func cutField(line []byte, name string) ([]byte, bool) {
	if len(line) <= len(name) || line[len(name)] != ':' || !bytes.EqualFold(line[:len(name)], []byte(name)) {
		return nil, false
	}
	return bytes.TrimSpace(line[len(name)+1:]), true
}
