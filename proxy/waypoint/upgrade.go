package waypoint

import (
	"crypto/fips140"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h1"
	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// An upgraded exchange is bytes both ways. How it comes about differs by the
// version of HTTP, and the two sides need not have the same:
//
//	HTTP/1.1   GET, Upgrade: websocket, Sec-WebSocket-Key  ─►  101, Sec-WebSocket-Accept    RFC 6455
//	HTTP/2     CONNECT, :protocol websocket                ─►  200                          RFC 8441
//
// Inside, it is the former always: policies and routes see a GET, as with Envoy.
// WebSocket is the one protocol that is translated. From HTTP/1.1 to HTTP/1.1 any
// protocol goes through that package h1 lets be named, which is not HTTP itself
// or TLS; to an endpoint of HTTP/2 such a request goes without its upgrade, which a
// server may always ignore; and an HTTP/2 client that asks for another gets 501.

const webSocket = "websocket"

// webSocket reports whether the request asks for a WebSocket.
func (x *exchange) webSocket() bool {
	return x.reqF.Upgrade == webSocket && x.req.Method == http.MethodGet
}

// connectFromH2 makes an HTTP/1.1 upgrade of an extended CONNECT.
func connectFromH2(protocol string, req *mesh.Request, f *h1.Framing) error {
	if !strings.EqualFold(protocol, webSocket) {
		return &h1.ParseError{Status: http.StatusNotImplemented, Reason: "http2.unknown_connect_protocol"}
	}
	if f.HasDeclared {
		return errMalformed // what follows is not content
	}
	f.Upgrade, f.Length, f.Expect100, f.Trailers = webSocket, 0, false, false
	req.Fields.Del("sec-websocket-key") // HTTP/1.1's alone, RFC 8441 section 5
	return nil
}

// connectToH2 makes an extended CONNECT of a request that asks for a WebSocket.
func connectToH2(f []hpack.HeaderField) []hpack.HeaderField {
	out := make([]hpack.HeaderField, 0, len(f)+1)
	for _, x := range f {
		switch x.Name {
		case ":method":
			x = hpack.HeaderField{Name: ":method", Value: http.MethodConnect}
		case "sec-websocket-key", "te":
			continue
		}
		out = append(out, x)
		if x.Name == ":path" { // the last of the others
			out = append(out, hpack.HeaderField{Name: ":protocol", Value: webSocket})
		}
	}
	return out
}

// askForWebSocket adds what HTTP/1.1 wants in a request that came by HTTP/2.
func (x *exchange) askForWebSocket() {
	var key [16]byte
	_, _ = rand.Read(key[:]) // it does not fail
	x.req.Fields.Set("sec-websocket-key", base64.StdEncoding.EncodeToString(key[:]))
	if !x.req.Fields.Has("sec-websocket-version") {
		x.req.Fields.Add("sec-websocket-version", "13")
	}
}

// acceptKey is the Sec-WebSocket-Accept for the request's key.
func (x *exchange) acceptKey() string {
	key, _ := x.req.Fields.Get("sec-websocket-key")
	var sum [sha1.Size]byte
	hash := func() { sum = sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) }
	// It proves that the endpoint speaks WebSocket and secures nothing, so FIPS
	// 140-3 mode has no say in it.
	if fips140.Enforced() {
		fips140.WithoutEnforcement(hash)
	} else {
		hash()
	}
	return base64.StdEncoding.EncodeToString(sum[:])
}

// accepted reports whether the endpoint has understood our key: what switches
// without it is not a WebSocket server.
func (x *exchange) accepted() bool {
	got, _ := x.resp.Fields.Get("sec-websocket-accept")
	return got == x.acceptKey()
}

var (
	errNotSwitched = errors.New("endpoint did not switch to websocket")
	errAccept      = errors.New("endpoint switched protocols with a wrong Sec-WebSocket-Accept")
)

// translateSwitch turns the answer to the upgrade into the client's version.
func (x *exchange) translateSwitch() {
	switch {
	case x.req.Proto == 2:
		x.resp.Status = 200
		x.resp.Fields.Del("sec-websocket-accept")
		x.respF = h1.Framing{Length: h1.Chunked}
	case x.resp.Status != 101: // by HTTP/2
		x.resp.Status = 101
		x.resp.Fields.Del("sec-websocket-accept")
		if x.req.Fields.Has("sec-websocket-key") {
			x.resp.Fields.Add("sec-websocket-accept", x.acceptKey())
		}
		x.respF = h1.Framing{NoBody: true, Upgrade: webSocket}
	}
}

// switched passes the answer that grants an upgrade on; from now on both sides
// are bytes. It reports false when a filter had another answer.
func (x *exchange) switched(t *loop.Turn) bool {
	x.translateSwitch()
	if !x.filterResponse(t) {
		x.answer(t, &x.fx.Reply)
		return false
	}
	if x.adm() != nil {
		x.judge(t, &x.attempt)
	}
	x.respStarted = true
	x.upDuration = t.Now.Sub(x.upStart)
	x.due, x.attempt.due = 0, 0
	x.down.sendHead(t, nil, false)
	x.phase = upgraded
	x.reqDone = false           // the request is, but not what the client has to say
	switch s := x.down.(type) { // the client may not have waited for the answer
	case *h1Server:
		s.state = h1Tunnel
		if len(s.in) > 0 || s.clientDone {
			s.feed(t, nil)
		}
	case *h2Request:
		early := *s.early
		s.forgetEarly()
		if len(early.b) > 0 || early.end {
			x.tunnelData(t, early.b, early.end)
		}
	}
	return x.phase == upgraded
}

// earlyBytes is what a client of HTTP/2 sends into a tunnel that is not granted
// yet. It is not credited, so the stream's window bounds it.
type earlyBytes struct {
	b   []byte
	end bool
}

// tunnelData takes what a client sends after an extended CONNECT. x.mu is held.
func (r *h2Request) tunnelData(t *loop.Turn, b []byte, end bool) {
	switch r.x.phase {
	case upgraded:
		r.x.tunnelData(t, b, end)
	case idle: // refused
		r.credit(t, len(b))
	default:
		r.early.b, r.early.end = append(r.early.b, b...), r.early.end || end
		r.x.tun.p.o.Budget.Add(len(b))
	}
}

// forgetEarly lets go of early bytes, if there are any.
func (r *h2Request) forgetEarly() {
	if r.early != nil && len(r.early.b) > 0 {
		r.x.tun.p.o.Budget.Add(-len(r.early.b))
		r.early.b = nil
	}
}

// tunnelData takes the client's bytes after an upgrade.
func (x *exchange) tunnelData(t *loop.Turn, b []byte, end bool) {
	if x.phase != upgraded || x.up == nil {
		x.down.credit(t, len(b))
		return
	}
	x.touch(t)
	x.bytesIn += uint64(len(b))
	x.up.sendData(t, b, end)
	x.owedReq += len(b)
	x.creditRequest(t)
	if end {
		x.reqDone = true
		x.endTunnel(t)
	}
}

// tunnelResponse takes the endpoint's bytes after an upgrade.
func (x *exchange) tunnelResponse(t *loop.Turn, b []byte, end bool) {
	x.touch(t)
	x.bytesOut += uint64(len(b))
	x.down.sendData(t, b, end)
	x.oweResponse(t, len(b))
	if end {
		x.upFinished = true
		x.endTunnel(t)
	}
}

// endTunnel ends the exchange once both directions have.
func (x *exchange) endTunnel(t *loop.Turn) {
	if !x.reqDone || !x.upFinished {
		return
	}
	up := x.up
	x.up = nil
	if up != nil {
		up.release(t)
	}
	x.endTries()
	x.report(t)
	x.reset()
	if s, ok := x.down.(*h1Server); ok {
		s.die()
		s.x.tun.closed()
	}
}
