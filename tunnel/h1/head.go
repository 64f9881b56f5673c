package h1

import (
	"bytes"
	"math"

	"cairnproxy.dev/cairn/mesh"
)

// maxEmptyLines is how many empty lines before a request line are forgiven
// (RFC 9112, 2.2: a client may send one after a body, out of habit).
const maxEmptyLines = 4

func skipEmptyLines(b []byte) int {
	n := 0
	for n < 2*maxEmptyLines && n+1 < len(b) && b[n] == '\r' && b[n+1] == '\n' {
		n += 2
	}
	return n
}

// FindHeadEnd returns the length of the message head at the start of b,
// including the empty line that ends it and empty lines before it, or -1 when
// more bytes are needed. from is how many bytes of b an earlier call has looked
// at already, so that a head that trickles in costs linear time.
//
// Only CRLF CRLF ends a head that a parser accepts. An empty line made with a
// bare LF also stops the search, so that such a head is refused at once and not
// when time runs out.
func FindHeadEnd(b []byte, from int) int {
	i := max(skipEmptyLines(b), from-2, 0)
	for i < len(b) {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return -1
		}
		i += n + 1
		if i < len(b) && b[i] == '\n' {
			return i + 1
		}
		if i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n' {
			return i + 2
		}
	}
	return -1
}

// maxNominated is how many fields a Connection field may name for removal.
const maxNominated = 16

// headParser reads the field lines of one head and keeps what is hop-by-hop.
type headParser struct {
	head     []byte
	pos      int
	minor    uint8
	response bool

	host    []byte
	hasHost bool

	length    int64
	hasLength bool
	chunked   bool

	close, keepAlive, wantUpgrade bool

	upgrade  []byte
	upgrades int
	expect   bool
	trailers bool

	nominated  [maxNominated]string
	nNominated int
}

// start checks the outer form of a head.
func (p *headParser) start(head []byte, lim *Limits) error {
	if len(head) > lim.maxHead() {
		return errHeadSize
	}
	if n := len(head); n < 4 || string(head[n-4:]) != "\r\n\r\n" {
		if bytes.HasSuffix(head, []byte("\n")) {
			return errBareLine
		}
		return errHeadEnd
	}
	p.head = head
	return nil
}

// lineEnd returns the index of the CR of the CRLF that ends the line in which i
// stands, and an error when something illegal stands before it.
func lineEnd(b []byte, i int) (int, error) {
	for {
		i = indexControl(b, i)
		if i >= len(b) {
			return 0, errHeadEnd
		}
		switch b[i] {
		case '\t':
			i++
		case '\r':
			if i+1 < len(b) && b[i+1] == '\n' {
				return i, nil
			}
			return 0, errBareLine
		case '\n':
			return 0, errBareLine
		default:
			return 0, errFieldValue
		}
	}
}

// fieldLine reads the field line at b[i:], lower-casing its name in place, and
// returns the index of the next line.
func fieldLine(b []byte, i int) (name, value []byte, next int, err error) {
	start := i
	for i < len(b) {
		c := lower[b[i]]
		if c == 0 {
			break
		}
		b[i] = c
		i++
	}
	if i == start || i >= len(b) || b[i] != ':' {
		return nil, nil, 0, badName(b, start, i)
	}
	name = b[start:i]
	i++
	for i < len(b) && (b[i] == ' ' || b[i] == '\t') {
		i++
	}
	end, err := lineEnd(b, i)
	if err != nil {
		return nil, nil, 0, err
	}
	next = end + 2
	for end > i && (b[end-1] == ' ' || b[end-1] == '\t') {
		end--
	}
	return name, b[i:end], next, nil
}

// badName says what is wrong with a field line whose name ends at i.
func badName(b []byte, start, i int) error {
	if i >= len(b) {
		return errHeadEnd
	}
	switch c := b[i]; {
	case i == start && (c == ' ' || c == '\t'):
		return errFieldFold
	case c == '\n', c == '\r':
		return errBareLine
	}
	return errFieldName
}

// fields reads all field lines, appends the end-to-end ones to out and keeps
// the others in p.
func (p *headParser) fields(out mesh.Fields, lim *Limits) (mesh.Fields, error) {
	b, i, count, most := p.head, p.pos, 0, lim.maxFields()
	noUnderscore := lim != nil && lim.RefuseUnderscores
	for i >= len(b) || b[i] != '\r' {
		name, value, next, err := fieldLine(b, i)
		if err != nil {
			return out, err
		}
		if count++; count > most {
			return out, errFieldCount
		}
		if noUnderscore && bytes.IndexByte(name, '_') >= 0 {
			return out, errUnderscore
		}
		i = next
		if maybeSpecial(name) {
			keep, err := p.special(name, value)
			if err != nil {
				return out, err
			}
			if !keep {
				continue
			}
		}
		out = append(out, mesh.Field{Name: view(name), Value: view(value)})
	}
	if i+2 != len(b) { // b[i] is a CR
		if b[i+1] != '\n' {
			return out, errBareLine
		}
		return out, errHeadEnd
	}
	return p.dropNominated(out), nil
}

// special takes the fields that do not travel end to end; it reports whether
// the field is an ordinary one.
func (p *headParser) special(name, value []byte) (keep bool, err error) {
	switch string(name) {
	case "host":
		if p.response {
			return false, nil
		}
		if p.hasHost {
			return false, errHostTwice
		}
		p.host, p.hasHost = value, true
	case "content-length":
		if p.hasLength {
			return false, errLengthTwice
		}
		p.hasLength = true
		p.length, err = parseLength(value)
	case "transfer-encoding":
		if p.chunked {
			return false, errCoding
		}
		p.chunked = true
		err = checkCoding(value)
	case "connection":
		err = p.connection(value)
	case "upgrade":
		p.upgrades++
		p.upgrade = value
	case "te":
		p.trailers = p.trailers || listHas(value, "trailers")
	case "expect":
		if p.response {
			return false, nil
		}
		if !equalFold(value, "100-continue") {
			return false, errExpect
		}
		p.expect = true
	case "keep-alive", "proxy-connection", "http2-settings":
	case "content_length", "transfer_encoding":
		return false, errFramingAlias
	default:
		return true, nil
	}
	return false, err
}

// parseLength reads a Content-Length: digits and nothing else.
func parseLength(v []byte) (int64, error) {
	if len(v) == 0 || len(v) > 19 {
		return 0, errLength
	}
	var n uint64 // 19 digits fit
	for _, c := range v {
		if c-'0' > 9 {
			return 0, errLength
		}
		n = n*10 + uint64(c-'0')
	}
	if n > math.MaxInt64 {
		return 0, errLength
	}
	return int64(n), nil
}

// checkCoding accepts "chunked" alone. Other well-formed codings are 501
// (RFC 9112, 6.1), the rest is an attempt at something.
func checkCoding(v []byte) error {
	if equalFold(v, "chunked") {
		return nil
	}
	for _, c := range v {
		if lower[c] == 0 && c != ',' && c != ' ' {
			return errCoding
		}
	}
	if len(v) == 0 {
		return errCoding
	}
	return errCodingUnknown
}

// connection reads one Connection field (RFC 9110, 7.6.1), in place.
func (p *headParser) connection(v []byte) error {
	toLower(v)
	for len(v) > 0 {
		var option []byte
		option, v = nextElement(v)
		if len(option) == 0 {
			continue
		}
		if !isToken(option) {
			return errConnection
		}
		switch string(option) {
		case "close":
			p.close = true
		case "keep-alive":
			p.keepAlive = true
		case "upgrade":
			p.wantUpgrade = true
		case "te", "http2-settings", "proxy-connection":
			// never forwarded anyway
		case "host", "content-length", "transfer-encoding", "forwarded",
			"x-forwarded-for", "x-forwarded-host", "x-forwarded-proto":
			// Removing these would change where the message goes or ends, or
			// who it is said to come from.
			return errNominated
		default:
			if p.nNominated == maxNominated {
				return errConnection
			}
			p.nominated[p.nNominated] = view(option)
			p.nNominated++
		}
	}
	return nil
}

// nextElement cuts the first element off a comma-separated list.
func nextElement(v []byte) (element, rest []byte) {
	element, rest, _ = bytes.Cut(v, []byte(","))
	return trimSpace(element), rest
}

// listHas reports whether the comma-separated list v holds word.
func listHas(v []byte, word string) bool {
	for len(v) > 0 {
		var e []byte
		if e, v = nextElement(v); equalFold(e, word) {
			return true
		}
	}
	return false
}

// dropNominated removes the fields that Connection named.
func (p *headParser) dropNominated(fs mesh.Fields) mesh.Fields {
	for _, name := range p.nominated[:p.nNominated] {
		if fs.Has(name) {
			fs.Del(name)
		}
	}
	return fs
}

// checkFraming refuses what could be read as two different lengths.
func (p *headParser) checkFraming() error {
	switch {
	case p.chunked && p.hasLength:
		return errLengthAndCoding
	case p.chunked && p.minor == 0:
		return errCodingOld
	}
	return nil
}

// persistence fills in whether the connection goes on (RFC 9112, 9.3).
func (p *headParser) persistence(f *Framing) {
	f.Close = p.close || p.minor == 0 && !p.keepAlive
	f.KeepAlive10 = p.minor == 0 && !f.Close
}

// protocol returns the one protocol that Upgrade names, in lower case, if
// Connection confirms it. HTTP itself in another version is not an upgrade that
// an intermediary could pass on.
func (p *headParser) protocol() string {
	if p.minor == 0 || !p.wantUpgrade || p.upgrades != 1 {
		return ""
	}
	name, version, versioned := bytes.Cut(p.upgrade, []byte("/"))
	if !isToken(name) || versioned && !isToken(version) {
		return ""
	}
	toLower(p.upgrade)
	switch string(name) {
	case "h2c", "h2", "http", "tls":
		return ""
	}
	return view(p.upgrade)
}

// parseVersion reads exactly HTTP/1.0 or HTTP/1.1 and returns the minor version.
func parseVersion(v []byte) (uint8, error) {
	if len(v) != 8 || string(v[:5]) != "HTTP/" || v[6] != '.' || v[5]-'0' > 9 || v[7]-'0' > 9 {
		return 0, errVersion
	}
	if v[5] != '1' || v[7] > '1' {
		return 0, errVersionUnknown
	}
	return v[7] - '0', nil
}
