package h1

import (
	"cairnproxy.dev/cairn/mesh"
)

// ParseResponse reads a response head, exactly the bytes that FindHeadEnd
// measured, to a request with the given method. What is said of ParseRequest
// about memory and fields holds here too. Any error means that the backend
// cannot be trusted with the connection; the client gets 502.
//
// Status is any three digits from 100 to 999; the reason is dropped. A 1xx
// other than 101 is interim: another head follows. For 101, f.Upgrade is the
// protocol; the caller refuses it unless it asked for that protocol. A 2xx
// answer to CONNECT has Length UntilClose: all that follows is the tunnel.
func ParseResponse(head []byte, lim *Limits, method string, resp *mesh.Response, f *Framing) error {
	p := headParser{response: true}
	if err := p.start(head, lim); err != nil {
		return err
	}
	status, err := p.statusLine()
	if err != nil {
		return err
	}
	resp.Status = status
	if resp.Fields, err = p.fields(resp.Fields[:0], lim); err != nil {
		return err
	}
	return p.responseFraming(status, method, f)
}

// statusLine reads version SP status [SP reason] CRLF. The second space is
// required by RFC 9112, 4, but often missing, and nothing hangs on it.
func (p *headParser) statusLine() (int, error) {
	end, err := lineEnd(p.head, 0)
	if err != nil {
		return 0, err
	}
	p.pos = end + 2
	line := p.head[:end]
	if len(line) < 12 || line[8] != ' ' {
		return 0, errStatusLine
	}
	if p.minor, err = parseVersion(line[:8]); err != nil {
		return 0, err
	}
	a, b, c := line[9]-'0', line[10]-'0', line[11]-'0'
	if a == 0 || a > 9 || b > 9 || c > 9 || len(line) > 12 && line[12] != ' ' {
		return 0, errStatusLine
	}
	return int(a)*100 + int(b)*10 + int(c), nil
}

// responseFraming fills f (RFC 9112, 6.3).
func (p *headParser) responseFraming(status int, method string, f *Framing) error {
	if err := p.checkFraming(); err != nil {
		return err
	}
	*f = Framing{}
	p.persistence(f)
	switch {
	case status < 200 || status == 204:
		// Content-Length: 0 is forbidden here but common and harmless.
		if p.chunked || p.length != 0 {
			return errNoContent
		}
		f.NoBody = true
		if status == 101 {
			f.Upgrade = p.protocol()
			if f.Upgrade == "" {
				return errSwitch
			}
		}
	case method == "CONNECT" && status < 300:
		if p.chunked || p.hasLength {
			return errNoContent
		}
		f.Length, f.Close = UntilClose, true
	case method == "HEAD" || status == 304:
		f.NoBody = true
		f.Declared, f.HasDeclared = p.length, p.hasLength
	case p.chunked:
		f.Length = Chunked
	case p.hasLength:
		f.Length = p.length
	default:
		f.Length, f.Close, f.KeepAlive10 = UntilClose, true, false
	}
	return nil
}

// reasons are the phrases of the IANA registry.
var reasons = [...]string{
	100: "Continue", 101: "Switching Protocols", 102: "Processing", 103: "Early Hints",
	200: "OK", 201: "Created", 202: "Accepted", 203: "Non-Authoritative Information", 204: "No Content",
	205: "Reset Content", 206: "Partial Content", 207: "Multi-Status", 208: "Already Reported", 226: "IM Used",
	300: "Multiple Choices", 301: "Moved Permanently", 302: "Found", 303: "See Other", 304: "Not Modified",
	305: "Use Proxy", 307: "Temporary Redirect", 308: "Permanent Redirect",
	400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
	405: "Method Not Allowed", 406: "Not Acceptable", 407: "Proxy Authentication Required",
	408: "Request Timeout", 409: "Conflict", 410: "Gone", 411: "Length Required", 412: "Precondition Failed",
	413: "Content Too Large", 414: "URI Too Long", 415: "Unsupported Media Type", 416: "Range Not Satisfiable",
	417: "Expectation Failed", 418: "I'm a teapot", 421: "Misdirected Request", 422: "Unprocessable Content",
	423: "Locked", 424: "Failed Dependency", 425: "Too Early", 426: "Upgrade Required",
	428: "Precondition Required", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
	451: "Unavailable For Legal Reasons",
	500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
	504: "Gateway Timeout", 505: "HTTP Version Not Supported", 506: "Variant Also Negotiates",
	507: "Insufficient Storage", 508: "Loop Detected", 510: "Not Extended", 511: "Network Authentication Required",
}

// StatusText returns the standard reason phrase, or "" for an unknown status.
func StatusText(status int) string {
	if status < 0 || status >= len(reasons) {
		return ""
	}
	return reasons[status]
}
