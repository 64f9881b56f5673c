package h1

import (
	"bytes"
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// AppendRequest appends a request head to dst: an HTTP/1.1 request line in
// origin form (or "*"), exactly one host, the fields, and what f says about the
// connection and the content. Length must not be UntilClose; it is written as
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
	case path == "*" && req.Method == "OPTIONS":
		return append(dst, '*')
	case path == "" || path[0] != '/':
		dst = append(dst, '/')
	}
	start := len(dst)
	dst = append(dst, path...)
	for _, c := range dst[start:] {
		if class[c]&classPath == 0 {
			dst = appendEscaped(dst[:start], path, '?')
			break
		}
	}
	if !req.HasQuery {
		return dst
	}
	dst = append(dst, '?')
	start = len(dst)
	dst = append(dst, req.Query...)
	if q := dst[start:]; indexNotVisible(q, 0) < len(q) || bytes.IndexByte(q, '#') >= 0 {
		dst = appendEscaped(dst[:start], req.Query, '#')
	}
	return dst
}

// appendEscaped percent-encodes what is not visible ASCII, '#' and also.
func appendEscaped(dst []byte, s string, also byte) []byte {
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
	start := len(dst)
	dst = append(dst, authority...)
	if indexNotVisible(dst, start) < len(dst) {
		return dst[:start]
	}
	return dst
}

// appendField writes one field line, or nothing for a field that Framing
// stands for or that has no proper name.
func appendField(dst []byte, f *mesh.Field) []byte {
	start := len(dst)
	dst = append(dst, f.Name...)
	name := dst[start:]
	for i, c := range name {
		l := lower[c]
		if l == 0 {
			return dst[:start]
		}
		name[i] = l
	}
	if len(name) == 0 || isFraming(name) {
		return dst[:start]
	}
	dst = append(dst, ": "...)
	start = len(dst)
	dst = append(dst, f.Value...)
	for i := indexControl(dst, start); i < len(dst); i = indexControl(dst, i+1) {
		if dst[i] != '\t' {
			dst[i] = ' '
		}
	}
	return append(dst, "\r\n"...)
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
