// Package h1 is a strict, incremental HTTP/1.1 codec: it turns message heads
// into mesh.Request and mesh.Response, decodes bodies, and writes both.
//
//	bytes ─► FindHeadEnd ─► ParseRequest ─► mesh.Request + Framing
//	                   rest ─► Body.Next  ─► data, data, …, done (Trailers)
//
//	mesh.Request + Framing ─► AppendRequest ─► bytes, then AppendChunk or plain data
//
// Nothing here reads, blocks or starts a goroutine: the caller pushes in what
// it has, and is told how much was used. Nothing here allocates on the ordinary
// way either; strings alias the caller's buffer (see ParseRequest).
//
// # One meaning, or none
//
// A proxy and its backend must agree on where each message ends, and a policy
// must see what the backend sees. So whatever two implementations are known to
// read differently is refused rather than repaired: bare CR or LF, obs-fold,
// white space before a colon, repeated Host or Content-Length, Content-Length
// beside Transfer-Encoding, any coding but a single "chunked", a number with a
// sign. And what is passed on is never the received bytes: AppendRequest writes
// a new head from the parsed facts, with exactly one host and one framing field
// chosen by Framing, so that a disagreement has nothing to live in.
//
// Stricter than RFC 9112 demands, on purpose:
//
//   - Identical duplicates of Content-Length, and lists in it, are refused.
//   - Methods with lower-case letters are refused (501), because some backends
//     fold them and a policy on GET would not see "get".
//   - Host must not be empty, carry a percent sign, a comma or an empty port.
//   - Chunk sizes take no white space, and at most 16 digits.
//   - An upgrade is honoured only for one protocol, on a request without content.
//
// # Paths
//
// Paths are normalised as by Istio's default (BASE) before anything looks at
// them, see NormalizePath, and the normalised path is what is sent on.
//
// # Concurrency
//
// Functions hold no state. A Body or ChunkDecoder belongs to one goroutine.
package h1
