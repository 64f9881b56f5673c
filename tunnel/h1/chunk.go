package h1

import (
	"bytes"
	"math"

	"cairnproxy.dev/cairn/mesh"
)

const (
	maxChunkDigits = 16
	// maxChunkExt bounds the extensions of one chunk; maxChunkExtTotal those of
	// one message, so that they cannot be a message of their own.
	maxChunkExt      = 256
	maxChunkExtTotal = 8 << 10
)

// chunkState is where in the chunked coding (RFC 9112, 7.1) the decoder stands.
//
//	size ──CR──► sizeLF ──► data ──► dataCR ──► dataLF ─┐
//	  │ ;          ▲ │ 0                                │
//	  └──► ext ────┘ └──► trailer ──► done         size ◄┘
type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkExt
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	chunkTrailer
	chunkDone
)

// ChunkDecoder decodes the chunked coding. The zero value is ready for a
// message under default limits; Reset prepares it for another.
type ChunkDecoder struct {
	// Trailers holds the trailer fields once Next has said done. They alias
	// memory of the decoder and are valid until Reset.
	Trailers mesh.Fields

	state    chunkState
	digits   uint8
	ext      int
	extTotal int
	left     uint64
	lim      *Limits
	buf      []byte // trailer section so far
	err      error
}

// Reset prepares d for another message; lim may be nil. Memory is kept.
func (d *ChunkDecoder) Reset(lim *Limits) {
	*d = ChunkDecoder{Trailers: d.Trailers[:0], buf: d.buf[:0], lim: lim}
}

// Next decodes from b, the bytes that come next. It returns the next piece of
// content, which aliases b and may be empty, and how many bytes of b it has
// consumed. While done is false it is called again, with the rest of b or with
// more bytes; when n is len(b), more are needed. Once done is true, the bytes
// after the first n belong to the next message.
//
// An error is final and repeated by further calls.
func (d *ChunkDecoder) Next(b []byte) (data []byte, n int, done bool, err error) {
	if d.err != nil {
		return nil, 0, false, d.err
	}
	for n < len(b) && d.state < chunkTrailer {
		if d.state == chunkData {
			m := len(b) - n
			if uint64(m) >= d.left {
				m = int(d.left)
				d.state = chunkDataCR
			}
			d.left -= uint64(m)
			return b[n : n+m], n + m, false, nil
		}
		if d.err = d.step(b[n]); d.err != nil {
			return nil, n, false, d.err
		}
		n++
	}
	if d.state == chunkTrailer {
		var m int
		m, d.err = d.trailer(b[n:])
		n += m
	}
	return nil, n, d.state == chunkDone, d.err
}

// step takes one byte of the coding itself.
func (d *ChunkDecoder) step(c byte) error {
	switch d.state {
	case chunkSize:
		return d.size(c)
	case chunkExt:
		if c == '\r' {
			d.state = chunkSizeLF
			return nil
		}
		d.ext++
		d.extTotal++
		if c < 0x20 && c != '\t' || c >= 0x7f || d.ext > maxChunkExt || d.extTotal > maxChunkExtTotal {
			return errChunkExt
		}
	case chunkSizeLF:
		if c != '\n' {
			return errBareLine
		}
		d.digits, d.ext = 0, 0
		d.state = chunkData
		if d.left == 0 {
			d.state = chunkTrailer
		}
	case chunkDataCR:
		if c != '\r' {
			return errChunkEnd
		}
		d.state = chunkDataLF
	case chunkDataLF:
		if c != '\n' {
			return errChunkEnd
		}
		d.state = chunkSize
	default: // Next takes the other states itself
	}
	return nil
}

// size takes one byte of the chunk-size line.
func (d *ChunkDecoder) size(c byte) error {
	if v := hexValue[c]; v != 0xff {
		d.left = d.left<<4 | uint64(v)
		if d.digits++; d.digits > maxChunkDigits || d.left > math.MaxInt64 {
			return errChunkSize
		}
		return nil
	}
	switch {
	case d.digits == 0:
		return errChunkSize
	case c == '\r':
		d.state = chunkSizeLF
	case c == ';':
		d.state = chunkExt
	default:
		return errChunkSize
	}
	return nil
}

// trailer takes bytes of the trailer section, which it collects until its end.
func (d *ChunkDecoder) trailer(b []byte) (n int, err error) {
	for n < len(b) {
		// Whole lines are copied, so that the end is looked at once per line.
		m := bytes.IndexByte(b[n:], '\n') + 1
		if m == 0 {
			m = len(b) - n
		}
		if len(d.buf)+m > d.lim.maxTrailer() {
			return n, errTrailerSize
		}
		if len(d.buf) == 0 && m == 2 && b[n] == '\r' && b[n+1] == '\n' { // no trailers
			d.state = chunkDone
			return n + 2, nil
		}
		d.buf = append(d.buf, b[n:n+m]...)
		n += m
		if d.buf[len(d.buf)-1] != '\n' {
			continue
		}
		switch {
		case string(d.buf) == "\r\n", bytes.HasSuffix(d.buf, []byte("\n\r\n")):
			d.state = chunkDone
			return n, d.parseTrailers()
		case len(d.buf) < 2 || d.buf[len(d.buf)-2] != '\r':
			return n, errBareLine
		}
	}
	return n, nil
}

func (d *ChunkDecoder) parseTrailers() error {
	b, most := d.buf[:len(d.buf)-2], d.lim.maxFields()
	for i, count := 0, 0; i < len(b); {
		name, value, next, err := fieldLine(b, i)
		if err != nil {
			return err
		}
		if count++; count > most {
			return errFieldCount
		}
		if d.lim != nil && d.lim.RefuseUnderscores && bytes.IndexByte(name, '_') >= 0 {
			return errUnderscore
		}
		if TrailerAllowed(view(name)) {
			d.Trailers = append(d.Trailers, mesh.Field{Name: view(name), Value: view(value)})
		}
		i = next
	}
	return nil
}

// TrailerAllowed reports whether a field of that lower-case name may be a
// trailer. RFC 9110, 6.5.1, excludes fields for framing, routing, request
// control, authentication, response control and content format: merged into the
// header section by a careless recipient, they would change a decision that has
// been taken already.
func TrailerAllowed(name string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
		"http2-settings", "content-length", "content_length", "transfer_encoding", "host",
		"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via",
		"cache-control", "pragma", "expect", "max-forwards", "range",
		"if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range",
		"authorization", "proxy-authorization", "www-authenticate", "proxy-authenticate",
		"cookie", "set-cookie", "age", "expires", "date", "location", "retry-after", "vary", "warning",
		"content-encoding", "content-type", "content-range":
		return false
	}
	return !ClaimsIdentity(name) && !ClaimsAddress(name)
}
