package waypoint

import "cairnproxy.dev/cairn/tunnel/loop"

// switched passes a 101 response on; from now on both sides are bytes.
func (x *exchange) switched(t *loop.Turn) {
	if !x.filterResponse(t) {
		x.answer(t, &x.fx.Reply)
		return
	}
	if x.adm() != nil {
		x.judge(t, &x.attempt)
	}
	x.respStarted = true
	x.upDuration = t.Now.Sub(x.upStart)
	x.deadline.stop()
	x.tryDeadline.stop()
	x.down.sendHead(t, nil, false)
	x.phase = upgraded
	x.reqDone = false // the request is, but not what the client has to say
	if s, ok := x.down.(*h1Server); ok {
		s.state = h1Tunnel
		if len(s.in) > 0 || s.clientDone {
			s.feed(t, nil) // the client did not wait for the answer
		}
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
