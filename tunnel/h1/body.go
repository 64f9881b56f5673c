package h1

import "cairnproxy.dev/cairn/mesh"

// Body finds the extent of one message's content, whatever its framing. The
// zero value is a body of no content.
type Body struct {
	left   int64 // bytes to come, or Chunked, UntilClose
	chunks ChunkDecoder
}

// Reset prepares for the content that follows a head with framing f; lim may be
// nil and bounds trailers. Memory is kept.
func (d *Body) Reset(f Framing, lim *Limits) {
	d.left = f.Length
	if f.NoBody {
		d.left = 0
	}
	d.chunks.Reset(lim)
}

// Next is ChunkDecoder.Next for any framing. For a body without content it
// returns done at once. Until the connection closes, a body that ends with it
// is never done.
func (d *Body) Next(b []byte) (data []byte, n int, done bool, err error) {
	switch d.left {
	case Chunked:
		return d.chunks.Next(b)
	case UntilClose:
		return b, len(b), false, nil
	}
	n = len(b)
	if int64(n) >= d.left {
		n = int(d.left)
	}
	d.left -= int64(n)
	return b[:n], n, d.left == 0, nil
}

// End is called when the connection ends: it returns nil when that is the
// proper end of the body, and ErrUnexpectedEnd otherwise.
func (d *Body) End() error {
	if d.left == UntilClose || d.left == 0 || d.left == Chunked && d.chunks.state == chunkDone {
		return nil
	}
	return ErrUnexpectedEnd
}

// Trailers returns the trailer fields after Next has said done. They are valid
// until Reset.
func (d *Body) Trailers() mesh.Fields { return d.chunks.Trailers }
