package websocket

import (
	"bufio"
	"context"
	"crypto/fips140"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// idle is how long a connection may be silent, and how long one write may take.
	idle         = 10 * time.Minute
	writeTimeout = 30 * time.Second
	// closeWait is how long the client has to answer our close frame.
	closeWait = time.Second
	// fragment is the most payload that one frame of ours carries.
	fragment = 32 << 10
	// maxControl is the most payload a control frame may carry (section 5.5).
	maxControl = 125
)

// The opcodes of section 5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa
)

// The close codes of section 7.4.1 that this server sends of its own accord.
const (
	codeNormal    = 1000
	codeGoingAway = 1001
	codeProtocol  = 1002
	codeNoStatus  = 1005 // never on the wire: "the close frame was empty"
	codeBadData   = 1007
)

// closing is the error that ends a connection with a close frame.
type closing struct {
	code   uint16
	reason string
}

func (c *closing) Error() string { return fmt.Sprintf("closing with %d: %s", c.code, c.reason) }

func violation(reason string) error { return &closing{codeProtocol, reason} }

// Echo takes the connection of r over and echoes until the client closes, ctx
// is done (the client is told "going away", 1001), or the connection fails. A
// request that is no WebSocket handshake is answered with 400, 405 or 426 and
// Echo returns why; every connection that closed in order returns nil.
func Echo(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	accept, status, err := handshake(r)
	if err != nil {
		w.Header().Set("Sec-WebSocket-Version", "13")
		if status == http.StatusUpgradeRequired {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "websocket")
		}
		http.Error(w, err.Error(), status)
		return err
	}
	nc, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "this connection cannot be upgraded", http.StatusInternalServerError)
		return fmt.Errorf("taking over the connection: %w", err)
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("clearing the connection's deadline: %w", err)
	}
	c := &conn{nc: nc, r: rw.Reader, w: rw.Writer}
	fmt.Fprintf(c.w, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept)
	if err := c.flush(); err != nil {
		return err
	}
	// A read that waits is interrupted by a deadline in the past.
	stop := context.AfterFunc(ctx, func() { _ = nc.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	return c.end(ctx, c.echo(ctx))
}

// handshake checks r against section 4.2.1 and returns the value of
// Sec-WebSocket-Accept, or the status to refuse with.
func handshake(r *http.Request) (accept string, status int, err error) {
	switch {
	case !headerHas(r.Header, "Upgrade", "websocket") || !headerHas(r.Header, "Connection", "upgrade"):
		return "", http.StatusUpgradeRequired, errors.New("this path speaks WebSocket: the request must ask to upgrade to it")
	case r.Method != http.MethodGet:
		return "", http.StatusMethodNotAllowed, errors.New("a WebSocket handshake is a GET")
	case r.ProtoMajor != 1 || r.ProtoMinor < 1:
		return "", http.StatusBadRequest, errors.New("a WebSocket handshake is HTTP/1.1")
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return "", http.StatusUpgradeRequired, errors.New("only version 13 of WebSocket is spoken here")
	}
	key := r.Header.Get("Sec-WebSocket-Key")
	if b, err := base64.StdEncoding.DecodeString(key); err != nil || len(b) != 16 {
		return "", http.StatusBadRequest, errors.New("Sec-WebSocket-Key is not 16 bytes of base64")
	}
	// The constant of section 1.3; SHA-1 proves nothing here but understanding.
	var sum [sha1.Size]byte
	fips140.WithoutEnforcement(func() { sum = sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) })
	return base64.StdEncoding.EncodeToString(sum[:]), 0, nil
}

// headerHas reports whether the comma-separated header name contains token.
func headerHas(h http.Header, name, token string) bool {
	for _, v := range h.Values(name) {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// conn is one connection after the handshake. One goroutine owns it.
type conn struct {
	nc  net.Conn
	r   *bufio.Reader
	w   *bufio.Writer
	buf []byte // payload on its way; allocated by the first data frame

	// The message being echoed: its opcode (0: none), the opcode of our next
	// fragment, and what is known of its text.
	message byte
	next    byte
	text    utf8Check
}

// echo sends back every message until something ends the connection; that is
// the error it returns.
func (c *conn) echo(ctx context.Context) error {
	for {
		if err := c.nc.SetReadDeadline(time.Now().Add(idle)); err != nil {
			return err
		}
		if ctx.Err() != nil { // after the deadline was set: it may just have overwritten the interruption
			return &closing{codeGoingAway, "the server is going away"}
		}
		h, err := readHeader(c.r)
		if err != nil {
			return err
		}
		if h.op >= opClose {
			err = c.control(h)
		} else {
			err = c.data(h)
		}
		if err != nil {
			return err
		}
		if c.r.Buffered() == 0 {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
}

// data echoes one data frame, in fragments.
func (c *conn) data(h header) error {
	switch {
	case h.op == opContinuation && c.message == 0:
		return violation("continuation of no message")
	case h.op != opContinuation && c.message != 0:
		return violation("a message began inside another")
	case h.op != opContinuation:
		c.message, c.next, c.text = h.op, h.op, utf8Check{}
	}
	if c.buf == nil {
		c.buf = make([]byte, fragment)
	}
	for left, at := h.length, 0; ; {
		p := c.buf[:min(left, fragment)]
		if _, err := io.ReadFull(c.r, p); err != nil {
			return fmt.Errorf("reading a payload: %w", err)
		}
		at = unmask(h.mask, at, p)
		left -= uint64(len(p))
		fin := h.fin && left == 0
		if c.message == opText && !c.text.write(p, fin) {
			return &closing{codeBadData, "text that is not UTF-8"}
		}
		if err := c.writeFrame(fin, c.next, p); err != nil {
			return err
		}
		c.next = opContinuation
		if left == 0 {
			break
		}
		if err := c.nc.SetReadDeadline(time.Now().Add(idle)); err != nil {
			return err
		}
	}
	if h.fin {
		c.message = 0
	}
	return nil
}

// control answers one control frame; a close frame ends the connection.
func (c *conn) control(h header) error {
	p := make([]byte, h.length)
	if _, err := io.ReadFull(c.r, p); err != nil {
		return fmt.Errorf("reading a control frame: %w", err)
	}
	unmask(h.mask, 0, p)
	switch h.op {
	case opPing:
		return c.writeFrame(true, opPong, p)
	case opClose:
		return closeReply(p)
	}
	return nil // a pong nobody asked for (section 5.5.3)
}

// closeReply checks the payload of a close frame and returns the closing that
// answers it (section 5.5.1).
func closeReply(p []byte) error {
	if len(p) == 0 {
		return &closing{code: codeNoStatus}
	}
	if len(p) == 1 {
		return violation("half a close code")
	}
	code := binary.BigEndian.Uint16(p)
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014, code >= 3000 && code <= 4999:
	default:
		return violation("a close code that must not be sent")
	}
	if !utf8.Valid(p[2:]) {
		return &closing{codeBadData, "a reason that is not UTF-8"}
	}
	return &closing{code: code}
}

// end closes the connection as err, the error of echo, asks for.
func (c *conn) end(ctx context.Context, err error) error {
	var cl *closing
	if !errors.As(err, &cl) {
		if ctx.Err() == nil {
			return err
		}
		cl = &closing{codeGoingAway, "the server is going away"}
	}
	var p []byte
	if cl.code != codeNoStatus {
		p = binary.BigEndian.AppendUint16(p, cl.code)
		p = append(p, cl.reason...)
	}
	if err := c.writeFrame(true, opClose, p); err != nil {
		return err
	}
	if err := c.flush(); err != nil {
		return err
	}
	// Closing with bytes unread would reset the connection and could take our
	// close frame with it: end our half and wait a moment for theirs.
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
		_ = c.nc.SetReadDeadline(time.Now().Add(closeWait))
		_, _ = io.CopyN(io.Discard, c.r, 1<<20)
	}
	if cl.reason != "" && cl.code != codeGoingAway {
		return cl
	}
	return nil
}

// writeFrame buffers one frame. Servers do not mask (section 5.1).
func (c *conn) writeFrame(fin bool, op byte, p []byte) error {
	if err := c.nc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	var b [10]byte
	h := append(b[:0], op)
	if fin {
		h[0] |= 0x80
	}
	switch n := len(p); {
	case n < 126:
		h = append(h, byte(n))
	case n <= 0xffff:
		h = binary.BigEndian.AppendUint16(append(h, 126), uint16(n))
	default:
		h = binary.BigEndian.AppendUint64(append(h, 127), uint64(n))
	}
	_, _ = c.w.Write(h) // bufio keeps the first error for the next call
	if _, err := c.w.Write(p); err != nil {
		return fmt.Errorf("writing a frame: %w", err)
	}
	return nil
}

func (c *conn) flush() error {
	if err := c.nc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if err := c.w.Flush(); err != nil {
		return fmt.Errorf("writing to the client: %w", err)
	}
	return nil
}
