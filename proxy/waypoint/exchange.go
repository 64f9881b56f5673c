package waypoint

import (
	"errors"
	"sync"
	"time"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h1"
	"cairnproxy.dev/cairn/tunnel/loop"
	"cairnproxy.dev/cairn/upstream"
)

// An exchange is one request and its response. It is a state machine that is
// driven from both sides and belongs to neither:
//
//	          begin                          upstreamReady           response head      both done
//	idle ───────────► routing ─► connecting ───────────────► open ───────────────► open ────────► idle
//	                     │            │                        │  response started       (finish)
//	                     │            └──── upstream failed ───┤
//	                     │                  before a response  │
//	                     │                  byte: retry, or    │
//	                     ▼                                     ▼
//	                   reply ◄─────────────────────────── reply / abort
//
// A filter that waits parks the exchange on its way through routing (park.go). A try of the request at
// one endpoint is an attempt (attempt.go); hedges (hedge.go) are others beside it, and mirrors
// (mirror.go) are exchanges of their own.
//
// Request bytes come from the downstream codec (h1Server, h2Request) and leave
// through the upstream codec (h1Client, h2Call); response bytes the other way.
// Whoever calls a method holds mu. The lock order is exchange, then its mirrors, then upstream
// connection's small locks, then connection queues; codecs call in with no
// connection lock held.
//
// Credit: request bytes are credited to the client when they are passed on and
// the upstream is not congested; response bytes likewise. What is not credited
// bounds what can wait here.
type exchange struct {
	mu    sync.Mutex
	tun   *clientTunnel
	down  clientSide
	phase phase

	req   mesh.Request
	reqF  h1.Framing
	resp  mesh.Response
	respF h1.Framing
	fx    filters.Exchange

	parked  *parking // nil: no filter waits
	rt      *Runtime // for the length of the exchange
	port    *servicePort
	rule    *rule
	backend *backend
	hint    upstream.Hint // which endpoints failed already, and which one is wanted
	stick   *sticky       // what keeps the client with it; nil for most
	mirrors *mirrorSet    // copies on their way; nil: none yet
	attempt               // the try under way
	extra   *extra        // nil: was never needed

	reqDone     bool // the client has sent everything
	reqSent     bool // and the upstream codec was given all of it
	respStarted bool // the response head went to the client
	upFinished  bool // the upstream's response is complete
	local       bool // the response is ours
	useHTTP1    bool // whatever the endpoint's port says: it does not take extended CONNECT

	reqBuf      []byte      // request bytes that wait for the upstream
	reqTrailers mesh.Fields // likewise
	replay      []byte      // request bytes sent so far, for another try
	held        int         // of both, what the budget knows of
	noReplay    bool        // more were sent than replay may hold
	retries     uint8       // by the retry policy
	interim     uint8       // 1xx heads so far
	stale       bool        // a connection that had been idle was dead
	slotted     bool        // it has a slot of adaptive concurrency
	slotAt      uint32      // when a slot was taken, in microseconds since start

	owedReq, owedResp int // bytes not credited, because the other side is congested

	start       time.Time
	upDuration  time.Duration
	bytesIn     uint64
	bytesOut    uint64
	flag        string // Envoy's response flag, "" for none
	details     string
	cause       string // upstream_transport_failure_reason
	grpcStatus  string
	requestID   []byte
	path        []byte           // as the client sent it
	clock       timer            // for what comes first: see clock.go
	onClock     func(*loop.Turn) // clockFired, made once
	due, armed  time.Duration    // of the whole request, and of clock; since start, 0 for none
	grpcTimeout time.Duration    // the client's; 0: none
	seq         uint32           // counts exchanges of this struct, for what is late
}

type phase uint8

const (
	idle phase = iota
	connecting
	open
	upgraded // after 101: bytes both ways
)

// clientSide is the codec towards the client. Calls come with the exchange locked.
type clientSide interface {
	// sendHead sends x.resp with x.respF, and the first bytes of its body.
	sendHead(t *loop.Turn, body []byte, end bool)
	sendData(t *loop.Turn, b []byte, end bool)
	sendTrailers(t *loop.Turn, trailers mesh.Fields)
	// sendInterim sends a 1xx head.
	sendInterim(t *loop.Turn, resp *mesh.Response)
	// credit returns n request bytes to the client.
	credit(t *loop.Turn, n int)
	congested() bool
	// abort breaks the response off, so that the client notices.
	abort(t *loop.Turn)
	// finished says that the exchange is over and may be used again.
	// clean is false when the client's request was not read to its end.
	finished(t *loop.Turn, clean bool)
}

// endpointSide is the codec towards an endpoint. Calls come with the exchange locked.
type endpointSide interface {
	sendHead(t *loop.Turn, x *exchange, body []byte, end bool)
	sendData(t *loop.Turn, b []byte, end bool)
	sendTrailers(t *loop.Turn, trailers mesh.Fields)
	credit(t *loop.Turn, n int)
	congested() bool
	// release gives the connection back after a complete exchange.
	release(t *loop.Turn)
	// abort gives the connection up.
	abort(t *loop.Turn)
}

// reset prepares for the next request. Memory is kept.
func (x *exchange) reset() {
	x.phase, x.port, x.rule, x.backend, x.rt = idle, nil, nil, nil, nil
	x.attempt = attempt{}
	x.unpark()
	x.hint = upstream.Hint{}
	if x.stick != nil {
		*x.stick = sticky{}
	}
	// Heads are memory of the codecs: an idle exchange keeps none of it alive.
	x.req, x.reqF = mesh.Request{Fields: forget(x.req.Fields)}, h1.Framing{}
	x.resp, x.respF = mesh.Response{Fields: forget(x.resp.Fields)}, h1.Framing{}
	x.reqDone, x.reqSent, x.respStarted, x.upFinished = false, false, false, false
	x.reqBuf, x.noReplay = shrink(x.reqBuf), false
	x.forgetReplay()
	x.account()
	x.reqTrailers = nil
	x.path = shrink(x.path)
	x.fx.ForgetNotes()
	if cap(x.fx.Append()) > 4<<10 {
		x.fx = filters.Exchange{}
	}
	x.retries, x.interim, x.stale, x.local, x.useHTTP1 = 0, 0, false, false, false
	x.grpcTimeout = 0
	x.owedReq, x.owedResp = 0, 0
	x.bytesIn, x.bytesOut = 0, 0
	x.upDuration = 0
	x.flag, x.details, x.cause, x.grpcStatus = "", "", "", ""
	x.seq++
}

// forget empties fields and lets go of what their strings lie in.
func forget(f mesh.Fields) mesh.Fields {
	if cap(f) > 32 {
		return nil
	}
	clear(f[:cap(f)])
	return f[:0]
}

// account tells the budget how many bytes of the request are kept here.
func (x *exchange) account() {
	if n := len(x.reqBuf) + len(x.replay); n != x.held {
		x.tun.p.o.Budget.Add(n - x.held)
		x.held = n
	}
}

// shrink empties a buffer and lets go of a large one.
func shrink(b []byte) []byte {
	if cap(b) > 4<<10 {
		return nil
	}
	return b[:0]
}

// begin starts an exchange: x.req and x.reqF are filled. body is what of the
// content came with the head, end that it is all.
func (x *exchange) begin(t *loop.Turn, body []byte, end bool) {
	x.start = t.Now
	x.phase = connecting
	x.bytesIn = uint64(len(body))
	x.reqDone = end
	if len(body) > 0 {
		x.reqBuf = append(x.reqBuf, body...)
		x.account()
	}
	x.route(t)
}

// requestData takes more of the request's content.
func (x *exchange) requestData(t *loop.Turn, b []byte, end bool) {
	x.touch(t)
	x.mirrorData(t, b, end)
	x.bytesIn += uint64(len(b))
	x.reqDone = x.reqDone || end
	switch {
	case x.phase == idle: // answered already: the rest is not wanted
		x.down.credit(t, len(b))
	case !x.upReady:
		x.reqBuf = append(x.reqBuf, b...)
		x.account()
		if x.parked != nil {
			x.parked.bodyGrew(t)
		}
	default:
		x.keepReplay(b)
		x.account()
		x.reqSent = x.reqSent || end
		x.up.sendData(t, b, end)
		x.owedReq += len(b)
		x.creditRequest(t)
	}
}

// requestTrailers ends the request with trailers.
func (x *exchange) requestTrailers(t *loop.Turn, trailers mesh.Fields) {
	x.reqDone = true
	x.mirrorTrailers(t, trailers)
	if x.phase == idle {
		return
	}
	if !x.upReady {
		x.reqTrailers = cloneFields(trailers)
		if x.parked != nil {
			x.parked.bodyGrew(t)
		}
		return
	}
	x.noReplay = true
	x.reqSent = true
	x.up.sendTrailers(t, trailers)
}

func (x *exchange) creditRequest(t *loop.Turn) {
	if x.owedReq > 0 && (x.up == nil || !x.up.congested()) {
		n := x.owedReq
		x.owedReq = 0
		x.down.credit(t, n)
	}
}

// upstreamReady is called when the connection to the endpoint takes the request.
func (x *exchange) upstreamReady(t *loop.Turn, a *attempt) {
	if x.adm() != nil && !x.admitted(t, a) {
		return
	}
	x.phase = open
	a.upReady, a.upStart = true, t.Now
	x.startTryDeadline(t, a)
	if x.grpcTimeout > 0 {
		x.forwardGRPCTimeout(t)
	}
	body := x.reqBuf
	trailers := x.reqTrailers
	x.reqSent = x.reqDone
	a.up.sendHead(t, x, body, x.reqDone && trailers == nil)
	if a.again { // it could not be sent
		x.phase = connecting
		a.upReady, x.reqSent = false, false
		return
	}
	if trailers != nil {
		x.noReplay = true
		x.up.sendTrailers(t, trailers)
		x.reqTrailers = nil
	}
	x.keepReplay(body)
	x.owedReq += len(body)
	x.reqBuf = shrink(x.reqBuf)
	x.account()
	x.creditRequest(t)
}

// responseInterim passes a 1xx response on.
func (x *exchange) responseInterim(t *loop.Turn, resp *mesh.Response) {
	x.touch(t)
	if !x.respStarted && (x.extra == nil || len(x.extra.rivals) == 0) {
		x.down.sendInterim(t, resp)
	}
}

// maxInterim bounds the 1xx heads of one response: flow control does not.
const maxInterim = 32

// tooManyInterim counts a 1xx head, and reports whether the endpoint overdoes it.
func (x *exchange) tooManyInterim() bool {
	x.interim++
	return x.interim > maxInterim
}

var errInterim = errors.New("endpoint sends interim responses without end")

// responseHead passes the response's head on: x.resp and x.respF are filled. It
// reports false when the exchange has turned away from this endpoint or is over:
// the codec has nothing more to say then.
func (x *exchange) responseHead(t *loop.Turn, up endpointSide, body []byte, end bool) bool {
	x.touch(t)
	a := x.tryOf(up)
	if x.adm() != nil {
		x.judge(t, a)
	}
	x.observe(t, a)
	if x.rejects(t, a, body, end) {
		return false
	}
	if x.mayHold(a, body, end) {
		x.hold(t, a)
		return true
	}
	return x.passHead(t, a, body, end)
}

// passHead makes a's response the client's.
func (x *exchange) passHead(t *loop.Turn, a *attempt, body []byte, end bool) bool {
	x.win(t, a)
	x.noReplay = true // there is no other try
	x.forgetReplay()
	x.account()
	x.upDuration = t.Now.Sub(x.upStart)
	if !x.filterResponse(t) {
		x.answer(t, &x.fx.Reply)
		return false
	}
	if x.stick != nil || x.rule.session != nil {
		x.keep(t)
	}
	if v, ok := x.resp.Fields.Get("grpc-status"); ok {
		x.setGRPCStatus(v)
	}
	x.respStarted = true
	x.bytesOut += uint64(len(body))
	x.upFinished = end
	x.down.sendHead(t, body, end)
	x.oweResponse(t, len(body))
	if end {
		x.complete(t)
	}
	return !end
}

// responseData passes content on.
func (x *exchange) responseData(t *loop.Turn, b []byte, end bool) {
	x.touch(t)
	if !x.respStarted && !x.passHeld(t) {
		return
	}
	x.bytesOut += uint64(len(b))
	x.upFinished = end
	x.down.sendData(t, b, end)
	x.oweResponse(t, len(b))
	if end {
		x.complete(t)
	}
}

// responseTrailers ends the response with trailers.
func (x *exchange) responseTrailers(t *loop.Turn, trailers mesh.Fields) {
	if !x.respStarted && (x.rejectsHeld(t, trailers) || !x.passHeld(t)) {
		return
	}
	if v, ok := trailers.Get("grpc-status"); ok {
		x.setGRPCStatus(v)
	}
	x.upFinished = true
	x.down.sendTrailers(t, trailers)
	x.complete(t)
}

func (x *exchange) oweResponse(t *loop.Turn, n int) {
	x.owedResp += n
	x.creditResponse(t)
}

func (x *exchange) creditResponse(t *loop.Turn) {
	if x.owedResp > 0 && x.up != nil && !x.down.congested() {
		n := x.owedResp
		x.owedResp = 0
		x.up.credit(t, n)
	}
}

// complete ends an exchange whose response is complete.
func (x *exchange) complete(t *loop.Turn) {
	up := x.up
	x.up = nil
	if up != nil {
		if x.owedResp > 0 { // the connection goes on: it must get its window back
			up.credit(t, x.owedResp)
			x.owedResp = 0
		}
		if x.reqSent {
			up.release(t)
		} else {
			up.abort(t) // the endpoint answered without reading the request
		}
	}
	x.finish(t)
}

// finish reports the exchange and makes it ready for the next one.
func (x *exchange) finish(t *loop.Turn) {
	x.leaveMirrors(t)
	x.endTries()
	x.report(t)
	clean := x.reqDone
	owed := x.owedReq + len(x.reqBuf)
	x.reset()
	if owed > 0 {
		x.down.credit(t, owed)
	}
	x.down.finished(t, clean)
}

// downstreamGone is called when the client reset the request or went away.
func (x *exchange) downstreamGone(t *loop.Turn) {
	if x.phase == idle {
		return
	}
	x.abortTries(t)
	x.leaveMirrors(t)
	x.flag, x.details = flagDownstreamGone, "downstream_remote_disconnect"
	x.endTries()
	x.report(t)
	x.reset()
}

// downstreamWritable is called when the client takes bytes again.
func (x *exchange) downstreamWritable(t *loop.Turn) {
	x.touch(t)
	x.creditResponse(t)
}

// upstreamWritable is called when the endpoint takes bytes again.
func (x *exchange) upstreamWritable(t *loop.Turn) {
	x.touch(t)
	x.creditRequest(t)
}

// abandon ends an exchange whose client was told by abort.
func (x *exchange) abandon(t *loop.Turn) {
	x.leaveMirrors(t)
	x.endTries()
	x.report(t)
	x.reset()
}

func (x *exchange) setGRPCStatus(v string) {
	if len(v) <= 2 {
		x.grpcStatus = smallNumber(v)
	}
}

// smallNumber returns v, a number below 20, as a string that may be kept.
func smallNumber(v string) string {
	n := 0
	for i := 0; i < len(v); i++ {
		if v[i] < '0' || v[i] > '9' {
			return ""
		}
		n = n*10 + int(v[i]-'0')
	}
	if v == "" || n >= len(smallNumbers) {
		return ""
	}
	return smallNumbers[n]
}

var smallNumbers = [...]string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19"}

func cloneFields(f mesh.Fields) mesh.Fields {
	out := make(mesh.Fields, len(f))
	for i, e := range f {
		out[i] = mesh.Field{Name: string([]byte(e.Name)), Value: string([]byte(e.Value))}
	}
	return out
}

// respAlias reports whether the strings of the response lie in memory that is
// used again: an HTTP/1.1 endpoint's head.
func (x *exchange) respAlias() bool {
	_, ok := x.up.(*h2Call)
	return !ok && !x.local
}
