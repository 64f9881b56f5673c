package h1

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// AppendRequest appends a request head to dst: an HTTP/1.1 request line in
// origin form (or "*"), exactly one host, the fields, and what f says about the
// connection and the content. req.Authority should not be empty: after an
// HTTP/1.0 request without Host the caller supplies one. Length must not be UntilClose; it is written as
// Chunked, which the backend will find unfinished.
//
// Whatever req holds, the result is one head with the framing of f: fields that
// f stands for are left out, as is a field whose name is no token; control bytes
// in values become spaces; illegal bytes in the target are percent-encoded; an
// authority with illegal bytes becomes empty, a method with such INVALID.
func AppendRequest(dst []byte, req *mesh.Request, f Framing) []byte {
	dst = appendMethod(dst, req.Method)
	dst = append(dst, ' ')
	dst = appendTarget(dst, req)
	dst = append(dst, " HTTP/1.1\r\nhost: "...)
	dst = appendAuthority(dst, req.Authority)
	dst = append(dst, "\r\n"...)
	for i := range req.Fields {
		dst = appendField(dst, &req.Fields[i])
	}
	switch {
	case f.Length < 0:
		dst = append(dst, "transfer-encoding: chunked\r\n"...)
	case f.Length > 0 || expectsContent(req.Method):
		dst = appendLength(dst, f.Length)
	}
	if f.Expect100 {
		dst = append(dst, "expect: 100-continue\r\n"...)
	}
	f.KeepAlive10 = false // we speak 1.1
	dst = appendConnection(dst, &f)
	return append(dst, "\r\n"...)
}

// expectsContent tells the methods for which content is usual, so that its
// absence is said (RFC 9110, 8.6).
func expectsContent(method string) bool {
	return method == "POST" || method == "PUT" || method == "PATCH"
}

// AppendResponse appends a response head to dst: an HTTP/1.1 status line with
// the standard reason, the fields, and what f says about the connection and the
// content. Fields are treated as by AppendRequest; a status outside 100 to 999
// becomes 500. f.NoBody must be set for a response to HEAD; for 1xx, 204 and
// 304 it is implied.
//
// A client of HTTP/1.0 cannot read Chunked: give UntilClose instead.
func AppendResponse(dst []byte, resp *mesh.Response, f Framing) []byte {
	status := resp.Status
	if status < 100 || status > 999 {
		status = 500
	}
	dst = append(dst, "HTTP/1.1 "...)
	dst = append(dst, byte('0'+status/100), byte('0'+status/10%10), byte('0'+status%10), ' ')
	dst = append(dst, StatusText(status)...)
	dst = append(dst, "\r\n"...)
	for i := range resp.Fields {
		dst = appendField(dst, &resp.Fields[i])
	}
	switch {
	case status < 200 || status == 204:
	case f.NoBody || status == 304:
		if f.HasDeclared && f.Declared >= 0 {
			dst = appendLength(dst, f.Declared)
		}
	case f.Length == Chunked:
		dst = append(dst, "transfer-encoding: chunked\r\n"...)
	case f.Length < 0:
		f.Close = true
	default:
		dst = appendLength(dst, f.Length)
	}
	if status != 101 {
		f.Upgrade = ""
	}
	f.Trailers = false
	dst = appendConnection(dst, &f)
	return append(dst, "\r\n"...)
}

func appendMethod(dst []byte, method string) []byte {
	if !isToken(method) {
		return append(dst, "INVALID"...)
	}
	return append(dst, method...)
}

// appendTarget writes the path and the query.
func appendTarget(dst []byte, req *mesh.Request) []byte {
	path := req.Path
	switch {
	case path == "*" && req.Method == options:
		return append(dst, '*')
	case path == "" || path[0] != '/':
		dst = append(dst, '/')
	}
	dst = appendClean(dst, path, '?')
	if !req.HasQuery {
		return dst
	}
	dst = append(dst, '?')
	return appendClean(dst, req.Query, '#')
}

// appendClean appends s, percent-encoding what is not visible ASCII, '#' and also.
func appendClean(dst []byte, s string, also byte) []byte {
	b := bytesOf(s)
	if indexNotVisible(b, 0) == len(b) && bytes.IndexByte(b, '#') < 0 && bytes.IndexByte(b, also) < 0 {
		return append(dst, s...)
	}
	const digits = "0123456789ABCDEF"
	for i := range len(s) {
		c := s[i]
		if c <= 0x20 || c >= 0x7f || c == '#' || c == also {
			dst = append(dst, '%', digits[c>>4], digits[c&15])
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

func appendAuthority(dst []byte, authority string) []byte {
	if indexNotVisible(bytesOf(authority), 0) < len(authority) {
		return dst
	}
	return append(dst, authority...)
}

// appendField writes one field line, or nothing for a field that Framing
// stands for or that has no proper name.
func appendField(dst []byte, f *mesh.Field) []byte {
	start, n := len(dst), len(f.Name)
	if n == 0 {
		return dst
	}
	dst = slices.Grow(dst, n+len(f.Value)+4)
	line := dst[start : start+n+len(f.Value)+4]
	// Checks read the source: a load of bytes that copy has just stored in
	// pieces of another size would have to wait for them.
	plain, clean := plainName(bytesOf(f.Name)), !hasControl(bytesOf(f.Value))
	copy(line, f.Name)
	if !plain {
		for i, c := range line[:n] {
			if line[i] = lower[c]; line[i] == 0 {
				return dst
			}
		}
	}
	if name := line[:n]; maybeSpecial(name) && isFraming(name) {
		return dst
	}
	line[n], line[n+1] = ':', ' '
	value := line[n+2 : len(line)-2]
	copy(value, f.Value)
	if !clean {
		for i, c := range value {
			if c < 0x20 && c != '\t' || c == 0x7f {
				value[i] = ' '
			}
		}
	}
	line[len(line)-2], line[len(line)-1] = '\r', '\n'
	return dst[:start+len(line)]
}

// plainName reports whether name is made of lower-case letters, digits and
// hyphens alone, as nearly all names are; eight bytes are looked at at a time.
// It may say no to a name that is.
func plainName(name []byte) bool {
	if len(name) < 8 {
		for _, c := range name {
			if c-'a' > 'z'-'a' && c != '-' {
				return false
			}
		}
		return true
	}
	for i := 0; i+8 < len(name); i += 8 {
		if !plainWord(binary.LittleEndian.Uint64(name[i:])) {
			return false
		}
	}
	return plainWord(binary.LittleEndian.Uint64(name[len(name)-8:]))
}

// plainWord reports whether the eight bytes of x are all in [a-z0-9-].
func plainWord(x uint64) bool {
	const low7 = ^uint64(highs)
	dash := x ^ '-'*ones
	isDash := ^((dash & low7) + low7) // high bit set where the byte, but for its own high bit, is '-'
	isLetter := (x + (0x80-'a')*ones) &^ (x + (0x7f-'z')*ones)
	isDigit := (x + (0x80-'0')*ones) &^ (x + (0x7f-'9')*ones)
	return x&highs == 0 && (isDash|isLetter|isDigit)&highs == highs
}

// isFraming tells the fields that are never written from Fields.
func isFraming(name []byte) bool {
	switch string(name) {
	case "host", "connection", "content-length", "transfer-encoding", "te", "upgrade", "expect",
		"keep-alive", "proxy-connection", "http2-settings", "content_length", "transfer_encoding":
		return true
	}
	return false
}

func appendLength(dst []byte, n int64) []byte {
	dst = append(dst, "content-length: "...)
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, "\r\n"...)
}

// appendConnection writes what f says about the connection.
func appendConnection(dst []byte, f *Framing) []byte {
	upgrade := f.Upgrade
	if name, version, versioned := strings.Cut(upgrade, "/"); !isToken(name) || versioned && !isToken(version) {
		upgrade = ""
	}
	if f.Trailers {
		dst = append(dst, "te: trailers\r\n"...)
	}
	if upgrade != "" {
		dst = append(dst, "upgrade: "...)
		dst = append(dst, upgrade...)
		dst = append(dst, "\r\n"...)
	}
	const field = "connection: "
	start := len(dst)
	dst = append(dst, field...)
	if f.Close {
		dst = append(dst, "close, "...)
	} else if f.KeepAlive10 {
		dst = append(dst, "keep-alive, "...)
	}
	if f.Trailers {
		dst = append(dst, "te, "...)
	}
	if upgrade != "" {
		dst = append(dst, "upgrade, "...)
	}
	if len(dst) == start+len(field) {
		return dst[:start]
	}
	return append(dst[:len(dst)-2], "\r\n"...)
}

// AppendChunkHeader appends the line that opens a chunk of n bytes. The caller
// appends the data and CRLF. n must be positive: a chunk of zero is the last.
func AppendChunkHeader(dst []byte, n int) []byte {
	dst = strconv.AppendUint(dst, uint64(n), 16)
	return append(dst, "\r\n"...)
}

// AppendChunk appends data as one chunk, and nothing if data is empty.
func AppendChunk(dst, data []byte) []byte {
	if len(data) == 0 {
		return dst
	}
	dst = AppendChunkHeader(dst, len(data))
	dst = append(dst, data...)
	return append(dst, "\r\n"...)
}

// AppendLastChunk appends the last chunk and the trailer section, leaving out
// what may not be a trailer (see TrailerAllowed).
func AppendLastChunk(dst []byte, trailers mesh.Fields) []byte {
	dst = append(dst, "0\r\n"...)
	for i := range trailers {
		if TrailerAllowed(trailers[i].Name) {
			dst = appendField(dst, &trailers[i])
		}
	}
	return append(dst, "\r\n"...)
}
