package waypoint

import (
	"errors"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// h2Call is one exchange on an h2Client.
type h2Call struct {
	x        *exchange
	c        *h2Client
	st       *h2.Stream
	gotHead  bool
	connects bool  // it is an extended CONNECT
	left     int64 // of the declared content; negative: none was declared
	trailers mesh.Fields
}

// served returns the exchange, locked, or nil if it has turned away.
func (k *h2Call) served() *exchange {
	k.x.mu.Lock()
	if k.x.tryOf(k) == nil {
		k.x.mu.Unlock()
		return nil
	}
	return k.x
}

// sendHead implements endpointSide.
func (k *h2Call) sendHead(t *loop.Turn, x *exchange, body []byte, end bool) {
	var buf [32]hpack.HeaderField
	if x.reqF.Expect100 {
		// HTTP/2 endpoints are not asked; the client need not wait.
		x.responseInterim(t, &mesh.Response{Status: 100})
	}
	path := x.req.Path
	if x.req.HasQuery {
		path += "?" + x.req.Query
	}
	f := requestToH2(buf[:0], &x.req, &x.reqF, path, x.requestLent())
	if k.connects {
		if _, ok := k.c.inner.conn.PeerConnect(); !ok {
			x.useHTTP1 = true
			x.relaunchLater(t, x.tryOf(k))
			return
		}
		f, end = connectToH2(f), false
	}
	k.st = k.c.inner.conn.Open(t, k, f, end && len(body) == 0)
	if k.st == nil {
		// Others were quicker, or the endpoint has just said that it goes away.
		x.relaunchLater(t, x.tryOf(k))
		return
	}
	if len(body) > 0 {
		k.st.Write(t, body, end)
	}
	if k.c.used() {
		k.c.d.forgetH2(k.c)
		k.c.drain(t)
	}
}

func (k *h2Call) sendData(t *loop.Turn, b []byte, end bool) {
	if k.st != nil {
		k.st.Write(t, b, end)
	}
}

func (k *h2Call) sendTrailers(t *loop.Turn, trailers mesh.Fields) {
	if k.st != nil {
		var buf [8]hpack.HeaderField
		l := k.x.requestLent()
		if l.all {
			trailers = cloneFields(trailers) // they may have to wait for the window
		}
		k.st.WriteTrailers(t, appendFields(buf[:0], trailers, l))
	}
}

func (k *h2Call) credit(t *loop.Turn, n int) {
	if k.st != nil && n > 0 {
		k.st.Consumed(t, n)
	}
}

func (k *h2Call) congested() bool { return k.st != nil && k.st.Congested() }

// release implements endpointSide. An endpoint that has answered without taking
// all of the request never will.
func (k *h2Call) release(t *loop.Turn) {
	if local, _ := k.st.Ended(); !local {
		k.st.Reset(t, h2.Cancel)
	}
	k.c.d.wake(t, lineHTTP2)
}

func (k *h2Call) abort(t *loop.Turn) {
	if k.st != nil {
		k.st.Reset(t, h2.Cancel)
		k.c.d.wake(t, lineHTTP2)
	}
}

// Headers implements h2.StreamHandler.
func (k *h2Call) Headers(t *loop.Turn, st *h2.Stream, h *h2.Head) {
	x := k.served()
	if x == nil {
		return
	}
	defer x.mu.Unlock()
	if x.phase == upgraded {
		x.tunnelResponse(t, nil, true)
		return
	}
	if h.Trailer {
		tr, err := trailersFromH2(h, k.trailers[:0])
		if err != nil || k.left > 0 || h.TooLarge {
			k.fail(t, x, errMalformed)
			return
		}
		if k.trailers = tr; len(tr) == 0 {
			x.responseData(t, nil, true)
			return
		}
		x.responseTrailers(t, tr)
		return
	}
	if h.TooLarge {
		k.fail(t, x, errors.New("response header section too large"))
		return
	}
	if err := responseFromH2(h, x.req.Method, &x.resp, &x.respF); err != nil {
		k.fail(t, x, err)
		return
	}
	if x.resp.Status < 200 {
		if h.End {
			k.fail(t, x, errMalformed)
			return
		}
		if x.tooManyInterim() {
			k.fail(t, x, errInterim)
			return
		}
		x.responseInterim(t, &x.resp)
		return
	}
	k.gotHead = true
	if k.connects && x.resp.Status/100 == 2 {
		if x.switched(t) && h.End {
			x.tunnelResponse(t, nil, true)
		}
		return
	}
	k.left = x.respF.Length
	if x.respF.NoBody {
		k.left = 0
	}
	x.responseHead(t, k, nil, h.End)
}

// Data implements h2.StreamHandler.
func (k *h2Call) Data(t *loop.Turn, _ *h2.Stream, b []byte, end bool) {
	x := k.served()
	if x == nil {
		return
	}
	defer x.mu.Unlock()
	if x.phase == upgraded {
		x.tunnelResponse(t, b, end)
		return
	}
	if k.left >= 0 {
		k.left -= int64(len(b))
		if k.left < 0 || end && k.left > 0 {
			k.fail(t, x, errMalformed)
			return
		}
	}
	if len(b) > 0 || end {
		x.responseData(t, b, end)
	}
}

func (k *h2Call) fail(t *loop.Turn, x *exchange, err error) {
	k.st.Reset(t, h2.ProtocolError)
	k.c.d.wake(t, lineHTTP2)
	x.upstreamFailed(t, k, failure{flag: flagProtocolError, reason: "protocol error", cause: err.Error(), sent: true, answered: true, status: 502})
}

// Reset implements h2.StreamHandler.
func (k *h2Call) Reset(t *loop.Turn, _ *h2.Stream, err error) {
	x := k.served()
	if x == nil {
		return
	}
	defer x.mu.Unlock()
	f := failure{flag: flagRemoteReset, reason: "remote reset", cause: err.Error(), sent: true, answered: k.gotHead}
	var se *h2.StreamError
	switch {
	case errors.Is(err, h2.ErrHTTP1): // it has not understood a word
		f.flag, f.reason, f.status = flagProtocolError, "protocol error", 502
		f.text = "upstream speaks HTTP/1.1 only, and the request needs HTTP/2"
	case !errors.As(err, &se):
		f.flag, f.reason = flagConnectionTermination, "connection termination"
	case !se.Remote: // it broke the rules
		f.flag, f.reason, f.status = flagProtocolError, "protocol error", 502
	case se.Code == h2.RefusedStream: // RFC 9113 section 8.7: it was not processed
		f.sent, f.refused = false, true
	}
	k.c.d.wake(t, lineHTTP2)
	x.upstreamFailed(t, k, f)
}

// Writable implements h2.StreamHandler.
func (k *h2Call) Writable(t *loop.Turn, _ *h2.Stream) {
	if x := k.served(); x != nil {
		x.upstreamWritable(t)
		x.mu.Unlock()
	}
}
