package record

import (
	"io"
	"slices"
)

// Opener is the receiving direction. It belongs to the connection's reader.
type Opener struct {
	// Asked is set when the peer wants our keys updated too: the caller tells
	// the Sealer, and clears it.
	Asked bool

	keys
	client  bool
	hand    []byte // a handshake message that is not complete
	useless int    // records in a row that brought nothing
}

// maxUseless bounds empty records, tickets and key updates in a row, as
// crypto/tls does.
const maxUseless = 16

// maxHandshake bounds a message after the handshake: a session ticket.
const maxHandshake = 16 << 10

// Size returns how long the record at the beginning of b is, or of how many
// bytes that can be told.
func Size(b []byte) int {
	if len(b) < headerLen {
		return headerLen
	}
	return headerLen + int(b[3])<<8 + int(b[4])
}

// Open decrypts the whole records at the beginning of b and appends what they
// carry to dst, which must not overlap b. It returns how much of b it used. The
// error is io.EOF after the peer's close_notify, an Alert for what the peer did
// wrong, or a *RemoteError; out then holds what came before.
func (o *Opener) Open(dst, b []byte) (out []byte, used int, err error) {
	for len(b) >= headerLen {
		head := b[:headerLen]
		// After the handshake every record is one of encrypted data.
		if head[0] != typeData || head[1] != 3 || head[2] != 3 {
			return dst, used, alertUnexpectedMessage
		}
		n := Size(b) - headerLen
		switch {
		case n > maxCipher:
			return dst, used, alertRecordOverflow
		case n <= tagLen:
			return dst, used, alertBadRecordMAC
		case len(b) < headerLen+n:
			return dst, used, nil
		}
		if dst, err = o.record(dst, head, b[headerLen:headerLen+n]); err != nil {
			return dst, used, err
		}
		used += headerLen + n
		b = b[headerLen+n:]
	}
	return dst, used, nil
}

// record decrypts one record.
func (o *Opener) record(dst, head, b []byte) ([]byte, error) {
	dst = slices.Grow(dst, len(b))
	at := len(dst)
	p, err := o.aead.Open(dst[at:at], o.next(), b, head)
	if err != nil {
		return dst, alertBadRecordMAC
	}
	// TLSInnerPlaintext: content, its type, and zeros (RFC 8446 section 5.4).
	i := len(p) - 1
	for i >= 0 && p[i] == 0 {
		i--
	}
	switch {
	case i < 0:
		return dst, alertUnexpectedMessage
	case i > maxPlain:
		return dst, alertRecordOverflow
	}
	typ, content := p[i], p[:i]
	if len(o.hand) > 0 && typ != typeHandshake {
		return dst, alertUnexpectedMessage
	}
	switch typ {
	case typeData:
		if len(content) == 0 {
			return dst, o.nothing()
		}
		o.useless = 0
		return dst[:at+len(content)], nil
	case typeAlert:
		return dst, o.alert(content)
	case typeHandshake:
		return dst, o.handshake(content)
	}
	return dst, alertUnexpectedMessage
}

func (o *Opener) nothing() error {
	if o.useless++; o.useless > maxUseless {
		return alertUnexpectedMessage
	}
	return nil
}

func (o *Opener) alert(b []byte) error {
	if len(b) != 2 {
		return alertDecodeError
	}
	switch a := Alert(b[1]); a {
	case alertCloseNotify:
		return io.EOF
	case alertUserCanceled: // a close_notify follows it
		return o.nothing()
	default:
		return &RemoteError{a}
	}
}

// Handshake types of RFC 8446 section 4.
const (
	newSessionTicket = 4
	keyUpdate        = 24
)

// handshake takes messages that may come after the handshake.
func (o *Opener) handshake(b []byte) error {
	if len(b) == 0 {
		return alertUnexpectedMessage
	}
	o.hand = append(o.hand, b...)
	for len(o.hand) >= 4 {
		n := int(o.hand[1])<<16 | int(o.hand[2])<<8 | int(o.hand[3])
		if n > maxHandshake {
			return alertIllegalParameter
		}
		if len(o.hand) < 4+n {
			break
		}
		if err := o.message(o.hand[0], o.hand[4:4+n], len(o.hand) == 4+n); err != nil {
			return err
		}
		o.hand = o.hand[4+n:]
	}
	if len(o.hand) == 0 {
		o.hand = nil
	}
	return nil
}

// message handles one; last says that its record ends with it.
func (o *Opener) message(typ byte, body []byte, last bool) error {
	if err := o.nothing(); err != nil {
		return err
	}
	switch {
	case typ == newSessionTicket && o.client:
		return nil // sessions are not resumed
	case typ != keyUpdate || !last: // what follows it has other keys
		return alertUnexpectedMessage
	case len(body) != 1:
		return alertDecodeError
	case body[0] > 1:
		return alertIllegalParameter
	}
	o.Asked = o.Asked || body[0] == 1
	return o.update()
}
