package h1

// Values of Framing.Length that are not a number of bytes.
const (
	// Chunked is content in chunks, ended by the last chunk.
	Chunked int64 = -1
	// UntilClose is content that ends with the connection (responses only).
	UntilClose int64 = -2
)

// Framing is what a head says about the connection and the extent of its
// message: all that is hop-by-hop. It is made by ParseRequest and
// ParseResponse, and tells AppendRequest and AppendResponse what to write.
type Framing struct {
	// Length is the number of content bytes that follow the head on the wire;
	// 0 is none, Chunked and UntilClose as named.
	Length int64
	// Declared is, for a response without content by rule (NoBody), the
	// Content-Length that it declares all the same: what GET would have given.
	// It counts only when HasDeclared is set.
	Declared    int64
	HasDeclared bool
	// NoBody marks a response that ends with its head whatever Length or
	// Declared say: to HEAD, and 1xx, 204, 304. Set it for AppendResponse too.
	NoBody bool
	// Close says that the connection ends after this message.
	Close bool
	// KeepAlive10 is set for an HTTP/1.0 message that asks to keep the
	// connection. Set in a response, it tells the HTTP/1.0 client that it may.
	KeepAlive10 bool
	// Expect100 is set when the client waits for 100 (Continue).
	Expect100 bool
	// Trailers is set when the client says that it understands trailers.
	Trailers bool
	// Upgrade is the protocol, in lower case, that a request asks for or that
	// a 101 response switches to; empty when there is no upgrade to speak of.
	Upgrade string
}
