package waypoint

import (
	"math/rand/v2"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// A mirror gets a copy of a rule's requests, after the rule's filters have run,
// and what it answers is dropped (Gateway API's RequestMirror). A copy is an exchange of its
// own whose client is a mirrorSide. The client's exchange hands it the body
// as it comes, and knows nothing else of it: a mirror that is slow, broken or away costs
// the client nothing. It is not tried again, logged or counted as a request.
//
// Locks are taken from the client's exchange to its copies, never the reverse.
type mirror struct {
	rule     *rule // of one backend, without filters
	num, den uint32
}

// fires decides for one request.
func (m *mirror) fires() bool { return m.num >= m.den || rand.Uint32N(m.den) < m.num }

const (
	// maxMirrored is how many bytes of a body may wait for a mirror before it is given up.
	maxMirrored = 512 << 10
	// mirrorTimeout is for a copy whose rule has no timeout.
	mirrorTimeout = 15 * time.Second
)

// mirrorSide is the client of a copy. Its exchange's lock guards it.
type mirrorSide struct {
	x       exchange
	pending int // bytes handed over and not yet sent
}

var _ clientSide = (*mirrorSide)(nil)

func (*mirrorSide) sendHead(*loop.Turn, []byte, bool)      {}
func (*mirrorSide) sendData(*loop.Turn, []byte, bool)      {}
func (*mirrorSide) sendTrailers(*loop.Turn, mesh.Fields)   {}
func (*mirrorSide) sendInterim(*loop.Turn, *mesh.Response) {}
func (*mirrorSide) congested() bool                        { return false }
func (*mirrorSide) abort(*loop.Turn)                       {}
func (*mirrorSide) finished(*loop.Turn, bool)              {}
func (s *mirrorSide) credit(_ *loop.Turn, n int)           { s.pending -= n }

// mirrorSet is the copies of one request, none where the dice have spared it: they are
// not thrown again.
type mirrorSet struct{ list []*mirrorSide }

// noMirrors is that of all requests without copies. It stays empty.
var noMirrors mirrorSet

// startMirrors sends the copies of a request on their way, once.
func (x *exchange) startMirrors(t *loop.Turn) {
	if x.mirrors != nil || x.reqF.Upgrade != "" {
		return
	}
	x.mirrors = &noMirrors
	for i := range x.rule.mirrors {
		if m := &x.rule.mirrors[i]; m.fires() {
			if x.mirrors == &noMirrors {
				x.mirrors = &mirrorSet{}
			}
			x.mirrors.list = append(x.mirrors.list, x.startMirror(t, m))
		}
	}
}

func (x *exchange) startMirror(t *loop.Turn, m *mirror) *mirrorSide {
	s := &mirrorSide{}
	c := &s.x
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tun, c.down = x.tun, s
	c.req, c.reqF = ownRequest(&x.req), x.reqF
	c.fx.Req = &c.req
	c.rt, c.port, c.rule, c.backend = x.rt, x.port, m.rule, m.rule.backends[0]
	c.phase, c.start = connecting, t.Now
	c.reqBuf, c.reqDone = append(c.reqBuf, x.reqBuf...), x.reqDone
	if x.reqTrailers != nil {
		c.reqTrailers = cloneFields(x.reqTrailers)
	}
	c.account()
	s.pending = len(c.reqBuf)
	d := x.rule.policy().timeouts.Request
	if d <= 0 {
		d = mirrorTimeout
	}
	c.alarm(t, &c.due, d)
	c.noReplay = true
	c.connect(t)
	return s
}

// mirrorData hands more of the body to the copies.
func (x *exchange) mirrorData(t *loop.Turn, b []byte, end bool) {
	if x.mirrors == nil {
		return
	}
	for _, s := range x.mirrors.list {
		s.x.mu.Lock()
		if s.pending += len(b); s.pending > maxMirrored {
			s.x.downstreamGone(t)
		} else {
			s.x.requestData(t, b, end)
		}
		s.x.mu.Unlock()
	}
}

// mirrorTrailers ends the copies with trailers.
func (x *exchange) mirrorTrailers(t *loop.Turn, trailers mesh.Fields) {
	if x.mirrors == nil {
		return
	}
	for _, s := range x.mirrors.list {
		s.x.mu.Lock()
		s.x.requestTrailers(t, trailers)
		s.x.mu.Unlock()
	}
}

// leaveMirrors lets go of the copies: whole requests are left to themselves, the others
// end.
func (x *exchange) leaveMirrors(t *loop.Turn) {
	if x.mirrors == nil {
		return
	}
	for _, s := range x.mirrors.list {
		s.x.mu.Lock()
		if !s.x.reqDone {
			s.x.downstreamGone(t)
		}
		s.x.mu.Unlock()
	}
	x.mirrors = nil
}

// ownRequest is a copy of r in memory of its own.
func ownRequest(r *mesh.Request) mesh.Request {
	texts := []*string{}
	c := *r
	c.Fields = append(make(mesh.Fields, 0, len(r.Fields)), r.Fields...)
	texts = append(texts, &c.Method, &c.Scheme, &c.Authority, &c.Host, &c.Path, &c.Query)
	for i := range c.Fields {
		texts = append(texts, &c.Fields[i].Name, &c.Fields[i].Value)
	}
	n := 0
	for _, s := range texts {
		n += len(*s)
	}
	memory := make([]byte, 0, n)
	for _, s := range texts {
		at := len(memory)
		memory = append(memory, *s...)
		*s = viewString(memory[at:])
	}
	return c
}
