// Package sni reads the server name out of a TLS ClientHello, for connections that
// are passed on unopened.
//
//	first bytes ─► Read ─► name, or: more bytes are needed, not TLS, malformed
//
// Nothing is decrypted or kept: the caller has the bytes and sends them on as they
// came. Read takes the whole beginning each time, which is bounded: MaxHello
// bytes of message in maxRecords records.
//
// # What is looked at
//
// A ClientHello may be spread over several records (RFC 8446 section 5.1; some
// clients do so on purpose, others because it carries post-quantum keys). All of
// its structure is checked, since a name that is found by skipping over what is
// not understood may not be the one that the server finds. Extensions that
// are not known, GREASE (RFC 8701) among them, are passed over by their lengths.
//
// Of a client that encrypts its hello (ECH), the outer name is what there is to see:
// that of the server that can open the inner one.
//
// # Concurrency
//
// Read is a function.
package sni

import (
	"encoding/binary"
	"errors"
	"slices"
)

// MaxHello is the longest ClientHello, MaxBytes the most that Read needs for it.
const (
	MaxHello = 16 << 10
	MaxBytes = MaxHello + maxRecords*headerLen
)

const (
	headerLen  = 5
	maxRecords = 32      // clients that split use a few
	maxPlain   = 1 << 14 // RFC 8446 section 5.1

	typeHandshake  = 22
	clientHello    = 1
	extServerName  = 0
	nameIsHostname = 0
)

// What Read says when there is no name to be had.
var (
	// ErrMore: what there is may be the beginning of a ClientHello.
	ErrMore = errors.New("more of the ClientHello is to come")
	// ErrNotTLS: this does not begin as TLS does.
	ErrNotTLS = errors.New("not a TLS ClientHello")
	// ErrMalformed: it begins as TLS does, and is none that a server would take.
	ErrMalformed = errors.New("malformed ClientHello")
	// ErrTooLong: the ClientHello is longer than MaxHello, or in too many pieces.
	ErrTooLong = errors.New("ClientHello too long")
)

// Read returns the server name, in lower case, of the ClientHello that b begins
// with; "" when the client names none. b may go on behind it.
func Read(b []byte) (name string, err error) {
	msg, err := message(b)
	if err != nil {
		return "", err
	}
	r := reader(msg)
	if !r.skip(2 + 32) { // version and random
		return "", ErrMalformed
	}
	session, ok1 := r.vector(1)
	suites, ok2 := r.vector(2)
	compressions, ok3 := r.vector(1)
	if !ok1 || !ok2 || !ok3 || len(session) > 32 || len(suites) < 2 || len(suites)%2 != 0 || len(compressions) == 0 {
		return "", ErrMalformed
	}
	if len(r) == 0 {
		return "", nil // before TLS 1.3, extensions may be absent altogether
	}
	exts, ok := r.vector(2)
	if !ok || len(r) > 0 {
		return "", ErrMalformed
	}
	return serverName(exts)
}

// message puts the first handshake message together.
func message(b []byte) ([]byte, error) {
	var msg []byte
	for n := range maxRecords {
		if len(b) > 0 && b[0] != typeHandshake || len(b) > 1 && b[1] != 3 {
			if n > 0 {
				return nil, ErrMalformed
			}
			return nil, ErrNotTLS
		}
		if len(b) < headerLen {
			return nil, ErrMore
		}
		size := int(binary.BigEndian.Uint16(b[3:]))
		if size == 0 || size > maxPlain {
			return nil, ErrMalformed
		}
		b = b[headerLen:]
		part := b[:min(size, len(b))]
		b = b[len(part):]
		msg = append(slices.Clip(msg), part...) // never into b's memory
		if len(msg) > 0 && msg[0] != clientHello {
			return nil, ErrMalformed
		}
		if len(msg) >= 4 {
			switch whole := 4 + (int(msg[1])<<16 | int(msg[2])<<8 | int(msg[3])); {
			case whole > MaxHello:
				return nil, ErrTooLong
			case len(msg) >= whole:
				return msg[4:whole], nil
			}
		}
		if len(part) < size {
			return nil, ErrMore
		}
	}
	return nil, ErrTooLong
}

// serverName looks for RFC 6066's server_name among extensions.
func serverName(exts []byte) (string, error) {
	r, name, seen := reader(exts), "", false
	for len(r) > 0 {
		typ, ok := r.uint16()
		body, ok2 := r.vector(2)
		if !ok || !ok2 {
			return "", ErrMalformed
		}
		if typ != extServerName {
			continue
		}
		if seen {
			return "", ErrMalformed // which of the two would the server take?
		}
		seen = true
		var err error
		if name, err = hostName(body); err != nil {
			return "", err
		}
	}
	return name, nil
}

func hostName(body []byte) (string, error) {
	r := reader(body)
	list, ok := r.vector(2)
	if !ok || len(r) > 0 || len(list) == 0 {
		return "", ErrMalformed
	}
	r = reader(list)
	typ, ok := r.byte()
	b, ok2 := r.vector(2)
	if !ok || !ok2 || typ != nameIsHostname || len(r) > 0 {
		return "", ErrMalformed // no other type of name was ever defined
	}
	return checkName(b)
}

// checkName returns b, a DNS name as RFC 6066 wants it, in lower case.
func checkName(b []byte) (string, error) {
	if len(b) == 0 || len(b) > 255 {
		return "", ErrMalformed
	}
	out, label := make([]byte, len(b)), 0
	for i, c := range b {
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		case c == '.' && label > 0:
			label = -1
		default:
			return "", ErrMalformed
		}
		if label++; label > 63 {
			return "", ErrMalformed
		}
		out[i] = c
	}
	if label == 0 { // a trailing dot, which RFC 6066 section 3 forbids
		return "", ErrMalformed
	}
	return string(out), nil
}

// reader takes fields off the front of a message.
type reader []byte

func (r *reader) skip(n int) bool {
	if len(*r) < n {
		return false
	}
	*r = (*r)[n:]
	return true
}

func (r *reader) byte() (byte, bool) {
	if len(*r) == 0 {
		return 0, false
	}
	c := (*r)[0]
	*r = (*r)[1:]
	return c, true
}

func (r *reader) uint16() (uint16, bool) {
	if len(*r) < 2 {
		return 0, false
	}
	n := binary.BigEndian.Uint16(*r)
	*r = (*r)[2:]
	return n, true
}

// vector reads a length of that many bytes, and as much as it says.
func (r *reader) vector(size int) ([]byte, bool) {
	n := 0
	for range size {
		c, ok := r.byte()
		if !ok {
			return nil, false
		}
		n = n<<8 | int(c)
	}
	b := []byte(*r)
	if !r.skip(n) {
		return nil, false
	}
	return b[:n], true
}
