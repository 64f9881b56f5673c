package h1

import (
	"bytes"

	"cairnproxy.dev/cairn/mesh"
)

// options is the one method with targets of its own.
const options = "OPTIONS"

// maxMethod is the longest method: the registry's longest has 16 bytes.
const maxMethod = 32

// ParseRequest reads a request head: exactly the bytes that FindHeadEnd
// measured. It fills req and f; req.Peer and req.Destination are left alone.
// lim may be nil.
//
// head is rewritten in place (names and the authority in lower case, the path
// normalised as lim says), and the strings of req and f alias it: head must stay as it is
// for as long as they are used. req.Fields is reused. After an error req and f
// mean nothing.
//
// req.Fields holds the end-to-end fields alone. Host is in Authority; what
// belongs to the connection (Connection and all that it names, Content-Length,
// Transfer-Encoding, TE, Upgrade, Keep-Alive, Proxy-Connection, Expect,
// HTTP2-Settings) is in f or gone.
//
// The target may be in origin form, absolute form (http or https; its authority
// replaces Host, which must be there all the same, RFC 9112, 3.2.2), or "*" for
// OPTIONS. CONNECT is refused with 501. An HTTP/1.0 request may come without
// Host; Authority is then empty.
func ParseRequest(head []byte, lim *Limits, req *mesh.Request, f *Framing) error {
	var p headParser
	if err := p.start(head, lim); err != nil {
		return err
	}
	target, err := p.requestLine(req)
	if err != nil {
		return err
	}
	if req.Fields, err = p.fields(req.Fields[:0], lim); err != nil {
		return err
	}
	if err := p.setTarget(target, lim.PathLevel(), req); err != nil {
		return err
	}
	return p.requestFraming(f)
}

// requestLine reads method SP target SP version CRLF and returns the target.
func (p *headParser) requestLine(req *mesh.Request) (target []byte, err error) {
	b := p.head[skipEmptyLines(p.head):]
	end := bytes.IndexByte(b, '\r')
	if end < 0 {
		return nil, errRequestLine
	}
	line := b[:end] // start has seen that an LF ends it all
	if b[end+1] != '\n' || bytes.IndexByte(line, '\n') >= 0 {
		return nil, errBareLine
	}
	p.pos = len(p.head) - len(b) + end + 2
	n := bytes.IndexByte(line, ' ')
	if n < 0 {
		return nil, errRequestLine
	}
	method := line[:n]
	if err := checkMethod(method); err != nil {
		return nil, err
	}
	line = line[n+1:]
	if n = bytes.IndexByte(line, ' '); n <= 0 {
		return nil, errRequestLine
	}
	if p.minor, err = parseVersion(line[n+1:]); err != nil {
		return nil, err
	}
	if string(method) == "CONNECT" {
		return nil, errConnect
	}
	req.Method, req.Proto, req.MinorVersion = view(method), 1, p.minor
	return line[:n], nil
}

func checkMethod(m []byte) error {
	known := len(m) <= maxMethod
	for _, c := range m {
		if lower[c] == 0 {
			return errMethod
		}
		known = known && c-'a' >= 26
	}
	switch {
	case len(m) == 0:
		return errMethod
	case !known:
		return errMethodUnknown
	}
	return nil
}

// setTarget reads the target and finds the authority (RFC 9112, 3.2 and 3.3).
func (p *headParser) setTarget(target []byte, level mesh.PathLevel, req *mesh.Request) error {
	req.Scheme, req.Authority, req.Host = "http", "", ""
	if p.hasHost {
		if err := SetAuthority(p.host, req); err != nil {
			return err
		}
	} else if p.minor > 0 {
		return errHostMissing
	}
	if target[0] == '/' || target[0] == '*' {
		return SetPathAs(level, target, req)
	}
	return setAbsolute(target, level, req)
}

// setAbsolute reads a target in absolute form.
func setAbsolute(target []byte, level mesh.PathLevel, req *mesh.Request) error {
	scheme, rest, ok := bytes.Cut(target, []byte("://"))
	switch {
	case !ok:
		return errTarget
	case equalFold(scheme, "http"):
	case equalFold(scheme, "https"):
		req.Scheme = "https"
	default:
		return errScheme
	}
	n := 0
	for n < len(rest) && rest[n] != '/' && rest[n] != '?' {
		n++
	}
	if err := SetAuthority(rest[:n], req); err != nil {
		return err
	}
	switch rest = rest[n:]; {
	case len(rest) == 0 && req.Method == options:
		// RFC 9112, 3.2.4: the last proxy turns this into the asterisk.
		req.Path, req.Query, req.HasQuery = "*", "", false
		return nil
	case len(rest) == 0 || rest[0] == '?':
		// The byte before belongs to the authority, so the slash that is
		// missing has no room of its own.
		err := setQuery(rest, req)
		req.Path = "/"
		return err
	}
	return SetPathAs(level, rest, req)
}

// requestFraming fills f (RFC 9112, 6.3).
func (p *headParser) requestFraming(f *Framing) error {
	if err := p.checkFraming(); err != nil {
		return err
	}
	*f = Framing{Length: p.length, Trailers: p.trailers}
	if p.chunked {
		f.Length = Chunked
	}
	p.persistence(f)
	// HTTP/1.0 expectations are to be ignored (RFC 9110, 10.1.1).
	f.Expect100 = p.expect && f.Length != 0 && p.minor > 0
	if p.upgrades > 0 && f.Length == 0 {
		f.Upgrade = p.protocol()
	}
	return nil
}
