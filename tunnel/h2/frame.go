package h2

import (
	"encoding/binary"
	"fmt"
)

// Frame types, RFC 9113 section 6.
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	framePriority     = 0x2
	frameRSTStream    = 0x3
	frameSettings     = 0x4
	framePushPromise  = 0x5
	framePing         = 0x6
	frameGoAway       = 0x7
	frameWindowUpdate = 0x8
	frameContinuation = 0x9
)

// Frame flags.
const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// Settings, RFC 9113 section 6.5.2 and RFC 8441.
const (
	settingHeaderTableSize      = 0x1
	settingEnablePush           = 0x2
	settingMaxConcurrentStreams = 0x3
	settingInitialWindowSize    = 0x4
	settingMaxFrameSize         = 0x5
	settingMaxHeaderListSize    = 0x6
	settingEnableConnect        = 0x8
)

const (
	frameHeaderLen = 9
	// maxFrameSize is what we accept; it is HTTP/2's initial value.
	maxFrameSize = 16384
	// maxDataLen is the payload of the DATA frames that we send: with its
	// header it fills one TLS record.
	maxDataLen    = 16384 - frameHeaderLen
	initialWindow = 65535
	maxWindow     = 1<<31 - 1
	preface       = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

// ErrCode is an HTTP/2 error code, RFC 9113 section 7.
type ErrCode uint32

// The error codes that Cairn sends or tells apart.
const (
	NoError            ErrCode = 0x0
	ProtocolError      ErrCode = 0x1
	InternalError      ErrCode = 0x2
	FlowControlError   ErrCode = 0x3
	SettingsTimeout    ErrCode = 0x4
	StreamClosed       ErrCode = 0x5
	FrameSizeError     ErrCode = 0x6
	RefusedStream      ErrCode = 0x7
	Cancel             ErrCode = 0x8
	CompressionError   ErrCode = 0x9
	ConnectError       ErrCode = 0xa
	EnhanceYourCalm    ErrCode = 0xb
	InadequateSecurity ErrCode = 0xc
	HTTP11Required     ErrCode = 0xd
)

var errNames = [...]string{
	"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
	"FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
	"INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
}

// String returns the RFC's name.
func (e ErrCode) String() string {
	if int(e) < len(errNames) {
		return errNames[e]
	}
	return fmt.Sprintf("0x%x", uint32(e))
}

// ConnError ends the connection: we send GOAWAY with Code.
type ConnError struct {
	Code   ErrCode
	Reason string
}

// Error implements error.
func (e *ConnError) Error() string { return "http2 connection: " + e.Code.String() + ": " + e.Reason }

// StreamError is why a stream was reset, by the peer (Remote) or by us.
type StreamError struct {
	Code   ErrCode
	Remote bool
	Reason string
}

// Error implements error.
func (e *StreamError) Error() string {
	who := "by us"
	if e.Remote {
		who = "by peer"
	}
	if e.Reason != "" {
		return "http2 stream reset " + who + ": " + e.Code.String() + ": " + e.Reason
	}
	return "http2 stream reset " + who + ": " + e.Code.String()
}

func connErr(code ErrCode, reason string) error { return &ConnError{code, reason} }

// appendFrame appends a frame header for n bytes of payload.
func appendFrame(b []byte, n int, typ, flags byte, id uint32) []byte {
	return append(b, byte(n>>16), byte(n>>8), byte(n), typ, flags, byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func appendSetting(b []byte, id uint16, v uint32) []byte {
	b = binary.BigEndian.AppendUint16(b, id)
	return binary.BigEndian.AppendUint32(b, v)
}
