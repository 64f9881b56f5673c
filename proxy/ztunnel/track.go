package ztunnel

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
	"cairnproxy.dev/cairn/telemetry"
	"cairnproxy.dev/cairn/tunnel"
)

// Why connections are closed from this side.
var (
	errPolicyChange  = &Refusal{Flag: flagDeny, Reason: "connection closed due to policy change"}
	errBindingChange = &Refusal{Flag: flagBinding, Reason: "connection closed: its destination has been bound to a waypoint"}
	errDrained       = &Refusal{Flag: flagNone, Reason: "connection closed: drain time is over"}
	errPodGone       = &Refusal{Flag: flagNone, Reason: "connection closed: the pod was removed"}
)

// connection is one connection that the proxy carries, from before its first
// check until after its last byte.
type connection struct {
	site     *site
	outbound bool
	// facts are what policies judge an inbound connection by.
	facts    policy.L4Facts
	would    string // what policies in dry run say of it, and who audits
	around   string // the waypoint that it went around, as a permissive binding allows
	src      netip.AddrPort
	original string // what the client asked for
	// protocol is how the connection came (inbound) or goes on (outbound), and
	// actual where to. Outbound, they are written after others may look: see goesTo.
	protocol Protocol
	actual   netip.AddrPort
	bytes    tunnel.Counters
	started  time.Time
	series   atomic.Pointer[telemetry.TCPSeries]

	mu      sync.Mutex
	reason  error // set by abort
	stop    func(error)
	stopped bool

	reportMu sync.Mutex
	reported struct{ fromConn, toConn uint64 } // of bytes, in the metrics already
}

// goesTo sets what is known only once the connection's next hop has been chosen.
func (c *connection) goesTo(p Protocol, to netip.AddrPort) {
	c.mu.Lock()
	c.protocol, c.actual = p, to
	c.mu.Unlock()
}

// wayOn returns what goesTo has set, to others than the connection's goroutine.
func (c *connection) wayOn() (Protocol, netip.AddrPort) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.protocol, c.actual
}

// onAbort says how to end the connection from outside. If that was asked for
// already, f is called at once.
func (c *connection) onAbort(f func(error)) {
	c.mu.Lock()
	c.stop = f
	run := c.reason != nil && !c.stopped
	if run {
		c.stopped = true
	}
	reason := c.reason
	c.mu.Unlock()
	if run {
		f(reason)
	}
}

// abort ends the connection for a reason. Only the first counts.
func (c *connection) abort(reason error) {
	c.mu.Lock()
	if c.reason == nil {
		c.reason = reason
	}
	f := c.stop
	run := f != nil && !c.stopped
	if run {
		c.stopped = true
	}
	c.mu.Unlock()
	if run {
		f(reason)
	}
}

// aborted returns why the connection was ended from this side, or nil.
func (c *connection) aborted() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

// tracker knows the connections.
type tracker struct {
	mu   sync.Mutex
	all  map[*connection]struct{}
	idle chan struct{} // closed when the next connection ends; nil when nobody waits
}

func (t *tracker) add(c *connection) {
	t.mu.Lock()
	t.all[c] = struct{}{}
	t.mu.Unlock()
}

func (t *tracker) remove(c *connection) {
	t.mu.Lock()
	delete(t.all, c)
	if t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
	t.mu.Unlock()
}

func (t *tracker) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.all)
}

// list returns the connections of a site, or of all with nil.
func (t *tracker) list(s *site) []*connection {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*connection, 0, len(t.all))
	for c := range t.all {
		if s == nil || c.site == s {
			out = append(out, c)
		}
	}
	return out
}

// wait returns when the site has no connection left, or ctx has ended.
func (t *tracker) wait(ctx context.Context, s *site) {
	for {
		t.mu.Lock()
		n := 0
		for c := range t.all {
			if c.site == s {
				n++
			}
		}
		if n == 0 {
			t.mu.Unlock()
			return
		}
		if t.idle == nil {
			t.idle = make(chan struct{})
		}
		ended := t.idle
		t.mu.Unlock()
		select {
		case <-ended:
		case <-ctx.Done():
			return
		}
	}
}

func (t *tracker) abort(s *site, reason error) {
	for _, c := range t.list(s) {
		c.abort(reason)
	}
}

// recheck ends the connections that check has something against.
func (t *tracker) recheck(check func(*connection) error) {
	for _, c := range t.list(nil) {
		if err := check(c); err != nil {
			c.abort(err)
		}
	}
}

// report brings the byte counters of the metrics up to date.
func (t *tracker) report() {
	for _, c := range t.list(nil) {
		c.report()
	}
}

// recheck decides anew about an inbound connection.
func (p *Proxy) recheck(s *mesh.Snapshot, c *connection) error {
	if c.outbound {
		return nil
	}
	w := c.site.local(s)
	if w == nil {
		return nil // its pod is being removed, which ends the connection
	}
	r := p.pol.of(s, w)
	if v := r.l4.Decide(c.facts); !v.Allowed {
		return errPolicyChange
	}
	// What was admitted through a waypoint ends when that ends it: a service that moves to
	// another waypoint, or to none, breaks no request.
	if b := r.binding.refusal(c.facts.Destination.Port(), c.facts.Peer); b != nil && !isWaypoint(s, c.facts.Peer) {
		return errBindingChange
	}
	return nil
}

// isWaypoint reports whether an identity is that of a waypoint.
func isWaypoint(s *mesh.Snapshot, id mesh.Identity) bool {
	return slices.ContainsFunc(s.Waypoints, func(w *mesh.Waypoint) bool { return w.Identity == id })
}

// rules are what decides about connections to a workload.
type rules struct {
	binding *binding
	l4      *policy.L4
}

// policyCache keeps the compiled rules of workloads, for one snapshot.
type policyCache struct {
	mu   sync.Mutex
	snap *mesh.Snapshot
	sets map[*mesh.Workload]*rules
}

func (c *policyCache) of(s *mesh.Snapshot, w *mesh.Workload) *rules {
	c.mu.Lock()
	if c.snap == nil || c.snap.Version < s.Version {
		c.snap, c.sets = s, map[*mesh.Workload]*rules{}
	}
	mine := c.snap == s
	if r := c.sets[w]; mine && r != nil {
		c.mu.Unlock()
		return r
	}
	c.mu.Unlock()
	r := &rules{bindingOf(s, w), policy.CompileL4(s, w)}
	if mine {
		c.mu.Lock()
		if c.snap == s {
			c.sets[w] = r
		}
		c.mu.Unlock()
	}
	return r
}

// decide is the verdict about c as the mesh is now, of the waypoints and then of the
// policies; nil is consent.
func (p *Proxy) decide(w *mesh.Workload, c *connection) *Refusal {
	s := p.snapshot()
	// It may have changed since the connection came, and before the connection was
	// registered: then nobody would look at it again.
	if now := c.site.local(s); now != nil {
		w = now
	}
	rules := p.pol.of(s, w)
	if r := rules.binding.refusal(c.facts.Destination.Port(), c.facts.Peer); r != nil {
		return r
	}
	v, would := p.watched.Connection(rules.l4, c.facts)
	c.would = would
	if v.Allowed {
		c.around = rules.binding.around(c.facts.Destination.Port(), c.facts.Peer)
		return nil
	}
	r := refuse(401, flagDeny, "%s", v.Reason)
	if v.Policy != (mesh.Name{}) {
		r.Cause = errors.New(v.Policy.String())
	}
	return r
}
