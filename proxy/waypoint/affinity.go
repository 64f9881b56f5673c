package waypoint

import (
	"maps"
	"slices"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/loop"
	"cairnproxy.dev/cairn/upstream"
)

// pick chooses an endpoint of cl for the request, or returns nil.
func (x *exchange) pick(t *loop.Turn, cl *cluster) *upstream.Endpoint {
	if cl.c.Asks() {
		x.hint.Wish = &x.stickiness().wish
		if made := cl.c.Fill(&x.hint, &x.req, t.Now); made != nil {
			x.stickiness().made = made
		}
	}
	return cl.c.Pick(&x.hint)
}

// pick does the same for a connection: of what hash keys are made of, it has its client's
// address alone.
func (s *tcpSession) pick(t *loop.Turn) *upstream.Endpoint {
	if s.cl.c.Asks() {
		s.cl.c.Fill(&s.hint, &mesh.Request{Peer: s.tun.peer, Destination: s.tun.destination(s.sp)}, t.Now)
	}
	return s.cl.c.Pick(&s.hint)
}

// observe tells a cluster that goes by latencies how long a's endpoint took to
// answer, or has taken so far where another was faster.
func (x *exchange) observe(t *loop.Turn, a *attempt) {
	if c := x.backend.cluster.c; c.Timed() && a.ep != nil && a.upReady {
		c.Observe(a.ep, t.Now.Sub(a.upStart), t.Now)
	}
}

// observeFailure tells it that the endpoint did not answer.
func (x *exchange) observeFailure(t *loop.Turn, a *attempt) {
	if a.ep == nil || x.respStarted || !x.backend.cluster.c.Timed() {
		return
	}
	var took time.Duration
	if a.upReady {
		took = t.Now.Sub(a.upStart)
	}
	x.backend.cluster.c.ObserveFailure(a.ep, took, t.Now)
}

// place is the workload that we are ourselves, for services that prefer endpoints
// near it; nil where the snapshot does not know us.
func (c *compiler) place() *mesh.Workload {
	for _, a := range c.p.o.Addresses {
		if w := c.snap.WorkloadAt(c.p.o.Network, a.Unmap()); w != nil {
			return w
		}
	}
	return nil
}

// describe is all of a place that endpoints are compared with.
func describe(w *mesh.Workload) string {
	if w == nil {
		return ""
	}
	parts := []string{w.Network, w.Region, w.Zone, w.Subzone, w.Node, w.ClusterID}
	for _, k := range slices.Sorted(maps.Keys(w.Labels)) {
		parts = append(parts, k, w.Labels[k])
	}
	return strings.Join(parts, "\x00")
}

// warmInterval is how often the weights of new endpoints follow the time.
const warmInterval = 200 * time.Millisecond

// watchWarming makes the weights of cl's new endpoints rise, if its policy wants slow start.
func (p *Proxy) watchWarming(cl *cluster) {
	if b := cl.c.Balancer(); b == nil || b.SlowStart == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.warming == nil {
		p.warming = map[*upstream.Cluster]struct{}{}
	}
	p.warming[cl.c] = struct{}{}
}

// warm lets weights follow the time.
func (p *Proxy) warm() {
	p.mu.Lock()
	list := slices.Collect(maps.Keys(p.warming))
	p.mu.Unlock()
	for _, c := range list {
		if c.Warming() {
			c.Refresh()
		}
	}
}
