package h1

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// message is one request as this codec understands it, in strings of its own.
type message struct {
	req     mesh.Request
	framing Framing
	body    string
	trailer mesh.Fields
}

func (m *message) String() string {
	target := m.req.Path
	if m.req.HasQuery {
		target += "?" + m.req.Query
	}
	return fmt.Sprintf("%s %s %s %q", m.req.Method, m.req.Authority, target, m.body)
}

// readStream reads pipelined requests from raw until it ends (err is nil when it
// ends between messages, ErrUnexpectedEnd within one) or is refused. rest is
// what stands behind the last good request (its bytes may have been rewritten).
func readStream(raw []byte) (got []*message, rest []byte, err error) {
	b := bytes.Clone(raw)
	for len(b) > skipEmptyLines(b) {
		start := b
		n := FindHeadEnd(b, 0)
		if n < 0 {
			return got, start, ErrUnexpectedEnd
		}
		m := new(message)
		if err := ParseRequest(b[:n], nil, &m.req, &m.framing); err != nil {
			return got, start, err
		}
		if m.framing.Upgrade != "" {
			return append(got, m), b[n:], nil
		}
		b = b[n:]
		var body Body
		body.Reset(m.framing, nil)
		for done := false; !done; {
			data, n, end, err := body.Next(b)
			if err != nil {
				return got, start, err
			}
			m.body += string(data)
			if b, done = b[n:], end; !done && len(b) == 0 {
				return got, start, ErrUnexpectedEnd
			}
		}
		for _, f := range body.Trailers() {
			m.trailer.Add(strings.Clone(f.Name), strings.Clone(f.Value))
		}
		got = append(got, m)
		if m.framing.Close {
			break
		}
	}
	return got, b, nil
}

// write serialises a message as the proxy would send it on.
func (m *message) write(dst []byte) []byte {
	dst = AppendRequest(dst, &m.req, m.framing)
	if m.framing.Length == Chunked {
		return AppendLastChunk(AppendChunk(dst, []byte(m.body)), m.trailer)
	}
	return append(dst, m.body...)
}

// status returns the status that err asks for; 0 for nil.
func status(err error) int {
	var p *ParseError
	if !errors.As(err, &p) {
		return 0
	}
	return p.Status
}
