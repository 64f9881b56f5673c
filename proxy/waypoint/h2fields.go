package waypoint

import (
	"errors"
	"net/http"
	"strconv"
	"unsafe"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h1"
	"cairnproxy.dev/cairn/tunnel/h2"
	"golang.org/x/net/http2/hpack"
)

// errMalformed is a message that RFC 9113 section 8.1.1 calls malformed: the
// stream is reset with PROTOCOL_ERROR.
var errMalformed = errors.New("malformed message")

// maxMethod is the longest method, as in HTTP/1.1 (tunnel/h1).
const maxMethod = 32

// requestFromH2 fills req and f from a request's header section. arena is
// memory for what must be rewritten (path and authority); the strings of req
// may alias what it returns. Of lim only how paths are normalised counts; nil is the default.
func requestFromH2(head *h2.Head, arena []byte, lim *h1.Limits, req *mesh.Request, f *h1.Framing) ([]byte, error) {
	req.Fields = req.Fields[:0]
	*f = h1.Framing{Length: h1.Chunked}
	if head.End {
		f.Length = 0
	}
	var method, scheme, authority, path, host, protocol string
	var has uint8
	const hasMethod, hasScheme, hasPath, hasAuthority, hasProtocol = 1, 2, 4, 8, 16
	regular, cookies := false, 0
	for i := range head.Fields {
		x := &head.Fields[i]
		if len(x.Name) > 0 && x.Name[0] == ':' {
			if regular {
				return arena, errMalformed
			}
			var bit uint8
			switch x.Name {
			case ":method":
				bit, method = hasMethod, x.Value
			case ":scheme":
				bit, scheme = hasScheme, x.Value
			case ":path":
				bit, path = hasPath, x.Value
			case ":authority":
				bit, authority = hasAuthority, x.Value
			case ":protocol":
				bit, protocol = hasProtocol, x.Value
			default:
				return arena, errMalformed
			}
			if has&bit != 0 {
				return arena, errMalformed
			}
			has |= bit
			continue
		}
		regular = true
		if !validField(x) {
			return arena, errMalformed
		}
		switch x.Name {
		case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade",
			"transfer_encoding", "content_length": // which CGI and its like take for the real ones
			return arena, errMalformed
		case "te":
			if x.Value != "trailers" {
				return arena, errMalformed
			}
			f.Trailers = true
			continue
		case "content-length":
			n, ok := parseLength(x.Value)
			if !ok || f.HasDeclared && f.Declared != n || head.End && n != 0 {
				return arena, errMalformed
			}
			f.Declared, f.HasDeclared = n, true
			continue
		case "host":
			if host != "" {
				return arena, errMalformed
			}
			host = x.Value
			continue
		case "expect":
			f.Expect100 = x.Value == "100-continue"
			continue
		case "cookie":
			cookies++
		}
		req.Fields = append(req.Fields, mesh.Field{Name: x.Name, Value: x.Value})
	}
	if has&(hasMethod|hasScheme|hasPath) != hasMethod|hasScheme|hasPath || path == "" || method == "" {
		return arena, errMalformed
	}
	if method == "CONNECT" || has&hasProtocol != 0 {
		if method != "CONNECT" || has&(hasProtocol|hasAuthority) != hasProtocol|hasAuthority || authority == "" || head.End {
			return arena, errMalformed // RFC 8441 section 4; without a protocol it is for forward proxies
		}
		if err := connectFromH2(protocol, req, f); err != nil {
			return arena, err
		}
		method = http.MethodGet
	}
	if authority == "" {
		authority = host
	} else if host != "" && host != authority {
		return arena, errMalformed // two opinions of the host: RFC 9113 section 8.3.1
	}
	if f.HasDeclared && !head.End {
		f.Length = f.Declared
	}
	if scheme != "http" && scheme != "https" || len(method) > maxMethod {
		return arena, errMalformed
	}
	for i := 0; i < len(method); i++ {
		if !tokenByte(method[i]) || method[i] >= 'a' && method[i] <= 'z' {
			return arena, errMalformed
		}
	}
	req.Method, req.Scheme, req.Proto, req.MinorVersion = method, scheme, 2, 0
	if cookies > 1 {
		joinCookies(&req.Fields)
	}
	arena = append(append(arena[:0], path...), authority...)
	if err := h1.SetPathAs(lim.PathLevel(), arena[:len(path):len(path)], req); err != nil {
		return arena, err
	}
	if err := h1.SetAuthority(arena[len(path):], req); err != nil {
		return arena, err
	}
	if req.Authority == authority {
		req.Authority = authority // the one that does not alias the arena, and may be indexed
	}
	return arena, nil
}

// joinCookies makes one field of several: RFC 9113 section 8.2.3 lets a client
// split them, and HTTP/1.1 wants them together.
func joinCookies(f *mesh.Fields) {
	joined := ""
	for _, x := range *f {
		if x.Name == "cookie" {
			if joined != "" {
				joined += "; "
			}
			joined += x.Value
		}
	}
	f.Set("cookie", joined)
}

// responseFromH2 fills resp and f from a response's header section.
func responseFromH2(head *h2.Head, method string, resp *mesh.Response, f *h1.Framing) error {
	resp.Fields = resp.Fields[:0]
	*f = h1.Framing{Length: h1.Chunked}
	resp.Status = 0
	for i := range head.Fields {
		x := &head.Fields[i]
		if len(x.Name) > 0 && x.Name[0] == ':' {
			if i != 0 || x.Name != ":status" || len(x.Value) != 3 {
				return errMalformed
			}
			n, err := strconv.Atoi(x.Value)
			if err != nil || n < 100 {
				return errMalformed
			}
			resp.Status = n
			continue
		}
		if resp.Status == 0 || !validField(x) {
			return errMalformed
		}
		switch x.Name {
		case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
			return errMalformed
		case "content-length":
			n, ok := parseLength(x.Value)
			if !ok || f.HasDeclared && f.Declared != n {
				return errMalformed
			}
			f.Declared, f.HasDeclared = n, true
			continue
		}
		resp.Fields = append(resp.Fields, mesh.Field{Name: x.Name, Value: x.Value})
	}
	if resp.Status == 0 || resp.Status == 101 {
		return errMalformed
	}
	f.NoBody = method == "HEAD" || resp.Status < 200 || resp.Status == 204 || resp.Status == 304
	switch {
	case f.NoBody:
		f.Length = 0
	case f.HasDeclared:
		f.Length = f.Declared
		if head.End && f.Declared != 0 {
			return errMalformed
		}
	case head.End:
		f.Length = 0
	}
	return nil
}

// trailersFromH2 returns the fields of a trailer section; those that may not
// be trailers are dropped.
func trailersFromH2(head *h2.Head, dst mesh.Fields) (mesh.Fields, error) {
	for i := range head.Fields {
		x := &head.Fields[i]
		if !validField(x) {
			return dst, errMalformed
		}
		if h1.TrailerAllowed(x.Name) {
			dst = append(dst, mesh.Field{Name: x.Name, Value: x.Value})
		}
	}
	return dst, nil
}

// validField checks name and value as RFC 9113 section 8.2.1 has it.
func validField(x *hpack.HeaderField) bool {
	if x.Name == "" {
		return false
	}
	for i := 0; i < len(x.Name); i++ {
		if c := x.Name[i]; !tokenByte(c) || c >= 'A' && c <= 'Z' {
			return false
		}
	}
	v := x.Value
	if v == "" {
		return true
	}
	if v[0] == ' ' || v[0] == '\t' || v[len(v)-1] == ' ' || v[len(v)-1] == '\t' {
		return false
	}
	for i := 0; i < len(v); i++ {
		if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// tokenTable marks the bytes of an RFC 9110 token.
var tokenTable = func() (t [256]bool) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		t[c] = true
	}
	return t
}()

func tokenByte(c byte) bool { return tokenTable[c] }

func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

// requestToH2 appends the header section of a request. path is target in
// origin form, l what of its strings does not outlive the exchange.
func requestToH2(dst []hpack.HeaderField, req *mesh.Request, f *h1.Framing, path string, l lent) []hpack.HeaderField {
	dst = append(dst,
		hpack.HeaderField{Name: ":method", Value: req.Method, Sensitive: l.has(req.Method)},
		hpack.HeaderField{Name: ":scheme", Value: "http"},
		hpack.HeaderField{Name: ":authority", Value: req.Authority, Sensitive: l.has(req.Authority)},
		hpack.HeaderField{Name: ":path", Value: path, Sensitive: true})
	dst = appendFields(dst, req.Fields, l)
	if f.Trailers {
		dst = append(dst, hpack.HeaderField{Name: "te", Value: "trailers"})
	}
	if f.Length > 0 {
		dst = append(dst, hpack.HeaderField{Name: "content-length", Value: strconv.FormatInt(f.Length, 10)})
	}
	return dst
}

// responseToH2 appends the header section of a response; l is what of its
// strings does not outlive the exchange.
func responseToH2(dst []hpack.HeaderField, resp *mesh.Response, f *h1.Framing, l lent) []hpack.HeaderField {
	dst = append(dst, hpack.HeaderField{Name: ":status", Value: statusString(resp.Status)})
	dst = appendFields(dst, resp.Fields, l)
	switch {
	case f.NoBody && f.HasDeclared:
		dst = append(dst, hpack.HeaderField{Name: "content-length", Value: strconv.FormatInt(f.Declared, 10)})
	case !f.NoBody && f.Length >= 0:
		dst = append(dst, hpack.HeaderField{Name: "content-length", Value: strconv.FormatInt(f.Length, 10)})
	}
	return dst
}

// lent tells which strings lie in memory that the next exchange will use again.
type lent struct {
	all    bool // every one may
	memory [4][]byte
}

func (l *lent) has(s string) bool {
	if l.all {
		return true
	}
	if s == "" {
		return false
	}
	at := uintptr(unsafe.Pointer(unsafe.StringData(s)))
	for _, m := range &l.memory {
		if at-uintptr(unsafe.Pointer(unsafe.SliceData(m))) < uintptr(cap(m)) {
			return true
		}
	}
	return false
}

// lent is what filters and codecs wrote for this exchange, head included.
func (x *exchange) lent(head []byte) lent {
	return lent{memory: [4][]byte{x.fx.Append(), x.requestID, x.path, head}}
}

// requestLent is that for the request.
func (x *exchange) requestLent() lent {
	if r, ok := x.down.(*h2Request); ok {
		return x.lent(r.arena)
	}
	return lent{all: true} // heads of HTTP/1.1 are views of their tunnel's memory
}

// appendFields copies fields. The encoder's dynamic table keeps the strings
// that it indexes, so those that lie in an exchange's memory must never be
// indexed: hpack calls that sensitive.
func appendFields(dst []hpack.HeaderField, fields mesh.Fields, l lent) []hpack.HeaderField {
	for i := range fields {
		f := &fields[i]
		dst = append(dst, hpack.HeaderField{Name: f.Name, Value: f.Value, Sensitive: sensitive(f.Name) || l.has(f.Value) || l.has(f.Name)})
	}
	return dst
}

// sensitive fields are never put into a compression table, RFC 7541 section 7.1.3.
func sensitive(name string) bool {
	switch name {
	case "authorization", "cookie", "set-cookie", "proxy-authorization":
		return true
	}
	return false
}

var statusStrings = func() (s [600]string) {
	for i := range s {
		s[i] = strconv.Itoa(i)
	}
	return s
}()

func statusString(n int) string {
	if n >= 100 && n < len(statusStrings) {
		return statusStrings[n]
	}
	return strconv.Itoa(n)
}
