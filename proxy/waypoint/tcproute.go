package waypoint

import (
	"errors"
	"time"

	"cairnproxy.dev/cairn/tunnel/loop"
	"cairnproxy.dev/cairn/tunnel/sni"
)

// helloTimeout is how long a ClientHello may take to arrive, as headTimeout is for
// HTTP. Where TCPRoutes stand beside TLSRoutes, a client may be one that waits for
// its server to speak: it is let go sooner.
const (
	helloTimeout = 30 * time.Second
	silenceLimit = sniffTimeout
)

// begin finds out where the connection goes. s is locked.
func (s *tcpSession) begin(t *loop.Turn) {
	routes := s.sp.conns.of(s.tun.peer.Identity.Namespace)
	switch {
	case routes == nil:
		to := s.sp.tcp
		if to == nil {
			to = s.sp.fallback
		}
		s.follow(t, to)
	case routes.tls == nil:
		s.follow(t, routes.tcp)
	default:
		s.await(t, routes)
	}
}

// await takes the client's bytes until they name a server.
func (s *tcpSession) await(t *loop.Turn, routes *connRoutes) {
	s.names = routes
	if s.accept != nil { // else nothing comes
		s.accept.AcceptInline(t, s)
		s.accept = nil
	}
	d := helloTimeout
	if routes.tcp != nil {
		d = silenceLimit
	}
	s.tun.p.timers.start(&s.timer, s.tun.shard, t.Now, d, s.helloTimedOut)
}

// look reads the ClientHello as far as it has come. The bytes were not credited,
// so what can wait here is bounded by the stream's window; sni.MaxBytes decide.
func (s *tcpSession) look(t *loop.Turn) {
	name, err := sni.Read(s.early)
	if errors.Is(err, sni.ErrMore) && !s.downEnd {
		return
	}
	s.named(t, name, err)
}

// named goes on with the name, or with why there is none.
func (s *tcpSession) named(t *loop.Turn, name string, err error) {
	routes := s.names
	s.names = nil
	s.timer.stop()
	if err == nil {
		s.serverName = name
		s.follow(t, routes.tls.match(name))
		return
	}
	if routes.tcp != nil && (errors.Is(err, sni.ErrNotTLS) || errors.Is(err, sni.ErrMore)) {
		s.follow(t, routes.tcp) // it is not TLS, or ends before it could be
		return
	}
	s.refuse(t, flagNoRoute, err.Error())
}

func (s *tcpSession) helloTimedOut(t *loop.Turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.timer.expired() || s.names == nil || s.over {
		return
	}
	if len(s.early) > 0 {
		s.named(t, "", errHelloTimeout)
		return
	}
	s.named(t, "", sni.ErrNotTLS) // it waits for the server to speak
}

var errHelloTimeout = errors.New("the ClientHello did not arrive in time")

// follow sends the connection where a rule says; nil is no rule.
func (s *tcpSession) follow(t *loop.Turn, ru *rule) {
	if ru == nil {
		s.refuse(t, flagNoRoute, "no route for this connection")
		return
	}
	s.rule = ru
	if ru.broken != "" {
		s.refuse(t, flagNoCluster, ru.broken)
		return
	}
	i := ru.split.Pick()
	if i < 0 {
		s.refuse(t, flagNoCluster, "no backend has a weight")
		return
	}
	b := ru.backends[i]
	if b.broken != "" {
		s.refuse(t, flagNoCluster, b.broken)
		return
	}
	s.cl = b.cluster
	s.connect(t)
}
