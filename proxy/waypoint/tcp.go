package waypoint

import (
	"errors"
	"sync"
	"time"

	"cairnproxy.dev/cairn/telemetry"
	"cairnproxy.dev/cairn/tunnel"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"cairnproxy.dev/cairn/upstream"
)

// tcpSession passes a connection through unopened, between the client's stream
// and one to an endpoint. It is the handler of the client's stream; tcpUp of
// the other.
type tcpSession struct {
	tun    *clientTunnel
	sp     *servicePort
	rule   *rule    // nil: not known yet, or none
	cl     *cluster // likewise
	accept incoming // to be answered once the endpoint is there; nil: was

	names *connRoutes // by which it goes once its ClientHello is there; nil: does not wait

	mu       sync.Mutex
	down     pipe
	up       *tcpUp
	hint     upstream.Hint
	attempts int
	early    []byte // the client's bytes, before the endpoint is there
	timer    timer  // of the endpoint's answer
	ready    bool
	downEnd  bool // the client ended its half
	upEnd    bool
	over     bool
	owedDown int // client bytes not credited
	owedUp   int

	start          time.Time
	serverName     string
	received, sent uint64
	flag, cause    string
	would          string // what policies in dry run would have done, and who audits
	opened         *telemetry.TCPSeries
	judged         uint64 // the Runtime whose policies have let it pass: see tcprecheck.go
}

// tcpUp is one try to reach an endpoint, and the handler of its stream.
type tcpUp struct {
	s        *tcpSession
	ep       *upstream.Endpoint
	d        *destination
	out      pipe
	adm      *admission // what it counts for; nil: nothing
	answered bool       // by the connection's reader
	dead     bool       // guarded by s.mu
}

// connectTCP serves a CONNECT to a port that is not HTTP.
func (p *Proxy) connectTCP(t *loop.Turn, tun *clientTunnel, c incoming, sp *servicePort) {
	v, would := p.deps.Watched.Connection(sp.authz.Connections(), tun.l4Facts(sp))
	if !v.Allowed {
		p.refuseTCP(t, tun, sp, v.Details, would)
		c.RejectInline(t, 401)
		tun.closed()
		return
	}
	s := newTCPSession(t, tun, sp)
	s.would = would
	s.accept, s.down = c, c.Stream()
	s.mu.Lock()
	defer s.mu.Unlock()
	c.Stream().Handle(s)
	s.begin(t)
}

// relayTCP passes through a stream that was accepted and turned out not to be HTTP.
func (p *Proxy) relayTCP(t *loop.Turn, tun *clientTunnel, st *h2.Stream) h2.StreamHandler {
	_, sp := tun.current()
	s := &tcpSession{tun: tun, down: st, start: t.Now, over: true}
	if sp == nil {
		st.Reset(t, h2.ConnectError)
		tun.closed()
		return s
	}
	v, would := p.deps.Watched.Connection(sp.authz.Connections(), tun.l4Facts(sp))
	if !v.Allowed {
		p.refuseTCP(t, tun, sp, v.Details, would)
		st.Reset(t, h2.ConnectError)
		tun.closed()
		return s
	}
	s = newTCPSession(t, tun, sp)
	s.down, s.would = st, would
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin(t)
	return s
}

// refuseTCP records a connection that policy refused.
func (p *Proxy) refuseTCP(t *loop.Turn, tun *clientTunnel, sp *servicePort, details, would string) {
	s := newTCPSession(t, tun, sp)
	s.flag, s.cause, s.would = "-", details, would
	s.series().Opened()
	s.report(t, details)
}

func newTCPSession(t *loop.Turn, tun *clientTunnel, sp *servicePort) *tcpSession {
	return &tcpSession{tun: tun, sp: sp, start: t.Now, judged: tun.seen.Load().runtime}
}

// connect tries an endpoint. s is locked.
func (s *tcpSession) connect(t *loop.Turn) {
	s.attempts++
	var ep *upstream.Endpoint
	if s.cl != nil {
		ep = s.pick(t)
	}
	if ep == nil {
		s.refuse(t, flagNoHealthy, "no healthy upstream")
		return
	}
	adm := s.cl.adm
	if adm != nil && !adm.state.Connections.Acquire(adm.limits.MaxConnections) {
		adm.state.Overflows.Connections.Add(1)
		s.refuse(t, flagOverflow, "overflow")
		return
	}
	ep.Acquire()
	u := &tcpUp{s: s, ep: ep, d: s.tun.p.dest(s.cl, ep), adm: adm}
	s.up = u
	s.tun.p.timers.start(&s.timer, s.tun.shard, t.Now, connectTimeout, u.timedOut)
	u.d.open(t, u, func(out pipe) { u.out = out }, u.readyPlain)
}

// refuse ends the session before an endpoint was reached. s is locked.
func (s *tcpSession) refuse(t *loop.Turn, flag, cause string) {
	s.flag, s.cause = flag, cause
	s.series().Opened()
	s.series().Failed()
	if s.accept != nil {
		s.accept.RejectInline(t, 503)
	} else {
		s.down.Reset(t, h2.ConnectError)
	}
	s.finish(t)
}

// Opened implements tunnel.Opener.
func (u *tcpUp) Opened(t *loop.Turn, st *h2.Stream, err error) {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	switch {
	case err != nil:
		u.failed(t, err)
	case u.dead:
		st.Reset(t, h2.Cancel)
	default:
		u.out = st
	}
}

// timedOut gives up an endpoint that does not answer.
func (u *tcpUp) timedOut(t *loop.Turn) {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	if !u.s.timer.expired() || u.dead || u.s.ready {
		return
	}
	if u.out != nil {
		u.out.Reset(t, h2.Cancel)
	}
	u.observe(t, upstream.Outcome{Timeout: true})
	u.fail(t, errors.New(errConnectTimeout.cause))
}

// observe tells outlier detection how the try ended.
func (u *tcpUp) observe(t *loop.Turn, out upstream.Outcome) {
	if u.adm != nil && u.adm.outlier != nil {
		u.adm.report(t, u.ep, out)
	}
}

// failed is fail for an endpoint that could not be reached. s is locked.
func (u *tcpUp) failed(t *loop.Turn, err error) {
	if !u.dead {
		u.observe(t, upstream.Outcome{})
		u.fail(t, err)
	}
}

// fail tries another endpoint, or gives up. s is locked.
func (u *tcpUp) fail(t *loop.Turn, err error) {
	if u.dead {
		return
	}
	u.release()
	s := u.s
	s.hint.Exclude(u.ep)
	if s.attempts < maxAttempts && !s.over {
		s.connect(t)
		return
	}
	s.up = nil
	if !s.over {
		s.refuse(t, flagConnectFailure, err.Error())
	}
}

func (u *tcpUp) release() {
	if !u.dead {
		u.dead = true
		u.ep.Release()
		if u.adm != nil {
			u.adm.state.Connections.Release()
		}
	}
}

// Headers implements h2.StreamHandler: the answer to CONNECT.
func (u *tcpUp) Headers(t *loop.Turn, st *h2.Stream, h *h2.Head) {
	if u.answered {
		if h.End {
			u.Data(t, st, nil, true)
		}
		return
	}
	status := tunnel.Status(h)
	if status/100 == 1 {
		return
	}
	u.answered = true
	u.answer(t, st, status)
	if h.End && status == 200 {
		u.Data(t, st, nil, true)
	}
}

func (u *tcpUp) answer(t *loop.Turn, st *h2.Stream, status int) {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	if status != 200 {
		st.Reset(t, h2.NoError)
		u.failed(t, &tunnel.StatusError{Code: status})
		return
	}
	u.ready(t, st)
}

func (u *tcpUp) readyPlain(t *loop.Turn, out pipe) {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	u.ready(t, out)
}

// ready joins the two streams. s is locked.
func (u *tcpUp) ready(t *loop.Turn, out pipe) {
	s := u.s
	if u.dead || s.over {
		u.release()
		out.Reset(t, h2.Cancel)
		return
	}
	u.out = out
	s.timer.stop()
	s.ready = true
	u.observe(t, upstream.Outcome{Status: 200})
	s.opened = s.series()
	s.opened.Opened()
	if !s.stillAllowed(t) {
		return
	}
	if s.accept != nil {
		s.accept.AcceptInline(t, s)
		s.accept = nil
	}
	if len(s.early) > 0 || s.downEnd {
		out.Write(t, s.early, s.downEnd)
		s.count(&s.received, len(s.early))
		s.owedDown += len(s.early)
		s.early = nil
		s.creditDown(t)
	}
}

func (s *tcpSession) count(n *uint64, by int) {
	*n += uint64(by)
	if n == &s.received {
		s.opened.Received(uint64(by))
	} else {
		s.opened.Sent(uint64(by))
	}
}

// Headers implements h2.StreamHandler for the client's stream.
func (s *tcpSession) Headers(t *loop.Turn, st *h2.Stream, h *h2.Head) {
	if h.End {
		s.Data(t, st, nil, true)
	}
}

// Data implements h2.StreamHandler for the client's stream.
func (s *tcpSession) Data(t *loop.Turn, _ *h2.Stream, b []byte, end bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || !s.stillAllowed(t) {
		return
	}
	s.downEnd = s.downEnd || end
	if !s.ready {
		s.early = append(s.early, b...)
		if s.names != nil {
			s.look(t)
		}
		return
	}
	s.count(&s.received, len(b))
	s.up.out.Write(t, b, end)
	s.owedDown += len(b)
	s.creditDown(t)
	s.endIfDone(t)
}

// Data implements h2.StreamHandler for the endpoint's stream.
func (u *tcpUp) Data(t *loop.Turn, _ *h2.Stream, b []byte, end bool) {
	s := u.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || u.dead || s.up != u || !s.stillAllowed(t) {
		return
	}
	s.count(&s.sent, len(b))
	s.down.Write(t, b, end)
	s.upEnd = s.upEnd || end
	s.owedUp += len(b)
	s.creditUp(t)
	s.endIfDone(t)
}

func (s *tcpSession) creditDown(t *loop.Turn) {
	if n := s.owedDown; n > 0 && !s.up.out.Congested() {
		s.owedDown = 0
		s.down.Consumed(t, n)
	}
}

func (s *tcpSession) creditUp(t *loop.Turn) {
	if n := s.owedUp; n > 0 && !s.down.Congested() {
		s.owedUp = 0
		s.up.out.Consumed(t, n)
	}
}

// Writable implements h2.StreamHandler for the client's stream.
func (s *tcpSession) Writable(t *loop.Turn, _ *h2.Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready && !s.over {
		s.creditUp(t)
	}
}

// Writable implements h2.StreamHandler for the endpoint's stream.
func (u *tcpUp) Writable(t *loop.Turn, _ *h2.Stream) {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	if u.s.ready && !u.s.over && !u.dead {
		u.s.creditDown(t)
	}
}

// Reset implements h2.StreamHandler for the client's stream.
func (s *tcpSession) Reset(t *loop.Turn, _ *h2.Stream, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.flag = flagDownstreamGone
	if s.up != nil && s.up.out != nil {
		s.up.out.Reset(t, h2.Cancel)
	}
	s.finish(t)
}

// Reset implements h2.StreamHandler for the endpoint's stream.
func (u *tcpUp) Reset(t *loop.Turn, _ *h2.Stream, err error) {
	s := u.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.dead || s.up != u {
		return
	}
	if !s.ready {
		u.failed(t, err)
		return
	}
	if s.over {
		return
	}
	s.flag, s.cause = flagConnectionTermination, err.Error()
	s.down.Reset(t, h2.ConnectError)
	s.finish(t)
}

func (s *tcpSession) endIfDone(t *loop.Turn) {
	if s.downEnd && s.upEnd {
		s.finish(t)
	}
}

// finish ends the session and reports it. s is locked.
func (s *tcpSession) finish(t *loop.Turn) {
	s.over = true
	s.early, s.names = nil, nil
	s.timer.stop()
	if s.up != nil {
		s.up.release()
	}
	s.report(t, "")
	s.tun.closed()
}

// series is the metric series of the open connection.
func (s *tcpSession) series() *telemetry.TCPSeries {
	l := telemetry.TCPLabels{Reporter: telemetry.ReporterWaypoint, Source: s.tun.source(), Service: s.sp.labels, ResponseFlags: "-", Security: "mutual_tls"}
	if s.cl != nil {
		l.Service = s.cl.service
	}
	if s.up != nil {
		l.Destination = telemetry.WorkloadLabelsOf(s.up.ep.Workload)
		if s.up.d.peer != nil {
			l.Destination.Principal = s.up.ep.Identity.String()
		}
	}
	return s.tun.p.o.Metrics.TCP(l)
}

func (s *tcpSession) report(t *loop.Turn, details string) {
	flag := s.flag
	if flag == "" {
		flag = "-"
	}
	s.series().With(flag).Closed()
	if s.tun.p.o.AccessLog == nil {
		return
	}
	r := telemetry.Record{
		Start: s.start, ResponseFlags: s.flag, ConnectionTerminationDetails: details, UpstreamTransportFailureReason: s.cause,
		BytesReceived: s.received, BytesSent: s.sent, Duration: t.Now.Sub(s.start), UpstreamServiceTime: -1,
		DownstreamLocalAddress: s.tun.dst, DownstreamRemoteAddress: s.tun.peer.Addr, SourcePrincipal: s.tun.principalURI,
		RequestedServerName: s.serverName, DryRun: s.would,
	}
	if s.rule != nil && s.sp.conns != nil {
		r.RouteName = s.rule.name
	}
	if s.up != nil {
		r.UpstreamHost = s.up.d.addr
	}
	if s.cl != nil {
		r.UpstreamCluster = s.cl.name
	}
	s.tun.p.o.AccessLog.HTTP(&r)
}
