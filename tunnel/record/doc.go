// Package record is the record layer of TLS 1.3 (RFC 8446 section 5) for
// connections whose handshake crypto/tls has done.
//
//	handshake: crypto/tls ──traffic secrets──► Secrets ──► New ─► Opener   received records → bytes
//	                                                         └──► Sealer   bytes → records to send
//
// Everything that decides who a peer is and what the keys are stays with
// crypto/tls. What is left is small: decrypt and authenticate, encrypt, number
// the records, answer a KeyUpdate, end with close_notify. Doing it here takes
// bytes from buffer to buffer without the copies that a net.Conn on either side
// of crypto/tls costs, keeps no buffers for a connection that is quiet, and
// lets the cipher be the fastest that the processor has (package aesgcm).
//
// The suites are those with AES-GCM. For others, and where FIPS 140-3 mode asks
// for Go's own validated module, New declines and the connection stays with crypto/tls.
package record

import (
	"errors"
	"strconv"
)

// Sizes of RFC 8446 section 5.
const (
	headerLen = 5
	maxPlain  = 1 << 14
	maxCipher = maxPlain + 256
	tagLen    = 16
	// MaxRecord is the largest record on the wire.
	MaxRecord = headerLen + maxCipher
	// Overhead is what sealing adds to each MaxPlain bytes.
	Overhead = headerLen + 1 + tagLen
	// MaxPlain is what one record carries at most.
	MaxPlain = maxPlain
)

// Content types of RFC 8446 section 5.1.
const (
	typeAlert     = 21
	typeHandshake = 22
	typeData      = 23
)

// Alert is an alert description of RFC 8446 section 6. As an error of Open it is
// what the peer did wrong, and is to be sent to it.
type Alert byte

// The alerts that this layer sends or understands.
const (
	alertCloseNotify       Alert = 0
	alertUnexpectedMessage Alert = 10
	alertBadRecordMAC      Alert = 20
	alertRecordOverflow    Alert = 22
	alertIllegalParameter  Alert = 47
	alertDecodeError       Alert = 50
	alertUserCanceled      Alert = 90
)

// Error says what the peer did.
func (a Alert) Error() string {
	switch a {
	case alertUnexpectedMessage:
		return "tls: record of an unexpected type"
	case alertBadRecordMAC:
		return "tls: bad record MAC"
	case alertRecordOverflow:
		return "tls: oversized record"
	case alertIllegalParameter, alertDecodeError:
		return "tls: malformed handshake message"
	default:
		return "tls: alert " + strconv.Itoa(int(a))
	}
}

// RemoteError is an alert that the peer sent.
type RemoteError struct{ Alert Alert }

// Error implements error.
func (e *RemoteError) Error() string {
	return "tls: the peer ended the connection with alert " + strconv.Itoa(int(e.Alert))
}

var errSecrets = errors.New("tls: the handshake left no traffic secrets")
