package waypoint

import (
	"sync"

	"cairnproxy.dev/cairn/tunnel/loop"
)

// maxReplay is how much of a request body is kept for another try.
const maxReplay = 64 << 10

// maxAttempts is Istio's default of two retries.
const maxAttempts = 3

// failure is why an endpoint did not answer.
type failure struct {
	flag     string // Envoy's response flag
	reason   string // the words of Envoy's "reset reason"
	cause    string // for the log
	sent     bool   // the endpoint may have seen the request
	answered bool   // a part of the response had come
	status   int    // 0: 503
	text     string // what the client is told; "" is Envoy's words for reason
}

// upstreamFailed is called when the connection to the endpoint could not be
// made, or ended before the response did. sent is false when the endpoint
// cannot have seen the request.
func (x *exchange) upstreamFailed(t *loop.Turn, up endpointSide, f failure) {
	a := x.tryOf(up)
	if a == nil {
		return
	}
	a.up = nil
	x.cause = f.cause
	if x.respStarted {
		x.flag, x.details = f.flag, "upstream_reset_after_response_started{"+f.reason+"}"
		x.down.abort(t)
		x.abandon(t)
		return
	}
	if x.mayRetry(f) {
		x.retry(t)
		return
	}
	x.flag = f.flag
	x.replyFailure(t, f)
}

// mayRetry decides about another try: Istio's default retry policy, which
// names connect-failure, refused-stream and resets before the request was
// sent, plus connections that had been idle and turn out to be dead under an
// idempotent request.
func (x *exchange) mayRetry(f failure) bool {
	if x.attempts >= maxAttempts || x.noReplay || x.phase == upgraded {
		return false
	}
	if !f.sent {
		return true
	}
	return x.idleReuse && !f.answered && idempotent(x.req.Method)
}

func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// retry sends the request again, to another endpoint where there is one.
func (x *exchange) retry(t *loop.Turn) {
	if x.ep != nil && !x.idleReuse {
		x.hint.Exclude(x.ep)
	}
	x.leave(&x.attempt)
	if x.upReady {
		// What was sent comes again, before what has come since.
		x.reqBuf = append(append([]byte(nil), x.replay...), x.reqBuf...)
		x.replay = x.replay[:0]
		// These bytes were credited or are owed already.
		x.owedReq -= len(x.reqBuf)
		x.account()
	}
	x.upReady, x.reqSent, x.idleReuse = false, false, false
	x.phase = connecting
	x.connect(t)
}

// keepReplay keeps what is sent for another try, as long as it is little.
func (x *exchange) keepReplay(b []byte) {
	if x.noReplay || len(b) == 0 {
		return
	}
	if len(x.replay)+len(b) > maxReplay || x.respStarted {
		x.noReplay = true
		x.forgetReplay()
		return
	}
	if n := len(x.replay) + len(b); n > smallReplay && cap(x.replay) < maxReplay {
		x.replay = append(replayPool.Get().(*[maxReplay]byte)[:0], x.replay...)
	}
	x.replay = append(x.replay, b...)
}

// smallReplay is up to where a body is kept in memory of the exchange's own.
const smallReplay = 4 << 10

// replayPool has the memory for longer ones: each upload would leave it as
// garbage a moment later.
var replayPool = sync.Pool{New: func() any { return new([maxReplay]byte) }}

// forgetReplay lets go of what was kept.
func (x *exchange) forgetReplay() {
	if cap(x.replay) == maxReplay {
		replayPool.Put((*[maxReplay]byte)(x.replay[:maxReplay]))
		x.replay = nil
	}
	x.replay = x.replay[:0]
}
