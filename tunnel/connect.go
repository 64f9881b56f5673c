package tunnel

import (
	"net/netip"
	"strconv"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// Connect is one CONNECT request from an authenticated peer.
type Connect struct {
	// Authority is as sent; Host, Port and, for an address, Dst are it parsed.
	Authority string
	Host      string
	Port      uint16
	Dst       netip.AddrPort
	// Peer is the authenticated other end of the connection.
	Peer mesh.Peer
	// Certificate is what the peer was authenticated by.
	Certificate *Certificate
	// Local is the address at which the connection was accepted.
	Local netip.AddrPort
	// The headers that HBONE knows, as sent; empty when absent. Nothing in
	// them is authenticated beyond the peer that sent them.
	Baggage     string
	Forwarded   string
	Traceparent string
	Network     string // x-forwarded-network

	st     *h2.Stream
	stream *Stream // the blocking form
}

// parse fills in the request, and reports whether it is a CONNECT as HBONE has it.
func (c *Connect) parse(fields []hpack.HeaderField) bool {
	method := ""
	regular := false
	var baggage []byte // of several lines
	for i := range fields {
		f := &fields[i]
		if len(f.Name) > 0 && f.Name[0] == ':' {
			if regular {
				return false
			}
			switch {
			case f.Name == ":method" && method == "":
				method = f.Value
			case f.Name == ":authority" && c.Authority == "":
				c.Authority = f.Value
			default: // :path and :scheme have no place in a CONNECT, RFC 9113 section 8.5
				return false
			}
			continue
		}
		regular = true
		switch f.Name {
		case "baggage":
			switch {
			case c.Baggage == "":
				c.Baggage = f.Value
			case len(c.Baggage)+len(baggage) <= maxBaggage: // more is not looked at
				baggage = append(append(baggage, ','), f.Value...)
			}
		case "forwarded":
			c.Forwarded = f.Value
		case "traceparent":
			if ValidTraceparent(f.Value) {
				c.Traceparent = f.Value
			}
		case "x-forwarded-network":
			c.Network = f.Value
		}
	}
	if method != "CONNECT" {
		return false
	}
	if baggage != nil {
		c.Baggage += string(baggage)
	}
	a, err := ParseAuthority(c.Authority)
	if err != nil {
		return false
	}
	c.Host, c.Port, c.Dst = a.Host, a.Port, a.Addr
	return true
}

// Accept answers 200 with further fields and returns the stream.
func (c *Connect) Accept(fields ...mesh.Field) *Stream {
	loop.Run(func(t *loop.Turn) { c.st.WriteHeaders(t, acceptFields(fields), false) })
	return c.stream
}

// Reject answers with a status and ends the stream.
func (c *Connect) Reject(status int) {
	loop.Run(func(t *loop.Turn) { c.RejectInline(t, status) })
}

// Done is closed when the peer reset the stream or its connection ended
// before Accept; for the blocking form only.
func (c *Connect) Done() <-chan struct{} { return c.stream.reset }

// AcceptInline answers 200, makes h the stream's handler and returns the stream.
func (c *Connect) AcceptInline(t *loop.Turn, h h2.StreamHandler, fields ...mesh.Field) *h2.Stream {
	c.st.Handle(h)
	c.st.WriteHeaders(t, acceptFields(fields), false)
	return c.st
}

// RejectInline is Reject within a turn.
func (c *Connect) RejectInline(t *loop.Turn, status int) { rejectStream(t, c.st, status) }

// Stream is the HTTP/2 stream of the request, for Inline handlers.
func (c *Connect) Stream() *h2.Stream { return c.st }

var plainAccept = []hpack.HeaderField{{Name: ":status", Value: "200"}}

func acceptFields(fields []mesh.Field) []hpack.HeaderField {
	if len(fields) == 0 {
		return plainAccept
	}
	out := append(make([]hpack.HeaderField, 0, 1+len(fields)), plainAccept...)
	for _, f := range fields {
		out = append(out, hpack.HeaderField{Name: f.Name, Value: f.Value})
	}
	return out
}

func statusText(status int) string { return strconv.Itoa(status) }
