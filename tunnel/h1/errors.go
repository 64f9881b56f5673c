package h1

import "cairnproxy.dev/cairn/mesh"

// ParseError says why a message was refused. All of them are static: making one
// costs nothing, and none carries bytes of the message.
//
// After a ParseError the connection cannot be used any more, because where the
// next message begins is unknown: answer and close. For a response the answer
// is 502 whatever Status says.
type ParseError struct {
	// Status is the HTTP status to answer a request with.
	Status int
	// Reason is a short English text.
	Reason string
}

// Error returns the reason.
func (e *ParseError) Error() string { return "parsing HTTP/1: " + e.Reason }

var (
	errHeadEnd         = &ParseError{400, "head does not end with one empty line"}
	errRequestLine     = &ParseError{400, "malformed request line"}
	errStatusLine      = &ParseError{400, "malformed status line"}
	errVersion         = &ParseError{400, "malformed HTTP version"}
	errVersionUnknown  = &ParseError{505, "HTTP version is neither 1.0 nor 1.1"}
	errMethod          = &ParseError{400, "method is not a token"}
	errMethodUnknown   = &ParseError{501, "method is longer than 32 bytes or not in upper case"}
	errConnect         = &ParseError{501, "CONNECT is not served here"}
	errTarget          = &ParseError{400, "malformed request target"}
	errTargetByte      = &ParseError{400, "request target holds an illegal byte"}
	errEscape          = &ParseError{400, "path holds a malformed or zero percent escape"}
	errScheme          = &ParseError{400, "absolute target is neither http nor https"}
	errDotSegment      = &ParseError{400, "path holds a dot segment that servers resolve differently"}
	errOverlong        = &ParseError{400, "path holds an overlong UTF-8 sequence"}
	errAuthority       = &ParseError{400, "malformed authority"}
	errUserinfo        = &ParseError{400, "authority holds user information"}
	errHostMissing     = &ParseError{400, "HTTP/1.1 request without Host"}
	errHostTwice       = &ParseError{400, "more than one Host"}
	errFieldName       = &ParseError{400, "field name is not a token, or white space before the colon"}
	errFieldFold       = &ParseError{400, "folded field line"}
	errFieldValue      = &ParseError{400, "field value holds a control byte"}
	errBareLine        = &ParseError{400, "CR or LF by itself"}
	errUnderscore      = &ParseError{400, "field name holds an underscore"}
	errFramingAlias    = &ParseError{400, "field name imitates a framing field"}
	errLength          = &ParseError{400, "malformed Content-Length"}
	errLengthTwice     = &ParseError{400, "more than one Content-Length"}
	errLengthAndCoding = &ParseError{400, "both Content-Length and Transfer-Encoding"}
	errCoding          = &ParseError{400, "malformed or repeated Transfer-Encoding"}
	errCodingUnknown   = &ParseError{501, "Transfer-Encoding is not exactly chunked"}
	errCodingOld       = &ParseError{400, "Transfer-Encoding in HTTP/1.0"}
	errConnection      = &ParseError{400, "malformed Connection"}
	errNominated       = &ParseError{400, "Connection names a field that is not hop-by-hop"}
	errExpect          = &ParseError{417, "unknown expectation"}
	errNoContent       = &ParseError{400, "content declared for a status that has none"}
	errSwitch          = &ParseError{400, "status 101 without a single Upgrade protocol"}
	errHeadSize        = &ParseError{431, "head is too large"}
	errTargetSize      = &ParseError{414, "request line is too large"}
	errFieldCount      = &ParseError{431, "too many fields"}
	errChunkSize       = &ParseError{400, "malformed chunk size"}
	errChunkExt        = &ParseError{400, "malformed or oversized chunk extension"}
	errChunkEnd        = &ParseError{400, "chunk data not followed by CRLF"}
	errTrailerSize     = &ParseError{431, "trailer section is too large"}
)

// ErrUnexpectedEnd says that the connection ended within a message.
var ErrUnexpectedEnd error = &ParseError{400, "connection ended within a message"}

// Limits bounds what a peer may send. The zero value of a field means its
// default, and a nil *Limits means all defaults.
type Limits struct {
	// MaxHead is the largest head in bytes; 60 KiB (Envoy's) by default.
	MaxHead int
	// MaxFields is the largest number of field lines in a head, and in a
	// trailer section; 100 (Envoy's) by default.
	MaxFields int
	// MaxTrailer is the largest trailer section in bytes; 16 KiB by default.
	MaxTrailer int
	// RefuseUnderscores refuses field names with an underscore, which backends
	// in the CGI tradition cannot tell from a hyphen.
	RefuseUnderscores bool
	// Paths is how far paths are normalised; BASE by default.
	Paths mesh.PathLevel
}

// PathLevel returns how far paths are normalised.
func (l *Limits) PathLevel() mesh.PathLevel {
	if l == nil {
		return mesh.PathBase
	}
	return l.Paths
}

const (
	defaultMaxHead    = 60 << 10
	defaultMaxFields  = 100
	defaultMaxTrailer = 16 << 10
)

func (l *Limits) maxHead() int {
	if l == nil || l.MaxHead <= 0 {
		return defaultMaxHead
	}
	return l.MaxHead
}

func (l *Limits) maxFields() int {
	if l == nil || l.MaxFields <= 0 {
		return defaultMaxFields
	}
	return l.MaxFields
}

func (l *Limits) maxTrailer() int {
	if l == nil || l.MaxTrailer <= 0 {
		return defaultMaxTrailer
	}
	return l.MaxTrailer
}

// HeadTooLarge returns the error to answer with when b, the beginning of a
// request whose head has not ended, is longer than MaxHead (414 when not even
// the request line has ended, 431 otherwise), and nil when it is not.
func HeadTooLarge(b []byte, lim *Limits) error {
	if len(b) <= lim.maxHead() {
		return nil
	}
	for i := skipEmptyLines(b); i < len(b); i++ {
		if b[i] == '\n' {
			return errHeadSize
		}
	}
	return errTargetSize
}
